"""Effects that fail: tried again under one key as their policy says, or given up."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from seqtor import (
    DeadLetterRecord,
    EffectContext,
    RegistrationError,
    Rejected,
    Retry,
    Supervisor,
)
from tests.effect_programs import Order, Outside, PlaceOrder, desk, raising, settle, until
from tests.programs import WAIT_S, simulated, threaded


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
