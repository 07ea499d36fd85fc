"""`Table` on a real PostgreSQL server: the suite of stores, and a server that dies."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from seqtor import Record, Supervisor, Table, Transaction, Trigger
from seqtor.actors import StoreSpec
from seqtor.testing import OutsideStoreContract
from tests.programs import WAIT_S
from tests.second_writer import require_nothing_lost
from tests.services.postgres import PostgresServer, base_url, table_url, until, with_option
from tests.unit.test_table import FULL, Order


class Number(Record):
    """A row."""

    number: int = 0


class TestTable(OutsideStoreContract):
    """A table in a schema of its own."""

    @pytest.fixture(autouse=True)
    def _schemas(self, request: pytest.FixtureRequest) -> None:
        self._at_the_end = request.addfinalizer

    def make_place(self) -> str:
        schema = f"seqtor_test_{secrets.token_hex(6)}"
        self._execute("create schema {}", schema)
        self._at_the_end(lambda: self._execute("drop schema {} cascade", schema))
        self._execute("create table {}.number (key text primary key, number bigint)", schema)
        return schema

    def make_spec_at(self, place: str) -> StoreSpec[Any]:
        return Table(with_option(base_url(), f"options=-csearch_path%3D{place}"), Number)

    def found(self, place: str) -> dict[str, int]:
        return dict(self._execute("select key, number from {}.number", place))

    def edit(self, place: str, key: str, value: int | None) -> None:
        if value is None:
            self._execute("delete from {}.number where key = %s", place, key)
        else:
            upsert = "insert into {}.number (key, number) values (%s, %s) on conflict (key) do update set number = %s"
            self._execute(upsert, place, key, value, value)

    @staticmethod
    def _execute(query: str, schema: str, *values: Any) -> list[Any]:
        with psycopg.connect(base_url(), autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(query).format(sql.Identifier(schema)), values)
            return cursor.fetchall() if cursor.description else []

    def read(self, view: Any, key: str) -> int:
        return int(view[key].number)

    def write(self, view: Any, key: str, value: int) -> None:
        view[key] = Number(number=value)

    def read_all(self, view: Any) -> dict[str, int]:
        return {key: value.number for key, value in view.items()}


def test_a_second_writer_loses_nothing_while_the_store_writes(request: pytest.FixtureRequest) -> None:
    url = table_url(request.addfinalizer)
    with psycopg.connect(url, autocommit=True) as other:
        require_nothing_lost(url, other)


def test_rows_that_are_changed_together_keep_every_kind_of_value(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    class Change(Trigger[None]):
        limit: int | None

    url = table_url(request.addfinalizer)
    system = Supervisor(tmp_path / "desk.db", settings={"threads": 2})
    table = system.store("orders", Table(url, Order))
    plain = {"none": Order(), "raw": Order(raw=b"'\\\x00{}", note='{"a", NULL}'), "text": Order(note="NULL")}

    @system.on(Change)
    def change(trigger: Change, tx: Transaction) -> None:
        tx[table]["full"] = FULL.replace(limit=trigger.limit)
        for key, order in plain.items():
            tx[table][key] = order.replace(limit=trigger.limit)

    with system:
        for limit in (1, None, 2**63 - 1, None, 4):
            system.ask(Change(limit=limit), timeout=WAIT_S)
    reader = Supervisor(settings={"threads": 2})
    there = reader.store("orders", Table(url, Order))
    with reader:
        assert dict(reader.snapshot()[there]) == {
            key: order.replace(limit=4) for key, order in {"full": FULL, **plain}.items()
        }


def test_a_server_that_dies_holds_up_its_table_and_nobody_else(server: PostgresServer, tmp_path: Path) -> None:
    class Put(Trigger[None]):
        key: str
        number: int

    system = Supervisor(tmp_path / "desk.db", settings={"threads": 2})
    table = system.store("numbers", Table(server.url, Number))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        tx[table][trigger.key] = Number(number=trigger.number)

    def rows() -> list[Any]:
        with psycopg.connect(server.url) as connection:
            return connection.execute("select key, number from number order by key").fetchall()

    with system:
        system.ask(Put(key="a", number=1), timeout=WAIT_S)
        until(lambda: rows() == [("a", 1)], "the row is there")
        server.kill()
        for number in range(20):
            system.ask(Put(key="b", number=number), timeout=WAIT_S)
        assert system.snapshot()[table]["b"].number == 19, "the runs go on"
        server.start()
        until(lambda: rows() == [("a", 1), ("b", 19)], "what was committed meanwhile is there")
