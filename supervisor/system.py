"""`Supervisor`: the facade that programs use.

Owns what is registered, the life of the system, and the verbs. Everything that runs is behind it, in `core`; the decorators
and the queries are beside it, in `registrations` and `inspection`.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar, overload

from loguru import logger
from pydantic import BaseModel

from seqtor.actors.dead_letters import carry_out_again
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.dispatchers.threaded import ThreadedDispatchers
from seqtor.actors.effects import EffectFunction, EffectFunctions
from seqtor.actors.footprints import footprint_of
from seqtor.actors.handlers import Handlers, did_you_mean, make_handler
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.upcasts import Upcast, Upcasts
from seqtor.actors.not_before import not_before
from seqtor.actors.processes.opening import require_all_found
from seqtor.actors.reactor import Reactions
from seqtor.actors.reactor.alarms import watch_dead_letters
from seqtor.actors.reactor.ticks import schedules_of
from seqtor.actors.reconciling import DEADLINE_S, Reconciling, reconciliation_of, reconciliations
from seqtor.actors.registering import registering, require_not_collecting
from seqtor.actors.resources import ResourceRef
from seqtor.actors.schedules.plans import CATCH_UP_MAX
from seqtor.actors.stores.contract import StoreRef, StoreSpec
from seqtor.actors.submissions import Intake, Submission, require_key
from seqtor.actors.transactions import current_transaction_or_none
from seqtor.around import NOTHING, Around
from seqtor.batches import Batch
from seqtor.control.opening import closing_control, open_control
from seqtor.control.server import ControlServer
from seqtor.core import RunningSystem
from seqtor.endings import Ending, Life
from seqtor.inspection import Inspection
from seqtor.journals import backend_maker, require_apart
from seqtor.known import KnownTriggers
from seqtor.messages.conditions import AnyCondition, parts_of
from seqtor.messages.derived import ReconcileDerived
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import NotRunning, RegistrationError, UseTransaction, WouldDeadlock
from seqtor.messages.events import EventEmitted, make_event, take_event
from seqtor.messages.outside import OutsideEdit
from seqtor.messages.resubmissions import EffectResubmitted
from seqtor.messages.schedules import Misfire, Overlap
from seqtor.messages.triggers import Priority, Trigger
from seqtor.outside import adopting
from seqtor.registrations import Bundle, Registrations
from seqtor.registry import Resources, Stores, deadline_seconds
from seqtor.resubmitting import Resubmitting
from seqtor.schedules import ScheduleRef, Schedules
from seqtor.settings import Settings, seconds
from seqtor.snapshots import Snapshot
from seqtor.tree.handles import ChildHandle
from seqtor.tree.running import SupervisorRef
from seqtor.tree.specs import ChildSpec, SupervisorSpec
from seqtor.tree.users import UserTrees
from seqtor.tree.window import Restart

__all__ = ["Supervisor"]

TriggerT = TypeVar("TriggerT", bound=Trigger[Any])
ResultT = TypeVar("ResultT")
ViewT = TypeVar("ViewT")
ModelT = TypeVar("ModelT", bound=BaseModel)
ValueT = TypeVar("ValueT")
USE_TX_SUBMIT = "tx.submit(...) hands it in together with the commit"


class Supervisor(Registrations, Inspection):
    """A system: stores, handlers, and the actors that execute triggers in one total order.

    `journal` is where everything is kept: None or "memory:" for this process only, a path or `sqlite:///PATH`,
    `postgresql://...`, or a `Backend`. `settings` is a `Settings` or a mapping of its fields. The constructor opens and
    starts nothing. `dispatchers` makes the dispatchers at the start; tests pass
    `SimulatedDispatchers(seed)` to run everything on one thread in a seeded order.

    Raises RegistrationError for a journal or a setting that will not do.
    """

    _writes_outside = True  # Stores that keep something outside do so; not in a test of the program.

    def __init__(
        self,
        journal: str | os.PathLike[str] | Backend | None = None,
        *,
        name: str = "seqtor",
        settings: Settings | Mapping[str, Any] | None = None,
        dispatchers: Callable[[Settings], Dispatchers] | None = None,
    ) -> None:
        self._make_backend: Callable[[], Backend | None] = lambda: None
        with registering():
            self._make_backend = backend_maker(journal)
        self.name = name
        self.settings = Settings.load(settings)
        self._make_dispatchers = dispatchers or (lambda loaded: ThreadedDispatchers(loaded.threads, name))
        self._stores = Stores(self._seq_of)
        self._known = KnownTriggers(self.settings.deadline)
        self._handlers.add(make_handler(EventEmitted, take_event))
        self._handlers.add(make_handler(EffectResubmitted, carry_out_again))
        self._handlers.add_default(make_handler(OutsideEdit, adopting(lambda: self._stores.refs)))
        self._upcasts = Upcasts()
        self._effects = EffectFunctions()
        self._resources = Resources()
        self._schedules = Schedules(self)
        self._schedules.add_handlers(self._handlers.add)
        self._handlers.add(
            make_handler(ReconcileDerived, Reconciling(lambda: self._stores.refs).reconcile, deadline_s=DEADLINE_S)
        )
        self._reactions = Reactions()
        self._running: RunningSystem | None = None
        self._users = UserTrees(self._tell_restarted)
        self._control: ControlServer | None = None
        self._replaying: Intake | None = None
        self._around: Around = NOTHING
        self._stopped = False
        self._log = logger.bind(actor="system")

    # Registration ----------------------------------------------------------------------------------------------------

    def store(
        self,
        name: str,
        spec: StoreSpec[ViewT],
        *,
        restart: Restart | None = None,
        shutdown: float | datetime.timedelta | None = None,
    ) -> StoreRef[ViewT]:
        """Register a store and return its reference, for `tx[ref]` and `snapshot[ref]`.

        `restart` bounds how often its actor is restarted after crashes before the system gives up (default: as the
        settings say); `shutdown` is how long the stop waits for its `close` (default: 5 seconds).
        Raises RegistrationError if the name is taken, the recipe will not do, or the system has been started.
        """
        with registering():
            self._require_open("store")
            reconciliation_of(name, spec)  # Raises for a duration that will not do.
            return self._stores.add(name, spec, restart, shutdown)
        return StoreRef(str(name), -1, spec, self._seq_of)

    @property
    def stores(self) -> Mapping[str, StoreRef[Any]]:
        """The registered stores by name."""
        return MappingProxyType({ref.name: ref for ref in self._stores.refs})

    @property
    def _every_store(self) -> tuple[StoreRef[Any], ...]:
        """The registered stores, and the library's own behind them."""
        return (*self._stores.refs, self._schedules.store_behind(self._stores.refs))

    def schedule(
        self,
        trigger: Trigger[Any],
        *,
        cron: str | None = None,
        every: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
        name: str | None = None,
        timezone: str = "UTC",
        misfire: Misfire = "latest",
        catch_up_max: int = CATCH_UP_MAX,
        overlap: Overlap = "skip",
        jitter: float | datetime.timedelta | None = None,
        start: datetime.datetime | None = None,
        end: datetime.datetime | None = None,
        grace: float | datetime.timedelta | None = None,
        priority: Priority | None = None,
    ) -> ScheduleRef:
        """Have a trigger submitted at certain times; before or after the start. `tx.scheduled_for` is the slot's own time.

        Give one of `cron` (5 fields, or a sixth for seconds at the end, on the clocks of `timezone`), `every` (seconds or a
        timedelta, counted from `start`, or else from the registration) and `at` (one moment). The first slot is the next
        one after the registration. `name` is its identity, in the journal too (default: the trigger's type and the line):
        a changed line begins anew, one that the program does not register any more is paused and reported.

        A slot that is more than `grace` (default 30 s) late was missed, because the system was down, or its machine
        suspended: `misfire` says which of those are made up for, "all" (the newest `catch_up_max`), "latest", "earliest" or
        "skip". `overlap` says what becomes of a slot while an earlier run has not ended: "skip", "queue" (`catch_up_max`
        of them) or "parallel". A slot that starts nothing is recorded, and told as the event `seqtor.missed_slot`. `jitter`
        delays each slot by up to so many seconds, the same in every process; slots before `start` or behind `end` do not
        exist.

        After the start it returns when the registration is durable; a schedule that the program has registered under the
        `name` before is replaced, which the log says. Raises RegistrationError that says what is wrong, also for one that
        would never be due (at the start that is a warning in the log), after the start UnknownTrigger, too; UseTransaction
        inside a handler.
        """
        options = {
            "cron": cron, "every": every, "at": at, "timezone": timezone, "misfire": misfire, "catch_up_max": catch_up_max,
            "overlap": overlap, "jitter": jitter, "start": start, "end": end, "grace": grace,
        }  # fmt: skip
        return self._schedules.register(trigger, name, priority, options)

    def schedule_named(self, name: str) -> ScheduleRef:
        """The schedule of this name, also one of an earlier program; its verbs raise LookupError if there is none."""
        return ScheduleRef(self._schedules, name)

    @overload
    def resource(  # An async one first: what is both is used as an async one.
        self, name: str, opener: Callable[[], AbstractAsyncContextManager[ValueT]]
    ) -> ResourceRef[Awaitable[ValueT]]: ...
    @overload
    def resource(self, name: str, opener: Callable[[], AbstractContextManager[ValueT]]) -> ResourceRef[ValueT]: ...
    def resource(self, name: str, opener: Callable[[], Any]) -> ResourceRef[Any]:
        """Register what handlers and effects share, such as a client or a model; `tx.resource(ref)` returns it.

        `opener` returns a context manager. It is entered once, at the first use, and left at the stop, in reverse order
        of the openings. A plain one is entered on the thread that asks first; an async one on the event loop, for
        coroutine functions only: `await tx.resource(ref)`. Raises RegistrationError for a name or an opener that will
        not do.
        """
        with registering():
            self._require_open("resource")
            return self._resources.add(name, opener)
        return ResourceRef(str(name), -1, opener)

    def upcast(self, model: type[ModelT]) -> Callable[[Upcast], Upcast]:
        """Register the function below, which turns old records of a stored model or a trigger type into new ones.

        It is called with the record as JSON (a dict) and its version, if the record does not fit the model as it is now
        or has another version, and returns the dict that fits. Raises RegistrationError for a second one.
        """
        with registering():
            self._require_open("upcast")
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise RegistrationError(f"upcast() takes a stored model or a trigger type, got {model!r}")

        def register(function: Upcast) -> Upcast:
            with registering():
                if not callable(function):
                    raise RegistrationError(f"the upcast of {model.__name__} must be a function, got {function!r}")
                self._upcasts.add(model, function)
            return function

        return register

    @overload
    def supervise(self, spec: ChildSpec, *, name: str | None = None, restart: Restart | None = None) -> ChildHandle: ...
    @overload
    def supervise(
        self, spec: SupervisorSpec, *, name: str | None = None, restart: Restart | None = None
    ) -> SupervisorRef: ...
    def supervise(
        self, spec: ChildSpec | SupervisorSpec, *, name: str | None = None, restart: Restart | None = None
    ) -> ChildHandle | SupervisorRef:
        """Put actors of your own beside the system; before or after the start.

        A `ChildSpec` is one actor under a supervisor of its own, with the window `restart`; returns its handle. A
        `SupervisorSpec` is a whole tree, called `name`; returns its reference. They are started after everything else and
        stopped first, in reverse order. One that gives up is reported and down; the system goes on.

        Raises RegistrationError for what cannot be meant; after the start, StartFailed.
        """
        return self._users.add(spec, name, restart)

    def include(self, bundle: Bundle) -> None:
        """Take over the registrations of a bundle."""
        if not isinstance(bundle, Bundle):
            raise RegistrationError(f"include() takes a Bundle, got {bundle!r}")
        for trigger_type, function, options in bundle.registrations:
            with registering():
                self._take_handler(trigger_type, function, options)
        for effect in bundle.effects:
            with registering():
                self._require_open("effect")
                self._take_effect(effect)
        for condition, reaction, options in bundle.reactions:
            with registering():
                self._require_open("when")
                self._take_reaction(condition, reaction, options)
        for registered in bundle.schedules:
            with registering():
                self._require_open("schedule of a bundle")
                self._schedules.declare(registered)

    def _take_handler(self, trigger_type: type[Trigger[Any]], function: Any, options: Mapping[str, Any]) -> None:
        self._require_open("on")
        settings = self.settings
        default_s = settings.deadline_completion if options["sequence"] == "completion" else settings.deadline
        taken = {**options, "deadline_s": deadline_seconds(options["deadline"], default_s)}
        taken["footprint"] = footprint_of(trigger_type.__name__, options["writes"], self._stores.refs)
        del taken["deadline"], taken["writes"]
        self._handlers.add(make_handler(trigger_type, function, **taken))

    def _take_effect(self, effect: EffectFunction) -> None:
        self._effects.add(effect)

    def _take_reaction(self, condition: AnyCondition, function: Any, options: Mapping[str, Any]) -> None:
        self._reactions.add(condition, function, **options)

    def _require_open(self, verb: str) -> None:
        if self._running is not None or self._stopped:
            raise RegistrationError(f"{verb}() comes before the start: register everything, then start the system")

    # Life ------------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the actors in order and wait until they are ready.

        Raises RegistrationError if a store cannot recover, NotRunning if the system was stopped before.
        """
        require_not_collecting(f"{self.name!r} is started")
        if self._stopped:
            raise NotRunning(f"{self.name!r} was stopped: a system lives once, make a new Supervisor")
        if self._running is not None:
            raise RegistrationError(f"{self.name!r} runs already")
        require_all_found(self._handlers)
        self._require_known_in_reactions()
        stores = self._every_store
        backend = self._make_backend()
        require_apart(backend, stores)
        dispatchers = self._make_dispatchers(self.settings)
        if backend is not None:
            self._known.journaled = True
            for ref in stores:
                ref.spec.prepare_for_journal(self._upcasts)
        self._running = RunningSystem(
            self.name, self.settings, stores, self._handlers, self._known.prepare, self._known.find, self._upcasts, backend,
            dispatchers, self._effects, tuple(self._resources.refs), self._reactions,
            writes_outside=self._writes_outside, around=self._around,
        )  # fmt: skip
        try:
            self._running.begin_outside()
            self._running.schedules.note_open()
            self._schedules.reconcile([*schedules_of(self._reactions), *reconciliations(self._stores.refs)])
            self._running.schedules.begin()
            self._users.start(dispatchers)
            if dispatchers.driver is None:  # A simulated system has one thread, which cannot wait for other processes.
                self._control = open_control(self, backend)
        except BaseException:
            self.stop(0)
            raise
        self._log.info("{}: started: {}", self.name, self._running.standing())
        return self

    def _require_known_in_reactions(self) -> None:
        """Raise RegistrationError if a reaction waits for what cannot happen here."""
        for error in self._unknown_in_reactions():
            raise error

    def _unknown_in_reactions(self) -> Iterator[RegistrationError]:
        """An error for each thing that a reaction waits for and that cannot happen here."""
        watch_dead_letters(self._reactions)
        for reaction in self._reactions:
            for condition in parts_of(reaction.condition):
                kind, where = condition.trigger_type, f"the reaction {reaction.name!r} waits for {condition}"
                if kind is not None and kind not in self._known:
                    near = did_you_mean(kind.trigger_name, (handler.name for handler in self._handlers))
                    yield RegistrationError(f"{where}, but no handler is registered for {kind.__name__}{near}")
                elif kind is not None:
                    self._known.find(kind.trigger_name)
                if condition.kind == "effect" and condition.name not in {*self._effects.names, "*"}:
                    yield RegistrationError(f"{where}, but no effect is registered under that name")

    def stop(self, grace: float | datetime.timedelta | None = None) -> None:
        """Refuse new work, let what was accepted end within `grace`, stop the actors in reverse order.

        What has not ended by then is answered with `NotRunning`. Stopping twice changes nothing. Raises WouldDeadlock
        inside a handler.
        """
        self._refuse_inside_handler("stop", WouldDeadlock, "stop the system from outside")
        if self._running is None:
            self._stopped = True
            return
        grace_s = self.settings.stop_grace if grace is None else seconds(grace, "grace")
        self._stopped = True
        control, self._control = self._control, None
        with closing_control(control):
            self._users.stop(grace_s)  # First: what they still have to submit, they submit to a running system.
            self._running.stop(grace_s)
        self._log.info("{}: {} at seq {}", self.name, self.life.value, self._running.newest().seq)

    @property
    def control(self) -> Path | None:
        """The local socket where other processes talk to the running system, for `seqtor.connect`; None without one."""
        return None if self._control is None else self._control.path

    @property
    def life(self) -> Life:
        """Where the system is between its making and its end."""
        if self._running is None:
            return Life.STOPPED if self._stopped else Life.NOT_STARTED
        ending = self._running.end.ending
        if ending is not None:
            return ending.life
        return Life.STOPPING if self._stopped else Life.RUNNING

    def wait(self, timeout: float | datetime.timedelta | None = None) -> Ending:
        """Wait until the system has ended: it was stopped, or it broke down by itself; says which, and why.

        Raises TimeoutError, NotRunning before the start, WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("wait", WouldDeadlock, "wait outside: the system ends only after this run")
        return self._require_running().end.wait(None if timeout is None else seconds(timeout, "timeout"))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    # Verbs -----------------------------------------------------------------------------------------------------------

    def submit(
        self,
        trigger: Trigger[ResultT],
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> Submission[ResultT]:
        """Hand a trigger in; thread-safe, never blocks.

        With a key it is exactly once: whoever submits the same trigger under the same key gets the first one's outcome,
        across restarts too, and nothing runs again. With `delay` (seconds or a timedelta) or `at` (an aware datetime) it is
        accepted now and does not run before; one that has passed is now. It waits outside of the queue, also across a
        restart. Raises KeyReused for another payload under that key, UnknownTrigger, TypeError for a payload that is mutable
        or cannot be serialised, TypeError or ValueError for a delay that cannot be meant, `Overloaded` when the queue is
        full, NotRunning before the start and after the stop, UseTransaction inside a handler.
        """
        self._refuse_inside_handler("submit", UseTransaction, USE_TX_SUBMIT)
        running, prepared = self._require_running(), self._known.prepare(trigger, priority)
        wait = None if delay is None and at is None else not_before(delay, at)
        if idempotency_key is None:
            return running.edge.submit([prepared], not_before=wait)[0]
        return running.edge.submit_once(prepared, require_key(idempotency_key), wait)

    def submit_many(
        self,
        triggers: Iterable[Trigger[ResultT]],
        *,
        priority: Priority | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> list[Submission[ResultT]]:
        """Hand a batch in, in order: all of them, or none if one is refused. Options and errors are those of `submit`."""
        self._refuse_inside_handler("submit_many", UseTransaction, USE_TX_SUBMIT)
        if isinstance(triggers, Trigger):
            raise TypeError("submit_many() takes an iterable of triggers; hand a single one in with submit()")
        prepared = Batch(self._known.prepare(trigger, priority) for trigger in triggers)
        return self._require_running().edge.submit(prepared, not_before=not_before(delay, at))

    def tell(
        self,
        trigger: Trigger[Any],
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """Hand a trigger in and forget it. Options and errors are those of `submit`."""
        self._refuse_inside_handler("tell", UseTransaction, USE_TX_SUBMIT)
        self.submit(trigger, priority=priority, idempotency_key=idempotency_key, delay=delay, at=at)

    def ask(
        self,
        trigger: Trigger[ResultT],
        *,
        timeout: float | datetime.timedelta | None = None,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
    ) -> ResultT:
        """Hand a trigger in and wait for its result.

        Raises what `submit` and `Submission.result` raise; after a TimeoutError the run goes on. Raises WouldDeadlock
        inside a handler.
        """
        self._refuse_inside_handler(
            "ask", WouldDeadlock, f"return first and let the asked trigger do what depends on it ({USE_TX_SUBMIT})"
        )
        if timeout is not None:
            timeout = seconds(timeout, "timeout")  # Before anything is handed in.
        return self.submit(trigger, priority=priority, idempotency_key=idempotency_key).result(timeout)

    def emit(self, code: str, payload: Any = None, *, idempotency_key: str | None = None) -> str:
        """Record an event; returns its id. It takes a seq like a trigger. Raises what `submit` raises."""
        self._refuse_inside_handler("emit", UseTransaction, "tx.emit(...) records it together with the commit")
        return self.submit(make_event(code, payload), idempotency_key=idempotency_key).id

    def abort(self, seq: int, reason: str) -> None:
        """End the run at `seq` that has not ended: it ends as `aborted` at its turn, its caller gets `Aborted`.

        Returns when that is decided; nothing that the run still does has any effect. Its coroutine is cancelled; a thread
        that is in its handler is given up for a new one, and its next operation on `tx` leaves the handler. Raises
        LookupError for a seq that was not given yet, or whose run has ended, saying how; NotRunning; WouldDeadlock inside
        a handler.
        """
        if isinstance(seq, bool) or not isinstance(seq, int):
            raise TypeError(f"abort() takes a seq (an int from 1), got {seq!r}")
        if not isinstance(reason, str) or not reason:
            raise TypeError(f"abort() takes the reason (a non-empty string) for the record, got {reason!r}")
        self._refuse_inside_handler("abort", WouldDeadlock, "abort from outside; a handler ends itself with Rejected")
        self._require_running().asking.abort(seq, reason)

    def resubmit(self, dead_letter: DeadLetterRecord | str) -> Submission[Any]:
        """Submit what was given up once more: an entry of `dead_letters()`, or its id.

        A run becomes a new run of the same trigger, with the priority that it had and no idempotency key. An effect is
        carried out again under the key that every try had; the submission ends when that is durably decided. Each dead
        letter is resubmitted once; what is given up again is a new dead letter. Raises AlreadyResubmitted, LookupError
        for a dead letter that is not known, RegistrationError for a trigger or an effect that is not registered any more,
        what `submit` raises, UseTransaction inside a handler.
        """
        self._refuse_inside_handler("resubmit", UseTransaction, "submit a trigger of your own with tx.submit(...)")
        again = Resubmitting(self._known.prepare, self._known.named, self._upcasts, self._effects)
        return again.resubmit(self._require_running(), dead_letter)

    def snapshot(self, seq: int | None = None) -> Snapshot:
        """All stores at the newest durable seq, without waiting; with `seq`, as of that seq (waits until it is durable).

        Consistent and immutable. Raises LookupError for a seq whose history is no longer kept, WouldDeadlock inside a
        handler if `seq` is given.
        """
        running, refs = self._require_running(), tuple(self._stores.refs)
        if seq is None:
            newest = running.newest()
            return Snapshot(newest.seq, newest.states, refs)
        if isinstance(seq, bool) or not isinstance(seq, int) or seq < 0:
            raise TypeError(f"snapshot() takes a seq (an int from 0), got {seq!r}")
        self._refuse_inside_handler(
            "snapshot", WouldDeadlock, "tx.peek(store) is the state that the first attempt read"
        )
        return Snapshot(seq, running.states_at(seq), refs)

    @property
    def _handlers(self) -> Handlers:
        return self._known.handlers

    def trigger_type(self, name: str) -> type[Trigger[Any]]:
        """The trigger type of this name that the system takes. Raises UnknownTrigger."""
        return self._known.trigger_type(name)

    def _require_running(self) -> RunningSystem:
        if self._running is None:
            transaction = current_transaction_or_none()
            if transaction is not None and transaction.is_remote:
                raise NotRunning(
                    f"{self.name!r} runs in the process that has started it, not in this worker process: what a handler "
                    'needs of it comes from tx or with the trigger; look from outside, or use executor="thread"'
                )
            fate = "was stopped" if self._stopped else "is not started: with system: ... or system.start()"
            raise NotRunning(f"{self.name!r} {fate}")
        return self._running

    def _refuse_inside_handler(self, verb: str, error: type[UseTransaction | WouldDeadlock], instead: str) -> None:
        transaction = current_transaction_or_none()
        if transaction is None or transaction.intake is None:
            return
        if transaction.is_remote:  # In a worker process, where no system runs: any is the handler's own.
            ours = self._running is None
        else:
            ours = self._running is not None and transaction.intake is self._running.intake
        if ours or transaction.intake is self._replaying:
            raise error(
                f"system.{verb}() inside the handler of {transaction.trigger_name} ({transaction.place}): {instead}"
            )

    def _tell_restarted(self, actor: str, error: BaseException | None, restarts: int) -> None:
        if self._running is not None:
            self._running.tell_restarted(actor, error, restarts)

    def _seq_of(self, store: int) -> int:
        return 0 if self._running is None else self._running.seq_of(store)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "running" if self._running is not None else "not started"
        return f"<Supervisor {self.name!r} {state}>"
