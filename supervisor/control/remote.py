"""A trigger that was handed in to another process's system, and what is pending of it here.

Owns the outcome that a client waits for. Promises: it is completed exactly once, by the answer or by the loss of the
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from seqtor.actors.futures import ReplyFuture
from seqtor.actors.journal.decoding import value_of
from seqtor.control.failures import remade
from seqtor.control.link import Link, Lost, Receiver
from seqtor.control.protocol import Answer
from seqtor.messages.errors import OutcomeUnknown
from seqtor.messages.runs import State
from seqtor.settings import seconds

__all__ = ["HandedIn", "Pending", "RemoteProgress", "RemoteSubmission"]

ResultT_co = TypeVar("ResultT_co", covariant=True)
KEPT_MAX = 1000  # Values of progress that a listener may be behind.


class HandedIn(NamedTuple):
    """Where a trigger was handed in: the connection, its request, which of its triggers; and how long an answer may take."""

    link: Link
    number: int
    place: int
    timeout_s: float

    def request(self, verb: str) -> dict[str, Any]:
        """One that is about this trigger."""
        return {"verb": verb, "of": self.number, "index": self.place}


class RemoteSubmission(Generic[ResultT_co]):
    """A trigger that another process's system has accepted. `id` is its run id; `key` its idempotency key.

    `seq` and `state` are known when the run has ended.
    """

    def __init__(self, trigger_name: str, key: str | None, adapter: TypeAdapter[Any]) -> None:
        self.id = ""
        self.key = key
        self.seq: int | None = None
        self.state: State | None = None
        self._trigger_name = trigger_name
        self._adapter = adapter
        self._ended = threading.Event()
        self._answer: Answer | None = None
        self._lost = ""
        self._wakes: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self.handed_in: HandedIn | None = None  # Its link must not be forgotten while somebody may wait for the end.

    @property
    def done(self) -> bool:
        """Whether the run has ended, or its end will not be heard of here."""
        return self._ended.is_set()

    def result(self, timeout: float | datetime.timedelta | None = None) -> ResultT_co:
        """Wait until the run has ended durably and return its result, as the type that `Trigger[R]` names.

        Raises the run's error, TimeoutError after `timeout` seconds (the run goes on), OutcomeUnknown if the connection
        ended first.
        """
        if not self._ended.wait(None if timeout is None else seconds(timeout, "timeout")):
            raise TimeoutError(
                f"{self._trigger_name} (run {self.id}) has not ended within {timeout} s; it goes on, result() may be called "
                "again"
            )
        answer = self._answer
        if answer is None:
            again = (
                f"submit it again under the key {self.key!r}"
                if self.key
                else "with an idempotency key you could ask again"
            )
            raise OutcomeUnknown(
                f"the connection ended ({self._lost}) before {self._trigger_name} (run {self.id}) had ended. It was "
                f"accepted, so it is executed: {again}"
            )
        if answer.error is not None:
            raise remade(answer.error)
        try:
            return value_of(self._adapter, answer.result)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise ValueError(
                f"{self._trigger_name} (seq {self.seq}) has committed, but its result {answer.result!r} is not what the "
                f"trigger promises: {error}"
            ) from error

    def __await__(self) -> Generator[Any, None, ResultT_co]:
        """Wait without blocking the event loop; cancelling the await leaves the run. Raises what `result` raises."""
        if not self.done:
            yield from _woken(self._when_ended).__await__()
        return self.result(0)

    def accepted(self) -> ReplyFuture:
        """Return a future that is done: what `submit` has returned is durably accepted."""
        future = ReplyFuture()
        future.set()
        return future

    def cancel(self) -> bool:
        """As `Submission.cancel`: take the trigger back; True if it will never run.

        Raises OutcomeUnknown if the connection ends first, TimeoutError if the system does not answer.
        """
        handed_in = self.handed_in
        if self.done or handed_in is None:
            return self.state is State.CANCELLED
        pending = Pending([])
        pending.link = handed_in.link
        try:
            handed_in.link.send(handed_in.request("cancel"), pending)
            answer = pending.first(handed_in.timeout_s)
        except Lost as lost:
            raise OutcomeUnknown(
                f"the connection ended ({lost}) before the system had said whether {self._trigger_name} (run {self.id}) was "
                "cancelled"
            ) from None
        except TimeoutError:
            raise TimeoutError(
                f"the system has not said within {handed_in.timeout_s:g} s whether {self._trigger_name} (run {self.id}) was "
                "cancelled: ask again"
            ) from None
        if answer.error is not None:
            raise remade(answer.error)
        if answer.value is None:  # It had ended, and its end was sent before this answer.
            return self.state is State.CANCELLED
        return bool(answer.value)

    def progress(self) -> RemoteProgress:
        """As `Submission.progress`: iterate over what the handler tells, with `async for`; values are JSON."""
        listener = RemoteProgress()
        handed_in = self.handed_in
        if self.done or handed_in is None:
            listener.lose("the run has ended")
        else:
            with contextlib.suppress(Lost):  # Then there is nothing more to hear.
                handed_in.link.send(handed_in.request("progress"), listener)
                return listener
            listener.lose("the connection has ended")
        return listener

    def _when_ended(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at the end, from any thread."""
        with self._lock:
            if not self.done:
                self._wakes.append(wake)
                return
        wake()

    def end(self, answer: Answer | None, lost: str = "") -> None:
        """Note how the run ended, or that this will not be heard of."""
        if answer is not None:
            self.seq, self.state = answer.seq, answer.state
        self._answer, self._lost, self.handed_in = answer, lost, None
        with self._lock:
            self._ended.set()
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def __repr__(self) -> str:
        state = self.state.value if self.state is not None else "lost" if self.done else "accepted"
        return f"<RemoteSubmission {self._trigger_name} run={self.id} seq={self.seq} {state}>"


