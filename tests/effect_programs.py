"""A desk whose orders have effects, and the outside world that they reach: for the tests of effects."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from seqtor import (
    Collection,
    EffectContext,
    Record,
    Rejected,
    Retry,
    Supervisor,
    Transaction,
    Trigger,
)
from tests.programs import WAIT_S, threaded


class PlaceOrder(Record):
    """What the effect is told."""

    article: str = "bolt"
    count: int = 1


class Order(Trigger[int]):
    """Writes, and releases effects."""

    article: str = "bolt"
    count: int = 1
    how: str = "commit"


class Acknowledged(Trigger[None]):
    """What an effect returns."""

    key: str
    article: str


class Tried(NamedTuple):
    """One try, as the outside world saw it."""

    key: str
    seq: int
    attempt: int
    payload: Any


class Outside:
    """The outside world: notes every try, does what the test says, and can be waited for."""

    def __init__(self) -> None:
        self.tries: list[Tried] = []
        self.does: Callable[[EffectContext, Any], Any] = lambda context, payload: None
        self._changed = threading.Condition()

    def __call__(self, context: EffectContext, payload: Any) -> Any:
        with self._changed:
            self.tries.append(Tried(context.key, context.seq, context.attempt, payload))
            self._changed.notify_all()
        return self.does(context, payload)

    def await_tries(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.tries) >= count, WAIT_S), self.tries


def desk(
    outside: Outside, system: Supervisor | None = None, retry: Retry | None = None, *, is_async: bool = False
) -> tuple[Supervisor, Any]:
    """A system whose orders release one effect each."""
    system = system or threaded()
    orders = system.store("orders", Collection(PlaceOrder))
    place: Any

    if is_async:

        @system.effect("exchange.place", retry=retry)
        async def place_async(context: EffectContext, order: PlaceOrder) -> Trigger[Any] | None:
            found = outside(context, order)
            return await found if isinstance(found, Awaitable) else found

        place = place_async
    else:

        @system.effect("exchange.place", retry=retry)
        def place_sync(context: EffectContext, order: PlaceOrder) -> Trigger[Any] | None:
            return outside(context, order)

        place = place_sync

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> int:
        tx[orders][trigger.article] = PlaceOrder(article=trigger.article, count=trigger.count)
        for number in range(trigger.count):
            tx.effect(place, PlaceOrder(article=trigger.article, count=number))
        if trigger.how == "reject":
            raise Rejected("no")
        if trigger.how == "fail":
            raise ValueError("wrong")
        return tx.seq

    @system.on(Acknowledged)
    def acknowledged(trigger: Acknowledged, tx: Transaction) -> None:
        tx[orders][f"ack {trigger.key}"] = PlaceOrder(article=trigger.article)

    return system, orders


def until(condition: Callable[[], bool], what: str = "what the test waits for") -> None:
    """Wait for what a query shows, where nothing tells it."""
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} has not happened"
        os.sched_yield()


def raising(error: BaseException) -> Callable[..., Any]:
    def does(context: EffectContext, order: Any) -> None:
        raise error

    return does


def settle(system: Supervisor, condition: Callable[[], bool]) -> None:
    """Wait until a query says so; a simulated system is driven."""
    driver: Any = system._running._dispatchers.driver  # type: ignore[union-attr]
    if driver is None:
        until(condition)
        return
    while not condition():
        assert driver.step() or condition(), "nothing more can happen"
