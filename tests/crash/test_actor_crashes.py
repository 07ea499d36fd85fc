"""Crashes of the runtime's actors on real threads, with real journals, under load."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from seqtor import Supervisor
from seqtor.actors.base import Actor
from seqtor.actors.journal.actor import Journal
from tests.programs import WAIT_S
from tests.seeds import scaled
from tests.simulation.crash_world import OFTEN, TARGETS, CrashWorld, at_rest
from tests.simulation.crashes import Crash, CrashBase, crashing
from tests.simulation.test_actor_crashes import KILLED

SEEDS = scaled(16)
ROUNDS = 4


@pytest.mark.parametrize(("kind", "journal"), KILLED)
def test_actors_that_are_killed_at_any_line_lose_and_repeat_nothing_on_real_threads(
    kind: type[Actor], journal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = 0
    for seed in range(SEEDS):
        with monkeypatch.context() as patch, crashing(patch) as crashes:
            chance = random.Random(seed)
            place = tmp_path / f"{seed}.db" if journal else None
            system = Supervisor(place, settings={"threads": 3, "control": "off", **OFTEN})
            world = CrashWorld(system, seed)
            with system:
                for _ in range(ROUNDS):
                    error = chance.choice([Crash, CrashBase])
                    crashes.plan(kind, TARGETS[kind], int(chance.expovariate(1 / 150)), None, error)
                    world.submit(8)
                    if chance.random() < 0.5:
                        system.stats()
                results = world.results()
                give_up_at = time.monotonic() + WAIT_S
                rests = 0
                while rests < 3:  # What an effect returns is accepted a moment after the effect has ended.
                    rests = rests + 1 if at_rest(system) else 0
                    assert time.monotonic() < give_up_at, system.stats()
                count = sum(crashes.happened.values())
                world.check(results, count if kind is Journal else 0)
                happened += count
    assert happened >= SEEDS // 8  # How many lines a loaded machine executes before each plan is over, nobody knows.
