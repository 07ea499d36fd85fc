"""`Transaction`: what a handler gets; one attempt at one seq.

Owns the attempt's snapshot, its views with their read and write sets, and its recorded inputs (`now`, `random`, ids).
Promises: all reads come from one publication; an attempt whose reads have changed is abandoned at its next operation;
one that has ended (or passed its deadline) can do nothing more.
"""

from __future__ import annotations

import contextvars
import datetime
import enum
import random as random_numbers
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from seqtor.actors.answers import identify, is_coroutine_function
from seqtor.actors.calls import inside_a_call
from seqtor.actors.not_before import not_before
from seqtor.actors.publications import Publication, StateBelow
from seqtor.actors.stores.access import Access, ReadOnlyAccess
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.errors import RegistrationError, SeqtorError
from seqtor.messages.events import make_event
from seqtor.messages.stores import CommitIntent, StoreAccess, Write
from seqtor.messages.triggers import Priority

if TYPE_CHECKING:
    from seqtor.actors.effects.execution import EffectContext
    from seqtor.actors.outbox import Outbox
    from seqtor.actors.resources import ResourceRef
    from seqtor.actors.runs import Run
    from seqtor.actors.submissions import Submission
    from seqtor.messages.commits import Released
    from seqtor.messages.records import RecordedCall, RecordedEffect
    from seqtor.messages.triggers import Trigger

__all__ = ["AttemptAbandoned", "AttemptState", "Transaction", "current_transaction", "current_transaction_or_none",
           "require_known_store"]  # fmt: skip

ViewT = TypeVar("ViewT")
ValueT = TypeVar("ValueT")
PayloadT = TypeVar("PayloadT")
AnswerT = TypeVar("AnswerT")
ArgumentsP = ParamSpec("ArgumentsP")
CURRENT: contextvars.ContextVar[Transaction | None] = contextvars.ContextVar("seqtor_transaction", default=None)


class AttemptAbandoned(BaseException):
    """Leaves a handler whose reads have changed; not an Exception, so that `except Exception` lets it through."""


class AttemptState(enum.Enum):
    """Whether the attempt may still read and write, and if not, why."""

    LIVE = "live"
    ENDED = "ended"
    ABANDONED = "abandoned"
    EXPIRED = "expired"
    DEFERRED = "deferred"  # A completion run that has its seq asks for an answer that is not recorded.
    LOST = "lost"  # The runtime has broken down in the middle of a call: there is nobody to take the intent.


# What an attempt has "seen" once it is over: its successor exists, so the one check of every operation finds it.
OVER = Publication(-1, -1, (), {})
OVER.next = OVER
# What it has seen while one of its calls is under way: so the same check finds out whether it is the called function
# that uses it.
CALLING = Publication(-1, -1, (), {})
CALLING.next = CALLING


class Asked:
    """The calls that an attempt has asked for: their numbers by what they are known by, and how many are under way."""

    __slots__ = ("numbers", "seen", "under_way")

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.under_way = 0
        self.seen = OVER  # What the attempt has seen; while calls are under way it is kept here.


