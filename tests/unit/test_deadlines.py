"""A handler that takes too long ends its run and holds up nobody else."""

from __future__ import annotations

import asyncio
import datetime
import threading
from typing import Any

import pytest

from seqtor import Collection, DeadlineExceeded, State, Supervisor, Transaction, Trigger
from tests.programs import WAIT_S, Account, Deposit, Gate, open_bank, simulated, threaded


class Hang(Trigger[str]):
    """Hangs, unless the test lets it go."""

    name: str = ""


def test_a_sync_handler_that_hangs_past_its_deadline_ends_and_the_others_commit() -> None:
    gate = Gate()
    system = threaded(threads=2)
    accounts = open_bank(system)

    @system.on(Hang, deadline=0.05)
    def hang(trigger: Hang, tx: Transaction) -> str:
        tx[accounts]["hung"] = Account(balance=1)
        gate.pass_through()
        return "late"

    with system:
        before = system.submit_many([Deposit()] * 3)
        hanging = system.submit(Hang())
        behind = system.submit_many([Deposit()] * 5)
        assert [submission.result(WAIT_S) for submission in (*before, *behind)] == list(range(1, 9))
        with pytest.raises(DeadlineExceeded) as caught:
            hanging.result(WAIT_S)
        expected = "Hang at seq 4 ran longer than its deadline of 0.05 s in attempt 1; nothing was written"
        assert str(caught.value).startswith(expected)
        assert "Give the handler a longer deadline=" in str(caught.value)
        assert hanging.state is State.DEADLINE
        record = system.record(4)
        assert (record.state, record.attempts, record.durable) == (State.DEADLINE, 1, True)
        assert (record.error or "").startswith("DeadlineExceeded: Hang at seq 4")
        assert system.stats().state_counts == {State.COMMITTED: 8, State.DEADLINE: 1}
        gate.open()
    assert "hung" not in system.snapshot()[accounts]


def test_more_handlers_hang_than_there_are_threads_and_the_others_commit() -> None:
    gate = Gate()
    system = threaded(threads=2)
    accounts = open_bank(system)

    @system.on(Hang, deadline=0.05)
    def hang(trigger: Hang, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        hanging = system.submit_many([Hang()] * 6)
        deposits = system.submit_many([Deposit()] * 20)
        assert [submission.result(WAIT_S) for submission in deposits] == list(range(1, 21))
        assert [submission.state for submission in hanging] == [State.DEADLINE] * 6
        gate.open()
    assert system.snapshot()[accounts]["alice"].balance == 20


def test_what_a_handler_does_after_its_deadline_changes_nothing_and_the_next_operation_leaves_it() -> None:
    gate = Gate()
    left = threading.Event()
    went_on: list[str] = []
    system = threaded(threads=2)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Hang, deadline=0.05)
    def hang(trigger: Hang, tx: Transaction) -> str:
        try:
            gate.pass_through()
            try:
                tx[accounts]["late"] = Account(balance=1)
            except Exception:
                went_on.append("an `except Exception` took it for a failure")
            went_on.append("the transaction could still be used")
        finally:
            left.set()
        return "late"

    with system:
        hanging = system.submit(Hang())
        with pytest.raises(DeadlineExceeded):
            hanging.result(WAIT_S)
        gate.open()
        assert left.wait(WAIT_S)
    assert went_on == []
    assert hanging.state is State.DEADLINE
    assert dict(system.snapshot()[accounts]) == {}


