"""`Submission`: the caller's end of a trigger that was handed in.

Owns the outcome that the caller waits for. Promises: it is completed exactly once; waiting blocks no actor; a lock is
taken only when someone waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from seqtor.actors import batons
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.progress import Listener, Progress
from seqtor.actors.transactions import current_transaction_or_none
from seqtor.messages.errors import WouldDeadlock
from seqtor.messages.runs import AttemptConflict, State

if TYPE_CHECKING:
    from seqtor.actors.footprints import Footprint
    from seqtor.actors.handlers import Handler
    from seqtor.actors.runs import Run
    from seqtor.messages.triggers import Trigger

__all__ = ["Intake", "Origin", "RetryOf", "Submission", "require_key"]

ResultT_co = TypeVar("ResultT_co", covariant=True)


class RetryOf(NamedTuple):
    """What makes a run a retry: the run that it follows, which number it is, and when it is due (POSIX seconds).

    `root` is what the caller has, the submission of the first run; None for a retry that an earlier process has left.
    """

    run_number: int
    of: str
    due: float
    root: Submission[Any] | None = None


class Origin(NamedTuple):
    """What is special about a submission: its run id if it is no new one, its key, the run that caused it.

    `now` is the run's `tx.now` if an answer of a call was recorded under it before a restart; `resubmits` the place of the
    dead letter that it is another try of; `due` before when it is not to run (POSIX seconds), if it was delayed;
    `deferrals` how often its seq ended as `deferred`. `coalesce` is the key under which it becomes one with others that
    wait; `absorbed` are those that it stands for, by event time; `merging`, whether it has yet to be merged with them, and
    `given` its own trigger once it was. `on_its_way`: it has left the waiting room, or a run that it was to be one with,
    and is not in the queue yet. `scheduled` is the schedule that started it, and the slot (POSIX seconds). `causes` are
    the ids of the facts of which a reaction has made it.
    """

    id: str | None = None
    key: str | None = None
    cause: str | None = None
    now: float | None = None
    retry: RetryOf | None = None
    resubmits: str | None = None
    due: float | None = None
    deferrals: int = 0
    coalesce: str | None = None
    absorbed: tuple[Submission[Any], ...] = ()
    merging: bool = False
    given: Any = None
    on_its_way: bool = False
    scheduled: tuple[str, float] | None = None
    causes: tuple[str, ...] = ()


class Intake:
    """What all submissions of one system share: the prefix of their run ids, how to wait, and how to be made durable.

    `open` holds what was accepted and is not answered, in the order of acceptance: whatever actor crashes, nothing of it
    is lost. `looked_up` are those whose outcome an earlier process left, until it is read: they do not run. `gone` makes the
    error of everyone whose run will not end any more; None while the system lives.
    """

    __slots__ = ("cancel", "driver", "flush", "gone", "id_prefix", "looked_up", "open", "split", "waiting_lock")

    def __init__(
        self,
        id_prefix: str,
        driver: Any,
        flush: Callable[[Submission[Any], ReplyFuture], None],
        cancel: Callable[[Submission[Any]], bool] = lambda _: False,
        split: Callable[[Submission[Any]], object] = lambda _: None,
        open: dict[Submission[Any], None] | None = None,  # noqa: A002 - as the attribute.
    ) -> None:
        self.id_prefix = id_prefix
        self.driver = driver
        self.flush = flush
        self.cancel = cancel
        self.split = split
        self.gone: Callable[[], BaseException] | None = None
        self.open: dict[Submission[Any], None] = {} if open is None else open
        self.looked_up: dict[Submission[Any], None] = {}
        self.waiting_lock = threading.Lock()

    def give_up(self, make_error: Callable[[], BaseException]) -> None:
        """The system has stopped or broken down: answer everyone who waits, and whoever comes to wait later."""
        if self.gone is None:
            self.gone = make_error  # First: who comes to wait after this finds it.
        to_wake: list[Callable[[], None]] = []
        for submission in [*self.open, *self.looked_up]:
            submission.settle(State.ABORTED, self.gone)
            submission.answer(to_wake)
        for wake in to_wake:
            wake()


class Submission(Generic[ResultT_co]):
    """A trigger that was handed in: its seq, its state, and its result once it is durable.

    If a retry policy makes more runs of it, it goes on with them: `seq` becomes that of the newest run that has one, the
    result is the last one's. `id` stays that of the first.

    It is also where the coordinator keeps what is known of the run, one object instead of several: with hundreds of
    thousands of them the cycle collector's time is what counts. Thread-safe. `await submission` waits without blocking
    the event loop; cancelling the await leaves the run.
    """

    __slots__ = (
        "_intake",
        "_outcome",
        "_progress",
        "_state",
        "_waiters",
        "arrival",
        "attempts",
        "conflicts",
        "ended_as",
        "ended_at",
        "error",
        "event_time",
        "footprint",
        "handler",
        "handler_s",
        "origin",
        "priority",
        "run",
        "seq",
        "sequenced_at",
        "submitted_at",
        "trigger",
    )

    # Set once there is something to say: by who listens or tells first, by sequencer and coordinator.
    _progress: Progress
    sequenced_at: float
    ended_at: float
    attempts: int
    handler_s: float
    error: BaseException | None
    conflicts: tuple[AttemptConflict, ...]

    def __init__(
        self, intake: Intake, arrival: int, trigger: Trigger[ResultT_co], handler: Handler, priority: int,
        event_time: float, submitted_at: float, origin: Origin | None = None,
    ) -> None:  # fmt: skip
        self._intake = intake
        self._state: State | None = None  # How the run ended; None until then.
        self._outcome: Any = None
        self._waiters: list[Callable[[], None]] | None = None
        self.arrival = arrival
        self.trigger = trigger
        self.handler = handler
        self.priority = priority
        self.event_time = event_time
        self.submitted_at = submitted_at
        self.origin = origin
        self.footprint: Footprint | None = None  # What its handler declares that it may write; before it is accepted.
        self.seq: int | None = None
        self.ended_as: State | None = None  # Known before it is answered: an answer waits until it is durable.
        self.run: Run | None = None

    @property
    def id(self) -> str:
        """The run id: the identity of this run before and after it has a seq."""
        origin = self.origin
        return f"{self._intake.id_prefix}-{self.arrival}" if origin is None or origin.id is None else origin.id

    @property
    def key(self) -> str | None:
        """The idempotency key, if one was given."""
        return None if self.origin is None else self.origin.key

    @property
    def cause(self) -> str | None:
        """The id of the run that submitted this, if one did."""
        return None if self.origin is None else self.origin.cause

    @property
    def caused_by(self) -> tuple[str, ...]:
        """The run that submitted this, or the ids of the facts of which a reaction has made it."""
        origin = self.origin
        if origin is None:
            return ()
        return origin.causes if origin.cause is None else (origin.cause,)

    @property
    def due(self) -> float | None:
        """Before when it is not to run, POSIX seconds: the end of a delay, or of a retry's backoff."""
        origin = self.origin
        if origin is None:
            return None
        return origin.due if origin.retry is None else origin.retry.due

    @property
    def state(self) -> State:
        """Where the run is now."""
        if self._state is not None:
            return self._state
        if self._intake.gone is not None:
            return State.ABORTED
        follows = self._outcome if self.ended_as is State.RETRYING else None
        waits = not self._is_under_way or (isinstance(follows, Submission) and not follows._is_under_way)
        return State.QUEUED if waits else State.RUNNING

    @property
    def _is_under_way(self) -> bool:
        return self.seq is not None or self.run is not None  # Without a seq: it executes outside of the order.

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._state is not None or self._intake.gone is not None

    def result(self, timeout: float | datetime.timedelta | None = None) -> ResultT_co:
        """Wait until the run has ended durably and return its result.

        Raises the run's error, TimeoutError after `timeout` seconds (the run goes on), WouldDeadlock inside a handler.
        """
        if isinstance(timeout, datetime.timedelta):
            timeout = timeout.total_seconds()
        self._refuse_inside_handler("Submission.result()")
        if self._state is None:
            driver = self._intake.driver
            arrived = self._wait(timeout) if driver is None else driver.run_until(lambda: self.done, timeout)
            if not arrived:
                raise TimeoutError(
                    f"{self.trigger.trigger_name} (seq {self.seq}) has not ended within {timeout} s; it goes on, "
                    "result() may be called again"
                )
        return self._unwrap()

    def accepted(self) -> ReplyFuture:
        """Return a future (pykka's, and awaitable) that is done when the trigger is durably accepted.

        From then on it is executed whatever happens to the process. Raises, through the future, `OutcomeUnknown` if the
        journal fails first.
        """
        future = ReplyFuture()
        future.driver = self._intake.driver
        self._intake.flush(self, future)
        return future

    def cancel(self) -> bool:
        """Take the trigger back: True if it will never run, False if it has a seq, or has ended in another way.

        Works while it waits in the queue or for its time, and while a retry of it does. Returns when that is decided, with
        a journal when it is durable: then no crash brings it back. Whoever waits for the result gets `Cancelled`, and its
        idempotency key is free. No part of a transaction: done by a handler, it stands whether that commits or not. Raises
        OutcomeUnknown if the journal fails meanwhile.
        """
        newest = self.newest
        if newest.done:
            return newest._state is State.CANCELLED
        return newest.seq is None and self._intake.cancel(self)

    def progress(self) -> Listener:
        """Iterate over what the handler tells with `tx.progress(value)`, with `async for`; it ends when the run does.

        Best effort: from the newest value on; an attempt that is executed again tells again; of 1,000 values behind the
        oldest are lost; nothing is kept for a restart. Any number may listen, on any event loop; `aclose()` ends one before
        the run does. Raises WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("async for ... in submission.progress()")
        return Listener(self, self._progress_of_all, self._intake.driver)

    def tell_progress(self, value: Any) -> None:
        """Hand a value to all who listen to this trigger. Called by the handler's thread."""
        retry = None if self.origin is None else self.origin.retry
        first = self if retry is None or retry.root is None else retry.root
        first._progress_of_all.tell(value)

    @property
    def _progress_of_all(self) -> Progress:
        try:
            return self._progress
        except AttributeError:
            with self._intake.waiting_lock:  # Two may come first at the same time.
                if not hasattr(self, "_progress"):
                    self._progress = Progress()
            return self._progress

    @property
    def newest(self) -> Submission[Any]:
        """The newest run of the trigger: this one, or the last retry."""
        newest: Submission[Any] = self
        while newest.ended_as is State.RETRYING and isinstance(newest._outcome, Submission):
            newest = newest._outcome
        return newest

    def __await__(self) -> Generator[Any, None, ResultT_co]:
        self._refuse_inside_handler("await submission")
        if self._state is None:
            if self._intake.driver is not None:  # A simulated system has no thread of its own: drive it from here.
                self._intake.driver.run_until(lambda: self.done, None)
                return self._unwrap()
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                with contextlib.suppress(RuntimeError):  # The loop was closed, so nobody waits any more.
                    loop.call_soon_threadsafe(_set_unless_done, ended)

            if not self.when_done(wake):
                yield from ended.__await__()
        return self._unwrap()

    def settle(self, state: State, outcome: Any) -> None:
        """Note how the run ended: its result, a function that makes the error, or the run that follows as a retry.

        `answer` tells who waits.
        """
        if self._state is None:
            self._outcome = outcome
            self.ended_as = state  # Last: who looks from outside finds what belongs to it.

    def answer(self, to_wake: list[Callable[[], None]]) -> None:
        """Let everyone know how the run ended; only once that is durable. Only the coordinator calls this.

        What wakes the callers who wait is added to `to_wake`, to be called when all that has ended is answered: who is
        woken may run at once, in the waker's place, and shall not have to wait again for the next of a batch.
        """
        if self._state is not None:
            return  # Given up on already.
        if self.ended_as is State.RETRYING:
            self._go_on()
            return
        self._state = self.ended_as
        self._intake.open.pop(self, None)
        if self._waiters is not None:  # Written before `_state` is looked at, so one of the two sides sees the other.
            self._wake(to_wake)
        if self.origin is not None:
            if self.origin.retry is not None:
                self._answer_for(self.origin.retry.root, to_wake)
            for absorbed in self.origin.absorbed:
                self._answer_for(absorbed, to_wake)

    def _go_on(self) -> None:
        """The run that follows is open from here on, in place of this one, and answers for all before it."""
        followed_by = self._outcome
        if not followed_by.done:
            self._intake.open[followed_by] = None
        self._intake.open.pop(self, None)
        root = followed_by.origin.retry.root
        if root is not self and root._state is None:
            root._outcome = followed_by

    def take_over(self) -> None:
        """The run has a seq: whoever has the submission of its first run finds it there."""
        origin = self.origin
        if origin is None:
            return
        if origin.retry is not None and origin.retry.root is not None:
            origin.retry.root.seq = self.seq
        for absorbed in origin.absorbed:
            absorbed.seq = self.seq

    def leave_for_queue(self) -> None:
        """Its time has come: until it is in the queue, whoever cancels it does not find it there."""
        self.origin = (self.origin or Origin())._replace(on_its_way=True)

    def _answer_for(self, other: Submission[Any] | None, to_wake: list[Callable[[], None]]) -> None:
        """Answer a submission that a caller has with the end of this run: its last retry, or who absorbed it."""
        if other is not None and other._state is None:
            other._outcome = self._outcome
            other._state = self._state
            if other._waiters is not None:
                other._wake(to_wake)

    # Several that become one -----------------------------------------------------------------------------------------

    @property
    def intake(self) -> Intake:
        """What it shares with the others of its system."""
        return self._intake

    @property
    def given(self) -> Trigger[Any]:
        """The trigger as it was handed in, also when it was merged with others."""
        return self.trigger if self.origin is None or self.origin.given is None else self.origin.given

    @property
    def absorbed(self) -> tuple[Submission[Any], ...]:
        """Those that its run stands for; none as long as it is not merged with them."""
        return () if self.origin is None or self.origin.merging else self.origin.absorbed

    def absorb(self, others: Sequence[Submission[Any]]) -> None:
        """Stand for others that wait, the oldest first: they are open as a part of this one. Before it has a seq."""
        origin = self.origin or Origin()
        self.origin = origin._replace(absorbed=tuple(others), merging=self.handler.merge is not None)
        for other in others:
            self._intake.open.pop(other, None)

    def come_apart(self) -> tuple[Submission[Any], ...]:
        """Undo `absorb`, of one that has no seq: all of them wait again, each for itself. Returns them, this one last.

        Those whose run is tried again stay one: they have had a seq, and have been executed together.
        """
        origin = self.origin
        if self.seq is not None or origin is None or not origin.absorbed or origin.retry is not None:
            return (self,)
        for absorbed in origin.absorbed:  # First: a crash between the two loses none of them.
            self._intake.open[absorbed] = None
        self.origin = origin._replace(absorbed=(), merging=False)
        return (*origin.absorbed, self)

    def become(self, merged: Any) -> None:
        """What it is merged to, with those that it stands for. Twice: the first counts."""
        with self._intake.waiting_lock:
            origin = self.origin
            if origin is not None and origin.merging:
                self.origin = origin._replace(merging=False, given=self.trigger)
                self.trigger = merged

    def split(self) -> tuple[Submission[Any], ...]:
        """Stand for itself alone, if it was not merged with the others: they are open again, each to run by itself.

        Returns them, for the queue. Twice: the second finds nobody.
        """
        with self._intake.waiting_lock:
            origin = self.origin
            if origin is None or not origin.merging:
                return ()
            self.origin = origin._replace(absorbed=(), merging=False, coalesce=None)
            for absorbed in origin.absorbed:
                before = absorbed.origin or Origin()
                absorbed.origin = before._replace(coalesce=None, absorbed=(), merging=False, on_its_way=True)
                self._intake.open[absorbed] = None
                absorbed.seq = None  # Last: from here on it may be cancelled, although it is in no queue yet.
            return origin.absorbed

    def _wake(self, to_wake: list[Callable[[], None]]) -> None:
        with self._intake.waiting_lock:
            waiters, self._waiters = self._waiters, None
        to_wake.extend(waiters or ())

    @property
    def recorded_result(self) -> Any:
        """The result of a run that has committed, also before it is answered; else None."""
        return self._outcome if self.ended_as is State.COMMITTED else None

    def _wait(self, timeout_s: float | None) -> bool:
        """Block the calling thread until the end; False if the time-out came first."""
        baton = batons.take()
        if self.when_done(baton.hand_over):
            return True
        arrived = baton.wait(timeout_s)
        if arrived:
            batons.give_back(baton)
        else:
            with self._intake.waiting_lock:
                if self._waiters is not None:
                    self._waiters.remove(baton.hand_over)
        return arrived

    def when_done(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called at the end, from any thread; True if it has ended, then it may or may not be called."""
        with self._intake.waiting_lock:
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(wake)
        return self.done

    def _unwrap(self) -> ResultT_co:
        if self._state is State.COMMITTED:
            return self._outcome  # type: ignore[no-any-return]
        if self._state is None:
            raise self._intake.gone()  # type: ignore[misc]
        raise self._outcome()

    def _refuse_inside_handler(self, verb: str) -> None:
        transaction = current_transaction_or_none()
        if transaction is not None and transaction.intake is self._intake:
            raise WouldDeadlock(
                f"{verb} inside the handler of {transaction.trigger_name} ({transaction.place}) waits for a run that "
                "may have to wait for this one: return first, and let the waited-for trigger do what depends on it "
                "(tx.submit releases it together with the commit)"
            )

    def __repr__(self) -> str:
        return f"<Submission {self.trigger.trigger_name} seq={self.seq} {self.state.value}>"


def _set_unless_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def require_key(key: Any) -> str | None:
    """The idempotency key, or None. Raises TypeError for one that is no non-empty string."""
    if key is not None and (not isinstance(key, str) or not key):
        raise TypeError(f"an idempotency key is a non-empty string, got {key!r}")
    return key
