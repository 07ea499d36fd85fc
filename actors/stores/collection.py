"""`Collection`: models by key, read per key, per range and per absence.

Owns the state of a collection (a persistent map and its key order), how writes fold into it, and the mapping that
handlers see. Promises: iteration in key order whatever the hash seed; a write that changes nothing is no write.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import immutables
from pydantic import BaseModel, TypeAdapter, ValidationError

from seqtor.actors.journal.encoding import model_json, text
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.registering import registering
from seqtor.actors.stores.access import Access
from seqtor.actors.stores.contract import StoreActor, StoreSpec, Tail
from seqtor.actors.stores.invariants import Each, Invariants
from seqtor.actors.stores.model_kind import Increment, ModelKind
from seqtor.actors.stores.sorted_keys import SortedKeys, after_prefix
from seqtor.messages.errors import RegistrationError
from seqtor.messages.stores import Checkpoint, Write

if TYPE_CHECKING:
    from seqtor.actors.publications import StateBelow

__all__ = ["DELETED", "Collection", "CollectionState", "CollectionStore", "CollectionView", "collection_of", "resolve"]

ModelT = TypeVar("ModelT", bound=BaseModel)
DefaultT = TypeVar("DefaultT")
DELETED = None  # The op of a write that removes its key.


class CollectionState(Generic[ModelT]):
    """One immutable version of a collection."""

    __slots__ = ("entries", "keys", "kind")

    def __init__(self, kind: ModelKind[ModelT], entries: immutables.Map[str, ModelT], keys: SortedKeys) -> None:
        self.kind = kind
        self.entries = entries
        self.keys = keys


class CollectionStore(StoreActor[CollectionState[ModelT], "CollectionView[ModelT]"]):
    """The collection's behaviour; never blocks, so it lives on the core."""

    dispatcher = "core"
    _keeps_only_state = True

    def __init__(self, kind: ModelKind[ModelT], initial: Mapping[str, ModelT]) -> None:
        self._kind = kind
        self._initial = initial

    def recover(self, checkpoint: Checkpoint | None) -> CollectionState[ModelT]:
        return collection_of(self._kind, self._initial, checkpoint)

    @staticmethod
    def fold(state: CollectionState[ModelT], writes: Sequence[Write]) -> CollectionState[ModelT]:
        return resolve(state, writes)[0]

    @staticmethod
    def view(access: Access[CollectionState[ModelT]]) -> CollectionView[ModelT]:
        return CollectionView(access)


def collection_of(
    kind: ModelKind[ModelT], initial: Mapping[str, ModelT], checkpoint: Checkpoint | None
) -> CollectionState[ModelT]:
    """The state to start from: that of a checkpoint, or the initial one."""
    content = initial if checkpoint is None else _content_of(kind, checkpoint)
    return CollectionState(kind, immutables.Map(content), SortedKeys.of(content))


def resolve(state: CollectionState[ModelT], writes: Sequence[Write]) -> tuple[CollectionState[ModelT], Sequence[Write]]:
    """Fold writes; deltas become values, writes that change nothing are dropped."""
    kind, entries, keys = state.kind, state.entries, state.keys
    if len(writes) > 1:
        writes = _one_per_key(kind, writes)
    effective: list[Write] = []
    for write in writes:
        key, op = write
        old = entries.get(key)
        if op is DELETED:
            if old is not None:
                entries = entries.delete(key)
                keys = keys.discard(key)
                effective.append(Write(key, DELETED))
            continue
        new = kind.incremented(old, op.amounts) if type(op) is Increment else op
        if old is None:
            keys = keys.add(key)
        elif old is new or kind.same(old, new):
            continue
        entries = entries.set(key, new)
        effective.append(write if op is new else Write(key, new))  # One object less that waits until it is durable.
    if not effective:
        return state, ()
    if len(writes) == 1 and effective[0] is writes[0]:
        return CollectionState(kind, entries, keys), writes  # As the attempt's own tuple, which waits anyway.
    return CollectionState(kind, entries, keys), effective


def _content_of(kind: ModelKind[ModelT], checkpoint: Checkpoint) -> dict[str, ModelT]:
    """What `Collection.checkpoint_of` wrote; all at once if it fits, one by one through the upcast if it does not."""
    head, _, body = checkpoint.data.partition(b"\n")
    version = json.loads(head)["version"]
    if version == kind.version:
        with contextlib.suppress(ValidationError):
            return _by_key(kind.model).validate_json(body, by_alias=False, by_name=True)
    return {
        key: kind.from_json(value, version, f"checkpoint at seq {checkpoint.seq}, key {key!r}")
        for key, value in json.loads(body).items()
    }


