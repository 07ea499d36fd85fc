"""One history of a random system from one integer: `python -m tests.simulation.systems.world 7` plays the seventh."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.shrinking import Script
from tests.simulation.systems.check import check
from tests.simulation.systems.plan import Plan, draw
from tests.simulation.systems.playing import Playing
from tests.simulation.systems.smaller import sizes, smaller, told

__all__ = ["SYSTEMS", "play_system"]

ROOTS = (20, 40, 80, 200)
MEMORY = Path("/dev/shm")  # Where files cost no disk; what is synced is not what is searched here.


def play_system(seed: int, patch: pytest.MonkeyPatch, roots: int | None = None) -> Counter[str]:
    """Draw a system, play it, and check it; returns what has happened."""
    return _play(_plan(seed, roots), patch)


def _plan(seed: int, roots: int | None = None) -> Plan:
    return draw(seed, ROOTS[seed % len(ROOTS)] if roots is None else roots)


def _play(plan: Plan, patch: pytest.MonkeyPatch, played: Callable[[Plan], object] = lambda _: None) -> Counter[str]:
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        playing = Playing(plan, Path(place), patch)
        try:
            playing.play(lambda played: happened.update(check(played)))
        finally:
            played(plan._replace(deeds=tuple(playing.deeds)))
        happened["triggers"] = len(playing.handed)
        happened["crashes"] = playing.crashes
    return happened


SYSTEMS = Script(_plan, _play, smaller, sizes, told)
"""Random systems, as data."""


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as given:
        print(play_system(int(sys.argv[1]), given))
