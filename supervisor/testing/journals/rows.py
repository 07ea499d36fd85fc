"""Rows to fill a journal with, and what the parts of the suite have in common: how a journal is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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

__all__ = ["PARTS", "JournalSuite", "Reach", "checkpoint", "commit", "commits", "content", "entries", "entry", "key",
           "reopened"]  # fmt: skip

Reach = Callable[[], Backend]
"""How a journal is reached: each call gives a backend as another program would make it."""


class JournalSuite:
    """What the tests of a part take: override `reach`."""

    @pytest.fixture
    def reach(self) -> Reach:
        """How to reach this test's journal; there is none yet."""
        raise NotImplementedError(
            "override the fixture reach: it returns a function that makes a backend of the test's journal"
        )

    @pytest.fixture
    def backend(self, reach: Reach) -> Iterator[Backend]:
        """A new journal, open for writing."""
        backend = reach()
        backend.open()
        yield backend
        backend.close()


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
