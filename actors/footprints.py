"""Footprints: what a run declares that it may write, before it executes.

Owns their making from `writes=` and the check that a run kept to its own. Promises: a footprint follows from the trigger
alone, so every attempt, a restart and a replay have the same; the user's function runs where the trigger is handed in,
never on the core. A store whose writes cannot be told apart by key (one of the user's own, or one with validators or with
invariants that look at all of it) is declared as a whole, whatever key was named; so is what is derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.errors import FootprintViolation, RegistrationError

if TYPE_CHECKING:
    from seqtor.actors.submissions import Submission
    from seqtor.messages.stores import StoreAccess
    from seqtor.messages.triggers import Trigger

__all__ = [
    "Declare",
    "Footprint",
    "FootprintOf",
    "declare",
    "footprint_of",
    "recorded",
    "recorded_footprint",
    "violation",
]

NAMED_MAX = 5
Declare = Sequence[StoreRef[Any]] | Callable[[Any], Iterable[StoreRef[Any] | tuple[StoreRef[Any], str]]]
"""What `writes=` takes: stores, or a function of the trigger that returns stores and (store, key) pairs."""


class Footprint(NamedTuple):
    """The keys (store index, key) and whole stores (index) that a run may write."""

    keys: frozenset[tuple[int, str]]
    stores: frozenset[int]

    def holds(self, store: int, key: str) -> bool:
        """Whether the run may write this key."""
        return store in self.stores or (store, key) in self.keys


FootprintOf = Callable[["Trigger[Any]"], Footprint]


def footprint_of(trigger_name: str, writes: Any, known: Sequence[StoreRef[Any]]) -> FootprintOf | None:
    """What makes the footprint of a trigger; `known` are the system's stores, those registered later included.

    Raises RegistrationError for a `writes=` that names no stores of this system.
    """
    if writes is None:
        return None
    place = f"writes= of the handler of {trigger_name}"
    if callable(writes) and not isinstance(writes, StoreRef):
        return lambda trigger: _footprint(_asked(writes, trigger, place), known, place, TypeError)
    if isinstance(writes, (str, StoreRef)) or not isinstance(writes, Iterable):
        raise RegistrationError(
            f"{place} takes a list of stores, or a function of the trigger that returns (store, key) pairs, got "
            f"{writes!r}: writes=[orders], or writes=lambda trigger: [(orders, trigger.order_id)]"
        )
    declared = list(writes)
    if any(not isinstance(each, StoreRef) for each in declared):
        raise RegistrationError(
            f"{place}: a list names stores; for keys pass a function of the trigger, got {writes!r}"
        )
    _footprint(declared, known, place, RegistrationError)
    return lambda _: _footprint(declared, known, place, RegistrationError)


def declare(submission: Submission[Any]) -> None:
    """Have a submission declare what its handler says. Raises TypeError for a `writes=` that raises or returns bad."""
    make = submission.handler.footprint
    if make is not None:
        submission.footprint = make(submission.trigger)


def recorded(footprint: Footprint | None, stores: Sequence[StoreRef[Any]]) -> list[tuple[str, str | None]]:
    """A footprint as it is kept."""
    if footprint is None:
        return []
    whole: list[tuple[str, str | None]] = [(stores[store].name, None) for store in sorted(footprint.stores)]
    return whole + [(stores[store].name, key) for store, key in sorted(footprint.keys)]


def recorded_footprint(kept: Sequence[tuple[str, str | None]], stores: Sequence[StoreRef[Any]]) -> Footprint:
    """What `recorded` has kept."""
    indexes = {ref.name: ref.index for ref in stores}
    declared = [(stores[indexes[store]], key) for store, key in kept]
    return _footprint([ref if key is None else (ref, key) for ref, key in declared], stores, "a footprint", TypeError)


def violation(
    footprint: Footprint, accesses: Sequence[StoreAccess], stores: Sequence[StoreRef[Any]], trigger_name: str
) -> FootprintViolation | None:
    """The error of an attempt that writes what it did not declare, or None."""
    outside = [
        f"{stores[access.store].name}[{write.key!r}]"
        for access in accesses
        for write in access.writes
        if not footprint.holds(access.store, write.key)
    ]
    if not outside:
        return None
    named = list(dict.fromkeys(outside))
    more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
    return FootprintViolation(
        f"{trigger_name} writes {', '.join(named[:NAMED_MAX])}{more}, which its writes= does not declare; nothing was "
        "written. Declare every key that the handler may write, or the whole store"
    )


def _asked(writes: Callable[[Any], Any], trigger: Trigger[Any], place: str) -> list[Any]:
    try:
        found = writes(trigger)
        is_listed = isinstance(found, Iterable) and not isinstance(found, (str, bytes, Mapping))
        declared = list(found) if is_listed else []
    except Exception as error:
        raise TypeError(f"{place} raised {type(error).__name__}: {error}, for {trigger!r}") from error
    is_pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], str)
    if is_pair or not is_listed:
        raise TypeError(
            f"{place} returned {found!r} for {trigger!r}: it returns a list of stores and pairs, such as "
            "[(orders, trigger.order_id)], and [] if nothing is written"
        )
    return declared


def _footprint(
    declared: Iterable[Any], known: Sequence[StoreRef[Any]], place: str, error: type[Exception]
) -> Footprint:
    keys: set[tuple[int, str]] = set()
    stores: set[int] = set()
    for each in declared:
        ref, key = each if isinstance(each, tuple) and len(each) == 2 else (each, None)
        if not isinstance(ref, StoreRef) or not (key is None or isinstance(key, str)):
            raise error(
                f"{place}: what may be written is a store or a pair (store, key) with a str as key, got {each!r}"
            )
        if ref.index >= len(known) or known[ref.index] is not ref:
            raise error(f"{place} names the store {ref.name!r}, which belongs to another system")
        if key is None or not ref.spec.by_key:
            stores.add(ref.index)
        else:
            keys.add((ref.index, key))
    written = stores | {store for store, _ in keys}
    stores |= {ref.index for ref in known if any(source.index in written for source in ref.spec.sources)}
    return Footprint(frozenset([place for place in keys if place[0] not in stores]), frozenset(stores))
