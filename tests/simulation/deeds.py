"""What is done to a history, as data: drawn while it is done, noted, and done again in part.

Owns the list of deeds, and how plans that have one (`deeds`) become smaller. "step" is the deed that lets the history go on:
(how many steps).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from seqtor.testing.simulating.shrinking import Tries, fewest

__all__ = ["Deed", "add", "fewer_deeds", "fewer_kinds"]

PlanT = TypeVar("PlanT")


class Deed(NamedTuple):
    """Something that is done: what, and to whom and how."""

    what: str
    given: tuple[Any, ...]


def add(deeds: list[Deed], deed: Deed) -> None:
    """Note a deed; steps that follow each other are one."""
    if deed.what == "step" and deeds and deeds[-1].what == "step":
        deeds[-1] = Deed("step", (deeds[-1].given[0] + deed.given[0],))
    else:
        deeds.append(deed)


def fewer_kinds(plan: PlanT, ordinary: tuple[str, ...], fails: Callable[[PlanT], bool], tries: Tries) -> PlanT:
    """The plan without the deeds of some kinds; those of the ordinary kinds stay."""
    found: Any = plan
    deeds: tuple[Deed, ...] = found.deeds

    def with_only(kept: tuple[str, ...]) -> PlanT:
        left: PlanT = found._replace(deeds=tuple([each for each in deeds if each.what in (*ordinary, *kept)]))
        return left

    return fewest(sorted({each.what for each in deeds} - {*ordinary}), with_only, fails, tries)


def fewer_deeds(plan: PlanT, fails: Callable[[PlanT], bool], tries: Tries) -> PlanT:
    """The plan with fewer deeds."""
    found: Any = plan
    return fewest(found.deeds, lambda deeds: found._replace(deeds=deeds), fails, tries)
