"""The hash chain: each record is held against the one that was appended before it, in whatever order they are read.

Owns the check. The chain follows the append order, records are read in seq order; the two differ where a record has
overtaken lower seqs. Promises: what passes is what was written, and no record is followed by two others. Costs nothing
more than the hashes as long as nothing was overtaken; else one look ahead for each record that came after a later seq, and
the hashes (not the records) of those whose successor has not been read yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import Backend, CommitRow
from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.encoding import chained
from seqtor.messages.errors import JournalCorrupted

__all__ = ["Break", "Chain", "Links", "checked_rows", "hash_at", "hashes_ahead", "links_after"]

HEAD = re.compile(r'\{"format":\d+,"seq":(\d+),"previous":(\d+),')


class Break(NamedTuple):
    """A place where the append order is not that of the seqs: `seq` was appended after `after`, whose hash is `chain`."""

    after: int
    seq: int
    chain: bytes


class Links(NamedTuple):
    """What the records above one seq are held against.

    `hashes` are those of records up to that seq which a record above it follows, or may come to follow; `passed` are the
    seqs above it that a record up to it has followed. Without overtaking it is the one hash at that seq.
    """

    hashes: Mapping[int, bytes]
    passed: tuple[int, ...] = ()


def links_after(seq: int, tip: int, chain: bytes, breaks: Sequence[Break], hash_at: Callable[[int], bytes]) -> Links:
    """The links after a seq up to which all records are there.

    `tip` is the record that was appended last, `chain` its hash, `breaks` the places that lie around the seq.
    """
    hashes = {each.after: each.chain for each in breaks if each.after <= seq < each.seq}
    passed = tuple(sorted([each.after for each in breaks if each.seq <= seq < each.after]))
    if tip <= seq:
        hashes[tip] = chain
    if len(hashes) == len(passed):  # The line of records is one, so here it goes on from the seq itself.
        hashes[seq] = hash_at(seq)
    require(len(hashes) == len(passed) + 1, "the append order is one line", seq=seq, tip=tip, breaks=len(breaks))
    return Links(hashes, passed)


class Chain:
    """Checks records that come in seq order. `place` is where they are from, for messages.

    `ahead` finds the hash of a record that has not been read yet; `behind` that of one before the first that is read, or
    None if it is not known any more: then the record that follows it is taken as it is.
    """

    def __init__(
        self,
        place: str,
        links: Links,
        ahead: Callable[[int], bytes | None],
        behind: Callable[[int], bytes | None] = lambda _: None,
        *,
        first: int = 0,
    ) -> None:
        self._place = place
        self._ahead = ahead
        self._behind = behind
        self._first = first  # Below it, what is not among the links is asked of `behind`.
        self._open = dict(links.hashes)  # Of records that are not followed by any that was read.
        self._passed: dict[int, bytes | None] = dict.fromkeys(links.passed)  # Not read yet, but followed.
        self._seq = max(self._open, default=-1)  # Of the record that was read last, if it is not followed.
        self._chain = self._open.pop(self._seq, None)
        self.breaks = [Break(seq, 0, b"") for seq in links.passed]

    def check(self, row: CommitRow) -> None:
        """Raise JournalCorrupted unless the row follows the record that it says it follows."""
        chain = self._chain
        if chain is not None and chained(chain, row.body) == row.chain:
            if row.seq != self._seq + 1:
                self.breaks.append(Break(self._seq, row.seq, chain))
        else:
            self._check_out_of_order(row)
        self._seq, self._chain = row.seq, row.chain
        if row.seq in self._passed:
            expected = self._passed.pop(row.seq)
            if expected is not None and expected != row.chain:
                raise self._corrupted(row, "it has changed since it was read first")
            self._chain = None

    @property
    def knows_all(self) -> bool:
        """Whether nothing was taken as it is."""
        return not self._first

    @property
    def links(self) -> Links:
        """What the records behind the last that was read are held against, if all before it are known."""
        hashes = self._open if self._chain is None else {**self._open, self._seq: self._chain}
        return Links(hashes, tuple(sorted(self._passed)))

    @property
    def tip(self) -> tuple[int, bytes]:
        """The record that was appended last and its hash, when all are read. Raises JournalCorrupted if there are more."""
        ends, missing = self.links
        if len(ends) != 1 or missing:
            raise JournalCorrupted(
                f"{self._place}: the records are not one chain: nothing follows those of the seqs {sorted(ends)[:5]}, "
                f"and those of {missing[:5]} are missing. Restore it from a backup",
                max(ends, default=self._seq),
            )
        return next(iter(ends.items()))

    def _check_out_of_order(self, row: CommitRow) -> None:
        previous = self._previous_of(row)
        if self._chain is not None:
            self._open[self._seq] = self._chain
        known = self._open.pop(previous, None)
        if known is None:
            known = self._elsewhere(row, previous)
        if known is None:
            return  # What it follows is not known any more.
        found = chained(known, row.body)
        if found != row.chain:
            raise self._corrupted(row, f"its hash is {found.hex()[:16]}, kept was {row.chain.hex()[:16]}")
        if previous != row.seq - 1:
            self.breaks.append(Break(previous, row.seq, known))

    def _elsewhere(self, row: CommitRow, previous: int) -> bytes | None:
        """The hash of a record that has not been read, or was read before this reading."""
        if previous < self._first:
            return self._behind(previous)
        known = None
        if previous > row.seq and previous not in self._passed:
            known = self._passed[previous] = self._ahead(previous)
        if known is None:
            raise self._corrupted(row, f"it follows seq {previous}, which is missing or is followed by another one")
        return known

    def _previous_of(self, row: CommitRow) -> int:
        seq, previous = _ends_of(row)
        if seq != row.seq:
            raise self._corrupted(row, "it is no record" if seq is None else f"it is that of seq {seq}")
        return previous

    def _corrupted(self, row: CommitRow, why: str) -> JournalCorrupted:
        return JournalCorrupted(
            f"{self._place}: the record of seq {row.seq}, or the one before it, is not what was written: {why}. `seqtor "
            "journal export` saves the records before",
            row.seq,
        )


def _ends_of(row: CommitRow) -> tuple[int | None, int]:
    """The seq of a record and that of the record before it, as it says itself; no seq, if it is none."""
    head = HEAD.match(row.body)
    if head is not None:
        return int(head[1]), int(head[2])
    try:
        record = parsed(row.body)
        return int(record["seq"]), int(record["previous"])
    except (ValueError, KeyError, TypeError, IndexError):
        return None, 0


def hashes_ahead(rows: Iterable[CommitRow]) -> dict[int, bytes]:
    """The hashes that a `Chain` asks for ahead, from one reading of all rows: for where a row cannot be looked up."""
    hashes: dict[int, bytes] = {}
    wanted: set[int] = set()
    for row in rows:
        previous = _ends_of(row)[1]
        if previous > row.seq:
            wanted.add(previous)
        if row.seq in wanted:
            hashes[row.seq] = row.chain
    return hashes


def checked_rows(
    backend: Backend, first: int, last: int, chain: bytes | Chain, gaps: Iterable[int] = ()
) -> Iterator[CommitRow]:
    """The rows first..last, each held against the chain; `chain` may be the hash of the seq before `first`.

    Raises JournalCorrupted for a seq that is missing and not among the gaps.
    """
    checks = chain if isinstance(chain, Chain) else Chain(backend.place, Links({first - 1: chain}), hash_at(backend))
    check, absent = checks.check, frozenset(gaps)
    expected = first
    for row in backend.commits(first, last):
        while expected in absent:
            expected += 1
        if row.seq != expected:
            raise JournalCorrupted(f"{backend.place}: seq {expected} is missing, the next one is {row.seq}", expected)
        check(row)
        yield row
        expected += 1
    while expected in absent:
        expected += 1
    if expected <= last:
        raise JournalCorrupted(f"{backend.place}: the records end at seq {expected - 1}, {last} were written", expected)


def hash_at(backend: Backend) -> Callable[[int], bytes | None]:
    """What finds the hash of one record in a backend; None if it is not there."""

    def find(seq: int) -> bytes | None:
        return next((row.chain for row in backend.commits(seq, seq) if row.seq == seq), None)

    return find
