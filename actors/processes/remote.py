"""An attempt in a worker process: the handler's `tx` there, and the run around it.

Owns the worker's end of an attempt. Promises: `tx` is a `Transaction` with the same views, executed here; the attempt
itself is the system's: what is read is told before it is looked at, what is released or called goes through it, and once
it is over the next operation leaves the handler. What the handler comes to is decided by the code of `SyncRun`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from seqtor.actors.calls import CALL_ID, Flight, _called, _hand_out
from seqtor.actors.handlers import Handler, did_you_mean
from seqtor.actors.processes.importable import FunctionName
from seqtor.actors.processes.reading import BASE, FIRST, LazyAccess, RemoteCollection, StateCache, is_collection
from seqtor.actors.processes.wire import (
    OVER,
    RAISED,
    Answer,
    Job,
    Link,
    Preparation,
    Question,
    not_portable,
    packed,
    unpacked,
)
from seqtor.actors.publications import Publication
from seqtor.actors.runs import SyncRun
from seqtor.actors.stores.access import Access, ReadOnlyAccess
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Intake, Origin, Submission
from seqtor.actors.transactions import AttemptAbandoned, Transaction, in_ranges
from seqtor.messages.errors import RegistrationError
from seqtor.messages.stores import CommitIntent

if TYPE_CHECKING:
    from seqtor.actors.answers import Call
    from seqtor.actors.resources import ResourceRef
    from seqtor.messages.records import RecordedCall
    from seqtor.messages.runs import State
    from seqtor.messages.stores import StoreAccess
    from seqtor.messages.triggers import Priority, Trigger

__all__ = ["Program", "WorkerRun"]

ViewT = TypeVar("ViewT")
LOOK_S = (
    0.001  # An operation that needs nothing of the system asks whether the attempt is over, no more often than this.
)


class Program:
    """What a worker process knows of its system, and what it keeps from job to job."""

    def __init__(self, link: Link, preparation: Preparation, resource: Callable[[Any], Any]) -> None:
        self.link = link
        self.states = StateCache()
        self.resource = resource
        self.intake = Intake("worker", None, lambda _, future: future.set(None))
        self._stores = {name: (index, kind) for index, (name, kind) in enumerate(preparation.stores)}
        self._handlers: dict[tuple[FunctionName, type], Handler] = {}

    def index_of(self, store: Any) -> int:
        """Which of the system's stores a reference of this process names. Raises TypeError and RegistrationError."""
        if not isinstance(store, StoreRef):
            known = ", ".join(self._stores)
            raise TypeError(f"index with the StoreRef that system.store() returned, got {store!r}; stores: {known}")
        found = self._stores.get(store.name)
        if found is None:
            raise RegistrationError(
                f"the store {store.name!r} belongs to another system{did_you_mean(store.name, self._stores)}"
            )
        index, kind = found
        if kind != shape_of(store):
            raise RegistrationError(
                f"the store {store.name!r} is {kind} in the system, and {shape_of(store)} in its worker process: it must be "
                "registered the same way whenever the module is imported"
            )
        return index

    def handler_of(self, job: Job) -> Handler:
        """The handler, found by its name."""
        place = (job.function, type(job.trigger))
        handler = self._handlers.get(place)
        if handler is None:
            found = job.function.find()
            handler = self._handlers[place] = Handler(type(job.trigger), found, priority=None, deadline_s=0.0)
        return handler


def shape_of(store: StoreRef[Any]) -> str:
    """What kind of store it is, to tell one from another of the same name."""
    kind = getattr(store.spec, "kind", None)
    name = type(store.spec).__name__ if kind is not None else store.spec.store_class.__qualname__
    return name if kind is None else f"{name}({kind.model.__name__})"


