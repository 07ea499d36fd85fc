"""A journal in memory: what a backend promises, for as long as the object lives.

Owns rows in lists and dicts. They survive `close` and `open` of the same object, as those of a file would, and end with
it. Must never give out what a caller could change: rows are immutable, and the lists stay here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from seqtor.actors.faults import fault
from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart, CommitRow, EntryRow, Group, KeyRow, Opened
from seqtor.actors.journal.groups import ends_after
from seqtor.actors.journal.reached import NOTHING_REACHED
from seqtor.messages.errors import JournalCorrupted, JournalLocked, NotRunning

__all__ = ["MemoryBackend"]


class MemoryBackend:
    """A backend without a medium."""

    def __init__(self, place: str = "memory:") -> None:
        self.place = place
        self._journal_id = uuid.uuid4().hex
        self._epoch = 0
        self._commits: list[CommitRow] = []  # Through the last seq before the first gap.
        self._above: dict[int, CommitRow] = {}  # Those that have overtaken it.
        self._commits_trimmed = 0
        self._reached = NOTHING_REACHED
        self._entries: list[EntryRow] = []
        self._entries_trimmed = 0
        self._keys: dict[str, KeyRow] = {}
        self._checkpoints: dict[int, tuple[CheckpointInfo, tuple[CheckpointPart, ...]]] = {}
        self._unfinished: dict[int, list[CheckpointPart]] = {}
        self._is_open = False
        self._writes = False
        self._failure: BaseException | None = None

    def open(self, *, write: bool = True) -> Opened:
        if self._is_open:
            raise JournalLocked(f"journal {self.place} is open already, in this process: close it first")
        if write:
            self._epoch += 1
            self._unfinished.clear()
        self._is_open = True
        self._writes = write
        self._failure = None
        return Opened(
            journal_id=self._journal_id,
            epoch=self._epoch,
            commits_from=self._commits_trimmed + 1,
            commits_through=self._commits_through,
            entries_from=self._entries_trimmed + 1,
            entries_through=self._entries_through,
            checkpoints=tuple(self._checkpoints[seq][0] for seq in sorted(self._checkpoints)),
            commits_last=self._reached.last,
            gaps=tuple(sorted(self._reached.gaps)),
        )

    def append(self, group: Group) -> None:
        self._require_writable()
        try:
            reached, _ = ends_after(group, self._reached, self._entries_through)
            fault("journal.append.before_sync")
        except BaseException as error:
            self._failure = error
            raise
        if reached.gaps or self._above:
            self._append_out_of_order(group.commits)
        else:
            self._commits += sorted(group.commits)
        self._reached = reached
        self._entries += group.entries
        for key in group.keys:
            if key.run:
                self._keys[key.key] = key
            else:
                self._keys.pop(key.key, None)

    def _append_out_of_order(self, commits: Sequence[CommitRow]) -> None:
        self._above.update((commit.seq, commit) for commit in commits)
        while (row := self._above.pop(self._commits_through + 1, None)) is not None:
            self._commits.append(row)

    def commits(self, first: int, last: int) -> Iterator[CommitRow]:
        seq = first
        while True:
            self._require_open()
            seq = max(seq, self._commits_trimmed + 1)  # Both ends may move while the rows are being read.
            if seq > min(last, self._reached.last):
                return
            row = (
                self._commits[seq - self._commits_trimmed - 1] if seq <= self._commits_through else self._above.get(seq)
            )
            if row is not None:
                yield row
            seq += 1

    def entries(self, first: int, last: int) -> Iterator[EntryRow]:
        pos = first
        while True:
            self._require_open()
            pos = max(pos, self._entries_trimmed + 1)
            if pos > min(last, self._entries_through):
                return
            yield self._entries[pos - self._entries_trimmed - 1]
            pos += 1

    def keys(self) -> Iterator[KeyRow]:
        self._require_open()
        yield from tuple(self._keys.values())

    def add_checkpoint_part(self, seq: int, number: int, part: CheckpointPart) -> None:
        self._require_writable()
        if number == 0:
            self._unfinished[seq] = []
        parts = self._unfinished.get(seq, [])
        require(number == len(parts), "parts of a checkpoint come in order", seq=seq, got=number, expected=len(parts))
        fault("journal.checkpoint.before_part")
        parts.append(part)

    def finish_checkpoint(self, info: CheckpointInfo) -> None:
        self._require_writable()
        parts = self._unfinished.get(info.seq, [])
        require(info.parts == len(parts), "a finished checkpoint has all parts", seq=info.seq, parts=len(parts))
        fault("journal.checkpoint.before_finish")
        self._checkpoints[info.seq] = (info, tuple(self._unfinished.pop(info.seq, ())))

    def checkpoint_parts(self, seq: int) -> Iterator[CheckpointPart]:
        self._require_open()
        if seq not in self._checkpoints:
            raise JournalCorrupted(f"journal {self.place} holds no finished checkpoint at seq {seq}", seq)
        yield from self._checkpoints[seq][1]

    def trim(self, info: CheckpointInfo, limit: int) -> bool:
        self._require_writable()
        require(info.seq in self._checkpoints, "what is trimmed is in a finished checkpoint", seq=info.seq)
        fault("journal.trim.before")
        left = limit
        for seq in sorted(self._checkpoints):
            if seq < info.seq and left > 0:
                del self._checkpoints[seq]
                left -= 1
        count = max(0, min(left, info.seq - self._commits_trimmed, len(self._commits)))
        del self._commits[:count]
        self._commits_trimmed += count
        left -= count
        count = max(0, min(left, info.entries_through - self._entries_trimmed, len(self._entries)))
        del self._entries[:count]
        self._entries_trimmed += count
        left -= count
        ended = sorted((row.seq, row.key) for row in self._keys.values() if row.seq is not None and row.seq <= info.seq)
        for _, key in ended[:left]:
            del self._keys[key]
        return left > len(ended)

    def close(self) -> None:
        self._is_open = self._writes = False

    @property
    def _commits_through(self) -> int:
        return self._commits_trimmed + len(self._commits)

    @property
    def _entries_through(self) -> int:
        return self._entries_trimmed + len(self._entries)

    def _require_open(self) -> None:
        require(self._is_open, "a journal is used while it is open", place=self.place)

    def _require_writable(self) -> None:
        require(self._writes, "a journal is written while it is open for writing", place=self.place)
        if self._failure is not None:
            raise NotRunning(
                f"journal {self.place} takes nothing more, an append failed ({self._failure!r}): close it and open it again"
            ) from self._failure
