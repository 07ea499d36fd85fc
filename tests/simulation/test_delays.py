"""Delayed triggers while actors of the core are killed at any line: each runs once, and not before its time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import Collection, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import AcceptTriggers, TriggersDelayed, WaitOver
from tests.programs import WAIT_S, Account
from tests.simulation.deaths import OFTEN, die_at_any_step, kill_at_any_line

FILES = ("actors/coordinator.py", "actors/sequencer/actor.py", "actors/waiting_room.py")


class Ring(Trigger[float]):
    """Answers when it ran, POSIX seconds."""

    number: int


class Plan(Trigger[None]):
    """Submits a `Ring` that waits."""

    number: int
    delay: float


def make(dispatchers: SimulatedDispatchers, backend: MemoryBackend | None) -> Supervisor:
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=OFTEN)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Ring)
    def ring(trigger: Ring, tx: Transaction) -> float:
        tx[accounts].increment(str(trigger.number), balance=1)
        return tx.now.timestamp()

    @system.on(Plan)
    def plan(trigger: Plan, tx: Transaction) -> None:
        tx.submit(Ring(number=trigger.number), delay=trigger.delay)

    return system


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize(
    ("kind", "message"),
    [(Coordinator, TriggersDelayed), (Coordinator, WaitOver), (Coordinator, None), (Sequencer, AcceptTriggers)],
)
def test_an_actor_that_is_killed_at_any_line_loses_no_delayed_trigger(
    kind: type[Actor], message: type | None, journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(number: int, dispatchers: SimulatedDispatchers, kill: Callable[[], None]) -> None:
        with make(dispatchers, MemoryBackend() if journaled else None) as system:
            delayed = [system.submit(Ring(number=number), delay=1 + number) for number in range(3)]
            system.submit(Plan(number=10, delay=2))
            kill()
            assert all(each.result(WAIT_S) >= each.submitted_at + each.arrival for each in delayed)
            dispatchers.run_until(lambda: system.stats().durable_through == 5, 60)
            records = list(system.commits())
            assert sorted(record.state for record in records) == [State.COMMITTED] * 5
            assert len({record.run for record in records}) == 5
            assert all(record.sequenced_at >= record.submitted_at for record in records)
            stats = system.stats()
            assert (stats.delayed, stats.queued, stats.in_flight) == (0, 0, 0)
            assert sum(stats.state_counts.values()) == 5
            running: Any = system._running
            assert running.edge.delayed == running._ledger.waiting_room.left == 3

    assert kill_at_any_line(monkeypatch, kind, FILES, message, play) >= 5


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_delays_through_crashes_and_deaths_run_once_under_seeds_from(first: int) -> None:
    early = sum(play_lives(seed) for seed in range(first, first + 25))
    assert early > 100, "nobody waited when the process died"


def play_lives(seed: int) -> int:
    """Submit with delays through crashes and deaths; returns how often somebody waited when the process died."""
    early = 0
    due: dict[int, float] = {}

    def begin(system: Supervisor, chance: random.Random) -> None:
        for _ in range(5):
            number, delay = len(due), chance.choice([0.0, 1.0, 5.0, 20.0])
            submission = system.submit(Ring(number=number), delay=delay, idempotency_key=str(number))
            due[number] = submission.submitted_at + delay
            submission.accepted().get()

    def end(system: Supervisor) -> None:
        nonlocal early
        early += system.stats().delayed

    system, dispatchers = die_at_any_step(
        seed, make, lambda system, chance: False, begin=begin, end=end, lives=6, steps=(0, 400), crashes=0.02
    )
    dispatchers.run_until(lambda: system.stats().durable_through == len(due), 60)
    records = list(system.commits())
    system.verify()
    system.stop()
    ran = {int(record.key or ""): record.sequenced_at for record in records}
    assert len(records) == len(ran) == len(due)
    assert all(ran[number] >= due[number] for number in due)
    return early