class Questions:
    """What one attempt asks of the system, one thing at a time."""

    __slots__ = ("_asked_at", "_link", "transaction")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked_at = time.monotonic()
        self.transaction: WorkerTransaction

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer. Raises what answering it raised there, and AttemptAbandoned once the attempt is over."""
        try:
            self._link.send(Question(name, arguments))
        except Exception as error:
            raise not_portable(f"what tx.{name} was given", error) from error
        answer: Answer = self._link.receive()
        self._asked_at = time.monotonic()
        if answer.kind == OVER:
            self.transaction.abandon()
            raise AttemptAbandoned(answer.value)
        if answer.kind == RAISED:
            raise unpacked(answer.value)
        return answer.value

    def look(self) -> None:
        """Find out whether the attempt is over, unless that was known a moment ago."""
        if time.monotonic() - self._asked_at > LOOK_S:
            self.ask("look")


class WorkerTransaction(Transaction):
    """`tx` in a worker process."""

    __slots__ = ("_collections", "_indexes", "_program", "_questions")
    is_remote = True

    def __init__(self, run: WorkerRun, attempt: int, snapshot: Publication, questions: Questions) -> None:
        super().__init__(run, attempt, snapshot)
        self._program = run.program
        self._questions = questions
        self._indexes: dict[StoreRef[Any], int] = {}
        self._collections: dict[int, RemoteCollection] = {}

    def check(self) -> None:
        super().check()
        self._questions.look()

    def has_read(self, store: int, key: str | None) -> None:
        access = self._accesses[store]
        if key is None:
            if access.ranges:
                self._questions.ask("range", store, *access.ranges[-1])
            else:
                self._questions.ask("whole", store)
        elif not in_ranges(key, access.ranges):  # Else the range is tracked, and so the key.
            value = self._questions.ask("read", store, key)
            if store in self._collections:
                self._collections[store].learn(key, value)

    def peek(self, store: StoreRef[ViewT]) -> ViewT:
        self.check()
        index = self._index_of(store)
        if is_collection(store.spec):
            state = RemoteCollection(self._questions.ask, index, FIRST).state(store.spec.kind)  # type: ignore[attr-defined]
        else:
            state = self._program.states.fetch(self._questions.ask, store.spec, index, FIRST)
        return store.spec.view(ReadOnlyAccess(state, store.spec.fold))  # type: ignore[no-any-return]

    def changed(self, store: StoreRef[Any], key: str) -> bool:
        access = self._access(store)
        answer = bool(self._questions.ask("changed", access.store, key))
        access.keys.setdefault(key, None)  # The system has tracked it.
        return answer

    def prepare_commit(self, store: StoreRef[Any], seq: int, value: Any) -> CommitIntent:
        self._index_of(store)
        if seq != self.snapshot_seq:
            raise ValueError(
                f"prepare_commit({store.name!r}, seq={seq}): this attempt reads the state after seq "
                f"{self.snapshot_seq}; pass the seq that tx.read({store.name}) returned in this attempt"
            )
        return CommitIntent(store.name, seq, value)

    def submit(
        self, trigger: Trigger[Any], *, priority: Priority | None = None, idempotency_key: str | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self._release("submit", trigger, priority=priority, idempotency_key=idempotency_key, **options)

    def emit(self, code: str, payload: Any = None) -> str:
        return self._release("emit", code, payload)  # type: ignore[no-any-return]

    def effect(self, function: Any, payload: Any) -> None:
        if not callable(function) or not hasattr(function, "__qualname__"):
            raise RegistrationError(f"tx.effect takes a function registered with @system.effect(...), got {function!r}")
        super().check()
        self._questions.ask("effect", FunctionName.of(function), payload)

    def progress(self, value: Any) -> None:
        """Tell the callers that follow the run's progress."""
        self._release("progress", value)

    def use(self, kept: RecordedCall) -> None:
        """The system has noted it with the answer."""
        super().check()

    def _release(self, verb: str, *arguments: Any, **options: Any) -> Any:
        super().check()
        return self._questions.ask("release", verb, arguments, options)

    def _index_of(self, store: StoreRef[Any]) -> int:
        index = self._indexes.get(store)
        if index is None:
            index = self._program.index_of(store)
            self._indexes[store] = index
        return index

    @property
    def stores_used(self) -> list[StoreRef[Any]]:
        """The stores that this attempt has named."""
        return list(self._indexes)

    def _access(self, store: StoreRef[Any]) -> Access[Any]:
        Transaction.check(self)
        index = self._index_of(store)
        access = self._accesses.get(index)
        if access is None:
            access = self._accesses[index] = self._open_access(store, index)
        return access

    def _open_access(self, store: StoreRef[Any], index: int) -> Access[Any]:
        ask, spec = self._questions.ask, store.spec
        if is_collection(spec):
            self._collections[index] = source = RemoteCollection(ask, index, BASE)
            return Access(self, index, source.state(spec.kind), spec.fold)  # type: ignore[attr-defined]
        return LazyAccess(self, index, partial(self._program.states.fetch, ask, spec, index, BASE), spec.fold)


