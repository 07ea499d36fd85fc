"""Calls in replay: answered as recorded, in the order recorded, with the time-outs of the handler's own."""

from __future__ import annotations

import asyncio
import json

import pytest

from seqtor import (
    HandlerFailed,
    Rejected,
    ReplayDiverged,
    Transaction,
    current_call_id,
)
from seqtor.actors.journal.memory import MemoryBackend
from tests.call_programs import Act, Plain, acting, acting_async
from tests.programs import simulated


def test_a_handler_that_stops_waiting_cancels_the_call_and_replay_times_out_too() -> None:
    backend = MemoryBackend()
    ended: list[str] = []
    system = simulated(3, journal=backend)

    async def slow(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "in time"

    async def act(tx: Transaction) -> list[str]:
        heard = []
        for seconds in (1, 100):
            try:
                async with asyncio.timeout(10):
                    heard.append(await tx.acall(slow, seconds))
            except TimeoutError:
                heard.append("timed out")
        await asyncio.sleep(1)
        return [*heard, *ended]

    with acting_async(system, act, deadline=1000):
        assert system.ask(Act()) == ["in time", "timed out", "cancelled"]
        assert system.verify().executed == 1


def test_replay_cancels_what_the_handler_had_cancelled() -> None:
    made: list[str] = []

    async def slow(seconds: float, fails: bool = False) -> str:
        made.append(current_call_id())
        await asyncio.sleep(seconds)
        if fails:
            raise Plain("no")
        return "in time"

    async def cancels_itself() -> str:
        made.append(current_call_id())
        raise asyncio.CancelledError

    async def act(tx: Transaction) -> list[str]:
        heard: list[str] = []
        in_time: asyncio.Task[str] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(tx.acall(slow, 100))
                group.create_task(tx.acall(slow, 2, fails=True))
                in_time = group.create_task(tx.acall(slow, 1))
                group.create_task(tx.acall(slow, 50))
        except* Plain as failures:
            assert in_time is not None
            heard += [str(failures.exceptions), in_time.result()]
        try:
            await tx.acall(cancels_itself)
        except asyncio.CancelledError:
            heard.append("cancelled")
        return heard

    for seed in range(10):
        made.clear()
        with acting_async(simulated(seed, journal=MemoryBackend()), act, deadline=1000) as system:
            assert system.ask(Act()) == ["(Plain('no'),)", "in time", "cancelled"]
            assert system.verify().executed == 1
        assert len(made) == 5


def test_replay_hands_answers_out_in_the_order_in_which_the_handler_got_them() -> None:
    system = simulated(3, journal=MemoryBackend())
    made = 0

    async def after(seconds: float) -> float:
        nonlocal made
        made += 1
        await asyncio.sleep(seconds)
        return seconds

    async def act(tx: Transaction) -> list[float]:
        return [await each for each in asyncio.as_completed([tx.acall(after, seconds) for seconds in (3, 1, 2)])]

    with acting_async(system, act):
        assert system.ask(Act()) == [1, 2, 3]
        assert system.verify().executed == 1
    assert made == 3


def test_replay_gives_rejected_and_failed_runs_their_answers() -> None:
    backend = MemoryBackend()
    made: list[str] = []

    def outside(fails: bool) -> str:
        made.append(current_call_id())
        if fails:
            raise Plain("no")
        return "answer"

    def rejects(tx: Transaction) -> None:
        raise Rejected(tx.call(outside, False))

    def fails(tx: Transaction) -> None:
        tx.call(outside, True)

    with acting(simulated(journal=backend), rejects, fails) as system:
        with pytest.raises(Rejected, match="answer"):
            system.ask(Act(what=0))
        with pytest.raises(HandlerFailed, match="Plain: no"):
            system.ask(Act(what=1))
        assert system.verify().executed == 2
    assert len(made) == 2
    backend.open(write=False)
    kept = [json.loads(row.body)["calls"] for row in backend.commits(1, 2)]
    assert [[call["id"] for call in calls] for calls in kept] == [[made[0]], [made[1]]]


def test_a_replayed_run_that_calls_something_else_has_diverged_and_calls_nothing() -> None:
    symbol = ["A"]
    made: list[str] = []

    def outside(symbol: str) -> str:
        made.append(symbol)
        return symbol

    with acting(simulated(journal=MemoryBackend()), lambda tx: tx.call(outside, symbol[0])) as system:
        system.ask(Act())
        symbol[0] = "B"
        with pytest.raises(ReplayDiverged):
            system.verify()
    assert made == ["A"]
