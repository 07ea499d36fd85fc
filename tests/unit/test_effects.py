"""Effects: only after the commit is durable, at least once, under one key; what they return is submitted exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import functools
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from loguru import logger
from pydantic import BaseModel, Field

from seqtor import (
    Bundle,
    Collection,
    DeadLetterRecord,
    EffectContext,
    HandlerFailed,
    OutcomeUnknown,
    Record,
    RegistrationError,
    Rejected,
    Retry,
    State,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors.effects.workforce import TASKS_MAX, THREADS_MAX
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.programs import WAIT_S, Account, Gate, simulated, threaded


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


# Retries --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_every_try_has_the_same_key(make: Any, is_async: bool, outside: Outside) -> None:
    def fail_twice(context: EffectContext, order: PlaceOrder) -> None:
        if context.attempt < 3:
            raise ConnectionError("away")

    outside.does = fail_twice
    system, _ = desk(outside, make(), Retry(5, backoff=0.001), is_async=is_async)
    with system:
        system.ask(Order(), timeout=WAIT_S)
        settle(system, lambda: system.stats().effects_through == 1)
        assert system.dead_letters() == []
    assert [tried.attempt for tried in outside.tries] == [1, 2, 3]
    assert len({tried.key for tried in outside.tries}) == 1


def settle(system: Supervisor, condition: Callable[[], bool]) -> None:
    """Wait until a query says so; a simulated system is driven."""
    driver: Any = system._running._dispatchers.driver  # type: ignore[union-attr]
    if driver is None:
        until(condition)
        return
    while not condition():
        assert driver.step() or condition(), "nothing more can happen"


@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_effect_that_is_given_up_is_a_dead_letter(make: Any, outside: Outside, lines: list[Any]) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, make(), Retry(3, backoff=0.001))
    with system:
        system.ask(Order(article="nut"), timeout=WAIT_S)
        settle(system, lambda: system.stats().effects_through == 1)
        (letter,) = system.dead_letters()
        assert len(outside.tries) == 3
        assert letter == DeadLetterRecord(
            id=outside.tries[0].key,
            kind="effect",
            seq=1,
            name="exchange.place",
            payload={"article": "nut", "count": 0},
            error="ConnectionError: away",
            attempts=3,
            time=letter.time,
            effect_index=0,
        )
        letter.payload["article"] = "changed by its holder"
        assert system.dead_letters()[0].payload["article"] == "nut"
    assert system.dead_letters() == [letter._replace(payload={"article": "nut", "count": 0})], "after the stop, too"
    (line,) = [line for line in lines if "dead letter" in line["message"]]
    assert line["level"].name == "WARNING"
    assert (
        line["message"] == "effect 'exchange.place' of seq 1 is a dead letter after 3 attempts: ConnectionError: away"
    )
    bound = {"seq": 1, "effect": "exchange.place", "attempt": 3, "actor": "effects"}
    assert line["extra"] == bound


def raising(error: BaseException) -> Callable[..., Any]:
    def does(context: EffectContext, order: Any) -> None:
        raise error

    return does


def test_only_what_the_policy_names_is_tried_again(outside: Outside) -> None:
    errors = {1: ConnectionError("away"), 2: ValueError("wrong"), 3: SystemExit(3)}

    def fail(context: EffectContext, order: PlaceOrder) -> None:
        raise errors[context.seq]

    outside.does = fail
    system, _ = desk(outside, retry=Retry(2, backoff=0, on=(OSError,)))
    with system:
        for _ in errors:
            system.ask(Order(), timeout=WAIT_S)
        until(lambda: system.stats().effects_through == 3)
        letters = {letter.seq: (letter.attempts, letter.error) for letter in system.dead_letters()}
    assert letters == {1: (2, "ConnectionError: away"), 2: (1, "ValueError: wrong"), 3: (1, "SystemExit: 3")}


def test_dead_letters_come_newest_first_and_so_many(outside: Outside) -> None:
    outside.does = raising(ValueError("wrong"))
    system, _ = desk(outside, simulated(), Retry(1))
    with system:
        for seq in range(1, 8):
            system.ask(Order())
            settle(system, lambda seq=seq: system.stats().effects_through == seq)  # type: ignore[misc]
        assert [letter.seq for letter in system.dead_letters()] == [7, 6, 5, 4, 3, 2, 1]
        assert [letter.seq for letter in system.dead_letters(limit=2)] == [7, 6]
        assert system.dead_letters(limit=0) == []
        for limit in (-1, True, "3"):
            with pytest.raises(TypeError, match=r"dead_letters\(\) takes a limit"):
                system.dead_letters(limit)


def test_a_coroutine_that_something_else_cancels_is_tried_again(outside: Outside) -> None:
    def cancel_once(context: EffectContext, order: PlaceOrder) -> None:
        if context.attempt == 1:
            raise asyncio.CancelledError

    outside.does = cancel_once
    system, _ = desk(outside, simulated(), Retry(2, backoff=0), is_async=True)
    with system:
        system.ask(Order())
        settle(system, lambda: system.stats().effects_through == 1)
        assert system.dead_letters() == []
    assert [tried.attempt for tried in outside.tries] == [1, 2]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Unspeakable(), "Unspeakable: (the exception gives no text)"),
        (OSError("no such file: \udc80.txt"), "OSError: no such file: \\udc80.txt"),
        (ValueError({1, 2}), "ValueError: {1, 2}"),
        (Rejected("no", why="because"), "Rejected: no"),
    ],
)
def test_an_exception_is_kept_whatever_it_holds(error: Exception, says: str, outside: Outside, tmp_path: Path) -> None:
    outside.does = raising(error)
    for _ in range(2):
        system, _ = desk(outside, Supervisor(tmp_path / "desk.db"), Retry(1))
        with system:
            if not outside.tries:
                system.ask(Order(), timeout=WAIT_S)
            until(lambda system=system: system.stats().effects_through == 1)  # type: ignore[misc]
            assert [letter.error for letter in system.dead_letters()] == [says]
    assert len(outside.tries) == 1


def test_the_policy_says_how_long_to_wait() -> None:
    chance = random.Random(1)
    assert [Retry(9, backoff=0.5, jitter=0).delay_s(run, chance) for run in range(1, 5)] == [0.5, 1, 2, 4]
    assert Retry(99, backoff=1, backoff_max=10, jitter=0).delay_s(98, chance) == 10
    assert Retry(10**9, jitter=0).delay_s(10**8, chance) == 300
    assert Retry(9, backoff=0, jitter=0).delay_s(5, chance) == 0
    half = Retry(9, backoff=datetime.timedelta(seconds=8), jitter=0.5)
    delays = [half.delay_s(1, chance) for _ in range(200)]
    assert min(delays) < 4.5 < 7.5 < max(delays)
    assert all(4 <= delay <= 8 for delay in delays)
    assert half.delay_s(3, random.Random(7)) == half.delay_s(3, random.Random(7))


def test_the_policy_says_what_is_tried_again() -> None:
    policy = Retry(3, on=(OSError, KeyError))
    assert [policy.tries_again(run, OSError()) for run in (1, 2, 3, 4)] == [True, True, False, False]
    assert policy.tries_again(1, KeyError())
    assert policy.tries_again(1, ConnectionError())
    assert not policy.tries_again(1, ValueError())
    assert not Retry(3).tries_again(1, KeyboardInterrupt())
    assert Retry(3, on=OSError) == Retry(3, on=[OSError])


def test_a_policy_is_a_value() -> None:
    assert Retry(5) == Retry(5)
    assert len({Retry(5), Retry(5), Retry(6)}) == 2
    assert repr(Retry(5, backoff=2)) == (
        "Retry(max_runs=5, backoff=2.0, backoff_max=300.0, jitter=0.5, on=(<class 'Exception'>,))"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        Retry(5).max_runs = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Retry(0), "1 or more, got 0"),
        (lambda: Retry(True), "1 or more, got True"),
        (lambda: Retry(2.5), "1 or more, got 2.5"),
        (lambda: Retry(2, backoff=-1), "backoff must be seconds"),
        (lambda: Retry(2, backoff="1"), "backoff must be seconds"),
        (lambda: Retry(2, backoff_max=float("inf")), "backoff_max must be seconds"),
        (lambda: Retry(2, jitter=1.5), "from 0 to 1, got 1.5"),
        (lambda: Retry(2, jitter=True), "from 0 to 1, got True"),
        (lambda: Retry(2, on=()), "name classes of exceptions, or say Retry"),
        (lambda: Retry(2, on=("OSError",)), "takes classes of exceptions, got 'OSError'"),
        (lambda: Retry(2, on=OSError()), r"takes classes of exceptions, got OSError\(\)"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(make: Callable[[], Retry], says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        make()


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


# Payloads -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Plain(BaseModel):
    names: list[str] = []
    alias: int = Field(default=1, alias="anAlias")


class Larger(PlaceOrder):
    more: int = 0


class Holder(Record):
    order: Annotated[PlaceOrder, "what it really is"]
    anything: Any = None


PAYLOADS: list[tuple[Any, Any]] = [
    (int, 3),
    (float, float("inf")),
    (str, "text"),
    (bytes, b"\x00\xff"),
    (None, None),
    (datetime.datetime, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
    (uuid.UUID, uuid.UUID(int=7)),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (tuple[PlaceOrder, ...], (PlaceOrder(), PlaceOrder(count=4))),
    (list[PlaceOrder], [PlaceOrder()]),
    (dict[str, PlaceOrder], {"a": PlaceOrder(count=9)}),
    (PlaceOrder | None, PlaceOrder(article="x")),
    (Point, Point(1, 2.5)),
    (Plain, Plain(names=["a"], anAlias=4)),
    (Annotated[int, Field(gt=0)], 5),
    (Order, Order(article="a trigger as payload")),
    (Any, {"json": [1, None]}),
]


@pytest.mark.parametrize(("annotation", "payload"), PAYLOADS, ids=repr)
def test_a_payload_comes_back_as_what_the_annotation_says(annotation: Any, payload: Any, outside: Outside) -> None:
    system = simulated()

    def carry_out(context: EffectContext, given: Any) -> None:
        outside(context, given)

    carry_out.__annotations__["given"] = annotation
    effect = system.effect("x")(carry_out)
    system.on(Order)(lambda trigger, tx: tx.effect(effect, payload))
    with system:
        system.ask(Order())
    (tried,) = outside.tries
    assert tried.payload == payload
    assert type(tried.payload) is type(payload)
    assert tried.payload is not payload or payload is None or isinstance(payload, (int, str))


WRONG: list[tuple[Any, Any, str]] = [
    (PlaceOrder, {"article": "x"}, "the payload of the effect 'x' must be a PlaceOrder, got {'article': 'x'}"),
    (PlaceOrder, None, "must be a PlaceOrder, got None"),
    (PlaceOrder, Larger(more=3), "must be a PlaceOrder, got Larger"),
    (int, "3", "the payload of the effect 'x' is not what carry_out takes: Input should be a valid integer"),
    (int, None, "is not what carry_out takes"),
    (list[int], [1, "2"], "is not what carry_out takes: 1: Input should be a valid integer"),
    (Annotated[int, Field(gt=0)], 0, "is not what carry_out takes: Input should be greater than 0"),
    (Point, (1, 2), "is not what carry_out takes"),
    (Any, (1, 2), "would come back from the journal as [1, 2], it is (1, 2)"),
    (Holder, Holder(order=Larger(more=3)), "would come back from the journal as Holder(order=PlaceOrder("),
    (Any, object(), "cannot be kept as JSON"),
    (Any, {"f": print}, "cannot be kept as JSON"),
    (str, "\udc80", "cannot be kept as JSON"),
    (float | None, float("nan"), None),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("annotation", "payload", "says"), WRONG, ids=repr)
def test_a_payload_that_will_not_do_fails_the_handler_at_once(
    annotation: Any, payload: Any, says: str | None, outside: Outside
) -> None:
    system = simulated()

    def carry_out(context: EffectContext, given: Any) -> None:
        outside(context, given)

    carry_out.__annotations__["given"] = annotation
    effect = system.effect("x")(carry_out)
    system.on(Order)(lambda trigger, tx: tx.effect(effect, payload))
    with system:
        if says is None:
            system.ask(Order())
            return
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Order())
        assert type(caught.value.__cause__) is TypeError
        assert says in str(caught.value.__cause__)
    assert outside.tries == []


def test_a_payload_is_as_it_was_when_it_was_handed_in(outside: Outside) -> None:
    system = simulated()

    @system.effect("x")
    def carry_out(context: EffectContext, given: list[int]) -> None:
        outside(context, given)

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> None:
        numbers = [1]
        tx.effect(carry_out, numbers)
        numbers.append(2)

    with system:
        system.ask(Order())
    assert [tried.payload for tried in outside.tries] == [[1]]


def test_an_unknown_function_is_named_with_the_nearest_one() -> None:
    system = simulated()

    @system.effect("exchange.place")
    def place_order(context: EffectContext, order: PlaceOrder) -> None: ...

    def place_ordr(context: EffectContext, order: PlaceOrder) -> None: ...

    acts: list[Callable[[Transaction], None]] = [
        lambda tx: tx.effect(place_ordr, PlaceOrder()),
        lambda tx: tx.effect("exchange.place", PlaceOrder()),
        lambda tx: tx.effect(print, PlaceOrder()),
    ]
    system.on(Order)(lambda trigger, tx: acts[trigger.count](tx))
    texts = []
    with system:
        for number in range(3):
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Order(count=number))
            assert type(caught.value.__cause__) is RegistrationError
            texts.append(str(caught.value.__cause__))
    assert texts[0].startswith(
        "place_ordr is not registered as an effect of this system: decorate it with @system.effect"
    )
    assert texts[0].endswith("; did you mean 'place_order'?")
    assert texts[1].startswith("tx.effect() takes the function that @system.effect(...) registered")
    assert texts[2].startswith("print is not registered as an effect of this system")


def test_an_effect_after_the_handler_has_returned_is_refused() -> None:
    system, _ = desk(Outside(), simulated())
    kept: list[Transaction] = []
    system.effect("x")(note := lambda_with_types())
    system.on(Acknowledge)(lambda trigger, tx: kept.append(tx))
    with system:
        system.ask(Acknowledge())
        with pytest.raises(Exception, match="has ended: use tx only inside its handler"):
            kept[0].effect(note, 3)


class Acknowledge(Trigger[None]):
    """Another trigger."""


def lambda_with_types() -> Any:
    def note(context: EffectContext, number: int) -> None: ...

    return note


# Registration ---------------------------------------------------------------------------------------------------------


def good(context: EffectContext, order: PlaceOrder) -> None:
    """A function that will do."""


def other(context: EffectContext, order: PlaceOrder) -> None:
    """Another one."""


def no_annotation(context: EffectContext, order) -> None:  # type: ignore[no-untyped-def]
    """Says nothing about its payload."""


def unresolved(context: EffectContext, order: NoSuchThing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Names a type that is nowhere."""


