"""Executes a range of the journal again and holds it against the records.

Owns the order of the work: records come in windows, the runs of a window in any order, on any number of threads, because
each needs nothing but the state before its seq, which follows from recorded writes. Promises: the report, the divergence
and the hash chain do not depend on the number of workers, on their order, or on the process; what is raised is what went
wrong at the lowest seq.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from seqtor.actors.clock import SystemClock
from seqtor.actors.journal.contract import CommitRow
from seqtor.actors.journal.encoding import GENESIS, chained
from seqtor.actors.journal.history import History
from seqtor.actors.journal.recovery import commit_record, writes_by_store
from seqtor.actors.stores.contract import StoreActor, StoreRef
from seqtor.messages.derived import ReconcileDerived
from seqtor.messages.errors import DeadlineExceeded, RunCrashed, RunDeferred
from seqtor.messages.records import CommitRecord
from seqtor.messages.runs import State
from seqtor.replay.comparison import Comparison, Divergence
from seqtor.replay.execution import Execution, Program, RecordedRun, Surroundings
from seqtor.replay.workers import Workers

__all__ = ["Progress", "ReplayReport", "replay", "require_range"]

WINDOW = 1024  # Records whose runs may be executed in any order.
LOOK_BACK = 1024  # Earlier seqs whose states are kept for `tx.peek`; older ones are read again when a handler asks.
CACHED_MAX = 16
# What other runs came to was not the handler's doing alone: time-outs, operators and crashes are records, not replayed.
CRASHED = f"{RunCrashed.__module__}.{RunCrashed.__qualname__}"
DEFERRED = f"{RunDeferred.__module__}.{RunDeferred.__qualname__}"
EXPIRED = f"{DeadlineExceeded.__module__}.{DeadlineExceeded.__qualname__}"
REPLAYED = {State.COMMITTED, State.REJECTED, State.FAILED, State.RETRYING}

Progress = Callable[[int, int], None]


class ReplayReport(NamedTuple):
    """What was executed again, and came to the same.

    `skipped` counts the runs that were not executed, by reason: another version of the handler, or how they ended.
    `chain` is the hash of the record that was appended last of them, made of what the runs gave now; it equals the recorded
    one. (Of a range at whose border one run had overtaken another: of those that follow each other.)
    """

    first: int
    last: int
    executed: int
    skipped: Mapping[str, int]
    chain: str
    seconds: float

    def __str__(self) -> str:
        if self.first > self.last:
            return f"no records from seq {self.first} on: nothing to execute again"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return (
            f"seq {self.first} to {self.last}: {self.executed} executed again as recorded, {sum(self.skipped.values())} "
            f"skipped{f' ({reasons})' if reasons else ''}, chain {self.chain[:16]}, {self.seconds:.1f} s"
        )


def replay(
    program: Program,
    history: History,
    first: int,
    last: int,
    *,
    workers: int = 1,
    shuffle: int | None = None,
    progress: Progress | None = None,
) -> ReplayReport:
    """Execute the runs of first..last again, which are kept; `shuffle` seeds their order within a window.

    `progress` is called with (seq, last) now and then. Raises ReplayDiverged for the first that ends in another way, and
    what makes a record impossible to execute: RegistrationError, JournalCorrupted, StoreUnavailable.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise TypeError(f"workers is a count (an int from 1), got {workers!r}")
    started = SystemClock.monotonic()
    again = Replay(program, history, first, None if shuffle is None else random.Random(shuffle))
    threads = Workers(workers, lambda: Surroundings(program))
    try:
        rows = history.rows(first, last)
        done = first - 1
        while done < last:
            done = again.window(rows, threads)
            if progress is not None:
                progress(done, last)
    finally:
        threads.close()
        again.execution.close()
    skipped = dict(sorted(again.skipped.items()))
    seconds = SystemClock.monotonic() - started
    return ReplayReport(first, last, again.executed, skipped, again.chain.hex(), seconds)


