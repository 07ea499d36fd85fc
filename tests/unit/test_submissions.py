"""The caller's end of a run: waiting for it in threads and coroutines, and what it tells meanwhile."""

from __future__ import annotations

import asyncio
import datetime
import threading
from typing import Any

import pytest

from seqtor import HandlerFailed, Rejected, State, Submission, Supervisor, Transaction, Trigger
from tests.programs import WAIT_S, Deposit, Gate, Transfer, open_bank, simulated, threaded


class Wait(Trigger[str]):
    """Stands at a gate."""


def gated() -> tuple[Supervisor, Gate]:
    gate = Gate()
    system = threaded()
    open_bank(system)

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> str:
        gate.pass_through()
        return "passed"

    return system, gate


def test_a_submission_is_queued_then_running_then_ended() -> None:
    system = simulated()
    seen: list[tuple[State, int | None, str]] = []
    submission: Submission[str]

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> str:
        seen.append((submission.state, submission.seq, repr(submission)))
        return "passed"

    with system:
        submission = system.submit(Wait())
        assert (submission.state, submission.seq, submission.done) == (State.QUEUED, None, False)
        assert repr(submission) == "<Submission Wait seq=None queued>"
        assert submission.result() == "passed"
        assert seen == [(State.RUNNING, 1, "<Submission Wait seq=1 running>")]
        assert (submission.state, submission.seq, submission.done) == (State.COMMITTED, 1, True)
        assert repr(submission) == "<Submission Wait seq=1 committed>"


def test_the_id_is_there_at_once_stays_and_is_the_record_s() -> None:
    system = simulated()
    open_bank(system)
    with system:
        submissions = system.submit_many([Deposit()] * 20)
        ids = [submission.id for submission in submissions]
        assert len(set(ids)) == 20
        for submission in submissions:
            submission.result()
        assert [submission.id for submission in submissions] == ids
        assert [system.record(seq).id for seq in range(1, 21)] == ids


def test_ids_of_two_systems_differ() -> None:
    first, second = threaded(), threaded()
    open_bank(first)
    open_bank(second)
    with first, second:
        assert first.submit(Deposit()).id != second.submit(Deposit()).id


def test_a_result_that_does_not_come_in_time_can_be_waited_for_again() -> None:
    system, gate = gated()
    with system:
        submission = system.submit(Wait())
        gate.await_arrivals()
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError, match=rf"Wait \(seq 1\) has not ended within {timeout} s; it goes on"):
                submission.result(timeout)
        assert submission.state is State.RUNNING
        gate.open()
        assert submission.result(WAIT_S) == "passed"
        assert submission.result() == "passed"
        assert submission.result(0) == "passed"


def test_a_timeout_may_be_a_timedelta() -> None:
    system, gate = gated()
    with system:
        submission = system.submit(Wait())
        for wait in (submission.result, lambda timeout: system.ask(Wait(), timeout=timeout)):
            with pytest.raises(TimeoutError, match=r"has not ended within 0.001 s"):
                wait(timeout=datetime.timedelta(milliseconds=1))
        gate.open()
        assert submission.result(datetime.timedelta(minutes=1)) == "passed"


def test_in_virtual_time_a_result_times_out_without_waiting() -> None:
    system = simulated()

    @system.on(Wait)
    async def wait(trigger: Wait, tx: Transaction) -> str:
        await asyncio.sleep(5)
        return "passed"

    with system:
        submission = system.submit(Wait())
        with pytest.raises(TimeoutError):
            submission.result(timeout=4)
        assert submission.result(timeout=2) == "passed"


