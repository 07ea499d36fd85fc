"""How a view reads and writes a store on behalf of one attempt.

Owns the read set and the write set of one attempt in one store. Promises: every read comes from the attempt's
snapshot; what was named is what is validated; nothing can be read or written once the attempt has ended or was
abandoned (the operation raises instead).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from seqtor.messages.stores import StoreAccess, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Access", "ReadOnlyAccess", "Reader"]

State = TypeVar("State")


class Reader(Protocol):
    """What an access needs of its attempt."""

    def check(self) -> None:
        """Raise if the attempt has ended or was abandoned."""
        ...

    def has_read(self, store: int, key: str | None) -> None:
        """Note a first read of a key, or (None) of a range or everything; raise if it is known to be stale."""
        ...


class Access(Generic[State]):
    """One attempt's reads and writes in one store.

    `state` is the store's state with the attempt's own writes folded in. Touching it is a tracked read of the whole
    store, unless the view names what it reads with `read` and `read_range`: a view that names reads names all of them.
    """

    __slots__ = ("_fold", "_folded", "_reader", "_touched", "base", "keys", "ranges", "store", "writes")

    def __init__(
        self, reader: Reader, store: int, base: State, fold: Callable[[State, Sequence[Write]], State]
    ) -> None:
        self._reader = reader
        self.store = store
        self.base = base
        self._fold = fold
        self._folded: tuple[State, int] | None = None  # The state with so many own writes folded in.
        self._touched = False
        self.keys: dict[str, int | None] = {}
        self.ranges: tuple[tuple[str | None, str | None], ...] = ()
        self.writes: list[Write] = []

    @property
    def state(self) -> State:
        self._reader.check()
        if not self._touched:
            self._touched = True
            if not self.keys and not self.ranges:
                self._reader.has_read(self.store, None)
        if not self.writes:
            return self.base
        state, count = self._folded or (self.base, 0)
        if count != len(self.writes):
            state = self._fold(state, self.writes[count:])
            self._folded = (state, len(self.writes))
        return state

    def read(self, key: str, version: int | None = None) -> None:
        """Name a key that the view reads, present or absent.

        `version` is the seq that last wrote the key, if the state knows it; without it the snapshot's is taken.
        """
        self._reader.check()
        if key not in self.keys:
            self.keys[key] = version
            self._reader.has_read(self.store, key)

    def read_range(self, start: str | None, stop: str | None) -> None:
        """Name a range start <= key < stop that the view reads, absences included; None leaves a side open."""
        self._reader.check()
        self.ranges = (*self.ranges, (start, stop))
        self._reader.has_read(self.store, None)

    def write(self, key: str, op: Any) -> None:
        """Add a write: a key and JSON or bytes. It is seen by later reads of this attempt, by others after the commit.

        Raises TypeError if the key is not a string or the op is not JSON or bytes.
        """
        self._reader.check()
        if type(key) is not str:
            raise TypeError(f"a write's key must be a str, got {type(key).__name__} {key!r}")
        kind = type(op)
        if kind is not int and kind is not str and kind is not bytes:
            op = frozen_json(op, "op")
        self.writes.append(Write(key, op))

    def put(self, write: Write) -> None:
        """Add a write whose op is a built-in store's own immutable value."""
        self._reader.check()
        self.writes.append(write)

    def check(self) -> None:
        """Raise if the attempt has ended or was abandoned."""
        self._reader.check()

    def reads_everything(self) -> bool:
        """Whether the whole state was touched and no read named."""
        return self._touched and not self.keys and not self.ranges

    def take_over(
        self, keys: dict[str, int | None], ranges: tuple[tuple[str | None, str | None], ...], *, whole: bool,
        writes: Sequence[Write],
    ) -> None:  # fmt: skip
        """Stand for what a view of the same snapshot has read and written in another process."""
        self._reader.check()
        self.keys, self.ranges, self._touched = keys, ranges, whole
        self.writes = list(writes)

    def seal(self) -> StoreAccess:
        """What was read and written, for the intent."""
        whole = self._touched and not self.keys and not self.ranges
        # Past the named tuple's own constructor: one for every run and store, at half the price.
        return tuple.__new__(StoreAccess, (self.store, self.keys, self.ranges, whole, tuple(self.writes)))


class ReadOnlyAccess(Access[State]):
    """The access of a snapshot: tracks nothing, refuses writes."""

    __slots__ = ()

    def __init__(self, base: State, fold: Callable[[State, Sequence[Write]], State]) -> None:
        super().__init__(_NoReader(), -1, base, fold)

    def read(self, key: str, version: int | None = None) -> None:
        """Nothing to track."""

    def read_range(self, start: str | None, stop: str | None) -> None:
        """Nothing to track."""

    def write(self, key: str, op: Any) -> NoReturn:
        self.put(Write(key, op))

    def put(self, write: Write) -> NoReturn:
        raise TypeError("a snapshot is read-only: submit a trigger whose handler writes through tx[store]")


class _NoReader:
    __slots__ = ()

    def check(self) -> None:
        """A snapshot never ends."""

    def has_read(self, store: int, key: str | None) -> None:
        """Nothing to track."""


def frozen_json(value: Any, path: str) -> Any:
    """Return a private copy of a JSON value (or bytes); raises TypeError naming the part that is neither."""
    kind = type(value)
    if value is None or kind in (bool, int, str, bytes):
        return value
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"{path} is {value!r}, which JSON cannot hold: use None or a text")
        return value
    if kind in (list, tuple):
        return [frozen_json(part, f"{path}[{i}]") for i, part in enumerate(value)]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{path} has the key {key!r}: JSON keys are strings")
        return {key: frozen_json(part, f"{path}[{key!r}]") for key, part in value.items()}
    raise TypeError(f"{path} is a {kind.__name__}: a write's op must be JSON or bytes")
