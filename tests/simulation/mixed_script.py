"""Mixed programs as data: what is handed in and how, in which settings, so that a case that fails can be made smaller.

Owns what can be left out: triggers, options of handing in and of handlers, steps of programs, settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from seqtor import Priority
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.testing.simulating.shrinking import Tries, fewest
from tests.properties.language import KEYS
from tests.simulation.mixed import Handed, Mix, mix_simulated, run_simulated
from tests.simulation.mixed_kinds import Kind
from tests.simulation.shrinking import Script

__all__ = ["MIXED", "MixedPlan"]

LATENESS = (0.0, 0.02, 0.0, 0.2)
INTERLEAVING = (1.0, 0.0, 0.2, 1.0, 1.0)

PLAIN: Mapping[str, Any] = MappingProxyType({"lateness": 0.0, "interleaving": 0.0})
MIX: Mapping[str, Any] = MappingProxyType({"threads": 4, "max_in_flight": 10_000, "horizon": None, "journaled": False})
HANDED: Mapping[str, Any] = MappingProxyType(
    {"priority": Priority.NORMAL, "gap": 0, "group": None, "event_time": None, "delay": None, "cancels": None}
)


class MixedPlan(NamedTuple):
    """A case, and how it is ordered."""

    mix: Mix
    seed: int
    lateness: float
    interleaving: float


def _plan(seed: int) -> MixedPlan:
    return MixedPlan(mix_simulated(seed), seed, LATENESS[seed % len(LATENESS)], INTERLEAVING[seed % len(INTERLEAVING)])


def _play(plan: MixedPlan, _: pytest.MonkeyPatch, played: Callable[[MixedPlan], object]) -> None:
    played(plan)
    run_simulated(plan.mix, plan.seed, EXPLORERS[plan.seed % len(EXPLORERS)], plan.lateness, plan.interleaving)


# Smaller -----------------------------------------------------------------------------------------------------------------

Fails = Callable[[MixedPlan], bool]


def _smaller(plan: MixedPlan, fails: Fails, tries: Tries) -> MixedPlan:
    for shrink in (_settings, _triggers, _handing_in, _kinds, _steps, _triggers):
        plan = shrink(plan, fails, tries)
    return plan


def _settings(plan: MixedPlan, fails: Fails, tries: Tries) -> MixedPlan:
    special = [name for name, value in PLAIN.items() if getattr(plan, name) != value]
    special += [name for name, value in MIX.items() if getattr(plan.mix, name) != value]

    def with_only(kept: tuple[str, ...]) -> MixedPlan:
        mix = dataclasses.replace(plan.mix, **{name: value for name, value in MIX.items() if name not in kept})
        return plan._replace(mix=mix, **{name: value for name, value in PLAIN.items() if name not in kept})

    return fewest(special, with_only, fails, tries)


def _with(plan: MixedPlan, handed: list[Handed]) -> MixedPlan:
    return plan._replace(mix=dataclasses.replace(plan.mix, handed=tuple(handed), rounds=(len(handed),)))


def _triggers(plan: MixedPlan, fails: Fails, tries: Tries) -> MixedPlan:
    def with_only(kept: tuple[int, ...]) -> MixedPlan:
        places = {number: place for place, number in enumerate(kept)}
        handed = [plan.mix.handed[number] for number in kept]
        cancels = [None if each.cancels is None else places.get(each.cancels) for each in handed]
        return _with(plan, [dataclasses.replace(each, cancels=n) for each, n in zip(handed, cancels, strict=True)])

    return fewest(range(len(plan.mix.handed)), with_only, fails, tries)


def _handing_in(plan: MixedPlan, fails: Fails, tries: Tries) -> MixedPlan:
    """Nothing special about how triggers are handed in, where that does."""
    handed = plan.mix.handed
    special = [
        (number, name) for number, each in enumerate(handed) for name, value in HANDED.items()
        if getattr(each, name) != value
    ]  # fmt: skip

    def with_only(kept: tuple[tuple[int, str], ...]) -> MixedPlan:
        return _with(
            plan,
            [
                dataclasses.replace(
                    each, **{name: value for name, value in HANDED.items() if (number, name) not in kept}
                )
                for number, each in enumerate(handed)
            ],
        )

    return fewest(special, with_only, fails, tries)


def _kinds(plan: MixedPlan, fails: Fails, tries: Tries) -> MixedPlan:
    """Handlers with ordinary options; who declares nothing may write everywhere."""
    plain = Kind("loop")
    handed = plan.mix.handed
    special = [
        (number, name) for number, each in enumerate(handed) for name in Kind._fields
        if getattr(each.kind, name) != getattr(plain, name)
    ]  # fmt: skip

    def plainer(number: int, each: Handed, kept: tuple[tuple[int, str], ...]) -> Handed:
        kind = plain._replace(**{name: getattr(each.kind, name) for name in Kind._fields if (number, name) in kept})
        return dataclasses.replace(each, kind=kind, keys=each.keys if kind.declares else KEYS)

    def with_only(kept: tuple[tuple[int, str], ...]) -> MixedPlan:
        return _with(plan, [plainer(number, each, kept) for number, each in enumerate(handed)])

    return fewest(special, with_only, fails, tries)


def _steps(plan: MixedPlan, fails: Fails, tries: Tries) -> MixedPlan:
    """Shorter programs."""
    handed = plan.mix.handed
    parts = [(number, at) for number, each in enumerate(handed) for at in range(len(each.steps))]

    def with_only(kept: tuple[tuple[int, int], ...]) -> MixedPlan:
        return _with(
            plan,
            [
                dataclasses.replace(
                    each, steps=tuple([step for at, step in enumerate(each.steps) if (number, at) in kept])
                )
                for number, each in enumerate(handed)
            ],
        )

    return fewest(parts, with_only, fails, tries)


# Telling -----------------------------------------------------------------------------------------------------------------


def _sizes(plan: MixedPlan) -> dict[str, int]:
    handed = plan.mix.handed
    return {
        "triggers": len(handed),
        "steps of programs": sum(len(each.steps) for each in handed),
        "cancels": sum(each.cancels is not None for each in handed),
        "delays": sum(each.delay is not None for each in handed),
    }


def _told(plan: MixedPlan) -> Iterator[str]:
    mix = plan.mix
    special = [f"{name} {getattr(mix, name)}" for name, value in MIX.items() if getattr(mix, name) != value]
    special += [f"{name} {getattr(plan, name)}" for name, value in PLAIN.items() if getattr(plan, name) != value]
    yield "; ".join(special) or "ordinary settings"
    yield f"{mix.stores}"
    for number, each in enumerate(mix.handed):
        options = [f"{name}={getattr(each.kind, name)}" for name in Kind._fields[1:] if getattr(each.kind, name)]
        options += [f"{name}={getattr(each, name)}" for name, value in HANDED.items() if getattr(each, name) != value]
        options += [f"keys={', '.join(each.keys)}"] if each.kind.declares else []
        about = ", ".join([each.kind.place, *options])
        yield f"number {number} ({about}): {'; '.join(' '.join(map(str, step)) for step in each.steps) or 'nothing'}"


MIXED = Script(_plan, _play, _smaller, _sizes, _told)
"""Mixed programs, as data."""