def test_many_threads_wait_for_one_submission() -> None:
    system, gate = gated()
    answers: list[str] = []
    with system:
        submission = system.submit(Wait())
        gate.await_arrivals()
        ready = threading.Barrier(9)

        def wait_for_it() -> None:
            ready.wait(WAIT_S)
            answers.append(submission.result(WAIT_S))

        threads = [threading.Thread(target=wait_for_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        ready.wait(WAIT_S)
        gate.open()
        for thread in threads:
            thread.join(WAIT_S)
    assert answers == ["passed"] * 8


def test_each_caller_gets_an_error_of_its_own() -> None:
    system = simulated()
    open_bank(system)

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> str:
        raise ValueError("wrong")

    with system:
        rejected, failed = system.submit(Transfer(source="x", target="y", amount=1)), system.submit(Wait())
        rejected = system.submit(Transfer(source="alice", target="bob", amount=1))
        system.ask(Deposit())
        rejected = system.submit(Transfer(source="alice", target="bob", amount=5))
        for submission, kind in ((rejected, Rejected), (failed, HandlerFailed)):
            errors = []
            for _ in range(2):
                with pytest.raises(kind) as caught:
                    submission.result()
                errors.append(caught.value)
            assert errors[0] is not errors[1]
            assert str(errors[0]) == str(errors[1])
            assert errors[0].__traceback__ is not errors[1].__traceback__


# In coroutines ----------------------------------------------------------------------------------------------------


def test_submissions_are_awaited() -> None:
    system, gate = gated()

    async def main() -> list[Any]:
        waiting = system.submit(Wait())
        await asyncio.to_thread(gate.await_arrivals)
        asyncio.get_running_loop().call_soon(gate.open)
        return [
            await waiting,
            await waiting,
            *await asyncio.gather(*map(as_coroutine, system.submit_many([Deposit()] * 50))),
        ]

    with system:
        assert asyncio.run(main()) == ["passed", "passed", *range(1, 51)]


async def as_coroutine(submission: Submission[Any]) -> Any:
    return await submission


def test_an_awaited_submission_raises_what_the_run_raised() -> None:
    system = threaded()
    open_bank(system, alice=1)

    async def main() -> None:
        await system.submit(Transfer(source="alice", target="bob", amount=2))

    with system, pytest.raises(Rejected, match="insufficient funds"):
        asyncio.run(main())


def test_submissions_of_a_simulated_system_are_awaited_too() -> None:
    system = simulated()
    open_bank(system)

    @system.on(Wait)
    async def wait(trigger: Wait, tx: Transaction) -> str:
        await asyncio.sleep(5)
        return "passed"

    async def main() -> list[Any]:
        async with system:
            waiting, deposit = system.submit(Wait()), system.submit(Deposit())
            return [await deposit, await waiting]

    assert asyncio.run(main()) == [1, "passed"]


def test_cancelling_an_await_leaves_the_run() -> None:
    system, gate = gated()

    async def main() -> str:
        submission = system.submit(Wait())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(submission, 0.01)
        task = asyncio.create_task(as_coroutine(submission))
        await asyncio.to_thread(gate.await_arrivals)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert submission.state is State.RUNNING
        gate.open()
        return await submission

    with system:
        assert asyncio.run(main()) == "passed"


def test_a_loop_that_is_closed_while_its_await_was_pending_harms_nobody() -> None:
    system, gate = gated()

    async def main() -> Submission[str]:
        submission = system.submit(Wait())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(submission, 0.01)
        return submission

    with system:
        submission = asyncio.run(main())
        gate.open()
        assert submission.result(WAIT_S) == "passed"
        assert system.ask(Deposit(), timeout=WAIT_S) == 1


def test_two_loops_and_a_thread_wait_for_one_submission() -> None:
    system, gate = gated()
    answers: list[str] = []
    with system:
        submission = system.submit(Wait())
        waiters = [
            threading.Thread(target=lambda: answers.append(asyncio.run(as_coroutine(submission)))),
            threading.Thread(target=lambda: answers.append(asyncio.run(as_coroutine(submission)))),
            threading.Thread(target=lambda: answers.append(submission.result(WAIT_S))),
        ]
        for waiter in waiters:
            waiter.start()
        gate.await_arrivals()
        gate.open()
        for waiter in waiters:
            waiter.join(WAIT_S)
    assert answers == ["passed"] * 3
