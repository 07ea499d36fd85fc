"""Reads everything that a journal holds and says what is damaged first.

Owns the order of the checks and what is held against what. Promises: nothing is changed; whatever is wrong is a value with
its place, never an exception of a parser; what is intact before it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pydantic_core import from_json

from seqtor.actors.journal.chain import Links, checked_rows
from seqtor.actors.journal.contents import Contents
from seqtor.actors.journal.contract import Backend, CheckpointInfo, Opened
from seqtor.actors.journal.history import chain_from
from seqtor.actors.journal.recovery import commit_record, entry_record, links_of, open_work, read_sections
from seqtor.messages.errors import JournalCorrupted
from seqtor.messages.records import SequencedRecord

__all__ = ["Damage", "Findings", "check_journal"]

EVERY = 1000


class Damage(NamedTuple):
    """Something that is not as it was written: its place, what is wrong, and the seq, if it belongs to one."""

    place: str
    message: str
    seq: int | None


class Findings(NamedTuple):
    """What is in a journal. `intact_through` is the last seq before which, and with which, all commits are intact.

    `ahead` is how many commits are there behind `commits_through`: they have overtaken a seq that has not ended.
    """

    commits_from: int
    commits_through: int
    intact_through: int
    entries: int
    keys: int
    checkpoints: tuple[int, ...]
    ahead: int
    damage: tuple[Damage, ...]


class Check:
    """One reading of a journal that is open for reading."""

    def __init__(self, backend: Backend, opened: Opened, progress: Callable[[int, int], None] | None) -> None:
        self._backend = backend
        self._opened = opened
        self._progress = progress
        self._damage: list[Damage] = []
        self._contents: Contents | None = None
        self.intact_through = opened.commits_from - 1
        self.entries = self.keys = 0
        self._bound: set[int] = (
            set()
        )  # The seqs of which is known which run they belong to, though they have not ended.

    def findings(self) -> Findings:
        opened = self._opened
        with self._noting("commits"):
            self._commits()
        with self._noting("entries"):
            for row in self._backend.entries(opened.entries_from, opened.entries_through):
                record = entry_record(row, self._backend.place)
                if isinstance(record, SequencedRecord):
                    self._bound.add(record.seq)
                self.entries += 1
            self._require_bound()
        with self._noting("idempotency keys"):
            keys = self._backend.keys()
            for key in keys:
                self.keys += 1
                if key.seq is not None and not opened.reached.has(key.seq):
                    raise JournalCorrupted(
                        f"{self._backend.place}: the idempotency key {key.key!r} ended at seq {key.seq}, and the commits "
                        f"end at {opened.commits_last}"
                    )
        checkpoints = tuple(info.seq for info in opened.checkpoints)
        return Findings(
            opened.commits_from, opened.commits_through, self.intact_through, self.entries, self.keys, checkpoints,
            opened.reached.total - opened.commits_through, tuple(self._damage),
        )  # fmt: skip

    def _commits(self) -> None:
        """The chain, the records, and each checkpoint when the commits have come to it."""
        backend, opened = self._backend, self._opened
        first, last = opened.commits_from, opened.commits_last
        checkpoints = {info.seq: info for info in opened.checkpoints}
        for info in opened.checkpoints:  # Of those whose commits are gone only what is in them can be read.
            if info.seq < first:
                self._contents = None
                self._checkpoint(info)
                if info.seq < first - 1:
                    self._contents = None
        chain = chain_from(backend, opened)
        for row in checked_rows(backend, first, last, chain, opened.gaps):
            commit_record(row, backend.place)
            if row.seq <= opened.commits_through:
                if self._contents is not None:
                    self._contents.fold(from_json(row.body))
                self.intact_through = row.seq
            if row.seq in checkpoints:
                self._checkpoint(checkpoints[row.seq], row.chain, chain.links if chain.knows_all else None)
            if self._progress is not None and row.seq % EVERY == 0:
                self._progress(row.seq, last)

    def _require_bound(self) -> None:
        for seq in self._opened.gaps:
            if seq not in self._bound:
                raise JournalCorrupted(
                    f"{self._backend.place}: seq {seq} has no record although a later one has, and no entry says which run "
                    "it belongs to",
                    seq,
                )

    def _checkpoint(self, info: CheckpointInfo, chain: bytes | None = None, links: Links | None = None) -> None:
        """Read a checkpoint; what it says must be what the commits since the one before come to."""
        place = f"{self._backend.place}: checkpoint at seq {info.seq}"
        with self._noting(f"checkpoint at seq {info.seq}", info.seq):
            sections = read_sections(self._backend, info.seq)
            work = open_work(sections, info.seq, self._backend.place)
            self._bound.update(record.seq for record in work.sequenced)
            if chain not in (None, info.chain) or links not in (None, links_of(info, work)):
                raise JournalCorrupted(f"{place}: it was made after another record than the one of its seq", info.seq)
            found = Contents(info.seq, sections, self._backend.place)
            before, self._contents = self._contents, found
            difference = None if before is None else before.difference(found)
            if difference is not None:
                store, key = difference
                raise JournalCorrupted(
                    f"{place}: {store}[{key!r}] is {found.stores[store].values.get(key)!r}, and the commits up to there "
                    f"make it {before.stores[store].values.get(key)!r}",  # type: ignore[union-attr]
                    info.seq,
                )

    @contextmanager
    def _noting(self, place: str, seq: int | None = None) -> Iterator[None]:
        try:
            yield
        except JournalCorrupted as error:
            self._damage.append(Damage(place, str(error), error.seq or seq))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._damage.append(Damage(place, f"{self._backend.place}: {type(error).__name__}: {error}", seq))


def check_journal(backend: Backend, opened: Opened, progress: Callable[[int, int], None] | None = None) -> Findings:
    """Read and check everything. `progress` is called with (seq, last seq) now and then."""
    return Check(backend, opened, progress).findings()
