"""A world whose planted bug takes a rare order: one run stands between two of its reads while many others commit.

Owns the figure of docs/simulation.md that tells explorers apart: a random walk lets everybody go about as far as everybody
else, and so hardly ever comes to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import Collection, Record, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.committer.history import History
from tests.leftovers import cleared
from tests.simulation.planted import Plant

__all__ = ["misses_a_write", "starving"]

RUNS = 30
READS = 40
FORGOTTEN = 20
PLANT = Plant(
    f"what {FORGOTTEN} commits have followed is no evidence", History, "stale",
    "if not self._recent or", f"if not self._recent or self._recent[-1][0] - snapshot_seq > {FORGOTTEN} or",
)  # fmt: skip


class Number(Record):
    """A counter."""

    n: int = 0


class Add(Trigger[int]):
    """Reads a key and writes it."""

    key: str


class Look(Trigger[int]):
    """Reads a key, and then many others."""

    key: str


def misses_a_write(explorer: Callable[[random.Random], Any], seed: int) -> bool:
    """Play one schedule; whether the last run has not seen what the first one wrote."""
    dispatchers = SimulatedDispatchers(seed, explorer=explorer, threads=2 * RUNS)
    with cleared():
        system = Supervisor(dispatchers=lambda _: dispatchers)
        numbers = system.store("numbers", Collection(Number))

        @system.on(Add)
        def add(trigger: Add, tx: Transaction) -> int:
            n = tx[numbers].get(trigger.key, Number()).n + 1
            tx[numbers][trigger.key] = Number(n=n)
            return n

        @system.on(Look)
        def look(trigger: Look, tx: Transaction) -> int:
            n = tx[numbers].get(trigger.key, Number()).n
            for number in range(READS):
                tx[numbers].get(f"other {number}")
            return n

        system.start()
        others = [Add(key=f"b{number}") for number in range(RUNS)]
        submissions = system.submit_many([Add(key="a"), *others, Look(key="a")])
        dispatchers.run_until(lambda: all(each.done for each in submissions), None)
        return submissions[-1].result(0) != 1


def starving(explorer: Callable[[random.Random], Any], schedules: int) -> int:
    """In how many of so many schedules the planted bug is seen."""
    with pytest.MonkeyPatch.context() as patch:
        PLANT.into(patch)
        return sum(misses_a_write(explorer, seed) for seed in range(schedules))
