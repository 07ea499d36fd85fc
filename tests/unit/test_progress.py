"""`tx.progress` and `submission.progress()`: best effort, never in the handler's way, and it ends with the run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from seqtor import HandlerFailed, Retry, Supervisor, Transaction, Trigger, WouldDeadlock
from seqtor.actors.progress import KEPT_MAX, Listener, Progress
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


# One listener alone -------------------------------------------------------------------------------------------------------


class Run:
    """As much of a submission as a listener knows."""

    done = False

    def when_done(self, wake: Callable[[], None]) -> bool:
        self.wake = wake
        return False


def listen(progress: Progress) -> tuple[Any, Run]:
    run = Run()
    return Listener(run, progress, None), run  # type: ignore[arg-type]


def test_a_value_that_comes_just_before_a_listener_waits_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def first() -> Any:
        progress = Progress()
        listener, _ = listen(progress)
        loop = asyncio.get_running_loop()
        make = loop.create_future

        def create_future() -> Any:
            progress.tell("just now")  # Nobody can be woken yet.
            monkeypatch.undo()
            return make()

        monkeypatch.setattr(loop, "create_future", create_future)
        return await anext(listener)

    assert asyncio.run(asyncio.wait_for(first(), WAIT_S)) == "just now"


def test_a_listener_that_is_woken_for_nothing_goes_on_waiting_and_twice_at_once_is_as_once() -> None:
    wrong: list[Any] = []

    async def values() -> list[Any]:
        progress = Progress()
        listener, run = listen(progress)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        coming = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        listener.wake()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not coming.done()
        progress.tell(1)
        progress.tell(2)
        found = [await coming, await anext(listener)]
        run.done = True
        run.wake()
        assert [value async for value in listener] == []
        assert progress._listeners == [], "who has ended listens no more"
        return found

    assert asyncio.run(values()) == [1, 2]
    assert wrong == []


def test_a_listener_whose_loop_was_closed_disturbs_no_handler() -> None:
    progress = Progress()
    listener, _ = listen(progress)

    async def give_up() -> None:
        coming = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        coming.cancel()

    asyncio.run(give_up())
    progress.tell("nobody is there")
    assert list(listener.values) == ["nobody is there"]


def test_a_listener_may_be_1000_values_behind() -> None:
    progress = Progress()
    listener, _ = listen(progress)
    for number in range(1_500):
        progress.tell(number)
    assert list(listener.values) == list(range(500, 1_500))