def generates(context: EffectContext, order: PlaceOrder) -> Iterator[None]:
    yield None


async def generates_async(context: EffectContext, order: PlaceOrder) -> AsyncIterator[None]:
    yield None


def takes_callable(context: EffectContext, order: Callable[[], int]) -> None: ...


def takes_lock(context: EffectContext, order: threading.Thread) -> None: ...


@pytest.mark.parametrize(
    ("name", "function", "says"),
    [
        ("", good, "an effect's name is a non-empty string, got ''"),
        (3, good, "an effect's name is a non-empty string, got 3"),
        ("taken", good, r"there is an effect called 'taken' already \(other\): give good another name"),
        ("again", other, "other carries out the effect 'taken' already: one function, one effect"),
        ("x", "good", "the effect 'x' must be a function, got 'good'"),
        ("x", lambda: None, r"takes \(\), but it is called with \(context, payload\): def <lambda>\(context"),
        ("x", lambda context: None, r"called with \(context, payload\)"),
        ("x", lambda context, *, order: None, r"called with \(context, payload\)"),
        ("x", lambda context, order: None, "does not say the type of its payload"),
        ("x", lambda *both: None, "does not say the type of its payload"),
        ("x", no_annotation, "the effect 'x': no_annotation does not say the type of its payload"),
        ("x", unresolved, "the annotation 'NoSuchThing' of the payload of unresolved cannot be resolved"),
        ("x", generates, "generates is a generator: return instead of yielding"),
        ("x", generates_async, "generates_async is a generator"),
        ("x", takes_callable, "a payload of type .*Callable.* cannot be kept as JSON"),
        ("x", takes_lock, "a payload of type <class 'threading.Thread'> cannot be kept as JSON"),
    ],
)
def test_what_cannot_be_an_effect_is_refused(name: Any, function: Any, says: str) -> None:
    for registry in (simulated(), Bundle()):
        registry.effect("taken")(other)
        with pytest.raises(RegistrationError, match=says):
            registry.effect(name)(function)


