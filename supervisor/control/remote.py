"""A trigger that was handed in to another process's system, and what is pending of it here.

Owns the outcome that a client waits for. Promises: it is completed exactly once, by the answer or by the loss of the
connection.
"""

from __future__ import annotations

import datetime
import threading
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from seqtor.actors.journal.decoding import value_of
from seqtor.control.failures import remade
from seqtor.control.link import Link, Lost, Receiver
from seqtor.control.protocol import Answer
from seqtor.messages.errors import OutcomeUnknown
from seqtor.messages.runs import State
from seqtor.settings import seconds

__all__ = ["Pending", "RemoteSubmission"]

ResultT_co = TypeVar("ResultT_co", covariant=True)


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
        self.link: Link | None = None  # Which must not be forgotten while somebody may wait for the end.

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

    def end(self, answer: Answer | None, lost: str = "") -> None:
        """Note how the run ended, or that this will not be heard of."""
        if answer is not None:
            self.seq, self.state = answer.seq, answer.state
        self._answer, self._lost, self.link = answer, lost, None
        self._ended.set()

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
