"""A history before it is played: everything that its seed decides, as data.

Owns how a seed becomes a plan, and what can be left out of one. Pure. Promises: the same seed, program and workload give the
same plan in every process; a plan from which something is left out is a plan.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from seqtor.actors.dispatchers.exploring import EXPLORERS, Explorer
from seqtor.messages.triggers import Trigger

__all__ = ["DEATH", "Fault", "Followed", "Handed", "Plan", "Workload", "make_plan"]

Workload = Callable[[random.Random], Iterable[Trigger[Any]]]

DEATH = "process"
STEPS = (0, 0, 0, 1, 3, 10, 40)
PAUSES_S = (0.01, 1.0, 30.0)
FAULT_STEPS = 12  # For each trigger: within so many steps of its history something is hurt.
LATENESS = (0.0, 0.0, 0.02, 0.1)
ALL_AT_ONCE = 256


class Handed(NamedTuple):
    """A trigger, and what happens before the next one is handed in: so many steps, and so much virtual time."""

    trigger: Trigger[Any]
    steps: int
    pause_s: float


class Fault(NamedTuple):
    """What is hurt, and at which step of the history: an actor by its name, or the process (`DEATH`)."""

    step: int
    target: str


class Plan(NamedTuple):
    """A whole history. `switches` are the steps in which somebody else goes than who has waited longest; None: as the seed
    says.
    """

    seed: int
    handed: tuple[Handed, ...]
    faults: tuple[Fault, ...]
    max_in_flight: int
    threads: int
    lateness: float
    switches: frozenset[int] | None = None

    def explorer(self, source: random.Random) -> Followed:
        """Who chooses who goes next."""
        return Followed(EXPLORERS[self.seed % len(EXPLORERS)](source), self.switches)


class Followed:
    """An explorer whose choices are counted: `switched` are the steps in which it did not choose who has waited longest.

    With `kept` it is followed in these steps only; in all others who has waited longest goes, as far as it can.
    """

    def __init__(self, explorer: Explorer, kept: frozenset[int] | None) -> None:
        self._explorer = explorer
        self._kept = kept
        self.steps = 0  # Choices, of all processes of the history.
        self.switched: set[int] = set()

    def count_from(self, steps: int) -> None:
        """Go on behind the processes before this one."""
        self.steps = steps

    def choose(self, ready: Sequence[Hashable]) -> int:
        chosen = self._explorer.choose(ready)
        self.steps += 1
        if self._kept is not None and self.steps not in self._kept:
            return 0
        if chosen:
            self.switched.add(self.steps)
        return chosen

    def batch(self) -> int:
        count = self._explorer.batch()
        if self._kept is not None and self.steps not in self._kept:
            return ALL_AT_ONCE
        if count != ALL_AT_ONCE:
            self.switched.add(self.steps)
        return count


def make_plan(seed: int, work: Workload, triggers: int, targets: Sequence[str]) -> Plan:
    """The plan of a seed: what is handed in comes from `work`, `triggers` of it at most; `targets` are who may be hurt."""
    source = random.Random(f"plan {seed}")
    given = itertools.islice(work(random.Random(f"work {seed}")), triggers)
    handed = tuple(
        Handed(each, source.choice(STEPS), source.choice(PAUSES_S) if source.random() < 0.05 else 0.0) for each in given
    )
    steps = FAULT_STEPS * max(1, len(handed))
    crashes = source.choice((0, 0, 1, 3)) if targets else 0
    deaths = source.choice((0, 0, 1, 2))
    faults = [Fault(source.randrange(steps), source.choice(targets)) for _ in range(crashes)]
    faults += [Fault(source.randrange(steps), DEATH) for _ in range(deaths)]
    return Plan(
        seed=seed,
        handed=handed,
        faults=tuple(sorted(faults)),
        max_in_flight=source.choice((1, 2, 4, 10_000, 10_000)),
        threads=source.randint(1, 4),
        lateness=source.choice(LATENESS),
    )
