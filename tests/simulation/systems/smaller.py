"""Makes the plan of a random system smaller, and tells what is left of it.

Owns what can be left out: deeds, reactions, schedules, stores, what else goes wrong, options of handlers, steps of programs.
Pure but for `fails`, which plays. What is left out is not done: a plan from which something is left out is a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from seqtor.testing.simulating.shrinking import Tries, fewest
from tests.simulation.deeds import Deed, fewer_deeds, fewer_kinds
from tests.simulation.systems.plan import Handling, Plan
from tests.simulation.systems.programs import Step

__all__ = ["sizes", "smaller", "told"]

Fails = Callable[[Plan], bool]

# What is ordinary: where it does not matter, a plan becomes so.
PLAIN: Mapping[str, Any] = MappingProxyType(
    {"repeats": 0.0, "fails_outside": 0.0, "slow_store": 0.0, "lateness": 0.0, "interleaving": 0.0, "horizon": None,
     "fold": False}
)  # fmt: skip
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"threads": 4, "max_in_flight": 10_000, "max_queued": 100_000, "max_delayed": 100_000, "records_max": 100_000}
)
ORDINARY = ("hand in", "step", "begin", "end")  # All other kinds of deeds are left out as one, if that does.
HURTS = ("die", "crash", "edit", "set the clock")


def smaller(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    """A part of the plan, which has its deeds, that fails as well."""
    plan = fewer_kinds(_settings(plan, fails, tries), ORDINARY, fails, tries)
    for shrink in (fewer_deeds, _reactions, _schedules, _stores, _ordinary_deeds, _options, _steps):
        plan = shrink(plan, fails, tries)
    return fewer_deeds(plan, fails, tries)  # With fewer steps fewer deeds may do.


def _settings(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    special = [name for name, value in PLAIN.items() if getattr(plan, name) != value]
    special += [name for name, value in plan.settings.items() if value != SETTINGS[name]]

    def with_only(kept: tuple[str, ...]) -> Plan:
        settings = {name: value if name in kept else SETTINGS[name] for name, value in plan.settings.items()}
        changed = {name: value for name, value in PLAIN.items() if name not in kept}
        return plan._replace(settings=settings, **changed)

    return fewest(special, with_only, fails, tries)


def _reactions(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    return fewest(plan.reactions, lambda reactions: plan._replace(reactions=reactions), fails, tries)


def _schedules(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    return fewest(plan.schedules, lambda schedules: plan._replace(schedules=schedules), fails, tries)


def _stores(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    """Fewer stores, and no step that needs one that is gone."""

    def with_only(kept: tuple[str, ...]) -> Plan:
        gone = {*plan.stores} - {"collection", *kept}
        programs = tuple(
            [
                each._replace(steps=tuple([step for step in each.steps if not gone & {*step[1:2]}]))
                for each in plan.programs
            ]
        )
        return plan._replace(stores=tuple([each for each in plan.stores if each not in gone]), programs=programs)

    optional = [each for each in plan.stores if each != "collection"]
    return fewest(optional, with_only, fails, tries)


def _ordinary_deeds(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    """What is handed in has no key and no delay, and a step is one, where that does."""

    def with_only(kept: tuple[int, ...]) -> Plan:
        deeds = [each if at in kept else _ordinary(each) for at, each in enumerate(plan.deeds or ())]
        return plan._replace(deeds=tuple(deeds))

    special = [at for at, each in enumerate(plan.deeds or ()) if _ordinary(each) != each]
    return fewest(special, with_only, fails, tries)


def _ordinary(deed: Deed) -> Deed:
    return Deed("hand in", (*deed.given[:2], None, None)) if deed.what == "hand in" else deed


def _options(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    """Handlers with ordinary options."""
    plain = Handling(is_async=False)
    special = [
        (kind, name) for kind, handling in enumerate(plan.handlings) for name in Handling._fields
        if getattr(handling, name) != getattr(plain, name)
    ]  # fmt: skip

    def with_only(kept: tuple[tuple[int, str], ...]) -> Plan:
        handlings = [
            plain._replace(**{name: getattr(handling, name) for name in Handling._fields if (kind, name) in kept})
            for kind, handling in enumerate(plan.handlings)
        ]
        return plan._replace(handlings=tuple(handlings))

    return fewest(special, with_only, fails, tries)


def _steps(plan: Plan, fails: Fails, tries: Tries) -> Plan:
    """Shorter programs; those that nobody starts any more are empty."""
    used = _programs(plan)
    parts = [(number, at) for number in used for at in range(len(plan.programs[number].steps))]

    def with_only(kept: tuple[tuple[int, int], ...]) -> Plan:
        programs = [
            each._replace(steps=tuple([step for at, step in enumerate(each.steps) if (number, at) in kept]))
            for number, each in enumerate(plan.programs)
        ]
        return plan._replace(programs=tuple(programs))

    return fewest(parts, with_only, fails, tries)


def _programs(plan: Plan) -> list[int]:
    """The numbers of the programs that are started."""
    begins = {each.program for each in plan.schedules}
    begins |= {each.given[1] for each in plan.deeds or () if each.what in ("hand in", "hand in another")}
    submitted = {step[1] for number in begins for step in plan.programs[number].steps if step[0] == "submit"}
    return sorted(begins | submitted)


# Telling -----------------------------------------------------------------------------------------------------------------


def sizes(plan: Plan) -> dict[str, int]:
    """How large it is: what is counted, and how much there is of it."""
    deeds = plan.deeds or ()
    hurts = sum(each.what in HURTS for each in deeds)
    return {
        "triggers": sum(each.what == "hand in" for each in deeds),
        "faults": hurts + sum(bool(getattr(plan, name)) for name in ("repeats", "fails_outside", "slow_store")),
        "other deeds": sum(each.what not in (*HURTS, *ORDINARY) for each in deeds),
        "reactions": len(plan.reactions),
        "schedules": len(plan.schedules),
    }


def told(plan: Plan) -> Iterator[str]:
    """What is left, line by line."""
    special = [f"{name} {getattr(plan, name)}" for name, value in PLAIN.items() if getattr(plan, name) != value]
    special += [f"{name} {value}" for name, value in plan.settings.items() if value != SETTINGS[name]]
    journal = "a journal" if plan.journaled else "no journal"
    yield f"stores {', '.join(plan.stores)}; {'; '.join([journal, *special])}"
    programs = _programs(plan)
    plain = Handling(is_async=False)
    for kind in sorted({plan.programs[number].kind for number in programs}):
        handling = plan.handlings[kind]
        options = [
            f"{name}={getattr(handling, name)}" for name in Handling._fields
            if getattr(handling, name) != getattr(plain, name)
        ]  # fmt: skip
        yield f"the handler of Work{kind}: {', '.join(options) or 'an ordinary one'}"
    for number in programs:
        each = plan.programs[number]
        yield f"program {number} (Work{each.kind}): {'; '.join(map(_step, each.steps)) or 'nothing'}"
    for reaction in plan.reactions:
        yield f"reaction {reaction}"
    for schedule in plan.schedules:
        yield f"schedule {schedule}"


def _step(step: Step) -> str:
    return " ".join(map(str, step))