def test_a_policy_must_be_a_retry() -> None:
    with pytest.raises(RegistrationError, match=r"retry= takes a Retry, such as Retry\(5\), got 5"):
        simulated().effect("x", retry=5)(good)  # type: ignore[arg-type]


def test_effects_are_registered_before_the_start() -> None:
    system, bundle = simulated(), Bundle()
    bundle.effect("x")(good)
    decorator = system.effect("y")
    with system:
        for register in (lambda: system.effect("x"), lambda: decorator(good), lambda: system.include(bundle)):
            with pytest.raises(RegistrationError, match=r"effect\(\) comes before the start"):
                register()


def test_the_decorator_returns_the_function_unchanged() -> None:
    assert simulated().effect("x")(good) is good
    assert Bundle().effect("x")(good) is good


def test_types_of_the_place_where_the_function_is_defined_are_found(outside: Outside) -> None:
    class Local(Record):
        n: int

    system = simulated()

    @system.effect("x")
    def carry_out(context: EffectContext, local: Local) -> None:
        outside(context, local)

    system.on(Order)(lambda trigger, tx: tx.effect(carry_out, Local(n=3)))
    with system:
        system.ask(Order())
    assert outside.tries[0].payload == Local(n=3)


class Callables:
    """Functions that are no plain functions."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside

    def method(self, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)

    async def async_method(self, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)

    def __call__(self, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)

    def with_more(self, more: int, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)


def test_methods_partials_and_instances_are_functions_too(outside: Outside) -> None:
    system, made = simulated(), Callables(outside)
    partial = functools.partial(made.with_more, 3)

    @functools.wraps(good)
    def wrapped(*arguments: Any) -> None:
        outside(*arguments)

    functions: list[Any] = [made.method, made.async_method, made, partial, wrapped]
    for number, function in enumerate(functions):
        system.effect(str(number))(function)
    given = [made.method, made.async_method, made, partial, wrapped]  # A bound method is another object every time.

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> None:
        for number, function in enumerate(given):
            tx.effect(function, PlaceOrder(count=number))

    with system:
        system.ask(Order())
    assert sorted(tried.payload.count for tried in outside.tries) == [0, 1, 2, 3, 4]


def test_the_effects_of_a_bundle_are_those_of_every_system_that_includes_it(outside: Outside) -> None:
    bundle = Bundle()

    @bundle.effect("x", retry=Retry(1))
    def carry_out(context: EffectContext, order: PlaceOrder) -> None:
        outside(context, order)

    @bundle.on(Order)
    def order(trigger: Order, tx: Transaction) -> None:
        tx.effect(carry_out, PlaceOrder())

    for system in (simulated(), threaded()):
        system.include(bundle)
        with system:
            system.ask(Order(), timeout=WAIT_S)
        with pytest.raises(RegistrationError):
            system.include(bundle)
    assert len(outside.tries) == 2
    twice = simulated()
    twice.effect("x")(good)
    with pytest.raises(RegistrationError, match="there is an effect called 'x' already"):
        twice.include(bundle)


def test_a_context_can_be_made_for_a_test() -> None:
    context = EffectContext(key="k", seq=3)
    assert (context.key, context.seq, context.attempt) == ("k", 3, 1)
    assert repr(context) == "<EffectContext k attempt=1>"
    ref = simulated().resource("client", contextlib.nullcontext)
    with pytest.raises(LookupError, match="no resource 'client'"):
        context.resource(ref)
    assert EffectContext(key="k", seq=3, find=lambda ref: ref.name).resource(ref) == "client"  # type: ignore[comparison-overlap]


# The stop -------------------------------------------------------------------------------------------------------------


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


# With a journal -------------------------------------------------------------------------------------------------------


class Held(SqliteBackend):
    """A real journal whose writing can be held up, or fails."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.may_write.set()
        self.waits = threading.Semaphore(0)
        self.fails: Callable[[Group], bool] = lambda group: False

    def append(self, group: Group) -> None:
        self.waits.release()
        assert self.may_write.wait(WAIT_S)
        if self.fails(group):
            raise OSError("the disk is gone")
        super().append(group)


