"""`Table`: what a row holds, whose version it is at any moment, and what is refused."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from seqtor import (
    HandlerFailed,
    OutsideEdit,
    Record,
    RegistrationError,
    Rejected,
    State,
    Supervisor,
    Table,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.stores.table_rows import Rows, TableTaken
from tests.programs import WAIT_S
from tests.second_writer import require_nothing_lost


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Order(Record):
    """A row with a field of each kind."""

    size: int = 0
    price: float = 0.0
    note: str = ""
    open: bool = True
    raw: bytes = b""
    money: decimal.Decimal = decimal.Decimal(0)
    side: Side = Side.BUY
    at: datetime.datetime | None = None
    limit: int | None = None
    tags: tuple[str, ...] = ()


class Act(Trigger[None]):
    """Does the deed of this number."""

    deed: int


class Desk:
    """A system with a table, on one thread."""

    def __init__(self, path: Path, journal: Any = None, **options: Any) -> None:
        self.path = path
        self.system = Supervisor(journal, dispatchers=lambda _: SimulatedDispatchers(1))
        self.orders = self.system.store("orders", Table(f"sqlite:///{path}", Order, **options))
        self._deeds: list[Callable[[Any], None]] = []

        @self.system.on(Act)
        def act(trigger: Act, tx: Transaction) -> None:
            self._deeds[trigger.deed](tx[self.orders])

    def __enter__(self) -> Self:
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.stop()

    def do(self, deed: Callable[[Any], None]) -> None:
        self._deeds.append(deed)
        self.system.ask(Act(deed=len(self._deeds) - 1), timeout=WAIT_S)

    def put(self, key: str, **fields: Any) -> None:
        self.do(lambda orders: orders.__setitem__(key, Order(**fields)))

    def settle(self) -> None:
        """Let time pass, and everything happen that is ready."""
        for _ in range(5):
            self._deeds.append(lambda orders: None)
            self.system.submit(Act(deed=len(self._deeds) - 1), delay=2).result(WAIT_S)

    @property
    def content(self) -> dict[str, Order]:
        return dict(self.system.snapshot()[self.orders])

    @property
    def edits(self) -> list[tuple[str, Any, State]]:
        runs = reversed(self.system.runs(trigger=OutsideEdit))
        return [(run.trigger.key, run.trigger.content, run.state) for run in runs]  # type: ignore[attr-defined]

    def sql(self, query: str, *values: Any) -> list[Any]:
        """What somebody else does; never through the library's own SQLite, which is another one in this process."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as database:
            return database.execute(query, values).fetchall()


@pytest.fixture
def journal() -> MemoryBackend:
    return MemoryBackend("test")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "desk.db"


FULL = Order(
    size=2**63 - 1, price=0.1 + 0.2, note="Grüße\r\n'", open=False, raw=b"\xff\x00", money=decimal.Decimal("1.10"),
    side=Side.SELL, at=datetime.datetime(2026, 5, 4, 3, 2, 1, 5, tzinfo=datetime.UTC), limit=-7, tags=("a", "b"),
)  # fmt: skip


def test_a_row_holds_its_model_and_comes_back_as_it_is(path: Path, journal: Any) -> None:
    with Desk(path, journal) as desk:
        desk.do(lambda orders: orders.update({"full": FULL, "plain": Order()}))
        desk.put("gone")
        desk.do(lambda orders: orders.__delitem__("gone"))
    row = desk.sql("select size, price, note, open, raw, money, side, `limit`, tags from `order` where key = 'full'")
    assert row == [(2**63 - 1, 0.1 + 0.2, "Grüße\r\n'", 0, b"\xff\x00", '"1.10"', '"sell"', -7, '["a","b"]')]
    assert desk.sql("select key, seqtor_version from `order` order by key") == [("full", 1), ("plain", 1)]
    with Desk(path, MemoryBackend("another")) as other:
        assert other.content == {"full": FULL, "plain": Order()}, "what is there is adopted as it is"
    with Desk(path.with_name("empty.db"), journal) as again:
        assert again.content == {"full": FULL, "plain": Order()}
        assert again.edits == []


