"""`stats()`, `record()` and `conflicts()` tell the truth at every moment, also about runs that ended badly."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from seqtor import (
    Collection,
    ConflictReport,
    DeadlineExceeded,
    HandlerFailed,
    Rejected,
    State,
    Stats,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from tests.programs import WAIT_S, Account, Deposit, Gate, Transfer, open_bank, simulated, threaded


class Act(Trigger[Any]):
    """Ends in the way that its field says."""

    how: str = "commit"


class Look(Trigger[Any]):
    """Asks the system about itself from inside a handler."""


class Wait(Trigger[None]):
    """Stands at a gate."""


def acting(system: Supervisor, deadline: float = 1) -> Supervisor:
    """Register `Act`, which ends in every way there is."""
    accounts = open_bank(system)

    @system.on(Act, deadline=deadline)
    async def act(trigger: Act, tx: Transaction) -> str:
        tx[accounts]["acted"] = Account(balance=1)
        if trigger.how == "reject":
            raise Rejected("not today", "later", day="friday")
        if trigger.how == "fail":
            raise ValueError("wrong")
        if trigger.how == "hang":
            await asyncio.sleep(5)
        return "done"

    return system


def require_consistent(stats: Stats, submitted: int) -> None:
    """What must hold between the figures of one answer."""
    assert stats.next_commit_seq == stats.committed_through + 1
    assert stats.durable_through == stats.committed_through
    assert stats.queued + stats.current_seq == submitted
    assert stats.in_flight == stats.current_seq - stats.committed_through
    assert 0 <= stats.pending_commits <= stats.in_flight
    assert (stats.head_age is None) == (stats.in_flight == 0)
    assert stats.head_age is None or stats.head_age >= 0
    assert stats.state_counts.get(State.QUEUED, 0) == stats.queued
    assert stats.state_counts.get(State.RUNNING, 0) == stats.in_flight
    assert sum(stats.state_counts.values()) == submitted
    assert all(stats.state_counts.values()), "a state without runs is left out"


# Stats ------------------------------------------------------------------------------------------------------------


def test_a_new_system_has_done_nothing() -> None:
    with simulated() as system:
        assert system.stats() == Stats(
            current_seq=0,
            next_commit_seq=1,
            committed_through=0,
            durable_through=0,
            effects_through=0,
            queued=0,
            in_flight=0,
            pending_commits=0,
            head_age=None,
            state_counts={},
            conflicts=0,
            restarts=0,
        )


@pytest.mark.parametrize("make", [simulated, threaded])
def test_every_way_of_ending_is_counted(make: Any) -> None:
    system = acting(make(), deadline=0.2)
    with system:
        ways = ["commit", "reject", "fail", "hang", "commit", "reject", "commit"]
        for how, submission in zip(ways, system.submit_many([Act(how=how) for how in ways]), strict=True):
            if how == "commit":
                assert submission.result(WAIT_S) == "done"
            else:
                with pytest.raises((Rejected, HandlerFailed, DeadlineExceeded)):
                    submission.result(WAIT_S)
        stats = system.stats()
        require_consistent(stats, submitted=7)
        assert stats.state_counts == {State.COMMITTED: 3, State.REJECTED: 2, State.FAILED: 1, State.DEADLINE: 1}
        assert (stats.current_seq, stats.committed_through) == (7, 7)


@pytest.mark.parametrize("seed", range(40))
def test_stats_agree_with_themselves_at_every_moment(seed: int) -> None:
    dispatchers = SimulatedDispatchers(seed)
    system = Supervisor(settings={"max_in_flight": 5, "threads": 2}, dispatchers=lambda settings: dispatchers)
    acting(system)
    submissions: list[Submission[Any]] = []
    with system:
        for n in range(12):
            ways = ("commit", "reject", "fail", "hang")[n % 4]
            submissions += system.submit_many(
                [Deposit(), Act(how=ways), Deposit(), Transfer(source="x", target="y", amount=1)]
            )
            for _ in range(seed % 17):
                dispatchers.step()
            stats = system.stats()
            require_consistent(stats, submitted=len(submissions))
            seen = Counter(submission.state for submission in submissions)
            assert all(seen[state] >= count for state, count in stats.state_counts.items() if state in ENDED)
        for submission in submissions:
            dispatchers.run_until(lambda submission=submission: submission.done, None)  # type: ignore[misc]
            require_consistent(system.stats(), submitted=len(submissions))
    assert system.stats().state_counts == {
        State.COMMITTED: 27, State.REJECTED: 3, State.FAILED: 15, State.DEADLINE: 3,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_the_head_has_an_age_exactly_while_something_is_in_flight(seed: int) -> None:
    dispatchers = SimulatedDispatchers(seed)
    system = Supervisor(settings={"max_in_flight": 1}, dispatchers=lambda settings: dispatchers)
    acting(system)
    with system:
        submissions = system.submit_many([Act()] * 30)
        while not submissions[-1].done:
            dispatchers.step()
            require_consistent(system.stats(), submitted=30)


ENDED = (State.COMMITTED, State.REJECTED, State.FAILED, State.DEADLINE)


def test_stats_agree_with_themselves_while_threads_work() -> None:
    system = threaded()
    open_bank(system)
    with system:
        submissions: list[Submission[int]] = []
        for _ in range(100):
            submissions += system.submit_many([Deposit(account=str(n % 3)) for n in range(10)])
            stats = system.stats()
            require_consistent(stats, submitted=len(submissions))
            assert stats.state_counts.get(State.COMMITTED, 0) == stats.committed_through
        submissions[-1].result(WAIT_S)
    require_consistent(system.stats(), submitted=1000)


def test_stats_are_answered_while_every_thread_hangs_in_a_handler() -> None:
    gate = Gate()
    system = threaded(threads=2)
    open_bank(system)

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        submissions = system.submit_many([Wait()] * 20)
        gate.await_arrivals()
        stats = system.stats()
        require_consistent(stats, submitted=21)
        assert (stats.committed_through, stats.pending_commits) == (1, 0)
        assert 1 <= stats.in_flight < 20
        assert system.record(2).state is State.RUNNING
        assert system.conflicts().executions == 1
        assert {submission.state for submission in submissions} == {State.RUNNING, State.QUEUED}
        gate.open()
    assert system.stats().state_counts == {State.COMMITTED: 21}


def test_what_waits_for_its_turn_is_pending_and_the_head_ages() -> None:
    dispatchers = SimulatedDispatchers(0)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    open_bank(system)

    @system.on(Look)
    async def look(trigger: Look, tx: Transaction) -> None:
        await asyncio.sleep(8)

    with system:
        head = system.submit(Look())
        dispatchers.run_to_rest()
        dispatchers.run_until(lambda: dispatchers.clock.monotonic() >= 3, 3)
        waiting = system.submit_many([Deposit(account=str(n)) for n in range(5)])
        dispatchers.run_to_rest()
        stats = system.stats()
        assert (stats.in_flight, stats.pending_commits, stats.committed_through) == (6, 5, 0)
        assert stats.head_age == pytest.approx(3)
        assert [system.record(seq).blocked_by for seq in range(1, 7)] == [None, 1, 1, 1, 1, 1]
        head.result()
        assert [submission.result() for submission in waiting] == [1] * 5
        assert [system.record(seq).blocked_by for seq in range(1, 7)] == [None] * 6


# From inside a handler --------------------------------------------------------------------------------------------


def look_at(system: Supervisor, tx: Transaction) -> tuple[Any, ...]:
    record = system.record(tx.seq or 0)
    stats = system.stats()
    report = system.conflicts()
    snapshot = system.snapshot()
    return (
        record.state,
        record.seq,
        record.durable,
        stats.in_flight >= 1,
        isinstance(report, ConflictReport),
        snapshot.seq,
    )


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_handler_may_ask_about_the_system(make: Any) -> None:
    system = make()
    open_bank(system)

    @system.on(Look)
    def look(trigger: Look, tx: Transaction) -> Any:
        return look_at(system, tx)

    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        assert system.ask(Look(), timeout=WAIT_S) == (State.RUNNING, 2, False, True, True, 1)


def test_an_async_handler_may_ask_about_the_system() -> None:
    system = threaded()
    open_bank(system)

    @system.on(Look)
    async def look(trigger: Look, tx: Transaction) -> Any:
        await asyncio.sleep(0)
        return look_at(system, tx)

    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        assert system.ask(Look(), timeout=WAIT_S) == (State.RUNNING, 2, False, True, True, 1)


def test_every_thread_may_ask_at_once_from_inside_its_handler() -> None:
    system = threaded(threads=4)
    together = threading.Barrier(3)

    @system.on(Look)
    def look(trigger: Look, tx: Transaction) -> Any:
        if tx.seq is not None and tx.seq <= 3:
            together.wait(WAIT_S)
        return look_at(system, tx)[:3]

    with system:
        for seq, submission in enumerate(system.submit_many([Look()] * 12), 1):
            assert submission.result(WAIT_S) == (State.RUNNING, seq, False)


# Records ----------------------------------------------------------------------------------------------------------


def test_a_record_tells_how_its_run_ended() -> None:
    system = acting(simulated())
    with system:
        for how in ("commit", "reject", "fail", "hang"):
            system.tell(Act(how=how))
        system.ask(Deposit())
        committed, rejected, failed, late, deposit = (system.record(seq) for seq in range(1, 6))
    assert (committed.state, committed.error) == (State.COMMITTED, None)
    assert (rejected.state, rejected.error) == (State.REJECTED, "not today (day='friday')")
    assert (failed.state, failed.error) == (State.FAILED, "ValueError: wrong")
    assert late.state is State.DEADLINE
    assert (late.error or "").startswith("DeadlineExceeded: Act at seq 4 ran longer than its deadline of 1 s")
    assert deposit.trigger == Deposit()
    for seq, record in enumerate((committed, rejected, failed, late, deposit), 1):
        assert (record.seq, record.attempts, record.retry_count, record.durable) == (seq, 1, 0, True)
        assert (record.conflicts, record.caused_by, record.causes) == ((), (), ())
        assert record.blocked_by is None
        assert record.committed_at is not None
        assert record.submitted_at <= record.sequenced_at <= record.committed_at
    assert late.handler_s == pytest.approx(1)


def test_the_record_of_a_run_in_flight_says_so() -> None:
    dispatchers = SimulatedDispatchers(0)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    acting(system)
    with system:
        submission = system.submit(Act(how="hang"))
        dispatchers.run_to_rest()
        record = system.record(1)
        assert (record.state, record.attempts, record.error, record.durable) == (State.RUNNING, 1, None, False)
        assert (record.committed_at, record.blocked_by, record.conflicts) == (None, None, ())
        assert record.id == submission.id


@pytest.mark.parametrize("seed", range(20))
def test_conflicts_are_told_while_the_run_is_in_flight_and_afterwards(seed: int) -> None:
    dispatchers = SimulatedDispatchers(seed)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    accounts = open_bank(system, alice=0)

    @system.on(Look, deadline=1000)
    async def look(trigger: Look, tx: Transaction) -> int:
        await asyncio.sleep(10)
        tx[accounts]["alice"] = Account(balance=5)
        return 5

    with system:
        system.tell(Look())
        deposit = system.submit(Deposit())
        later = system.submit(Deposit())
        dispatchers.run_to_rest()
        stats = system.stats()
        assert (stats.conflicts, stats.pending_commits) == (0, 2)
        assert (deposit.result(), later.result()) == (6, 7)
        record = system.record(2)
        assert (record.state, record.attempts, record.retry_count) == (State.COMMITTED, 2, 1)
        (conflict,) = record.conflicts
        assert (conflict.attempt, conflict.store, conflict.key, conflict.writer_seq) == (1, "accounts", "alice", 1)
        attempts = [system.record(seq).attempts for seq in (1, 2, 3)]
        assert attempts[0] == 1
        stats, report = system.stats(), system.conflicts()
        assert stats.conflicts == report.conflicts == report.wasted_executions == sum(attempts) - 3
        assert report.executions == sum(attempts)
        assert report.hottest_keys[0][:2] == ("accounts", "alice")
        assert sum(hot.conflicts for hot in report.hottest_keys) == report.conflicts
        assert ("Deposit", "Look") in [(pair.reader, pair.writer) for pair in report.pairs]
        assert sum(pair.conflicts for pair in report.pairs) == report.conflicts
        lines = str(report).splitlines()
        assert (
            lines[0]
            == f"{report.conflicts} conflicts, {report.wasted_executions} of {report.executions} executions wasted"
        )
        assert lines[1].split() == [str(report.hottest_keys[0].conflicts), "accounts['alice']"]


def test_the_conflicts_of_a_run_that_failed_in_the_end_are_told_too() -> None:
    dispatchers = SimulatedDispatchers(3)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    accounts = open_bank(system, alice=1)

    @system.on(Wait)
    async def lower(trigger: Wait, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=0)

    @system.on(Look)
    def divide(trigger: Look, tx: Transaction) -> float:
        return 1 / tx[accounts]["alice"].balance

    with system:
        system.tell(Wait())
        divided = system.submit(Look())
        with pytest.raises(HandlerFailed, match="Look at seq 2 failed in attempt 2: ZeroDivisionError") as caught:
            divided.result()
        assert caught.value.attempts == 2
        record = system.record(2)
        assert (record.state, record.attempts, len(record.conflicts)) == (State.FAILED, 2, 1)
        assert system.conflicts().wasted_executions == 1


def test_once_a_result_is_there_the_record_and_the_stats_say_so() -> None:
    system = threaded()
    open_bank(system)
    with system:
        for n in range(1, 201):
            submission = system.submit(Deposit() if n % 2 else Transfer(source="nobody", target="x", amount=1))
            try:
                submission.result(WAIT_S)
                expected = State.COMMITTED
            except HandlerFailed:
                expected = State.FAILED
            assert system.record(n).state is expected
            assert system.stats().committed_through == n


@pytest.mark.parametrize("seq", [0, -1, 2, 10**9])
def test_there_is_no_record_of_a_seq_that_was_not_given(seq: int) -> None:
    system = acting(simulated())
    with system:
        system.ask(Deposit())
        with pytest.raises(LookupError, match=f"there is no record of seq {seq}: seqs start at 1; it was not"):
            system.record(seq)


@pytest.mark.parametrize("seq", ["1", None, 1.0, True])
def test_a_record_is_asked_for_by_its_seq(seq: Any) -> None:
    with simulated() as system, pytest.raises(TypeError, match=r"record\(\) takes a seq \(an int from 1\), got"):
        system.record(seq)


def test_only_the_newest_records_are_kept_and_the_counts_stay_whole() -> None:
    system = simulated(settings={"records_max": 10})
    open_bank(system)
    with system:
        for submission in system.submit_many([Deposit()] * 50):
            submission.result()
        for seq in (1, 20, 39):
            with pytest.raises(LookupError, match=r"older than the 10 records that are kept \(records_max\)"):
                system.record(seq)
        for seq in range(41, 51):
            assert system.record(seq).state is State.COMMITTED
        assert system.stats().state_counts == {State.COMMITTED: 50}


def test_a_record_of_a_run_in_flight_is_never_dropped() -> None:
    dispatchers = SimulatedDispatchers(0)
    system = Supervisor(settings={"records_max": 1}, dispatchers=lambda settings: dispatchers)
    acting(system)
    with system:
        system.ask(Deposit())
        hanging = system.submit(Act(how="hang"))
        behind = system.submit_many([Deposit()] * 5)
        dispatchers.run_to_rest()
        assert [system.record(seq).state for seq in range(2, 8)] == [State.RUNNING] * 6
        with pytest.raises(DeadlineExceeded):
            hanging.result()
        assert behind[-1].result() == 6
        assert system.record(7).state is State.COMMITTED


def test_a_store_that_changes_nothing_is_not_told_to_have_changed() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)
    other = system.store("other", Collection(Account))
    with system:
        system.ask(Deposit(amount=0))
        assert repr(accounts) == "<StoreRef 'accounts' (CollectionStore) at seq 0>"
        system.ask(Deposit(amount=2))
        assert repr(accounts) == "<StoreRef 'accounts' (CollectionStore) at seq 2>"
        assert repr(other) == "<StoreRef 'other' (CollectionStore) at seq 0>"
