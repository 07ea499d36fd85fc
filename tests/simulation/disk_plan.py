"""A history on the simulated disk, as data: its settings, and in each life what is done and what goes wrong.

Owns how these are drawn. What a life does is drawn while it is lived: as long as its disk is there.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from seqtor.testing import faults
from tests.simulation.deeds import Deed

__all__ = [
    "ACTORS_CRASH_AT", "DISK_ERRORS_AT", "NOTHING", "DiskPlan", "Life", "draw_deeds", "draw_life", "draw_settings",
]  # fmt: skip

KEYS = ("a", "b", "deep/c", "deep/er/d")
STEPS_OF_A_LIFE = (0, 20, 200, 600)
ACTORS_CRASH_AT = ("journal.append.before", "journal.append.after", "journal.checkpoint.after", "outside.persist.after")
DISK_ERRORS_AT = tuple(each for each in faults.POINTS if each.startswith(("files.", "export.")))


NOTHING = Deed("nothing", ())


class Life(NamedTuple):
    """One life. `ends_at`: at which operation of the disk it ends, and whether the power fails then.

    Deeds are "save" (number, key, other, deletes), "ask for acceptance" (number) and "step".
    """

    ends_at: tuple[int, bool] | None = None
    trouble: Deed = NOTHING
    deeds: tuple[Deed, ...] = ()
    stops: bool = False  # In order, if it has not ended before.
    power_fails: bool = False  # Behind its last deed.


class DiskPlan(NamedTuple):
    """A history but for its last life, in which nothing goes wrong. `lives`: None, they are drawn while they are lived."""

    seed: int
    trims: bool
    look_every: float | None
    checkpoint_bytes_min: int
    wal_pages: int
    trim_rows: int
    lives_drawn: int
    lives: tuple[Life, ...] | None = None


def draw_settings(chance: random.Random) -> DiskPlan:
    """What is drawn before the first life."""
    return DiskPlan(
        seed=0,
        trims=chance.random() < 0.25,
        look_every=chance.choice((None, None, 1.0)),
        checkpoint_bytes_min=chance.choice((300, 3000, 1 << 24)),
        wal_pages=chance.choice((4, 12, 500)),
        trim_rows=chance.choice((2, 1000)),
        lives_drawn=chance.choice((2, 4, 6)),
    )


def draw_life(chance: random.Random) -> Life:
    """What goes wrong in a life."""
    ends_at = None
    if chance.random() < 0.6:
        ends_at = (int(chance.choice((30, 300, 1500)) * chance.random()) + 1, chance.random() < 0.7)
    what = chance.choice(("nothing", "nothing", "die at a point", "crash", "point", "disk", "disk", "full"))
    given: tuple[Any, ...] = ()
    match what:
        case "die at a point":
            given = (chance.random() < 0.7, *_moment(chance, tuple(faults.POINTS)))
        case "crash":
            given = _moment(chance, ACTORS_CRASH_AT)
        case "point":
            given = _moment(chance, DISK_ERRORS_AT)
        case "disk":
            kinds = chance.choice(
                ((), ("sync",), ("write",), ("read",), ("rename", "unlink", "mkdir"), ("sync folder",))
            )
            below = chance.choice(("", "journal", "var", "out"))
            times = chance.choice((1, 3, None))
            given = (kinds, below, times, chance.choice((errno.EIO, errno.ENOSPC)), int(300 * chance.random() ** 2))
        case "full":
            given = (int(100_000 * chance.random()),)
    return Life(ends_at, Deed(what, given))


def _moment(chance: random.Random, points: tuple[str, ...]) -> tuple[int, str | None]:
    """The how-manieth time, and at which of the points (None: any of them)."""
    return chance.choice((1, 2, 5, 20)), chance.choice((*points, None))


def draw_deeds(chance: random.Random, saves: int) -> Iterator[Deed]:
    """What is done in a life, one after another; so many saves were handed in before it."""
    for _ in range(int(chance.choice(STEPS_OF_A_LIFE) * chance.random())):
        if chance.random() < 0.15:
            yield Deed("save", (saves, chance.choice(KEYS), chance.choice(KEYS), chance.random() < 0.2))
            if chance.random() < 0.4:
                yield Deed("ask for acceptance", (saves,))
            saves += 1
        yield Deed("step", (1,))
