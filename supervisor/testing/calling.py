"""`call`: one handler on stores that the test gives, without actors.

Owns the surroundings of that one attempt and what is told of it. Promises: the handler is executed by the runtime's own run
and transaction, and what it wrote is resolved, validated and held against invariants as in a commit; nothing outside is
called, nothing is kept.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Literal, TypeVar, get_type_hints, overload

from pydantic_core import from_json

from seqtor.actors.clock import VirtualClock
from seqtor.actors.completion import CompletionTransaction, make_completion_run
from seqtor.actors.footprints import Declare, Footprint, footprint_of
from seqtor.actors.handlers import Handler, make_handler, require_priority
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.publications import Publication
from seqtor.actors.resources import ResourceRef
from seqtor.actors.runs import AsyncRun, Run, SyncRun
from seqtor.actors.stores.collection import Collection
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.derived import Derived
from seqtor.actors.stores.deriving import build_new
from seqtor.actors.stores.document import Document
from seqtor.actors.submissions import Intake, Origin, Submission
from seqtor.actors.transactions import Transaction
from seqtor.messages.commits import CommitRun, Released
from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.events import EventEmitted
from seqtor.messages.runs import State
from seqtor.messages.triggers import Priority, Trigger
from seqtor.replay.execution import Execution, Program, Surroundings
from seqtor.snapshots import Snapshot
from seqtor.testing.given import CallMade, EffectReleased, GivenCalls, GivenEffects, GivenResources, state_given

__all__ = ["CallResult", "Writes", "call"]

TriggerT = TypeVar("TriggerT", bound=Trigger[Any])
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class _EveryKey(frozenset[str]):
    """The keys of a store of one's own that may have changed."""

    def __contains__(self, _: object) -> bool:
        return True


EVERY_KEY = _EveryKey()
SLOT = "call"  # The schedule that a handler called with `scheduled_for=` was started by.


class Writes(dict[StoreRef[Any], Any]):
    """What was written, by store; of a store that was not written, `{}`. Raises KeyError for what is no store of it."""

    def __init__(self, refs: tuple[StoreRef[Any], ...]) -> None:
        super().__init__()
        self._refs = refs

    def __missing__(self, ref: StoreRef[Any]) -> Any:
        if not any(ref is each for each in self._refs):
            known = ", ".join(repr(each.name) for each in self._refs) or "none"
            raise KeyError(f"{ref!r} is no store of the system that the handler writes to; its stores are {known}")
        return {}


class CallResult(Generic[ResultT_co]):
    """What a handler came to.

    `rejected` is the `Rejected` that it raised, or that of an invariant, else None; then nothing was written or released.
    `writes[store]` is what a commit would change: models by key (None: deleted), values by field of a document, the list of
    writes of a store of one's own; what is derived from them is in `snapshot`, which has the stores after it. `effects` are
    (function, payload), `submitted` the triggers, `emitted` the events as (code, payload), `calls` the calls that were made
    as (function, arguments, keywords).
    """

    def __init__(
        self,
        value: ResultT_co | None,
        rejected: Rejected | None,
        writes: Writes,
        released: Released,
        effects: list[EffectReleased],
        calls: list[CallMade],
        snapshot: Snapshot,
    ) -> None:
        self._value = value
        self.rejected = rejected
        self.writes = writes
        self.effects = effects
        triggers = [each.trigger for each in released.submissions]
        events = [each for each in triggers if isinstance(each, EventEmitted)]
        self.submitted: list[Trigger[Any]] = [each for each in triggers if not isinstance(each, EventEmitted)]
        self.emitted: list[tuple[str, Any]] = [(each.code, from_json(each.payload_json)) for each in events]
        self.calls = calls
        self.snapshot = snapshot

    @property
    def value(self) -> ResultT_co:
        """What the handler returned. Raises AssertionError if it was rejected."""
        if self.rejected is not None:
            raise AssertionError(
                f"there is no result, the handler was rejected: {self.rejected}; look at result.rejected if that is what "
                "the test is about"
            ) from self.rejected
        return self._value  # type: ignore[return-value]  # None is what a handler of that type returned.

    def __repr__(self) -> str:
        if self.rejected is not None:
            return f"<CallResult rejected: {self.rejected}>"
        written = {ref.name: writes for ref, writes in self.writes.items()}
        return f"<CallResult {self._value!r}, writes {written}>"


