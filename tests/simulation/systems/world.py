"""One history of a random system from one integer: `python -m tests.simulation.systems.world 7` plays the seventh."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.systems.check import check
from tests.simulation.systems.plan import draw
from tests.simulation.systems.playing import Playing

__all__ = ["play_system"]

ROOTS = (20, 40, 80, 200)
MEMORY = Path("/dev/shm")  # Where files cost no disk; what is synced is not what is searched here.


def play_system(seed: int, patch: pytest.MonkeyPatch, roots: int | None = None) -> Counter[str]:
    """Draw a system, play it, and check it; returns what has happened."""
    plan = draw(seed, ROOTS[seed % len(ROOTS)] if roots is None else roots)
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        playing = Playing(plan, Path(place), patch)
        playing.play(lambda played: happened.update(check(played)))
        happened["triggers"] = len(playing.handed)
        happened["crashes"] = playing.crashes
    return happened


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as given:
        print(play_system(int(sys.argv[1]), given))
