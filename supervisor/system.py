"""`Supervisor`: the facade that programs use.

Owns registration, the checks of what users pass, and the verbs. Everything that runs is behind it, in `core`.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar, overload

from loguru import logger
from pydantic import BaseModel

from seqtor.actors.dead_letters import carry_out_again
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.dispatchers.threaded import ThreadedDispatchers
from seqtor.actors.effects import EffectFunctions, make_effect_function
from seqtor.actors.footprints import Declare, footprint_of
from seqtor.actors.handlers import (
    Handler,
    Handlers,
    did_you_mean,
    event_time_of,
    make_handler,
    require_kept,
    require_payload,
    require_priority,
    require_trigger_type,
)
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.history import History, history_of
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.journal.upcasts import Upcast, Upcasts
from seqtor.actors.not_before import not_before
from seqtor.actors.processes.opening import require_all_found
from seqtor.actors.registering import registering, require_not_collecting
from seqtor.actors.resources import ResourceRef
from seqtor.actors.retries import Retry
from seqtor.actors.stores.contract import StoreRef, StoreSpec
from seqtor.actors.submissions import Intake, Submission, require_key
from seqtor.actors.transactions import current_transaction_or_none
from seqtor.batches import Batch
from seqtor.control.opening import closing_control, open_control
from seqtor.control.server import ControlServer
from seqtor.core import RunningSystem
from seqtor.endings import Ending, Life
from seqtor.journals import backend_maker
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import NotRunning, RegistrationError, UnknownTrigger, UseTransaction, WouldDeadlock
from seqtor.messages.events import EventEmitted, make_event, take_event
from seqtor.messages.records import CommitRecord
from seqtor.messages.resubmissions import EffectResubmitted
from seqtor.messages.runs import ConflictReport, RunRecord, State, Stats
from seqtor.messages.triggers import Priority, Trigger
from seqtor.queries import PIECE, RunFilter, commits, kept_records, require_limit, run_record
from seqtor.registry import (
    Bundle,
    EffectDecorator,
    HandlerDecorator,
    Resources,
    Stores,
    deadline_seconds,
    execute_method_of,
    self_executing,
)
from seqtor.replay import Program, Progress, ReplayReport, replay, require_range
from seqtor.resubmitting import Resubmitting
from seqtor.settings import Settings, seconds
from seqtor.snapshots import Snapshot
from seqtor.tree.handles import ChildHandle
from seqtor.tree.running import SupervisorRef
from seqtor.tree.specs import ChildSpec, SupervisorSpec
from seqtor.tree.users import UserTrees
from seqtor.tree.view import Tree
from seqtor.tree.window import Restart

__all__ = ["Supervisor"]

TriggerT = TypeVar("TriggerT", bound=Trigger[Any])
ResultT = TypeVar("ResultT")
ViewT = TypeVar("ViewT")
ModelT = TypeVar("ModelT", bound=BaseModel)
ValueT = TypeVar("ValueT")
USE_TX_SUBMIT = "tx.submit(...) hands it in together with the commit"


class Supervisor:
    """A system: stores, handlers, and the actors that execute triggers in one total order.

    `journal` is where everything is kept: None or "memory:" for this process only, a path or `sqlite:///PATH`,
    `postgresql://...`, or a `Backend`. `settings` is a `Settings` or a mapping of its fields. The constructor opens and
    starts nothing. `dispatchers` makes the dispatchers at the start; tests pass
    `SimulatedDispatchers(seed)` to run everything on one thread in a seeded order.

    Raises RegistrationError for a journal or a setting that will not do.
    """

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
        self._handlers = Handlers()
        self._handlers.add(make_handler(EventEmitted, take_event))
        self._handlers.add(make_handler(EffectResubmitted, carry_out_again))
        self._upcasts = Upcasts()
        self._journaled = False
        self._stores = Stores(self._seq_of)
        self._effects = EffectFunctions()
        self._resources = Resources()
        self._running: RunningSystem | None = None
        self._users = UserTrees()
        self._control: ControlServer | None = None
        self._replaying: Intake | None = None
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
            self._require_not_started("store")
            return self._stores.add(name, spec, restart, shutdown)
        return StoreRef(str(name), -1, spec, self._seq_of)

    @property
    def stores(self) -> Mapping[str, StoreRef[Any]]:
        """The registered stores by name."""
        return MappingProxyType({ref.name: ref for ref in self._stores.refs})

    def on(
        self,
        trigger_type: type[TriggerT],
        *,
        priority: Priority | None = None,
        deadline: float | datetime.timedelta | None = None,
        version: int = 1,
        retry: Retry | None = None,
        executor: str = "thread",
        sequence: Literal["arrival", "completion"] = "arrival",
        rate: float | None = None,
        writes: Declare | None = None,
        coalesce: Callable[[TriggerT], str | None] | None = None,
        merge: Callable[[TriggerT, TriggerT], TriggerT] | None = None,
    ) -> HandlerDecorator[TriggerT]:
        """Register the function below as the handler of a trigger type; sync or async, called with (trigger, tx).

        `priority` is the default for this type. `deadline` is the handler time of one attempt; after it the run ends
        with `DeadlineExceeded`. `version` is recorded with each run; `verify` skips records of another version, so count
        it up when the handler is to do something else than before. `retry` makes a new run, with a new seq, of one that
        raised an instance of `Retry.on`, or passed its deadline if `on` names `DeadlineExceeded` or a base of it (the
        default does); never of one that was rejected. Without it nothing is retried. `executor="process"` executes a plain
        function in a worker process, for what computes: it must be importable by its name. `sequence="completion"` is for
        agents and other long work: a run executes outside of the order, on one snapshot, and gets its seq when it has
        finished (docs/how-to/agents.md). `rate` is how many runs of this type may begin in a second; further triggers wait
        in the queue, and others go before them.

        `coalesce` gives the key (a str, or None) of a trigger: those that wait under one key become one run, of the newest
        by event time, or of what `merge(old, new)` makes of them; every submission gets its outcome.

        `writes` declares all that the handler may write: a list of stores, or a function of the trigger that returns stores
        and (store, key) pairs. Then later runs that touch nothing of it need not wait for this one, and it waits for the
        earlier ones that may write the same before it executes, instead of executing twice. The function is called where
        the trigger is handed in, and must say the same for the same trigger. A run that writes anything else ends as failed,
        with `FootprintViolation`.

        Raises RegistrationError for a wrong signature, a second handler, a mutable payload, a policy that retries
        `Rejected`, an executor that cannot be, a `writes` that names no stores of this system.
        """
        with registering():
            require_trigger_type(trigger_type)
        return HandlerDecorator(
            lambda function: self._register(
                trigger_type,
                function,
                priority,
                deadline,
                version,
                retry,
                executor,
                sequence,
                rate,
                writes,
                coalesce,
                merge,
            )
        )

    def effect(self, name: str, *, retry: Retry | None = None) -> EffectDecorator:
        """Register the function below as what carries out an effect; sync or async, called with (context, payload).

        It runs when a commit that released it with `tx.effect(function, payload)` is durable, at least once, with the
        same `context.key` at every try. A Trigger that it returns is submitted exactly once. What it raises is tried
        again as `retry` says (default: `Retry(10)`), then it is a dead letter. `name` is its name in the journal.

        Raises RegistrationError for a name that is taken, a wrong signature, a payload that cannot be kept as JSON.
        """
        with registering():
            self._require_not_started("effect")

        def register(function: Any, local_names: Mapping[str, Any]) -> None:
            with registering():
                self._require_not_started("effect")
                self._effects.add(make_effect_function(name, function, retry, local_names))

        return EffectDecorator(register)

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
            self._require_not_started("resource")
            return self._resources.add(name, opener)
        return ResourceRef(str(name), -1, opener)

    def upcast(self, model: type[ModelT]) -> Callable[[Upcast], Upcast]:
        """Register the function below, which turns old records of a stored model or a trigger type into new ones.

        It is called with the record as JSON (a dict) and its version, if the record does not fit the model as it is now
        or has another version, and returns the dict that fits. Raises RegistrationError for a second one.
        """
        with registering():
            self._require_not_started("upcast")
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
            self._register(trigger_type, function, **options)
        for effect in bundle.effects:
            with registering():
                self._require_not_started("effect")
                self._effects.add(effect)

    def _register(
        self,
        trigger_type: type[Trigger[Any]],
        function: Any,
        priority: Priority | None,
        deadline: float | datetime.timedelta | None,
        version: int,
        retry: Retry | None,
        executor: str = "thread",
        sequence: str = "arrival",
        rate: float | None = None,
        writes: Declare | None = None,
        coalesce: Callable[[Any], str | None] | None = None,
        merge: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        with registering():
            self._require_not_started("on")
            settings = self.settings
            default_s = settings.deadline_completion if sequence == "completion" else settings.deadline
            deadline_s = deadline_seconds(deadline, default_s)
            footprint = footprint_of(trigger_type.__name__, writes, self._stores.refs)
            handler = make_handler(
                trigger_type, function, priority=priority, deadline_s=deadline_s, version=version, retry=retry,
                executor=executor, sequence=sequence, rate=rate, footprint=footprint, coalesce=coalesce, merge=merge,
            )  # fmt: skip
            self._handlers.add(handler)

    def _require_not_started(self, verb: str) -> None:
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
        dispatchers = self._make_dispatchers(self.settings)
        stores = tuple(self._stores.refs)
        backend = self._make_backend()
        if backend is not None:
            self._journaled = True
            for ref in stores:
                ref.spec.prepare_for_journal(self._upcasts)
        self._running = RunningSystem(
            self.name, self.settings, stores, self._handlers, self._prepare, self._find_handler, self._upcasts, backend,
            dispatchers, self._effects, tuple(self._resources.refs),
        )  # fmt: skip
        try:
            self._users.start(dispatchers)
            if dispatchers.driver is None:  # A simulated system has one thread, which cannot wait for other processes.
                self._control = open_control(self, backend)
        except BaseException:
            self.stop(0)
            raise
        self._log.info("{}: started: {}", self.name, self._running.standing())
        return self

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
        running, prepared = self._require_running(), self._prepare(trigger, priority)
        wait = None if delay is None and at is None else not_before(delay, at)
        if idempotency_key is None:
            return running.submit([prepared], not_before=wait)[0]
        return running.submit_once(prepared, require_key(idempotency_key), wait)

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
        prepared = Batch(self._prepare(trigger, priority) for trigger in triggers)
        return self._require_running().submit(prepared, not_before=not_before(delay, at))

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
        self._require_running().abort(seq, reason)

    def resubmit(self, dead_letter: DeadLetterRecord | str) -> Submission[Any]:
        """Submit what was given up once more: an entry of `dead_letters()`, or its id.

        A run becomes a new run of the same trigger, with the priority that it had and no idempotency key. An effect is
        carried out again under the key that every try had; the submission ends when that is durably decided. Each dead
        letter is resubmitted once; what is given up again is a new dead letter. Raises AlreadyResubmitted, LookupError
        for a dead letter that is not known, RegistrationError for a trigger or an effect that is not registered any more,
        what `submit` raises, UseTransaction inside a handler.
        """
        self._refuse_inside_handler("resubmit", UseTransaction, "submit a trigger of your own with tx.submit(...)")
        again = Resubmitting(self._prepare, self._handler_named, self._upcasts, self._effects)
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

    # Queries ---------------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """The system's figures at this moment; after the stop, those of the stop."""
        return self._require_running().stats()

    def record(self, seq: int) -> RunRecord:
        """What is known of the run at `seq`; with a journal, of any seq that it keeps.

        Raises LookupError for a seq that was not given yet, or is forgotten.
        """
        if isinstance(seq, bool) or not isinstance(seq, int):
            raise TypeError(f"record() takes a seq (an int from 1), got {seq!r}")
        running = self._require_running()
        found = running.record(seq)
        if found is None and seq > 0 and not running.in_memory:
            with self._history() as (history, through):
                for row in history.rows(seq, min(seq, through)):
                    return run_record(commit_record(row, history.place), self._handler_named, self._upcasts)
        if found is None:
            raise LookupError(
                f"there is no record of seq {seq}: seqs start at 1; it was not given yet, or is older than the "
                f"{self.settings.records_max} records that are kept (records_max)"
            )
        return found

    def runs(
        self,
        *,
        state: State | str | Iterable[State | str] | None = None,
        trigger: type[Trigger[Any]] | str | None = None,
        limit: int | None = 100,
    ) -> list[RunRecord]:
        """Runs that have a seq, newest first: those in a state (or one of several), of a trigger type, at most `limit`.

        With a journal also those of earlier processes. A trigger whose type is not registered any more is an
        `UnregisteredTrigger`. Raises TypeError for a state or a trigger that there cannot be, WouldDeadlock inside a
        handler.
        """
        self._refuse_inside_handler("runs", WouldDeadlock, "ask from outside")
        running, limit = self._require_running(), require_limit(limit)
        wanted = RunFilter(state, trigger)
        return list(islice(self._wanted_runs(running, wanted), limit))

    def _wanted_runs(self, running: RunningSystem, wanted: RunFilter) -> Iterator[RunRecord]:
        before: int | None = None
        while known := running.runs(before, PIECE):
            yield from filter(wanted.takes, known)
            before = known[-1].seq
        if not running.in_memory:
            with self._history() as (history, through):
                last = through if before is None else min(through, before - 1)
                yield from kept_records(history, last, wanted, self._handler_named, self._upcasts)

    def commits(
        self, after: int = 0, limit: int | None = None, *, oldest_first: bool = False
    ) -> Iterator[CommitRecord]:
        """The records of the durable commits after a seq, newest first, at most `limit`; read as they are asked for.

        With `oldest_first`, `limit` counts from `after` on: to go on where one has stopped. Before the start and after
        the stop the journal is opened for reading until the iterator is exhausted or closed. Raises JournalCorrupted for
        a record that is not what was written, WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("commits", WouldDeadlock, "ask from outside")
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise TypeError(f"commits() takes the seq after which to begin (an int from 0), got {after!r}")
        limit = require_limit(limit)

        def records() -> Iterator[CommitRecord]:
            with self._history() as (history, through):
                yield from commits(history, after, through, limit, oldest_first=oldest_first)

        return records()

    def tree(self) -> Tree:
        """The supervision tree as it is now: every actor with its state, its restarts and what waits in its mailbox."""
        running, control = self._running, self._control
        runtime: tuple[Tree, ...] = () if running is None else running.trees()
        edge = () if control is None else (control.tree(),)
        return Tree(
            name=self.name, kind="supervisor", state=self.life.value, children=(*runtime, *self._users.trees(), *edge)
        )  # fmt: skip

    def conflicts(self) -> ConflictReport:
        """Hottest keys, handler pairs that collide, executions wasted; of runs that have ended."""
        return self._require_running().conflicts()

    def dead_letters(self, limit: int = 100) -> list[DeadLetterRecord]:
        """What was given up after its last try, runs and effects, newest first, at most `limit`; from before a restart,
        too. `resubmit` takes an entry of it.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise TypeError(f"dead_letters() takes a limit (an int from 0), got {limit!r}")
        return self._require_running().dead_letters(limit)

    # Replay ----------------------------------------------------------------------------------------------------------

    def replay(
        self,
        first: int = 1,
        last: int | None = None,
        *,
        workers: int = 1,
        shuffle: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReplayReport:
        """Execute the runs of a range of seqs again and compare what they give with the journal; nothing is written.

        Each handler gets the state as of its place in the order and its recorded inputs; recorded calls are not made,
        effects not carried out. `workers` threads execute in any order, which `shuffle` seeds: the report is the same.
        Works on a running system, and before the start and after the stop on its journal. `progress` is called with
        (seq, last) now and then. Raises ReplayDiverged for the first run that ends in another way, LookupError for seqs
        that are not kept or not durable yet, RegistrationError for a trigger type that is not registered any more,
        WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("replay", WouldDeadlock, "replay from outside")
        with self._history() as (history, through):
            first, last = require_range(history, through, first, last)
            return self._replay(history, first, last, workers, shuffle, progress)

    def verify(
        self,
        *,
        workers: int = 1,
        shuffle: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReplayReport:
        """Execute everything that the journal keeps again and compare. As `replay`, from the oldest record on."""
        self._refuse_inside_handler("verify", WouldDeadlock, "verify from outside")
        with self._history() as (history, through):
            return self._replay(history, history.first, through, workers, shuffle, progress)

    def _replay(
        self, history: History, first: int, last: int, workers: int, shuffle: int | None, progress: Progress | None
    ) -> ReplayReport:
        if self._running is not None:
            intake = self._running.intake
        else:
            intake = self._replaying = self._replaying or Intake("replay", None, lambda _, future: future.set(None))
        program = Program(
            stores=tuple(self._stores.refs),
            handler_named=self._handler_named,
            upcasts=self._upcasts,
            effects=self._effects,
            resources=tuple(self._resources.refs),
            prepare=self._prepare,
            intake=intake,  # By it a transaction is known to be of this system, so that verbs are refused as they were.
        )
        return replay(program, history, first, last, workers=workers, shuffle=shuffle, progress=progress)

    @contextmanager
    def _history(self) -> Iterator[tuple[History, int]]:
        """What was, and the last seq of it: of the running system, or of its journal, opened for reading."""
        running = self._running
        if running is not None and (running.in_memory or not self._stopped):
            yield running.history, running.recorded_through
            return
        backend = self._make_backend()
        if backend is None:
            raise NotRunning(
                f"{self.name!r} keeps everything in memory and is not started: there is nothing to look at"
            )
        for ref in self._stores.refs:
            ref.spec.prepare_for_journal(self._upcasts)
        opened = backend.open(write=False)
        try:
            yield history_of(backend, opened, tuple(self._stores.refs)), opened.commits_through
        finally:
            backend.close()

    # What was passed -------------------------------------------------------------------------------------------------

    def _prepare(
        self, trigger: Trigger[Any], priority: Priority | None
    ) -> tuple[Trigger[Any], Handler, int, float | None]:
        handler = self._handler_of(trigger)
        if handler.unknown_fields:
            require_payload(trigger, handler)
        own_time = event_time_of(trigger) if handler.has_event_time else None
        if self._journaled and not handler.comes_back:
            require_kept(trigger, handler)
        chosen = handler.priority if priority is None else int(require_priority(priority, TypeError))
        return trigger, handler, chosen, own_time

    def _handler_of(self, trigger: Trigger[Any]) -> Handler:
        try:
            return self._handlers.of(trigger)
        except UnknownTrigger:
            function = execute_method_of(type(trigger)) if isinstance(trigger, Trigger) else None
            if function is None:
                raise
        handler = make_handler(type(trigger), function, deadline_s=self.settings.deadline)
        return self._handlers.add_once(handler)

    def _handler_named(self, name: str) -> Handler:
        """The handler of a trigger type by its name in the journal. Raises RegistrationError."""
        handler = self._handlers.find(name)
        if handler is not None:
            return handler
        kind = self_executing(name)
        if kind is None:
            raise RegistrationError(
                f"the journal holds runs of the trigger {name!r}, for which the program registers no handler: register "
                f"it again{did_you_mean(name, (handler.name for handler in self._handlers))}"
            )
        return self._handlers.add_once(make_handler(kind, execute_method_of(kind), deadline_s=self.settings.deadline))

    def trigger_type(self, name: str) -> type[Trigger[Any]]:
        """The trigger type of this name that the system takes. Raises UnknownTrigger."""
        handler = self._handlers.find(name)
        kind = self_executing(name) if handler is None else handler.trigger_type
        if kind is None:
            known = [handler.name for handler in self._handlers]
            raise UnknownTrigger(f"the system has no trigger type {name!r}{did_you_mean(name, known)}")
        return kind

    def _find_handler(self, name: str) -> None:
        """Register the trigger type of this name, found in a journal, if a class carries its own `execute`."""
        kind = self_executing(name)
        if kind is not None and kind not in self._handlers:
            function = execute_method_of(kind)
            self._handlers.add_once(make_handler(kind, function, deadline_s=self.settings.deadline))

    def _require_running(self) -> RunningSystem:
        if self._running is None:
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

    def _seq_of(self, store: int) -> int:
        return 0 if self._running is None else self._running.seq_of(store)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "running" if self._running is not None else "not started"
        return f"<Supervisor {self.name!r} {state}>"
