"""Every store passes the one suite: the built-in ones, and a user's own on either dispatcher."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import pytest

from seqtor import (
    Access,
    Collection,
    Derived,
    Document,
    Files,
    Record,
    SourceChange,
    StoreActor,
    StoreRef,
    Supervisor,
    Table,
)
from seqtor.actors import Checkpoint, Commit, StoreSpec, Write
from seqtor.testing import OutsideStoreContract, StoreContract
from seqtor.testing.stores import KEYS
from tests.outside_programs import Box, Mirror

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


class Both(NamedTuple):
    """A derived store as a deed has it: it reads one and writes the other."""

    derived: Any
    source: Any


def numbers_of(book: Mapping[str, Number]) -> Numbers:
    """All of them."""
    return Numbers(**{key: value.number for key, value in book.items()})


def numbers_after(numbers: Numbers, changes: Sequence[SourceChange]) -> Numbers:
    """Those that have changed."""
    return numbers.replace(**{change.key: change.new.number for change in changes})


class TestDerived(StoreContract):
    """A derived store, which is written through its source."""

    follows = True

    def make_spec_in(self, system: Supervisor) -> StoreSpec[Any]:
        self._source = system.store("source", Collection(Number, initial={key: Number() for key in KEYS}))
        return self.make_derived()

    def make_derived(self) -> StoreSpec[Any]:
        """The recipe, when the source is there."""
        return Derived(Numbers, [self._source], rebuild=numbers_of, reconcile=None)

    def look(self, reader: Any, store: StoreRef[Any]) -> Both:
        return Both(reader[store], reader[self._source])

    def read(self, view: Both, key: str) -> int:
        return int(getattr(view.derived.fields, key))

    def write(self, view: Both, key: str, value: int) -> None:
        view.source[key] = Number(number=value)

    def read_all(self, view: Both) -> Values:
        return dict(view.derived.value)


class TestDerivedByFolding(TestDerived):
    """A derived store that gets only what a commit changes."""

    def make_derived(self) -> StoreSpec[Any]:
        return Derived(Numbers, [self._source], rebuild=numbers_of, fold=numbers_after, reconcile=None)


class TestDerivedWithAFile(TestDerivedByFolding):
    """A derived store that keeps a file, so it has a thread of its own."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self._path = tmp_path / "numbers.json"

    def make_derived(self) -> StoreSpec[Any]:
        return Derived(
            Numbers, [self._source], rebuild=numbers_of, fold=numbers_after, reconcile=None, export=self._path
        )


class TestMirror(OutsideStoreContract):
    """A user's own store that writes outside."""

    def make_place(self) -> Box:
        return Box()

    def make_spec_at(self, place: Box) -> StoreSpec[Any]:
        return Mirror.spec(place)

    def found(self, place: Box) -> Values:
        return dict(place.values)

    def edit(self, place: Box, key: str, value: int | None) -> None:
        place.edit(key, value)

    def read(self, view: Any, key: str) -> int:
        return int(view.get(key))

    def write(self, view: Any, key: str, value: int) -> None:
        view.put(key, value)

    def read_all(self, view: Any) -> Values:
        return dict(view.all())


class TestFiles(OutsideStoreContract):
    """A folder."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self._path, self._places = tmp_path, 0

    def make_place(self) -> Path:
        self._places += 1
        place = self._path / str(self._places)
        place.mkdir()
        return place

    def make_spec_at(self, place: Path) -> StoreSpec[Any]:
        return Files(place, look_every=None)

    def found(self, place: Path) -> Values:
        return {each.name: int(each.read_text()) for each in place.iterdir() if each.is_file()}

    def edit(self, place: Path, key: str, value: int | None) -> None:
        if value is None:
            (place / key).unlink()
        else:
            (place / key).write_text(str(value))

    def read(self, view: Any, key: str) -> int:
        return int(view[key])

    def write(self, view: Any, key: str, value: int) -> None:
        view[key] = str(value)

    def read_all(self, view: Any) -> Values:
        return {key: int(value) for key, value in view.items()}


class TestTable(OutsideStoreContract):
    """A table of a SQLite database."""

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path) -> None:
        self._path, self._places = tmp_path, 0

    def make_place(self) -> str:
        self._places += 1
        path = self._path / f"{self._places}.db"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("create table number (key text primary key, number bigint)")
        return str(path)

    def make_spec_at(self, place: str) -> StoreSpec[Any]:
        return Table(f"sqlite:///{place}", Number)

    def found(self, place: str) -> Values:
        with contextlib.closing(sqlite3.connect(place, timeout=10, isolation_level=None)) as database:
            return dict(database.execute("select key, number from number"))

    def edit(self, place: str, key: str, value: int | None) -> None:
        with contextlib.closing(sqlite3.connect(place, timeout=10, isolation_level=None)) as database:
            if value is None:
                database.execute("delete from number where key = ?", (key,))
            else:
                database.execute(
                    "insert into number (key, number) values (?, ?) on conflict (key) do update set number = ?",
                    (key, value, value),
                )

    def read(self, view: Any, key: str) -> int:
        return int(view[key].number)

    def write(self, view: Any, key: str, value: int) -> None:
        view[key] = Number(number=value)

    def read_all(self, view: Any) -> Values:
        return {key: value.number for key, value in view.items()}
