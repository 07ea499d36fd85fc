"""Prints what happens in simulations, step by step, as hashes: `python -m tests.simulation.trace FIRST_SEED COUNT`."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from typing import Any

from seqtor import Collection, Record, Snapshot, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from tests.properties.execution import Desk, wait_for
from tests.properties.language import contents_of
from tests.simulation.dense import dense_case

__all__ = ["traced", "traced_fan"]


class Number(Record):
    """A counter."""

    n: int = 0


class TracedDispatchers(SimulatedDispatchers):
    """A simulation that notes which actors become ready and which of them goes next."""

    def __init__(self, seed: int, threads: int) -> None:
        super().__init__(seed, threads=threads)
        self.trace: list[str] = []

    def ready(self, mailbox: Any) -> None:
        self.trace.append(f"ready {type(mailbox._actor).__name__} {mailbox.rank}")
        super().ready(mailbox)

    def ready_all(self, mailboxes: Sequence[Any]) -> None:
        self.trace += [f"ready {type(mailbox._actor).__name__} {mailbox.rank}" for mailbox in mailboxes]
        super().ready_all(mailboxes)

    def step(self) -> bool:
        self.trace.append(f"step at {self.clock.monotonic()}")
        return super().step()


def traced(seed: int) -> list[str]:
    """Everything that happens in the dense case of an integer."""
    case = dense_case(seed)
    simulation = TracedDispatchers(seed, case.threads)
    system = Supervisor(dispatchers=lambda _: simulation)
    desk = Desk(case, system, pause=lambda ticks: None, tick_s=0.001)
    trace = simulation.trace
    with system:
        publication: Any = system._running._path.board.newest  # type: ignore[union-attr]
        submissions = []
        for trigger, each in desk.triggers():
            submissions.append(system.submit(trigger, priority=each.priority))
            for _ in range(each.gap):
                simulation.step()
        wait_for(submissions)
        for submission in submissions:
            trace.append(f"{system.record(submission.seq or 0)!r}")
        while publication is not None:
            contents = contents_of(Snapshot(publication.seq, publication.states, tuple(desk.refs.values())), desk.refs)
            written = {store: sorted(keys) for store, keys in sorted(publication.writes.items())}
            trace.append(f"publication {publication.index} {publication.seq} {written} {contents}")
            publication = publication.next
        trace.append(f"{system.stats()!r} {system.conflicts()!r} {simulation.entropy()}")
    return trace


class Spread(Trigger[None]):
    """Writes many keys at once."""


class Watch(Trigger[int]):
    """Reads one of them and waits."""

    key: str


def traced_fan(seed: int) -> list[str]:
    """Many handlers are cancelled by one commit of many keys: in which order?"""
    simulation = TracedDispatchers(seed, 4)
    system = Supervisor(dispatchers=lambda _: simulation)
    numbers = system.store("numbers", Collection(Number))
    keys = [f"key{i}" for i in range(12)]
    have_read: set[str] = set()
    all_have_read = asyncio.Event()
    trace = simulation.trace

    @system.on(Spread)
    async def spread(trigger: Spread, tx: Transaction) -> None:
        await all_have_read.wait()
        for key in keys:
            tx[numbers][key] = Number(n=1)

    @system.on(Watch)
    async def watch(trigger: Watch, tx: Transaction) -> int:
        n = tx[numbers].get(trigger.key, Number()).n
        have_read.add(trigger.key)
        if len(have_read) == len(keys):
            all_have_read.set()
        try:
            if not n:
                await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            trace.append(f"cancelled {trigger.key}")
            raise
        return n

    with system:
        submissions = system.submit_many([Spread(), *(Watch(key=key) for key in keys)])
        wait_for(submissions)
        trace += [repr(system.record(submission.seq or 0)) for submission in submissions]
    return trace


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    for seed in range(first, first + count):
        for trace in (traced(seed), traced_fan(seed)):
            print(seed, hashlib.sha256("\n".join(trace).encode()).hexdigest())