@overload
def call(
    handler: Callable[[TriggerT, Transaction], Awaitable[ResultT]],
    trigger: TriggerT,
    *,
    stores: Mapping[StoreRef[Any], Any] | None = None,
    calls: Mapping[Callable[..., Any], Any] | None = None,
    resources: Mapping[ResourceRef[Any], Any] | None = None,
    now: datetime.datetime | None = None,
    scheduled_for: datetime.datetime | None = None,
    peek: Mapping[StoreRef[Any], Any] | None = None,
    seq: int = 1,
    attempt: int = 1,
    sequence: Literal["arrival", "completion"] = "arrival",
    writes: Declare | None = None,
) -> CallResult[ResultT]: ...
@overload
def call(
    handler: Callable[[TriggerT, Transaction], ResultT],
    trigger: TriggerT,
    *,
    stores: Mapping[StoreRef[Any], Any] | None = None,
    calls: Mapping[Callable[..., Any], Any] | None = None,
    resources: Mapping[ResourceRef[Any], Any] | None = None,
    now: datetime.datetime | None = None,
    scheduled_for: datetime.datetime | None = None,
    peek: Mapping[StoreRef[Any], Any] | None = None,
    seq: int = 1,
    attempt: int = 1,
    sequence: Literal["arrival", "completion"] = "arrival",
    writes: Declare | None = None,
) -> CallResult[ResultT]: ...
def call(
    handler: Callable[[Any, Transaction], Any],
    trigger: Trigger[Any],
    *,
    stores: Mapping[StoreRef[Any], Any] | None = None,
    calls: Mapping[Callable[..., Any], Any] | None = None,
    resources: Mapping[ResourceRef[Any], Any] | None = None,
    now: datetime.datetime | None = None,
    scheduled_for: datetime.datetime | None = None,
    peek: Mapping[StoreRef[Any], Any] | None = None,
    seq: int = 1,
    attempt: int = 1,
    sequence: Literal["arrival", "completion"] = "arrival",
    writes: Declare | None = None,
) -> CallResult[Any]:
    """Execute a handler once, on the calling thread, and tell what it came to; no system is started.

    `stores` gives contents by reference: a mapping of keys to models for a `Collection`, a model or a mapping of its fields
    for a `Document`, of paths to contents for `Files`, of keys to rows for a `Table`, the state for a store of one's own;
    what is not given is as at its first start. `calls` gives the answers of `tx.call` and `tx.acall` by function: a value,
    an exception, or a function that is called instead.
    `resources` gives what `tx.resource` returns. `now` is `tx.now` (default: always the same moment), `scheduled_for` that
    of a run that a schedule started. `peek` gives the contents that the first attempt read, where they differ, for
    `tx.peek` and `tx.changed`. `sequence` and `writes` are the handler's options: what it writes must be in the footprint.
    What is given and not asked for is no error: several tests may give the same.

    Raises what the handler raises except `Rejected`, NotGiven for a call or a resource that the test does not give,
    FootprintViolation for a write outside of `writes`, TypeError and ValueError for contents that do not fit their store,
    and for a trigger that is none, or not of the type that the handler takes.
    """
    _require_trigger(handler, trigger)
    for name, count in (("seq", seq), ("attempt", attempt)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"call() takes {name}= from 1, an int, got {count!r}")
    for function in calls or {}:
        if not callable(function):
            raise TypeError(f"calls= takes answers by the function that the handler calls, got {function!r}")
    made = make_handler(type(trigger), handler, sequence=sequence)
    around = _Around(stores or {}, peek or {}, calls or {}, resources or {}, _moment(now, VirtualClock().time()), seq)
    slot = None if scheduled_for is None else (SLOT, _moment(scheduled_for, 0.0))
    submission = around.submission(made, trigger, slot)
    if writes is not None:
        submission.footprint = around.footprint(made.name, writes, trigger)
    return _outside_of_a_loop(lambda: around.execute(submission, attempt))


