"""The committer: decides, in seq order, what commits, and makes it visible.

The shell around `order.CommitOrder`: takes messages, carries out decisions. At the end of a batch it publishes once and
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
from seqtor.actors.committer.decisions import Decisions
from seqtor.actors.committer.judge import Judge
from seqtor.actors.committer.order import CommitOrder
from seqtor.actors.dispatchers.contract import AttemptDispatcher, CoreDispatcher, Timers
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox, answer
from seqtor.actors.publications import Board, Publication
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.commits import AttemptCrashed, BeginRuns, CommitJudged, CommitRun, DeclareRuns, RunsHeld
from seqtor.messages.completion import CommitOutside
from seqtor.messages.errors import Aborted
from seqtor.messages.lifecycle import ActorCrashed, StoreRecovered
from seqtor.messages.runs import (
    AbortRun,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    ReplaceRun,
    RunConflicted,
    RunsEnded,
)
from seqtor.messages.stores import ApplyCommits, ValidateCommit, ValidationDone

__all__ = ["Committer"]

STORE_CRASHES_MAX = 3
WAITS_MAX = 100  # Of which a report on conflicts tells.


class StretchEnded:
    """Told to oneself: now it does not delay the execution of runs to tell what has ended."""


STRETCH_ENDED = StretchEnded()


class Committer(Actor):
    """Owns the order of commits."""

    receives: ClassVar[tuple[type, ...]] = (
        CommitRun, CommitOutside, DeclareRuns, StretchEnded, CommitJudged, ValidationDone, StoreRecovered, AttemptCrashed,
        ActorCrashed, AbortRun, GetStats, GetRecord, GetRuns, GetConflicts,
    )  # fmt: skip

    def __init__(
        self,
        order: CommitOrder,
        board: Board,
        ledger: Ledger,
        core: CoreDispatcher,
        clock: Clock,
        timers: Timers,
        pool: AttemptDispatcher,
        stores: tuple[StoreRef[Any], ...],
        published: Callable[[Publication], None],
        *,
        journaled: bool,
    ) -> None:
        super().__init__()
        self._order = order
        self._board = board
        self._ledger = ledger
        self._journaled = journaled
        self._core = core
        self._clock = clock
        self._timers = timers
        self._pool = pool
        self._stores = stores
        self._published = published
        self._telling = False
        self._judged: tuple[str, int, int] | None = None  # (urn, seq, attempt) of the newest judge.
        self._store_crashed: tuple[int, int, int] | None = None  # (store, seq, how often), of the last that crashed.
        self._published_count = order.ended_count
        # Read by the pool, which keeps a thread for the head; only this actor writes it.
        self.committed_through = ledger.told.through
        self.journal: Callable[[RunsEnded], object]
        self.sequencer: Mailbox
        self.coordinator: Mailbox
        self.cells: tuple[Mailbox, ...]

    def on_commit_run(self, message: CommitRun) -> None:
        refusal = self._order.offer(message)
        if refusal is not None:
            self._note_refusal(message, refusal)

    def on_commit_outside(self, message: CommitOutside) -> None:
        self._note_refusal(message.intent, self._order.offer_outside(message.intent, message.pinned))

    def _note_refusal(self, message: CommitRun, refusal: object) -> None:
        if refusal is not None:
            logger.bind(seq=message.seq, attempt=message.attempt, actor="committer").debug("refused: {}", refusal)

    def on_declare_runs(self, message: DeclareRuns) -> None:
        for submission in message.submissions:
            self._order.declare(submission)

    def on_commit_judged(self, message: CommitJudged) -> None:
        if message.epoch == self._order.epoch:
            self._order.judged(message)

    def on_attempt_crashed(self, message: AttemptCrashed) -> None:
        self._ledger.restarts += 1
        self._order.crashed(message.submission, message.seq, message.attempt, message.error)

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        """A judge crashed (a defect of seqtor or of the machine): judge again, at most three times."""
        judged = self._judged
        if judged is None or judged[0] != message.urn:
            return  # An earlier one: its answer is not waited for any more.
        self._ledger.restarts += 1
        _, seq, attempt = judged
        self._order.judge_crashed(seq, attempt, message.error)

    def on_abort_run(self, message: AbortRun) -> None:
        """Decide that a run ends as aborted; one that has ended meanwhile is for the coordinator to tell about."""
        name = message.submission.handler.name
        error = Aborted(
            f"{name} at seq {message.seq} was aborted by an operator: {message.reason}; nothing was written"
        )
        if self._order.abort(message.submission, message.seq, error):
            if message.reply_to is not None:
                answer(message.reply_to, None)
            return
        self._settle()
        if message.reply_to is not None:
            self.coordinator.tell(dataclasses.replace(message, submission=None))

    def on_validation_done(self, message: ValidationDone) -> None:
        if message.epoch != self._order.epoch:
            return
        if message.unavailable_s is not None:
            again = dataclasses.replace(message, unavailable_s=0.0)
            if message.unavailable_s > 0:
                self._timers.call_after(message.unavailable_s, lambda: self.tell_self(again))
            else:
                self._order.ask_store_again(message.store, message.seq, message.attempt)
            return
        if message.crashed and not self._is_last_crash(message):
            return  # Asked again when the store has recovered.
        self._order.validated(message.store, message.seq, message.attempt, message.error)

    def _is_last_crash(self, message: ValidationDone) -> bool:
        """Count the crash against the commit that the store was asked about: the third one ends its run."""
        crashed = self._store_crashed
        again = crashed is not None and crashed[:2] == (message.store, message.seq)
        crashes = crashed[2] + 1 if crashed is not None and again else 1
        self._store_crashed = (message.store, message.seq, crashes)
        return crashes >= STORE_CRASHES_MAX

    def on_store_recovered(self, message: StoreRecovered) -> None:
        """Bring a store that was restarted up to date, and ask it again about the commit that waits for it."""
        store, told = self._index_of(message.store), self._ledger.told
        publication = told.publication
        self.cells[store].tell(
            ApplyCommits(seq=publication.seq, state=publication.states[store], epoch=self._order.epoch)
        )
        head = self._order.awaits(store)
        if head is not None:
            self._order.ask_store_again(store, *head)

    def _index_of(self, store: str) -> int:
        return next(ref.index for ref in self._stores if ref.name == store)

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
        self.coordinator.tell(self.add_to(message))

    def add_to(self, query: GetStats | GetRecord | GetRuns | GetConflicts) -> Any:
        """The query with what this actor knows; it passes through all that know something."""
        order = self._order
        if isinstance(query, GetRecord):
            conflicts, blocked_by = order.in_flight(query.seq)
            return GetRecord(reply_to=query.reply_to, seq=query.seq, conflicts=conflicts, blocked_by=blocked_by)
        if isinstance(query, GetRuns):
            return dataclasses.replace(query, in_flight=order.all_in_flight())
        if isinstance(query, GetConflicts):
            return GetConflicts(reply_to=query.reply_to, waits=order.waits(WAITS_MAX))
        return GetStats(
            reply_to=query.reply_to,
            queued=query.queued,
            current_seq=query.current_seq,
            pending_commits=order.pending,
            committed_through=min(order.next_seq - 1, query.current_seq),
            conflicts_in_flight=order.conflicts_in_flight,
            restarts=self._ledger.restarts,
            outside=query.outside,
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
        if order.ended_count != self._published_count:
            self._publish()
        if order.has_decisions:
            self._carry_out(order.take_decisions())

    def _publish(self) -> None:
        """Make commits visible at once; who must know of them is told when the executing thread comes to it."""
        order = self._order
        self._published(self._board.publish(order.publication(self._board.newest.index + 1)))
        self.committed_through = order.next_seq - 1
        self._published_count = order.ended_count
        self._pool.adapt(conflicted=bool(order.conflicts_in_flight))
        if not self._telling:
            self._telling = True
            self._core.after_stretch(self._tell_later)

    def _tell_later(self) -> None:
        """Called by the dispatcher: through the mailbox it reaches the instance that is there then."""
        self.tell_self(STRETCH_ENDED)

    def on_stretch_ended(self, _: StretchEnded) -> None:
        """The executing thread has done a stretch of runs, or has nothing to execute."""
        if self._telling:
            self.on_batch_end()  # What has ended is published before it is told.
            self._tell()

    def _tell(self) -> None:
        """Tell everyone what has ended since the last time, in one message each."""
        self._telling = False
        order = self._order
        ended, changed = order.take_ended()
        message = RunsEnded(
            runs=tuple(ended), ended_at=self._clock.time(), through=order.next_seq - 1, count=order.ended_count,
            overtaken=order.overtaken(),
        )  # fmt: skip
        self._ledger.tell(message, self._board.newest, tuple(order.store_seqs))
        self.journal(message)
        if not self._journaled:
            self._board.become_durable(message.count)
        self.coordinator.tell(message)
        for store in changed:
            seq, state = order.store_seqs[store], order.states[store]
            self.cells[store].tell(ApplyCommits(seq=seq, state=state, epoch=order.epoch))
        self.sequencer.tell(message)

    def _carry_out(self, decisions: Decisions) -> None:
        if decisions.judge is not None:
            to_judge = decisions.judge
            judge = Judge.start_on(
                self._pool, self._stores, self._pool, self.actor_inbox, to_judge.deadline_s, parent=self.actor_inbox
            )
            self._judged = (judge.actor_urn, to_judge.seq, to_judge.attempt)
            judge.tell(to_judge)
        for store, attempt, old, new, commit in decisions.validate:
            self.cells[store].tell(
                ValidateCommit(
                    store=store,
                    attempt=attempt,
                    old=old,
                    new=new,
                    commit=commit,
                    epoch=self._order.epoch,
                    committer=self.actor_inbox,
                )
            )
        if decisions.held:
            self.sequencer.tell(RunsHeld(seqs=tuple(decisions.held)))
        if decisions.begun:
            begin = BeginRuns(seqs=tuple(decisions.begun))
            self.coordinator.tell(begin)
            self.sequencer.tell(begin)
        for seq, attempt in decisions.replaced:
            self.coordinator.tell(ReplaceRun(seq=seq, attempt=attempt))
        for run, seq, attempt in decisions.restarts:
            run.tell(RunConflicted(seq=seq, attempt=attempt))
