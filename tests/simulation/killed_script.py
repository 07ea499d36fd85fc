"""Histories in which actors are killed at any line, as data, so that one that fails can be made smaller.

Owns what can be left out: triggers, cancels, kills, delays, what is special about the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.testing.simulating.shrinking import Tries, fewest
from tests.simulation.crash_world import TARGETS, survive
from tests.simulation.deeds import Deed, fewer_deeds, fewer_kinds
from tests.simulation.shrinking import Script

__all__ = ["KILLED"]

KINDS = tuple(TARGETS)
INTERLEAVING = (1.0, 0.0, 0.2, 1.0, 1.0)
ORDINARY = ("hand in", "step")


class KilledPlan(NamedTuple):
    """Whose actors are killed, and what is done (None: that is drawn while it is played)."""

    seed: int
    kind: type[Actor]
    is_journaled: bool
    interleaving: float
    lateness: float
    deeds: tuple[Deed, ...] | None = None


def _plan(seed: int) -> KilledPlan:
    kind = KINDS[seed % len(KINDS)]
    is_journaled = kind is Journal or bool(seed // len(KINDS) % 2)
    return KilledPlan(seed, kind, is_journaled, INTERLEAVING[seed // 3 % len(INTERLEAVING)], 0.05 * (seed % 2))


def _play(plan: KilledPlan, patch: pytest.MonkeyPatch, played: Callable[[KilledPlan], object]) -> None:
    done: list[Deed] = []
    try:
        survive(
            plan.seed, plan.kind, MemoryBackend() if plan.is_journaled else None, patch,
            EXPLORERS[plan.seed // 2 % len(EXPLORERS)], plan.interleaving, plan.lateness, plan.deeds, done,
        )  # fmt: skip
    finally:
        played(plan._replace(deeds=tuple(done)))


def _smaller(plan: KilledPlan, fails: Callable[[KilledPlan], bool], tries: Tries) -> KilledPlan:
    special = [name for name in ("interleaving", "lateness") if getattr(plan, name)]
    plan = fewest(special, lambda kept: plan._replace(**dict.fromkeys({*special} - {*kept}, 0.0)), fails, tries)
    plan = fewer_kinds(plan, ORDINARY, fails, tries)
    plan = fewer_deeds(plan, fails, tries)
    return _delays(plan, fails, tries)


def _delays(plan: KilledPlan, fails: Callable[[KilledPlan], bool], tries: Tries) -> KilledPlan:
    deeds = plan.deeds or ()

    def with_only(kept: tuple[int, ...]) -> KilledPlan:
        left = [
            Deed(each.what, (*each.given[:2], None)) if each.what == "hand in" and at not in kept else each
            for at, each in enumerate(deeds)
        ]
        return plan._replace(deeds=tuple(left))

    delayed = [at for at, each in enumerate(deeds) if each.what == "hand in" and each.given[2] is not None]
    return fewest(delayed, with_only, fails, tries)


def _sizes(plan: KilledPlan) -> dict[str, int]:
    deeds = plan.deeds or ()
    names = {"hand in": "triggers", "kill": "faults", "take back": "cancels"}
    return {name: sum(each.what == what for each in deeds) for what, name in names.items()}


def _told(plan: KilledPlan) -> Iterator[str]:
    journal = "a journal" if plan.is_journaled else "no journal"
    special = [f"{name} {getattr(plan, name)}" for name in ("interleaving", "lateness") if getattr(plan, name)]
    yield "; ".join([f"{plan.kind.__name__} is killed", journal, *special])


KILLED = Script(_plan, _play, _smaller, _sizes, _told)
"""Histories in which actors are killed, as data."""
