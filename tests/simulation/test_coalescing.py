"""Coalescing while actors are killed at any line and the process at any step: every trigger is executed in one run."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import Collection, Record, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal import actor
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import AcceptTriggers, RunsEnded, RunsSequenced
from tests.programs import WAIT_S
from tests.simulation.deaths import OFTEN, die_at_any_step, kill_at_any_line

FILES = ("actors/coordinator.py", "actors/sequencer/actor.py", "actors/sequencer/waiting.py", "actors/sequencer/groups.py",
         "actors/journal/actor.py")  # fmt: skip
SEEDS_PER_TEST = 25


class Seen(Record):
    """What was executed."""

    parts: tuple[int, ...] = ()


class Add(Trigger[tuple[int, ...]]):
    """Becomes one with others of its name; the parts of all are executed."""

    name: str
    parts: tuple[int, ...]


def joined(old: Add, new: Add) -> Add:
    if any(part % 11 == 0 for part in new.parts):
        raise ValueError("not with this one")
    return Add(name=new.name, parts=old.parts + new.parts)


def make(dispatchers: SimulatedDispatchers, backend: MemoryBackend | None) -> Supervisor:
    settings = {**OFTEN, "max_in_flight": 1}
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)
    store = system.store("seen", Collection(Seen))

    @system.on(Add, coalesce=lambda trigger: trigger.name, merge=joined)
    async def add(trigger: Add, tx: Transaction) -> tuple[int, ...]:
        before = tx[store].get(trigger.name, Seen()).parts
        tx[store][trigger.name] = Seen(parts=before + trigger.parts)
        return trigger.parts

    return system


def executed(system: Supervisor) -> list[int]:
    values = system.snapshot()[system.stores["seen"]].values()
    return sorted(part for value in values for part in value.parts)


KILLED: list[tuple[type[Actor], type | None]] = [
    (Sequencer, AcceptTriggers), (Sequencer, None), (Coordinator, RunsSequenced), (Coordinator, RunsEnded),
     (Coordinator, None), (Journal, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message", "journaled"),
    [(*killed, journaled) for killed in KILLED for journaled in (False, True) if journaled or killed[0] is not Journal],
)
def test_an_actor_that_is_killed_at_any_line_executes_each_trigger_in_one_run(
    kind: type[Actor], message: type | None, journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    coalesced = 0

    def play(number: int, dispatchers: SimulatedDispatchers, kill: Callable[[], None]) -> None:
        nonlocal coalesced
        with make(dispatchers, MemoryBackend() if journaled else None) as system:
            kill()
            ours = [system.submit(Add(name="ab"[number % 2], parts=(number,))) for number in range(1, 13)]
            for part, submission in enumerate(ours, 1):
                assert part in submission.result(WAIT_S)
            assert executed(system) == list(range(1, 13))
            running: Any = system._running
            dispatchers.run_to_rest()
            assert not running.intake.open
            stats = system.stats()
            assert stats.queued == 0
            assert sum(stats.state_counts.values()) == 12
            coalesced += stats.state_counts.get(State.COALESCED, 0)
            system.verify()

    assert kill_at_any_line(monkeypatch, kind, FILES, message, play) >= 5
    assert coalesced > 60


@pytest.mark.parametrize("first", range(0, 100, SEEDS_PER_TEST))
def test_through_crashes_and_deaths_each_accepted_trigger_is_executed_in_one_run_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coalesced = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        with monkeypatch.context() as patch:
            coalesced += play_lives(seed, patch)
    assert coalesced > SEEDS_PER_TEST


def play_lives(seed: int, patch: pytest.MonkeyPatch) -> int:
    """Submit what becomes one through crashes and deaths; returns how many did."""
    patch.setattr(actor, "CHECKPOINT_BYTES_MIN", random.Random(seed).choice([300, 3_000, 1 << 20]))
    client = Client()
    system, dispatchers = die_at_any_step(seed, make, client.act, lives=6, steps=(10, 150), crashes=0.02)
    running: Any = system._running
    for submission in list(running.intake.open):
        submission.result(WAIT_S)
    dispatchers.run_to_rest()
    found = executed(system)
    records = list(system.commits())
    system.verify()
    system.stop()
    assert len(found) == len(set(found)), f"seed {seed}: executed twice"
    assert client.accepted <= set(found), f"seed {seed}: lost {client.accepted - set(found)}"
    runs = [record.run for record in records] + [run for record in records for run in record.coalesced]
    assert len(runs) == len(set(runs)), "a trigger has two terminal records"
    return sum(len(record.coalesced) for record in records)


class Client:
    """Submits, through the lives of a system."""

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self._submitted = 0

    def act(self, system: Supervisor, chance: random.Random) -> bool:
        if chance.random() >= 0.25:
            return False
        part = self._submitted
        submission = system.submit(Add(name=chance.choice("ab"), parts=(part,)), idempotency_key=f"{part}")
        if chance.random() < 0.3:
            submission.accepted().get()
            self.accepted.add(part)
        self._submitted += 1
        return True