class Pending(Receiver):
    """What the answers to one request complete: the request itself, then the submissions that it made."""

    def __init__(self, submissions: list[RemoteSubmission[Any]]) -> None:
        self.link: Link | None = None
        self._submissions = submissions
        self._left = len(submissions)
        self._answered = threading.Event()
        self._first: Answer | None = None
        self._lost: str | None = None

    def first(self, timeout_s: float) -> Answer:
        """Wait for the first answer. Raises Lost, TimeoutError."""
        if not self._answered.wait(timeout_s):
            if self.link is not None:
                self.link.forget(self)
            raise TimeoutError
        if self._first is None:
            raise Lost(self._lost)
        return self._first

    def receive(self, answer: Answer) -> bool:
        if self._first is None:
            self._first = answer
            self._answered.set()
            return answer.error is not None or not self._left
        if answer.index is not None and answer.index < len(self._submissions):
            self._submissions[answer.index].end(answer)
            self._left -= 1
        return self._left == 0

    def lose(self, reason: str) -> None:
        self._lost = reason
        for submission in self._submissions:
            if not submission.done:
                submission.end(None, reason)
        self._answered.set()


class RemoteProgress(Receiver):
    """One `async for` over the progress of a run; ends when the run does, or the connection.

    Raises what the system says of a value that cannot be sent, or of too much that is under way.
    """

    def __init__(self) -> None:
        self._values: deque[Any] = deque(maxlen=KEPT_MAX)
        self._ended = False
        self._error: Exception | None = None
        self._wake: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def receive(self, answer: Answer) -> bool:
        if answer.error is not None:
            self._error = remade(answer.error)
        told = answer.progress
        self._come(told or [], ended=told is None)
        return self._ended

    def lose(self, reason: str) -> None:
        self._come([], ended=True)

    def _come(self, values: list[Any], *, ended: bool) -> None:
        with self._lock:
            self._values += values
            self._ended |= ended
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def __aiter__(self) -> RemoteProgress:
        return self

    async def __anext__(self) -> Any:
        while not self._values:
            if self._ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            await _woken(self._when_come)
        return self._values.popleft()

    def _when_come(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if not self._values and not self._ended:
                self._wake = wake
                return
        wake()


async def _woken(when: Callable[[Callable[[], None]], None]) -> None:
    """Wait, without blocking the event loop, until what `when` was given is called, from any thread."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def arrive() -> None:
        if not came.done():
            came.set_result(None)

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # The loop was closed, so nobody waits any more.
            loop.call_soon_threadsafe(arrive)

    when(wake)
    await came
