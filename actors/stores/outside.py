"""What stores have yet to write outside: kept apart from their actors, so that a crash of one loses nothing.

Owns the way of durable commits to the stores that write them to a file, a database or a service: `Backlog` on the core,
until the cell is told; `Outside` in the cell, until they are persisted. Promises: a store gets its commits in seq order,
none before everything up to it is durable, and none is dropped before `persist` has returned for it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.encoding import text
from seqtor.actors.journal.recovery import writes_by_store
from seqtor.actors.stores.suspension import Suspension
from seqtor.messages.errors import RegistrationError
from seqtor.messages.stores import Commit, CommitsRead, EditEnded, PersistCommits, Write

if TYPE_CHECKING:
    from seqtor.actors.journal.contract import Backend
    from seqtor.actors.mailbox import Mailbox
    from seqtor.actors.stores.contract import StoreSpec
    from seqtor.actors.submissions import Submission
    from seqtor.messages.commits import EndedRun
    from seqtor.messages.outside import OutsideEdit

__all__ = ["Backlog", "Outside", "ReadCommits", "TrimmedAway", "read_commits"]

NOTE_EVERY = 1024  # Seqs; so far may what a store holds outside lie behind, when nothing is written to it.
PIECE_ROWS = 500  # Read from the journal at a time, between two of its groups.


class TrimmedAway(RegistrationError):
    """The journal does not have the commits any more that a store has yet to write outside."""


class Backlog:
    """The durable commits that concern stores which write outside, on their way to these. Used on the core only.

    Those that have overtaken a lower seq wait until that has become durable, too.
    """

    def __init__(self, cells: Mapping[int, Mailbox], overlay: Iterable[tuple[int, int, Commit]] = ()) -> None:
        """`cells` are those of the stores that write outside, by index; `overlay` is (seq, store, commit)."""
        self._cells = cells
        self._count = itertools.count()
        self._waiting = [(seq, next(self._count), store, commit) for seq, store, commit in overlay]
        heapq.heapify(self._waiting)
        self._noted = -NOTE_EVERY

    def note(self, ended: EndedRun) -> None:
        """Take notice of a run whose record is durable."""
        for store, writes in ended.writes:
            if store in self._cells:
                heapq.heappush(self._waiting, (ended.seq, next(self._count), store, Commit(ended.seq, (), writes)))

    def tell(self, through: int) -> None:
        """Tell the stores of their commits through a seq up to which everything is durable and was noted."""
        waiting = self._waiting
        notes = through >= self._noted + NOTE_EVERY
        if not notes and (not waiting or waiting[0][0] > through):
            return
        by_store: dict[int, list[Commit]] = {store: [] for store in self._cells} if notes else {}
        for _, _, store, commit in sorted([each for each in waiting if each[0] <= through]):
            by_store.setdefault(store, []).append(commit)
        for store, commits in by_store.items():
            self._cells[store].tell(PersistCommits(commits=tuple(commits), through=through))
        if notes:
            self._noted = through
        self._waiting = [each for each in waiting if each[0] > through]  # Last: told twice is harmless.
        heapq.heapify(self._waiting)


class Outside:
    """What one store has yet to write outside, and the edits that it has found there. Used by its cell only.

    `waiting` are the commits above `covered`; those up to it are in the journal alone. `through` is how far everything is
    outside, `told` how far the cell was told what is durable. Others may read `kept`, to leave the journal the rest.
    """

    def __init__(
        self, through: int, changed: int, fold: Callable[[Any, Sequence[Write]], Any], suspension: Suspension
    ) -> None:
        self.suspension = suspension
        self.covered = self.told = through
        self.changed = changed  # The last commit up to `covered`.
        self.state: Any = None  # As of `covered`, with what was persisted since.
        self._fold = fold
        self.through: float = 0
        self.kept: float = 0  # What the store would find after a crash.
        self.note_due = False  # Nothing was written to the store for long: it is to note how far the journal is.
        self.waiting: deque[Commit] = deque()
        self.edits: dict[
            tuple[str, str], Any
        ] = {}  # (key, JSON) of those whose runs have not ended; None: not submitted.
        self.ended: list[EditEnded] = []  # Those of them whose runs have ended, and the store was not told yet.
        self.submit: Callable[[OutsideEdit], Submission[None]] | None = None  # None until the store may begin.
        self.read: Callable[[Any], Any] | None = None
        self.asker: Any = None  # Who waits until the store has begun.

    def take(self, message: PersistCommits) -> None:
        """Note what has become durable. Twice: the second adds nothing."""
        self.note_due |= not message.commits
        if message.through > self.told:
            self.waiting += [commit for commit in message.commits if commit.seq > self.told]
            self.told = message.through

    def persisted(self, seq: float) -> None:
        """Note up to which seq the store holds everything outside."""
        waiting = self.waiting
        while waiting and waiting[0].seq <= seq:
            self.state = self._fold(self.state, waiting.popleft().writes)
        self.through = max(seq, self.told) if not waiting and self.is_covered(seq) else seq

    def is_covered(self, seq: float) -> bool:
        """Whether the commits above a seq are here, so that the journal need not be read."""
        return seq >= min(self.covered, self.changed)

    def cover_from(self, seq: int) -> None:
        """Note that the commits above a seq have to be read from the journal again: the medium has lost them."""
        for commit in self.waiting:
            self.state = self._fold(self.state, commit.writes)
        self.covered = self.changed = self.told
        self.waiting.clear()
        self.through = seq

    def piece(self, seq: int) -> tuple[int, int]:
        """The next seqs to be read from the journal by a store that holds everything up to `seq`."""
        return seq + 1, min(seq + PIECE_ROWS, self.changed, self.covered)


class ReadCommits:
    """Stands where an asker's future would: what the journal has read becomes a message to the cell."""

    __slots__ = ("_cell", "_through")

    def __init__(self, cell: Mailbox, through: int) -> None:
        self._cell = cell
        self._through = through

    def set(self, commits: Sequence[Commit]) -> None:
        """Tell what was read."""
        self._cell.put(CommitsRead(through=self._through, commits=tuple(commits)))

    def set_exception(self, exc_info: Any) -> None:
        """Tell why nothing was read."""
        self._cell.put(CommitsRead(through=self._through, commits=(), error=exc_info[1]))


def read_commits(name: str, spec: StoreSpec[Any], first: int, last: int) -> Callable[[Backend], list[Commit]]:
    """What reads a store's commits first..last from a journal. Raises what makes them unreadable."""
    return partial(_read, name, spec, first, last)


def _read(name: str, spec: StoreSpec[Any], first: int, last: int, backend: Backend) -> list[Commit]:
    found, expected, mark = [], first, f"[{text(name)},"
    for row in backend.commits(first, last):
        if row.seq != expected:
            break
        expected += 1
        if mark in row.body:  # Else nothing was written to this store: most records need not be decoded.
            writes = writes_by_store(parsed(row.body)).get(name, ())
            if writes:
                where = f"{backend.place}: seq {row.seq}"
                ops = tuple([Write(*spec.write_of(*each, where)) for each in writes])
                found.append(Commit(row.seq, (), ops))
    if expected <= last:
        raise TrimmedAway(
            f"store {name!r} holds outside what was committed up to seq {first - 1}, and {backend.place} does not have seq "
            f"{expected} any more: it was trimmed. Restore what is outside from a newer backup, or give the store an "
            "empty place, which Files and Table fill anew"
        )
    return found
