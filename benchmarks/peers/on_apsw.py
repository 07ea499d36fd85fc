"""Bare SQLite: one row per key, WAL, `synchronous=FULL`, as seqtor's journal sets it; one transaction per addition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from benchmarks.keys import KEYS
from benchmarks.peers.contest import Contest, batches

FILE = "cells.db"


class OnApsw:
    def __init__(self, folder: Path) -> None:
        self.database = apsw.Connection(str(folder / FILE))
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "locking_mode=EXCLUSIVE"):
            self.database.execute(f"PRAGMA {pragma}")
        self.database.execute("CREATE TABLE cells (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
        with self.database:
            self.database.executemany("INSERT INTO cells VALUES (?, 0)", [(key,) for key in KEYS])

    def _add(self, key: str) -> int:
        ((value,),) = self.database.execute("SELECT value FROM cells WHERE key = ?", (key,))
        self.database.execute("UPDATE cells SET value = ? WHERE key = ?", (value + 1, key))
        return int(value) + 1

    def bump(self, key: str) -> int:
        return self.burst([key])[0]

    def burst(self, keys: Sequence[str]) -> list[int]:
        answers: list[int] = []
        for batch in batches(keys):
            with self.database:
                answers += [self._add(key) for key in batch]
        return answers


@contextmanager
def opened(folder: Path) -> Iterator[OnApsw]:
    contender = OnApsw(folder)
    yield contender
    contender.database.close()


def counters(folder: Path) -> Mapping[str, int]:
    database = apsw.Connection(str(folder / FILE), flags=apsw.SQLITE_OPEN_READONLY)
    found = dict(database.execute("SELECT key, value FROM cells"))
    database.close()
    return found


CONTEST = Contest(package="apsw", opened=opened, counters=counters)
