"""Coalescing while actors are killed at any line and the process at any step: every trigger is executed in one run."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pykka.messages import ProxyCall

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
from tests.simulation.crashes import Crash, crashing

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


def make(dispatchers: SimulatedDispatchers, backend: MemoryBackend | None, seen: dict[str, Any]) -> Supervisor:
    settings = {"restart_intensity": 1_000_000, "max_in_flight": 1}
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)
    store = seen["store"] = system.store("seen", Collection(Seen))

    @system.on(Add, coalesce=lambda trigger: trigger.name, merge=joined)
    async def add(trigger: Add, tx: Transaction) -> tuple[int, ...]:
        before = tx[store].get(trigger.name, Seen()).parts
        tx[store][trigger.name] = Seen(parts=before + trigger.parts)
        return trigger.parts

    return system


def executed(system: Supervisor, store: Any) -> list[int]:
    return sorted(part for value in system.snapshot()[store].values() for part in value.parts)


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
    happened = coalesced = 0
    for lines in range(60):
        with monkeypatch.context() as patch, crashing(patch) as crashes:
            dispatchers, seen = SimulatedDispatchers(lines), dict[str, Any]()
            with make(dispatchers, MemoryBackend() if journaled else None, seen) as system:
                crashes.plan(kind, FILES, lines, message, Crash)
                ours = [system.submit(Add(name="ab"[number % 2], parts=(number,))) for number in range(1, 13)]
                for number, submission in enumerate(ours, 1):
                    assert number in submission.result(WAIT_S)
                assert executed(system, seen["store"]) == list(range(1, 13))
                running: Any = system._running
                dispatchers.run_to_rest()
                assert not running.intake.open
                stats = system.stats()
                assert stats.queued == 0
                assert sum(stats.state_counts.values()) == 12
                coalesced += stats.state_counts.get(State.COALESCED, 0)
                system.verify()
            happened += sum(crashes.happened.values())
    assert happened >= 5
    assert coalesced > 60


@pytest.mark.parametrize("first", range(0, 100, SEEDS_PER_TEST))
def test_through_crashes_and_deaths_each_accepted_trigger_is_executed_in_one_run_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coalesced = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        chance = random.Random(seed)
        monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", chance.choice([300, 3_000, 1 << 20]))
        backend = MemoryBackend()
        accepted: set[int] = set()
        submitted = 0
        for life in range(6):
            dispatchers, seen = SimulatedDispatchers(seed * 100 + life), dict[str, Any]()
            dispatchers.clock.advance_to(life * 7.0)
            system = make(dispatchers, backend, seen).start()
            if life == 5:
                running: Any = system._running
                for submission in list(running.intake.open):
                    submission.result(WAIT_S)
                dispatchers.run_to_rest()
                found = executed(system, seen["store"])
                records = list(system.commits())
                system.verify()
                system.stop()
                assert len(found) == len(set(found)), f"seed {seed}: executed twice"
                assert accepted <= set(found), f"seed {seed}: lost {accepted - set(found)}"
                runs = [record.run for record in records] + [run for record in records for run in record.coalesced]
                assert len(runs) == len(set(runs)), "a trigger has two terminal records"
                coalesced += sum(len(record.coalesced) for record in records)
                break
            for _ in range(chance.randrange(10, 150)):
                draw = chance.random()
                if draw < 0.25:
                    submission = system.submit(
                        Add(name=chance.choice("ab"), parts=(submitted,)), idempotency_key=f"{submitted}"
                    )
                    if chance.random() < 0.3:
                        submission.accepted().get()
                        accepted.add(submitted)
                    submitted += 1
                elif draw < 0.27:
                    crash_one(system, chance)
                elif not dispatchers.step():
                    break
            backend.close()
    assert coalesced > SEEDS_PER_TEST


def crash_one(system: Supervisor, chance: random.Random) -> None:
    """Make one of the core's actors crash, at its next message."""
    running: Any = system._running
    ref = chance.choice(running._path.refs)
    ref.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))
