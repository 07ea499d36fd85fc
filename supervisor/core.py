"""The actors of one running system, wired together.

Owns the start in order (stores, then committer, coordinator, sequencer) and the stop in reverse. The facade talks to
this; nothing here checks what users pass.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger
from pykka import ActorDeadError

from seqtor.actors.async_reads import AsyncReads
from seqtor.actors.committer import CommitOrder, Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.handlers import Handler
from seqtor.actors.publications import Board, Publication
from seqtor.actors.runs import RunContext
from seqtor.actors.sequencer import Sequencer, Window
from seqtor.actors.stores.cell import StoreCell
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Intake, Submission
from seqtor.messages.errors import NotRunning, OutcomeUnknown, Overloaded, RegistrationError, Rejected
from seqtor.messages.lifecycle import Drain
from seqtor.messages.runs import AcceptTriggers, ConflictReport, GetConflicts, GetRecord, GetStats, RunRecord, Stats
from seqtor.messages.triggers import Trigger
from seqtor.settings import Settings
from seqtor.tree import Root

__all__ = ["RunningSystem"]

EPOCH = 1


class RunningSystem:
    """From the start to the stop of one system."""

    def __init__(
        self, name: str, settings: Settings, stores: tuple[StoreRef[Any], ...], dispatchers: Dispatchers
    ) -> None:
        self._name = name
        self._settings = settings
        self._stores = stores
        self._dispatchers = dispatchers
        self._lock = threading.Lock()
        self._at_rest = threading.Lock()  # For the coordinator's state once no dispatcher runs it any more.
        self._accepting = False
        self._stopping = False
        self._broken: str | None = None
        self._accepted = 0
        self._last_event_time = 0.0
        self.intake = Intake(dispatchers.entropy(), dispatchers.driver)
        self._start()

    # Start and stop --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        dispatchers, settings, stores = self._dispatchers, self._settings, self._stores
        dispatchers.start(lambda: self._committer.committed_through + 1)
        recovered = ReplyFuture()
        recovered.driver = dispatchers.driver
        core = dispatchers.core
        self._root_ref = Root.start_on(core, tuple(ref.name for ref in stores), recovered, self._break_down)
        root = self._root_ref.actor_inbox
        self._cell_refs = [
            StoreCell.start_on(
                core if ref.spec.store_class.dispatcher == "core" else dispatchers.dedicated(f"store-{ref.name}"),
                ref, dispatchers.timers, root, parent=root,
            )
            for ref in stores
        ]  # fmt: skip
        try:
            states = recovered.get()
            self._check_initial(states)
        except BaseException:
            self._stop_actors([*reversed(self._cell_refs), self._root_ref])
            dispatchers.stop(1.0)
            raise
        self.board = board = Board(states, EPOCH)
        horizon = settings.max_in_flight + 1024
        order = CommitOrder(stores, states, EPOCH, horizon, board.executing)
        specs = tuple(ref.spec for ref in stores)
        reads = AsyncReads(board.newest, dispatchers.loop.call)
        self._committer_ref = Committer.start_on(
            core, order, board, core, dispatchers.clock, dispatchers.timers, dispatchers.pool, specs, reads.published,
            parent=root,
        )  # fmt: skip
        self._committer: Committer = _actor(self._committer_ref)
        self._order = order
        context = RunContext(
            board=board,
            clock=dispatchers.clock,
            committer=self._committer_ref.actor_inbox,
            pool=dispatchers.pool,
            loop=dispatchers.loop,
            stores=stores,
            async_reads=reads,
        )
        self._coordinator_ref = Coordinator.start_on(core, context, settings.records_max, parent=root)
        self._coordinator: Coordinator = _actor(self._coordinator_ref)
        context.parent = self._coordinator_ref.actor_inbox
        window = Window(dispatchers.threads, settings.max_in_flight)
        self._sequencer_ref = Sequencer.start_on(core, dispatchers.clock, window, parent=root)
        self._sequencer: Sequencer = _actor(self._sequencer_ref)
        self._sequencer.coordinator = self._committer.coordinator = self._coordinator_ref.actor_inbox
        self._sequencer.committer = self._committer_ref.actor_inbox
        self._committer.sequencer = self._inbox = self._sequencer_ref.actor_inbox
        self._committer.cells = tuple(ref.actor_inbox for ref in self._cell_refs)
        for ref in self._cell_refs:
            _actor(ref).committer = self._committer_ref.actor_inbox
        self._started_at = dispatchers.clock.monotonic()
        self._accepting = True

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
            self._stop_everything()

    def _drain(self, grace_s: float) -> None:
        drained = ReplyFuture()
        drained.driver = self._dispatchers.driver
        if self._broken is None:
            self._inbox.tell(Drain(reply_to=drained))
            try:
                drained.get(timeout=grace_s)
            except Exception as late:
                logger.warning(
                    "{}: work was left after a grace of {:g} s ({})", self._name, grace_s, type(late).__name__
                )

    def _stop_everything(self) -> None:
        # The coordinator after the committer, which tells it at its stop what has been decided.
        self._stop_actors([self._sequencer_ref, self._committer_ref, self._coordinator_ref, *reversed(self._cell_refs)])
        self._stop_actors([self._root_ref])
        stuck = self._dispatchers.stop(1.0)
        if stuck:
            logger.warning("{}: threads did not stop in time and are abandoned: {}", self._name, ", ".join(stuck))
        self._answer_left(
            lambda: NotRunning("the system was stopped before this run had ended; nothing of it was written")
        )

    def _stop_actors(self, refs: Iterable[Any]) -> None:
        for ref in refs:
            if ref.is_alive():
                try:
                    ref.stop(timeout=5.0)
                except Exception as late:
                    logger.warning("{}: {} did not stop in time ({})", self._name, ref, type(late).__name__)

    def _break_down(self, actor: str, error: BaseException) -> None:
        """An actor of the runtime is gone: take no more work and leave nobody waiting."""
        self._accepting = False
        self._broken = f"{actor} crashed: {type(error).__name__}: {error}"
        text = f"the runtime broke down while the answer was pending ({self._broken}): the run may or may not have committed"
        self._answer_left(lambda: OutcomeUnknown(text))

    def _answer_left(self, error: Callable[[], BaseException]) -> None:
        conflicts_of = lambda seq: self._order.in_flight(seq)[0]  # noqa: E731
        with self._at_rest:
            self._coordinator.give_up(self._sequencer.unsequenced(), error, conflicts_of)
        self.intake.give_up(error)  # Those that no actor knows: on their way when it crashed.

    # What the facade asks --------------------------------------------------------------------------------------------

    def submit(self, triggers: list[tuple[Trigger[Any], Handler, int, float | None]]) -> list[Submission[Any]]:
        """Accept triggers in order: all of them, or none (`Overloaded`, `NotRunning`)."""
        clock = self._dispatchers.clock
        with self._lock:
            if not self._accepting:
                raise NotRunning(self._why_not())
            queued = self._accepted - self._sequencer.sequenced
            if queued + len(triggers) > self._settings.max_queued:
                raise self._overloaded(queued, len(triggers))
            now = clock.time()
            # Without an event time of its own a trigger's event is its submission: first in, first out.
            event_time = self._last_event_time = max(self._last_event_time, now)
            arrival = self._accepted
            intake = self.intake
            submissions = []
            for trigger, handler, priority, own_time in triggers:
                arrival += 1
                moment = event_time if own_time is None else own_time
                submissions.append(Submission(intake, arrival, trigger, handler, priority, moment, now))
            self._accepted = arrival
            self._inbox.put(AcceptTriggers(submissions=tuple(submissions)))
        return submissions

    def _why_not(self) -> str:
        if self._broken is not None:
            return f"the system takes no more work: {self._broken}"
        return "the system is stopped or stopping: submit while it runs (with system: ...)"

    def _overloaded(self, queued: int, more: int) -> Overloaded:
        elapsed_s = max(self._dispatchers.clock.monotonic() - self._started_at, 0.001)
        rate = self._order.next_seq / elapsed_s
        retry_after = min(60.0, max(0.01, min(more, self._settings.max_queued) / rate))
        return Overloaded(
            f"{queued} triggers wait for a seq and max_queued is {self._settings.max_queued}, so {more} more were not "
            f"taken: submit again in about {retry_after:.2f} s, or raise max_queued",
            retry_after,
        )

    def stats(self) -> Stats:
        """A consistent cut along the path of a run."""
        return self._ask([self._sequencer, self._committer], GetStats(reply_to=None))  # type: ignore[no-any-return]

    def record(self, seq: int) -> RunRecord | None:
        """What is known of the run at a seq."""
        return self._ask([self._committer], GetRecord(reply_to=None, seq=seq))  # type: ignore[no-any-return]

    def conflicts(self) -> ConflictReport:
        """Where re-execution comes from."""
        return self._ask([self._committer], GetConflicts(reply_to=None))  # type: ignore[no-any-return]

    def newest(self) -> Publication:
        """The newest durable contiguous publication."""
        return self.board.newest

    def seq_of(self, store: int) -> int:
        """The last seq that changed a store."""
        return self._order.store_seqs[store]

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
            return self._reply_of(self._coordinator, query)
        except ActorDeadError:
            with self._at_rest:
                return self._coordinator.answer(query)

    def _reply_of(self, actor: Any, query: Any) -> Any:
        reply = ReplyFuture()
        reply.driver = self._dispatchers.driver
        actor.actor_inbox.tell(dataclasses.replace(query, reply_to=reply))
        return reply.get()


def _actor(ref: Any) -> Any:
    """The actor behind a reference, for wiring before it gets its first message and for what it alone writes."""
    return ref._actor_weakref()
