"""seqtor with a journal in SQLite, as W4d and W2 measure it: a run per addition, each in the journal with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.keys import KEYS
from benchmarks.peers.contest import Contest
from benchmarks.tiny import record_system
from benchmarks.workload import Bump, Cell
from seqtor import Collection, Supervisor

FILE = "journal.db"


class OnSeqtor:
    def __init__(self, system: Supervisor) -> None:
        self._system = system

    def bump(self, key: str) -> int:
        return self._system.submit(Bump(key=key)).result()

    def burst(self, keys: Sequence[str]) -> list[int]:
        return [submission.result() for submission in self._system.submit_many([Bump(key=key) for key in keys])]


@contextmanager
def opened(folder: Path) -> Iterator[OnSeqtor]:
    with record_system(folder / FILE) as system:
        yield OnSeqtor(system)


def counters(folder: Path) -> Mapping[str, int]:
    system = Supervisor(folder / FILE)
    cells = system.store("cells", Collection(Cell))
    with system:
        found = system.snapshot()[cells]
        return {key: found[key].value for key in KEYS}


CONTEST = Contest(package="seqtor", opened=opened, counters=counters)
