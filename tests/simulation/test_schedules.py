"""Schedules while actors are killed at any line and processes at any step: every slot starts exactly one run."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest

from seqtor import Collection, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.schedules.actor import Scheduler
from seqtor.actors.sequencer import Sequencer
from tests.programs import Account
from tests.simulation.crashes import Crash, crashing
from tests.simulation.deaths import crash_one

FACTOR = float(os.environ.get("SEQTOR_EXAMPLES", "1"))
FILES = ("actors/schedules/actor.py", "actors/coordinator.py", "actors/sequencer/actor.py")
START_S = 1_700_000_000.0


class Ring(Trigger[None]):
    """Counts its slot."""

    bell: str


def make(dispatchers: SimulatedDispatchers, backend: MemoryBackend | None, **options: Any) -> Supervisor:
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings={"restart_intensity": 1_000_000})
    accounts = system.store("accounts", Collection(Account))

    @system.on(Ring)
    def ring(trigger: Ring, tx: Transaction) -> None:
        assert tx.scheduled_for is not None
        tx[accounts].increment(f"{trigger.bell} {tx.scheduled_for.timestamp() - START_S:g}", balance=1)

    for bell, every in (("a", 1.0), ("b", 2.5)):
        system.schedule(Ring(bell=bell), every=every, name=bell, misfire="all", catch_up_max=10_000, **options)
    return system


def slots_of(system: Supervisor) -> dict[str, list[float]]:
    """The slots that were started, by bell; each of them once."""
    runs = [record for record in system.commits(limit=100_000) if record.trigger.type == "Ring"]
    assert all(record.state is State.COMMITTED for record in runs)
    started = Counter(record.scheduled for record in runs)
    assert all(count == 1 for count in started.values()), "a slot was started twice"
    found: dict[str, list[float]] = {}
    for key in started:
        assert key is not None
        found.setdefault(key[0], []).append(key[1])
    return {bell: sorted(slots) for bell, slots in found.items()}


def require_each_once(system: Supervisor, last: float) -> None:
    """Every slot of each schedule from its first to the last was started, whatever crashed."""
    found = slots_of(system)
    for bell, every in (("a", 1.0), ("b", 2.5)):
        slots = found[bell]
        first = slots[0]
        expected = [first + number * every for number in range(len(slots))]
        assert slots == pytest.approx(expected, abs=1e-6), bell
        assert slots[-1] > last - every - 0.01, "the newest is there"


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("kind", [Scheduler, Coordinator, Sequencer])
@pytest.mark.parametrize("overlap", ["queue", "parallel"])
def test_an_actor_that_is_killed_at_any_line_loses_no_slot_and_starts_none_twice(
    kind: type[Actor], overlap: str, journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = 0
    for lines in range(0, 60, 6):
        with monkeypatch.context() as patch, crashing(patch) as crashes:
            dispatchers = SimulatedDispatchers(lines)
            with make(dispatchers, MemoryBackend() if journaled else None, overlap=overlap) as system:
                for more in range(3):
                    crashes.plan(kind, FILES, lines + 7 * more, None, Crash)
                    dispatchers.run_until(lambda: False, 2.2)
                crashes.kind = None
                dispatchers.run_until(lambda: False, 2.0)
                require_each_once(system, dispatchers.clock.time())
            happened += sum(crashes.happened.values())
    assert happened >= 8


@pytest.mark.parametrize("first", range(0, int(4 * FACTOR), 2))
def test_four_processes_in_turn_start_each_of_two_hundred_slots_once_under_seeds_from(first: int) -> None:
    for seed in range(first, first + 2):
        chance = random.Random(seed)
        backend = MemoryBackend()
        at = 0.0
        life = 0
        while at < 200:
            dispatchers = SimulatedDispatchers(seed * 1000 + life)
            dispatchers.clock.advance_to(at)
            system = make(
                dispatchers, backend, overlap=chance.choice(["queue", "parallel"]) if seed % 2 else "parallel"
            )
            try:
                system.start()
                until = at + chance.choice([3.0, 20.0, 60.0])
                steps = chance.randrange(30, 3000)
                while steps and dispatchers.clock.monotonic() < until and dispatchers.step():
                    steps -= 1
                    if chance.random() < 0.003:
                        crash_one(system, chance)
            finally:
                at = max(at, dispatchers.clock.monotonic())
                backend.close()  # The process is dead, wherever it was.
                dispatchers.drop()
            at += chance.choice([0.0, 0.4, 7.0])
            life += 1
        dispatchers = SimulatedDispatchers(seed)
        dispatchers.clock.advance_to(at)
        with make(dispatchers, backend, overlap="parallel") as system:
            dispatchers.run_until(lambda: False, 20.0)
            found = slots_of(system)
            assert life >= 4
            if seed % 2 == 0:  # Else the plan is changed now and then, which begins it anew.
                require_each_once(system, dispatchers.clock.time())
                assert len(found["a"]) >= 200
            system.verify()
