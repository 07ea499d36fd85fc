"""Handlers that make calls, and what is passed to them: for the tests of `tx.call` and `tx.acall`."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, Field, field_serializer

from seqtor import (
    HandlerFailed,
    Record,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors.answers import identify
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.memory import MemoryBackend
from tests.programs import WAIT_S

ROOT = Path(__file__).parents[2]


class Act(Trigger[Any]):
    """Does what the test says."""

    what: int = 0


class Quote(Record):
    """A model that is passed and returned."""

    symbol: str
    price: float = 0.0
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Place:
    """A dataclass that is passed and returned."""

    row: int
    raw: bytes = b""


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Pair(NamedTuple):
    left: int
    right: str


class Aliased(BaseModel):
    """Another name in JSON than in Python, each way."""

    value: int = Field(validation_alias="in", serialization_alias="out")
    model_config = {"validate_by_name": True, "validate_by_alias": True}


class Client:
    """Something with methods, which is no argument."""

    def __init__(self, base: str = "") -> None:
        self.base = base

    def fetch(self, path: str) -> str:
        return self.base + path

    @classmethod
    def make(cls, path: str) -> str:
        return path

    def __call__(self, path: str) -> str:
        return path

    async def fetch_async(self, path: str) -> str:
        return self.base + path


class SpecialClient(Client):
    """Inherits its methods."""


class WithClient(BaseModel):
    """A model that alone knows how its field is serialised."""

    model_config = {"arbitrary_types_allowed": True}
    client: Client

    @field_serializer("client")
    def base_of(self, client: Client) -> str:
        return client.base


def plain(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


async def coroutine(value: Any = None) -> Any:
    await asyncio.sleep(0)
    return value


def place_of(function: Any, *args: Any, **kwargs: Any) -> str:
    return identify(function, args, kwargs).place


def name_of(function: Any) -> str:
    return identify(function, (), {}).name


Acts = Callable[[Transaction], Any]


def acting(system: Supervisor, *acts: Acts, deadline: float = WAIT_S) -> Supervisor:
    """Register a plain handler."""

    @system.on(Act, deadline=deadline)
    def act(trigger: Act, tx: Transaction) -> Any:
        return acts[trigger.what](tx)

    return system


def acting_async(system: Supervisor, *acts: Acts, deadline: float = WAIT_S) -> Supervisor:
    """Register a coroutine function as handler, which awaits what it gets."""

    @system.on(Act, deadline=deadline)
    async def act(trigger: Act, tx: Transaction) -> Any:
        result = acts[trigger.what](tx)
        return await result if asyncio.iscoroutine(result) else result

    return system


def cause_of(system: Supervisor) -> BaseException:
    with system, pytest.raises(HandlerFailed) as caught:
        system.ask(Act(), timeout=WAIT_S)
    cause = caught.value.__cause__
    assert cause is not None
    return cause


class Plain(Exception):
    """Can."""


def starts(group: Group) -> bool:
    return any(row.kind == "call" and '"call"' not in row.body for row in group.entries)


def answers(group: Group) -> bool:
    return any(row.kind == "call" and '"call"' in row.body for row in group.entries)


class Held(MemoryBackend):
    """A journal whose writing can be held up, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.may_write.set()
        self.arrived = threading.Semaphore(0)
        self.fails_at: Callable[[Group], bool] = lambda group: False

    def append(self, group: Group) -> None:
        self.arrived.release()
        assert self.may_write.wait(WAIT_S)
        if self.fails_at(group):
            raise OSError("the disk is gone")
        super().append(group)
