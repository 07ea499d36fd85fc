"""How the world of a feature is killed: one actor at any line of its code, or one process after another at any step.

Owns the loops; what is done in such a world, and what must hold of it, is its test's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import pytest
from pykka.messages import ProxyCall

from seqtor import Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.journal.memory import MemoryBackend
from tests.simulation.crashes import Crash, crashing

__all__ = ["OFTEN", "crash_one", "die_at_any_step", "kill_at_any_line"]

# Actors crash as often as it takes, and nobody is late, however much time passes while others are ready.
OFTEN = {"restart_intensity": 1_000_000, "deadline": 1e6, "deadline_completion": 1e6}
LIFE_S = 7.0  # So much later each life begins.
START_S = 1_700_000_000.0
STEPS_MAX = 200_000  # Far more than it takes: what is never answered fails soon.
LATENESS = (0.0, 0.1, 0.01)
INTERLEAVING = (1.0, 0.0, 0.3, 1.0)


class Make(Protocol):
    """Makes the system of one life."""

    def __call__(self, dispatchers: SimulatedDispatchers, backend: MemoryBackend | None, /) -> Supervisor: ...


def kill_at_any_line(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Actor],
    files: tuple[str, ...],
    message: type | None,
    play: Callable[[int, SimulatedDispatchers, Callable[[], None]], None],
    *,
    worlds: int = 60,
    worlds_per_line: int = 1,
) -> int:
    """Play one world after another with its number, its dispatchers and `kill`; returns how many actors were killed.

    `kill()` plans it, for an actor of this kind while it handles such a message (None: any), in each world some lines later
    than in the one before.
    """
    killed = 0
    for number in range(worlds):
        with monkeypatch.context() as patch, crashing(patch) as crashes:
            play(
                number,
                SimulatedDispatchers(number),
                partial(crashes.plan, kind, files, number // worlds_per_line, message, Crash),
            )
        killed += sum(crashes.happened.values())
    return killed


def die_at_any_step(
    seed: int,
    make: Make,
    act: Callable[[Supervisor, random.Random], bool],
    *,
    lives: int,
    steps: tuple[int, int],
    crashes: float,
    begin: Callable[[Supervisor, random.Random], None] = lambda system, chance: None,
    end: Callable[[Supervisor], None] = lambda system: None,
) -> tuple[Supervisor, SimulatedDispatchers]:
    """Let one process after another live on one journal and die at some step; returns the last one, which has just begun.

    In each step an actor crashes (by the chance `crashes`), or `act` does something and says so, or the world goes on.
    `begin` is called when a life has begun, `end` when it is about to end.
    """
    chance, backend = random.Random(seed), MemoryBackend()
    ended_s = 0.0
    for life in range(lives - 1):
        system, dispatchers = _begin(make, backend, seed, life, ended_s)
        begin(system, chance)
        killed = 0
        for _ in range(chance.randrange(*steps)):
            if chance.random() < crashes:
                crash_one(system, chance)
                killed += 1
            elif not act(system, chance):
                is_late = dispatchers.clock.time() > START_S + (life + 1) * LIFE_S - 0.5
                if is_late or not dispatchers.step():
                    break
        end(system)
        running: Any = system._running
        assert running._ledger.restarts <= killed, "an actor crashed that nobody killed"
        backend.close()
        assert dispatchers.drop() == []
        ended_s = dispatchers.clock.monotonic()
    return _begin(make, backend, seed, lives - 1, ended_s)


def _begin(
    make: Make, backend: MemoryBackend, seed: int, life: int, ended_s: float
) -> tuple[Supervisor, SimulatedDispatchers]:
    dispatchers = SimulatedDispatchers(
        seed * 100 + life,
        steps_max=STEPS_MAX,
        lateness=LATENESS[(seed + life) % len(LATENESS)],
        explorer=EXPLORERS[seed % len(EXPLORERS)],
        interleaving=INTERLEAVING[(seed + life) % len(INTERLEAVING)],
    )
    dispatchers.clock.advance_to(
        max(life * LIFE_S, ended_s)
    )  # Late timers may have taken the life before past its end.
    return make(dispatchers, backend).start(), dispatchers


def crash_one(system: Supervisor, chance: random.Random) -> None:
    """Make one of the core's actors crash, at its next message."""
    running: Any = system._running
    ref = chance.choice(running._path.refs)
    ref.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))
