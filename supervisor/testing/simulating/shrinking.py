"""Makes a failing history smaller: fewer triggers, fewer faults, fewer switches.

Owns delta debugging (Zeller, Hildebrandt: "Simplifying and Isolating Failure-Inducing Input", TSE 2002) over the parts of a
plan. Pure but for `fails`, which plays. Promises: what it returns fails; it ends after `tries` plays, or when nothing more
can be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from seqtor.testing.simulating.plan import Plan

__all__ = ["Tries", "fewest", "minimised", "shrink"]

PartT = TypeVar("PartT")
PlanT = TypeVar("PlanT")


class Tries:
    """How many plays are left."""

    def __init__(self, count: int) -> None:
        self.left = count


def minimised(parts: Sequence[PartT], fails: Callable[[tuple[PartT, ...]], bool], tries: Tries) -> tuple[PartT, ...]:
    """A part of `parts` that fails, from which nothing more can be left out, as long as there are tries.

    `fails` is called with parts in their order, never with all of them.
    """
    left = tuple(parts)
    if left and tries.left > 0:
        tries.left -= 1
        if fails(()):
            return ()
    pieces = 2
    while len(left) > 1:
        size = -(-len(left) // pieces)
        for start in range(0, len(left), size):
            without = left[:start] + left[start + size :]
            if not without or tries.left <= 0:
                continue
            tries.left -= 1
            if fails(without):
                left, pieces = without, max(2, pieces - 1)
                break
        else:
            if size == 1 or tries.left <= 0:
                break
            pieces = min(len(left), pieces * 2)
    return left


def fewest(
    parts: Sequence[PartT],
    with_only: Callable[[tuple[PartT, ...]], PlanT],
    fails: Callable[[PlanT], bool],
    tries: Tries,
) -> PlanT:
    """The plan with as few of the parts as `minimised` finds: `with_only` gives the one that has these and no others."""
    return with_only(minimised(parts, lambda kept: fails(with_only(kept)), tries))


def shrink(plan: Plan, fails: Callable[[Plan], frozenset[int] | None], tries: int) -> Plan:
    """A smaller plan that fails as well. `fails` plays one, and says in which steps it switched, or None: it holds."""
    budget = Tries(tries)

    def still_fails(smaller: Plan) -> bool:
        return fails(smaller) is not None

    def fewer_triggers() -> Plan:
        return fewest(plan.handed, lambda kept: plan._replace(handed=kept), still_fails, budget)

    plan = fewest(plan.faults, lambda kept: plan._replace(faults=kept), still_fails, budget)
    plan = fewer_triggers()
    plan = _plainer(plan, fails, budget)
    switches = fails(plan)
    if switches:
        explicit = plan._replace(switches=switches)
        if fails(explicit) is not None:
            plan = fewest(
                sorted(switches), lambda kept: explicit._replace(switches=frozenset(kept)), still_fails, budget
            )
            plan = fewer_triggers()  # With fewer switches fewer may do.
    return plan


def _plainer(plan: Plan, fails: Callable[[Plan], frozenset[int] | None], budget: Tries) -> Plan:
    """The same with ordinary settings, where they do not matter."""
    at_once = tuple([each._replace(steps=0, pause_s=0.0) for each in plan.handed])
    changes: tuple[Callable[[Plan], Plan], ...] = (
        lambda each: each._replace(lateness=0.0),
        lambda each: each._replace(max_in_flight=10_000),
        lambda each: each._replace(threads=4),
        lambda each: each._replace(handed=at_once),
    )
    for change in changes:
        plainer = change(plan)
        if budget.left > 0 and plainer != plan:
            budget.left -= 1
            if fails(plainer) is not None:
                plan = plainer
    return plan
