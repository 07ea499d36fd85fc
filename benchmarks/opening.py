"""OPEN1M and OPEN200k: seconds of `system.start()` on a journal with many commits, with and without a checkpoint.

Owns the journals: made by the runtime itself, with the bursts of W1. Each opening happens in a fresh process (`python
-m benchmarks.opening JOURNAL [kept]`), as that of a program does, with the file in the system's cache, and is checked:
each of the 1,000 counters must be what was committed.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import apsw

from benchmarks.durable import scratch_folder
from benchmarks.measure import ROUNDS, burst, interleave, median, progress
from benchmarks.outcome import Outcome
from benchmarks.tiny import record_system
from benchmarks.workload import BURST, KEYS, Bump, Cell, keys_in_turn
from seqtor import Collection, Supervisor
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart
from seqtor.actors.journal.sqlite import SqliteBackend

__all__ = ["open_1m", "open_200k"]

KEPT = "kept"


class Forgetful(SqliteBackend):
    """A journal that keeps no checkpoint of a seq from `seq_forgotten` on: as if the process had been killed."""

    def __init__(self, path: Path, seq_forgotten: int) -> None:
        super().__init__(path)
        self._seq_forgotten = seq_forgotten

    def add_checkpoint_part(self, seq: int, number: int, part: CheckpointPart) -> None:
        if seq < self._seq_forgotten:
            super().add_checkpoint_part(seq, number, part)

    def finish_checkpoint(self, info: CheckpointInfo) -> None:
        if info.seq < self._seq_forgotten:
            super().finish_checkpoint(info)


def open_1m() -> Outcome:
    """1,000,000 commits, the checkpoint of an ordered stop; `after_kill_s` is with the last one made on the way."""
    commits = 1_000_000
    with scratch_folder() as folder:
        journal = folder / "1m.db"
        _prepare(Forgetful(journal, commits), journal, commits)
        (behind,) = _rows(journal, f"SELECT {commits} - max(seq) FROM checkpoints")[0]
        after_kill_s = median([_open(journal, commits) for _ in range(ROUNDS)])
        _open(journal, commits, KEPT)
        yardsticks, values = interleave("OPEN1M", lambda: _read(journal, commits), lambda: _open(journal, commits))
    return Outcome.of_rounds(yardsticks, values, after_kill_s=after_kill_s, commits_behind_checkpoint=behind)


def open_200k() -> Outcome:
    """200,000 commits, and no checkpoint but that of the first start."""
    commits = 200_000
    with scratch_folder() as folder:
        journal = folder / "200k.db"
        _prepare(Forgetful(journal, 1), journal, commits)
        return Outcome.of_rounds(
            *interleave("OPEN200k", lambda: _read(journal, commits), lambda: _open(journal, commits))
        )


def _prepare(backend: SqliteBackend, journal: Path, commits: int) -> None:
    triggers = [Bump(key=key) for key in keys_in_turn()]
    start = time.perf_counter()
    with record_system(backend) as system:
        for number in range(1, commits // BURST + 1):
            burst(system.submit_many, triggers)
            progress(f"{journal.name}: {number * BURST:,} commits after {time.perf_counter() - start:.0f} s")


def _read(journal: Path, commits: int) -> float:
    """The yardstick: seconds of a bare loop over all rows that holds each against the hash chain."""
    gc.collect()
    start = time.perf_counter()
    database = apsw.Connection(str(journal), flags=apsw.SQLITE_OPEN_READONLY)
    chain, count = bytes(32), 0
    for body, kept in database.execute("SELECT body, chain FROM commits ORDER BY seq"):
        chain = sha256(chain + body.encode()).digest()
        if chain != kept:
            raise AssertionError(f"{journal.name}: the chain is broken after {count} commits")
        count += 1
    database.close()
    if count != commits:
        raise AssertionError(f"{journal.name} holds {count} commits, expected {commits}")
    return time.perf_counter() - start


def _rows(journal: Path, query: str) -> list[tuple[int, ...]]:
    database = apsw.Connection(str(journal), flags=apsw.SQLITE_OPEN_READONLY)
    rows = list(database.execute(query))
    database.close()
    return rows


def _open(journal: Path, commits: int, *kept: str) -> float:
    command = [sys.executable, "-m", __name__, str(journal), str(commits), *kept]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _main(journal: Path, commits: int, *, keeps: bool) -> None:
    """Print the seconds of the start; with `keeps` the stop leaves a checkpoint, else the journal stays as it is."""
    system = Supervisor(SqliteBackend(journal) if keeps else Forgetful(journal, 1))
    cells = system.store("cells", Collection(Cell))
    gc.collect()
    start = time.perf_counter()
    with system:
        elapsed_s = time.perf_counter() - start
        found = system.snapshot()[cells]
        wrong = [key for key in KEYS if found[key].value != commits // len(KEYS)]
    if wrong:
        raise AssertionError(f"{journal.name}: {len(wrong)} counters are not {commits // len(KEYS)}: {wrong[:3]}")
    print(elapsed_s)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), keeps=sys.argv[3:] == [KEPT])
