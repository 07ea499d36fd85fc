"""Timers call back in the order of their moments, once, unless they are cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from loguru import logger

from seqtor.actors.clock import SystemClock, VirtualClock
from seqtor.actors.dispatchers.timers import ThreadTimers
from tests.stages import PATIENCE_S


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def timers(clock: VirtualClock) -> Iterator[ThreadTimers]:
    """Timers that have not started yet: what is set waits for the test to advance the clock and start them."""
    made = ThreadTimers(clock, "test")
    yield made
    assert made.stop(PATIENCE_S) == []


def test_timers_fire_in_the_order_of_their_moments_and_equals_as_they_were_set(
    clock: VirtualClock, timers: ThreadTimers
) -> None:
    fired: list[str] = []
    done = threading.Event()
    for delay_s, name in ((30, "last"), (10, "first"), (20, "second"), (20, "third")):
        timers.call_after(delay_s, lambda name=name: fired.append(name))  # type: ignore[misc]
    timers.call_after(40, done.set)
    clock.advance_to(100)
    timers.start()
    assert done.wait(PATIENCE_S)
    assert fired == ["first", "second", "third", "last"]


def test_a_timer_whose_moment_has_not_come_does_not_fire(clock: VirtualClock, timers: ThreadTimers) -> None:
    fired: list[str] = []
    done = threading.Event()
    timers.call_after(50, lambda: fired.append("too early"))
    timers.call_after(10, done.set)
    clock.advance_to(49)
    timers.start()
    assert done.wait(PATIENCE_S)
    assert timers.stop(PATIENCE_S) == []
    assert fired == []


def test_a_cancelled_timer_does_not_fire_and_may_be_cancelled_again(clock: VirtualClock, timers: ThreadTimers) -> None:
    fired: list[str] = []
    done = threading.Event()
    cancelled = timers.call_after(10, lambda: fired.append("cancelled"))
    last = timers.call_after(20, done.set)
    cancelled.cancel()
    clock.advance_to(100)
    timers.start()
    assert done.wait(PATIENCE_S)
    cancelled.cancel()
    last.cancel()
    assert fired == []


def test_a_callback_may_set_the_next_timer(clock: VirtualClock, timers: ThreadTimers) -> None:
    done = threading.Event()
    timers.call_after(10, lambda: timers.call_after(0, done.set) and None)
    clock.advance_to(10)
    timers.start()
    assert done.wait(PATIENCE_S)


def test_a_callback_that_raises_is_logged_and_harms_no_other(clock: VirtualClock, timers: ThreadTimers) -> None:
    done = threading.Event()
    lines: list[str] = []
    sink = logger.add(lines.append, level="ERROR", format="{message}")
    logger.enable("seqtor")

    def fail() -> None:
        raise ValueError("broken callback")

    try:
        timers.call_after(10, fail)
        timers.call_after(20, done.set)
        clock.advance_to(100)
        timers.start()
        assert done.wait(PATIENCE_S)
    finally:
        logger.remove(sink)
        logger.disable("seqtor")
    assert any("a timer's callback failed" in line and "broken callback" in line for line in lines)


def test_an_earlier_timer_wakes_the_thread_that_waits_for_a_later_one() -> None:
    timers = ThreadTimers(SystemClock(), "test")
    timers.start()
    done = threading.Event()
    timers.call_after(10 * PATIENCE_S, lambda: None)
    timers.call_after(0, done.set)
    assert done.wait(PATIENCE_S)
    assert timers.stop(PATIENCE_S) == [], "the stop wakes it too"


def test_timers_that_never_started_stop() -> None:
    assert ThreadTimers(SystemClock(), "test").stop(PATIENCE_S) == []