@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_async_handler_past_its_deadline_is_cancelled(make: Any) -> None:
    system = make()
    accounts = open_bank(system)
    cancelled: list[str] = []

    @system.on(Hang, deadline=0.05)
    async def hang(trigger: Hang, tx: Transaction) -> str:
        tx[accounts]["hung"] = Account(balance=1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("cancelled")
            raise
        return "never"

    with system:
        hanging = system.submit(Hang())
        deposits = system.submit_many([Deposit()] * 5)
        with pytest.raises(DeadlineExceeded, match=r"Hang at seq 1 ran longer than its deadline of 0.05 s"):
            hanging.result(WAIT_S)
        assert [submission.result(WAIT_S) for submission in deposits] == [1, 2, 3, 4, 5]
    assert cancelled == ["cancelled"]
    assert "hung" not in system.snapshot()[accounts]


@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_async_handler_that_swallows_its_cancellation_ends_all_the_same(make: Any) -> None:
    system = make()
    accounts = open_bank(system)

    @system.on(Hang, deadline=0.05)
    async def hang(trigger: Hang, tx: Transaction) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "late"

    with system:
        hanging = system.submit(Hang())
        with pytest.raises(DeadlineExceeded):
            hanging.result(WAIT_S)
        assert system.ask(Deposit(), timeout=WAIT_S) == 1
    assert hanging.state is State.DEADLINE
    assert system.snapshot()[accounts]["alice"].balance == 1


def test_waiting_for_the_turn_does_not_count() -> None:
    system = simulated()

    @system.on(Hang, deadline=60)
    async def slow(trigger: Hang, tx: Transaction) -> str:
        await asyncio.sleep(50)
        return "slow"

    @system.on(Deposit, deadline=1)
    async def quick(trigger: Deposit, tx: Transaction) -> int:
        await asyncio.sleep(0.5)
        return 1

    with system:
        slow_one, quick_one = system.submit(Hang()), system.submit(Deposit())
        assert quick_one.result() == 1
        assert slow_one.result() == "slow"
        record = system.record(2)
        assert record.committed_at is not None
        assert record.committed_at - record.submitted_at >= 50
        assert record.handler_s == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(10))
def test_a_deadline_passed_on_stale_reads_is_a_conflict_and_not_the_end(seed: int) -> None:
    system = simulated(seed)
    accounts = open_bank(system, alice=0)
    attempts: list[tuple[int, int]] = []

    @system.on(Hang, deadline=1)
    async def hang(trigger: Hang, tx: Transaction) -> str:
        balance = tx[accounts]["alice"].balance
        attempts.append((tx.attempt, balance))
        if balance == 0:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
        return f"saw {balance}"

    class Later(Trigger[None]):
        """Commits after the other's deadline has passed."""

    @system.on(Later, deadline=60)
    async def later(trigger: Later, tx: Transaction) -> None:
        tx[accounts]["alice"] = Account(balance=7)
        await asyncio.sleep(5)

    with system:
        first, hanging = system.submit(Later()), system.submit(Hang())
        assert hanging.result() == "saw 7"
        assert first.done
        assert attempts == [(1, 0), (2, 7)]
        assert system.record(2).attempts == 2


def test_a_sync_deadline_passed_on_stale_reads_is_executed_again_by_another_actor() -> None:
    gate, first_may_end = Gate(), threading.Event()
    system = threaded(threads=4)
    accounts = open_bank(system, alice=0)

    class Lower(Trigger[None]):
        """Has the lower seq and commits last."""

    @system.on(Lower)
    def lower(trigger: Lower, tx: Transaction) -> None:
        tx[accounts]["alice"] = Account(balance=7)
        assert first_may_end.wait(WAIT_S)

    @system.on(Hang, deadline=0.05)
    def hang(trigger: Hang, tx: Transaction) -> str:
        balance = tx[accounts]["alice"].balance
        if balance == 0:
            gate.pass_through()
        return f"saw {balance} in attempt {tx.attempt}"

    with system:
        system.tell(Lower())
        hanging = system.submit(Hang())
        gate.await_arrivals()
        while system.stats().pending_commits == 0:
            pass  # Until the intent of the attempt that ran too long waits for its turn.
        first_may_end.set()
        assert hanging.result(WAIT_S) == "saw 7 in attempt 2"
        gate.open()


