"""The sequencer: gives each trigger its place in the total order.

Owns the counter of seqs, the queue of waiting triggers and the window of numbered ones. Promises: seqs are 1, 2, 3, ...
without gaps, each given once; a seq is given only when a slot is free and the journal keeps up, or when a completion run
has finished; `now` never decreases along the order, but for completion runs, whose `now` is that of their beginning, and
runs that asked outside in an earlier process, which keep the `now` that they had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox, answer
from seqtor.actors.rates import Bucket, Pace
from seqtor.actors.sequencer.outside import OutsideRuns
from seqtor.actors.sequencer.waiting import WaitingTriggers
from seqtor.actors.sequencer.window import Window
from seqtor.messages.commits import BeginRuns, DeclareRuns, RunsHeld
from seqtor.messages.completion import CommitOutside, RunsBegun, RunSequenced, SequenceRun, WithdrawRun
from seqtor.messages.errors import Cancelled
from seqtor.messages.journal import EndTriggers, RunsDurable
from seqtor.messages.lifecycle import Drain
from seqtor.messages.runs import (
    AcceptTriggers,
    CancelTrigger,
    GetStats,
    RunsEnded,
    RunsSequenced,
    State,
    TokenDue,
    TriggersEnded,
)

if TYPE_CHECKING:
    from seqtor.actors.dispatchers.contract import Cancellable, Timers
    from seqtor.actors.handlers import Handler
    from seqtor.actors.submissions import Submission

__all__ = ["Sequencer"]

# Ended runs that the journal may have yet to write. Without a bound a burst runs ahead of the journal, which gets the
# interpreter ever more rarely: 10,000 runs wait for their group, answers are late, and the cycle collector walks them all.
UNDURABLE_MAX = 256


class Sequencer(Actor):
    """Numbers triggers in the order of their priority."""

    receives: ClassVar[tuple[type, ...]] = (
        AcceptTriggers, CancelTrigger, RunsEnded, RunsHeld, BeginRuns, RunsDurable, SequenceRun, TokenDue, GetStats, Drain,
    )  # fmt: skip

    def __init__(
        self,
        clock: Clock,
        window: Window,
        ledger: Ledger,
        in_flight: Sequence[Submission[Any]] = (),
        waiting: Sequence[Submission[Any]] = (),
        *,
        journaled: bool = False,
        outside: OutsideRuns | None = None,
        buckets: Mapping[Handler, Bucket] | None = None,
        pace: Pace | None = None,
        timers: Timers | None = None,
    ) -> None:
        """`outside` has the slots of completion runs, None if no handler is such; `buckets` has the rates of types."""
        super().__init__()
        self._clock = clock
        self._window = window
        self._ledger = ledger
        self._outside = outside
        self._buckets = buckets
        self._pace = pace or Pace()
        self._timers = timers
        self._token_at = math.inf  # When the timer fires that is set for a rate.
        self._token_timer: Cancellable | None = None
        self._waiting = WaitingTriggers(buckets)
        self._ended_count = ledger.told.ended
        self._durable_count = ledger.durable_count if journaled else math.inf
        self._seq = self._ended_count + len(in_flight)
        self._drains: list[Any] = []
        self.bypassed = 0  # Accepted past the edge (submitted by a commit, or before a restart). Read by the edge, too.
        self.sequenced = 0  # How many have left the queue. Read by the edge to bound it; only this actor writes it.
        self.journal: Mailbox | None = None
        self.coordinator: Mailbox
        self.committer: Mailbox
        for submission in in_flight:  # Of the core before this one.
            if submission.handler.by_completion and outside is not None:
                outside.sequence(submission, submission.seq)  # type: ignore[arg-type]
            else:
                window.enter(submission.seq, submission.handler)  # type: ignore[arg-type]
        for submission in waiting:
            if submission.origin is not None and submission.origin.on_its_way:
                self._arrived(submission)
            self._push(submission)

    def on_accept_triggers(self, message: AcceptTriggers) -> None:
        push = self._waiting.push if self._outside is None else self._push
        if message.bypasses:
            self.bypassed += len(message.submissions)
        for submission in message.submissions:
            if submission.origin is not None and submission.origin.on_its_way and not self._arrived(submission):
                continue
            push(submission)

    def _arrived(self, submission: Submission[Any]) -> bool:
        """One has come to the queue from where it has waited; False if it was cancelled on its way."""
        origin = submission.origin
        assert origin is not None
        submission.origin = origin._replace(on_its_way=False)
        if submission.ended_as is None:
            return True
        self.sequenced += 1
        return False

    def _push(self, submission: Submission[Any]) -> None:
        if self._outside is not None and submission.handler.by_completion:
            self._outside.push(submission)
        else:
            self._waiting.push(submission)

    def on_cancel_trigger(self, message: CancelTrigger) -> None:
        """Let a trigger never have a seq, unless it has one.

        All that was told of it before has been handled here, so it is in a queue, in the waiting room, under way outside of
        the order, or a retry that the journal has yet to write; that one is not open.
        """
        ledger = self._ledger
        submission = message.submission.newest
        ending = ledger.ending.get(submission)
        if ending is not None:
            ending.askers.append(message.reply_to)
        elif submission.seq is not None or submission.done:
            answer(message.reply_to, submission.state is State.CANCELLED)
        else:
            named = f"{submission.handler.name} (run {submission.id}) was cancelled before it had a seq"
            now = self._clock.time()
            ledger.begin_end(submission, State.CANCELLED, lambda: Cancelled(named), now)
            ledger.ending[submission].askers.append(message.reply_to)
            if not (ledger.waiting_room.remove(submission) or self.withdraw(submission)):
                self._drop(submission)
            if self.journal is None:
                self.coordinator.tell(TriggersEnded(submissions=(submission,)))
            else:
                self.journal.tell(EndTriggers(submissions=(submission,), ended_at=now))

    def _drop(self, submission: Submission[Any]) -> None:
        """Take it out of its queue, if it is in one."""
        if submission in submission._intake.open:
            if submission.origin is not None and submission.origin.on_its_way:
                return  # To the queue, where nobody takes it.
            if self._outside is not None and submission.handler.by_completion:
                self._outside.drop(submission)
            else:
                self._waiting.drop(submission)
            self.sequenced += 1

    def on_runs_ended(self, message: RunsEnded) -> None:
        if message.count <= self._ended_count:
            return  # It came before.
        leave = self._window.leave
        for ended in message.runs if self._outside is None else self._outside.leave(message.runs):
            leave(ended.seq, ended.handler_s)
        self._ended_count = message.count

    def on_runs_held(self, message: RunsHeld) -> None:
        for seq in message.seqs:
            self._window.hold(seq)

    def on_begin_runs(self, message: BeginRuns) -> None:
        for seq in message.seqs:
            self._window.begin(seq)

    def on_runs_durable(self, message: RunsDurable) -> None:
        self._durable_count = max(self._durable_count, message.count)

    def on_sequence_run(self, message: SequenceRun) -> None:
        """Give a run that has finished outside the next seq, at once: its work is done."""
        intent = message.intent
        submission = intent.submission
        run: Any = submission.run
        outside = self._outside
        if outside is None or submission not in outside or not self._is_current(run, intent):
            log = logger.bind(trigger=submission.handler.name, actor="sequencer")
            log.debug("refused: an attempt of run {} outside, which was replaced or has ended", submission.id)
            return
        now = self._clock.time()  # Before anything is changed: after a crash it would have its seq all the same.
        seq = self._seq + 1
        submission.seq = seq
        self._seq = seq
        outside.sequence(submission, seq)
        self.coordinator.tell(RunSequenced(seq=seq, submission=submission, sequenced_at=now))
        run.sequence(seq)
        if submission.footprint is not None:
            self.committer.tell(DeclareRuns(submissions=(submission,)))
        self.committer.tell(CommitOutside(intent=intent._replace(seq=seq), pinned=run.pinned))

    def _is_current(self, run: Any, intent: Any) -> bool:
        """Whether an intent is that of the attempt that executes outside now."""
        current: bool = run is not None and run.actor_inbox is intent.run and run.is_outside
        return current and intent.epoch == self._ledger.epoch and intent.outcome is not State.RUNNING

    def withdraw(self, submission: Submission[Any]) -> bool:
        """End the execution of a run that has no seq, whose outcome the caller sees to; False if it is not outside.

        On the core. Afterwards nothing that its attempt still does or sends has an effect.
        """
        run: Any = submission.run
        if self._outside is None or submission not in self._outside or (run is not None and not run.is_outside):
            return False
        self._outside.withdraw(submission)
        self.coordinator.tell(WithdrawRun(submission=submission))
        return True

    def on_token_due(self, _: TokenDue) -> None:
        self._forget_timer()

    def on_get_stats(self, message: GetStats) -> None:
        self.on_batch_end()  # What could be numbered is, before it is counted.
        self.committer.tell(self.add_to(message))

    def add_to(self, query: GetStats) -> GetStats:
        """The query with what this actor knows; it passes through all that know something."""
        return GetStats(
            reply_to=query.reply_to,
            queued=len(self._waiting) + (0 if self._outside is None else self._outside.queued),
            current_seq=self._seq,
            outside=0 if self._outside is None else self._outside.unsequenced,
            now=self._clock.time(),
        )

    def on_drain(self, message: Drain) -> None:
        self._drains.append(message.reply_to)

    def on_batch_end(self) -> None:
        waiting = self._waiting
        if self._buckets:
            waiting.refill(self._clock.monotonic())
        if len(waiting) and self._ended_count - self._durable_count <= UNDURABLE_MAX:
            self._sequence(waiting)
        if self._outside is not None and self._outside.queued:
            self._begin_outside(self._outside)
        if self._buckets:
            self._await_token()
        if self._drains and not (len(waiting) or len(self._window) or self._is_anything_outside):
            for reply_to in self._drains:
                self.coordinator.tell(Drain(reply_to=reply_to))
            self._drains.clear()

    def _await_token(self) -> None:
        """Set a timer for the first that waits for nothing but its rate."""
        waits = [self._waiting.next_token_s(), None if self._outside is None else self._outside.next_token_s()]
        next_s = min([each for each in waits if each is not None], default=None)
        if next_s is None or self._timers is None:
            return
        at = self._clock.monotonic() + next_s
        if at < self._token_at:
            self._forget_timer()
            self._token_at = at
            self._token_timer = self._timers.call_after(next_s, lambda: self.tell_self(TokenDue()))

    def _forget_timer(self) -> None:
        """There is one at most: each that fires sets another, so that one too many would never end."""
        if self._token_timer is not None:
            self._token_timer.cancel()
        self._token_timer, self._token_at = None, math.inf

    @property
    def _is_anything_outside(self) -> bool:
        return self._outside is not None and bool(self._outside.queued or len(self._outside))

    def _begin_outside(self, outside: OutsideRuns) -> None:
        """Let completion runs execute, as many as there are slots; they get their seqs when they have finished."""
        now = self._clock.time()  # Before any is taken, as in `_sequence`.
        begun = tuple(outside.take())
        if begun:
            self.sequenced += len(begun)
            ledger = self._ledger
            ledger.now = max(ledger.now, now)
            self.coordinator.tell(RunsBegun(submissions=begun, begun_at=ledger.now))

    def let_go(self) -> None:
        """Forget what waits, because it was answered; for the system that has stopped or broken down."""
        self._waiting = WaitingTriggers()
        self._outside = None

    def _sequence(self, waiting: WaitingTriggers) -> None:
        window = self._window
        seq = self._seq
        now = self._clock.time()  # Before any is taken: a crash between the two would lose it.
        numbered: list[Any] = []
        queued = len(waiting)
        while (submission := waiting.take_next(window.has_room)) is not None:
            seq += 1
            submission.seq = seq
            if submission.origin is not None:
                submission.take_over()
            window.enter(seq, submission.handler)
            numbered.append(submission)
        if numbered:
            first_seq, self._seq = self._seq + 1, seq
            self.sequenced += queued - len(waiting)
            self._pace.note(self._clock.monotonic(), self.sequenced)
            ledger = self._ledger
            ledger.now = max(ledger.now, now)
            self.coordinator.tell(
                RunsSequenced(first_seq=first_seq, submissions=tuple(numbered), sequenced_at=ledger.now)
            )