def _require_trigger(handler: Any, trigger: Any) -> None:
    """Raise TypeError for what is no trigger, or not of the type that the handler's first parameter says."""
    name = getattr(handler, "__name__", repr(handler))
    if isinstance(trigger, type):
        raise TypeError(
            f"call({name}, ...) takes a trigger, got the class {trigger.__name__}: make one, {trigger.__name__}(...)"
        )
    if not isinstance(trigger, Trigger):
        raise TypeError(f"call({name}, ...) takes a trigger, an instance of a Trigger subclass, got {trigger!r}")
    expected = _first_annotation(handler)
    if isinstance(expected, type) and issubclass(expected, Trigger) and not isinstance(trigger, expected):
        raise TypeError(f"{name} takes a {expected.__name__}, got {trigger!r}: call it with a trigger of its own type")


def _first_annotation(handler: Any) -> Any:
    """What the first parameter of a handler is annotated with; None if it does not say, or that is not understood here."""
    try:
        names = list(inspect.signature(handler).parameters)
        return get_type_hints(inspect.unwrap(handler)).get(names[0])
    except (NameError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _moment(given: datetime.datetime | None, default: float) -> float:
    if given is None:
        return default
    if given.tzinfo is None:
        raise ValueError(f"now= and scheduled_for= take aware datetimes, got {given!r}: say its tzinfo, datetime.UTC")
    return given.timestamp()


def _outside_of_a_loop(function: Callable[[], ResultT]) -> ResultT:
    """Call on a thread without a running event loop; the handler may be a coroutine function, which gets its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, function).result()


class _Around(Surroundings):
    """The surroundings of one call: stores that come into being when the handler first names one of them."""

    def __init__(
        self,
        stores: Mapping[StoreRef[Any], Any],
        peek: Mapping[StoreRef[Any], Any],
        calls: Mapping[Callable[..., Any], Any],
        resources: Mapping[ResourceRef[Any], Any],
        now: float,
        seq: int,
    ) -> None:
        self._effects = GivenEffects()
        self._calls = GivenCalls(calls)
        self._resources = GivenResources(resources)
        self._intake = Intake("call", None, lambda _, future: future.set(None))
        self._given, self._peek, self._now, self._seq = stores, peek, now, seq
        super().__init__(self._program(()))
        self.context.resources = self._resources  # type: ignore[assignment]
        self.newest = Publication(0, seq - 1, (), {})
        self.first = Publication(-1, seq - 1, (), {})
        self.first.next = self.newest
        for ref in (*stores, *peek):
            self.open(ref)

    def _program(self, stores: tuple[StoreRef[Any], ...]) -> Program:
        return Program(stores, _no_handler, Upcasts(), self._effects, (), self._prepare, self._intake)

    def open(self, store: Any) -> None:
        """Bring the stores of this one's system into being, if they are not there."""
        if self.context.stores or not isinstance(store, StoreRef) or not store.siblings:
            return
        self.context.stores = refs = tuple(store.siblings)
        for name, given in (("stores", self._given), ("peek", self._peek)):
            for ref in given:
                if not isinstance(ref, StoreRef) or ref not in refs:
                    raise TypeError(f"{name}= takes contents by the StoreRef that system.store() returned, got {ref!r}")
        states = build_new(refs, [self._state(ref, self._given) for ref in refs], {})
        before = tuple([self._state(ref, self._peek, state) for ref, state in zip(refs, states, strict=True)])
        for publication, content in ((self.newest, states), (self.first, before)):
            publication.states = publication.newest = content
        self.newest.writes = {ref.index: EVERY_KEY for ref in self._peek}  # For stores that cannot compare a key.

    def footprint(self, name: str, writes: Declare, trigger: Trigger[Any]) -> Footprint:
        """What the handler declares that it may write. Raises what is wrong with it."""
        declared: Any = writes(trigger) if callable(writes) and not isinstance(writes, StoreRef) else writes
        for each in [] if isinstance(declared, (str, StoreRef)) else declared:
            self.open(each[0] if isinstance(each, tuple) else each)
        make = footprint_of(name, writes, self.context.stores)
        assert make is not None
        return make(trigger)

    def _state(self, ref: StoreRef[Any], given: Mapping[StoreRef[Any], Any], default: Any = None) -> Any:
        if ref in given:
            return state_given(ref, given[ref])
        return ref.spec.build().recover(None) if default is None else default

    def _prepare(
        self, trigger: Trigger[Any], priority: Priority | None
    ) -> tuple[Trigger[Any], Handler, int, float | None]:
        """Take any trigger: which ones have handlers is known to no handler by itself."""
        handler = make_handler(type(trigger), _no_handler)
        chosen = handler.priority if priority is None else int(require_priority(priority, TypeError))
        return trigger, handler, chosen, None

    def submission(self, handler: Handler, trigger: Trigger[Any], slot: tuple[str, float] | None) -> Submission[Any]:
        """What the run executes."""
        origin = Origin("call-1", scheduled=slot)
        submission: Submission[Any] = Submission(
            self._intake, 1, trigger, handler, handler.priority, self._now, self._now, origin
        )
        submission.seq = self._seq
        submission.sequenced_at = self._now
        return submission

    def execute(self, submission: Submission[Any], attempt: int) -> CallResult[Any]:
        """Execute one attempt and judge what it wants to commit."""
        handler, run = submission.handler, _run_of(self, submission)
        run.first_snapshot = self.first
        run._calls = self._calls
        try:
            run._execute(attempt)
        finally:
            self.close()
        intent = self.intent
        missing = self._calls.missing or self._resources.missing
        if missing is not None:  # Whatever the handler has made of it.
            raise missing
        execution = Execution(self._program(self.context.stores), lambda ref: ref.spec.build())
        state, error = intent.outcome, intent.error
        changed: list[tuple[Any, Any, Any]] = []
        try:
            if state is State.COMMITTED:
                state, error, changed = execution.judge(intent, self.newest.states)
        finally:
            execution.close()
        if isinstance(error, Rejected):
            return self._told(intent, [], error)
        if error is not None:
            raise error
        assert state is State.COMMITTED, f"{handler.name} ended as {state}"
        return self._told(intent, changed, None)

    def _told(
        self, intent: CommitRun, changed: list[tuple[Any, Any, Any]], rejected: Rejected | None
    ) -> CallResult[Any]:
        refs = self.context.stores
        states = list(self.newest.states)
        writes = Writes(refs)
        for access, state, changes in changed:
            states[access.store] = state
            ref = refs[access.store]
            if not isinstance(ref.spec, Derived):  # The handler has not written that.
                writes[ref] = dict(changes) if isinstance(ref.spec, (Collection, Document)) else list(changes)
        released = intent.released if intent.released is not None and rejected is None else Released()
        effects = [] if rejected is not None else self._effects.released
        snapshot = Snapshot(intent.seq, tuple(states), refs)
        return CallResult(intent.result, rejected, writes, released, effects, self._calls.made, snapshot)


def _no_handler(*_: Any) -> Any:
    raise RegistrationError("a handler that is called by itself knows no other")


class _FindsStores:
    """A transaction that brings the stores into being when it is asked for the first of them."""

    __slots__ = ()

    def _access(self, store: Any) -> Any:
        self._run.context.board.open(store)  # type: ignore[attr-defined]
        return super()._access(store)  # type: ignore[misc]

    def peek(self, store: Any) -> Any:
        self._run.context.board.open(store)  # type: ignore[attr-defined]
        return super().peek(store)  # type: ignore[misc]


class CalledTransaction(_FindsStores, Transaction):
    """The transaction of a handler that is called by itself."""

    __slots__ = ()


class CalledCompletion(_FindsStores, CompletionTransaction):
    """The same of one with `sequence="completion"`."""

    __slots__ = ()


def _run_of(around: _Around, submission: Submission[Any]) -> Run:
    handler = submission.handler
    run: Any
    if handler.by_completion:
        run = make_completion_run(around.context, submission, outside=False)
        run.transaction_class = CalledCompletion
    else:
        run = (AsyncRun if handler.is_async else SyncRun)(around.context, around.context.pool, submission)
        run.transaction_class = CalledTransaction
    return run  # type: ignore[no-any-return]
