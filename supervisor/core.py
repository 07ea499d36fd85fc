"""The actors of one running system, wired together.

Owns the start in order (stores, then committer, coordinator, sequencer) and the stop in reverse. The facade talks to this,
and to its `edge` and `asking`; nothing here checks what users pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger
from pykka import ActorDeadError, Timeout

from seqtor.actors.dead_letters import DeadLetters, DeadRun
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.effects import EffectFunctions, Workshop
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.handlers import Handlers
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.held import HeldRuns
from seqtor.actors.journal.history import KeptHistory, kept_from
from seqtor.actors.journal.keys import BoundKeys
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.mailbox import answer as answer_once
from seqtor.actors.outbox import Outbox, Prepare
from seqtor.actors.processes.crew import Crew
from seqtor.actors.processes.opening import open_crew
from seqtor.actors.publications import Publication
from seqtor.actors.reactor import Reactions
from seqtor.actors.reactor.alarms import RESTARTED
from seqtor.actors.resources import ResourceRef
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.deriving import build_new
from seqtor.actors.submissions import Intake
from seqtor.actors.waiting_room import WaitingRoom
from seqtor.around import NOTHING, Around
from seqtor.asking import Asking
from seqtor.commit_path import CommitPath
from seqtor.edge import Edge
from seqtor.effects import RunningEffects
from seqtor.endings import Life, LifeEnd
from seqtor.journaling import Journaling
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import (
    NotRunning,
    OutcomeUnknown,
    RegistrationError,
    Rejected,
)
from seqtor.messages.events import ALARM, make_alarm
from seqtor.messages.lifecycle import Drain
from seqtor.messages.runs import (
    RunsEnded,
    RunsResumed,
)
from seqtor.messages.stores import ApplyCommits
from seqtor.outside import OutsideStores
from seqtor.reactions import RunningReactions
from seqtor.restarts import Restarts
from seqtor.resumed import ResumedRuns
from seqtor.root import Root
from seqtor.schedules import RunningSchedules
from seqtor.settings import Settings
from seqtor.tree.view import Tree, supervisor_of, tree_of

__all__ = ["RunningSystem"]

FIRST_EPOCH = 1


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
        reactions: Reactions | None = None,
        *,
        writes_outside: bool = True,
        around: Around = NOTHING,
    ) -> None:
        self._name = name
        self._around = around
        self._writes_outside = writes_outside
        self._settings = settings
        self._stores = stores
        self._handlers = handlers
        self._prepare = prepare
        self._find_handler = find_handler
        self._upcasts = upcasts
        watcher = around.watcher
        self._backend = backend if backend is None or watcher is None else watcher.backend(backend)
        self._dispatchers = dispatchers
        self._effect_functions = effects
        self._resource_refs = resources
        self._reactions = Reactions() if reactions is None else reactions
        self._resources = around.resources(resources, dispatchers.loop)
        self._broken: str | None = None
        self.end = LifeEnd(dispatchers.driver)
        self.edge = Edge(settings, handlers, dispatchers, prepare)
        self.asking: Asking
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
        edge = self.edge
        self.intake = edge.intake = Intake(
            f"{journal_id[:8]}-{epoch}",
            dispatchers.driver,
            edge.flush,
            lambda each: self.asking.cancel(each),  # noqa: PLW0108 - who answers is made later.
            edge.split,
            {} if self._around.watcher is None else self._around.watcher.open_submissions(),
        )
        workshop = Workshop(
            journal_id, upcasts=self._upcasts, resources=self._resources, intake=self.intake, prepare=self._prepare,
            clock=dispatchers.clock, watcher=self._around.watcher,
        )  # fmt: skip
        self._effects = RunningEffects(self._effect_functions, workshop, recovery)
        self.reactions = RunningReactions(
            self._reactions, self.intake, self._prepare, self._handlers, self._upcasts, settings
        )
        dispatchers.start(lambda: self._path.committer.committed_through + 1)
        recovered = ReplyFuture()
        recovered.driver = dispatchers.driver
        core = dispatchers.core
        self._root_ref = Root.start_on(
            core, tuple(ref.name for ref in stores), recovered, dispatchers.clock, dispatchers.timers,
            dispatchers.entropy(), self._break_down, self.tell_restarted,
        )  # fmt: skip
        self._root: Root = _actor(self._root_ref)
        root = self._root_ref.actor_inbox
        self.outside = outside = OutsideStores(stores if self._writes_outside else (), recovery)
        self._cell_refs = [
            outside.start_cell(
                core if ref.spec.store_class.dispatcher == "core" else dispatchers.dedicated(f"store-{ref.name}"),
                ref, dispatchers.timers, root, None if recovery is None else recovery.checkpoint(ref.name), journal_id,
                parent=root, restartable=True,
            )
            for ref in stores
        ]  # fmt: skip
        try:
            states = recovered.get()
            if self._around.initial is not None:
                states = self._around.initial(stores, states)
            if recovery is not None:
                states = tuple(recovery.states(stores, states))
            states = build_new(stores, states, {} if recovery is None else recovery.shapes)
            self._check_content(states, "the initial content" if recovery is None else "what the journal holds of it")
            resumed = None if recovery is None else ResumedRuns(recovery, stores)
            open_runs = OpenRuns()
            if journal is not None and resumed is not None:
                journal.intake = self.intake
                journal.watch(self._reactions.interests)
                open_runs = journal.open_runs(resumed)
        except BaseException:
            self._stop_actors([*reversed(self._cell_refs), self._root_ref])
            raise
        now = 0.0 if recovery is None else recovery.now
        first = Publication(0, through, states, {}) if recovery is None else recovery.publication(stores, states)
        self._ledger = ledger = Ledger(first, epoch, now)
        outside.follow(ledger, self._cell_refs, states)
        ledger.waiting_room = WaitingRoom(dispatchers.clock, dispatchers.timers, self.intake)
        ledger.dead_letters = DeadLetters(open_runs.dead_runs, open_runs.resubmitted)
        self._path = path = CommitPath(
            dispatchers, settings, stores, ledger, self.intake, tuple(ref.actor_inbox for ref in self._cell_refs), root,
            lambda submission: Outbox(submission, self._prepare, self._effect_functions), self._resources,
            edge.bind_released, self._handlers, edge.free_key, self._around,
        )  # fmt: skip
        if resumed is not None:
            ledger.resumed = resumed.before(ledger.told.publication)
        if journal is None or recovery is None:
            keys = BoundKeys(forget_above=settings.records_max)
            path.tell_journal = self._hold_runs(states)
        else:
            forgotten_through = kept_from(recovery.opened) - 1
            keys = BoundKeys(recovery.backend.keys(), forgotten_through=forgotten_through)
            cells = [ref.actor_inbox for ref in self._cell_refs]
            closed = lambda: f"{self._name!r}: {self._broken or 'the system is stopped'}: the journal is closed"  # noqa: E731
            journal.start(dispatchers, settings, path, cells, root, open_runs, edge.forget_keys, closed, outside)
            self.history = journal.history
            inbox: Mailbox = journal.ref.actor_inbox
            path.journal, path.tell_journal = inbox, inbox.put
            path.durable = lambda: (journal.actor.durable_through, journal.actor.durable_count)
        self._crew = path.crew = open_crew(
            self._handlers, stores, self._resource_refs, dispatchers, settings.processes, self._name
        )
        self._have_watched(first)
        edge.wire(path, journal, keys)
        self.asking = Asking(path, dispatchers, lambda: edge.why_closed)
        overtaken = edge.take_over(open_runs)
        path.start(overtaken, journaled=journal is not None)
        self.schedules = RunningSchedules(self, dispatchers, len(stores) - 1, root)
        edge.note = self.schedules.note
        edge.inbox = path.sequencer_ref.actor_inbox
        if journal is not None:
            journal.wire()
        for ref, state in zip(self._cell_refs, states, strict=True):
            if through:
                ref.actor_inbox.tell(ApplyCommits(seq=through, state=state, epoch=epoch))
        path.effects = self._effects.start(dispatchers, path, root)
        path.wire()
        self.reactions.start(dispatchers, path, root, recovery)
        self._restarts = Restarts(self._root, path, edge, settings, self._drain_again)
        self._restarts.of_core()
        self._restarts.of_stores(stores, self._cell_refs)
        self._restarts.of_effects(self._effects)
        self._restarts.of_reactions(self.reactions)
        if journal is not None:
            self._restarts.of_journal(journal, self._effects, self.reactions)
        if journal is not None:
            journal.check(settings.retain)
        if overtaken:
            path.coordinator_ref.actor_inbox.tell(RunsResumed(submissions=tuple(overtaken)))
        edge.open()
        edge.go_on(open_runs)
        self._effects.resume()
        self.reactions.resume()

    def _have_watched(self, first: Publication) -> None:
        watcher, path = self._around.watcher, self._path
        if watcher is None:
            return
        watcher.began(self._stores, first, journaled=self.journal is not None)
        told, tell = watcher.ended, path.tell_journal

        def tell_both(message: RunsEnded) -> object:
            told(message)
            return tell(message)

        path.tell_journal = tell_both

    def supervise_scheduler(self, ref: Any) -> None:
        """Restart the scheduler when it crashes; it was started just now."""
        self._restarts.of_scheduler(ref)

    def _hold_runs(self, states: tuple[Any, ...]) -> Callable[[RunsEnded], object]:
        """In memory: keep the newest runs for whoever asks what was."""
        self.history = held = HeldRuns(self._stores, states, self._settings.records_max)
        ledger = self._ledger
        return lambda message: held.keep(message, ledger.told.publication.states)

    def _check_content(self, states: tuple[Any, ...], what: str) -> None:
        for ref, state in zip(self._stores, states, strict=True):
            try:
                ref.spec.check(state)
            except Rejected as broken:
                raise RegistrationError(f"store {ref.name!r}: {what} is not valid: {broken}") from broken

    def stop(self, grace_s: float) -> None:
        """Refuse new work, let accepted work end for at most `grace_s`, stop the actors in reverse order."""
        if not self.edge.close():
            return
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
            self.edge.inbox.tell(Drain(reply_to=Once(drained)))

    def _stop_everything(self) -> None:
        self.schedules.stop(self._stop_actors)
        self._effects.hold()
        self.reactions.hold()
        self._ledger.waiting_room.close(journaled=not self.in_memory)
        # Each after who tells it at its stop what has been decided: the committer the journal, the journal the coordinator,
        # the coordinator the effects.
        self._stop_actors([self._path.sequencer_ref, self._path.committer_ref])
        if self.journal is not None:
            self._take_last_checkpoint(self.journal)
            self._stop_actors([self.journal.checkpointer_ref, self.journal.ref])
        self._stop_actors([self._path.coordinator_ref])
        self._effects.stop(self._stop_actors)
        self.reactions.stop(self._stop_actors)
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
        left = "" if self.journal is None else "; what was accepted, delayed triggers too, runs after the next start"
        text = f"the system was stopped before this run had ended; nothing of it was written{left}"
        self._answer_left(lambda: NotRunning(text))

    def _take_last_checkpoint(self, journal: Journaling) -> None:
        if self._broken is not None or journal.checkpoints is None:
            return
        try:
            self.asking.await_durable(self._ledger.told.through, timeout_s=60.0)
            journal.checkpoints.take()
        except Exception as error:  # The journal holds everything; the next start only takes longer.
            logger.opt(exception=error).warning("{}: no checkpoint at the stop: {}", self._name, error)

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
        self._broken = f"{actor} crashed: {type(error).__name__}: {error} ({why})"
        self.edge.break_down(self._broken)
        text = f"the runtime broke down while the answer was pending ({self._broken}): the run may or may not have committed"
        self._effects.hold()
        self.reactions.hold()
        self._answer_left(lambda: OutcomeUnknown(text))
        if self._drained is not None:  # A stop waits for what will not happen any more.
            answer_once(self._drained, None)
        self.end.tell(Life.BROKEN_DOWN, self._broken)

    def _answer_left(self, error: Callable[[], BaseException]) -> None:
        conflicts_of = lambda seq: self._path.order.in_flight(seq)[0]  # noqa: E731
        unsequenced = [submission for submission in list(self.intake.open) if submission.seq is None]
        with self.asking.at_rest:
            self._path.coordinator.give_up(unsequenced, error, conflicts_of)
            self._path.sequencer.let_go()
        self.intake.give_up(error)  # Those that no actor knows: on their way when it crashed.

    # What the facade asks --------------------------------------------------------------------------------------------

    def tell_restarted(self, actor: str, error: BaseException | None, restarts: int) -> None:
        """An actor was restarted: record that as an event, if somebody reacts to it. From any thread."""
        text = None if error is None else f"{type(error).__name__}: {error}"
        self.tell_alarm(RESTARTED, {"actor": actor, "error": text, "restarts": restarts})

    def tell_alarm(self, code: str, payload: Any) -> None:
        """Record what went wrong as an event, if somebody reacts to it. From any thread."""
        if f"event {code}" in self._reactions.interests:
            event = make_alarm(code, payload)
            with contextlib.suppress(NotRunning):  # It stops.
                self.edge.submit_past_the_bound([self._prepare(event, None)], ALARM)

    def begin_outside(self) -> None:
        """Have the stores begin that write outside. Raises RegistrationError for one that cannot."""
        read = None if self.journal is None else self.journal.ref.actor_inbox.put
        self.outside.begin(
            self._cell_refs, self._dispatchers,
            lambda edit: self.edge.submit_past_the_bound([self._prepare(edit, None)])[0], self.tell_alarm, read,
        )  # fmt: skip

    def states_at(self, seq: int) -> tuple[Any, ...]:
        """All stores' states after `seq`, once that is durable. Raises LookupError if its history is not kept."""
        newest = self.newest()
        try:
            if newest.seq < seq:
                self.asking.await_durable(seq)
                newest = self.newest()
            return newest.states if newest.seq == seq else self.history.states_at(seq)
        except ActorDeadError:
            raise NotRunning(f"snapshot({seq}) reads the journal, which is closed: {self.edge.why_closed}") from None

    def trees(self) -> tuple[Tree, ...]:
        """The runtime's own actors, for `system.tree()`."""
        path = self._path
        journal, effects = self.journal, self._effects.ref
        core = (
            ("sequencer", path.sequencer_ref),
            ("coordinator", path.coordinator_ref),
            ("committer", path.committer_ref),
            *([] if self.reactions.ref is None else [("reactor", self.reactions.ref)]),
        )
        scheduler, suspended = self.schedules.trees(), self.outside.suspended()
        shown = len(self._stores) - (not scheduler)  # The store of the schedules is there without any.
        around = [] if journal is None else [("journal", journal.ref), ("checkpointer", journal.checkpointer_ref)]
        return (
            *(tree_of(name, ref) for name, ref in around),
            supervisor_of(
                "stores",
                [
                    tree_of(ref.name, cell, suspended=ref.name in suspended)
                    for ref, cell in zip(self._stores[:shown], self._cell_refs, strict=False)
                ],
            ),
            supervisor_of("core", [tree_of(name, ref) for name, ref in core]),
            *scheduler,
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

    @property
    def read_journal(self) -> Callable[[Callable[[Backend], Any]], Any] | None:
        """Reads the journal between two groups; None if there is none."""
        return None if self.journal is None else self.journal.read

    def dead_letters(self, limit: int) -> list[DeadLetterRecord]:
        """What was given up, newest first: runs and effects."""
        return self._ledger.dead_letters.newest(self._effects.dead_letters(limit, self.asking.reply_of), limit)

    def dead_run(self, seq: int) -> DeadRun | None:
        """The run at `seq` if it is a dead letter."""
        return self._ledger.dead_letters.run_at(seq)

    def visible(self, store: int) -> Any:
        """A store's newest state that runs see; of what has ended durably all is in it."""
        return self._path.board.newest.newest[store]

    def now(self) -> float:
        """The time of day, POSIX seconds."""
        return self._dispatchers.clock.time()

    def newest(self) -> Publication:
        """The newest durable contiguous publication."""
        return self._path.board.durable

    def seq_of(self, store: int) -> int:
        """The last seq that changed a store."""
        return self._path.order.store_seqs[store]


def _actor(ref: Any) -> Any:
    """The actor behind a reference, for wiring before it gets its first message and for what it alone writes."""
    return ref._actor_weakref()
