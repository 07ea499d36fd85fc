"""Effects: only after their commit, at least once; what they return is submitted exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loguru import logger

from seqtor import (
    Collection,
    EffectContext,
    HandlerFailed,
    Rejected,
    Retry,
    State,
    Transaction,
    Trigger,
)
from seqtor.actors.effects.workforce import TASKS_MAX, THREADS_MAX
from tests.effect_programs import Acknowledged, Order, Outside, PlaceOrder, desk, settle, until
from tests.programs import WAIT_S, Account, Gate, simulated, threaded


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


# What is carried out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_commit_s_effects_are_carried_out_with_their_payloads(make: Any, is_async: bool, outside: Outside) -> None:
    system, _ = desk(outside, make(), is_async=is_async)
    with system:
        assert system.ask(Order(article="nut", count=3), timeout=WAIT_S) == 1
    assert sorted(outside.tries) == [
        (outside.tries[0].key.rpartition("-")[0] + f"-{index}", 1, 1, PlaceOrder(article="nut", count=index))
        for index in range(3)
    ]


@pytest.mark.parametrize("make", [simulated, threaded])
def test_what_does_not_commit_has_no_effects(make: Any, outside: Outside) -> None:
    system, _ = desk(outside, make())
    with system:
        with pytest.raises(Rejected):
            system.ask(Order(how="reject"), timeout=WAIT_S)
        with pytest.raises(HandlerFailed):
            system.ask(Order(how="fail"), timeout=WAIT_S)
        assert system.ask(Order(), timeout=WAIT_S) == 3
    assert [tried.seq for tried in outside.tries] == [3]


@pytest.mark.parametrize("seed", range(5))
def test_an_attempt_that_was_abandoned_has_no_effects(seed: int, outside: Outside) -> None:
    system = simulated(seed)
    numbers = system.store("numbers", Collection(Account))

    @system.effect("count")
    def count(context: EffectContext, number: int) -> None:
        outside(context, number)

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> int:
        tx.effect(count, tx[numbers].get("n", Account()).balance)
        tx[numbers]["n"] = Account(balance=tx[numbers].get("n", Account()).balance + 1)
        return tx.attempt

    with system:
        attempts = [submission.result() for submission in system.submit_many([Order()] * 20)]
    assert max(attempts) > 1
    assert sorted(tried.payload for tried in outside.tries) == list(range(20))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_slow_effect_holds_up_no_other(is_async: bool, outside: Outside) -> None:
    gate = Gate()

    def hold_first(context: EffectContext, order: PlaceOrder) -> Any:
        if context.seq > 1:
            return None
        return asyncio.to_thread(gate.pass_through) if is_async else gate.pass_through()

    outside.does = hold_first
    system, _ = desk(outside, is_async=is_async)
    with system:
        system.ask(Order(), timeout=WAIT_S)
        gate.await_arrivals()
        for _ in range(20):
            system.ask(Order(), timeout=WAIT_S)
        outside.await_tries(21)
        until(lambda: len({tried.seq for tried in outside.tries}) == 21)
        assert system.stats().effects_through == 0, "the first has not ended"
        gate.open()


def test_plain_functions_run_on_a_bounded_number_of_threads(outside: Outside) -> None:
    gate = Gate()
    outside.does = lambda context, order: gate.pass_through()
    system, _ = desk(outside)
    with system:
        system.ask(Order(count=THREADS_MAX + 5), timeout=WAIT_S)
        gate.await_arrivals(THREADS_MAX)
        system.stats()  # Through the core, after all that the effects' actor has done so far.
        assert len(outside.tries) == THREADS_MAX
        gate.open()
    assert len(outside.tries) == THREADS_MAX + 5


def test_effects_wait_for_a_thread_if_there_is_none_to_be_had(outside: Outside, lines: list[Any]) -> None:
    system, _ = desk(outside, simulated())
    with system:
        dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]
        made, failures = dispatchers.dedicated, [RuntimeError("can't start new thread")] * 3

        def dedicated(name: str) -> Any:
            if failures:
                raise failures.pop()
            return made(name)

        dispatchers.dedicated = dedicated
        system.ask(Order())
        settle(system, lambda: system.stats().effects_through == 1)
        assert dispatchers.clock.monotonic() >= 3
    assert len(outside.tries) == 1
    assert [line["message"] for line in lines if line["level"].name == "ERROR"] == [
        "no thread for effects, tried again in 1 s: can't start new thread"
    ] * 3


def test_a_thousand_coroutines_wait_at_the_same_time(outside: Outside) -> None:
    everyone = asyncio.Event()

    def wait_for_all(context: EffectContext, order: PlaceOrder) -> Any:
        if len(outside.tries) == TASKS_MAX:
            everyone.set()
        return everyone.wait()

    async def nothing(waited: Any) -> None:
        await waited

    outside.does = lambda context, order: nothing(wait_for_all(context, order))
    system, _ = desk(outside, is_async=True)
    with system:
        system.ask(Order(count=TASKS_MAX), timeout=WAIT_S)
    assert len(outside.tries) == TASKS_MAX


def test_an_effect_is_outside_of_its_handler(outside: Outside) -> None:
    system, orders = desk(outside)
    found: list[Any] = []
    outside.does = lambda context, order: found.append(system.snapshot(seq=context.seq)[orders][order.article])
    with system:
        system.ask(Order(article="nut"), timeout=WAIT_S)
        until(lambda: system.stats().effects_through == 1)
    assert found == [PlaceOrder(article="nut")]


def test_a_system_without_effects_has_nothing_of_them() -> None:
    system = threaded()
    before = threading.active_count()
    with system:
        assert system._running._effects.ref is None  # type: ignore[union-attr]
        assert system.dead_letters() == []
        during = threading.active_count()
    with_effects, _ = desk(Outside())
    with with_effects:
        assert threading.active_count() - before <= during - before, "threads are made when there is something to do"


# What an effect returns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_trigger_that_an_effect_returns_runs_once(make: Any, is_async: bool, outside: Outside) -> None:
    outside.does = lambda context, order: Acknowledged(key=context.key, article=order.article)
    system, orders = desk(outside, make(), is_async=is_async)
    with system:
        for _ in range(5):
            system.ask(Order(count=2), timeout=WAIT_S)
        settle(system, lambda: system.stats().committed_through == 15)
        runs = [system.record(seq) for seq in range(1, 16)]
        acknowledged = [run for run in runs if isinstance(run.trigger, Acknowledged)]
        keys = sorted(tried.key for tried in outside.tries)
        assert sorted(run.id for run in acknowledged) == keys
        assert all(run.state is State.COMMITTED for run in runs)
        assert sorted(key for key in system.snapshot()[orders] if key != "bolt") == [f"ack {key}" for key in keys]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("a text", "TypeError: the effect 'exchange.place' returned a str: return a Trigger"),
        (Acknowledged, "TypeError: the effect 'exchange.place' returned a FrozenModelMeta: return a Trigger"),
        (PlaceOrder(), "TypeError: the effect 'exchange.place' returned a PlaceOrder: return a Trigger"),
        ("coroutine", "TypeError: the effect 'exchange.place' returned a coroutine: declare it with async def"),
        ("unknown", "UnknownTrigger: no handler is registered for Unknown"),
        ("surrogate", "ValidationError: "),
    ],
)
def test_what_is_no_trigger_to_be_accepted_is_an_error_of_the_effect(
    returned: Any, says: str, outside: Outside
) -> None:
    class Unknown(Trigger[None]):
        pass

    async def coroutine() -> None:
        pass

    made: dict[Any, Callable[[], Any]] = {
        "coroutine": coroutine,
        "unknown": Unknown,
        "surrogate": lambda: Acknowledged(key="k", article="\udc80"),
    }
    outside.does = lambda context, order: (
        made[returned]() if returned in ("coroutine", "unknown", "surrogate") else returned
    )
    system, _ = desk(outside, simulated(), Retry(2, backoff=0))
    with system:
        system.ask(Order())
        settle(system, lambda: system.stats().effects_through == 1)
        (letter,) = system.dead_letters()
        assert letter.error.startswith(says)
        assert letter.attempts == 2
        assert system.stats().current_seq == 1


# The watermark --------------------------------------------------------------------------------------------------------


def test_effects_through_waits_for_the_oldest_that_has_not_ended(outside: Outside) -> None:
    gates = {1: Gate(), 4: Gate()}
    outside.does = lambda context, order: gates[context.seq].pass_through() if context.seq in gates else None
    system, _ = desk(outside)
    with system:
        assert system.stats().effects_through == 0
        for count in (2, 0, 1, 1, 0):
            system.ask(Order(count=count), timeout=WAIT_S)
        gates[1].await_arrivals(2)
        gates[4].await_arrivals()
        assert system.stats().effects_through == 0
        gates[1].open()
        until(lambda: system.stats().effects_through == 3)
        assert system.stats().durable_through == 5
        gates[4].open()
        until(lambda: system.stats().effects_through == 5)


def test_a_commit_s_effects_have_ended_when_the_last_of_them_has(outside: Outside) -> None:
    gate = Gate()
    outside.does = lambda context, order: gate.pass_through() if order.count == 1 else None
    system, _ = desk(outside)
    with system:
        system.ask(Order(count=3), timeout=WAIT_S)
        gate.await_arrivals()
        outside.await_tries(3)
        until(lambda: len(system._running._effects._actor._open) == 1)  # type: ignore[union-attr]
        assert system.stats().effects_through == 0
        gate.open()
        until(lambda: system.stats().effects_through == 1)
