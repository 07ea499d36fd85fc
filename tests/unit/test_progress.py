"""`tx.progress` and `submission.progress()`: best effort, never in the handler's way, and it ends with the run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from seqtor import HandlerFailed, Retry, Supervisor, Transaction, Trigger, WouldDeadlock
from seqtor.actors.progress import KEPT_MAX
from tests.programs import WAIT_S, Gate, simulated, threaded


class Work(Trigger[int]):
    """Tells of each step."""

    steps: int = 3
    fails: bool = False


class Nosy(Trigger[None]):
    """Listens where it must not."""


async def collect(values: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in values]


def make(system: Supervisor, gate: Gate | None = None) -> Supervisor:
    @system.on(Work, retry=Retry(2, backoff=0.001))
    def work(trigger: Work, tx: Transaction) -> int:
        for step in range(trigger.steps):
            tx.progress(step)
        if gate is not None:
            gate.pass_through()
        if trigger.fails:
            raise ValueError("in the end")
        return trigger.steps

    return system


def test_who_listens_gets_every_value_and_ends_with_the_run() -> None:
    with make(simulated()) as system:
        submission = system.submit(Work())
        assert asyncio.run(collect(submission.progress())) == [0, 1, 2]
        assert submission.result(0) == 3


def test_many_listen_on_loops_of_their_own() -> None:
    gate = Gate()
    found: list[list[int]] = []
    with make(threaded(2), gate) as system:
        submission = system.submit(Work(steps=5))
        listeners = [submission.progress() for _ in range(4)]

        def listen(listener: AsyncIterator[int]) -> None:
            found.append(asyncio.run(asyncio.wait_for(collect(listener), WAIT_S)))

        threads = [threading.Thread(target=listen, args=(listener,)) for listener in listeners]
        for thread in threads:
            thread.start()
        gate.await_arrivals()
        gate.open()
        for thread in threads:
            thread.join(WAIT_S)
    assert all(values == list(range(5))[-len(values) :] and values[-1:] == [4] for values in found)
    assert len(found) == 4


def test_whoever_comes_late_gets_the_newest_value() -> None:
    gate = Gate()
    with make(threaded(2), gate) as system:
        submission = system.submit(Work(steps=5))
        gate.await_arrivals()
        late = submission.progress()
        gate.open()
        assert submission.result(WAIT_S) == 5
        assert asyncio.run(collect(late)) == [4]
        assert asyncio.run(collect(submission.progress())) == [4]


def test_a_slow_listener_loses_the_oldest_values() -> None:
    with make(simulated()) as system:
        submission = system.submit(Work(steps=KEPT_MAX + 10))
        listener = submission.progress()
        submission.result(60)
        values = asyncio.run(collect(listener))
        assert values == list(range(10, KEPT_MAX + 10))


def test_retries_tell_who_listens_to_the_first_run() -> None:
    with make(simulated()) as system:
        submission = system.submit(Work(steps=2, fails=True))
        assert asyncio.run(collect(submission.progress())) == [0, 1, 0, 1]
        with pytest.raises(HandlerFailed):
            submission.result(0)


def test_a_run_that_tells_nothing_ends_the_iteration() -> None:
    with make(threaded(2)) as system:
        assert asyncio.run(asyncio.wait_for(collect(system.submit(Work(steps=0)).progress()), WAIT_S)) == []


def test_a_stop_ends_the_iteration() -> None:
    system = make(threaded(2)).start()
    listener = system.submit(Work(), delay=1_000).progress()
    system.stop(0)
    assert asyncio.run(asyncio.wait_for(collect(listener), WAIT_S)) == []


def test_async_handlers_tell_while_they_run() -> None:
    system = threaded(2)
    heard = threading.Event()

    @system.on(Work)
    async def work(trigger: Work, tx: Transaction) -> int:
        tx.progress("begun")
        await asyncio.to_thread(heard.wait, WAIT_S)
        tx.progress("heard")
        return 1

    async def listen() -> list[str]:
        values = []
        async for value in system.submit(Work()).progress():
            values.append(value)
            heard.set()
        return values

    with system:
        assert asyncio.run(asyncio.wait_for(listen(), WAIT_S)) == ["begun", "heard"]


def test_a_handler_that_would_wait_for_progress_is_refused() -> None:
    system = make(simulated())

    @system.on(Nosy)
    def nosy(trigger: Nosy, tx: Transaction) -> None:
        other.progress()

    with system:
        other = system.submit(Work(), delay=5)
        with pytest.raises(HandlerFailed) as failed:
            system.ask(Nosy())
        assert isinstance(failed.value.__cause__, WouldDeadlock)


def test_replay_tells_nobody_and_is_the_same() -> None:
    with make(simulated()) as system:
        system.ask(Work())
        system.verify()
