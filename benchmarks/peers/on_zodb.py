"""ZODB: a `FileStorage` with an `OOBTree` of one persistent object per key; one transaction per addition.

Its source, `FileStorage._finish_finish`: every commit ends with a flush and an fsync; nothing turns that off. The cache
is made large enough for all keys, which the default (400 objects) is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transaction
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from ZODB import DB
from ZODB.FileStorage import FileStorage

from benchmarks.keys import KEYS
from benchmarks.peers.contest import Contest, batches

FILE = "Data.fs"
CACHE_OBJECTS = 10_000


class Cell(Persistent):
    def __init__(self) -> None:
        self.value = 0


class OnZodb:
    def __init__(self, cells: Any) -> None:
        self._cells = cells

    def _add(self, key: str) -> int:
        cell = self._cells[key]
        cell.value += 1
        return int(cell.value)

    def bump(self, key: str) -> int:
        value = self._add(key)
        transaction.commit()
        return value

    def burst(self, keys: Sequence[str]) -> list[int]:
        answers: list[int] = []
        for batch in batches(keys):
            answers += [self._add(key) for key in batch]
            transaction.commit()
        return answers


@contextmanager
def opened(folder: Path) -> Iterator[OnZodb]:
    database = DB(FileStorage(str(folder / FILE)), cache_size=CACHE_OBJECTS)
    root = database.open().root()
    root["cells"] = cells = OOBTree()
    for key in KEYS:
        cells[key] = Cell()
    transaction.commit()
    yield OnZodb(cells)
    database.close()


def counters(folder: Path) -> Mapping[str, int]:
    database = DB(FileStorage(str(folder / FILE), read_only=True))
    found = {key: cell.value for key, cell in database.open().root()["cells"].items()}
    database.close()
    return found


CONTEST = Contest(package="ZODB", opened=opened, counters=counters)