class WorkerCalls:
    """The calls of one attempt: recorded by the system, made here."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def answer(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        """As `Calls.answer`."""
        whatever: Any = None
        flight = Flight(transaction, whatever)
        ask = self._questions.ask
        kept = ask("call", call_id, call.name)
        if kept is None:  # Neither recorded nor in flight: it is to be made now.
            kept = _called(transaction, call_id, call, flight)
            if flight.passed is not None:
                ask("passed", packed(flight.passed))
                raise flight.passed
            kept = ask("made", kept)
        return _hand_out(transaction, call, kept, flight)


class Place:
    """The pool and the clock that a `SyncRun` expects: the system watches the deadline and takes the time."""

    driver = None
    monotonic = staticmethod(time.monotonic)

    def enter_handler(self, attempt: Any, deadline_s: float) -> None:
        """The system knows: it has sent the job."""

    def leave_handler(self) -> bool:
        return True


class Surroundings:
    """The context that a `SyncRun` expects."""

    pool = clock = Place()
    parent = None
    async_reads = None

    def __init__(self) -> None:
        self.transaction: WorkerTransaction

    @property
    def stores(self) -> list[StoreRef[Any]]:
        """The stores that the attempt has named, for those that a `CommitIntent` names."""
        return self.transaction.stores_used


class WorkerRun(SyncRun):
    """One job."""

    outcome: State
    accesses: tuple[StoreAccess, ...]
    result: Any
    error: BaseException | None

    def __init__(self, program: Program, job: Job) -> None:
        submission: Submission[Any] = Submission(
            program.intake,
            0,
            job.trigger,
            program.handler_of(job),
            0,
            0.0,
            0.0,
            Origin(job.run_id, scheduled=job.scheduled),
        )
        submission.seq = job.seq
        submission.sequenced_at = job.sequenced_at
        around: Any = Surroundings()
        super().__init__(around, around.pool, submission)
        self.program = program
        self._job = job
        self._questions = Questions(program.link)
        calls: Any = WorkerCalls(self._questions)
        self._calls = calls

    def execute(self) -> None:
        """Execute the handler; what it came to is then in the attributes."""
        token = CALL_ID.set(None)
        try:
            self._execute(self._job.attempt)
        finally:
            CALL_ID.reset(token)

    def resource(self, ref: ResourceRef[Any]) -> Any:
        return self.program.resource(ref)

    def _open(self, attempt: int) -> Transaction:
        self.attempt = attempt
        snapshot = Publication(0, self._job.snapshot_seq, (), {})
        self.first_snapshot = Publication(0, self._job.first_snapshot_seq, (), {})
        transaction = WorkerTransaction(self, attempt, snapshot, self._questions)
        self._questions.transaction = transaction
        around: Any = self.context
        around.transaction = transaction
        return transaction

    def _send(
        self, transaction: Transaction, accesses: tuple[StoreAccess, ...], outcome: State, result: Any,
        error: BaseException | None, handler_s: float,
    ) -> None:  # fmt: skip
        self.outcome, self.accesses, self.result, self.error = outcome, accesses, result, error
