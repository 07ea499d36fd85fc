"""Histories on the simulated disk as data, so that one that fails can be made smaller.

Owns what can be left out: lives, what goes wrong in them, what is done in them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from seqtor.testing.simulating.shrinking import Tries, fewest
from tests.simulation.disk_plan import DiskPlan, Life, draw_settings
from tests.simulation.disk_world import play_disk
from tests.simulation.shrinking import Script

__all__ = ["DISK"]

PLAIN: Mapping[str, Any] = MappingProxyType(
    {"trims": False, "look_every": None, "checkpoint_bytes_min": 1 << 24, "wal_pages": 500, "trim_rows": 1000}
)
WELL = Life()
HURTS = ("ends_at", "trouble", "power_fails", "stops")

Fails = Callable[[DiskPlan], bool]


def _plan(seed: int) -> DiskPlan:
    return draw_settings(random.Random(f"disk:{seed}"))._replace(seed=seed)


def _smaller(plan: DiskPlan, fails: Fails, tries: Tries) -> DiskPlan:
    for shrink in (_settings, _lives, _hurts, _deeds, _lives):
        plan = shrink(plan, fails, tries)
    return plan


def _settings(plan: DiskPlan, fails: Fails, tries: Tries) -> DiskPlan:
    def with_only(kept: tuple[str, ...]) -> DiskPlan:
        return plan._replace(**{name: value for name, value in PLAIN.items() if name not in kept})

    special = [name for name, value in PLAIN.items() if getattr(plan, name) != value]
    return fewest(special, with_only, fails, tries)


def _lives(plan: DiskPlan, fails: Fails, tries: Tries) -> DiskPlan:
    return fewest(plan.lives or (), lambda lives: plan._replace(lives=lives), fails, tries)


def _hurts(plan: DiskPlan, fails: Fails, tries: Tries) -> DiskPlan:
    """Less goes wrong."""
    lives = plan.lives or ()

    def with_only(kept: tuple[tuple[int, str], ...]) -> DiskPlan:
        left = [
            life._replace(**{name: getattr(WELL, name) for name in HURTS if (number, name) not in kept})
            for number, life in enumerate(lives)
        ]
        return plan._replace(lives=tuple(left))

    special = [
        (number, name)
        for number, life in enumerate(lives)
        for name in HURTS
        if getattr(life, name) != getattr(WELL, name)
    ]
    return fewest(special, with_only, fails, tries)


def _deeds(plan: DiskPlan, fails: Fails, tries: Tries) -> DiskPlan:
    """Less is done."""
    lives = plan.lives or ()

    def with_only(kept: tuple[tuple[int, int], ...]) -> DiskPlan:
        left = [
            life._replace(deeds=tuple([deed for at, deed in enumerate(life.deeds) if (number, at) in kept]))
            for number, life in enumerate(lives)
        ]
        return plan._replace(lives=tuple(left))

    parts = [(number, at) for number, life in enumerate(lives) for at in range(len(life.deeds))]
    return fewest(parts, with_only, fails, tries)


def _sizes(plan: DiskPlan) -> dict[str, int]:
    lives = plan.lives or ()
    return {
        "triggers": sum(deed.what == "save" for life in lives for deed in life.deeds),
        "faults": sum(getattr(life, name) != getattr(WELL, name) for life in lives for name in HURTS[:3]),
        "lives": len(lives) + 1,
    }


def _told(plan: DiskPlan) -> Iterator[str]:
    special = [f"{name} {getattr(plan, name)}" for name, value in PLAIN.items() if getattr(plan, name) != value]
    yield "; ".join(special) or "ordinary settings"


DISK = Script(_plan, play_disk, _smaller, _sizes, _told)
"""Histories on the simulated disk, as data."""
