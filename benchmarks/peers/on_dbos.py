"""DBOS on SQLite: a workflow per addition, with one transaction as its step; its counters beside its system tables.

Its source, `SQLiteSystemDatabase`: it sets no journal mode, so as shipped SQLite keeps a rollback journal, and the five
commits of a workflow sync twenty times. A program may give the file a write-ahead log beforehand: then they sync five
times, and that is measured too. Both with SQLite's own `synchronous`, which is FULL (`OnDbos` makes sure).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource

from benchmarks.keys import KEYS
from benchmarks.peers.contest import Contest

FILE = "dbos.sqlite"
SYNCHRONOUS_FULL = 2
TURNS, BURST = 60, 60  # At some 10 ms each.
SELECT = sa.text("SELECT value FROM cells WHERE key = :key")
UPDATE = sa.text("UPDATE cells SET value = :value WHERE key = :key")


class OnDbos:
    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / FILE}"
        DBOS(config={"name": "seqtor-peers", "system_database_url": url, "log_level": "ERROR"})
        datasource = SQLAlchemyDatasource.create(url)
        with datasource.engine.connect() as connection:
            synchronous = connection.execute(sa.text("PRAGMA synchronous")).scalar_one()
        if synchronous != SYNCHRONOUS_FULL:
            raise AssertionError(f"DBOS would not be durable: synchronous={synchronous}")

        @datasource.transaction
        def add(key: str) -> int:
            session = datasource.sql_session()
            value = int(session.execute(SELECT, {"key": key}).scalar_one()) + 1
            session.execute(UPDATE, {"key": key, "value": value})
            return value

        @DBOS.workflow()
        def bump(key: str) -> int:
            return int(add(key))

        self._bump = bump
        DBOS.launch()

    def bump(self, key: str) -> int:
        return int(self._bump(key))

    def burst(self, keys: Sequence[str]) -> list[int]:
        """Start all workflows, then wait for each. No key twice: then their order is of no matter."""
        return [handle.get_result() for handle in [DBOS.start_workflow(self._bump, key) for key in keys]]


@contextmanager
def opened(folder: Path, *, mode: str) -> Iterator[OnDbos]:
    with closing(sqlite3.connect(folder / FILE)) as database, database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE cells (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
        database.executemany("INSERT INTO cells VALUES (?, 0)", [(key,) for key in KEYS])
    yield OnDbos(folder)
    DBOS.destroy()


def counters(folder: Path, *, mode: str) -> Mapping[str, int]:
    with closing(sqlite3.connect(folder / FILE)) as database:
        ((found,),) = database.execute("PRAGMA journal_mode")
        if found != mode:
            raise AssertionError(f"the journal mode of DBOS was meant to be {mode}, it was {found}")
        return dict(database.execute("SELECT key, value FROM cells"))


def _contest(mode: str) -> Contest:
    return Contest(
        package="dbos",
        opened=partial(opened, mode=mode),
        counters=partial(counters, mode=mode),
        turns=TURNS,
        burst=BURST,
    )


AS_SHIPPED = _contest("delete")
WITH_WAL = _contest("wal")
