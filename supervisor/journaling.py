"""The journal of one running system: opened and read, its actors started, restarted and asked.

Owns the way from what is on disk to submissions, and back after a crash of the journal's actor. Promises: what is wrong with
a journal is told to who starts the system, before there is any actor; after a crash the journal is read once more from what
is on disk, and told again what it had not written. Must never go on after an error of the medium: that is final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pykka import ActorDeadError

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.effects import EffectFunctions
from seqtor.actors.footprints import declare, recorded_footprint
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.handlers import Handlers
from seqtor.actors.journal.actor import Begun, Journal
from seqtor.actors.journal.checkpoints import Checkpointer, Checkpoints, Compaction
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.history import KeptHistory
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Intake, Origin, RetryOf, Submission
from seqtor.commit_path import CommitPath
from seqtor.messages.errors import NotRunning, RegistrationError
from seqtor.messages.journal import AppendEntry, CheckpointDue, FlushIntake, ReadJournal
from seqtor.messages.records import AcceptedRecord, EffectRecord, ReactionRecord
from seqtor.messages.runs import RunsEnded
from seqtor.outside import OutsideStores
from seqtor.resumed import ResumedRuns
from seqtor.settings import Settings

__all__ = ["Journaling"]


class Journaling:
    """The journal of one system, until its stop. Making it opens the journal: raises what that or the program lacks."""

    def __init__(
        self,
        backend: Backend,
        stores: tuple[StoreRef[Any], ...],
        handlers: Handlers,
        find_handler: Callable[[str], object],
        upcasts: Upcasts,
        functions: EffectFunctions,
    ) -> None:
        self._backend = backend
        self._stores = stores
        self._handlers = handlers
        self._upcasts = upcasts
        self.recovery = recovery = Recovery(backend, backend.open())
        self.intake: Intake
        self.ref: Any = None
        self.checkpointer_ref: Any = None
        self.checkpoints: Checkpoints | None = None
        self.actor: Journal  # The present instance; kept when it has ended.
        self._watches_other_facts = False
        self.history: KeptHistory
        for record in recovery.accepted.values():
            find_handler(record.trigger.type)
        recovery.require_known((ref.name for ref in stores), (handler.name for handler in handlers), functions.names)
        for left in recovery.effects.values():  # What does not fit any more is refused here.
            where = f"{backend.place}: the effect {left.effect.name!r} of seq {left.seq}"
            functions.named(left.effect.name).payload_of(left.effect, upcasts, where)

    @property
    def place(self) -> str:
        """Where the journal is."""
        return self._backend.place

    # What had not ended ------------------------------------------------------------------------------------------------

    def watch(self, kinds: frozenset[str]) -> None:
        """From this start on these kinds of facts are of interest; before anything is accepted, a checkpoint says so."""
        recovery = self.recovery
        self._watches_other_facts = recovery.reactions.watch(kinds, recovery.opened.epoch)

    def open_runs(self, resumed: ResumedRuns) -> OpenRuns:
        """The work that had not ended, as submissions that nobody waits for yet."""
        recovery = self.recovery
        submissions = [self._submission_of(record, recovery) for record in recovery.open_accepted()]
        calls = [call for calls in resumed.calls.values() for call in calls]
        return _open_runs(recovery, submissions, calls)

    def _submission_of(self, record: AcceptedRecord, recovery: Recovery) -> Submission[Any]:
        handler = self._handlers.named(record.trigger.type)
        trigger = self._upcasts.model(
            handler.trigger_type,
            record.trigger.payload,
            record.trigger.version,
            handler.trigger_type.trigger_version,
            f"{recovery.backend.place}: the accepted trigger {record.run} ({record.trigger.type})",
        )
        calls = recovery.calls.get(record.run)
        retry = None if record.retry_of is None else RetryOf(record.run_number, record.retry_of, record.due or 0.0)
        now = calls[0].now if calls else None
        due = record.due if retry is None else None
        origin = Origin(
            record.run, record.key, record.cause, now, retry, record.resubmits, due, record.deferrals, record.coalesce,
            scheduled=record.scheduled, causes=tuple(record.causes),
        )  # fmt: skip
        submission: Submission[Any] = Submission(
            self.intake, record.arrival, trigger, handler, record.priority, record.event_time, record.submitted_at, origin,
        )  # fmt: skip
        bound = recovery.seq_of.get(record.run)
        if bound is not None:  # It was overtaken: it executes again under its seq, and may write what it declared then.
            submission.seq, submission.sequenced_at = bound.seq, bound.sequenced_at
            submission.footprint = recorded_footprint(bound.writes, self._stores)
            return submission
        try:
            declare(submission)
        except TypeError as error:
            raise RegistrationError(
                f"{recovery.backend.place}: the accepted trigger {record.run} cannot go on: {error}"
            ) from error
        return submission

    # The actors ----------------------------------------------------------------------------------------------------------

    def start(
        self,
        dispatchers: Dispatchers,
        settings: Settings,
        path: CommitPath,
        cells: Sequence[Mailbox],
        root: Mailbox,
        open_runs: OpenRuns,
        forget_keys: Callable[[int], None],
        closed: Callable[[], str],
        outside: OutsideStores,
    ) -> None:
        """Start the journal's actor and the checkpointer. `closed` says why, when the journal does not answer any more."""
        self._dispatchers = dispatchers
        self._path = path
        self._closed = closed
        recovery = self.recovery
        opened = recovery.opened
        begun = Begun.with_work(recovery, open_runs)
        self.ref = Journal.start_on(
            dispatchers.dedicated("journal"), self._backend, begun, self._stores, dispatchers.timers, parent=root,
            restartable=True,
        )  # fmt: skip
        self.actor = self.ref._actor_weakref()
        inbox = self.ref.actor_inbox
        self.checkpoints = checkpoints = Checkpoints(
            inbox,
            self._stores,
            cells,
            lambda: path.board.durable,
            lambda: path.ledger.now,
            dispatchers.driver,
            recovery.info.seq if recovery.info else None,
            outside.changed,
            outside.through,
        )
        compaction = Compaction(
            self.read, lambda: self.actor.checkpoints, settings.retain, dispatchers.clock.time, forget_keys, inbox,
            outside.through,
        )  # fmt: skip
        self.checkpointer_ref = Checkpointer.start_on(
            dispatchers.dedicated("checkpoints"), checkpoints, compaction, parent=root, restartable=True
        )
        self.actor.checkpointer = self.checkpointer_ref.actor_inbox
        self.history = KeptHistory(
            self.read,
            self._backend.place,
            self._stores,
            lambda: self.actor.checkpoints,
            lambda: self.actor.kept_from,
            opened.journal_id,
        )

    def wire(self) -> None:
        """Tell the journal's actor who answers what has become durable."""
        self.actor.coordinator = self._path.coordinator_ref.actor_inbox

    def check(self, retain: float | None) -> None:
        """Take the first checkpoint, and trim what grew old while nothing ran, or between a checkpoint and a crash."""
        assert self.checkpoints is not None
        if self.recovery.needs_checkpoint(self._stores) or self._watches_other_facts:
            self._take_first()
        if retain is not None:
            self.checkpointer_ref.tell(CheckpointDue())

    def _take_first(self) -> None:
        """Raises what the medium has against it: nobody is there yet to be told in another way."""
        assert self.checkpoints is not None
        try:
            self.checkpoints.take(again=True)
        except ActorDeadError:
            if self.actor.failure is None:
                raise
            raise self.actor.failure from None

    def may_restart(self) -> bool:
        """Whether what crashed was the actor, and not the medium."""
        return self.actor.failure is None

    def restart(self) -> None:
        """Start the actor anew: it opens the journal once more, and writes what it had been told and is not on disk.

        On the core, which tells it nothing meanwhile.
        """
        ledger = self._path.ledger
        ledger.journal_restarts += 1
        told = [
            *[RunsEnded(runs=(ended,), ended_at=ended.submission.ended_at) for ended in ledger.undurable],
            *ledger.unsettled,
        ]
        live = list(self.intake.open)
        last = self.actor
        # The effects' actor and the reactor are restarted, too, and tell anew how effects end and what was decided.
        self.ref.actor_inbox.drain(lambda message: not _is_told_again(message))
        self.ref.restart(
            self._backend, lambda: self._begin_again(live), self._stores, self._dispatchers.timers, told, live
        )
        self.actor = actor = self.ref._actor_weakref()
        actor.checkpoints, actor.kept_from = last.checkpoints, last.kept_from
        actor.checkpointer = self.checkpointer_ref.actor_inbox
        self.wire()

    def _begin_again(self, live: Sequence[Submission[Any]]) -> Begun:
        """Open the journal once more and read what is on disk; on its own thread."""
        self._backend.close()
        recovery = Recovery(self._backend, self._backend.open())
        known = {submission.id: submission for submission in live}
        submissions = [
            known.get(record.run) or self._submission_of(record, recovery) for record in recovery.open_accepted()
        ]
        calls = [call for run, calls in recovery.calls.items() if run in recovery.accepted for call in calls]
        open_runs = _open_runs(recovery, submissions, calls)
        return Begun.with_work(recovery, open_runs)

    # Asking it -----------------------------------------------------------------------------------------------------------

    def read(self, read: Callable[[Backend], Any]) -> Any:
        """What `read` returns, called by the journal's actor between two groups. Raises NotRunning when it is closed."""
        reply = ReplyFuture()
        reply.driver = self._dispatchers.driver
        try:
            self.ref.actor_inbox.tell(ReadJournal(read=read, reply_to=reply))
            return reply.get()
        except ActorDeadError:
            raise NotRunning(self._closed()) from None

    def flush(self, submission: Submission[Any], future: ReplyFuture) -> None:
        """Have the future set when the submission is durably accepted."""
        self.ref.actor_inbox.tell(FlushIntake(submission=submission, reply_to=future))


def _is_told_again(message: Any) -> bool:
    return isinstance(message, AppendEntry) and isinstance(message.record, (EffectRecord, ReactionRecord))


def _open_runs(recovery: Recovery, submissions: Iterable[Submission[Any]], calls: Iterable[Any]) -> OpenRuns:
    last = recovery.opened.commits_last
    return OpenRuns(
        submissions, calls, recovery.effects.values(), recovery.dead, recovery.dead_runs, recovery.resubmitted,
        recovery.sequenced.values(), [(run, last) for run in recovery.ended_without_seq], recovery.reactions,
        recovery.closed,
    )  # fmt: skip
