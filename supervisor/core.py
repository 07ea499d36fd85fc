"""The actors of one running system, wired together.

Owns the start in order (stores, then committer, coordinator, sequencer) and the stop in reverse. The facade talks to
this; nothing here checks what users pass.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loguru import logger
from pykka import ActorDeadError, Timeout

from seqtor.actors.coalescing import key_of
from seqtor.actors.committer import Committer
from seqtor.actors.dead_letters import DeadLetters, DeadRun
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.effects import EffectFunctions, Workshop
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.handlers import Handler, Handlers
from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import Backend, KeyRow
from seqtor.actors.journal.decoding import answer_adapter, outcome_of
from seqtor.actors.journal.held import HeldRuns
from seqtor.actors.journal.history import KeptHistory, kept_from
from seqtor.actors.journal.keys import BoundKeys
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.mailbox import answer as answer_once
from seqtor.actors.not_before import NotBefore
from seqtor.actors.outbox import Outbox, Prepare
from seqtor.actors.processes.crew import Crew
from seqtor.actors.processes.opening import open_crew
from seqtor.actors.publications import Publication
from seqtor.actors.resources import ResourceRef, Resources
from seqtor.actors.sequencer import Sequencer
from seqtor.actors.stores.cell import StoreCell
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Intake, Origin, Submission
from seqtor.actors.waiting_room import WaitingRoom
from seqtor.batches import Batch, PreparedTrigger
from seqtor.commit_path import CommitPath
from seqtor.effects import RunningEffects
from seqtor.endings import Life, LifeEnd
from seqtor.journaling import Journaling
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import (
    AlreadyResubmitted,
    NotRunning,
    OutcomeUnknown,
    Overloaded,
    RegistrationError,
    Rejected,
)
from seqtor.messages.journal import AppendIntake, AwaitDurable, CheckpointDue, ReadJournal
from seqtor.messages.lifecycle import ActorCrashed, Drain
from seqtor.messages.runs import (
    AbortRun,
    AcceptTriggers,
    CancelTrigger,
    ConflictReport,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    RunRecord,
    RunsEnded,
    RunsResumed,
    State,
    Stats,
    TriggersDelayed,
)
from seqtor.messages.stores import ApplyCommits, ValidateCommit
from seqtor.messages.triggers import Priority, Trigger
from seqtor.resumed import ResumedRuns
from seqtor.root import Group, Root
from seqtor.settings import Settings
from seqtor.tree.view import Tree, supervisor_of, tree_of
from seqtor.tree.window import Restart

__all__ = ["RunningSystem"]

FIRST_EPOCH = 1
# Of max_queued, LOW may fill all but a quarter; HIGH a twentieth more than it, URGENT a tenth. Who is refused first when the
# system is overloaded is who can wait; nothing that was accepted is given up for others.
LOW_PART, HIGH_PART, URGENT_PART = 4, 20, 10
TRIES = 10
ANSWERS = (ActorDeadError, NotRunning, OutcomeUnknown)


class Once:
    """Stands where an asker's future would, for a question that is asked again: the first answer counts.

    That an actor crashed at the question is no answer.
    """

    __slots__ = ("_future",)

    def __init__(self, future: ReplyFuture) -> None:
        self._future = future

    def set(self, value: Any) -> None:
        """Answer."""
        answer_once(self._future, value)


class RunningSystem:
    """From the start to the stop of one system."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        stores: tuple[StoreRef[Any], ...],
        handlers: Handlers,
        prepare: Prepare,
        find_handler: Callable[[str], object],
        upcasts: Upcasts,
        backend: Backend | None,
        dispatchers: Dispatchers,
        effects: EffectFunctions,
        resources: tuple[ResourceRef[Any], ...],
    ) -> None:
        self._name = name
        self._settings = settings
        self._stores = stores
        self._handlers = handlers
        self._declares = any(handler.footprint is not None for handler in handlers)
        self._prepare = prepare
        self._find_handler = find_handler
        self._upcasts = upcasts
        self._backend = backend
        self._dispatchers = dispatchers
        self._effect_functions = effects
        self._resource_refs = resources
        self._resources = Resources(resources, dispatchers.loop)
        self._lock = threading.RLock()
        self._at_rest = threading.Lock()  # For the coordinator's state once no dispatcher runs it any more.
        self._accepting = False
        self._stopping = False
        self._broken: str | None = None
        self.end = LifeEnd(dispatchers.driver)
        self._coalesces = any(handler.coalesce is not None for handler in handlers)
        self._low_max = settings.max_queued - settings.max_queued // LOW_PART
        self._arrivals = 0
        self._accepted = 0  # Of these, how many were queued at once, and how many are to wait for their time.
        self._delayed = 0
        self._last_event_time = 0.0
        self.intake: Intake
        self.history: HeldRuns | KeptHistory
        self.journal: Journaling | None = None
        self._drained: ReplyFuture | None = None
        self._crew: Crew | None = None
        try:
            self._start()
        except BaseException:
            if self._crew is not None:
                self._crew.stop(1.0)
            dispatchers.stop(1.0)
            if backend is not None:
                backend.close()
            raise

    # Start and stop --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        dispatchers, settings, stores = self._dispatchers, self._settings, self._stores
        if self._backend is not None:
            self.journal = Journaling(
                self._backend, stores, self._handlers, self._find_handler, self._upcasts, self._effect_functions
            )
        journal = self.journal
        recovery = None if journal is None else journal.recovery
        journal_id = f"{dispatchers.entropy():016x}" if recovery is None else recovery.opened.journal_id
        epoch = FIRST_EPOCH if recovery is None else recovery.opened.epoch
        through = 0 if recovery is None else recovery.opened.commits_through
        self.intake = Intake(
            f"{journal_id[:8]}-{epoch}", dispatchers.driver, self._flush_intake, self._cancel, self._split
        )
        workshop = Workshop(
            journal_id, upcasts=self._upcasts, resources=self._resources, intake=self.intake, prepare=self._prepare,
            clock=dispatchers.clock,
        )  # fmt: skip
        self._effects = RunningEffects(self._effect_functions, workshop, recovery)
        dispatchers.start(lambda: self._path.committer.committed_through + 1)
        recovered = ReplyFuture()
        recovered.driver = dispatchers.driver
        core = dispatchers.core
        self._root_ref = Root.start_on(
            core, tuple(ref.name for ref in stores), recovered, dispatchers.clock, dispatchers.timers,
            dispatchers.entropy(), self._break_down,
        )  # fmt: skip
        self._root: Root = _actor(self._root_ref)
        root = self._root_ref.actor_inbox
        self._cell_refs = [
            StoreCell.start_on(
                core if ref.spec.store_class.dispatcher == "core" else dispatchers.dedicated(f"store-{ref.name}"),
                ref, dispatchers.timers, root, None if recovery is None else recovery.checkpoint(ref.name), journal_id,
                parent=root, restartable=True,
            )
            for ref in stores
        ]  # fmt: skip
        try:
            states = recovered.get()
            if recovery is not None:
                states = tuple(recovery.states(stores, states))
            self._check_initial(states)
            resumed = None if recovery is None else ResumedRuns(recovery, stores)
            open_runs = OpenRuns()
            if journal is not None and resumed is not None:
                journal.intake = self.intake
                open_runs = journal.open_runs(resumed)
        except BaseException:
            self._stop_actors([*reversed(self._cell_refs), self._root_ref])
            raise
        now = 0.0 if recovery is None else recovery.now
        first = Publication(0, through, states, {}) if recovery is None else recovery.publication(stores, states)
        self._ledger = ledger = Ledger(first, epoch, now)
        ledger.waiting_room = WaitingRoom(dispatchers.clock, dispatchers.timers, self.intake)
        ledger.dead_letters = DeadLetters(open_runs.dead_runs, open_runs.resubmitted)
        self._path = path = CommitPath(
            dispatchers, settings, stores, ledger, self.intake, tuple(ref.actor_inbox for ref in self._cell_refs), root,
            lambda submission: Outbox(submission, self._prepare, self._effect_functions), self._resources,
            self.bind_released, self._handlers, self._free_key,
        )  # fmt: skip
        if resumed is not None:
            ledger.resumed = resumed.before(ledger.told.publication)
        if journal is None or recovery is None:
            self._keys = BoundKeys(forget_above=settings.records_max)
            path.tell_journal = self._hold_runs(states)
        else:
            forgotten_through = kept_from(recovery.opened) - 1
            self._keys = BoundKeys(recovery.backend.keys(), forgotten_through=forgotten_through)
            cells = [ref.actor_inbox for ref in self._cell_refs]
            closed = lambda: f"{self._name!r}: {self._broken or 'the system is stopped'}: the journal is closed"  # noqa: E731
            journal.start(dispatchers, settings, path, cells, root, open_runs, self._forget_keys, closed)
            self.history = journal.history
            inbox: Mailbox = journal.ref.actor_inbox
            path.journal, path.tell_journal = inbox, inbox.put
            path.durable = lambda: (journal.actor.durable_through, journal.actor.durable_count)
        self._crew = path.crew = open_crew(
            self._handlers, stores, self._resource_refs, dispatchers, settings.processes, self._name
        )
        overtaken = self._bound_to_seqs(open_runs)
        path.start(overtaken, journaled=journal is not None)
        self._inbox = path.sequencer_ref.actor_inbox
        if journal is not None:
            journal.wire()
        for ref, state in zip(self._cell_refs, states, strict=True):
            if through:
                ref.actor_inbox.tell(ApplyCommits(seq=through, state=state, epoch=epoch))
        path.effects = self._effects.start(dispatchers, path, root)
        path.wire()
        self._supervise()
        if journal is not None:
            journal.check(settings.retain)
        if overtaken:
            path.coordinator_ref.actor_inbox.tell(RunsResumed(submissions=tuple(overtaken)))
        self._started_at = dispatchers.clock.monotonic()
        self._accepting = True
        left = tuple(open_runs.submissions.values())
        waiting = ledger.waiting_room.hold_back(self.bind_released(left))
        self._delayed = ledger.waiting_room.from_edge
        ledger.waiting_room.count_left(self._delayed)
        if waiting:
            self._inbox.put(AcceptTriggers(submissions=waiting, bypasses=True))
        self._effects.resume()

    def _bound_to_seqs(self, left: OpenRuns) -> list[Submission[Any]]:
        """Of what had not ended, the runs that were overtaken, by their seqs: they are open, and keep their keys."""
        bound = sorted(
            [each for each in left.submissions.values() if each.seq is not None], key=lambda each: each.seq or 0
        )
        for each in bound:
            self.intake.open[each] = None
            if each.key is not None:
                self._keys.bind(each)
        return bound

    def _supervise(self) -> None:
        """Tell the root who is restarted together, and how."""
        root, path, ledger = self._root, self._path, self._ledger
        root.committer = path.committer_ref.actor_inbox

        def rebuild(_: ActorCrashed) -> None:
            with self._lock:  # The edge takes no trigger meanwhile.
                path.rebuild(self._accepted, self._delayed)
            self._drain_again()

        policy = Restart(self._settings.restart_intensity, self._settings.restart_period)
        root.supervise(Group("the core", path.refs, policy, rebuild))
        for ref, cell in zip(self._stores, self._cell_refs, strict=True):

            def restart(_: ActorCrashed, cell: Any = cell) -> None:
                ledger.restarts += 1
                # It is asked again when it has recovered.
                cell.actor_inbox.drain(lambda message: not isinstance(message, ValidateCommit))
                cell.restart()

            root.supervise(Group(f"store {ref.name!r}", [cell], ref.restart or policy, restart))
        effects = self._effects
        if effects.ref is not None:

            def carry_out_again(_: ActorCrashed) -> None:
                ledger.restarts += 1
                effects.restart(path)
                self._drain_again()

            root.supervise(Group("effects", [effects.ref], policy, carry_out_again))
        journal = self.journal
        if journal is not None:
            checkpointer = journal.checkpointer_ref

            def check_again(_: ActorCrashed) -> None:
                ledger.restarts += 1
                checkpointer.restart()
                checkpointer.tell(CheckpointDue())  # It may have crashed at one.

            def read_again(crashed: ActorCrashed) -> None:
                for ref in (*path.refs, *([] if effects.ref is None else [effects.ref])):
                    ref.suspend()
                journal.restart()
                rebuild(crashed)
                if effects.ref is not None:
                    effects.restart(path)

            root.supervise(Group("checkpointer", [checkpointer], policy, check_again))
            may_restart = lambda: journal.may_restart() and all(ref.is_alive() for ref in path.refs)  # noqa: E731
            root.supervise(Group("the journal", [journal.ref], policy, read_again, may_restart))

    def _hold_runs(self, states: tuple[Any, ...]) -> Callable[[RunsEnded], object]:
        """In memory: keep the newest runs for whoever asks what was."""
        self.history = held = HeldRuns(self._stores, states, self._settings.records_max)
        ledger = self._ledger
        return lambda message: held.keep(message, ledger.told.publication.states)

    def _forget_keys(self, through: int) -> None:
        with self._lock:
            self._keys.forget(through)

    def _flush_intake(self, submission: Submission[Any], future: ReplyFuture) -> None:
        if self.journal is None:
            future.set(None)
        elif self.intake.gone is not None:
            error = self.intake.gone()
            future.set_exception((type(error), error, None))
        else:
            self.journal.flush(submission, future)

    def _cancel(self, submission: Submission[Any]) -> bool:
        """Have a trigger never run, unless it has a seq. The caller's thread waits until that is durable."""
        try:
            return bool(self._reply_of(self._path.coordinator, CancelTrigger(submission=submission, reply_to=None)))
        except ActorDeadError:
            return False  # The system has stopped: with a journal it runs after the next start.

    def _split(self, submission: Submission[Any]) -> None:
        """Let those run by themselves with whom it could not be merged. Twice: the second finds nobody."""
        with self._lock:  # A core that is rebuilt meanwhile finds them open, or is told of them.
            others = submission.split()
            if others:
                self._inbox.put(AcceptTriggers(submissions=others, bypasses=True))

    def _free_key(self, submission: Submission[Any]) -> None:
        with self._lock:
            self._keys.free(submission)

    def _check_initial(self, states: tuple[Any, ...]) -> None:
        for ref, state in zip(self._stores, states, strict=True):
            try:
                ref.spec.check(state)
            except Rejected as broken:
                raise RegistrationError(f"store {ref.name!r}: the initial content is not valid: {broken}") from broken

    def stop(self, grace_s: float) -> None:
        """Refuse new work, let accepted work end for at most `grace_s`, stop the actors in reverse order."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            self._accepting = False
        try:
            self._drain(grace_s)
        finally:  # Also when the waiting is interrupted (Ctrl-C): nothing else would ever stop the actors.
            try:
                self._stop_everything()
            finally:
                self.end.tell(Life.STOPPED, "it was told to stop")

    def _drain(self, grace_s: float) -> None:
        self._drained = drained = ReplyFuture()
        drained.driver = self._dispatchers.driver
        self._ledger.waiting_room.stop_at = self._dispatchers.clock.time() + grace_s
        if self._broken is None:
            self._drain_again()
            try:
                drained.get(timeout=grace_s)
            except Timeout:
                logger.warning("{}: work was left after a grace of {:g} s", self._name, grace_s)

    def _drain_again(self) -> None:
        """Ask for the drain, once more after an actor has crashed that may have lost the question."""
        drained = self._drained
        if drained is not None and not drained.is_set():
            self._inbox.tell(Drain(reply_to=Once(drained)))

    def _stop_everything(self) -> None:
        self._effects.hold()
        self._ledger.waiting_room.close(journaled=not self.in_memory)
        # Each after who tells it at its stop what has been decided: the committer the journal, the journal the coordinator,
        # the coordinator the effects.
        self._stop_actors([self._path.sequencer_ref, self._path.committer_ref])
        if self.journal is not None:
            self._take_last_checkpoint(self.journal)
            self._stop_actors([self.journal.checkpointer_ref, self.journal.ref])
        self._stop_actors([self._path.coordinator_ref])
        self._effects.stop(self._stop_actors)
        stuck = [] if self._crew is None else self._crew.stop(1.0)
        unclosed = self._resources.close()
        if unclosed:
            logger.warning("{}: resources were not closed in time: {}", self._name, ", ".join(unclosed))
        for ref, cell in reversed([*zip(self._stores, self._cell_refs, strict=True)]):
            self._stop_actors([cell], ref.shutdown_s)
        self._stop_actors([self._root_ref])
        stuck += self._dispatchers.stop(1.0)
        if stuck:
            logger.warning("{}: threads did not stop in time and are abandoned: {}", self._name, ", ".join(stuck))
        self._answer_left(
            lambda: NotRunning("the system was stopped before this run had ended; nothing of it was written")
        )

    def _take_last_checkpoint(self, journal: Journaling) -> None:
        if self._broken is not None or journal.checkpoints is None:
            return
        try:
            self._await_durable(self._ledger.told.through, timeout_s=60.0)
            journal.checkpoints.take()
        except Exception as error:  # The journal holds everything; the next start only takes longer.
            logger.opt(exception=error).warning("{}: no checkpoint at the stop: {}", self._name, error)

    def _await_durable(self, seq: int, timeout_s: float | None = None) -> None:
        """Wait until everything through `seq` is durable and can be seen in snapshots. Raises pykka.Timeout."""
        self._reply_of(self._path.coordinator, AwaitDurable(seq=seq, reply_to=None), timeout_s)

    def _stop_actors(self, refs: Iterable[Any], timeout_s: float = 5.0) -> None:
        for ref in refs:
            if ref.suspended:
                ref.give_up("crashed, and the system stops")
            elif ref.is_alive():
                try:
                    ref.stop(timeout=timeout_s)
                except Exception as late:
                    logger.warning("{}: {} did not stop in time ({})", self._name, ref, type(late).__name__)

    def _break_down(self, actor: str, error: BaseException, why: str) -> None:
        """An actor of the runtime is gone: take no more work and leave nobody waiting."""
        self._accepting = False
        self._broken = f"{actor} crashed: {type(error).__name__}: {error} ({why})"
        text = f"the runtime broke down while the answer was pending ({self._broken}): the run may or may not have committed"
        self._effects.hold()
        self._answer_left(lambda: OutcomeUnknown(text))
        if self._drained is not None:  # A stop waits for what will not happen any more.
            answer_once(self._drained, None)
        self.end.tell(Life.BROKEN_DOWN, self._broken)

    def _answer_left(self, error: Callable[[], BaseException]) -> None:
        conflicts_of = lambda seq: self._path.order.in_flight(seq)[0]  # noqa: E731
        unsequenced = [submission for submission in list(self.intake.open) if submission.seq is None]
        with self._at_rest:
            self._path.coordinator.give_up(unsequenced, error, conflicts_of)
            self._path.sequencer.let_go()
        self.intake.give_up(error)  # Those that no actor knows: on their way when it crashed.

    # What the facade asks --------------------------------------------------------------------------------------------

    def submit(
        self,
        triggers: Batch | Sequence[PreparedTrigger],
        key: str | None = None,
        resubmits: str | None = None,
        not_before: NotBefore | None = None,
    ) -> list[Submission[Any]]:
        """Accept triggers in order: all of them, or none (`Overloaded`, `NotRunning`)."""
        clock = self._dispatchers.clock
        # Here, on the submitter's thread: what the program declares is its code.
        declared = [
            handler.footprint and handler.footprint(trigger) for trigger, handler, *_ in triggers if self._declares
        ]
        keys = None
        if self._coalesces and resubmits is None:  # The user's code is not called under the lock.
            keys = [key_of(trigger, handler, key) for trigger, handler, _, _ in triggers]
        with self._lock:
            if not self._accepting:
                raise NotRunning(self._why_not())
            now = clock.time()
            due = None if not_before is None else not_before.due(now)
            if due is not None:
                self._require_room_to_wait(len(triggers))
            else:
                sequencer = self._path.sequencer
                queued = self._accepted + sequencer.bypassed - sequencer.sequenced
                if queued + len(triggers) > self._low_max:
                    self._require_room(queued, triggers)
            # Without an event time of its own a trigger's event is its submission: first in, first out.
            event_time = self._last_event_time = max(self._last_event_time, now)
            if due is not None:
                event_time = due  # Else it would go before all that was submitted while it waited.
            arrival = self._arrivals
            intake = self.intake
            submissions = []
            plain = key is None and resubmits is None and due is None
            origin = None if plain else Origin(key=key, resubmits=resubmits, due=due)
            for trigger, handler, priority, own_time in triggers:
                arrival += 1
                moment = event_time if own_time is None else own_time
                submissions.append(Submission(intake, arrival, trigger, handler, priority, moment, now, origin))
            if self._declares:
                for submission, footprint in zip(submissions, declared, strict=True):
                    submission.footprint = footprint
            self._arrivals = arrival
            accepted = tuple(submissions)
            for each, coalesce in zip(accepted, keys or (), strict=False):
                if coalesce is not None:
                    each.origin = (origin or Origin())._replace(coalesce=coalesce)
            self.intake.open.update(dict.fromkeys(accepted))
            if self.journal is not None:
                self.journal.ref.actor_inbox.put(AppendIntake(submissions=accepted))
            if due is None:
                self._accepted += len(accepted)
                self._inbox.put(AcceptTriggers(submissions=accepted))
            else:
                self._delayed += len(accepted)
                self._path.coordinator_ref.actor_inbox.put(TriggersDelayed(submissions=accepted))
        return submissions

    def submit_once(
        self,
        prepared: tuple[Trigger[Any], Handler, int, float | None],
        key: str | None,
        not_before: NotBefore | None = None,
    ) -> Submission[Any]:
        """Accept a trigger under a key, or find the one that was. Raises KeyReused for another payload, too."""
        assert key is not None
        with self._lock:  # Reentrant: no other submission may bind the key between the look and the acceptance.
            bound = self._keys.find(key, prepared[0])
            if bound is None:
                submission = self.submit([prepared], key, not_before=not_before)[0]
                self._keys.bind(submission)
                return submission
        return bound if isinstance(bound, Submission) else self._ended_under(bound, prepared)

    def _ended_under(self, row: KeyRow, prepared: tuple[Trigger[Any], Handler, int, float | None]) -> Submission[Any]:
        """A submission that is answered with the outcome of an earlier process's run."""
        trigger, handler, priority, _ = prepared
        now = self._dispatchers.clock.time()
        earlier: Submission[Any] = Submission(
            self.intake, 0, trigger, handler, priority, now, now, Origin(row.run, row.key)
        )
        earlier.seq = row.seq
        self.intake.open[earlier] = None
        require(row.seq is not None and self.journal is not None, "a run that has not ended is known", run=row.run)

        def answer(backend: Backend) -> None:
            try:
                found = commit_record(next(iter(backend.commits(row.seq, row.seq))), backend.place)  # type: ignore[arg-type]
                earlier.settle(*outcome_of(found, answer_adapter(handler.function)))
            except Exception as error:  # Compacted just now, or damaged; who waits must be told all the same.
                text = f"the outcome of run {row.run} (seq {row.seq}), under the key {row.key!r}, cannot be read: {error!r}"
                earlier.settle(State.ABORTED, lambda: OutcomeUnknown(text))
            to_wake: list[Callable[[], None]] = []
            earlier.answer(to_wake)
            for wake in to_wake:
                wake()

        journal: Any = self.journal  # There is one, or no outcome would be known from it.
        journal.ref.actor_inbox.tell(ReadJournal(read=answer, reply_to=ReplyFuture()))
        return earlier

    def bind_released(self, submissions: tuple[Submission[Any], ...]) -> tuple[Submission[Any], ...]:
        """Of what a commit submitted, what may run: not what came under a key that is bound already.

        Nor what this was asked about before; a coordinator that is restarted may do so.
        """
        known = self.intake.open
        with self._lock:
            news = [each for each in submissions if each.seq is None and each not in known]
            bound = [each for each in news if each.key is None or self._keys.bind(each)]
            known.update(dict.fromkeys(bound))
            return tuple(bound)

    def states_at(self, seq: int) -> tuple[Any, ...]:
        """All stores' states after `seq`, once that is durable. Raises LookupError if its history is not kept."""
        newest = self.newest()
        try:
            if newest.seq < seq:
                self._await_durable(seq)
                newest = self.newest()
            return newest.states if newest.seq == seq else self.history.states_at(seq)
        except ActorDeadError:
            raise NotRunning(f"snapshot({seq}) reads the journal, which is closed: {self._why_not()}") from None

    def _why_not(self) -> str:
        if self._broken is not None:
            return f"the system takes no more work: {self._broken}"
        return "the system is stopped or stopping: submit while it runs (with system: ...)"

    def _require_room(self, queued: int, triggers: Batch | Sequence[PreparedTrigger]) -> None:
        """Raise Overloaded if so many more do not fit into what the least urgent of them may fill."""
        max_queued, more = self._settings.max_queued, len(triggers)
        lowest = max((priority for _, _, priority, _ in triggers), default=Priority.URGENT)
        limits = {
            Priority.URGENT: max_queued + max_queued // URGENT_PART,
            Priority.HIGH: max_queued + max_queued // HIGH_PART,
            Priority.NORMAL: max_queued,
            Priority.LOW: self._low_max,
        }
        limit = limits[Priority(lowest)]
        if queued + more <= limit:
            return
        clock, left = self._dispatchers.clock, self._path.sequencer.sequenced
        now = clock.monotonic()
        elapsed_s = max(now - self._started_at, 0.001)
        pace = self._path.pace.per_second(now, left) or (self._ledger.told.through + 1) / elapsed_s
        retry_after = min(60.0, max(0.01, min(queued + more - limit, limit) / pace))
        share = "" if limit == max_queued else f" ({Priority(lowest).name} may fill {limit})"
        raise Overloaded(
            f"{queued} triggers wait for a seq and max_queued is {max_queued}{share}, so {more} more were not taken: submit "
            f"again in about {retry_after:.2f} s, or raise max_queued",
            retry_after,
        )

    def _require_room_to_wait(self, more: int) -> None:
        """Raise Overloaded if too many wait for their time. They may wait for long, so they do not count as queued."""
        room, limit = self._ledger.waiting_room, self._settings.max_delayed
        waiting = self._delayed - room.left
        if waiting + more > limit:
            retry_after = min(60.0, max(0.01, room.next_s))
            raise Overloaded(
                f"{waiting} triggers wait for their time and max_delayed is {limit}, so {more} more were not taken: submit "
                f"again in {retry_after:.2f} s at the earliest, or raise max_delayed",
                retry_after,
            )

    def stats(self) -> Stats:
        """A consistent cut along the path of a run."""
        return self._ask([self._path.sequencer, self._path.committer], GetStats(reply_to=None))  # type: ignore[no-any-return]

    def record(self, seq: int) -> RunRecord | None:
        """What is known of the run at a seq."""
        return self._ask([self._path.committer], GetRecord(reply_to=None, seq=seq))  # type: ignore[no-any-return]

    def runs(self, before: int | None, count: int) -> tuple[RunRecord, ...]:
        """What the coordinator knows of the `count` runs below `before` (None: of the newest), newest first."""
        return self._ask([self._path.committer], GetRuns(reply_to=None, before=before, count=count))  # type: ignore[no-any-return]

    def trees(self) -> tuple[Tree, ...]:
        """The runtime's own actors, for `system.tree()`."""
        path = self._path
        journal, effects = self.journal, self._effects.ref
        core = (
            ("sequencer", path.sequencer_ref),
            ("coordinator", path.coordinator_ref),
            ("committer", path.committer_ref),
        )
        around = [] if journal is None else [("journal", journal.ref), ("checkpointer", journal.checkpointer_ref)]
        return (
            *(tree_of(name, ref) for name, ref in around),
            supervisor_of(
                "stores", [tree_of(ref.name, cell) for ref, cell in zip(self._stores, self._cell_refs, strict=True)]
            ),
            supervisor_of("core", [tree_of(name, ref) for name, ref in core]),
            *([] if effects is None else [tree_of("effects", effects)]),
        )

    def standing(self) -> str:
        """Where a system stands that has just started, in words."""
        if self.in_memory:
            return "everything is kept in memory"
        left = len(self.intake.open)
        goes_on = f"; {left} accepted before go on" if left else ""
        return f"epoch {self._path.board.epoch}, seq {self.newest().seq}{goes_on}"

    @property
    def in_memory(self) -> bool:
        """Whether there is no journal."""
        return self._backend is None

    @property
    def recorded_through(self) -> int:
        """The last seq whose record can be read from `history`."""
        return self.history.last if isinstance(self.history, HeldRuns) else self.newest().seq

    def conflicts(self) -> ConflictReport:
        """Where re-execution comes from."""
        return self._ask([self._path.committer], GetConflicts(reply_to=None))  # type: ignore[no-any-return]

    def dead_letters(self, limit: int) -> list[DeadLetterRecord]:
        """What was given up, newest first: runs and effects."""
        return self._ledger.dead_letters.newest(self._effects.dead_letters(limit, self._reply_of), limit)

    def dead_run(self, seq: int) -> DeadRun | None:
        """The run at `seq` if it is a dead letter."""
        return self._ledger.dead_letters.run_at(seq)

    def resubmit(
        self, prepared: tuple[Trigger[Any], Handler, int, float | None], letter: DeadLetterRecord
    ) -> Submission[Any]:
        """Accept the other try of a dead letter. Raises AlreadyResubmitted, and what `submit` raises."""
        dead = self._ledger.dead_letters
        with self._lock:  # Reentrant: nobody else may resubmit it between the look and the acceptance.
            run = dead.resubmission_of(letter.place)
            if run is not None:
                raise AlreadyResubmitted(
                    f"the dead letter {letter.id} ({letter.name}) was submitted again already, as run {run}: look at that "
                    "run; if it was given up too, it has a dead letter of its own"
                )
            submission = self.submit([prepared], resubmits=letter.place)[0]
            dead.mark(letter.place, submission.id)
        return submission

    def abort(self, seq: int, reason: str) -> None:
        """Have the run at a seq end as aborted. Raises LookupError if there is none or it has ended, NotRunning."""
        try:
            self._reply_of(self._path.coordinator, AbortRun(seq=seq, reason=reason, reply_to=None), tries=1)
        except ActorDeadError:
            raise NotRunning(f"the run at seq {seq} cannot be aborted: {self._why_not()}") from None

    def newest(self) -> Publication:
        """The newest durable contiguous publication."""
        return self._path.board.durable

    def seq_of(self, store: int) -> int:
        """The last seq that changed a store."""
        return self._path.order.store_seqs[store]

    def _ask(self, along: list[Sequencer | Committer], query: Any) -> Any:
        """Send a query along the actors that add to it, and on to the coordinator, which answers.

        Of one that has ended, by the stop or by a crash, what it knew last is read where it lies.
        """
        for actor in along:
            try:
                return self._reply_of(actor, query)
            except ActorDeadError:
                query = actor.add_to(query)
        try:
            return self._reply_of(self._path.coordinator, query)
        except ActorDeadError:
            with self._at_rest:
                return self._path.coordinator.answer(query)

    def _reply_of(self, actor: Any, query: Any, timeout_s: float | None = None, tries: int = TRIES) -> Any:
        """What the actor answers; asked again if it crashes at the query, because it is there again at once."""
        while True:
            reply = ReplyFuture()
            reply.driver = self._dispatchers.driver
            actor.actor_inbox.tell(dataclasses.replace(query, reply_to=reply))
            try:
                return reply.get(timeout=timeout_s)
            except ANSWERS:
                raise
            except BaseException:
                tries -= 1
                if not tries or not reply.is_set():
                    raise  # It crashes every time; or this is the caller's own, such as Ctrl-C.


def _actor(ref: Any) -> Any:
    """The actor behind a reference, for wiring before it gets its first message and for what it alone writes."""
    return ref._actor_weakref()
