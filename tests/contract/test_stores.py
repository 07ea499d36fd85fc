"""Every store passes the one suite: the built-in ones, and a user's own on either dispatcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from seqtor import Access, Collection, Document, Record, StoreActor
from seqtor.actors import Checkpoint, Commit, StoreSpec, Write
from tests.contract.store_suite import KEYS, StoreContract

Values = dict[str, int]  # Replaced and never changed, so it is as good as immutable.


class Number(Record):
    """A value of a collection."""

    number: int = 0


class Numbers(Record):
    """A document with a field per key."""

    a: int = 0
    b: int = 0
    c: int = 0


class TestCollection(StoreContract):
    """The collection."""

    def make_spec(self) -> StoreSpec[Any]:
        return Collection(Number, initial={key: Number() for key in KEYS})

    def read(self, view: Any, key: str) -> int:
        return int(view[key].number)

    def write(self, view: Any, key: str, value: int) -> None:
        view[key] = Number(number=value)

    def read_all(self, view: Any) -> Values:
        return {key: value.number for key, value in view.items()}


class TestCollectionWithInvariants(TestCollection):
    """A collection whose commits are judged."""

    def make_spec(self) -> StoreSpec[Any]:
        initial = {key: Number() for key in KEYS}
        return Collection(Number, initial=initial, invariants=[lambda book: len(book) == len(KEYS)])


class TestDocument(StoreContract):
    """The document."""

    def make_spec(self) -> StoreSpec[Any]:
        return Document(Numbers)

    def read(self, view: Any, key: str) -> int:
        return int(getattr(view.fields, key))

    def write(self, view: Any, key: str, value: int) -> None:
        view.update(**{key: value})

    def read_all(self, view: Any) -> Values:
        return dict(view.value)


class TestDocumentWithInvariants(TestDocument):
    """A document whose commits are judged."""

    def make_spec(self) -> StoreSpec[Any]:
        return Document(Numbers, invariants=[lambda numbers: numbers.a > -(10**9)])


class Ledger(StoreActor[Values, "LedgerView"]):
    """A user's own store: integers by key, on the runtime's core."""

    dispatcher: ClassVar[Literal["core", "dedicated"]] = "core"

    def __init__(self, start: int = 0) -> None:
        self._start = start

    def recover(self, checkpoint: Checkpoint | None) -> Values:
        return dict.fromkeys(KEYS, self._start)

    @staticmethod
    def fold(state: Values, writes: Sequence[Write]) -> Values:
        changes = {key: value for key, value in dict(writes).items() if state.get(key) != value}
        return {**state, **changes} if changes else state

    @staticmethod
    def view(access: Access[Values]) -> LedgerView:
        return LedgerView(access)


class LedgerView:
    """Names what it reads."""

    def __init__(self, access: Access[Values]) -> None:
        self._access = access

    def get(self, key: str) -> int:
        self._access.read(key)
        return self._access.state[key]

    def all(self) -> Values:
        self._access.read_range(None, None)
        return dict(self._access.state)

    def set(self, key: str, value: int) -> None:
        self._access.write(key, value)


class LedgerContract(StoreContract):
    """How a ledger is used."""

    store_class: ClassVar[type[StoreActor[Any, Any]]] = Ledger

    def make_spec(self) -> StoreSpec[Any]:
        return self.store_class.spec(start=0)

    def read(self, view: Any, key: str) -> int:
        return int(view.get(key))

    def write(self, view: Any, key: str, value: int) -> None:
        view.set(key, value)

    def read_all(self, view: Any) -> Values:
        return dict(view.all())


class TestLedgerOnTheCore(LedgerContract):
    """A custom store that never blocks."""


class DedicatedLedger(Ledger):
    """The same on a thread of its own."""

    dispatcher = "dedicated"


class TestLedgerOnItsOwnThread(LedgerContract):
    """A custom store with a thread of its own: its folds run off the core."""

    store_class = DedicatedLedger


class UnnamedLedger(Ledger):
    """Its view touches the state and names nothing: each read is a read of the whole store."""

    @staticmethod
    def view(access: Access[Values]) -> Any:
        return UnnamedView(access)


class UnnamedView:
    """Names nothing of what it reads."""

    def __init__(self, access: Access[Values]) -> None:
        self._access = access

    def get(self, key: str) -> int:
        return self._access.state[key]

    def all(self) -> Values:
        return dict(self._access.state)

    def set(self, key: str, value: int) -> None:
        self._access.write(key, value)


class TestLedgerThatNamesNoReads(LedgerContract):
    """A custom store whose view names no reads."""

    names_reads = False
    store_class = UnnamedLedger


class ValidatingLedger(Ledger):
    """Is asked about each commit, and agrees."""

    def validate(self, old: Values, new: Values, commit: Commit) -> None:
        assert self.fold(old, commit.writes) == new


class ValidatingDedicatedLedger(ValidatingLedger):
    """The same on a thread of its own."""

    dispatcher = "dedicated"


class TestLedgerThatValidatesOnTheCore(LedgerContract):
    """A custom store that is asked about each commit."""

    store_class = ValidatingLedger


class TestLedgerThatValidatesOnItsOwnThread(LedgerContract):
    """A custom store that is asked about each commit on a thread of its own."""

    store_class = ValidatingDedicatedLedger


class StumblingLedger(DedicatedLedger):
    """Crashes at the first offer of every commit, and is rebuilt each time."""

    def __init__(self, start: int = 0) -> None:
        super().__init__(start)
        self._crashed = _CRASHED

    def validate(self, old: Values, new: Values, commit: Commit) -> None:
        if commit.seq not in self._crashed:
            self._crashed.add(commit.seq)
            raise ConnectionError(f"stumbled over {commit.seq}")
        self._crashed.discard(commit.seq)


_CRASHED: set[int] = set()


class TestLedgerThatCrashesOnceAtEachCommit(LedgerContract):
    """A custom store that crashes all the time still keeps every promise."""

    store_class = StumblingLedger
