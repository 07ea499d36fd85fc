"""The journal's actor: writes whatever has queued up as one group, and says what is durable.

Owns the backend, and everything that is on its way to it. Runs on a thread of its own. Promises: runs are written in the
order in which they were told; `RunsDurable` and every answer come after the group is on disk; an error of the backend is
final: it crashes this actor, nothing is written or answered after it. The batch adapts by itself: while one group is
being synced, the next queues up.

An accepted trigger whose run ends before its row is written needs no row: the record of the run holds the trigger. So
rows wait a moment (`INTAKE_DELAY_S`), unless someone waits for them.

A run may end before one with a lower seq. The group that holds the first record which overtakes a seq holds the row of that
seq's trigger, too, and an entry that binds the run to the seq, unless they are on disk already: so after a crash the run
executes again under it. The hash chain follows the order in which records are appended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.contract import Timers
from seqtor.actors.faults import fault
from seqtor.actors.footprints import recorded
from seqtor.actors.invariants import require
from seqtor.actors.journal.chain import Break, links_after
from seqtor.actors.journal.contract import Backend, CheckpointInfo, CommitRow, EntryRow, Group, KeyRow, Opened
from seqtor.actors.journal.encoding import (
    GENESIS,
    accepted_text,
    chained,
    commit_text,
    ended_text,
    entry_text,
    model_json,
    payload_digest,
)
from seqtor.actors.journal.history import kept_from
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.reached import NOTHING_REACHED, Reached
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.mailbox import Mailbox, answer_error
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import EndedRun
from seqtor.messages.errors import OutcomeUnknown
from seqtor.messages.journal import (
    AppendEntry,
    AppendIntake,
    CheckpointDue,
    CheckpointSkipped,
    EndTriggers,
    FinishCheckpoint,
    FlushIntake,
    GetOpenWork,
    IntakeWaited,
    KeepCheckpointPart,
    ReadJournal,
    RunsDurable,
    TrimJournal,
)
from seqtor.messages.records import CallRecord, EffectRecord, ReactionRecord, SequencedRecord
from seqtor.messages.runs import RunsEnded, State, TriggersEnded

__all__ = ["INTAKE_DELAY_S", "Begun", "Journal"]

INTAKE_DELAY_S = 0.002
ENDED_MAX = 1024
INTAKE_ROWS = 16  # In a group without commits.
INTAKE_ROWS_MIN = 4  # In one with commits: or, if that is more, one for so many of them.
COMMITS_PER_INTAKE_ROW = 32
CHECKPOINT_BYTES_MIN = 16 << 20
TRIM_ROWS = 1000
BREAKS_MAX = 1 << 16

Bound = tuple[SequencedRecord, Submission[Any]]
"""What binds an overtaken run to its seq, and the run."""


class Begun(NamedTuple):
    """How a journal was found: what was opened, the seq and the hash of the record that was appended last, and the work
    that had not ended.

    `tail_bytes` is how much lies behind the last checkpoint, `breaks` where the append order is not that of the seqs there.
    """

    opened: Opened
    tip: int
    chain: bytes
    open_work: OpenRuns
    tail_bytes: int = 0
    breaks: Sequence[Break] = ()

    @classmethod
    def with_work(cls, recovery: Recovery, open_work: OpenRuns) -> Begun:
        """What was recovered; the work that had not ended is made by who knows its handlers."""
        return cls(recovery.opened, recovery.tip, recovery.chain, open_work, recovery.tail_bytes, recovery.breaks)


class Journal(Actor):
    """Owns the durable log."""

    receives: ClassVar[tuple[type, ...]] = (
        AppendIntake, FlushIntake, IntakeWaited, EndTriggers, RunsEnded, AppendEntry, ReadJournal, GetOpenWork,
        KeepCheckpointPart, FinishCheckpoint, CheckpointSkipped, TrimJournal,
    )  # fmt: skip
    batch_max = 4096

    def __init__(
        self,
        backend: Backend,
        begin: Begun | Callable[[], Begun],
        stores: Sequence[StoreRef[Any]],
        timers: Timers,
        told: Sequence[RunsEnded] = (),
        accepted: Sequence[Submission[Any]] = (),
    ) -> None:
        """`begin` is how the journal was found, or opens it again; `told` and `accepted` are what an instance that
        crashed may not have written.
        """
        super().__init__()
        self._backend = backend
        self._stores = stores
        self._timers = timers
        self._begin_again = begin if callable(begin) else None
        self._told_before = told
        self._accepted_before = accepted
        self._epoch = self._previous = self._position = 0
        self._chain = GENESIS
        self._told = self._written = NOTHING_REACHED  # The seqs that have ended, as far as they were told, and written.
        self._breaks: list[Break] = []
        self._breaks_from = self._breaks_next = 0  # Those around earlier seqs are forgotten.
        self._overtaken: dict[int, Submission[Any]] = {}  # By seq: told, not ended, and not bound to the seq yet.
        self.checkpoints: tuple[CheckpointInfo, ...] = ()  # Read by who travels in time; only this actor writes it.
        self.kept_from = 1  # The oldest seq whose history is kept; as `checkpoints`.
        self.failure: BaseException | None = None  # The medium's, which is final.
        self._trimming: CheckpointInfo | None = None
        self._accepted: deque[Submission[Any]] = deque()  # They may need a row; the oldest first.
        self._without_row: set[str] = set()  # Runs that must not get a row any more, though no seq tells so.
        self._open = OpenRuns()  # What is on disk and has not ended, for the next checkpoint.
        self._intake_due = False  # Somebody waits for the rows: all are written.
        self._intake_waited = False  # They have waited long enough: some are written.
        self._intake_timed = False
        self._runs: list[RunsEnded] = []
        self._entries: list[tuple[CallRecord | EffectRecord | ReactionRecord, Any]] = []
        self._ending: list[tuple[Submission[Any], float]] = []  # They end without a seq, then, and may be on disk.
        self._ended: list[
            Submission[Any]
        ] = []  # The same and others of which nothing is, until the coordinator is told.
        self._answers: list[Any] = []  # Futures that are answered when what is queued now is durable.
        self._bytes = 0  # Written since the last checkpoint.
        self._checkpoint_asked = False
        self._parts: dict[int, int] = {}  # How many were kept of each checkpoint that is being made.
        self.coordinator: Mailbox
        self.checkpointer: Mailbox | None = None
        if not callable(begin):
            self._found(begin)

    def _found(self, begun: Begun) -> None:
        """Go on where the journal ends."""
        opened = begun.opened
        self._epoch = opened.epoch
        self._chain = begun.chain
        self._previous = begun.tip
        self._told = self._written = opened.reached
        self._breaks = list(begun.breaks)
        self._position = opened.entries_through
        self.checkpoints = opened.checkpoints
        self.kept_from = kept_from(opened)
        self._open = begun.open_work
        # Else a journal that is restarted often is never checkpointed, and takes ever longer to read.
        self._bytes = begun.tail_bytes

    def on_start(self) -> None:
        """After a crash: read what is on disk, say so, and write what is missing."""
        if self._begin_again is None:
            return
        self._found(self._begin_again())
        self._say_durable()
        written = self._written
        runs = [
            (ended, message.ended_at)
            for message in self._told_before
            for ended in message.runs
            if not written.has(ended.seq)
        ]
        # Which of them overtake which follows from all that has ended, and from what has a seq and has not.
        ended = {run.seq for run, _ in runs}
        last = max(ended, default=0)
        for submission in self._accepted_before:
            seq = submission.seq
            if seq is not None and written.last < seq < last and seq not in ended:
                self._overtaken[seq] = submission
            if submission.id not in self._open.submissions and (seq is None or not written.has(seq)):
                self._accepted.append(submission)
        for run, ended_at in runs:
            self._runs.append(RunsEnded(runs=(run,), ended_at=ended_at))
        self._told = written.after([run.seq for run, _ in runs], self._overtaken)
        self._told_before = self._accepted_before = ()
        self.on_batch_end()

    # What is to be written -----------------------------------------------------------------------------------------

    def on_append_intake(self, message: AppendIntake) -> None:
        self._accepted.extend(message.submissions)

    def on_flush_intake(self, message: FlushIntake) -> None:
        if not self._needs_no_row(message.submission):
            self._intake_due = True
        self._answers.append(message.reply_to)  # Else it is on disk: its row, or the record of its run.

    def on_intake_waited(self, _: IntakeWaited) -> None:
        self._intake_timed = False
        self._intake_waited = True

    def on_end_triggers(self, message: EndTriggers) -> None:
        """Of one that has no row, nobody was told that it is durable: nothing need be written.

        But a retry, or what a run or an effect has submitted, is in another record, which may yet have to be written.
        """
        for submission in message.submissions:
            self._ended.append(submission)
            origin = submission.origin
            is_in_a_record = origin is not None and origin.id is not None  # Its id is no new one.
            if self._intake_due or is_in_a_record or submission.id in self._open.submissions:
                self._ending.append((submission, message.ended_at))
            else:
                self._without_row.add(submission.id)

    def on_runs_ended(self, message: RunsEnded) -> None:
        told, runs = self._told, message.runs
        if told.has(runs[0].seq):
            return  # It is told again, by a core that was restarted.
        last = told.last + len(runs)
        if message.overtaken or told.gaps or runs[-1].seq > last:
            late = {seq: each for seq, each in message.overtaken if seq > told.last}
            self._told = told.after([ended.seq for ended in runs], late)
            self._overtaken |= late
        else:
            self._told = Reached(last, last)
        self._runs.append(message)

    def on_append_entry(self, message: AppendEntry) -> None:
        record = message.record
        self._entries.append((record, message.submission))
        if isinstance(record, CallRecord) and record.run not in self._open.submissions:
            self._intake_due = True  # Before a call starts, the run itself is durable.
        self._answers.append(message.reply_to)

    # One group -------------------------------------------------------------------------------------------------------

    def on_batch_end(self) -> None:
        accepted = self._accepted
        through = self._told.through
        while accepted and (((seq := accepted[0].seq) and seq <= through) or self._needs_no_row(accepted[0])):
            accepted.popleft()
        if len(self._without_row) > max(ENDED_MAX, 2 * len(accepted)):
            self._without_row.intersection_update([each.id for each in accepted])
        if self._runs or self._entries or self._ending or self._intake_due or (self._intake_waited and accepted):
            self._write_group()
        if accepted and not self._intake_timed:
            self._intake_timed = True
            self._timers.call_after(INTAKE_DELAY_S, lambda: self.tell_self(IntakeWaited()))
        self._answer()
        if self._ended:
            ended, self._ended = self._ended, []
            self.coordinator.tell(TriggersEnded(submissions=tuple(ended)))

    def _write_group(self) -> None:
        told, self._runs = self._runs, []
        commits: list[CommitRow] = []
        keys: list[KeyRow] = []
        breaks: list[Break] = []
        chain, previous, size = self._chain, self._previous, 0
        with_rows, kinds = self._open.submissions, self._open.reactions.kinds
        for message in told:
            for ended in message.runs:
                if ended.seq != previous + 1:
                    breaks.append(Break(previous, ended.seq, chain))
                body = commit_text(ended, previous, self._epoch, message.ended_at, self._stores, kinds)
                chain = chained(chain, body)
                commits.append(CommitRow(ended.seq, body, chain))
                previous = ended.seq
                size += len(body)
                submission = ended.submission
                if with_rows:
                    with_rows.pop(submission.id, None)
                if submission.origin is not None:
                    keys += _key_of(ended)
                    for absorbed in submission.absorbed:
                        with_rows.pop(absorbed.id, None)
                        keys += _key_of(ended, absorbed)
        bound = self._bind_overtaken() if self._overtaken else ()
        entries, intake_keys = self._entry_rows(len(commits), bound)
        late = [record.seq for record, _ in bound]
        ending, self._ending = self._ending, []
        for position, (submission, ended_at) in enumerate(ending, self._position + len(entries) + 1):
            entries.append(EntryRow(position, "ended", submission.id, ended_text(submission, ended_at)))
            if submission.key is not None:
                keys.append(KeyRow(submission.key, "", b"", None))  # Behind all others: the last row of a key counts.
        fault("journal.append.before")
        self._write(self._backend.append, Group(commits, entries, [*intake_keys, *keys], late))
        fault("journal.append.after")
        self._chain, self._previous, self._written = chain, previous, self._told
        if breaks:
            self._note_breaks(breaks)
        open_work = self._open
        for message in told:
            for ended in message.runs:
                if (
                    ended.released is not None
                    or open_work.calls
                    or open_work.sequenced
                    or ended.state is not State.COMMITTED
                ):
                    open_work.ended(ended, message.ended_at)
                    if ended.state is State.RETRYING:  # From here on its seq is that of the retry.
                        self._without_row.update(each.id for each in (ended.submission, *ended.submission.absorbed))
                if ended.submission.origin is not None:
                    open_work.resubmits(ended.submission)
                if open_work.reactions.kinds:
                    open_work.reactions.ended(ended, message.ended_at)
        for record, _ in bound:
            open_work.sequenced[record.seq] = record
        for submission, ended_at in ending:
            open_work.ended_without_seq(submission, self._written.last, ended_at)
            self._without_row.add(submission.id)
        self._position += len(entries)
        self._bytes += size + sum(len(entry.body) for entry in entries)
        if commits:
            self._say_durable()
        if self._bytes > max(CHECKPOINT_BYTES_MIN, self._last_checkpoint_bytes()) and not self._checkpoint_asked:
            self._checkpoint_asked = True
            if self.checkpointer is not None:
                self.checkpointer.tell(CheckpointDue())

    @property
    def durable_through(self) -> int:
        """All seqs up to this are on disk."""
        return self._written.through

    @property
    def durable_count(self) -> int:
        """How many records are on disk: those, and the ones that have overtaken."""
        return self._written.total

    def _say_durable(self) -> None:
        self.coordinator.tell(RunsDurable(through=self._written.through, count=self._written.total))

    def _bind_overtaken(self) -> Sequence[Bound]:
        """The runs that this group overtakes, with what binds them to their seqs.

        Must be in the group: if only the record were on disk after a crash, nobody could tell which run its gap was for.
        """
        overtaken, self._overtaken = self._overtaken, {}
        return [
            (
                SequencedRecord(
                    run=each.id, seq=seq, sequenced_at=each.sequenced_at, writes=recorded(each.footprint, self._stores)
                ),
                each,
            )
            for seq, each in overtaken.items()
            if not self._told.has(seq)  # Else it has ended in the same group.
        ]

    def _note_breaks(self, breaks: Sequence[Break]) -> None:
        """Remember where the append order left that of the seqs, for the next checkpoint; not more than a bounded number."""
        self._breaks += breaks
        if len(self._breaks) > BREAKS_MAX:
            # A checkpoint is asked for at a seq that has lately become durable. So those before the last time may go.
            self._forget_breaks(self._breaks_next)
            self._breaks_next = self._written.through

    def _forget_breaks(self, through: int) -> None:
        self._breaks_from = max(self._breaks_from, through)
        self._breaks = [each for each in self._breaks if max(each.after, each.seq) > through]

    def _entry_rows(self, commits: int, bound: Sequence[Bound]) -> tuple[list[EntryRow], list[KeyRow]]:
        """Rows for the entries that were told, and for accepted triggers.

        Of these all, if somebody waits for them; else so many as do not hold up the commits, whose records make most of
        the rows unnecessary: one of them costs as much as the record of a run.
        """
        rows: list[EntryRow] = []
        keys: list[KeyRow] = []
        position = self._position
        if self._intake_due:
            count = len(self._accepted)
        elif commits:
            count = max(INTAKE_ROWS_MIN, commits // COMMITS_PER_INTAKE_ROW)
        else:
            count = INTAKE_ROWS if self._intake_waited else 0
        for submission in self._take_rowless(count, bound):
            position += 1
            self._open.resubmits(submission)
            rows.append(EntryRow(position, "accepted", submission.id, accepted_text(submission)))
            if submission.key is not None:
                keys.append(KeyRow(submission.key, submission.id, payload_digest(submission.given), None))
        self._intake_due = self._intake_waited = False
        for binding, _ in bound:
            position += 1
            rows.append(EntryRow(position, "sequenced", binding.run, model_json(binding)))
        for record, submitted in self._entries:
            position += 1
            kind, ref = self._open.noted(record, submitted)
            rows.append(EntryRow(position, kind, ref, entry_text(record)))
        self._entries.clear()
        return rows, keys

    def _take_rowless(self, count: int, bound: Sequence[Bound]) -> list[Submission[Any]]:
        """The accepted triggers that get their rows now: of those bound to a seq all, of the others the oldest."""
        taken: list[Submission[Any]] = []
        accepted, with_rows = self._accepted, self._open.submissions
        for _, submission in bound:
            if submission.id not in with_rows:
                with_rows[submission.id] = submission
                taken.append(submission)
        while accepted and count:
            submission = accepted.popleft()
            if not self._needs_no_row(submission):
                with_rows[submission.id] = submission
                taken.append(submission)
                count -= 1
        return taken

    def _needs_no_row(self, submission: Submission[Any]) -> bool:
        """Whether an accepted trigger has a row, or has ended: then the record of its run holds it, or nothing need."""
        seq = submission.seq
        if seq is not None and self._told.has(seq):
            return True
        return submission.id in self._open.submissions or submission.id in self._without_row

    def _answer(self) -> None:
        """Answer who waits for what is durable now."""
        if self._answers:
            answers, self._answers = self._answers, []
            for reply_to in answers:
                reply_to.set(None)

    def on_stop(self) -> None:
        """Write what was told, so that an ordered stop loses nothing."""
        self._intake_due = bool(self._accepted)
        self.on_batch_end()
        self._backend.close()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """Leave nobody waiting, what was to become durable may be on disk or not; and let others open the journal."""
        for reply_to in self._answers:
            answer_error(reply_to, OutcomeUnknown(f"the journal failed ({exception_type.__name__}: {exception_value})"))
        try:
            self._backend.close()
        except Exception as late:
            logger.bind(actor="journal").warning("{} could not be closed: {}", self._backend.place, late)

    # Reading, checkpoints, trimming ----------------------------------------------------------------------------------

    def on_read_journal(self, message: ReadJournal) -> None:
        """Call the reader with the backend; its errors are the asker's, not this actor's."""
        try:
            found = message.read(self._backend)
        except Exception as error:
            message.reply_to.set_exception((type(error), error, error.__traceback__))
        else:
            message.reply_to.set(found)

    def on_get_open_work(self, message: GetOpenWork) -> None:
        seq = message.seq
        if seq < self._breaks_from:
            error = RuntimeError(
                f"no checkpoint can be made at seq {seq} any more, too much has ended since: make another"
            )
            message.reply_to.set_exception((RuntimeError, error, None))
            self._checkpoint_asked = False
            return
        require(seq <= self._written.through, "a checkpoint stands for all seqs up to its own", seq=seq)
        chain = self._chain if seq == self._previous else self._chain_at(seq)
        links = links_after(seq, self._previous, self._chain, self._breaks, lambda _: chain)
        message.reply_to.set(self._open.found(seq, chain, links, self._position))

    def on_keep_checkpoint_part(self, message: KeepCheckpointPart) -> None:
        if message.number == 0:
            self._parts[message.seq] = 0
        if self._parts.get(message.seq) == message.number:  # Else an instance that crashed had begun it.
            self._write(self._backend.add_checkpoint_part, message.seq, message.number, message.part)
            self._parts[message.seq] += 1

    def on_finish_checkpoint(self, message: FinishCheckpoint) -> None:
        seq = message.info.seq
        if self._parts.pop(seq, 0) != message.info.parts:
            error = RuntimeError(f"the journal was restarted while the checkpoint at seq {seq} was made: make another")
            message.reply_to.set_exception((RuntimeError, error, None))
            return
        self._write(self._backend.finish_checkpoint, message.info)
        fault("journal.checkpoint.after")
        self.checkpoints = (*self.checkpoints, message.info)
        self._bytes = 0
        self._checkpoint_asked = False
        self._forget_breaks(seq)
        message.reply_to.set(message.info)

    def on_checkpoint_skipped(self, _: CheckpointSkipped) -> None:
        self._bytes = 0  # Else it would be asked for again with every group.
        self._checkpoint_asked = False

    def on_trim_journal(self, message: TrimJournal) -> None:
        info = message.info
        if self._trimming is not None and info.seq < self._trimming.seq:
            return  # A later one goes further.
        self._trimming = info
        # First, so that who travels in time is refused before anything is gone.
        self.checkpoints = tuple(each for each in self.checkpoints if each.seq >= info.seq)
        self.kept_from = max(self.kept_from, info.seq + 1)
        if not self._write(self._backend.trim, info, TRIM_ROWS):
            self.tell_self(message)  # Behind what has queued up meanwhile.
        fault("journal.trim.after")

    def _write(self, write: Callable[..., Any], *what: Any) -> Any:
        """Have the medium written. What goes wrong there is final: what is on disk is not known any more."""
        try:
            return write(*what)
        except BaseException as error:
            self.failure = error
            raise

    def _chain_at(self, seq: int) -> bytes:
        for info in self.checkpoints:  # Its row may be trimmed.
            if info.seq == seq:
                return info.chain
        return next(self._backend.commits(seq, seq)).chain if seq else GENESIS

    def _last_checkpoint_bytes(self) -> int:
        return self.checkpoints[-1].size_bytes if self.checkpoints else 0


def _key_of(ended: EndedRun, absorbed: Submission[Any] | None = None) -> list[KeyRow]:
    """The row of the key that the run, or one that it stands for, came under: bound to the run, or to its retry."""
    submission = ended.submission
    bound = absorbed or submission
    if bound.key is None:
        return []
    retry = None if ended.released is None else ended.released.retry
    run, seq = (submission.id, ended.seq) if retry is None else (retry.id, None)
    if ended.state is State.DEFERRED:
        seq = None  # It goes on.
    return [KeyRow(bound.key, run, payload_digest(bound.given), seq)]
