"""The simulated dispatchers: one integer replays everything, and time passes only when nothing else can happen."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pykka
import pytest

from seqtor.actors.base import Actor, Ref
from seqtor.actors.dispatchers import NothingCanHappen, SimulatedDispatchers

ROOT = Path(__file__).parents[2]
SEEDS = range(30)


class Hop:
    """Told: goes on to the next actor until none are left."""

    def __init__(self, name: str, hops: int) -> None:
        self.name = name
        self.hops = hops


class Station(Actor):
    """Notes what passes and passes it on."""

    receives: ClassVar[tuple[type, ...]] = (Hop,)

    def __init__(self, number: int, log: list[str], timers: Any) -> None:
        super().__init__()
        self._number = number
        self._log = log
        self._timers = timers
        self.others: list[Ref] = []

    def on_hop(self, message: Hop) -> None:
        self._log.append(f"{message.name}{message.hops}@{self._number}")
        if message.hops:
            onward = self.others[message.hops % len(self.others)]
            hop = Hop(message.name, message.hops - 1)
            if message.hops % 3:
                onward.tell(hop)
            else:
                self._timers.call_after(message.hops, lambda: onward.tell(hop) and None)


def journey(seed: int) -> list[str]:
    """Let several messages travel among actors, with coroutines beside them; returns what happened in which order."""
    simulation = SimulatedDispatchers(seed)
    log: list[str] = []
    stations = [Station.start_on(simulation, number, log, simulation.timers) for number in range(4)]
    for station in stations:
        station._actor_weakref().others = stations  # type: ignore[union-attr]

    async def walk(name: str) -> None:
        for step in range(3):
            log.append(f"{name}{step}")
            await asyncio.sleep(step)

    for name in "abc":
        stations[0].tell(Hop(name, 7))
        simulation.start_coroutine(walk(f"walk-{name}-"), Patient(), 1e6)
    simulation.run_until(lambda: len(log) == 3 * 8 + 3 * 3, timeout_s=None)
    log.append(f"{simulation.clock.monotonic():g} s, {simulation.steps} steps, {simulation.entropy():x}")
    for station in stations:
        station.stop()
    return log


class Patient:
    """An attempt that notes whether its deadline has passed."""

    def __init__(self) -> None:
        self.expired_at: list[float] = []
        self.now: Callable[[], float] = lambda: 0.0

    def expire(self) -> None:
        self.expired_at.append(self.now())


# Order ---------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_order() -> None:
    assert all(journey(seed) == journey(seed) for seed in SEEDS)


def test_seeds_differ() -> None:
    assert len({tuple(journey(seed)[:-1]) for seed in SEEDS}) > len(SEEDS) // 2


def test_the_order_does_not_depend_on_the_process_or_its_hash_seed() -> None:
    program = "import sys; sys.path.insert(0, '.'); from tests.unit.test_simulated import journey; print(journey(7))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert printed == {str(journey(7))}


def test_one_actor_gets_its_messages_in_the_order_of_each_sender() -> None:
    class Recorder(Actor):
        def __init__(self) -> None:
            super().__init__()
            self.received: list[Any] = []

        def on_receive(self, message: Any) -> None:
            self.received.append(message)

    for seed in SEEDS:
        simulation = SimulatedDispatchers(seed)
        ref = Recorder.start_on(simulation)
        actor: Any = ref._actor_weakref()
        for number in range(20):
            ref.tell(number)
        simulation.run_to_rest()
        assert actor.received == list(range(20))
        ref.stop()


def test_nothing_runs_before_somebody_waits_or_steps() -> None:
    simulation = SimulatedDispatchers(seed=1)
    log: list[str] = []
    ref = Station.start_on(simulation, 0, log, simulation)
    ref.tell(Hop("a", 0))
    assert log == []
    assert simulation.step()
    while simulation.step():
        pass
    assert log == ["a0@0"]
    ref.stop()


def test_everything_but_sync_handlers_runs_on_the_thread_that_waits() -> None:
    simulation = SimulatedDispatchers(seed=1)
    threads: set[int] = set()

    class Where(Actor):
        def on_receive(self, message: Any) -> None:
            threads.add(threading.get_ident())

    for dispatcher in (simulation.core, simulation.loop, simulation.dedicated("medium")):
        ref = Where.start_on(dispatcher)
        ref.ask("where?")
        ref.stop()
    assert threads == {threading.get_ident()}
    Where.start_on(simulation.pool).ask("where?")
    assert len(threads) == 2


# Time ----------------------------------------------------------------------------------------------------------------


def test_time_passes_only_when_no_actor_is_ready() -> None:
    for seed in SEEDS:
        simulation = SimulatedDispatchers(seed)
        moments: list[float] = []

        class Clocked(Actor):
            def on_receive(self, message: int, simulation: Any = simulation, moments: list[float] = moments) -> None:
                moments.append(simulation.clock.monotonic())
                if message:
                    self.tell_self(message - 1)

        ref = Clocked.start_on(simulation)
        fired: list[float] = []
        simulation.call_after(0.0, lambda fired=fired, clock=simulation.clock: fired.append(clock.monotonic()))  # type: ignore[misc]
        simulation.call_after(5.0, lambda fired=fired, clock=simulation.clock: fired.append(clock.monotonic()))  # type: ignore[misc]
        ref.tell(100)
        simulation.run_until(lambda fired=fired: len(fired) == 2, timeout_s=None)  # type: ignore[misc]
        assert moments == [0.0] * 101
        assert fired == [0.0, 5.0]
        ref.stop()


def test_run_to_rest_lets_no_time_pass() -> None:
    simulation = SimulatedDispatchers(seed=1)
    log: list[str] = []
    ref = Station.start_on(simulation, 0, log, simulation)
    simulation.call_after(0.0, lambda: log.append("timer"))
    ref.tell(Hop("a", 0))
    simulation.run_to_rest()
    assert log == ["a0@0"]
    assert simulation.clock.monotonic() == 0.0
    ref.stop()


def test_timers_fire_in_the_order_of_their_moments_and_equals_as_they_were_set() -> None:
    simulation = SimulatedDispatchers(seed=1)
    fired: list[tuple[str, float]] = []
    for delay_s, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (2.0, "b again")):
        simulation.call_after(delay_s, lambda name=name: fired.append((name, simulation.clock.monotonic())))  # type: ignore[misc]
    cancelled = simulation.call_after(1.5, lambda: fired.append(("cancelled", 0.0)))
    cancelled.cancel()
    while simulation.step():
        pass
    assert fired == [("a", 1.0), ("b", 2.0), ("b again", 2.0), ("c", 3.0)]


def test_time_does_not_pass_for_a_cancelled_timer() -> None:
    simulation = SimulatedDispatchers(seed=1)
    simulation.call_after(10.0, lambda: None).cancel()
    assert simulation.step() is False
    assert simulation.clock.monotonic() == 0.0


def test_the_clock_of_records_moves_with_the_simulation() -> None:
    simulation = SimulatedDispatchers(seed=1)
    before = simulation.clock.time()
    simulation.call_after(60.0, lambda: None)
    simulation.step()
    assert simulation.clock.time() - before == 60.0


def test_a_time_out_is_virtual() -> None:
    simulation = SimulatedDispatchers(seed=1)
    a_year_s = 365 * 24 * 3600.0
    assert simulation.run_until(lambda: False, timeout_s=a_year_s) is False
    assert simulation.clock.monotonic() == a_year_s


def test_an_answer_that_does_not_come_in_time_is_a_time_out() -> None:
    simulation = SimulatedDispatchers(seed=1)
    future = Actor._create_future()
    future.driver = simulation
    with pytest.raises(pykka.Timeout):
        future.get(timeout=3600.0)
    assert simulation.clock.monotonic() == 3600.0
    simulation.call_after(60.0, lambda: future.set("at last"))
    assert future.get(timeout=61.0) == "at last"


# Ends ----------------------------------------------------------------------------------------------------------------


def test_waiting_for_what_cannot_happen_is_an_error() -> None:
    simulation = SimulatedDispatchers(seed=1)
    with pytest.raises(NothingCanHappen, match="no actor is ready and no timer is set"):
        simulation.run_until(lambda: False, timeout_s=None)


def test_a_livelock_is_an_error() -> None:
    simulation = SimulatedDispatchers(seed=1, steps_max=2_000)

    class Restless(Actor):
        def on_receive(self, message: Any) -> None:
            self.tell_self(message)

    ref = Restless.start_on(simulation)
    ref.tell("again")
    with pytest.raises(NothingCanHappen, match="still busy after 2000 steps: a livelock"):
        simulation.run_until(lambda: False, timeout_s=10.0)
    ref.actor_stopped.set()


# Coroutines ----------------------------------------------------------------------------------------------------------


def test_coroutines_wait_in_virtual_time_and_for_each_other() -> None:
    simulation = SimulatedDispatchers(seed=3)
    log: list[tuple[str, float]] = []
    gate: asyncio.Future[str] = simulation._event_loop.create_future()

    async def first() -> None:
        await asyncio.sleep(10)
        log.append(("first", simulation.clock.monotonic()))
        gate.set_result("open")

    async def second() -> None:
        log.append((await gate, simulation.clock.monotonic()))

    async def gathers() -> None:
        await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        log.append(("gathered", simulation.clock.monotonic()))

    for coroutine in (second(), first(), gathers()):
        simulation.start_coroutine(coroutine, Patient(), 1e6)
    simulation.run_until(lambda: len(log) == 3, timeout_s=None)
    assert log == [("gathered", 2.0), ("first", 10.0), ("open", 10.0)]


def test_the_deadline_of_a_coroutine_passes_in_virtual_time() -> None:
    simulation = SimulatedDispatchers(seed=3)
    late, early = Patient(), Patient()
    late.now = early.now = simulation.clock.monotonic
    simulation.start_coroutine(asyncio.sleep(100), late, 10.0)
    simulation.start_coroutine(asyncio.sleep(1), early, 10.0)
    while simulation.step():
        pass
    assert late.expired_at == [10.0]
    assert early.expired_at == []


def test_an_actor_can_be_asked_from_a_coroutine() -> None:
    simulation = SimulatedDispatchers(seed=3)
    answers: list[Any] = []

    class Doubling(Actor):
        def on_receive(self, message: int) -> int:
            return 2 * message

    ref = Doubling.start_on(simulation)

    async def ask() -> None:
        answers.append(await ref.ask(21, block=False))

    simulation.start_coroutine(ask(), Patient(), 1e6)
    simulation.run_until(lambda: bool(answers), timeout_s=None)
    assert answers == [42]
    ref.stop()


def test_the_stop_cancels_what_still_runs() -> None:
    simulation = SimulatedDispatchers(seed=3)
    log: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    simulation.start_coroutine(hang(), Patient(), 1e9)
    simulation.run_to_rest()
    assert simulation.stop(0) == []
    assert log == ["cancelled"]


def test_threads_are_refused_with_what_to_do_instead() -> None:
    simulation = SimulatedDispatchers(seed=3)
    raised: list[BaseException] = []

    async def uses_a_thread() -> None:
        try:
            await asyncio.to_thread(print)
        except NotImplementedError as error:
            raised.append(error)

    simulation.start_coroutine(uses_a_thread(), Patient(), 1e6)
    simulation.run_until(lambda: bool(raised), timeout_s=None)
    assert "threads cannot be simulated" in str(raised[0])