def test_fields_may_be_called_anything(path: Path) -> None:
    class Anything(Record):
        old: str = ""
        rows: int = 0
        order: int | None = None

    class Put(Trigger[None]):
        value: str

    system = Supervisor(dispatchers=lambda _: SimulatedDispatchers(1))
    table = system.store("table", Table(f"sqlite:///{path}", Anything, table="select"))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        tx[table]["a"] = Anything(old=trigger.value, rows=tx.seq)

    with system:
        for value in "xyz":
            system.ask(Put(value=value), timeout=WAIT_S)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("select key, old, rows, `order` from `select`").fetchall() == [("a", "z", 3, None)]


@pytest.mark.parametrize(
    ("key", "fields", "why"),
    [
        ("a", {"size": 2**63}, "does not fit into a column: it has 64 bits"),
        ("a", {"limit": -(2**64)}, "does not fit into a column"),
        ("a", {"price": float("inf")}, "does not fit into a column of every database"),
        ("a", {"price": float("nan")}, "does not fit"),
        ("a", {"note": "a\0b"}, "has a NUL in it"),
        ("a\0b", {}, "the key has a NUL in it"),
        ("\udcff", {}, "not valid Unicode"),
    ],
)
def test_what_a_database_would_not_take_is_refused_before_there_is_a_record(
    path: Path, journal: Any, key: str, fields: dict[str, Any], why: str
) -> None:
    with Desk(path, journal) as desk:
        with pytest.raises(HandlerFailed, match=why):
            desk.put(key, **fields)
        assert desk.content == {}
        desk.put("b")
    assert desk.sql("select key from `order`") == [("b",)]


def test_rows_of_others_are_found_with_what_they_have_changed_deleted_and_made(path: Path, journal: Any) -> None:
    with Desk(path, journal) as desk:
        for key in "abc":
            desk.put(key, size=1)
    desk.sql("update `order` set size = 7 where key = 'a'")
    desk.sql("delete from `order` where key = 'b'")
    desk.sql("insert into `order` (key, size, price, note, open, raw, money, side, tags) "
             "values ('d', 9, 1.5, 'theirs', 1, x'ff', '\"2.5\"', '\"buy\"', '[]')")  # fmt: skip
    with Desk(path, journal) as again:
        expected = Order(size=9, price=1.5, note="theirs", raw=b"\xff", money=decimal.Decimal("2.5"))
        assert again.content == {"a": Order(size=7), "c": Order(size=1), "d": expected}
        again.put("d", size=10)
    assert again.sql("select key, size from `order` order by key") == [("a", 7), ("c", 1), ("d", 10)]


def test_a_row_that_was_changed_is_not_overwritten_before_that_has_a_seq(path: Path, journal: Any) -> None:
    with Desk(path, journal) as desk:
        desk.put("a", size=1)
        desk.settle()
        desk.sql("update `order` set size = 7")
        desk.put("a", size=2)
        desk.settle()
        ((key, content, state),) = desk.edits
        assert (key, content["size"], state) == ("a", 7, State.COMMITTED)
        assert desk.content["a"].size == 7
        desk.sql("delete from `order`")
        desk.put("a", size=3)
        desk.settle()
        assert desk.edits[-1] == ("a", None, State.COMMITTED)
        desk.put("a", size=4)
    assert desk.sql("select size from `order`") == [(4,)]


