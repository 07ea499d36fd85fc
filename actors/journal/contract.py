"""What a journal backend is: rows that are appended in groups, atomically and durably, and read back.

Owns the contract that the memory, SQLite and PostgreSQL backends pass with one suite. A backend knows nothing of
triggers and stores: it keeps rows of text. What is in them is `records.py`; who decides what is written is `actor.py`.

All methods block and are called by one thread at a time. Rows are only ever appended, and trimmed from the oldest end.
Commits are mostly appended in seq order. One that overtakes a lower seq comes before it: then the lower seq is a gap, until
its commit comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

from seqtor.actors.journal.reached import Reached

__all__ = ["Backend", "CheckpointInfo", "CheckpointPart", "CommitRow", "EntryRow", "Group", "KeyRow", "Opened"]


class CommitRow(NamedTuple):
    """The terminal record of one seq: JSON text, and the hash that chains it to the record appended before it."""

    seq: int
    body: str
    chain: bytes


class EntryRow(NamedTuple):
    """Anything else that is journaled: an accepted trigger, a recorded call, the outcome of an effect.

    `pos` counts entries from 1 without gaps; `kind` and `ref` say what it is and whose.
    """

    pos: int
    kind: str
    ref: str
    body: str


class KeyRow(NamedTuple):
    """An idempotency key: the run it is bound to, a digest of the payload, and the seq at which it ended, once it has."""

    key: str
    run: str
    digest: bytes
    seq: int | None


class CheckpointPart(NamedTuple):
    """A piece of one section of a checkpoint, at most 1 MiB; sections and their pieces are read back in order."""

    section: str
    data: bytes


class CheckpointInfo(NamedTuple):
    """A finished checkpoint: the state after `seq`, with the entries up to `entries_through` taken into account.

    `chain` is the hash at `seq`: what follows is checked against it even when what came before has been trimmed. Where
    later seqs had overtaken it, its first section says against what else.
    """

    seq: int
    entries_through: int
    chain: bytes
    parts: int
    size_bytes: int


class Group(NamedTuple):
    """What is appended in one transaction: all of it is durable when `append` returns, or none of it ever is.

    `commits` come in append order and `entries` with consecutive positions. A `keys` row replaces the row of its key;
    one with an empty `run` deletes it. `late` are the seqs that these commits overtake: the gaps that the group opens.
    """

    commits: Sequence[CommitRow] = ()
    entries: Sequence[EntryRow] = ()
    keys: Sequence[KeyRow] = ()
    late: Collection[int] = ()


class Opened(NamedTuple):
    """A journal as it was found. `commits_through` and `entries_through` are 0 in an empty one.

    All seqs up to `commits_through` are there, and those up to `commits_last` that are not in `gaps` (ascending).
    `commits_from` and `entries_from` are the oldest rows that are still there (1 unless it was trimmed); `epoch` is one
    above that of the last opening for writing.
    """

    journal_id: str
    epoch: int
    commits_from: int
    commits_through: int
    entries_from: int
    entries_through: int
    checkpoints: tuple[CheckpointInfo, ...]  # Oldest first, finished ones only.
    commits_last: int
    gaps: tuple[int, ...] = ()

    @property
    def reached(self) -> Reached:
        """The seqs that are there, or were until they were trimmed."""
        return Reached(self.commits_through, self.commits_last, frozenset(self.gaps))


class Backend(Protocol):
    """One journal in one medium."""

    place: str
    """Where the journal is, as the user wrote it; for messages."""

    def open(self, *, write: bool = True) -> Opened:
        """Open the journal, creating an empty one if there is none; with `write`, own it alone and begin a new epoch.

        Without `write` nothing is created, locked or changed beyond what reading needs, and it must not be there
        already in another process. Raises JournalLocked (with the owner's pid), JournalCorrupted for what is no intact
        journal: rows that were durable and are missing, a foreign or truncated file; never takes it for an empty one.
        """
        ...

    def append(self, group: Group) -> None:
        """Append a group in one transaction; durable on return. Any exception is final: nothing may be appended after.

        Raises NotLeader if a newer epoch owns the journal.
        """
        ...

    def commits(self, first: int, last: int) -> Iterator[CommitRow]:
        """The rows of seqs first..last in seq order, without those of gaps, fetched in bounded pieces.

        Raises JournalCorrupted for one that was appended and is missing.
        """
        ...

    def entries(self, first: int, last: int) -> Iterator[EntryRow]:
        """The entries at positions first..last in order. Raises JournalCorrupted for one that was changed since."""
        ...

    def keys(self) -> Iterator[KeyRow]:
        """All idempotency keys, in no particular order."""
        ...

    def add_checkpoint_part(self, seq: int, number: int, part: CheckpointPart) -> None:
        """Keep part `number` (from 0) of the checkpoint at `seq`; it counts for nothing until it is finished."""
        ...

    def finish_checkpoint(self, info: CheckpointInfo) -> None:
        """Make the checkpoint valid, durably; `info.parts` of them have been added."""
        ...

    def checkpoint_parts(self, seq: int) -> Iterator[CheckpointPart]:
        """The parts of a finished checkpoint in order. Raises JournalCorrupted for one that is missing or was changed."""
        ...

    def trim(self, info: CheckpointInfo, limit: int) -> bool:
        """Delete up to `limit` rows that the checkpoint makes unnecessary; True when nothing is left to delete.

        These are commits up to `info.seq`, entries up to `info.entries_through`, older checkpoints, and keys that ended
        up to `info.seq`. What is deleted is deleted from the oldest end.
        """
        ...

    def close(self) -> None:
        """Let go of the journal; it can be opened again. Harmless when it is not open."""
        ...
