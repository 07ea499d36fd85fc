"""The committer: decides, in seq order, what commits, and makes it visible.

The shell around `state.CommitOrder`: takes messages, carries out decisions. At the end of a batch it publishes once and
then tells runs to execute again, which thereby see what was published. Coordinator (which answers callers), stores and
sequencer get one message for a whole stretch of commits: when the executing thread has done a stretch of runs, or has
nothing to execute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.committer.judge import Judge
from seqtor.actors.committer.state import CommitOrder, Decisions
from seqtor.actors.dispatchers.contract import AttemptDispatcher, CoreDispatcher, Timers
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.publications import Board, Publication
from seqtor.messages.commits import AttemptCrashed, CommitJudged, CommitRun
from seqtor.messages.runs import GetConflicts, GetRecord, GetRuns, GetStats, ReplaceRun, RunConflicted, RunsEnded
from seqtor.messages.stores import ApplyCommits, ValidateCommit, ValidationDone

__all__ = ["Committer"]

STORE_CRASHES_MAX = 3


class Committer(Actor):
    """Owns the order of commits."""

    receives: ClassVar[tuple[type, ...]] = (
        CommitRun, CommitJudged, ValidationDone, AttemptCrashed, GetStats, GetRecord, GetRuns, GetConflicts,
    )  # fmt: skip

    def __init__(
        self,
        order: CommitOrder,
        board: Board,
        core: CoreDispatcher,
        clock: Clock,
        timers: Timers,
        pool: AttemptDispatcher,
        specs: tuple[Any, ...],
        published: Callable[[Publication], None],
    ) -> None:
        super().__init__()
        self._order = order
        self._board = board
        self._core = core
        self._clock = clock
        self._timers = timers
        self._pool = pool
        self._specs = specs
        self._published = published
        self._telling = False
        self._store_crashes: dict[tuple[int, int], int] = {}
        self._restarts = 0
        self.committed_through = 0  # Read by the pool, which keeps a thread for the head; only this actor writes it.
        self.journal: Callable[[RunsEnded], object]
        self.sequencer: Mailbox
        self.coordinator: Mailbox
        self.cells: tuple[Mailbox, ...]

    def on_commit_run(self, message: CommitRun) -> None:
        refusal = self._order.offer(message)
        if refusal is not None:
            logger.bind(seq=message.seq, attempt=message.attempt, actor="committer").debug("refused: {}", refusal)

    def on_commit_judged(self, message: CommitJudged) -> None:
        self._order.judged(message)

    def on_attempt_crashed(self, message: AttemptCrashed) -> None:
        self._restarts += 1
        self._order.crashed(message.submission, message.seq, message.attempt, message.error)

    def on_validation_done(self, message: ValidationDone) -> None:
        if message.unavailable_s is not None:
            again = ValidationDone(
                store=message.store, seq=message.seq, attempt=message.attempt, error=None, unavailable_s=0.0
            )
            if message.unavailable_s > 0:
                self._timers.call_after(message.unavailable_s, lambda: self.tell_self(again))
            else:
                self._order.awaited_validation(message.store, message.seq, message.attempt)
            return
        if message.crashed:
            self._restarts += 1
            crashes = self._store_crashes[message.store, message.seq] = (
                self._store_crashes.get((message.store, message.seq), 0) + 1
            )
            if crashes < STORE_CRASHES_MAX and self._order.awaited_validation(
                message.store, message.seq, message.attempt
            ):
                return
        self._store_crashes.pop((message.store, message.seq), None)
        self._order.validated(message.store, message.seq, message.attempt, message.error)

    def on_get_stats(self, message: GetStats) -> None:
        self._settle()
        self.coordinator.tell(self.add_to(message))

    def on_get_record(self, message: GetRecord) -> None:
        self._settle()
        self.coordinator.tell(self.add_to(message))

    def on_get_runs(self, message: GetRuns) -> None:
        self._settle()
        self.coordinator.tell(self.add_to(message))

    def on_get_conflicts(self, message: GetConflicts) -> None:
        self._settle()
        self.coordinator.tell(message)

    def add_to(self, query: GetStats | GetRecord | GetRuns | GetConflicts) -> Any:
        """The query with what this actor knows; it passes through all that know something."""
        order = self._order
        if isinstance(query, GetRecord):
            conflicts, blocked_by = order.in_flight(query.seq)
            return GetRecord(reply_to=query.reply_to, seq=query.seq, conflicts=conflicts, blocked_by=blocked_by)
        if isinstance(query, GetRuns):
            return dataclasses.replace(query, in_flight=order.all_in_flight())
        if isinstance(query, GetConflicts):
            return query
        return GetStats(
            reply_to=query.reply_to,
            queued=query.queued,
            current_seq=query.current_seq,
            pending_commits=order.pending,
            committed_through=min(order.next_seq - 1, query.current_seq),
            conflicts_in_flight=order.conflicts_in_flight,
            restarts=self._restarts,
            now=query.now,
        )

    def on_stop(self) -> None:
        """Tell what has been decided: what has committed must not be answered as if it had not."""
        self._settle()

    def _settle(self) -> None:
        """Tell what has been decided, so that the answer of a query counts it."""
        self.on_batch_end()
        if self._telling:
            self._tell()

    def on_batch_end(self) -> None:
        order = self._order
        if order.ended:
            through = order.next_seq - 1
            if through > self.committed_through:
                self._publish(through)
        if order.has_decisions:
            self._carry_out(order.take_decisions())

    def _publish(self, through: int) -> None:
        """Make commits visible at once; who must know of them is told when the executing thread comes to it."""
        order = self._order
        self._published(self._board.publish(through, tuple(order.states), order.take_written()))
        self.committed_through = through
        self._pool.adapt(conflicted=bool(order.conflicts_in_flight))
        if not self._telling:
            self._telling = True
            self._core.after_stretch(self._tell_after_stretch)

    def _tell_after_stretch(self) -> None:
        """Called by the dispatcher and not through the mailbox, so a crash in it is reported from here."""
        try:
            self._tell()
        except BaseException:
            self._fail(None)

    def _tell(self) -> None:
        """Tell everyone what has ended since the last time, in one message each."""
        if not self._telling:
            return  # A query came first and has told it.
        self._telling = False
        order = self._order
        ended, changed = order.take_ended()
        message = RunsEnded(runs=tuple(ended), ended_at=self._clock.time())
        self.journal(message)
        self.coordinator.tell(message)
        for store in changed:
            seq, state = order.store_seqs[store], order.states[store]
            self.cells[store].tell(ApplyCommits(seq=seq, state=state, epoch=order.epoch))
        self.sequencer.tell(message)

    def _carry_out(self, decisions: Decisions) -> None:
        if decisions.judge is not None:
            judge = Judge.start_on(
                self._pool, self._specs, self._pool, self.actor_inbox, decisions.judge.deadline_s, parent=self._parent
            )
            judge.tell(decisions.judge)
        for store, old, new, commit in decisions.validate:
            attempt = self._order.attempt_at_head()
            self.cells[store].tell(ValidateCommit(store=store, attempt=attempt, old=old, new=new, commit=commit))
        for seq, attempt in decisions.replaced:
            self.coordinator.tell(ReplaceRun(seq=seq, attempt=attempt))
        for run, seq, attempt in decisions.restarts:
            run.tell(RunConflicted(seq=seq, attempt=attempt))
