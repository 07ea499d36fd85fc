"""Which derived stores follow from which others, and what a commit makes of them. Pure.

Promises: every commit that writes a source carries what it makes of all that is derived from it, computed on the state as
of its place in the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loguru import logger

from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.derived import UNREADABLE, Derived, DerivedState
from seqtor.messages.stores import StoreAccess, Write

__all__ = ["Resolution", "Sources", "build_new", "derive"]

Resolution = tuple[StoreAccess, Any, Sequence[Write]]
"""What a commit does to one store: on whose behalf, the new state, the writes that led to it."""


class Sources:
    """The sources of all derived stores of a system, by their indexes."""

    def __init__(self, stores: Sequence[StoreRef[Any]]) -> None:
        self._of = {ref.index: tuple([source.index for source in ref.spec.sources]) for ref in stores}
        self._derived: dict[int, list[int]] = {}
        for index, sources in self._of.items():
            for source in sources:
                self._derived.setdefault(source, []).append(index)

    @property
    def all(self) -> frozenset[int]:
        """Every store from which another is derived."""
        return frozenset(self._derived)

    def derived_from(self, stores: Iterable[int]) -> tuple[int, ...]:
        """What follows from any of these stores."""
        derived = self._derived
        return tuple(sorted({index for store in stores for index in derived.get(store, ())})) if derived else ()

    def needed(self, stores: Iterable[int]) -> tuple[int, ...]:
        """The stores whose states it takes to derive what follows from these: the derived ones and all their sources."""
        found = self.derived_from(stores)
        return tuple(sorted({*found, *[source for index in found for source in self._of[index]]}))

    def widened(self, accesses: Sequence[StoreAccess]) -> Sequence[StoreAccess]:
        """These accesses, and of what their writes change besides, all: a write of a source writes what is derived."""
        found = self.derived_from([access.store for access in accesses if access.writes]) if self._derived else ()
        return [*accesses, *[StoreAccess(index, {}, (), True, ()) for index in found]] if found else accesses


def derive(
    stores: Sequence[StoreRef[Any]], resolved: Sequence[Resolution], around: Mapping[int, Any]
) -> list[Resolution]:
    """What a commit makes of the derived stores in `around`, which holds their states and their sources' as of seq - 1."""
    new = {access.store: state for access, state, _ in resolved}
    written = {access.store: writes for access, _, writes in resolved}
    found: list[Resolution] = []
    for index in sorted(around):
        spec: Derived[Any] = stores[index].spec  # type: ignore[assignment]
        sources = [ref.index for ref in spec.sources]
        if not any(source in written for source in sources):
            continue
        before = [around[source] for source in sources]
        after = [new.get(source, around[source]) for source in sources]
        state, writes = spec.derived(around[index], before, after, written)
        if writes:
            _report(stores[index], writes)
            found.append((StoreAccess(index, {}, (), False, ()), state, writes))
    return found


def build_new(stores: Sequence[StoreRef[Any]], states: Sequence[Any], known: Mapping[str, str]) -> tuple[Any, ...]:
    """The states at a start, with each derived store computed that the journal does not hold, or in another form.

    `known` are the forms that it holds, by name.
    """
    found = list(states)
    for ref in stores:
        spec = ref.spec
        if isinstance(spec, Derived) and known.get(ref.name) != spec.shape:
            found[ref.index] = _built(ref, found)
    return tuple(found)


def _built(ref: StoreRef[Any], states: Sequence[Any]) -> DerivedState[Any]:
    spec: Derived[Any] = ref.spec  # type: ignore[assignment]
    sources = [states[ref.index] for ref in spec.sources]
    empty: DerivedState[Any] = DerivedState(spec.kind.model, None)
    try:
        return DerivedState(spec.kind.model, spec.built(sources), "", spec.counted(sources))
    except Exception as error:
        state, writes = spec.written(empty, [Write(UNREADABLE, f"{type(error).__name__}: {error}")])
        _report(ref, writes)
        return state


def _report(ref: StoreRef[Any], writes: Sequence[Write]) -> None:
    for key, op in writes:
        if key == UNREADABLE and op:
            logger.bind(actor="judge").error("store {}: it cannot be read from now on: {}", ref.name, op)
