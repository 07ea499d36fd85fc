"""Effects when the system stops: which it waits for, and which it leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from seqtor import (
    EffectContext,
    Retry,
)
from seqtor.actors.effects.workforce import THREADS_MAX
from tests.effect_programs import Order, Outside, PlaceOrder, desk, raising, until
from tests.programs import WAIT_S, Gate, simulated, threaded


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log of the test, as records."""
    found: list[Any] = []
    sink = logger.add(lambda message: found.append(message.record), level="INFO")
    logger.enable("seqtor")
    yield found
    logger.remove(sink)
    logger.disable("seqtor")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_the_stop_waits_for_effects_and_for_what_they_return(make: Any, is_async: bool, outside: Outside) -> None:
    """Each round of a chain is an effect that returns a trigger that has an effect."""
    outside.does = lambda context, order: Order(article=order.article + "+") if len(order.article) < 9 else None
    system, orders = desk(outside, make(), is_async=is_async)
    with system:
        system.tell(Order(article="nut"))
    assert [tried.payload.article for tried in outside.tries] == ["nut" + "+" * n for n in range(7)]
    stats = system.stats()
    assert stats.committed_through == stats.effects_through == 7
    assert len(system.snapshot()[orders]) == 7


def test_the_stop_waits_for_a_hundred_that_are_due(outside: Outside) -> None:
    system, _ = desk(outside)
    with system:
        system.tell(Order(count=100))
    assert len(outside.tries) == 100


def test_the_stop_does_not_wait_for_what_waits_for_its_next_try(outside: Outside, lines: list[Any]) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, retry=Retry(5, backoff=3600))
    with system:
        system.ask(Order(), timeout=WAIT_S)
        outside.await_tries(1)
    assert len(outside.tries) == 1
    (line,) = [line for line in lines if line["level"].name == "WARNING"]
    assert line["message"].endswith("are lost, there is no journal: exchange.place of seq 1")
    assert system.stats().effects_through == 0


def test_a_failure_during_the_stop_begins_no_next_try(outside: Outside) -> None:
    gate = Gate()

    def fail(context: EffectContext, order: PlaceOrder) -> None:
        gate.pass_through()
        raise ConnectionError("away")

    outside.does = fail
    system, _ = desk(outside, retry=Retry(50, backoff=0))
    system.start()
    system.ask(Order(), timeout=WAIT_S)
    gate.await_arrivals()
    stopping = threading.Thread(target=system.stop)
    stopping.start()
    until(lambda: bool(system._running._effects._actor._drains))  # type: ignore[union-attr]
    gate.open()
    stopping.join(WAIT_S)
    assert not stopping.is_alive()
    assert len(outside.tries) == 1


def test_a_hanging_effect_is_left_behind_when_the_grace_is_over(outside: Outside, lines: list[Any]) -> None:
    gate = Gate()
    outside.does = lambda context, order: gate.pass_through()
    system, _ = desk(outside)
    system.start()
    system.ask(Order(count=THREADS_MAX + 3), timeout=WAIT_S)
    gate.await_arrivals(THREADS_MAX)
    started = time.monotonic()
    system.stop(grace=0.05)
    assert time.monotonic() - started < 10, "threads that hang are not waited for one after another"
    assert len(outside.tries) == THREADS_MAX, "nothing more was begun"
    gate.open()
    texts = [line["message"] for line in lines]
    assert any("work was left after a grace of 0.05 s" in text for text in texts)
    assert any("exchange.place of seq 1, " in text and text.endswith("and 25 more") for text in texts)
    assert any("threads did not stop in time and are abandoned: seqtor-effects-1" in text for text in texts)


def test_a_coroutine_that_hangs_is_cancelled_when_the_grace_is_over(outside: Outside) -> None:
    reached, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    outside.does = lambda context, order: hang()
    system, _ = desk(outside, is_async=True)
    system.start()
    system.ask(Order(), timeout=WAIT_S)
    assert reached.wait(WAIT_S)
    system.stop(grace=0)
    assert cancelled.wait(WAIT_S)
    assert system.dead_letters() == []
    assert system.stats().effects_through == 0


def test_a_stopped_system_leaves_no_threads_of_its_effects(outside: Outside) -> None:
    before = set(threading.enumerate())
    system, _ = desk(outside)
    with system:
        system.ask(Order(count=10), timeout=WAIT_S)
    assert set(threading.enumerate()) <= before


def test_nothing_begins_once_the_effects_are_held(outside: Outside) -> None:
    gate = Gate()
    outside.does = lambda context, order: gate.pass_through()
    system, _ = desk(outside)
    system.start()
    system.ask(Order(count=THREADS_MAX + 3), timeout=WAIT_S)
    gate.await_arrivals(THREADS_MAX)
    running: Any = system._running
    running._effects.hold()
    gate.open()
    until(lambda: len(running._effects._actor._open) == 3)
    system.stop(grace=0)
    assert len(outside.tries) == THREADS_MAX