def require_range(history: History, through: int, first: Any, last: Any) -> tuple[int, int]:
    """The range of seqs that is meant; `last` is the newest without one. Raises TypeError and LookupError."""
    last = through if last is None else last
    for name, value in (("first", first), ("last", last)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise TypeError(f"replay() takes a range of seqs (ints from 1), got {name}={value!r}")
    if last > through:
        raise LookupError(f"there is no record of seq {last} yet: the journal ends at seq {through}")
    if first < history.first:
        raise LookupError(
            f"the record of seq {first} is not kept: the history of {history.place} begins at seq {history.first}"
        )
    return first, last


class Piece(NamedTuple):
    """One run of a window: its record, as text too, and what executes it, unless it is skipped."""

    record: CommitRecord
    body: str
    run: RecordedRun | None


class Done(NamedTuple):
    """What a piece came to: the text that its record has now, and what went wrong."""

    seq: int
    body: str
    wrong: Divergence | Exception | None


class Replay:
    """The state of one replay, from window to window."""

    def __init__(self, program: Program, history: History, first: int, order: random.Random | None) -> None:
        self.states = States(history, first - 1)
        self.execution = Execution(program, self.states.behaviour)
        self.executed = 0
        self.skipped: Counter[str] = Counter()
        self.chain = history.chain_before(first) or GENESIS
        self._chained = first - 1  # The seq of the record whose hash that is.
        self._overtaken: dict[int, tuple[int, str]] = {}  # By the seq that they were appended after: seq and text.
        self._place = history.place
        self._handler_named = program.handler_named
        self._comparison = Comparison(program.stores, program.upcasts, program.effects)
        self._order = order

    def window(self, rows: Iterator[CommitRow], threads: Workers[Surroundings]) -> int:
        """Execute, compare and chain the next records; returns the last of their seqs."""
        pieces: list[Piece] = []
        wrong: Exception | None = None
        while len(pieces) < WINDOW:
            try:
                row = next(rows, None)
                if row is None:
                    break
                pieces.append(self._piece(row))
            except Exception as error:  # Raised when nothing is wrong with the runs before it.
                wrong = error
                break
        runs = [piece for piece in pieces if piece.run is not None]
        if self._order is not None:
            self._order.shuffle(runs)
        done = {each.seq: each for each in threads.do(self._execute, runs)}
        for piece in pieces:
            found = done.get(piece.record.seq)
            body = piece.body if found is None else found.body
            if found is not None and found.wrong is not None:
                raise found.wrong.error() if isinstance(found.wrong, Divergence) else found.wrong
            self._append(piece.record.previous, piece.record.seq, body)
        if wrong is not None:
            raise wrong
        self.executed += len(runs)
        return pieces[-1].record.seq

    def _append(self, previous: int, seq: int, body: str) -> None:
        """Add a record to the chain when the one before it is there: some were appended later than higher seqs."""
        if previous != self._chained:
            self._overtaken[previous] = (seq, body)
            return
        self.chain, self._chained = chained(self.chain, body), seq
        while self._overtaken and self._chained in self._overtaken:
            self._chained, late = self._overtaken.pop(self._chained)
            self.chain = chained(self.chain, late)

    def _piece(self, row: CommitRow) -> Piece:
        record = commit_record(row, self._place)
        run = None
        if record.state not in REPLAYED:
            self.skipped[record.state.value] += 1
        elif record.trigger.type == ReconcileDerived.trigger_name:  # It held the code of its time against the state.
            self.skipped["of derived stores"] += 1
        elif record.error is not None and record.error.type == CRASHED:
            self.skipped["crashed"] += 1
        elif record.error is not None and record.error.type == DEFERRED:  # Too often: it has failed.
            self.skipped[State.DEFERRED.value] += 1
        elif record.state is State.RETRYING and record.error is not None and record.error.type == EXPIRED:
            self.skipped[State.DEADLINE.value] += 1
        else:
            handler = self._handler_named(record.trigger.type)
            if handler.version != record.handler_version:
                self.skipped["of another version"] += 1
            else:
                run = RecordedRun(record, handler, self.states.newest, self.states)
        self.states.move(row)
        return Piece(record, row.body, run)

    def _execute(self, piece: Piece, around: Surroundings) -> Done:
        record, body, run = piece
        try:
            ended = self.execution.again(run, around)  # type: ignore[arg-type]  # Only pieces with a run get here.
            text, divergence = self._comparison.of(ended, record, body)
        except Exception as error:
            return Done(record.seq, body, error)
        return Done(record.seq, text, divergence)


class States:
    """The states before and around the seqs of a window. Moved by one thread, while no other reads."""

    def __init__(self, history: History, seq: int) -> None:
        self._history = history
        self._walk = history.walk(seq)
        self._recent: dict[int, tuple[Any, ...]] = {seq: self._walk.states}
        self._written: dict[int, dict[str, list[str]]] = {}
        self._cached: dict[int, tuple[Any, ...]] = {}
        self._reading = threading.Lock()  # The journal is read by one thread at a time.

    @property
    def newest(self) -> tuple[Any, ...]:
        """The states after the last record that was moved behind."""
        return self._walk.states

    def behaviour(self, ref: StoreRef[Any]) -> StoreActor[Any, Any]:
        """A store's behaviour, recovered. Callable from any thread."""
        with self._reading:
            return self._history.behaviour(ref)

    def move(self, row: CommitRow) -> None:
        """Go behind the next record."""
        record = from_json(row.body)
        self._walk.fold(record)
        self._recent[row.seq] = self._walk.states
        self._written[row.seq] = {
            store: [write[0] for write in writes] for store, writes in writes_by_store(record).items()
        }
        oldest = row.seq - WINDOW - LOOK_BACK
        self._recent.pop(oldest, None)
        self._written.pop(oldest, None)

    def at(self, seq: int) -> tuple[Any, ...]:
        """The states after a seq that is not above those moved behind. Callable from any thread."""
        found = self._recent.get(seq)
        if found is not None:
            return found
        with self._reading:
            if seq not in self._cached:
                if len(self._cached) >= CACHED_MAX:
                    del self._cached[next(iter(self._cached))]
                self._cached[seq] = self._history.states_at(seq)
            return self._cached[seq]

    def written(self, after: int, through: int) -> Mapping[int, set[str]]:
        """The keys that the seqs after+1..through wrote, by store. Callable from any thread."""
        keys: dict[int, set[str]] = {}
        for seq in range(max(after + 1, min(self._written, default=through + 1)), through + 1):
            self._add(keys, self._written[seq])
        earlier = min(min(self._written, default=through + 1) - 1, through)
        if after < earlier:
            with self._reading:
                for row in self._history.rows(after + 1, earlier):
                    writes = writes_by_store(from_json(row.body))
                    self._add(keys, {store: [write[0] for write in each] for store, each in writes.items()})
        return keys

    def _add(self, keys: dict[int, set[str]], written: Mapping[str, list[str]]) -> None:
        for store, names in written.items():
            keys.setdefault(self._walk.indexes[store], set()).update(names)
