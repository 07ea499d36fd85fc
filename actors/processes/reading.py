"""What a worker process has of the stores: fetched when it is looked at, and no more of it than that.

Owns the states that views get there. Promises: of a collection only the values and keys that are asked for cross, those of
a range in pieces that grow; any other state crosses whole, once per worker and version. Nothing here is tracked: that is
the access's, which has told the system before it looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from seqtor.actors.stores.access import Access, Reader
from seqtor.actors.stores.collection import Collection, CollectionState
from seqtor.actors.stores.document import Document, DocumentState
from seqtor.messages.stores import Write

__all__ = ["BASE", "FIRST", "LazyAccess", "RemoteCollection", "StateCache", "portable_state"]

BASE, FIRST = range(2)  # The snapshot of this attempt, and that of the first.
CHUNK_MIN, CHUNK_MAX = 16, 1024

Ask = Callable[..., Any]


class RemoteCollection:
    """One collection in one snapshot: what has been fetched of it."""

    __slots__ = ("_ask", "_chunk", "_known", "_spans", "_store", "_which")

    def __init__(self, ask: Ask, store: int, which: int) -> None:
        self._ask = ask
        self._store = store
        self._which = which
        self._known: dict[str, Any] = {}
        self._spans: dict[tuple[str | None, str | None], list[str]] = {}
        self._chunk = CHUNK_MIN

    def state(self, kind: Any) -> CollectionState[Any]:
        """The state that a view of the collection gets."""
        entries: Any = RemoteEntries(self)
        keys: Any = RemoteKeys(self)
        return CollectionState(kind, entries, keys)

    def learn(self, key: str, value: Any) -> None:
        """Note a value that came with the answer of a tracked read."""
        self._known[key] = value

    def value(self, key: str) -> Any:
        """The value of a key, None if it is absent."""
        if key not in self._known:
            keys = self._with_followers(key)
            self._known.update(zip(keys, self._ask("values", self._store, self._which, keys), strict=True))
        return self._known[key]

    def keys(self, start: str | None, stop: str | None) -> list[str]:
        """The keys of a range, in order."""
        span = self._spans.get((start, stop))
        if span is None:
            span = self._spans[start, stop] = self._ask("keys", self._store, self._which, start, stop)
        return span

    def length(self) -> int:
        """How many keys there are."""
        return self._ask("length", self._store, self._which)  # type: ignore[no-any-return]

    def _with_followers(self, key: str) -> list[str]:
        """The key, and if it belongs to a range that was asked for, those behind it: they will be looked at, too."""
        for span in self._spans.values():
            place = bisect_left(span, key)
            if place < len(span) and span[place] == key:
                wanted = [each for each in span[place : place + self._chunk] if each not in self._known]
                self._chunk = min(2 * self._chunk, CHUNK_MAX)
                return wanted
        return [key]


class RemoteEntries:
    """Stands where a collection's map of values is."""

    __slots__ = ("_source",)

    def __init__(self, source: RemoteCollection) -> None:
        self._source = source

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        value = self._source.value(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> Any:
        value = self._source.value(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: str) -> bool:
        return self._source.value(key) is not None

    def __len__(self) -> int:
        return self._source.length()


class RemoteKeys:
    """Stands where a collection's key order is."""

    __slots__ = ("_source",)

    def __init__(self, source: RemoteCollection) -> None:
        self._source = source

    def between(self, start: str | None, stop: str | None) -> Iterator[str]:
        """The keys with start <= key < stop."""
        return iter(self._source.keys(start, stop))

    def __iter__(self) -> Iterator[str]:
        return self.between(None, None)


class LazyAccess(Access[Any]):
    """An access whose state is fetched when the view looks at it: a view that only writes needs none."""

    __slots__ = ("_fetch", "_fetched", "_has_fetched")

    def __init__(
        self, reader: Reader, store: int, fetch: Callable[[], Any], fold: Callable[[Any, Sequence[Write]], Any]
    ) -> None:
        self._fetch = fetch
        self._has_fetched = False
        super().__init__(reader, store, None, fold)

    @property
    def base(self) -> Any:
        if not self._has_fetched:
            self._fetched = self._fetch()
            self._has_fetched = True
        return self._fetched

    @base.setter
    def base(self, _: Any) -> None:
        """It is fetched."""


class StateCache:
    """The states that a worker process has got whole, as long as the system says that they may be asked for."""

    def __init__(self) -> None:
        self._states: dict[int, Any] = {}

    def fetch(self, ask: Ask, spec: Any, store: int, which: int) -> Any:
        """A store's state."""
        token, forget, sent, state = ask("state", store, which)
        for each in forget:
            self._states.pop(each, None)
        if sent:
            self._states[token] = _state_of(spec, state)
        return self._states[token]


def portable_state(spec: Any, state: Any) -> Any:
    """What crosses of a state: a document's value alone, the rest of it is the same in every process."""
    return state.value if isinstance(spec, Document) else state


def _state_of(spec: Any, crossed: Any) -> Any:
    return DocumentState(spec.kind, spec.args[1], crossed) if isinstance(spec, Document) else crossed


def is_collection(spec: Any) -> bool:
    """Whether it is read key by key."""
    return isinstance(spec, Collection)