def test_an_effect_waits_until_its_commit_is_durable(outside: Outside, tmp_path: Path) -> None:
    backend = Held(tmp_path / "desk.db")
    system, _ = desk(outside, Supervisor(backend))
    with system:
        backend.may_write.clear()
        submission = system.submit(Order())
        assert backend.waits.acquire(timeout=WAIT_S)
        until(lambda: system.stats().committed_through == 1)
        assert (outside.tries, submission.done) == ([], False)
        backend.may_write.set()
        outside.await_tries(1)


def test_an_effect_sees_its_commit_on_disk(outside: Outside, tmp_path: Path) -> None:
    found: dict[int, str] = {}

    def look(context: EffectContext, order: PlaceOrder) -> None:
        copy = tmp_path / f"copy-{context.seq}"
        copy.mkdir()
        for file in sorted(tmp_path.glob("desk.db*"), key=lambda file: "through" not in file.name):
            if file.suffix != ".db-control":  # A socket.
                shutil.copy(file, copy)
        backend = SqliteBackend(copy / "desk.db")
        backend.open(write=False)
        found[context.seq] = next(backend.commits(context.seq, context.seq)).body
        backend.close()

    outside.does = look
    system, _ = desk(outside, Supervisor(tmp_path / "desk.db"), Retry(1))
    with system:
        for number in range(3):
            system.ask(Order(article=f"article {number}"), timeout=WAIT_S)
            until(lambda number=number: system.stats().effects_through == number + 1)  # type: ignore[misc]
        assert system.dead_letters() == []
    assert [f"article {seq - 1}" in found[seq] for seq in (1, 2, 3)] == [True, True, True]


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What several systems, one after another, get as their journal."""
    return MemoryBackend() if request.param == "memory" else tmp_path / "desk.db"


def test_what_had_not_ended_is_carried_out_after_the_next_start_under_the_same_key(
    outside: Outside, journal: Any
) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, Supervisor(journal), Retry(5, backoff=3600))
    with system:
        system.ask(Order(count=2), timeout=WAIT_S)
        outside.await_tries(2)
    assert system.stats().effects_through == 0
    first = sorted(tried.key for tried in outside.tries)
    outside.tries.clear()
    outside.does = lambda context, order: Acknowledged(key=context.key, article=order.article)
    system, orders = desk(outside, Supervisor(journal))
    with system:
        until(lambda: system.stats().effects_through == system.stats().committed_through == 3)
    assert sorted(tried.key for tried in outside.tries) == first
    assert [tried.attempt for tried in outside.tries] == [1, 1], "tries are counted by each process"
    assert sorted(key for key in system.snapshot()[orders] if key != "bolt") == [f"ack {key}" for key in first]
    for _ in range(2):
        system, _ = desk(outside, Supervisor(journal))
        with system:
            assert system.stats().effects_through == 3
    assert len(outside.tries) == 2, "what has ended is over"


def test_dead_letters_outlive_the_process(outside: Outside, journal: Any) -> None:
    outside.does = raising(ValueError("wrong"))
    system, _ = desk(outside, Supervisor(journal), Retry(1))
    with system:
        system.ask(Order(article="nut"), timeout=WAIT_S)
        until(lambda: system.stats().effects_through == 1)
        letters = system.dead_letters()
    for _ in range(2):
        system, _ = desk(outside, Supervisor(journal))
        with system:
            assert system.dead_letters() == letters
            assert letters[0].name == "exchange.place"
    without = Supervisor(journal)
    without.store("orders", Collection(PlaceOrder))
    without.on(Order)(lambda trigger, tx: 0)
    with without:
        assert without.dead_letters() == letters
    assert len(outside.tries) == 1


def test_effects_that_the_program_no_longer_registers_are_named_at_the_start(outside: Outside, journal: Any) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, Supervisor(journal), Retry(5, backoff=3600))
    with system:
        system.ask(Order(), timeout=WAIT_S)
    without = Supervisor(journal)
    without.store("orders", Collection(PlaceOrder))
    with pytest.raises(RegistrationError, match=r"holds work of effect 'exchange\.place', which the program no longer"):
        without.start()


class Changed(Record, version=2):
    """What `PlaceOrder` has become."""

    name: str
    count: int


@pytest.mark.parametrize("has_upcast", [True, False])
def test_a_payload_that_changed_goes_through_its_upcast(has_upcast: bool, outside: Outside, journal: Any) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, Supervisor(journal), Retry(5, backoff=3600))
    with system:
        system.ask(Order(article="nut"), timeout=WAIT_S)
        outside.await_tries(1)
    outside.tries.clear()
    changed = Supervisor(journal)
    changed.store("orders", Collection(PlaceOrder))

    @changed.effect("exchange.place")
    def place(context: EffectContext, order: Changed) -> None:
        outside.tries.append(Tried(context.key, context.seq, context.attempt, order))

    if not has_upcast:
        with pytest.raises(
            RegistrationError, match=r"the effect 'exchange.place' of seq 1: the record .*@system.upcast"
        ):
            changed.start()
        return

    @changed.upcast(Changed)
    def upcast(record: dict[str, Any], version: int) -> dict[str, Any]:
        return {"name": record["article"], "count": record["count"]}

    with changed:
        until(lambda: changed.stats().effects_through == 1)
    assert [tried.payload for tried in outside.tries] == [Changed(name="nut", count=0)]


def test_a_plain_payload_that_changed_is_refused_at_the_start(journal: Any, outside: Outside) -> None:
    def make(annotation: Any) -> Supervisor:
        system = Supervisor(journal)

        def count(context: EffectContext, number: Any) -> None:
            outside(context, number)

        count.__annotations__["number"] = annotation
        effect = system.effect("count", retry=Retry(5, backoff=3600))(count)
        system.on(Order)(lambda trigger, tx: tx.effect(effect, "many"))
        return system

    outside.does = raising(ConnectionError("away"))
    with make(str) as system:
        system.ask(Order(), timeout=WAIT_S)
    with pytest.raises(RegistrationError, match="'count' of seq 1: the payload does not fit the annotation of count"):
        make(int).start()
    with make(str):
        pass


def test_checkpoints_keep_what_has_not_ended_and_what_was_given_up(outside: Outside, journal: Any) -> None:
    """Many starts: each takes a checkpoint at its stop, and the commits before it are not read again."""
    errors = {"nut": ValueError("wrong"), "bolt": ConnectionError("away")}

    def fail(context: EffectContext, order: PlaceOrder) -> None:
        if order.article in errors:
            raise errors[order.article]

    outside.does = fail
    policy = Retry(5, backoff=3600, on=(OSError,))
    for round_number in range(1, 4):
        system, _ = desk(outside, Supervisor(journal), policy)
        with system:
            for article in ("nut", "bolt", "washer"):
                system.ask(Order(article=article), timeout=WAIT_S)
            until(lambda system=system: system._running._effects._actor._active == 0)  # type: ignore[misc]
            until(lambda system=system, n=round_number: len(system.dead_letters()) == n)  # type: ignore[misc]
            assert system.stats().effects_through == 1
        running: Any = system._running
        assert running.journal.checkpoints.last_seq == round_number * 3
    outside.tries.clear()
    outside.does = lambda context, order: None
    system, _ = desk(outside, Supervisor(journal), policy)
    with system:
        until(lambda: system.stats().effects_through == 9)
        assert [letter.seq for letter in system.dead_letters()] == [7, 4, 1]
    assert sorted(tried.seq for tried in outside.tries) == [2, 5, 8]


@pytest.mark.parametrize("what", ["commit", "effect"])
def test_a_journal_that_fails_stops_the_effects_and_nothing_hangs(
    what: str, outside: Outside, tmp_path: Path, lines: list[Any]
) -> None:
    backend = Held(tmp_path / "desk.db")
    system, _ = desk(outside, Supervisor(backend))
    outside.does = lambda context, order: Acknowledged(key=context.key, article=order.article)
    system.start()
    system.ask(Order(), timeout=WAIT_S)
    until(lambda: system.stats().effects_through == 2)
    tries = len(outside.tries)
    if what == "commit":
        backend.fails = lambda group: bool(group.commits)
    else:
        backend.fails = lambda group: any(entry.kind == "effect" for entry in group.entries)
    submission = system.submit(Order(count=5))
    with contextlib.suppress(OutcomeUnknown):
        submission.result(WAIT_S)
    until(lambda: system._running._broken is not None)  # type: ignore[union-attr]
    assert system.stats().effects_through <= 3
    assert system.dead_letters() == []
    system.stop()
    if what == "commit":
        assert len(outside.tries) == tries, "what is not durable is not carried out"
    assert any("the system stops taking work" in line["message"] for line in lines)
    outside.tries.clear()
    again, orders = desk(outside, Supervisor(tmp_path / "desk.db"))
    with again:
        pass
    assert again.stats().effects_through == again.stats().committed_through
    acknowledged = [key for key in again.snapshot()[orders] if key != "bolt"]
    assert len(acknowledged) == again.stats().committed_through // 2 if what == "commit" else 6


def test_a_trigger_that_was_accepted_when_everything_stopped_runs_after_the_next_start(
    outside: Outside, tmp_path: Path
) -> None:
    gate = Gate()

    def hold(context: EffectContext, order: PlaceOrder) -> Any:
        gate.pass_through()
        return Acknowledged(key=context.key, article=order.article)

    outside.does = hold
    system, _ = desk(outside, Supervisor(tmp_path / "desk.db"))
    system.start()
    system.ask(Order(), timeout=WAIT_S)
    gate.await_arrivals()
    actor: Any = system._running._effects._actor  # type: ignore[union-attr]
    system._running._effects.hold()  # type: ignore[union-attr]
    until(lambda: actor._holding)
    gate.open()
    until(lambda: not actor._open, "the end of the effect")
    assert system.stats().current_seq == 1, "nothing begins any more"
    system.stop()
    outside.tries.clear()
    again, orders = desk(outside, Supervisor(tmp_path / "desk.db"))
    with again:
        until(lambda: again.stats().committed_through == 2)
        assert len(again.snapshot(seq=2)[orders]) == 2
    assert outside.tries == []
