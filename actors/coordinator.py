"""The coordinator: one run actor per run, and what is known of every run.

Owns the run actors (it is their parent) and the run records. Promises: a record is updated before the caller of its run
is answered; every submission that was sequenced is completed exactly once; records are kept for the newest
`records_max` runs.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.calls import Resumed
from seqtor.actors.invariants import InvariantBroken, require
from seqtor.actors.mailbox import Mailbox, answer_error
from seqtor.actors.runs import AsyncRun, Run, RunContext, SyncRun
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import AttemptCrashed, EndedRun
from seqtor.messages.effects import CarryOut, EffectsEnded
from seqtor.messages.errors import HandlerFailed, Rejected
from seqtor.messages.journal import AwaitDurable, RunsDurable
from seqtor.messages.lifecycle import ActorCrashed, Drain, Drained
from seqtor.messages.runs import (
    AcceptTriggers,
    AttemptConflict,
    ConflictReport,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    HotKey,
    Pair,
    ReplaceRun,
    RunRecord,
    RunsEnded,
    RunsSequenced,
    State,
    Stats,
)

__all__ = ["Coordinator"]


class Coordinator(Actor):
    """Spawns runs, keeps their records, answers their callers."""

    receives: ClassVar[tuple[type, ...]] = (
        RunsSequenced, RunsEnded, RunsDurable, EffectsEnded, AwaitDurable, ReplaceRun, ActorCrashed, GetStats,
        GetRecord, GetRuns, GetConflicts, Drain,
    )  # fmt: skip

    def __init__(
        self, context: RunContext, records_max: int, committed_through: int = 0, *, answers_at_once: bool = True
    ) -> None:
        super().__init__()
        self._context = context
        self._records_max = records_max
        self._known: dict[int, Submission[Any]] = {}
        self._causes: dict[int, tuple[str, ...]] = {}  # The runs that a commit submitted.
        self._oldest = committed_through + 1
        self._ended_through = committed_through
        self._durable_through = committed_through
        self._answers_at_once = answers_at_once
        self._undurable: deque[EndedRun] = deque()
        self._drains: list[Any] = []
        self._awaited: list[tuple[int, int, Any]] = []  # (seq, order of asking, future), the lowest seq first.
        self._count = itertools.count()
        self._gone: Callable[[], BaseException] | None = None  # Why nothing becomes durable any more.
        self._released = False
        self.resumed: dict[str, Resumed] = {}  # By run id, what runs go on with that had made calls before a restart.
        self._state_counts: Counter[State] = Counter()
        self._executions = 0
        self._wasted = 0
        self._conflicts = 0
        self.open_effects: dict[int, None] = {}  # The seqs whose effects have not all ended, in their order.
        self.sequencer: Mailbox
        self.effects: Mailbox
        self.may_run: Callable[[tuple[Submission[Any], ...]], tuple[Submission[Any], ...]]
        self._hot_keys: Counter[tuple[str, str]] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()

    # Runs ----------------------------------------------------------------------------------------------------------

    def on_runs_sequenced(self, message: RunsSequenced) -> None:
        known = self._known
        begin_on_pool: list[Mailbox] = []
        begin_on_loop: list[Mailbox] = []
        for seq, submission in enumerate(message.submissions, message.first_seq):
            if seq in known:
                require(False, "every seq is given once", seq=seq)
            known[seq] = submission
            submission.sequenced_at = message.sequenced_at
            submission.run = run = self._make(submission)
            if submission.origin is not None and submission.origin.now is not None:
                submission.sequenced_at = submission.origin.now
                run.resume(self.resumed.pop(submission.id))
            (begin_on_loop if submission.handler.is_async else begin_on_pool).append(run.prepare())
        if begin_on_pool:
            self._context.pool.ready_all(begin_on_pool)
        if begin_on_loop:
            self._context.loop.ready_all(begin_on_loop)

    def on_runs_ended(self, message: RunsEnded) -> None:
        to_wake: list[Callable[[], None]] = []
        try:
            self._end_all(message, to_wake)
        finally:  # A crash half-way must not leave those asleep whose runs have been answered.
            for wake in to_wake:
                wake()

    def _end_all(self, message: RunsEnded, to_wake: list[Callable[[], None]]) -> None:
        known = self._known
        answers_at_once, undurable = self._answers_at_once, self._undurable
        committed = executions = 0
        for ended in message.runs:
            submission = known[ended.seq]
            run = submission.run
            if run is None:
                continue
            submission.run = None
            run.actor_inbox.close("has ended")
            if run._calls is not None:
                run.close_calls()
            submission.ended_at = message.ended_at
            submission.attempts = ended.attempts
            submission.handler_s = ended.handler_s
            submission.error = ended.error
            submission.conflicts = ended.conflicts
            self._ended_through = ended.seq
            executions += ended.attempts
            if ended.conflicts:
                self._count_conflicts(submission, ended)
            if ended.state is State.COMMITTED:
                committed += 1
                if ended.released is not None and ended.released.submissions:
                    self._causes[ended.seq] = tuple([released.id for released in ended.released.submissions])
                submission.settle(State.COMMITTED, ended.result)
            else:
                self._state_counts[ended.state] += 1
                if ended.error is not None and ended.error.__traceback__ is not None:
                    run.release()
                self._log(submission, ended)
                submission.settle(ended.state, _error_maker(submission, ended))
            if answers_at_once:
                submission.answer(to_wake)
                if ended.released is not None:
                    self._release(ended)
            else:
                undurable.append(ended)
        self._state_counts[State.COMMITTED] += committed
        self._executions += executions
        if undurable and undurable[0].seq <= self._durable_through:
            self._answer_durable(to_wake)  # The journal was told first, and was faster.
            self._drain_when_answered()
        if self._awaited:
            self._answer_awaited()
        while len(known) > self._records_max and self._oldest <= self._ended_through:
            known.pop(self._oldest, None)
            self._causes.pop(self._oldest, None)
            self._oldest += 1

    def on_runs_durable(self, message: RunsDurable) -> None:
        """Answer and release what is on disk now."""
        to_wake: list[Callable[[], None]] = []
        self._durable_through = max(self._durable_through, message.through)
        self._context.board.become_durable(message.through)
        self.sequencer.tell(message)
        self._answer_durable(to_wake)
        for wake in to_wake:
            wake()
        self._answer_awaited()
        self._drain_when_answered()

    def _answer_durable(self, to_wake: list[Callable[[], None]]) -> None:
        undurable = self._undurable
        while undurable and undurable[0].seq <= self._durable_through:
            ended = undurable.popleft()
            ended.submission.answer(to_wake)
            if ended.released is not None:
                self._release(ended)

    def on_await_durable(self, message: AwaitDurable) -> None:
        if self._gone is not None and message.seq > self._durable_through:
            answer_error(message.reply_to, self._gone())
            return
        heapq.heappush(self._awaited, (message.seq, next(self._count), message.reply_to))
        self._answer_awaited()

    def _answer_awaited(self) -> None:
        through = self._ended_through if self._answers_at_once else self._durable_through
        while self._awaited and self._awaited[0][0] <= through:
            heapq.heappop(self._awaited)[2].set(None)

    def _release(self, ended: EndedRun) -> None:
        """Hand on what a commit released, now that it is durable."""
        released = ended.released
        if ended.state is State.COMMITTED and released is not None:
            if released.submissions:
                self._released = True
                self.sequencer.tell(AcceptTriggers(submissions=self.may_run(released.submissions), bypasses=True))
            if released.effects:
                self.open_effects[ended.seq] = None
                self.effects.tell(CarryOut(seq=ended.seq, effects=released.effects))

    def on_effects_ended(self, message: EffectsEnded) -> None:
        self.open_effects.pop(message.seq, None)
        self._released = self._released or message.submitted

    def on_replace_run(self, message: ReplaceRun) -> None:
        submission = self._known[message.seq]
        stuck = submission.run
        if stuck is None:
            return  # It has ended meanwhile.
        stuck.actor_inbox.close("was replaced")
        submission.run = run = self._make(submission)
        run.replace(stuck)
        (self._context.loop if submission.handler.is_async else self._context.pool).ready(run.prepare(message.attempt))

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        """A run actor crashed (a defect of seqtor or of the machine): the committer decides what becomes of its run."""
        for seq, submission in self._known.items():
            run = submission.run
            if run is not None and run.actor_urn == message.urn:
                attempt = max(1, run.attempt)
                self._context.committer.tell(
                    AttemptCrashed(submission=submission, seq=seq, attempt=attempt, error=message.error)
                )

    def on_drain(self, message: Drain) -> None:
        self._drains.append(message.reply_to)
        self._drain_when_answered()

    def _drain_when_answered(self) -> None:
        if not self._drains or self._undurable:
            return
        drains, self._drains = self._drains, []
        for reply_to in drains:
            if self._released:  # What was submitted by commits has yet to run.
                self.sequencer.tell(Drain(reply_to=reply_to))
            elif self.open_effects:  # Some may be running, and what they return has yet to run.
                self.effects.tell(Drain(reply_to=reply_to))
            else:
                reply_to.set(Drained())
        self._released = False

    def give_up(
        self,
        unsequenced: Sequence[Submission[Any]],
        make_error: Callable[[], BaseException],
        conflicts_of: Callable[[int], tuple[AttemptConflict, ...]],
    ) -> None:
        """Answer everyone whose run has not ended; for the system that has stopped or broken down."""
        to_wake: list[Callable[[], None]] = []
        now = self._context.clock.time()
        for seq, submission in self._known.items():
            if submission.run is not None:
                submission.attempts = max(1, submission.run.attempt)
                submission.run.close_calls()
                submission.run = None
                submission.ended_at = now
                submission.handler_s = 0.0
                submission.error = make_error()
                submission.conflicts = conflicts_of(seq)
                submission.settle(State.ABORTED, make_error)
                submission.answer(to_wake)
                self._state_counts[State.ABORTED] += 1
                self._ended_through = seq
        self._gone = make_error
        for _, _, reply_to in self._awaited:
            answer_error(reply_to, make_error())
        self._awaited.clear()
        for ended in self._undurable:  # Decided, but nobody knows whether it is on disk.
            ended.submission.settle(State.ABORTED, make_error)
            ended.submission.answer(to_wake)
        self._undurable.clear()
        for submission in unsequenced:
            submission.settle(State.ABORTED, make_error)
            submission.answer(to_wake)
        self._state_counts[State.ABORTED] += len(unsequenced)
        for wake in to_wake:
            wake()

    def _make(self, submission: Submission[Any]) -> Run:
        context = self._context
        if submission.handler.is_async:
            return AsyncRun(context, context.loop, submission)
        return SyncRun(context, context.pool, submission)

    def _count_conflicts(self, submission: Submission[Any], ended: EndedRun) -> None:
        self._wasted += ended.attempts - 1
        self._conflicts += len(ended.conflicts)
        for conflict in ended.conflicts:
            self._hot_keys[conflict.store, conflict.key] += 1
            writer = self._known.get(conflict.writer_seq or 0)
            self._pairs[submission.handler.name, writer.handler.name if writer else "?"] += 1
        if len(self._hot_keys) > 10_000:
            self._hot_keys = Counter(dict(self._hot_keys.most_common(5_000)))

    def _log(self, submission: Submission[Any], ended: EndedRun) -> None:
        log = logger.bind(seq=ended.seq, attempt=ended.attempts, trigger=submission.handler.name, actor="coordinator")
        log.debug("{} at seq {} ended: {}: {}", submission.handler.name, ended.seq, ended.state.value, ended.error)

    # Queries -------------------------------------------------------------------------------------------------------

    def on_get_stats(self, message: GetStats) -> None:
        message.reply_to.set(self.answer(message))

    def on_get_record(self, message: GetRecord) -> None:
        message.reply_to.set(self.answer(message))

    def on_get_runs(self, message: GetRuns) -> None:
        message.reply_to.set(self.answer(message))

    def on_get_conflicts(self, message: GetConflicts) -> None:
        message.reply_to.set(self.answer(message))

    def answer(self, query: GetStats | GetRecord | GetRuns | GetConflicts) -> Any:
        """The answer of a query to which the others have added what they know."""
        if isinstance(query, GetStats):
            return self._stats(query)
        if isinstance(query, GetConflicts):
            return self._conflict_report()
        if isinstance(query, GetRuns):
            return self._records(query)
        submission = self._known.get(query.seq)
        return None if submission is None else self._record(query.seq, query.conflicts, query.blocked_by, submission)

    def _records(self, query: GetRuns) -> tuple[RunRecord, ...]:
        known = self._known
        before = next(reversed(known), 0) + 1 if query.before is None else query.before
        in_flight = {seq: (conflicts, blocked_by) for seq, conflicts, blocked_by in query.in_flight}
        found = []
        for seq in range(before - 1, before - 1 - query.count, -1):
            if seq in known:
                conflicts, blocked_by = in_flight.get(seq, ((), None))
                found.append(self._record(seq, conflicts, blocked_by, known[seq]))
        return tuple(found)

    def _stats(self, message: GetStats) -> Stats:
        in_flight = message.current_seq - min(self._ended_through, message.current_seq)
        counts = {state: count for state, count in self._state_counts.items() if count}
        if message.queued:
            counts[State.QUEUED] = message.queued
        if in_flight:
            counts[State.RUNNING] = in_flight
        head = self._known.get(self._ended_through + 1)
        durable_through = message.committed_through if self._answers_at_once else self._durable_through
        return Stats(
            current_seq=message.current_seq,
            next_commit_seq=message.committed_through + 1,
            committed_through=message.committed_through,
            durable_through=durable_through,
            effects_through=min(durable_through, next(iter(self.open_effects), durable_through + 1) - 1),
            queued=message.queued,
            in_flight=in_flight,
            pending_commits=message.pending_commits,
            head_age=None if not in_flight or head is None else max(0.0, message.now - head.sequenced_at),
            state_counts=counts,
            conflicts=self._conflicts + message.conflicts_in_flight,
            restarts=message.restarts,
        )

    def _record(
        self, seq: int, conflicts: tuple[AttemptConflict, ...], blocked_by: int | None, submission: Submission[Any]
    ) -> RunRecord:
        run = submission.run
        error = None if run is not None else submission.error
        return RunRecord(
            seq=seq,
            id=submission.id,
            trigger=submission.trigger,
            state=submission.ended_as or submission.state,
            attempts=submission.attempts if run is None else max(1, run.attempt),
            error=None if error is None else _text(error),
            conflicts=submission.conflicts if run is None else conflicts,
            blocked_by=None if run is None else blocked_by,
            caused_by=() if submission.cause is None else (submission.cause,),
            causes=self._causes.get(seq, ()),
            durable=submission.done,
            submitted_at=submission.submitted_at,
            sequenced_at=submission.sequenced_at,
            committed_at=submission.ended_at if run is None else None,
            handler_s=submission.handler_s if run is None else 0.0,
        )

    def _conflict_report(self) -> ConflictReport:
        return ConflictReport(
            conflicts=self._conflicts,
            executions=self._executions,
            wasted_executions=self._wasted,
            hottest_keys=tuple(HotKey(*place, count) for place, count in self._hot_keys.most_common(10)),
            pairs=tuple(Pair(*pair, count) for pair, count in self._pairs.most_common(10)),
        )


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, Rejected) else f"{type(error).__name__}: {error}"


def _error_maker(submission: Submission[Any], ended: EndedRun) -> Any:
    """A function that makes the error which each caller of `result()` gets, with a traceback of its own."""
    error = ended.error
    if error is None:
        raise InvariantBroken(f"a run that did not commit says why (seq={ended.seq}, state={ended.state})")
    if isinstance(error, Rejected):
        return error.copy
    if ended.state is State.FAILED:
        name, seq, attempts = submission.handler.name, ended.seq, ended.attempts
        return lambda: HandlerFailed(name, seq, attempts, error)
    return lambda: type(error)(*error.args)
