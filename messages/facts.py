"""Facts: what has durably happened, as conditions match it and as a reaction's function gets it.

Owns their shapes. A fact is one side of a durable record: an event, how a trigger ended, its result, its failure, an effect
that was given up, a slot of a schedule. `seq` is that of the record (None for a trigger that ended without one); `time` is
when it ended, which is what windows are measured by.
"""

from __future__ import annotations

import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic_core import from_json

from seqtor.messages.errors import RecordedFailure
from seqtor.messages.runs import State
from seqtor.messages.triggers import Trigger

__all__ = [
    "EffectFailureFact",
    "EventFact",
    "Fact",
    "FactT_co",
    "FailureFact",
    "ResultFact",
    "StatusFact",
    "TickFact",
]

TriggerT_co = TypeVar("TriggerT_co", bound=Trigger[Any], covariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class EventFact(NamedTuple):
    """An event: `id` is what `emit` returned, `emitter` the run that emitted it, None for one from outside.

    `payload` is a copy of the JSON value, for whoever asks.
    """

    id: str
    at: float
    seq: int | None
    code: str
    payload_json: str
    emitter: str | None = None

    @property
    def time(self) -> datetime.datetime:
        """When it was recorded: aware, UTC."""
        return _moment(self.at)

    @property
    def payload(self) -> Any:
        """What was emitted with it."""
        return from_json(self.payload_json)

    @property
    def run(self) -> str:
        """The run id of the event itself."""
        return self.id


class StatusFact(NamedTuple, Generic[TriggerT_co]):
    """A trigger has ended so: `run` is its run id, `state` how it ended."""

    id: str
    at: float
    seq: int | None
    run: str
    state: State
    trigger: TriggerT_co

    @property
    def time(self) -> datetime.datetime:
        """When it ended: aware, UTC."""
        return _moment(self.at)


class ResultFact(NamedTuple, Generic[ResultT_co]):
    """A run has committed with a result."""

    id: str
    at: float
    seq: int | None
    run: str
    result: ResultT_co
    trigger: Trigger[Any]

    @property
    def time(self) -> datetime.datetime:
        """When it ended: aware, UTC."""
        return _moment(self.at)


class FailureFact(NamedTuple, Generic[TriggerT_co]):
    """A run has failed, or passed its deadline, and no retry follows: the name of the exception's class, and its text."""

    id: str
    at: float
    seq: int | None
    run: str
    error: BaseException
    trigger: TriggerT_co

    @property
    def time(self) -> datetime.datetime:
        """When it ended: aware, UTC."""
        return _moment(self.at)

    @property
    def exception_type(self) -> str:
        """The name of the exception's class, without its module."""
        return _kind_of(self.error)

    @property
    def message(self) -> str:
        """The exception's text."""
        return _text_of(self.error)


class EffectFailureFact(NamedTuple):
    """An effect was given up after its last try: `effect` is its function's name, `seq` the commit that released it."""

    id: str
    at: float
    seq: int | None
    effect: str
    payload_json: str
    error: BaseException
    attempts: int

    @property
    def time(self) -> datetime.datetime:
        """When it was given up: aware, UTC."""
        return _moment(self.at)

    @property
    def payload(self) -> Any:
        """What the effect was released with, as JSON."""
        return from_json(self.payload_json)

    @property
    def exception_type(self) -> str:
        """The name of the exception's class, without its module."""
        return _kind_of(self.error)

    @property
    def message(self) -> str:
        """The exception's text."""
        return _text_of(self.error)


class TickFact(NamedTuple):
    """The slot of a schedule: `scheduled_for` is the slot's own time, `time` when it was recorded."""

    id: str
    at: float
    seq: int | None
    schedule: str
    slot: float

    @property
    def time(self) -> datetime.datetime:
        """When it was recorded: aware, UTC."""
        return _moment(self.at)

    @property
    def scheduled_for(self) -> datetime.datetime:
        """The slot's own time: aware, UTC."""
        return _moment(self.slot)


Fact = EventFact | StatusFact[Any] | ResultFact[Any] | FailureFact[Any] | EffectFailureFact | TickFact
FactT_co = TypeVar("FactT_co", bound=Fact, covariant=True)


def _moment(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def _kind_of(error: BaseException) -> str:
    name = error.kind if isinstance(error, RecordedFailure) else type(error).__name__
    return name.rpartition(".")[2]


def _text_of(error: BaseException) -> str:
    return error.message if isinstance(error, RecordedFailure) else str(error)
