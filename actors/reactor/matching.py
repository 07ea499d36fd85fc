"""Which facts together meet the `&` of a reaction: the state machine of half-met composites, pure.

Owns who waits for whom. Promises: each fact is used by one match of a composite at most, and the oldest that fits is used
first; what is older than the window is never used; the state is immutable, so that whoever has it may go on with it, or not.

Times never decrease along the facts here: the newest seen so far stands for one that is set back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from immutables import Map

from seqtor.actors.reactor.reactions import Composite
from seqtor.messages.facts import Fact

__all__ = ["HalfMet", "Match", "Step", "Waiting", "match", "sweep", "waits"]

SWEEP_MIN = 1024


class Waiting(NamedTuple):
    """A fact that waits in a part of a composite: since when, and which of the part's conditions it has met."""

    fact: Fact
    at: float
    conditions: tuple[int, ...]


Queues = tuple[tuple[Waiting, ...], ...]
"""What waits in each part of a composite, the oldest first."""


class HalfMet(NamedTuple):
    """What waits, by composite and correlation key; the newest time; and how much there was at the last sweep."""

    entries: Map[tuple[str, str], Queues] = Map()
    now: float = 0.0
    swept: int = 0


Match = tuple[Waiting, ...]
"""The facts that have met a composite: one for each part."""


class Step(NamedTuple):
    """What one fact has changed: the state, what began to wait in which part, who waits no more, and the match."""

    state: HalfMet
    added: tuple[int, Waiting] | None
    removed: tuple[Waiting, ...]
    match: Match | None


def match(
    state: HalfMet, composite: Composite, key: str, fact: Fact, hits: Sequence[tuple[int, tuple[int, ...]]]
) -> Step:
    """Let a fact take part. `hits` are the parts that it meets, each with the conditions that it meets there.

    It takes the place in which the fewest wait, the first of these: so it completes a match if it can.
    """
    now = max(state.now, fact.at)
    place = (composite.id, key)
    queues: Queues = state.entries.get(place) or tuple([() for _ in composite.parts])
    removed: tuple[Waiting, ...] = ()
    if composite.within_s is not None:
        removed, queues = _expire(queues, now - composite.within_s)
    part, conditions = min(hits, key=lambda hit: (len(queues[hit[0]]), hit[0]))
    waiting = Waiting(fact, now, conditions)
    queues = (*queues[:part], (*queues[part], waiting), *queues[part + 1 :])
    found: Match | None = None
    added: tuple[int, Waiting] | None = (part, waiting)
    if all(queues):
        found = tuple([queue[0] for queue in queues])
        queues = tuple([queue[1:] for queue in queues])
        used = tuple([each for each in found if each is not waiting])
        removed = (*removed, *used)
        if len(used) < len(found):
            added = None  # It was used at once.
    entries = state.entries
    if any(queues):
        entries = entries.set(place, queues)
    elif place in entries:
        entries = entries.delete(place)
    return Step(HalfMet(entries, now, state.swept), added, removed, found)


def _expire(queues: Queues, oldest: float) -> tuple[tuple[Waiting, ...], Queues]:
    gone = tuple([each for queue in queues for each in queue if each.at < oldest])
    if not gone:
        return (), queues
    return gone, tuple([tuple([each for each in queue if each.at >= oldest]) for queue in queues])


def sweep(
    state: HalfMet, composite_of: Callable[[str], Composite | None]
) -> tuple[HalfMet, list[tuple[str, str, Waiting]]]:
    """Forget what no window can use any more, if there may be much of it; returns also what that was, and where."""
    if len(state.entries) < 2 * state.swept + SWEEP_MIN:
        return state, []
    gone: list[tuple[str, str, Waiting]] = []
    entries = state.entries
    for place, queues in state.entries.items():
        composite = composite_of(place[0])
        if composite is None or composite.within_s is None:
            continue
        expired, left = _expire(queues, state.now - composite.within_s)
        gone += [(*place, each) for each in expired]
        if expired:
            entries = entries.set(place, left) if any(left) else entries.delete(place)
    return HalfMet(entries, state.now, len(entries)), gone


def waits(state: HalfMet, place: tuple[str, str], part: int, waiting: Any, parts: int) -> HalfMet:
    """The state with one more that waits, as it is kept: for who reads it back, in the order in which it was kept."""
    queues = state.entries.get(place) or ((),) * parts
    queues = (*queues[:part], (*queues[part], waiting), *queues[part + 1 :])
    return state._replace(entries=state.entries.set(place, queues), now=max(state.now, waiting.at))
