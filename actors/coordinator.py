"""The coordinator: one run actor per run, and what is known of every run.

Owns the run actors (it is their parent) and what is known of runs, which `run_records` tells. Promises: a record is
updated before the caller of its run is answered; every submission that was sequenced is completed exactly once; records
are kept for the newest `records_max` runs.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.completion import CompletionRun, make_completion_run
from seqtor.actors.deferrals import go_on_after
from seqtor.actors.handlers import IN_PROCESS, ON_LOOP, ON_POOL, OUTSIDE
from seqtor.actors.head_watch import HeadWatch
from seqtor.actors.invariants import InvariantBroken, require
from seqtor.actors.journal.open_runs import DEAD_STATES
from seqtor.actors.ledger import Counted, Ledger
from seqtor.actors.mailbox import Mailbox, answer, answer_error
from seqtor.actors.processes.run import ProcessRun
from seqtor.actors.run_records import RunRecords, retried_as
from seqtor.actors.runs import AsyncRun, Run, RunContext, SyncRun
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import AttemptCrashed, BeginRuns, CommitRun, DeclareRuns, EndedRun
from seqtor.messages.completion import RunsBegun, RunSequenced, SequenceRun, WithdrawRun
from seqtor.messages.effects import CarryOut, EffectsEnded
from seqtor.messages.errors import FootprintViolation, HandlerFailed, Rejected, RunCrashed
from seqtor.messages.journal import AwaitDurable, EndTriggers, RunsDurable
from seqtor.messages.lifecycle import ActorCrashed, Drain, Drained
from seqtor.messages.runs import (
    AbortRun,
    AcceptTriggers,
    AttemptConflict,
    CancelTrigger,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    LookAtHead,
    ReplaceRun,
    RunsEnded,
    RunsResumed,
    RunsSequenced,
    State,
    TriggersDelayed,
    TriggersEnded,
    WaitOver,
)

__all__ = ["Coordinator"]

CRASHES_MAX = 3
LEVELS = {State.FAILED: "WARNING", State.DEADLINE: "WARNING", State.ABORTED: "WARNING", State.RETRYING: "INFO"}


class Coordinator(Actor):
    """Spawns runs, keeps their records, answers their callers."""

    receives: ClassVar[tuple[type, ...]] = (
        RunsSequenced, RunsResumed, BeginRuns, RunsBegun, RunSequenced, WithdrawRun, RunsEnded, RunsDurable, EffectsEnded,
        AwaitDurable, ReplaceRun, ActorCrashed, GetStats, GetRecord, GetRuns, GetConflicts, Drain, TriggersDelayed,
        WaitOver, AbortRun, CancelTrigger, TriggersEnded, LookAtHead,
    )  # fmt: skip

    def __init__(
        self,
        context: RunContext,
        ledger: Ledger,
        records_max: int,
        in_flight: Sequence[Submission[Any]] = (),
        *,
        answers_at_once: bool = True,
    ) -> None:
        super().__init__()
        self._context = context
        self._ledger = ledger
        self._records_max = records_max
        self._known = ledger.runs
        self._in_flight = in_flight  # Of the core before this one: executed again, under their seqs.
        self._oldest = next(iter(ledger.runs), ledger.told.through + 1)
        self._ended_through = ledger.counted.through
        self._answers_at_once = answers_at_once
        self._outside: dict[
            Submission[Any], float
        ] = {}  # Completion runs under way: since when each has its seq, or 0.
        self._records = RunRecords(context, ledger, self._outside, answers_at_once=answers_at_once)
        self._drains: list[Any] = []
        self._gone: Callable[[], BaseException] | None = None  # Why nothing becomes durable any more.
        self.sequencer: Mailbox
        self.effects: Mailbox
        self.head_watch: HeadWatch | None = None
        self.free_key: Callable[[Submission[Any]], object]
        self.may_run: Callable[[tuple[Submission[Any], ...]], tuple[Submission[Any], ...]]

    def on_start(self) -> None:
        """Do what the core before this one had decided and not done."""
        self._ledger.wake()
        self._context.board.become_durable(self._ledger.durable_count)
        for message in tuple(self._ledger.unsettled):
            self._settle(message, restarting=True)
        self._outside.clear()  # Those that were deferred are begun by the sequencer, with all others that have no seq.
        self._durable()
        self._ledger.waiting_room.remind()
        self._end_again()
        in_flight, self._in_flight = self._in_flight, ()
        self._execute_again(in_flight)

    def on_runs_resumed(self, message: RunsResumed) -> None:
        self._execute_again(message.submissions)

    def _execute_again(self, in_flight: Sequence[Submission[Any]]) -> None:
        """Execute runs that have their seqs already."""
        self._declare(in_flight)
        for submission in in_flight:
            self._known[submission.seq] = submission  # type: ignore[index]
            first = self._spawn(submission)
            if submission.handler.by_completion:
                self._outside[submission] = self._context.clock.time()
            run: Run = submission.run  # type: ignore[assignment]
            self._forget_taken_back(run)
            reason = self._ledger.aborting.get(submission.seq)  # type: ignore[arg-type]
            if reason is None:
                if not _begins_when_told(submission):
                    run._dispatcher.ready(first)
            else:
                abort = AbortRun(seq=submission.seq, reason=reason, reply_to=None, submission=submission)  # type: ignore[arg-type]
                self._context.committer.tell(abort)

    # Runs ----------------------------------------------------------------------------------------------------------

    def on_runs_sequenced(self, message: RunsSequenced) -> None:
        known = self._known
        begin: tuple[list[Mailbox], list[Mailbox], list[Mailbox]] = ([], [], [])  # By the place of their handlers.
        self._declare(message.submissions)
        if self.head_watch is not None and not self.head_watch.is_set:
            self.head_watch.begin()
        for seq, submission in enumerate(message.submissions, message.first_seq):
            if seq in known:
                require(False, "every seq is given once", seq=seq)
            known[seq] = submission
            submission.sequenced_at = message.sequenced_at
            first = self._spawn(submission)
            if submission.footprint is None:
                begin[submission.handler.place].append(first)
        if begin[ON_POOL]:
            self._context.pool.ready_all(begin[ON_POOL])
        if begin[ON_LOOP]:
            self._context.loop.ready_all(begin[ON_LOOP])
        if begin[IN_PROCESS]:
            (self._context.crew or self._context.pool).ready_all(begin[IN_PROCESS])

    def _forget_taken_back(self, run: Run) -> None:
        if run.first_snapshot is not None and run.first_snapshot.seq > self._ledger.told.through:
            run.first_snapshot = None  # What it saw was taken back.

    # Completion runs -----------------------------------------------------------------------------------------------

    def on_runs_begun(self, message: RunsBegun) -> None:
        for submission in message.submissions:
            if submission.run is None:
                submission.sequenced_at = message.begun_at
            self._execute_outside(submission)

    def _execute_outside(self, submission: Submission[Any]) -> None:
        """Have a run executed outside of the order, by an actor in place of the one that it may have."""
        self._outside[submission] = 0.0
        first = self._spawn(submission, outside=True)
        run: Run = submission.run  # type: ignore[assignment]
        self._forget_taken_back(run)
        run._dispatcher.ready(first)

    def on_run_sequenced(self, message: RunSequenced) -> None:
        """A run that has finished outside has its seq."""
        if message.seq in self._known:
            require(False, "every seq is given once", seq=message.seq)
        submission = message.submission
        submission.take_over()
        self._known[message.seq] = submission
        self._outside[submission] = message.sequenced_at

    def on_withdraw_run(self, message: WithdrawRun) -> None:
        submission = message.submission
        run: Any = submission.run
        if self._outside.get(submission) != 0.0 or run is None:
            return
        del self._outside[submission]
        submission.run = None
        run.abandon()
        run.close_calls()

    def _defer(self, message: RunsEnded, *, restarting: bool) -> None:
        """Let the runs go on whose seqs have ended as deferred; the seqs' records are of stand-ins. Twice: the same."""
        for ended in message.runs:
            if ended.seq not in self._known:  # It ended before this actor came to `RunSequenced`, and crashed.
                ended.submission.take_over()
                self._known[ended.seq] = ended.submission
            if ended.state is State.DEFERRED:
                submission = ended.released.deferred
                self._known[ended.seq] = ended.submission
                go_on_after(ended.submission, submission)
                if not restarting:
                    self._execute_outside(submission)
            elif ended.submission in self._outside:
                del self._outside[ended.submission]

    def _crashed_outside(self, submission: Submission[Any], run: CompletionRun, error: BaseException) -> None:
        """Execute again, or have the run end as failed: with a seq, as all runs."""
        self._ledger.restarts += 1
        run.crashes += 1
        if run.crashes < CRASHES_MAX:
            self._execute_outside(submission)
            return
        crash = RunCrashed(f"its run actor crashed {run.crashes} times, at last with {type(error).__name__}: {error}")
        crash.__cause__ = error
        newest = self._context.board.newest
        seq = newest.seq
        self.sequencer.tell(
            SequenceRun(
                intent=CommitRun(
                    run=run.actor_inbox, submission=submission, seq=0, attempt=1, epoch=self._ledger.epoch,
                    snapshot_seq=seq, first_snapshot_seq=seq if run.first_snapshot is None else run.first_snapshot.seq,
                    outcome=State.FAILED, accesses=(), released=None, result=None, error=crash, handler_s=0.0,
                    deadline_s=0.0,
                )
            )
        )  # fmt: skip

    # The end of runs -----------------------------------------------------------------------------------------------

    def _declare(self, submissions: Sequence[Submission[Any]]) -> None:
        """Tell the committer of those with a footprint, before any of the others executes; it says when they may."""
        declared = [submission for submission in submissions if submission.footprint is not None]
        if declared:
            self._context.committer.tell(DeclareRuns(submissions=tuple(declared)))

    def on_begin_runs(self, message: BeginRuns) -> None:
        """The lower runs have ended that may write what these have declared."""
        for seq in message.seqs:
            submission = self._known.get(seq)
            run: Run | None = None if submission is None else submission.run
            if run is not None and run.attempt == 0 and not run.begun:
                run.begun = True
                run._dispatcher.ready(run.actor_inbox)

    def on_runs_ended(self, message: RunsEnded) -> None:
        unsettled = self._ledger.unsettled
        if unsettled and unsettled[0] is message:  # Else it was settled at the restart.
            self._settle(message)

    def _settle(self, message: RunsEnded, *, restarting: bool = False) -> None:
        ledger = self._ledger
        if self._outside or restarting:
            self._defer(message, restarting=restarting)
        try:
            counted = self._end_all(message, ledger.to_wake)
            ledger.settle(counted, durable=self._answers_at_once)
            self._ended_through = counted.through
            if self._answers_at_once:  # First: a store that hears of the end of its edit has what that has committed.
                self._have_persisted()
        finally:  # A crash half-way must not leave those asleep whose runs have been answered.
            ledger.wake()
        if not self._answers_at_once:
            self._durable()  # The journal was told first, and may have been faster.
        elif ledger.awaited or ledger.awaited_counts:
            self._answer_awaited()
        known = self._known
        while len(known) > self._records_max and self._oldest <= self._ended_through:
            known.pop(self._oldest, None)
            ledger.causes.pop(self._oldest, None)
            self._oldest += 1

    def _end_all(self, message: RunsEnded, to_wake: list[Callable[[], None]]) -> Counted:
        """Settle runs, and in memory answer and release them; returns the counts with them. Twice: the same."""
        known, ledger = self._known, self._ledger
        counted = ledger.counted
        answers_at_once = self._answers_at_once
        states: Counter[State] = Counter()
        executions = wasted = conflicts = 0
        for ended in message.runs:
            submission = known[ended.seq]
            run, submission.run = submission.run, None
            if run is not None:
                run.actor_inbox.close("has ended")
                if run._calls is not None:
                    run.close_calls()
            submission.ended_at = message.ended_at
            submission.attempts = ended.attempts
            submission.handler_s = ended.handler_s
            submission.error = ended.error
            submission.conflicts = ended.conflicts
            executions += ended.attempts
            if ended.conflicts:
                wasted += ended.attempts - 1
                conflicts += len(ended.conflicts)
                self._records.count_conflicts(submission, ended)
            states[ended.state] += 1
            if submission.origin is not None and submission.origin.absorbed and submission.origin.retry is None:
                states[State.COALESCED] += len(submission.absorbed)
            if ended.state is State.COMMITTED:
                if ended.released is not None and ended.released.submissions:
                    ledger.causes[ended.seq] = tuple([released.id for released in ended.released.submissions])
                submission.settle(State.COMMITTED, ended.result)
            else:
                if run is not None and ended.error is not None and ended.error.__traceback__ is not None:
                    run.release()
                self._log(submission, ended)
                follows = None if ended.released is None else ended.released.retry
                submission.settle(ended.state, follows or _error_maker(submission, ended))
            if answers_at_once:
                if ended.state is not State.COMMITTED:
                    self._note_failure(ended)
                submission.answer(to_wake)
                if ended.released is not None:
                    self._release(ended)
        for state, count in counted.states.items():
            states[state] += count
        return Counted(
            through=message.through,
            ended=message.count,
            states=states,
            executions=counted.executions + executions,
            wasted=counted.wasted + wasted,
            conflicts=counted.conflicts + conflicts,
        )

    def on_runs_durable(self, message: RunsDurable) -> None:
        """Answer and release what is on disk now."""
        ledger = self._ledger
        ledger.become_durable(message.through, message.count)
        self._context.board.become_durable(message.count)
        self.sequencer.tell(message)
        self._durable()

    def _durable(self) -> None:
        """Answer and release what is durable and has been settled."""
        ledger = self._ledger
        undurable, to_wake = ledger.undurable, ledger.to_wake
        behind = max(0, ledger.counted.ended - ledger.durable_count)  # The journal may be ahead of the settling.
        try:
            while len(undurable) > behind:
                ended = undurable[0]
                if ended.state is not State.COMMITTED:
                    self._note_failure(ended)
                ended.submission.answer(to_wake)
                if ended.released is not None:
                    self._release(ended)
                ledger.answered()  # Last: after a crash before this it is done once more, which changes nothing.
            self._have_persisted()  # First, so that a store that hears of the end of its edit has what that has committed.
        finally:
            ledger.wake()
        self._answer_awaited()
        self._drain_when_answered()

    def _have_persisted(self) -> None:
        """Tell the stores that write outside what has become durable."""
        backlog = self._ledger.backlog
        if backlog is not None:
            backlog.tell(min(self._answered_through, self._ended_through))

    def on_await_durable(self, message: AwaitDurable) -> None:
        ledger = self._ledger
        if self._gone is not None and (message.seq > ledger.durable_through or message.count > ledger.durable_count):
            answer_error(message.reply_to, self._gone())
            return
        awaited, what = (ledger.awaited_counts, message.count) if message.count else (ledger.awaited, message.seq)
        heapq.heappush(awaited, (what, next(ledger.asked), message.reply_to))
        self._answer_awaited()

    def _answer_awaited(self) -> None:
        ledger = self._ledger
        _answer_through(ledger.awaited, self._answered_through)
        _answer_through(ledger.awaited_counts, ledger.counted.ended if self._answers_at_once else ledger.durable_count)

    def _release(self, ended: EndedRun) -> None:
        """Hand on what a commit released, now that it is durable."""
        released = ended.released
        if ended.state is State.COMMITTED and released is not None:
            if released.submissions:
                self._ledger.released = True
                submissions = self._ledger.waiting_room.hold_back(self.may_run(released.submissions))
                self.sequencer.tell(AcceptTriggers(submissions=submissions, bypasses=True))
            if released.effects:
                self._ledger.open_effects_of(ended.seq, released.effects)
                self.effects.tell(CarryOut(seq=ended.seq, effects=released.effects))

    def _note_failure(self, ended: EndedRun) -> None:
        """Before its caller is answered: let the run that follows wait for its backoff, or note the dead letter."""
        self._ledger.aborting.pop(ended.seq, None)
        submission = ended.submission
        if submission.origin is not None and submission.origin.merging:
            submission.intake.split(submission)  # It ended before it was merged.
        if ended.state in DEAD_STATES:
            self._ledger.dead_letters.add(ended)
        elif ended.released is not None and ended.released.retry is not None:
            self._ledger.waiting_room.wait_again(ended.released.retry)

    def on_triggers_delayed(self, message: TriggersDelayed) -> None:
        """Let those wait whose time has not come meanwhile."""
        due = self._ledger.waiting_room.hold_back(message.submissions)
        if due:
            self.sequencer.tell(AcceptTriggers(submissions=due, bypasses=True))

    def on_wait_over(self, _: WaitOver) -> None:
        if self._ledger.waiting_room.let_out(self.sequencer):
            self._ledger.released = True
        self._drain_when_answered()

    def on_look_at_head(self, _: LookAtHead) -> None:
        """Name the head in the log if it has held up the order for long."""
        watch = self.head_watch
        if watch is None:
            return
        seq = self._ended_through + 1
        head = self._known.get(seq)
        if head is None or head.run is None:
            watch.rest()
            return
        attempt = head.run.attempt
        doing = f"executing attempt {attempt}" if attempt else "waiting for a thread"
        watch.look(seq, head.handler.name, doing, lambda: self._count_behind(seq))

    def _count_behind(self, head: int) -> int:
        """How many runs wait for the head to end: those who have overtaken it do not."""
        return sum(submission.run is not None for seq, submission in self._known.items() if seq > head)

    def on_cancel_trigger(self, message: CancelTrigger) -> None:
        """Pass it on: so it comes behind what was told here of the trigger, and what was told to the sequencer then."""
        self.sequencer.tell(message)

    def on_triggers_ended(self, message: TriggersEnded) -> None:
        """Answer those that have durably ended without a seq."""
        ledger = self._ledger
        try:
            for submission in message.submissions:
                ending = ledger.ending.get(submission)
                if ending is None:
                    continue
                if submission.key is not None:
                    self.free_key(submission)
                submission.answer(ledger.to_wake)
                for reply_to in ending.askers:
                    answer(reply_to, True)
                ledger.finish_end(
                    submission
                )  # Last: after a crash before this all is done once more, which is harmless.
                text = "{} (run {}) ended without a seq: {}"
                log = logger.bind(trigger=submission.handler.name, actor="coordinator")
                log.debug(text, submission.handler.name, submission.id, submission.state.value)
        finally:
            ledger.wake()

    def _end_again(self) -> None:
        """Tell of those again that end without a seq; who was told of them may have crashed."""
        journal = self._context.journal
        for submission, ending in tuple(self._ledger.ending.items()):
            if journal is None:
                self.on_triggers_ended(TriggersEnded(submissions=(submission,)))
            else:
                journal.tell(EndTriggers(submissions=(submission,), ended_at=ending.ended_at))

    def on_abort_run(self, message: AbortRun) -> None:
        """Have a run end as aborted: let go of what executes it, and take its actor's messages from it."""
        submission = self._known.get(message.seq)
        run = None if submission is None else submission.run
        if submission is None or run is None:
            self._ledger.aborting.pop(message.seq, None)
            answer_error(message.reply_to, LookupError(self._why_no_abort(message.seq, submission)))
            return
        self._ledger.aborting.setdefault(message.seq, message.reason)
        # First of all: what the attempt still sends comes behind it, and is refused.
        self._context.committer.tell(dataclasses.replace(message, submission=submission))
        run.actor_inbox.close("was aborted")
        if isinstance(run, CompletionRun):
            run.abandon()
            return
        (self._context.crew if isinstance(run, ProcessRun) else self._context.pool).abandon(message.seq)  # type: ignore[union-attr]
        if isinstance(run, AsyncRun):
            self._context.loop.call(run.cancel)

    def _why_no_abort(self, seq: int, submission: Submission[Any] | None) -> str:
        if submission is None:
            return (
                f"there is no run at seq {seq} that could be aborted: seqs start at 1; it was not given yet, or its "
                f"run ended before this start, or before the newest {self._records_max} (records_max)"
            )
        ended, follows = submission.ended_as or submission.state, retried_as(submission)
        more = "" if follows is None else f", it goes on as run {follows}"
        return f"the run at seq {seq} cannot be aborted, it has ended: {ended.value}{more}"

    def on_effects_ended(self, message: EffectsEnded) -> None:
        self._ledger.released = self._ledger.released or message.submitted

    def on_replace_run(self, message: ReplaceRun) -> None:
        submission = self._known[message.seq]
        stuck = submission.run
        if stuck is None:
            return  # It has ended meanwhile.
        mailbox = self._spawn(submission, message.attempt)
        submission.run._dispatcher.ready(mailbox)  # type: ignore[union-attr]

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        """A run actor crashed (a defect of seqtor or of the machine): the committer decides what becomes of its run."""
        for seq, submission in self._known.items():
            run = submission.run
            if run is not None and run.actor_urn == message.urn:
                attempt = max(1, run.attempt)
                self._context.committer.tell(
                    AttemptCrashed(submission=submission, seq=seq, attempt=attempt, error=message.error)
                )
                return
        for submission in self._outside:
            outside: Any = submission.run
            if outside is not None and outside.is_outside and outside.actor_urn == message.urn:
                self._crashed_outside(submission, outside, message.error)
                return

    def on_drain(self, message: Drain) -> None:
        self._drains.append(message.reply_to)
        self._drain_when_answered()

    def _drain_when_answered(self) -> None:
        if not self._drains or self._ledger.undurable:
            return
        if self._answers_at_once and self._ledger.waiting_room.hold_up_a_stop():
            return  # Without a journal nobody else would run them.
        drains, self._drains = self._drains, []
        for reply_to in drains:
            if self._ledger.released:  # What was submitted by commits has yet to run.
                self.sequencer.tell(Drain(reply_to=reply_to))
            elif self._ledger.open_effects:  # Some may be running, and what they return has yet to run.
                self.effects.tell(Drain(reply_to=reply_to))
            elif self._ledger.reactions is not None and self._ledger.reactions.busy:
                self._ledger.reactions.reactor.tell(Drain(reply_to=reply_to))
            else:
                answer(reply_to, Drained())
        self._ledger.released = False

    def give_up(
        self,
        unsequenced: Sequence[Submission[Any]],
        make_error: Callable[[], BaseException],
        conflicts_of: Callable[[int], tuple[AttemptConflict, ...]],
    ) -> None:
        """Answer everyone whose run has not ended; for the system that has stopped or broken down."""
        to_wake: list[Callable[[], None]] = []
        aborted = 0
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
                aborted += 1
                self._ended_through = seq
        for submission in self._outside:
            outside: Any = submission.run
            if outside is not None:  # Without a seq, or under that of a deferral; who waits is answered by the intake.
                submission.run = None
                outside.close_calls()
        self._gone = make_error
        ledger = self._ledger
        for awaited in (ledger.awaited, ledger.awaited_counts):
            for _, _, reply_to in awaited:
                answer_error(reply_to, make_error())
            awaited.clear()
        for ending in ledger.ending.values():
            for reply_to in ending.askers:
                answer_error(reply_to, make_error())
        ledger.ending.clear()
        for ended in ledger.undurable:  # Decided, but nobody knows whether it is on disk.
            ended.submission.settle(State.ABORTED, make_error)
            ended.submission.answer(to_wake)
        ledger.undurable.clear()
        for submission in unsequenced:
            submission.settle(State.ABORTED, make_error)
            submission.answer(to_wake)
        counts = Counter(ledger.counted.states)
        counts[State.ABORTED] += aborted + len(unsequenced)
        ledger.counted = ledger.counted._replace(states=counts, ended=ledger.counted.ended + aborted)
        for wake in to_wake:
            wake()

    def _spawn(self, submission: Submission[Any], attempt: int = 1, *, outside: bool = False) -> Mailbox:
        """Make the run actor of a submission, or one in place of a stuck one; whoever calls schedules its mailbox."""
        stuck = submission.run
        if submission.origin is not None and not outside:
            submission.take_over()
        run = self._make(submission, outside)
        if stuck is not None:
            if isinstance(stuck, CompletionRun):
                stuck.abandon()
            stuck.actor_inbox.close("was replaced")
            run.replace(stuck)
        elif submission.origin is not None and submission.origin.now is not None:
            submission.sequenced_at = submission.origin.now
            run.resume(self._ledger.resumed[submission.id])
        submission.run = run  # Only now: a core that is restarted takes over what this one has.
        if self._ledger.resumed:
            self._ledger.resumed.pop(submission.id, None)  # It holds what was published since the start.
        return run.prepare(attempt)

    def _make(self, submission: Submission[Any], outside: bool) -> Run:
        context = self._context
        place = submission.handler.place
        if place:
            if place == OUTSIDE:
                return make_completion_run(context, submission, outside=outside)
            if submission.handler.is_async:
                return AsyncRun(context, context.loop, submission)
            if context.crew is not None:  # On a simulated dispatcher there is one thread, and no other process.
                return ProcessRun(context, context.crew, submission)
        return SyncRun(context, context.pool, submission)

    def _log(self, submission: Submission[Any], ended: EndedRun) -> None:
        log = logger.bind(seq=ended.seq, attempt=ended.attempts, trigger=submission.handler.name, actor="coordinator")
        if ended.state is State.FAILED:
            log = log.opt(exception=ended.error)
        text = "{} at seq {} ended: {}: {}"
        log.log(
            LEVELS.get(ended.state, "DEBUG"), text, submission.handler.name, ended.seq, ended.state.value, ended.error
        )

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
        return self._records.answer(query, self._ended_through, self._answered_through)

    @property
    def _answered_through(self) -> int:
        """The last seq whose record is durable; in memory, that there is."""
        return self._ended_through if self._answers_at_once else self._ledger.durable_through


def _begins_when_told(submission: Submission[Any]) -> bool:
    """Whether the committer says when the run begins; not of one that has finished before it got its seq."""
    return submission.footprint is not None and not submission.handler.by_completion


def _answer_through(awaited: list[tuple[int, int, Any]], through: int) -> None:
    while awaited and awaited[0][0] <= through:
        answer(awaited[0][2], None)
        heapq.heappop(awaited)  # Last: after a crash before this it is answered once more, which changes nothing.


def _error_maker(submission: Submission[Any], ended: EndedRun) -> Any:
    """A function that makes the error which each caller of `result()` gets, with a traceback of its own."""
    error = ended.error
    if error is None:
        raise InvariantBroken(f"a run that did not commit says why (seq={ended.seq}, state={ended.state})")
    if isinstance(error, Rejected):
        return error.copy
    if ended.state is State.FAILED and not isinstance(error, FootprintViolation):
        name, seq, attempts = submission.handler.name, ended.seq, ended.attempts
        return lambda: HandlerFailed(name, seq, attempts, error)
    return lambda: type(error)(*error.args)
