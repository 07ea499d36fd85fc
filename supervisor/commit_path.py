"""Sequencer, coordinator and committer: started together, and rebuilt together when one of them crashes.

Owns the three actors of the core and what they share in one epoch (board, commit order, context of the runs). Promises: a
rebuilding keeps references and mailboxes; what the journal was told has ended and is answered, what had a seq executes
again under it, what waited waits; whatever an older epoch still sends is refused. Runs on the core: while it rebuilds, none
of the three handles a message.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from loguru import logger

from seqtor.actors.async_reads import AsyncReads
from seqtor.actors.committer import CommitOrder, Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.handlers import Handler
from seqtor.actors.head_watch import HeadWatch
from seqtor.actors.invariants import require
from seqtor.actors.last_writers import LastWriters
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.outbox import Outbox
from seqtor.actors.processes.crew import Crew
from seqtor.actors.publications import Board
from seqtor.actors.rates import Bucket, Pace
from seqtor.actors.resources import Resources
from seqtor.actors.retrying import Retrying
from seqtor.actors.runs import RunContext
from seqtor.actors.sequencer import OutsideRuns, Sequencer, Window
from seqtor.actors.stores.contract import StoreRef, StoreSpec
from seqtor.actors.submissions import Intake, Submission
from seqtor.around import NOTHING, Around
from seqtor.messages.effects import EffectsEnded
from seqtor.messages.journal import AwaitDurable, RunsDurable
from seqtor.messages.lifecycle import Drain
from seqtor.messages.runs import (
    AbortRun,
    CancelTrigger,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    LookAtHead,
    RunsEnded,
)
from seqtor.messages.stores import ApplyCommits
from seqtor.settings import Settings

__all__ = ["CommitPath"]

# Somebody waits for the answer, or nothing else says it. All else was decided by the older epoch, or is in the ledger.
KEPT = (
    AbortRun,
    AwaitDurable,
    CancelTrigger,
    Drain,
    EffectsEnded,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    LookAtHead,
    RunsDurable,
)


class CommitPath:
    """The commit path of one system, through all of its epochs."""

    def __init__(
        self,
        dispatchers: Dispatchers,
        settings: Settings,
        stores: tuple[StoreRef[Any], ...],
        ledger: Ledger,
        intake: Intake,
        cells: tuple[Mailbox, ...],
        root: Mailbox,
        make_outbox: Callable[[Submission[Any]], Outbox],
        resources: Resources,
        may_run: Callable[[tuple[Submission[Any], ...]], tuple[Submission[Any], ...]],
        handlers: Iterable[Handler] = (),
        free_key: Callable[[Submission[Any]], object] = lambda _: None,
        around: Around = NOTHING,
    ) -> None:
        self._dispatchers = dispatchers
        self._settings = settings
        self._stores = stores
        self.ledger = ledger
        self._intake = intake
        self._cells = cells
        self._root = root
        self._make_outbox = make_outbox
        self._resources = resources
        self._may_run = may_run
        buckets = {handler: Bucket(handler.rate) for handler in handlers if handler.rate is not None}
        self.pace = Pace()
        # A simulated system is watched by its test; timers that nobody asked for would be a part of what its seed orders.
        watched = dispatchers.driver is None or "head_warning" in settings.model_fields_set
        after_s = settings.head_warning if watched else None
        self._head_watch = HeadWatch(dispatchers.clock, dispatchers.timers, after_s)
        self._rates: dict[str, Any] = {"buckets": buckets, "pace": self.pace, "timers": dispatchers.timers}
        self._completes = any(handler.by_completion for handler in handlers)
        without_parts = [ref.index for ref in stores if type(ref.spec).part is StoreSpec.part]
        if self._completes and without_parts:
            ledger.last_writers = LastWriters(without_parts)
        self._free_key = free_key
        self._around = around
        self._retrying = Retrying(dispatchers.clock, dispatchers.entropy)
        self.journal: Mailbox | None = None
        self.tell_journal: Callable[[RunsEnded], object]
        # What the journal has told, or is about to tell: up to which seq, and how many records in all.
        self.durable: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.effects: Mailbox | None = None
        self.crew: Crew | None = None
        self.board: Board
        self.order: CommitOrder
        self.sequencer_ref: Any = None
        self.coordinator_ref: Any = None
        self.committer_ref: Any = None
        # The present instances, for what each alone writes and others may read; kept when they have ended.
        self.sequencer: Sequencer
        self.coordinator: Coordinator
        self.committer: Committer

    def start(self, in_flight: Sequence[Submission[Any]], *, journaled: bool) -> None:
        """Start the three; what they are told first is what the edge tells them.

        `in_flight` are the runs of an earlier process that were overtaken: they have their seqs, and slots from the
        beginning. The coordinator is told of them when it knows the others (`RunsResumed`).
        """
        self._journaled = journaled
        committer = self._open_epoch()
        core, root = self._dispatchers.core, self._root
        self.committer_ref = Committer.start_on(core, *committer, journaled=journaled, parent=root, restartable=True)
        coordinator = (self._context(), self.ledger, self._settings.records_max)
        self.coordinator_ref = Coordinator.start_on(
            core, *coordinator, answers_at_once=not journaled, parent=root, restartable=True
        )
        self.sequencer_ref = Sequencer.start_on(
            core,
            self._dispatchers.clock,
            self._window(),
            self.ledger,
            in_flight,
            journaled=journaled,
            outside=self._outside_runs(),
            **self._rates,
            parent=root,
            restartable=True,
        )
        self.wire()

    def rebuild(self, accepted: int, delayed: int) -> None:
        """Start the three anew from the ledger, in a new epoch; all of them are suspended.

        `accepted` is how many triggers the edge has taken to be queued at once, `delayed` how many others; the caller keeps
        it from taking more meanwhile.
        """
        ledger = self.ledger
        self._abandon_attempts()
        ledger.epoch += 1
        ledger.restarts += 1
        for ref in self.refs:
            ref.actor_inbox.drain(lambda message: isinstance(message, KEPT))
        if ledger.told.message is not None:
            self.tell_journal(ledger.told.message)  # Ignored if it has it: the crash may have come before it was told.
        ledger.become_durable(*self.durable())
        through, ahead = ledger.told.through, ledger.told.publication.ahead
        left = list(self._intake.open)
        in_flight = sorted((each for each in left if _is_in_flight(each, through, ahead)), key=_seq)
        room = ledger.waiting_room
        for submission in ledger.ending:
            room.remove(submission)
        for submission in in_flight:
            submission.take_over()  # Who became one with it has its seq too, and cannot be cancelled any more.
        # The crash may have come when several had become one that has no seq: each of them may still be cancelled.
        apart = [part for each in left if each.seq is None for part in each.come_apart()]
        queued = [each for each in apart if each not in room and each not in ledger.ending]
        waiting = room.hold_back(queued)
        room.count_left(delayed)
        if self._completes:
            waiting = (*waiting, *_deferred(left, ledger))
        if ledger.last_writers is not None:
            ledger.last_writers.forget_untold()
        given = range(through + 1, ledger.told.ended + len(in_flight) + 1)
        for seq, submission in zip([seq for seq in given if seq not in ahead], in_flight, strict=True):
            require(submission.seq == seq, "seqs are given without gaps", seq=submission.seq, expected=seq)
            if not hasattr(submission, "sequenced_at"):  # Nobody was told of its seq. Who comes behind it is later.
                submission.sequenced_at = ledger.now
        committer = self._open_epoch()
        self.committer_ref.restart(*committer, journaled=self._journaled)
        self.coordinator_ref.restart(
            self._context(), ledger, self._settings.records_max, in_flight, answers_at_once=not self._journaled
        )
        self.sequencer_ref.restart(
            self._dispatchers.clock, self._window(), ledger, in_flight, waiting, journaled=self._journaled,
            outside=self._outside_runs(), **self._rates,
        )  # fmt: skip
        self.wire()
        self.sequencer.sequenced = accepted - len(waiting)
        for index, cell in enumerate(self._cells):
            publication = ledger.told.publication
            cell.tell(ApplyCommits(seq=publication.seq, state=publication.states[index], epoch=ledger.epoch))
        logger.bind(actor="core").warning(
            "the core goes on in epoch {} after seq {}: {} runs execute again, {} triggers wait",
            ledger.epoch, through, len(in_flight), len(waiting),
        )  # fmt: skip

    @property
    def refs(self) -> tuple[Any, Any, Any]:
        """The three actors, in the order of their start."""
        return self.committer_ref, self.coordinator_ref, self.sequencer_ref

    def _open_epoch(self) -> tuple[Any, ...]:
        """Make what the actors of one epoch share; returns the arguments of the committer."""
        dispatchers, stores, ledger = self._dispatchers, self._stores, self.ledger
        told = ledger.told
        durable = self.board.durable if hasattr(self, "board") else None
        self.board = board = Board(told.publication, ledger.epoch, durable, ledger.last_writers)
        horizon = self._settings.max_in_flight + 1024
        self.order = order = CommitOrder(
            stores, told.publication, ledger.epoch, horizon, board.executing, told.store_seqs, self._retrying
        )  # fmt: skip
        if self._around.watcher is not None:
            self._around.watcher.order(order)
        self._reads = AsyncReads(board.newest, dispatchers.loop.call)
        return (
            order, board, ledger, dispatchers.core, dispatchers.clock, dispatchers.timers, dispatchers.pool, stores,
            self._reads.published,
        )  # fmt: skip

    def _context(self) -> RunContext:
        dispatchers = self._dispatchers
        context = RunContext(
            board=self.board,
            clock=dispatchers.clock,
            committer=self.committer_ref.actor_inbox,
            pool=dispatchers.pool,
            loop=dispatchers.loop,
            stores=self._stores,
            async_reads=self._reads,
            make_outbox=self._make_outbox,
            resources=self._resources,
            outside=dispatchers.outside,
        )
        context.crew = self.crew
        context.instead = self._around.instead
        context.journal = self.journal
        context.journal_restarts = self.ledger.journal_restarts
        self.context = context
        return context

    def _window(self) -> Window:
        return Window(self._dispatchers.threads, self._settings.max_in_flight, self._settings.processes)

    def _outside_runs(self) -> OutsideRuns | None:
        return OutsideRuns(self._settings.max_in_flight, self._rates["buckets"]) if self._completes else None

    def wire(self) -> None:
        """Tell each of the three where the others are, and the actors around them."""
        self.committer, self.coordinator, self.sequencer = [ref._actor_weakref() for ref in self.refs]
        sequencer, coordinator, committer = self.sequencer, self.coordinator, self.committer
        sequencer.coordinator = committer.coordinator = self.coordinator_ref.actor_inbox
        sequencer.committer = self.committer_ref.actor_inbox
        committer.sequencer = coordinator.sequencer = self.sequencer_ref.actor_inbox
        committer.cells = self._cells
        committer.journal = self.tell_journal
        coordinator.may_run = self._may_run
        coordinator.free_key = self._free_key
        coordinator.head_watch = self._head_watch
        self._head_watch.coordinator = self.coordinator_ref.actor_inbox
        sequencer.journal = self.journal
        if self.effects is not None:
            coordinator.effects = self.effects
        self.context.sequencer = self.sequencer_ref.actor_inbox
        self.context.parent = self.ledger.waiting_room.coordinator = self.coordinator_ref.actor_inbox
        self.context.journal = self.journal

    def _abandon_attempts(self) -> None:
        """Let attempts of the older epoch end soon; what they still send is refused."""
        for transaction in list(self.board.executing.values()):
            transaction.abandon()
            self._dispatchers.loop.call(transaction.invalidate)


def _is_in_flight(submission: Submission[Any], through: int, ahead: Container[int]) -> bool:
    seq = submission.seq
    return seq is not None and seq > through and seq not in ahead


def _seq(submission: Submission[Any]) -> int:
    return submission.seq  # type: ignore[return-value]  # Only for those that have one.


def _deferred(left: Iterable[Submission[Any]], ledger: Ledger) -> list[Submission[Any]]:
    """The runs whose last seq has ended as deferred: of those with a seq that is told of, all that have not ended."""
    through, ahead = ledger.told.through, ledger.told.publication.ahead
    ended = {each.submission for message in ledger.unsettled for each in message.runs}
    return [
        each
        for each in left
        if each.handler.by_completion and each.seq is not None and (each.seq <= through or each.seq in ahead)
        and each.ended_as is None and each not in ended
    ]  # fmt: skip
