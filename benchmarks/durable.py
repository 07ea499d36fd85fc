"""W2, W2pg and W4d: the same read-modify-write, durable, in a burst (SQLite, PostgreSQL) and one by one (SQLite).

Owns the bare `apsw` loop that W4d is held against: the same bytes, one row and one commit at a time.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from benchmarks.measure import burst, interleave, median, turns
from benchmarks.outcome import Outcome
from benchmarks.tiny import record_system, require_serial, skeleton_bursts
from benchmarks.workload import BURST, TURNS, WARM_UP, Bump, keys_in_turn

__all__ = ["scratch_folder", "w2", "w2_pg", "w4d"]

BODY_BYTES = 480  # The mean length of a record of `Bump`; `w4d` checks it.


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on the disk of the working directory: elsewhere may be memory."""
    with tempfile.TemporaryDirectory(prefix="seqtor-bench-", dir=Path.cwd()) as folder:
        yield Path(folder)


def w2() -> Outcome:
    """W1 with a journal on disk; `share_of_w1` is the part of the in-memory figure that it reaches."""
    keys = keys_in_turn()
    in_memory: list[float] = []
    with scratch_folder() as folder:
        names = (folder / f"{number}.db" for number in itertools.count())

        def measure() -> float:
            in_memory.append(_burst_on(None, keys, "W2, in memory"))
            return _burst_on(next(names), keys, "W2")

        yardsticks, values = interleave("W2", skeleton_bursts(), measure)
    return Outcome.of_rounds(yardsticks, values, share_of_w1=median(values) / median(in_memory), w1=median(in_memory))


def w2_pg() -> Outcome:
    """W1 with a journal in PostgreSQL; `share_of_sqlite` is the part of the figure on SQLite that it reaches."""
    from benchmarks.postgres import journal_url

    keys = keys_in_turn()
    on_sqlite: list[float] = []
    with scratch_folder() as folder:
        names = (folder / f"{number}.db" for number in itertools.count())

        def measure() -> float:
            on_sqlite.append(_burst_on(next(names), keys, "W2pg, on SQLite"))
            with journal_url() as url:
                return _burst_on(url, keys, "W2pg")

        yardsticks, values = interleave("W2pg", skeleton_bursts(), measure)
    return Outcome.of_rounds(
        yardsticks, values, share_of_sqlite=median(values) / median(on_sqlite), sqlite=median(on_sqlite)
    )


def _burst_on(journal: Path | str | None, keys: Sequence[str], title: str) -> float:
    triggers = [Bump(key=key) for key in keys]
    with record_system(journal) as system:
        burst(system.submit_many, triggers[:WARM_UP])
        elapsed_s, answers = burst(system.submit_many, triggers)
    require_serial(answers, keys, title)
    return BURST / elapsed_s


def w4d() -> Outcome:
    """Submit, wait until it is durable, repeat; against a bare insert-and-commit of as many bytes."""
    keys = keys_in_turn()
    triggers = [Bump(key=key) for key in keys[:TURNS]]
    with scratch_folder() as folder:
        numbers = itertools.count()

        def yardstick() -> float:
            database = apsw.Connection(str(folder / f"bare-{next(numbers)}.db"))
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "locking_mode=EXCLUSIVE"):
                database.execute(f"PRAGMA {pragma}")
            database.execute("CREATE TABLE commits (seq INTEGER PRIMARY KEY, body TEXT, chain BLOB)")
            body, chain = "x" * BODY_BYTES, bytes(32)
            elapsed_s = []
            for seq in range(TURNS):
                start = time.perf_counter()
                with database:
                    database.execute("INSERT INTO commits VALUES (?, ?, ?)", (seq, body, chain))
                elapsed_s.append(time.perf_counter() - start)
            database.close()
            return median(elapsed_s) * 1e6

        def measure() -> float:
            path = folder / f"{next(numbers)}.db"
            with record_system(path) as system:
                burst(system.submit_many, triggers[:WARM_UP])
                value = median(turns(system.submit, triggers)) * 1e6
            _require_bytes(path)
            return value

        return Outcome.of_rounds(*interleave("W4d", yardstick, measure))


def _require_bytes(path: Path) -> None:
    """Raise AssertionError if the records are not about as long as the rows of the yardstick."""
    database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    (mean,) = next(iter(database.execute("SELECT avg(length(body)) FROM commits")))
    database.close()
    if not 0.9 * BODY_BYTES <= mean <= 1.1 * BODY_BYTES:
        raise AssertionError(f"records are {mean:.0f} bytes long on average, the yardstick writes {BODY_BYTES}")