class Transaction:
    """One attempt: consistent reads, writes that commit together or not at all.

    Not thread-safe: use it in the handler that it was given to, and not after the handler has returned.
    """

    __slots__ = (
        "_accesses", "_asked", "_generators", "_missed", "_outbox", "_owner", "_seen", "_snapshot", "_views",
        "_watch", "attempt", "seq", "state",
    )  # fmt: skip
    is_remote = False  # Whether it stands in a worker process for an attempt of the system.

    def __init__(self, run: Run, attempt: int, snapshot: Publication) -> None:
        self._owner: Run | None = run
        self.seq: int = run.seq
        self.attempt = attempt
        self.state = AttemptState.LIVE
        self._watch = run.async_reads
        self._snapshot = snapshot
        self._seen = snapshot
        self._missed: list[Mapping[int, Any]] | None = None  # What has been written since the snapshot, if anything.
        self._accesses: dict[int, Access[Any]] = {}
        self._views: dict[StoreRef[Any], Any] = {}
        self._generators: dict[str, random_numbers.Random] | None = None
        self._outbox: Outbox | None = None
        self._asked: Asked | None = None

    def __getitem__(self, store: StoreRef[ViewT]) -> ViewT:
        """The view of a store: tracked reads from the snapshot, and own writes.

        Raises RegistrationError for a store of another system.
        """
        view = self._views.get(store)
        if view is None:
            access = self._access(store)
            view = self._views[store] = store.spec.view(access)
        return view  # type: ignore[no-any-return]

    def peek(self, store: StoreRef[ViewT]) -> ViewT:
        """The store in the snapshot of the *first* attempt: read-only, untracked, equal in every attempt."""
        self.check()
        require_known_store(store, self._run.context.stores)
        state = self._first_snapshot.states[store.index]
        return store.spec.view(ReadOnlyAccess(state, store.spec.fold))  # type: ignore[no-any-return]

    def changed(self, store: StoreRef[Any], key: str) -> bool:
        """Whether the key differs from `peek(store)`; a tracked read of the key. Own writes do not count."""
        access = self._access(store)
        access.read(key)
        before = store.spec.part(self._first_snapshot.states[store.index], key)
        if before is not NotImplemented:
            return bool(before != store.spec.part(access.base, key))
        publication = self._first_snapshot
        # What had overtaken then, `peek` does not show.
        for seq, changes in publication.ahead.items():
            if seq < self.rank and any(store.index == index and key in dict(writes) for index, writes in changes):
                return True
        while publication is not self._snapshot and publication.next is not None:
            publication = publication.next
            if any(key in writes.get(store.index, ()) for writes in publication.written_below(self.rank)):
                return True
        return False

    def read(self, store: StoreRef[Any]) -> tuple[int, Any]:
        """The low-level form: the snapshot's seq and a private copy of the whole store, a tracked read of all of it."""
        access = self._access(store)
        access.read_range(None, None)
        return self._snapshot.seq, store.spec.private_copy(access.base)

    def prepare_commit(self, store: StoreRef[Any], seq: int, value: Any) -> CommitIntent:
        """The low-level form: "set the whole store, read at `seq`, to `value`".

        A handler that returns a list of these commits exactly those, all or none. Raises ValueError if `seq` is not
        that of this attempt's snapshot.
        """
        require_known_store(store, self._run.context.stores)
        if seq != self._snapshot.seq:
            raise ValueError(
                f"prepare_commit({store.name!r}, seq={seq}): this attempt reads the state after seq "
                f"{self._snapshot.seq}; pass the seq that tx.read({store.name}) returned in this attempt"
            )
        return CommitIntent(store.name, seq, value)

    def whole(self, store: StoreRef[Any]) -> Any:
        """The whole state of a store, a tracked read of all of it; for the library's own handlers."""
        access = self._access(store)
        access.read_range(None, None)
        return access.base

    def put(self, store: StoreRef[Any], writes: Sequence[Write]) -> None:
        """Write to a store past its view; for the library's own handlers."""
        access = self._access(store)
        for write in writes:
            access.put(write)

    # Calls outside ---------------------------------------------------------------------------------------------------

    def call(
        self, function: Callable[ArgumentsP, AnswerT], /, *args: ArgumentsP.args, **kwargs: ArgumentsP.kwargs
    ) -> AnswerT:
        """Call something outside and record its answer or exception: the one answer for all attempts of this run.

        The call is known by the run, the function's name, the arguments, and how many such calls came before it in this
        attempt. It starts when what the attempt has read is durable, and its answer is durable before it is returned;
        another attempt, a restart and a replay get that answer, and the call is not made again. One that was in flight
        at a crash is made once more, with the same `current_call_id()`. The answer is what its JSON says, as the type
        that the function is annotated to return, plain JSON without an annotation. The function gets no `tx`. In a
        handler that is a coroutine function it blocks the event loop; `acall` does not.

        Raises the function's exception, made again from its class and arguments (`RecordedFailure` if that cannot be),
        TypeError for a function or an argument by which a call cannot be known, for a coroutine function, and for an
        answer that cannot be serialised; OutcomeUnknown if the journal fails meanwhile.
        """
        call = identify(function, args, kwargs)
        if is_coroutine_function(call.function):
            raise TypeError(
                f"{call.name} is a coroutine function, and tx.call calls plain ones: declare the handler with async def and "
                "await tx.acall(...)"
            )
        call_id = self._number(call.place)
        return self._run.calls.answer(self, call_id, call)  # type: ignore[no-any-return]

    def acall(
        self,
        function: Callable[ArgumentsP, Awaitable[AnswerT]],
        /,
        *args: ArgumentsP.args,
        **kwargs: ArgumentsP.kwargs,
    ) -> Coroutine[Any, Any, AnswerT]:
        """The same for a coroutine function: `await tx.acall(function, ...)`. Several may be awaited at a time.

        The call is a task of its own: it goes on if the attempt is executed again, and the next attempt joins it. A
        handler that stops waiting for it (a time-out around the await) cancels it, and it is not recorded; put time-outs
        into the function. Raises what `call` raises, TypeError for a plain function and in a plain handler.
        """
        call = identify(function, args, kwargs)
        if not is_coroutine_function(call.function):
            raise TypeError(
                f"{call.name} is a plain function, and tx.acall calls coroutine functions: use tx.call(...), or, if it "
                "blocks, call it in a coroutine function of your own with asyncio.to_thread"
            )
        run = self._run
        if not run.submission.handler.is_async:
            raise TypeError(
                f"tx.acall({call.name}) has to be awaited, which the plain handler of {self.trigger_name} cannot: declare "
                "it with async def, or use tx.call with a plain function"
            )
        return run.calls.answer_async(self, self._number(call.place), call)

    def _number(self, place: str) -> str:
        """The id of the next call that is known by `place`."""
        self.check()
        if self._asked is None:
            self._asked = Asked()
        number = self._asked.numbers[place] = self._asked.numbers.get(place, 0) + 1
        return f"{self._run.submission.id}:{place}:{number}"

    def use(self, kept: RecordedCall) -> None:
        """Note that the handler gets this answer: it belongs into the run's record."""
        self._out.calls.append(kept)

    @property
    def origin(self) -> tuple[float, int]:
        """What a restarted run has to keep: `now` as POSIX seconds, and the seq of the first attempt's snapshot."""
        return self._run.submission.sequenced_at, self._first_snapshot.seq

    @property
    def is_live(self) -> bool:
        """Whether the attempt may still read and write."""
        return self.state is AttemptState.LIVE

    def enter_call(self) -> None:
        """Let nothing be read or written by a called function until `leave_call`; what it did would not be repeated."""
        asked = self._asked
        if asked is not None:
            if not asked.under_way:
                asked.seen = self._seen
                self._resume(CALLING)
            asked.under_way += 1

    def leave_call(self) -> None:
        """The call is not under way any more; harmless when the handler has returned."""
        asked = self._asked
        if asked is not None:
            asked.under_way -= 1
            if not asked.under_way:
                self._resume(asked.seen)
                asked.seen = OVER

    def _resume(self, seen: Publication) -> None:
        self._seen = seen
        if self.state is not AttemptState.LIVE:  # Looked at last: another thread may just have ended the attempt.
            self._seen = OVER

    def lose(self) -> None:
        """Let nothing more be done, and no intent be sent: the runtime has broken down."""
        if self.state is AttemptState.LIVE:
            self.state = AttemptState.LOST
            self._seen = OVER

    # Released with the commit ---------------------------------------------------------------------------------------

    def submit(
        self,
        trigger: Trigger[Any],
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """Hand a trigger in together with the commit: accepted, durably, if this run commits, else not at all.

        It runs once, also across a crash; not before `delay` after `tx.now`, or before the moment `at`. Raises what
        `system.submit` raises for a trigger that will not do.
        """
        self._out.submit(trigger, priority, idempotency_key, not_before(delay, at))

    def emit(self, code: str, payload: Any = None) -> str:
        """Record an event together with the commit, or not at all; returns its id. Raises TypeError for bad input."""
        return self._out.submit(make_event(code, payload), None, None)

    def effect(self, function: Callable[[EffectContext, PayloadT], object], payload: PayloadT) -> None:
        """Have the function carried out once this run has committed durably, at least once, or not at all.

        `function` was registered with `@system.effect(...)`; it gets the payload as its annotation says, in this process
        or a later one. Raises RegistrationError for a function that is not registered, TypeError for a payload that is
        not what the function takes or cannot be kept as JSON.
        """
        self._out.effect(function, payload)

    def effect_again(self, effect: RecordedEffect) -> None:
        """Have an effect that was given up carried out once more; only for the handler of `EffectResubmitted`."""
        self._out.effect_again(effect)

    def submit_scheduled(self, trigger: Trigger[Any], priority: int | None, scheduled: tuple[str, float]) -> None:
        """Hand in what a schedule starts, for its slot; only for the handlers of schedules."""
        self._out.submit(trigger, None if priority is None else Priority(priority), None, None, scheduled)

    @property
    def submission(self) -> Submission[Any]:
        """What this attempt executes; for the runtime."""
        return self._run.submission

    def progress(self, value: Any) -> None:
        """Tell whoever listens with `async for value in submission.progress()`. Never waits, and changes nothing.

        Best effort, and no part of the transaction: told at once, also by an attempt that is executed again, and not kept.
        """
        self.check()
        self._run.submission.tell_progress(value)

    def resource(self, ref: ResourceRef[ValueT]) -> ValueT:
        """What the resource opened: one for all runs, opened at the first use.

        That of an async context manager is awaited, in a handler that is a coroutine function: `await tx.resource(ref)`.
        Raises what its opener raises, TypeError for an async resource in a plain handler. Not recorded: what is asked of
        it belongs into a call or an effect.
        """
        self.check()
        return self._run.resource(ref)

    @property
    def released(self) -> Released | None:
        """What goes with the intent, or None if there is nothing but writes."""
        return None if self._outbox is None else self._outbox.released()

    @property
    def _out(self) -> Outbox:
        self.check()
        if self._outbox is None:
            run = self._run
            self._outbox = run.context.make_outbox(run.submission)
        return self._outbox

    @property
    def now(self) -> datetime.datetime:
        """When the seq was assigned: aware, UTC, never decreasing along the order, equal in every attempt."""
        return datetime.datetime.fromtimestamp(self._run.submission.sequenced_at, datetime.UTC)

    @property
    def scheduled_for(self) -> datetime.datetime | None:
        """The slot's own time if a schedule started this run, else None; aware, UTC, equal in every attempt and run."""
        origin = self._run.submission.origin
        if origin is None or origin.scheduled is None:
            return None
        return datetime.datetime.fromtimestamp(origin.scheduled[1], datetime.UTC)

    @property
    def random(self) -> random_numbers.Random:
        """A generator seeded from the run id: the same numbers in every attempt and in replay."""
        return self._generator("random")

    def uuid4(self) -> uuid.UUID:
        """An id that is the same in every attempt and in replay."""
        return uuid.UUID(int=self._generator("uuid4").getrandbits(128), version=4)

    def _generator(self, purpose: str) -> random_numbers.Random:
        self.check()
        if self._generators is None:
            self._generators = {}
        if purpose not in self._generators:
            self._generators[purpose] = random_numbers.Random(f"{self._run.submission.id}:{purpose}")
        return self._generators[purpose]

    @property
    def intake(self) -> Any:
        """Which system this attempt belongs to; None once its handler has returned."""
        return None if self._owner is None else self._owner.submission._intake

    @property
    def trigger_name(self) -> str:
        """The name of the trigger's type."""
        return self._run.submission.handler.name

    @property
    def handler_name(self) -> str:
        """The same, for reports from another thread, which may come when the handler has just returned."""
        submission = None if self._owner is None else self._owner.submission
        return "a handler" if submission is None else submission.handler.name

    @property
    def place(self) -> str:
        """Which run this is, for what people read."""
        return f"seq {self.seq}"

    @property
    def rank(self) -> float:
        """Its place in the order."""
        return self.seq

    @property
    def snapshot_seq(self) -> int:
        """The seq after which this attempt reads, if nothing has overtaken."""
        return self._snapshot.seq

    @property
    def snapshot_count(self) -> int:
        """How many runs had ended in the snapshot that this attempt reads."""
        return self._snapshot.count

    # The attempt's own life ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise if this attempt has ended, was abandoned, or has just been found to read what has changed."""
        if self._seen.next is not None:
            self._catch_up()

    def has_read(self, store: int, key: str | None) -> None:
        """Note the first read of a key, or (None) of a range."""
        if self._watch is not None:
            self._watch.add(store, key, self)
            self.check()  # What was published before the watch knew of this read is found here.
        if self._missed and any(
            self.meets(writes) if key is None else key in writes.get(store, ()) for writes in self._missed
        ):
            self._abandon()

    def meets(self, writes: Mapping[int, Any]) -> bool:
        """Whether writes (keys by store) touch anything that this attempt has read so far. Callable from any thread."""
        for store, keys in writes.items():
            access = self._accesses.get(store)
            if access is not None and (
                not access.keys.keys().isdisjoint(keys)
                or (access.ranges and any(in_ranges(key, access.ranges) for key in keys))
                or access.reads_everything()
            ):
                return True
        return False

    def has_read_key(self, store: int, key: str) -> bool:
        """Whether this attempt has read the key so far. Callable from any thread."""
        access = self._accesses.get(store)
        if access is None:
            return False
        return key in access.keys or in_ranges(key, access.ranges) or access.reads_everything()

    def abandon(self) -> None:
        """Make the next operation raise; called by who found that the reads have changed."""
        if self.state is AttemptState.LIVE:
            self.state = AttemptState.ABANDONED
            self._seen = OVER

    def end(self, state: AttemptState) -> bool:
        """Let nothing more be read or written. False if the attempt was over already."""
        if self.state is not AttemptState.LIVE:
            return False
        self.state = state
        self._seen = OVER
        return True

    def invalidate(self) -> None:
        """Abandon the attempt and cancel its coroutine; on the loop's thread."""
        self.abandon()
        if self._owner is not None:
            self._owner.cancel()

    def keys_read(self) -> list[tuple[int, str]]:
        """The keys read so far, with their stores. Callable from any thread: it copies what the handler may change."""
        return [(store, key) for store, access in list(self._accesses.items()) for key in list(access.keys)]

    @property
    def snapshot_index(self) -> int:
        """The index of the publication that this attempt reads."""
        return self._snapshot.index

    def expire(self) -> None:
        """End the attempt because its deadline has passed; tells the committer, for the handler may never return.

        Called from the watch's thread while the handler's is anywhere: in the middle of an operation, hanging although
        the attempt was abandoned, or about to return and forget its run. If both send an intent, the second is refused.
        """
        run, accesses = self._owner, self._accesses
        if run is None or self.state in (AttemptState.ENDED, AttemptState.EXPIRED, AttemptState.LOST):
            return
        self.state = AttemptState.EXPIRED
        self._seen = OVER
        # Copied: an operation that had begun may still note a key, and the committer must not see a dict that grows.
        run.on_expired(self, tuple([a.seal()._replace(keys=dict(a.keys)) for a in list(accesses.values())]))

    def adopt(self, intents: Sequence[CommitIntent]) -> None:
        """Write exactly the given intents. Raises what makes one of them invalid; then nothing is written."""
        if any(access.writes for access in self._accesses.values()):
            raise TypeError(
                "the handler wrote through tx[store] and returned CommitIntents, which commit exactly themselves: use "
                "one of the two forms"
            )
        stores = {ref.name: ref for ref in self._run.context.stores}
        if len({intent.store for intent in intents}) != len(intents):
            raise TypeError("two CommitIntents for one store: give each store one new value")
        for intent in intents:
            if intent.seq != self._snapshot.seq:
                raise ValueError(
                    f"the CommitIntent for {intent.store!r} was prepared at seq {intent.seq}, and this attempt reads the "
                    f"state after seq {self._snapshot.seq}: read and prepare again in each attempt"
                )
            ref = stores[intent.store]
            access = self._access(ref)
            # Which writes make the store equal to the value depends on all that is there, read by the handler or not.
            access.read_range(None, None)
            for write in ref.spec.writes_for(access.base, intent.value):
                access.put(write)

    def seal(self) -> tuple[StoreAccess, ...]:
        """What was read and written, per store."""
        return tuple([access.seal() for access in self._accesses.values()])

    def forget(self) -> None:
        """Let go of views, run and snapshot once the handler has returned: no reference cycle may outlive a run.

        Nor a snapshot: whoever holds one holds all publications after it, and the handler's frame may live as long as
        the record of its error.
        """
        self._views = {}
        self._accesses = {}
        self._outbox = None
        self._asked = None
        self._owner = None
        if self.state is not AttemptState.EXPIRED:  # Then the watch may be sending the intent just now.
            self._snapshot = OVER

    @property
    def _first_snapshot(self) -> Publication:
        first = self._run.first_snapshot
        assert first is not None
        return first

    @property
    def _run(self) -> Run:
        if self._owner is None:
            self._refuse()
        return self._owner  # type: ignore[return-value]

    def _access(self, store: StoreRef[Any]) -> Access[Any]:
        if self._seen.next is not None:
            self._catch_up()
        known = self._owner.context.stores  # type: ignore[union-attr]  # Live, so its run is there.
        if type(store) is not StoreRef or store.index >= len(known) or known[store.index] is not store:
            require_known_store(store, known)
        index = store.index
        access = self._accesses.get(index)
        if access is None:
            snapshot = self._snapshot
            state = snapshot.newest[index]
            if snapshot.ahead and self.rank <= snapshot.ahead_last:  # Some have overtaken this one.
                state = store.spec.state_of(StateBelow(snapshot, self.rank, index, store.spec))
            access = self._accesses[index] = Access(self, index, state, store.spec.fold)
        return access

    def _catch_up(self) -> None:
        """Look at what was published since the last look."""
        asked = self._asked if self._seen is CALLING else None
        if asked is not None and inside_a_call():
            raise SeqtorError(
                f"the transaction of {self.place} is used inside a function that tx.call or tx.acall calls, which is not "
                "called again when the handler is: pass what it needs as arguments, and write what it answers in the handler"
            )
        seen = self._seen if asked is None else asked.seen
        while seen.next is not None:
            if seen is OVER:
                self._refuse()
            seen = seen.next
            if asked is None:
                self._seen = seen
            else:
                asked.seen = seen
            written = seen.written_below(self.rank) if seen.overtakers else (seen.writes,)
            if self._watch is None and any(map(self.meets, written)):  # Else the watch abandons the attempt.
                self._abandon()
            if self._missed is None:
                self._missed = []
            self._missed += written
        if self.state is not AttemptState.LIVE:  # Ended by another thread, whose mark was just overwritten.
            self._seen = OVER
            self._refuse()

    def _abandon(self) -> None:
        self.abandon()
        self._refuse()

    def _refuse(self) -> None:
        if self.state is AttemptState.ENDED or self._owner is None:
            raise SeqtorError(
                f"the transaction of {self.place}, attempt {self.attempt} has ended: use tx only inside its handler"
            )
        raise AttemptAbandoned(f"{self.place}, attempt {self.attempt}: {self.state.value}")

    def __repr__(self) -> str:
        return f"<Transaction seq={self.seq} attempt={self.attempt} {self.state.value}>"


def in_ranges(key: str, ranges: Sequence[tuple[str | None, str | None]]) -> bool:
    """Whether start <= key < stop for one of the ranges."""
    return any((start is None or key >= start) and (stop is None or key < stop) for start, stop in ranges)


def require_known_store(store: Any, stores: Sequence[StoreRef[Any]]) -> None:
    """Raise RegistrationError unless `store` is a reference of this system."""
    if not isinstance(store, StoreRef):
        known = ", ".join(ref.name for ref in stores)
        raise TypeError(f"index with the StoreRef that system.store() returned, got {store!r}; stores: {known}")
    if store.index >= len(stores) or stores[store.index] is not store:
        raise RegistrationError(f"the store {store.name!r} belongs to another system")


def current_transaction_or_none() -> Transaction | None:
    """The transaction of the handler that is executing here, or None outside of one."""
    return CURRENT.get()


def current_transaction() -> Transaction:
    """The transaction of the handler that is executing here. Raises LookupError outside of one, and inside of a call."""
    transaction = CURRENT.get()
    if transaction is None:
        raise LookupError("there is no current transaction: current_transaction() works inside a handler")
    if inside_a_call():
        raise LookupError(
            "there is no current transaction inside a function that tx.call or tx.acall calls: pass what it needs as "
            "arguments"
        )
    return transaction