def test_what_everything_waits_for_never_waits_for_a_thread() -> None:
    gate, may_commit = Gate(), threading.Event()
    system = threaded(threads=2)
    accounts = open_bank(system, alice=0)

    class First(Trigger[None]):
        """Changes, at the end, what the second has read."""

    @system.on(First)
    async def first(trigger: First, tx: Transaction) -> None:
        await asyncio.to_thread(may_commit.wait, WAIT_S)
        tx[accounts]["alice"] = Account(balance=7)

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        system.tell(First())
        second = system.submit(Deposit())
        while system.stats().pending_commits == 0:
            pass  # Until the second has executed on what is about to change.
        system.submit_many([Hang()] * 6)
        gate.await_arrivals()
        may_commit.set()
        # It is the head now and must execute again, while everyone else who may hangs in a handler.
        assert second.result(5) == 8
        gate.open()


def test_the_deadline_of_all_handlers_is_a_setting_and_of_one_an_option() -> None:
    system = Supervisor(settings={"deadline": 2, "threads": 2}, dispatchers=simulated()._make_dispatchers)

    class Slow(Trigger[str]):
        seconds: float

    async def sleep(trigger: Any, tx: Transaction) -> str:
        await asyncio.sleep(getattr(trigger, "seconds", 3))
        return "done"

    system.on(Slow)(sleep)
    system.on(Hang, deadline=datetime.timedelta(seconds=4))(sleep)
    with system:
        assert system.ask(Slow(seconds=1.9)) == "done"
        with pytest.raises(DeadlineExceeded, match="deadline of 2 s"):
            system.ask(Slow(seconds=2.1))
        assert system.ask(Hang()) == "done"


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_deadline_of_a_million_years_keeps_nobody_else_s_from_passing(make: Any) -> None:
    system: Supervisor = make()

    @system.on(Deposit, deadline=1e14)
    def patient(trigger: Deposit, tx: Transaction) -> int:
        return 1

    @system.on(Hang, deadline=0.05)
    async def hang(trigger: Hang, tx: Transaction) -> None:
        await asyncio.Event().wait()

    class HangSync(Trigger[None]): ...

    gate = Gate()

    @system.on(HangSync, deadline=0.05)
    def hang_sync(trigger: HangSync, tx: Transaction) -> None:
        if make is threaded:
            gate.pass_through()

    with system:
        assert system.ask(Deposit(), timeout=WAIT_S) == 1
        with pytest.raises(DeadlineExceeded):
            system.ask(Hang(), timeout=WAIT_S)
        if make is threaded:
            with pytest.raises(DeadlineExceeded):
                system.ask(HangSync(), timeout=WAIT_S)
        gate.open()


def test_execute_has_the_deadline_of_the_settings() -> None:
    class Sleep(Trigger[str]):
        async def execute(self, tx: Transaction) -> str:
            await asyncio.sleep(3)
            return "done"

    system = Supervisor(settings={"deadline": 2}, dispatchers=simulated()._make_dispatchers)
    with system, pytest.raises(DeadlineExceeded, match="Sleep at seq 1 ran longer than its deadline of 2 s"):
        system.ask(Sleep())


def test_an_invariant_that_hangs_ends_the_run_at_its_deadline() -> None:
    gate = Gate()

    def hangs(book: Any) -> bool:
        if "bad" in book:
            gate.pass_through()
        return True

    system = threaded(threads=2)
    accounts = system.store("accounts", Collection(Account, invariants=[hangs]))

    @system.on(Hang, deadline=0.05)
    def write(trigger: Hang, tx: Transaction) -> str:
        tx[accounts][trigger.name] = Account(balance=1)
        return "written"

    with system:
        bad, good = system.submit(Hang(name="bad")), system.submit(Hang(name="good"))
        with pytest.raises(DeadlineExceeded, match="the invariants or validators of the stores that seq 1 writes"):
            bad.result(WAIT_S)
        assert good.result(WAIT_S) == "written"
        gate.open()
    assert list(system.snapshot()[accounts]) == ["good"]