@functools.lru_cache(maxsize=64)
def _by_key(model: type[ModelT]) -> TypeAdapter[dict[str, ModelT]]:
    """What reads all models of a checkpoint; making it takes as long as reading hundreds of them."""
    return TypeAdapter(dict[str, model])  # type: ignore[valid-type]


def _one_per_key(kind: ModelKind[ModelT], writes: Sequence[Write]) -> list[Write]:
    """Join the writes of each key: what a key was on the way nobody sees, so it is neither validated nor a change."""
    joined: dict[str, Any] = {}
    for key, op in writes:
        before = joined.get(key)
        if type(op) is not Increment or key not in joined:
            joined[key] = op
        elif type(before) is Increment:
            joined[key] = before.plus(op.amounts)
        else:
            joined[key] = kind.incremented(before, op.amounts)
    return [Write(key, op) for key, op in joined.items()]


class Collection(StoreSpec["CollectionView[ModelT]"], Generic[ModelT]):
    """The recipe of a collection: `system.store("accounts", Collection(Account, initial={...}, invariants=[...]))`.

    `initial` is the content at the first start. Each invariant is a function of the whole new state (a mapping) that
    returns a bool or raises, or `each(f)` with an `f(key, value)` for each key that a commit has changed; a state that
    breaks one is never committed. A `Record` without mutable fields is shared between readers; any other pydantic model is
    handed out as private copies.
    Raises RegistrationError if the initial content does not fit the model or breaks an invariant.
    """

    def __init__(
        self,
        model: type[ModelT],
        initial: Mapping[str, ModelT] | None = None,
        invariants: Iterable[Callable[[Mapping[str, ModelT]], bool | None] | Each[ModelT]] = (),
    ) -> None:
        with registering():  # What `seqtor check` looks at is never used afterwards.
            self.kind: ModelKind[ModelT] = ModelKind(model, Invariants(invariants, keyed=True))
            content: dict[str, ModelT] = {}
            if initial is not None and not isinstance(initial, Mapping):
                raise RegistrationError(f"initial= takes a mapping of keys to {model.__name__}, got {initial!r}")
            for key, value in (initial or {}).items():
                if not isinstance(key, str):
                    raise RegistrationError(f"initial: keys are strings, got {type(key).__name__} {key!r}")
                try:
                    content[key] = self.kind.require_instance(value)
                except TypeError as error:
                    raise RegistrationError(f"initial[{key!r}]: {error}") from error
            super().__init__(CollectionStore, self.kind, content)
            self.view = CollectionView  # Without the method in between: a view is made for every run.
            self.version = self.kind.version
            self.needs_judge = self.kind.validates or bool(self.kind.invariants)

    def resolve(
        self, state: CollectionState[ModelT], writes: Sequence[Write]
    ) -> tuple[CollectionState[ModelT], Sequence[Write]]:
        return resolve(state, writes)

    def op_json(self, key: str, op: ModelT | None) -> str:
        return "null" if op is None else model_json(op)

    def restore(
        self, checkpoint: Checkpoint | None, state: CollectionState[ModelT], tail: Tail
    ) -> CollectionState[ModelT]:
        last: dict[str, tuple[int, Any, int]] = {}  # Only what a key is in the end is worth decoding.
        for seq, writes in tail:
            for key, value, version in writes:
                last[key] = (seq, value, version)
        kind = self.kind
        joined = [
            Write(key, DELETED if value is None else kind.from_json(value, version, f"seq {seq}, key {key!r}"))
            for key, (seq, value, version) in last.items()
        ]
        return resolve(state, joined)[0]

    def same_op(self, key: str, op: ModelT | None, kept: Any, version: int) -> bool:
        if op is None or kept is None:  # Deleted.
            return op is kept
        return self.kind.same(op, self.kind.from_json(kept, version, f"key {key!r}"))

    @property
    def by_key(self) -> bool:
        # What an invariant of each key says of one has nothing to do with the others.
        kind = self.kind
        return not (self.needs_judge and (kind.validates or self.tries_values or kind.invariants.of_all))

    def state_of(self, below: StateBelow) -> CollectionState[ModelT]:
        if not self.by_key:
            return super().state_of(below)  # type: ignore[no-any-return]
        entries: Any = _EntriesBelow(below)
        return CollectionState(self.kind, entries, _KeysBelow(entries))  # type: ignore[arg-type]

    @property
    def shape(self) -> str:
        return self.kind.shape

    def checkpoint_of(self, state: CollectionState[ModelT]) -> bytes:
        entries = ",\n".join(f"{text(key)}:{model_json(state.entries[key])}" for key in state.keys)
        return f'{{"version":{self.version}}}\n{{{entries}}}'.encode()

    def require_kept(self, state: CollectionState[ModelT], writes: Sequence[Write]) -> None:
        if self.tries_values:
            for _, value in writes:
                if value is not DELETED:
                    self.kind.require_kept(value)

    def prepare_for_journal(self, upcasts: Upcasts) -> None:
        self.kind.upcasts = upcasts
        self.tries_values = not self.kind.comes_back
        self.needs_judge = self.needs_judge or self.tries_values

    def check(
        self, state: CollectionState[ModelT], writes: Sequence[Write] | None = None, store: str | None = None
    ) -> None:
        if self.kind.invariants:
            self.kind.invariants.check(_Entries(state), self._changed(state, writes), store)

    def _changed(self, state: CollectionState[ModelT], writes: Sequence[Write] | None) -> Iterator[tuple[str, ModelT]]:
        keys = state.keys if writes is None else [key for key, value in writes if value is not DELETED]
        return ((key, self.kind.hand_out(state.entries[key])) for key in keys)

    def part(self, state: CollectionState[ModelT], key: str) -> ModelT | None:
        return state.entries.get(key)

    def private_copy(self, state: CollectionState[ModelT]) -> dict[str, ModelT]:
        return {key: self.kind.hand_out(state.entries[key]) for key in state.keys}

    def writes_for(self, state: CollectionState[ModelT], value: Any) -> Sequence[Write]:
        if not isinstance(value, Mapping):
            raise TypeError(f"a Collection's value is a mapping of str to {self.kind.model.__name__}, got {value!r}")
        writes = [Write(key, DELETED) for key in state.keys if key not in value]
        writes += [Write(_require_key(key), self.kind.require_instance(value[key])) for key in sorted(value)]
        return writes


