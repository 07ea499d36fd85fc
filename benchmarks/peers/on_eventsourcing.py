"""eventsourcing: an aggregate per key in its SQLite recorder; one event, and one transaction, per addition.

Its source, `SQLiteConnectionPool`: WAL, and SQLite's own `synchronous`, which is FULL (`opened` makes sure). Aggregates
are cached and not looked for in the database again, as a program that alone writes them would set it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.keys import KEYS
from benchmarks.peers.contest import Contest, batches

FILE = "events.db"
SYNCHRONOUS_FULL = 2
IDS = {key: uuid5(NAMESPACE_URL, f"/cells/{key}") for key in KEYS}


class Cell(Aggregate):
    def __init__(self, key: str) -> None:
        self.key = key
        self.value = 0

    @staticmethod
    def create_id(key: str) -> UUID:
        return IDS[key]

    @event("Bumped")
    def bump(self) -> None:
        self.value += 1


class OnEventsourcing:
    def __init__(self, application: Any) -> None:
        self._application = application

    def _added(self, key: str) -> Any:
        cell = self._application.repository.get(IDS[key])
        cell.bump()
        return cell

    def bump(self, key: str) -> int:
        cell = self._added(key)
        self._application.save(cell)
        return int(cell.value)

    def burst(self, keys: Sequence[str]) -> list[int]:
        answers: list[int] = []
        for batch in batches(keys):  # No key twice in one: `keys_in_turn`.
            cells = [self._added(key) for key in batch]
            self._application.save(*cells)
            answers += [cell.value for cell in cells]
        return answers


def _application(folder: Path) -> Any:
    return Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(folder / FILE),
            "AGGREGATE_CACHE_MAXSIZE": str(len(KEYS)),
            "AGGREGATE_CACHE_FASTFORWARD": "n",
        }
    )


@contextmanager
def opened(folder: Path) -> Iterator[OnEventsourcing]:
    application = _application(folder)
    with application.recorder.datastore.transaction(commit=False) as cursor:
        cursor.execute("PRAGMA synchronous")
        (synchronous,) = cursor.fetchone()
        cursor.execute("PRAGMA journal_mode")
        (mode,) = cursor.fetchone()
    if (synchronous, mode) != (SYNCHRONOUS_FULL, "wal"):
        raise AssertionError(f"eventsourcing would not be durable: synchronous={synchronous}, journal_mode={mode}")
    application.save(*(Cell(key) for key in KEYS))
    yield OnEventsourcing(application)
    application.close()


def counters(folder: Path) -> Mapping[str, int]:
    application = _application(folder)
    found = {key: int(application.repository.get(IDS[key]).value) for key in KEYS}
    application.close()
    return found


CONTEST = Contest(package="eventsourcing", opened=opened, counters=counters)