def test_a_second_writer_loses_nothing_while_the_store_writes(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as other:
        require_nothing_lost(f"sqlite:///{path}", other)


def test_a_row_that_does_not_fit_is_refused_and_replaced(path: Path, journal: Any) -> None:
    with Desk(path, journal, invariants=[lambda orders: all(order.size < 100 for order in orders.values())]) as desk:
        desk.put("a", size=1)
        desk.settle()
        for wrong in (
            "update `order` set side = 'nonsense'",
            "update `order` set size = 500",
            "update `order` set size = null",
        ):
            desk.sql(wrong)
            desk.put("b", size=2)
            desk.put("a", size=desk.content["a"].size + 1)
            desk.settle()
            assert desk.edits[-1][2] is State.REJECTED
            size, side = desk.sql("select size, side from `order` where key = 'a'")[0]
            assert (size, side) == (desk.content["a"].size, '"buy"')
    assert len(desk.edits) == 3


def test_rows_are_looked_for_while_it_runs(path: Path, journal: Any) -> None:
    with Desk(path, journal, look_every=0.5) as desk:
        desk.put("a", size=1)
        desk.settle()
        desk.sql("update `order` set size = 7")
        desk.settle()
        assert desk.content["a"].size == 7


def test_a_database_that_is_away_holds_up_its_store_and_nobody_else(tmp_path: Path, journal: Any) -> None:
    path = tmp_path / "later" / "desk.db"
    with Desk(path, journal) as desk:
        desk.put("a", size=1)
        path.parent.mkdir()
        desk.settle()
        assert desk.sql("select key, size from `order`") == [("a", 1)]


def test_a_table_that_another_process_has_taken_over_is_left_alone(path: Path, journal: Any) -> None:
    with Desk(path, journal) as desk:
        desk.put("a", size=1)
        desk.settle()
        with Desk(path, MemoryBackend("other")) as other:
            other.put("a", size=2)
            other.settle()
            desk.put("a", size=3)
            desk.settle()
            assert desk.sql("select size from `order`") == [(2,)]


def test_of_two_that_have_opened_one_table_for_one_journal_the_slower_is_fenced_off(path: Path) -> None:
    """As a process that hung while another one took over its journal."""
    old, new = [Rows(f"sqlite:///{path}", "order", "key", {"size": "int"}) for _ in range(2)]
    old.open("journal")
    old.write({"a": (1, {"size": 1})}, 1, lambda key, there: True)
    assert new.open("journal") == 1
    new.write({"a": (2, {"size": 2})}, 2, lambda key, there: True)
    with pytest.raises(TableTaken, match="is not at seq 1 of this journal any more"):
        old.write({"a": (3, {"size": 3})}, 3, lambda key, there: True)
    assert {key: (row.values["size"], row.version) for key, row in new.read().items()} == {"a": (2, 2)}
    new.write({"a": (4, {"size": 4})}, 4, lambda key, there: True)
    old.close()
    new.close()


def test_a_table_of_another_shape_refuses_the_start(path: Path) -> None:
    desk = Desk(path)
    desk.sql("create table `order` (key text primary key, size bigint)")
    with pytest.raises(RegistrationError, match="there is no column price, note"):
        desk.system.start()


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("desk.db", {}, "takes the URL of a database"),
        (5, {}, "takes the URL of a database"),
        ("sqlite:///x", {"key": "note"}, "has a field 'note'"),
        ("sqlite:///x", {"key": "seqtor_version"}, "the column seqtor_version is the store's own"),
        ("sqlite:///x", {"look_every": 0}, "look_every must be"),
        ("sqlite:///x", {"look_every": True}, "look_every must be"),
        ("sqlite:///x", {"invariants": [5]}, "invariant"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: Any, options: dict[str, Any], why: str) -> None:
    with pytest.raises(RegistrationError, match=why):
        Table(url, Order, **options)


def test_invariants_and_increments_are_those_of_a_collection(path: Path, journal: Any) -> None:
    with Desk(path, journal, invariants=[lambda orders: len(orders) < 2]) as desk:
        desk.do(lambda orders: orders.increment("a", size=5))
        desk.do(lambda orders: orders.increment("a", size=5))
        with pytest.raises(Rejected, match="invariant"):
            desk.put("b")
    assert desk.sql("select key, size from `order`") == [("a", 10)]
