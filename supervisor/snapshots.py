"""`Snapshot`: all stores at one moment, for readers outside of handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic_core import from_json, to_jsonable_python

from seqtor.actors.stores.access import ReadOnlyAccess
from seqtor.actors.stores.collection import CollectionState
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.transactions import require_known_store

__all__ = ["Snapshot", "json_values"]

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

    def as_json(self, store: StoreRef[Any]) -> dict[str, Any]:
        """What a store holds by key (a document: by field), as plain JSON values."""
        require_known_store(store, self._stores)
        return json_values(store, self._states[store.index])

    def __repr__(self) -> str:
        return f"<Snapshot at seq {self.seq}>"


def json_values(ref: StoreRef[Any], state: Any) -> dict[str, Any]:
    """A store's state by key, as JSON; of a store of the user's own as well as it can be said."""
    if isinstance(state, CollectionState):
        return {key: from_json(ref.spec.op_json(key, state.entries[key])) for key in state.keys}
    value = getattr(state, "value", None)
    if ref.spec.shape and value is not None:
        return {name: from_json(ref.spec.op_json(name, getattr(value, name))) for name in type(value).model_fields}
    plain = to_jsonable_python(state, fallback=lambda part: dict(part) if isinstance(part, Mapping) else repr(part))
    return plain if isinstance(plain, dict) else {"": plain}
