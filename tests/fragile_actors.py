"""Actors that fail as they are told, and those who hear of it: for the tests of the base actor."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from seqtor.actors.base import Actor, Ref
from seqtor.messages.lifecycle import ActorCrashed
from tests.stages import PATIENCE_S, Stage


class Boom(Exception):
    """The failure that these tests cause."""


class Raise:
    """Told or asked: raises the error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Hold:
    """Told: keeps the actor busy until `go`; `begun` is set when it is."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()


class Add:
    """Adds to the actor's sum and answers it."""

    def __init__(self, amount: int = 1) -> None:
        self.amount = amount


class Fragile(Actor):
    """Does what it is told, and notes which hooks are called."""

    receives: ClassVar[tuple[type, ...]] = (Raise, Hold, Add)

    def __init__(self, *, on_start: BaseException | None = None, on_stop: BaseException | None = None) -> None:
        super().__init__()
        self.total = 0
        self.failures: list[BaseException | None] = []
        self.failed = threading.Event()
        self.stopped = threading.Event()
        self._raise_on_start = on_start
        self._raise_on_stop = on_stop

    def on_raise(self, message: Raise) -> None:
        self.total += 1
        raise message.error

    def on_hold(self, message: Hold) -> None:
        message.begun.set()
        message.go.wait(PATIENCE_S)

    def on_add(self, message: Add) -> int:
        self.total += message.amount
        return self.total

    def on_start(self) -> None:
        if self._raise_on_start is not None:
            raise self._raise_on_start

    def on_stop(self) -> None:
        self.stopped.set()
        if self._raise_on_stop is not None:
            raise self._raise_on_stop

    def on_failure(self, exception_type: Any, exception_value: BaseException | None, traceback: Any) -> None:
        self.failures.append(exception_value)
        self.failed.set()

    @property
    def unlucky(self) -> int:
        return self.no_such_part  # type: ignore[attr-defined,no-any-return]


class Parent(Actor):
    """Hears of crashes."""

    receives: ClassVar[tuple[type, ...]] = (ActorCrashed,)

    def __init__(self) -> None:
        super().__init__()
        self.crashes: list[ActorCrashed] = []
        self.heard = threading.Event()

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        self.crashes.append(message)
        self.heard.set()


def behind(ref: Ref) -> Any:
    """The actor itself; a test looks at it when it is at rest."""
    actor = ref._actor_weakref()
    assert actor is not None
    return actor


def held(here: Stage, ref: Ref) -> Hold:
    """Make what is sent from now on queue up behind one message; simulated actors run only when somebody waits."""
    hold = Hold()
    if here.dispatcher.driver is not None:
        hold.go.set()
    ref.tell(hold)
    if here.dispatcher.driver is None:
        here.wait_for(hold.begun)
    return hold
