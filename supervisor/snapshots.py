"""`Snapshot`: all stores at one moment, for readers outside of handlers."""

from __future__ import annotations

from typing import Any, TypeVar

from seqtor.actors.stores.access import ReadOnlyAccess
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.transactions import require_known_store

__all__ = ["Snapshot"]

ViewT = TypeVar("ViewT")


class Snapshot:
    """A consistent, immutable view of all stores after `seq`. Reading takes no lock and waits for nobody."""

    __slots__ = ("_seq", "_states", "_stores")

    def __init__(self, seq: int, states: tuple[Any, ...], stores: tuple[StoreRef[Any], ...]) -> None:
        # Not a publication: it leads to all later ones, and a snapshot that is kept would keep them.
        self._seq = seq
        self._states = states
        self._stores = stores

    @property
    def seq(self) -> int:
        """The seq after which this is the state; 0 before the first."""
        return self._seq

    def __getitem__(self, store: StoreRef[ViewT]) -> ViewT:
        """The view of a store; writing through it raises TypeError."""
        require_known_store(store, self._stores)
        access = ReadOnlyAccess(self._states[store.index], store.spec.fold)
        return store.spec.view(access)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<Snapshot at seq {self.seq}>"