class _EntriesBelow:
    """Stands where the map of values is, for a run that was overtaken: values one by one, the rest when it is needed."""

    __slots__ = ("_below", "_whole")

    def __init__(self, below: StateBelow) -> None:
        self._below = below
        self._whole: CollectionState[Any] | None = None

    @property
    def whole(self) -> CollectionState[Any]:
        whole = self._whole
        if whole is None:
            self._whole = whole = cast("CollectionState[Any]", self._below.whole())
        return whole

    def get(self, key: str, default: Any = None) -> Any:
        value = self._below.part(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> Any:
        value = self._below.part(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: str) -> bool:
        return self._below.part(key) is not None

    def __len__(self) -> int:
        return len(self.whole.entries)

    def set(self, key: str, value: Any) -> immutables.Map[str, Any]:
        return self.whole.entries.set(key, value)

    def delete(self, key: str) -> immutables.Map[str, Any]:
        return self.whole.entries.delete(key)


class _KeysBelow:
    """Stands where the key order is, in the same way."""

    __slots__ = ("_entries",)

    def __init__(self, entries: _EntriesBelow) -> None:
        self._entries = entries

    def between(self, start: str | None, stop: str | None) -> Iterator[str]:
        return self._entries.whole.keys.between(start, stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries.whole.keys)

    def add(self, key: str) -> SortedKeys:
        return self._entries.whole.keys.add(key)

    def discard(self, key: str) -> SortedKeys:
        return self._entries.whole.keys.discard(key)


class _Entries(Mapping[str, ModelT]):
    """A state as the mapping that invariants see."""

    __slots__ = ("_state",)

    def __init__(self, state: CollectionState[ModelT]) -> None:
        self._state = state

    def __getitem__(self, key: str) -> ModelT:
        return self._state.kind.hand_out(self._state.entries[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.keys)

    def __len__(self) -> int:
        return len(self._state.entries)


class CollectionView(MutableMapping[str, ModelT]):
    """A collection as one attempt sees it: a mutable mapping over its snapshot, with its own writes.

    Every read is tracked: a key by itself (absent ones too), iteration, `len` and `scan` as ranges.
    """

    __slots__ = ("_access", "_entries", "_kind", "_own")

    def __init__(self, access: Access[CollectionState[ModelT]]) -> None:
        self._access = access
        self._entries = access.base.entries
        self._kind = access.base.kind
        self._own: dict[str, ModelT | Increment | None] = {}

    def _find(self, key: str) -> ModelT | None:
        if key in self._own:
            own = self._own[key]
            if type(own) is not Increment:
                self._access.check()
                return own if own is None or self._kind.shared else self._kind.hand_out(own)  # type: ignore[arg-type, return-value]
            self._access.read(key)
            return self._kind.incremented(self._entries.get(key), own.amounts)
        if type(key) is not str:
            _require_key(key)
        self._access.read(key)
        value = self._entries.get(key)
        return value if value is None or self._kind.shared else self._kind.hand_out(value)

    def __getitem__(self, key: str) -> ModelT:
        value = self._find(key)
        if value is None:
            raise KeyError(key)
        return value

    @overload
    def get(self, key: str, /) -> ModelT | None: ...
    @overload
    def get(self, key: str, default: ModelT, /) -> ModelT: ...
    @overload
    def get(self, key: str, default: DefaultT, /) -> ModelT | DefaultT: ...

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the value of the key, or the default."""
        value = self._find(key)
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __setitem__(self, key: str, value: ModelT) -> None:
        if type(key) is not str:
            _require_key(key)
        if type(value) is not self._kind.model or not self._kind.shared:
            value = self._kind.require_instance(value)
        self._access.put(Write(key, value))
        self._own[key] = value

    def __delitem__(self, key: str) -> None:
        if self._find(key) is None:
            raise KeyError(key)
        self._access.put(Write(key, DELETED))
        self._own[key] = None

    def clear(self) -> None:
        """Delete every key, a tracked read of all of them."""
        for key in self._keys_between(None, None):
            self._access.put(Write(key, DELETED))
            self._own[key] = None

    def increment(self, key: str, **fields: Any) -> None:
        """Add amounts to fields without reading them; an absent key starts from the model's defaults.

        Never conflicts with another increment. Raises TypeError for an unknown field or an amount that is no number.
        """
        _require_key(key)
        self._kind.require_amounts(fields)
        own = self._own.get(key, fields)
        if key not in self._own or type(own) is Increment:
            self._access.put(Write(key, Increment(fields)))
            self._own[key] = own.plus(fields) if type(own) is Increment else Increment(fields)
        else:
            self[key] = self._kind.incremented(own, fields)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys_between(None, None))

    def __len__(self) -> int:
        return len(self._keys_between(None, None)) if self._own else self._len_of_base()

    def _len_of_base(self) -> int:
        self._access.read_range(None, None)
        return len(self._entries)

    def scan(
        self, *, prefix: str | None = None, start: str | None = None, stop: str | None = None
    ) -> Iterator[tuple[str, ModelT]]:
        """Iterate over (key, value) in key order: keys with the prefix, or start <= key < stop."""
        if prefix is not None:
            if start is not None or stop is not None:
                raise TypeError("scan takes a prefix, or start and stop, not both")
            start, stop = prefix, after_prefix(prefix)
        keys = self._keys_between(start, stop)
        return ((key, value) for key in keys if (value := self._value(key)) is not None)

    def _keys_between(self, start: str | None, stop: str | None) -> list[str]:
        self._access.read_range(start, stop)
        keys = list(self._access.base.keys.between(start, stop))
        changed = [
            key
            for key, own in self._own.items()
            if (start is None or key >= start)
            and (stop is None or key < stop)
            and (own is None or key not in self._entries)
        ]
        if not changed:
            return keys
        present = set(keys)
        for key in changed:
            if self._own[key] is None:
                present.discard(key)
            else:
                present.add(key)
        return sorted(present)

    def _value(self, key: str) -> ModelT | None:
        """The value of a key that a tracked range covers; None if the attempt has deleted it while it scans."""
        if key not in self._own:
            return self._kind.hand_out(self._entries[key])
        own = self._own[key]
        if type(own) is Increment:
            return self._kind.incremented(self._entries.get(key), own.amounts)
        return own if own is None else self._kind.hand_out(own)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<CollectionView of {self._kind.model.__name__}, {len(self._entries)} keys in the snapshot>"


def _require_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a Collection's keys are strings, got {type(key).__name__} {key!r}: use str({key!r})")
    return key
