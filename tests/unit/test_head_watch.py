"""`head_warning`: what holds the order up is named in the log, once and then ever more rarely; nothing polls when idle."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from loguru import logger

from seqtor import Collection, Record, RegistrationError, Settings, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.clock import VirtualClock
from seqtor.actors.dispatchers.threaded import ThreadedDispatchers
from seqtor.actors.head_watch import HeadWatch
from seqtor.messages.runs import LookAtHead
from tests.stages import PATIENCE_S, ManualTimers


class Hold(Trigger[None]):
    """Waits until the test lets it go."""


class Quick(Trigger[int]):
    """Does nothing."""


class Row(Record):
    """Anything."""


class WatchedDispatchers(ThreadedDispatchers):
    """Real threads; what the core sets timers for comes when the test says so."""

    def __init__(self) -> None:
        super().__init__(threads=2, name="watched")
        self.clock = clock = VirtualClock()
        self.timers = self.manual = StartedTimers(clock)


class StartedTimers(ManualTimers):
    """As a system starts and stops them."""

    def start(self) -> None: ...

    def stop(self, timeout_s: float) -> list[str]:
        return []


@contextmanager
def logged_lines() -> Iterator[list[str]]:
    """What the system warns of."""
    lines: list[str] = []
    logger.enable("seqtor")
    sink = logger.add(lines.append, format="{message}", level="WARNING")
    try:
        yield lines
    finally:
        logger.remove(sink)
        logger.disable("seqtor")


def lines_of(settings: dict[str, float | None], behind: int, hold_s: float) -> tuple[list[str], SimulatedDispatchers]:
    dispatchers = SimulatedDispatchers(3)
    system = Supervisor(dispatchers=lambda _: dispatchers, settings=settings)

    @system.on(Hold, deadline=100_000)
    async def hold(trigger: Hold, tx: Transaction) -> None:
        await asyncio.sleep(hold_s)

    @system.on(Quick)
    def quick(trigger: Quick, tx: Transaction) -> int:
        return tx.seq

    with logged_lines() as lines, system:
        head = system.submit(Hold())
        dispatchers.run_to_rest()
        for _ in range(behind):
            system.submit(Quick())
        head.result(None)
        system.ask(Quick())
        dispatchers.run_to_rest()
    return lines, dispatchers


def seconds_in(lines: list[str]) -> list[int]:
    """How long each line says that the order has been held."""
    return [round(float(line.split(" for ")[1].split(" s:")[0])) for line in lines]


def test_a_head_that_others_wait_for_is_named_at_growing_intervals() -> None:
    lines, _ = lines_of({"head_warning": 1.0}, 3, 20.0)
    expected = r"seq 1 \(Hold\) has held the order for [\d.]+ s: executing attempt 1; 3 runs wait behind it"
    assert all(re.match(expected, line) for line in lines)
    assert seconds_in(lines) == [1, 2, 4, 8, 16]


def test_nothing_is_said_of_a_head_that_nobody_waits_for_or_that_ends_in_time() -> None:
    assert lines_of({"head_warning": 1.0}, 0, 20.0)[0] == []
    assert lines_of({"head_warning": 1.0}, 3, 0.5)[0] == []


@pytest.mark.parametrize("settings", [{"head_warning": None}, {}], ids=["none", "simulated without the setting"])
def test_without_the_setting_nothing_is_looked_at(settings: dict[str, float | None]) -> None:
    lines, dispatchers = lines_of(settings, 3, 20.0)
    assert lines == []
    assert all(timer.callback is None for _, _, timer in dispatchers._heap)


def test_a_system_on_real_threads_names_its_head_after_five_seconds_and_at_growing_intervals() -> None:
    dispatchers = WatchedDispatchers()
    system = Supervisor(dispatchers=lambda _: dispatchers)
    go_on = threading.Event()

    @system.on(Hold)
    def hold(trigger: Hold, tx: Transaction) -> None:
        assert go_on.wait(PATIENCE_S)

    @system.on(Quick)
    def quick(trigger: Quick, tx: Transaction) -> int:
        return tx.seq

    with logged_lines() as lines, system:
        head = system.submit(Hold())
        system.submit(Quick())
        assert system.stats().in_flight == 2
        said: list[list[int]] = []
        for seconds in (4, 1, 4, 1, 4, 1, 9, 1):
            dispatchers.manual.advance(seconds)
            system.stats()  # Goes through the coordinator: what the timer told it is done.
            said.append(seconds_in(lines))
        go_on.set()
        head.result(PATIENCE_S)
    # First seen as the head when the timer came for the first time, after 5 s.
    assert said == [[], [], [], [5], [5], [5, 10], [5, 10], [5, 10, 20]]


def test_who_has_overtaken_the_head_does_not_wait_behind_it() -> None:
    dispatchers = SimulatedDispatchers(3)
    system = Supervisor(dispatchers=lambda _: dispatchers, settings={"head_warning": 1.0})
    slow, fast = system.store("slow", Collection(Row)), system.store("fast", Collection(Row))

    @system.on(Hold, deadline=100_000, writes=[slow])
    async def hold(trigger: Hold, tx: Transaction) -> None:
        await asyncio.sleep(5)

    @system.on(Quick, writes=[fast])
    def quick(trigger: Quick, tx: Transaction) -> int:
        tx[fast]["key"] = Row()
        return tx.seq

    with logged_lines() as lines, system:
        head = system.submit(Hold())
        assert [system.ask(Quick()), system.ask(Quick())] == [2, 3]
        assert not head.done
        head.result(None)
    assert lines == []


def test_the_environment_and_a_file_switch_the_line_off() -> None:
    assert Settings().head_warning == 5.0
    assert Settings.load(environ={"SEQTOR_HEAD_WARNING": "off"}).head_warning is None
    assert Settings.load({"head_warning": "off"}).head_warning is None
    with pytest.raises(RegistrationError, match="head_warning=0: Input should be greater than 0"):
        Settings.load({"head_warning": 0})
    with pytest.raises(RegistrationError, match="head_warning='never': Input should be a valid number"):
        Settings.load({"head_warning": "never"})


def test_an_idle_system_sets_no_timer() -> None:
    _, dispatchers = lines_of({"head_warning": 1.0}, 3, 5.0)
    while dispatchers.step():
        assert dispatchers.clock.monotonic() < 30, "it polls"


# The watch alone ----------------------------------------------------------------------------------------------------------


class Inbox:
    """A coordinator's."""

    closed = False

    def __init__(self) -> None:
        self.told: list[object] = []

    def tell(self, message: object) -> None:
        self.told.append(message)


def test_a_head_is_named_for_a_day_and_then_nothing_is_looked_at_until_runs_are_in_flight_again() -> None:
    clock, inbox = VirtualClock(), Inbox()
    timers = ManualTimers(clock)
    watch = HeadWatch(clock, timers, 1.0)
    watch.coordinator = inbox  # type: ignore[assignment]
    with logged_lines() as lines:
        watch.begin()
        while timers._set:
            timers.advance(timers._set[0][0] - clock.monotonic())
            assert [type(told) for told in inbox.told] == [LookAtHead]
            inbox.told.clear()
            watch.look(1, "Hold", "executing attempt 1", lambda: 3)
    assert [round(float(line.split(" for ")[1].split(" s:")[0])) for line in lines] == [2**n for n in range(17)]
    assert not watch.is_set


def test_a_timer_that_fires_when_the_coordinator_is_gone_tells_nobody() -> None:
    clock, inbox = VirtualClock(), Inbox()
    timers = ManualTimers(clock)
    watch = HeadWatch(clock, timers, 1.0)
    watch.coordinator = inbox  # type: ignore[assignment]
    watch.begin()
    inbox.closed = True
    timers.advance(2.0)
    assert inbox.told == []
