"""FILES, FILES1, TABLEpg: stores that write outside, against bare loops that write as much, as durably, one by one.

Owns the bare loops. Promises: a round ends when everything is outside, not when it is answered; both sides write as many
bytes to as many files, or rows, of one folder, or table, which were there before; what is there then is looked at.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from benchmarks.durable import scratch_folder
from benchmarks.measure import burst, interleave, turns
from benchmarks.outcome import Outcome
from seqtor import Files, Record, Supervisor, Table, Transaction, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["files", "files_one_by_one", "table_pg"]

FILES, TURNS, FILE_BYTES = 2_000, 500, 4_096
ROWS = 5_000
NAME = "numbers"
PAUSE_S = 0.0002


class Save(Trigger[None]):
    """Writes a file."""

    key: str
    text: str


class Number(Record):
    """A row."""

    number: int = 0
    text: str = ""


class Put(Trigger[None]):
    """Writes a row."""

    key: str
    number: int


def files() -> Outcome:
    """Microseconds per file of a burst until all are in the folder; against write, fsync, rename, fsync of the folder."""
    return _files("FILES", FILES, lambda system, saves: burst(system.submit_many, saves)[0])


def files_one_by_one() -> Outcome:
    """The same, each submitted when the one before has been answered."""
    return _files("FILES1", TURNS, lambda system, saves: sum(turns(system.submit, saves)))


def _files(title: str, count: int, save_all: Callable[[Supervisor, Sequence[Save]], float]) -> Outcome:
    rounds = itertools.count(1)
    keys = [f"{number:05}.txt" for number in range(count)]
    with scratch_folder() as scratch:
        bare, folder = scratch / "bare", scratch / "files"
        for place in (bare, folder):
            place.mkdir()
            for key in keys:
                (place / key).write_text(_text(0))
        system = Supervisor(scratch / "desk.db")
        store = system.store(NAME, Files(folder, look_every=None))

        @system.on(Save)
        def save(trigger: Save, tx: Transaction) -> None:
            tx[store][trigger.key] = trigger.text

        def yardstick() -> float:
            content = _text(next(rounds)).encode()
            start = time.perf_counter()
            for key in keys:
                _replace(bare, key, content)
            return (time.perf_counter() - start) / count * 1e6

        def measure() -> float:
            text = _text(next(rounds))
            saves = [Save(key=key, text=text) for key in keys]
            start = time.perf_counter()
            save_all(system, saves)
            _await_outside(system)
            elapsed_s = time.perf_counter() - start
            if any((folder / key).read_text() != text for key in keys):
                raise AssertionError(f"{title}: not every file is what was written last")
            return elapsed_s / count * 1e6

        with system:
            _await_outside(system)
            yardsticks, values = interleave(title, yardstick, measure)
    return Outcome.of_rounds(yardsticks, values, files=count, file_bytes=FILE_BYTES)


def table_pg() -> Outcome:
    """Rows per second of a burst until all are in the table; against a psycopg update and commit for each row."""
    from benchmarks.postgres import journal_url

    rounds = itertools.count(1)
    keys = [f"{number:05}" for number in range(ROWS)]
    with scratch_folder() as scratch, journal_url() as url, _bare_table(url, keys) as connection:
        system = Supervisor(scratch / "desk.db")
        store = system.store(NAME, Table(_with_search_path(url), Number))

        @system.on(Put)
        def put(trigger: Put, tx: Transaction) -> None:
            tx[store][trigger.key] = Number(number=trigger.number, text="x" * 80)

        def yardstick() -> float:
            number = next(rounds)
            start = time.perf_counter()
            for key in keys:
                connection.execute("update bare set number = %s, text = %s where key = %s", (number, "x" * 80, key))
                connection.commit()
            return ROWS / (time.perf_counter() - start)

        def measure() -> float:
            number = next(rounds)
            puts = [Put(key=key, number=number) for key in keys]
            start = time.perf_counter()
            burst(system.submit_many, puts)
            _await_outside(system)
            elapsed_s = time.perf_counter() - start
            written = connection.execute("select count(*) from number where number = %s", (number,)).fetchone()
            connection.commit()
            if written != (ROWS,):
                raise AssertionError(f"TABLEpg: {written} rows are what was written last, not {ROWS}")
            return ROWS / elapsed_s

        with system:
            burst(system.submit_many, [Put(key=key, number=0) for key in keys])
            _await_outside(system)
            yardsticks, values = interleave("TABLEpg", yardstick, measure)
    return Outcome.of_rounds(yardsticks, values, rows=ROWS)


@contextmanager
def _bare_table(url: str, keys: Sequence[str]) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a table with all rows and the columns of the store's."""
    with psycopg.connect(_with_search_path(url)) as connection:
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(_schema(url))))
        connection.execute("create table bare (key text primary key, number bigint, text text)")
        connection.cursor().executemany("insert into bare values (%s, 0, %s)", [(key, "x" * 80) for key in keys])
        connection.execute("set synchronous_commit = on")
        connection.commit()
        yield connection


def _schema(url: str) -> str:
    return url.rpartition("schema=")[2]


def _with_search_path(url: str) -> str:
    """The same place for programs that do not know `schema=`."""
    return f"{url.rpartition('schema=')[0]}options=-csearch_path%3D{_schema(url)}"


def _replace(folder: Path, key: str, content: bytes) -> None:
    """As one does it by hand: a new file, synced, takes the old one's place, and the folder is synced."""
    beside = folder / f".{key}.new"
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(folder / key)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _await_outside(system: Supervisor) -> None:
    """Wait until everything that is durable is outside."""
    running = system._running
    assert running is not None
    pause, seq = threading.Event(), system.stats().durable_through
    while running.outside._outsides[NAME].through < seq:
        pause.wait(PAUSE_S)


def _text(number: int) -> str:
    return f"{number:015}\n" * (FILE_BYTES // 16)
