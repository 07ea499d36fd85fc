"""`system.abort`: an operator ends a run that has not ended, wherever it is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pykka.messages import ProxyCall

from seqtor import (
    Aborted,
    Collection,
    HandlerFailed,
    NotRunning,
    Retry,
    State,
    Supervisor,
    Transaction,
    Trigger,
    WouldDeadlock,
)
from seqtor.actors import SimulatedDispatchers
from tests.programs import WAIT_S, Account, Deposit, Gate, open_bank, simulated, threaded


class Hang(Trigger[str]):
    """Hangs until the test lets it go."""

    name: str = ""


def world_of(system: Supervisor) -> SimulatedDispatchers:
    running: Any = system._running
    dispatchers: SimulatedDispatchers = running._dispatchers
    return dispatchers


def test_a_handler_that_hangs_is_aborted_and_its_thread_given_up() -> None:
    gate = Gate()
    system = threaded(threads=2)
    accounts = open_bank(system)

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> str:
        tx[accounts]["hung"] = Account(balance=1)
        gate.pass_through()
        return "late"

    with system:
        hanging = system.submit(Hang())
        behind = system.submit_many([Deposit()] * 5)
        gate.await_arrivals()
        system.abort(1, "stuck since noon")
        with pytest.raises(
            Aborted, match="Hang at seq 1 was aborted by an operator: stuck since noon; nothing was written"
        ):
            hanging.result(WAIT_S)
        assert [submission.result(WAIT_S) for submission in behind] == [1, 2, 3, 4, 5]
        record = system.record(1)
        assert (record.state, record.durable) == (State.ABORTED, True)
        assert (
            record.error == "Aborted: Hang at seq 1 was aborted by an operator: stuck since noon; nothing was written"
        )
        stats = system.stats()
        assert stats.state_counts == {State.ABORTED: 1, State.COMMITTED: 5}
        assert (stats.threads_replaced, stats.threads_stuck) == (1, 1)
        assert system.dead_letters() == [], "an operator knows what he has done"
        gate.open()
    assert "hung" not in system.snapshot()[accounts]


def test_as_many_aborts_as_threads_leave_threads_for_the_others() -> None:
    gate = Gate()
    system = threaded(threads=2)
    open_bank(system)

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        hanging = system.submit_many([Hang()] * 6)
        for number, submission in enumerate(hanging, 1):
            gate.await_arrivals()
            system.abort(number, "stuck")
            with pytest.raises(Aborted):
                submission.result(WAIT_S)
        assert system.ask(Deposit(), timeout=WAIT_S) == 1
        assert system.stats().threads_stuck == 6
        gate.open()


def test_what_an_aborted_handler_still_does_changes_nothing_and_its_next_operation_leaves_it() -> None:
    gate, left = Gate(), threading.Event()
    went_on: list[str] = []
    system = threaded(threads=2)
    accounts = open_bank(system)

    @system.on(Hang)
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
        gate.await_arrivals()
        system.abort(1, "stuck")
        with pytest.raises(Aborted):
            hanging.result(WAIT_S)
        gate.open()
        assert left.wait(WAIT_S)
    assert went_on == []
    assert "late" not in system.snapshot()[accounts]


@pytest.mark.parametrize("make", [simulated, threaded])
@pytest.mark.parametrize("swallows", [False, True])
def test_a_coroutine_is_cancelled(make: Any, swallows: bool) -> None:
    system: Supervisor = make()
    accounts = open_bank(system)
    reached, cancelled = threading.Event(), threading.Event()

    @system.on(Hang)
    async def hang(trigger: Hang, tx: Transaction) -> str:
        tx[accounts]["hung"] = Account(balance=1)
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            if not swallows:
                raise
        return "never"

    with system:
        hanging = system.submit(Hang())
        if make is simulated:
            world_of(system).run_to_rest()
        assert reached.wait(WAIT_S)
        system.abort(1, "no longer wanted")
        with pytest.raises(Aborted):
            hanging.result(WAIT_S)
        assert system.ask(Deposit(), timeout=WAIT_S) == 1
        assert cancelled.wait(WAIT_S)
    assert "hung" not in system.snapshot()[accounts]


def test_a_run_that_waits_for_its_turn_ends_at_its_turn() -> None:
    gate = Gate()
    system = threaded(threads=3)
    accounts = open_bank(system)

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> str:
        gate.pass_through()
        tx[accounts]["bob"] = Account(balance=10)  # What the waiting run has read.
        return "done"

    with system:
        head, waiting, behind = system.submit(Hang()), system.submit(Deposit(account="bob")), system.submit(Deposit())
        gate.await_arrivals()
        while system.record(2).blocked_by != 1:
            pass
        system.abort(2, "a mistake")
        assert system.record(2).state is State.RUNNING, "its turn has not come"
        gate.open()
        assert head.result(WAIT_S) == "done"
        with pytest.raises(Aborted, match="a mistake"):
            waiting.result(WAIT_S)
        assert behind.result(WAIT_S) == 1
        assert system.snapshot()[accounts]["bob"].balance == 10
        assert system.record(2).attempts == 1


def test_a_run_that_has_not_begun_never_executes() -> None:
    gate = Gate()
    executed: list[str] = []
    system = threaded(threads=2)  # One for the head, and none for those behind it.

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> None:
        executed.append(trigger.name)
        gate.pass_through()

    with system:
        submissions = system.submit_many([Hang(name="head"), Hang(name="behind")])
        gate.await_arrivals()
        system.abort(2, "not begun")
        gate.open()
        submissions[0].result(WAIT_S)
        with pytest.raises(Aborted, match="not begun"):
            submissions[1].result(WAIT_S)
        assert executed == ["head"]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("actor", range(3))
def test_an_abort_that_was_decided_outlives_a_crash_of_the_core(seed: int, actor: int) -> None:
    system = simulated(seed)
    opened = asyncio.Event()

    @system.on(Hang)
    async def hang(trigger: Hang, tx: Transaction) -> str:
        if trigger.name == "head":
            await opened.wait()
        return trigger.name

    with system:
        head, waiting, behind = system.submit_many([Hang(name=name) for name in ("head", "waiting", "behind")])
        world_of(system).run_to_rest()
        system.abort(2, "before the crash")
        running: Any = system._running
        ref = running._path.refs[actor]
        ref.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))
        world_of(system).run_to_rest()
        assert system.stats().restarts == 1
        with pytest.raises(LookupError):
            system.abort(4, "unknown")
        opened.set()
        assert [head.result(WAIT_S), behind.result(WAIT_S)] == ["head", "behind"]
        with pytest.raises(Aborted, match="before the crash"):
            waiting.result(WAIT_S)


def test_a_run_that_waits_before_it_executes_again_is_aborted() -> None:
    gate, has_read, may_go_on = Gate(), threading.Event(), threading.Event()
    system = threaded(threads=4)
    accounts = open_bank(system, alice=1)
    attempts: list[int] = []

    class Lower(Trigger[None]):
        pass

    class Higher(Trigger[None]):
        pass

    @system.on(Lower)
    def lower(trigger: Lower, tx: Transaction) -> None:
        assert has_read.wait(WAIT_S)
        tx[accounts]["alice"] = Account(balance=tx[accounts]["alice"].balance + 1)

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> str:
        balance = tx[accounts]["alice"].balance
        if tx.attempt == 1:
            gate.pass_through()
        tx[accounts]["alice"] = Account(balance=balance + 1)
        return "done"

    @system.on(Higher)
    def higher(trigger: Higher, tx: Transaction) -> None:
        attempts.append(tx.attempt)
        assert tx[accounts]["alice"].balance
        if tx.attempt == 1:
            has_read.set()
            assert may_go_on.wait(WAIT_S)
            tx[accounts].get("bob")

    with system:
        submissions = system.submit_many([Lower(), Hang(), Higher()])
        gate.await_arrivals()
        submissions[0].result(WAIT_S)
        may_go_on.set()
        while system.record(3).blocked_by != 2:
            pass
        system.abort(3, "not again")
        gate.open()
        assert submissions[1].result(WAIT_S) == "done"
        with pytest.raises(Aborted):
            submissions[2].result(WAIT_S)
        assert system.ask(Deposit(), timeout=WAIT_S) == 4
        assert attempts == [1]


def test_a_run_whose_commit_is_judged_is_aborted() -> None:
    gate = Gate()
    system = threaded(threads=2)

    def slow(state: Any) -> bool:
        if state:
            gate.pass_through()
        return True

    accounts = system.store("accounts", Collection(Account, invariants=[slow]))

    @system.on(Hang)
    def write(trigger: Hang, tx: Transaction) -> None:
        tx[accounts]["x"] = Account(balance=1)

    @system.on(Deposit)
    def nothing(trigger: Deposit, tx: Transaction) -> int:
        return 7

    with system:
        judged, behind = system.submit(Hang()), system.submit(Deposit())
        gate.await_arrivals()
        system.abort(1, "the invariant hangs")
        with pytest.raises(Aborted, match="the invariant hangs"):
            judged.result(WAIT_S)
        assert behind.result(WAIT_S) == 7
        gate.open()
    assert dict(system.snapshot()[accounts]) == {}


def test_a_run_that_has_ended_cannot_be_aborted_and_the_error_says_how_it_ended() -> None:
    system = simulated()
    open_bank(system)

    @system.on(Hang, retry=Retry(2, backoff=100.0))
    def fail(trigger: Hang, tx: Transaction) -> str:
        raise ValueError(trigger.name)

    with system:
        system.ask(Deposit())
        failing = system.submit(Hang(name="x"))
        with pytest.raises(LookupError, match="the run at seq 1 cannot be aborted, it has ended: committed"):
            system.abort(1, "too late")
        world_of(system).run_to_rest()
        with pytest.raises(LookupError, match=f"it has ended: retrying, it goes on as run {failing.id}~2"):
            system.abort(2, "too late")
        with pytest.raises(HandlerFailed):
            failing.result()
        with pytest.raises(LookupError, match="there is no run at seq 9 that could be aborted: seqs start at 1"):
            system.abort(9, "never was")
        with pytest.raises(LookupError, match="there is no run at seq 0"):
            system.abort(0, "never was")


@pytest.mark.parametrize("make", [simulated, threaded])
def test_nothing_is_aborted_or_resubmitted_after_the_stop(make: Any) -> None:
    system: Supervisor = make()

    @system.on(Hang)
    def fail(trigger: Hang, tx: Transaction) -> str:
        raise ValueError("x")

    with pytest.raises(NotRunning):
        system.abort(1, "before the start")
    with system, pytest.raises(HandlerFailed):
        system.ask(Hang(), timeout=WAIT_S)
    with pytest.raises(NotRunning, match="the run at seq 1 cannot be aborted: the system is stopped"):
        system.abort(1, "too late")
    with pytest.raises(NotRunning):
        system.resubmit(system.dead_letters()[0])
    assert system.dead_letters()[0].resubmitted_as is None


def test_the_first_of_two_aborts_counts() -> None:
    system = simulated()

    @system.on(Hang)
    async def hang(trigger: Hang, tx: Transaction) -> None:
        await asyncio.Event().wait()

    with system:
        first, second = system.submit_many([Hang(), Hang()])
        world_of(system).run_to_rest()
        system.abort(2, "one")
        system.abort(2, "two")
        system.abort(1, "head")
        with pytest.raises(Aborted, match="head"):
            first.result(WAIT_S)
        with pytest.raises(Aborted, match="one"):
            second.result(WAIT_S)


def test_an_aborted_run_is_not_retried() -> None:
    system = simulated()

    @system.on(Hang, retry=Retry(5))
    async def hang(trigger: Hang, tx: Transaction) -> None:
        await asyncio.Event().wait()

    with system:
        hanging = system.submit(Hang())
        world_of(system).run_to_rest()
        system.abort(1, "enough")
        with pytest.raises(Aborted):
            hanging.result(WAIT_S)
        assert len(system.runs()) == 1


def test_an_abort_takes_a_seq_and_a_reason_and_comes_from_outside() -> None:
    system = simulated()
    open_bank(system)

    @system.on(Hang)
    def abort_inside(trigger: Hang, tx: Transaction) -> None:
        with pytest.raises(WouldDeadlock, match="abort from outside"):
            system.abort(tx.seq, "me")

    with system:
        for seq in (True, "1", 1.0):
            with pytest.raises(TypeError, match="takes a seq"):
                system.abort(seq, "x")  # type: ignore[arg-type]
        for reason in ("", None):
            with pytest.raises(TypeError, match="takes the reason"):
                system.abort(1, reason)  # type: ignore[arg-type]
        system.ask(Hang())


@pytest.mark.parametrize("seed", range(50))
def test_runs_aborted_at_any_step_end_once_and_the_others_as_if_they_had_not_been(seed: int) -> None:
    system = simulated(seed)
    accounts = open_bank(system)

    @system.on(Hang)
    async def slow(trigger: Hang, tx: Transaction) -> str:
        balance = tx[accounts].get("alice", Account()).balance
        for _ in range(3):
            await asyncio.sleep(0)
        tx[accounts]["alice"] = Account(balance=balance + 1)
        return "done"

    with system:
        world = world_of(system)
        submissions: list[Any] = [
            system.submit(Hang() if number % 2 else Deposit(), priority=None) for number in range(12)
        ]
        for step in range(400):
            if all(submission.done for submission in submissions):
                break
            world.step()
            if step % 17 == seed % 17:
                left = [each.seq for each in submissions if each.seq is not None and not each.done]
                if left:
                    try:
                        system.abort(left[step % len(left)], f"step {step}")
                    except LookupError:
                        continue  # It ended on the way.
        committed = aborted = 0
        for submission in submissions:
            try:
                submission.result(WAIT_S)
                committed += 1
            except Aborted:
                aborted += 1
        assert committed + aborted == 12
        assert system.snapshot()[accounts].get("alice", Account()).balance == committed
        assert {record.seq for record in system.runs()} == set(range(1, 13))
        counts = system.stats().state_counts
        assert (counts.get(State.COMMITTED, 0), counts.get(State.ABORTED, 0)) == (committed, aborted)
