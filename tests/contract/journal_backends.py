"""The journal backends that the one suite is run on, and rows to fill them with.

A backend is added with one line in `BACKENDS`: a function that takes pytest's request (for its fixtures) and returns how
the journal of this test is reached. Each call of that gives a backend as another program would make it; the one in
memory has nothing to reach it by but the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from seqtor.actors.journal.contract import (
    Backend,
    CheckpointInfo,
    CheckpointPart,
    CommitRow,
    EntryRow,
    Group,
    KeyRow,
    Opened,
)
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.services.postgres import schema_url

__all__ = ["BACKENDS", "PARTS", "checkpoint", "commit", "commits", "content", "entries", "entry", "key", "reopened"]

Reach = Callable[[], Backend]


def memory(request: pytest.FixtureRequest) -> Reach:
    """The one object."""
    backend = MemoryBackend()
    return lambda: backend


def sqlite(request: pytest.FixtureRequest) -> Reach:
    """A file."""
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda: SqliteBackend(folder / "journal.db")


def postgres(request: pytest.FixtureRequest) -> Reach:
    """A schema of a real server."""
    url = schema_url(request.addfinalizer)
    return lambda: PostgresBackend(url)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Reach]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": postgres,
}


PARTS = [
    CheckpointPart("open", b"{}"),
    CheckpointPart("store:book", bytes(range(256)) * 4096),
    CheckpointPart("ß", b""),
]


def commit(seq: int, body: str | None = None) -> CommitRow:
    """A record that says its seq."""
    return CommitRow(seq, f'{{"seq":{seq}}}' if body is None else body, seq.to_bytes(32, "big"))


def commits(first: int, last: int) -> list[CommitRow]:
    """The records of seqs first..last."""
    return [commit(seq) for seq in range(first, last + 1)]


def entry(pos: int, body: str | None = None) -> EntryRow:
    """An entry that says its position."""
    return EntryRow(pos, "accepted", f"run-{pos}", f'{{"pos":{pos}}}' if body is None else body)


def entries(first: int, last: int) -> list[EntryRow]:
    """The entries at positions first..last."""
    return [entry(pos) for pos in range(first, last + 1)]


def key(name: str, seq: int | None = None, run: str = "run-1") -> KeyRow:
    """A key, bound to a run."""
    return KeyRow(name, run, name.encode().ljust(16, b"."), seq)


def checkpoint(backend: Backend, seq: int, parts: Iterable[CheckpointPart], entries_through: int = 0) -> CheckpointInfo:
    """Make a whole checkpoint."""
    kept = list(parts)
    for number, part in enumerate(kept):
        backend.add_checkpoint_part(seq, number, part)
    size = sum(len(part.data) for part in kept)
    info = CheckpointInfo(seq, entries_through, commit(seq).chain, len(kept), size)
    backend.finish_checkpoint(info)
    return info


def content(backend: Backend) -> Group:
    """Read everything; a tuple of each kind, the keys in order."""
    last = 1 << 40
    return Group(tuple(backend.commits(1, last)), tuple(backend.entries(1, last)), tuple(sorted(backend.keys())))


def reopened(backend: Backend, reach: Reach, *, write: bool = True) -> tuple[Backend, Opened]:
    """Close it, and open it as another program would."""
    backend.close()
    other = reach()
    return other, other.open(write=write)
