"""Explorers: which of those who are ready goes next in a simulation, and how far.

Owns the strategy of a search for rare interleavings; a simulation asks it in every step. Promises: the same random source
gives the same choices. Pure.

`RandomWalk` chooses anew in every step. It seldom keeps one actor waiting while many others go, which is what most
ordering bugs need. `Priorities` is PCT (Burckhardt, Kothari, Musuvathi, Nagarakatte: "A Randomized Scheduler with
Probabilistic Guarantees of Finding Bugs", ASPLOS 2010): a random order of all actors, in which the first that is ready
goes, until at a few random steps whoever would go is put behind all. `Arrivals` is the idea of POS (Yuan, Yang, Gu:
"Partial Order Aware Concurrency Sampling", CAV 2018) at the level of turns: each turn of an actor has a random priority
of its own, which it keeps until it is taken.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Protocol

__all__ = ["EXPLORERS", "Arrivals", "Explorer", "Priorities", "RandomWalk"]

BATCHES = (1, 1, 2, 4, 256)
CHANGES_MAX = 4  # Most ordering bugs need two or three that go in one order.
STEPS_FIRST, STEPS_LAST = 50, 5_000  # How many steps a history may have within which the changes fall.


class Explorer(Protocol):
    """A strategy; those who are ready are told apart by what is hashable of them."""

    def choose(self, ready: Sequence[Hashable]) -> int:
        """The index of who goes next, of one or more."""
        ...

    def batch(self) -> int:
        """How many messages it handles at most."""
        ...


class RandomWalk:
    """Anyone who is ready, with the same chance."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def choose(self, ready: Sequence[Hashable]) -> int:
        return self._random.randrange(len(ready))

    def batch(self) -> int:
        return self._random.choice(BATCHES)


class Priorities:
    """The first in a random order of all, which is changed at a few random steps."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._ranks: dict[Hashable, float] = {}  # The least goes first; it keeps whom it knows alive.
        self._step = 0
        steps = round(STEPS_FIRST * (STEPS_LAST / STEPS_FIRST) ** source.random())
        self._changes = {source.randrange(steps) for _ in range(source.randint(1, CHANGES_MAX))}
        self._is_fine = source.random() < 0.5  # One message a turn, so that others may come between any two.

    def choose(self, ready: Sequence[Hashable]) -> int:
        ranks = self._ranks
        for each in ready:
            if each not in ranks:
                ranks[each] = self._random.random()
        first = min(range(len(ready)), key=lambda index: ranks[ready[index]])
        self._step += 1
        if self._step in self._changes:
            ranks[ready[first]] = float(self._step)  # Behind all, and behind who was put there before.
            first = min(range(len(ready)), key=lambda index: ranks[ready[index]])
        return first

    def batch(self) -> int:
        return 1 if self._is_fine else self._random.choice(BATCHES)


class Arrivals:
    """The least of random priorities, each of which holds for one turn."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._ranks: dict[Hashable, float] = {}

    def choose(self, ready: Sequence[Hashable]) -> int:
        ranks = self._ranks
        for each in ready:
            if each not in ranks:
                ranks[each] = self._random.random()
        first = min(range(len(ready)), key=lambda index: ranks[ready[index]])
        del ranks[ready[first]]
        return first

    def batch(self) -> int:
        return self._random.choice(BATCHES)


EXPLORERS = (RandomWalk, Priorities, Arrivals)
