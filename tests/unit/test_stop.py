"""The life of a system: start, ordered stop, a stop whose grace is too short, and what can be asked afterwards."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pykka import ActorRegistry

from seqtor import (
    Collection,
    NotRunning,
    OutcomeUnknown,
    RegistrationError,
    Rejected,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.clock import VirtualClock
from seqtor.actors.committer import Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import AcceptTriggers, CommitRun, RunsSequenced
from tests.programs import WAIT_S, Account, Deposit, Gate, Transfer, open_bank, simulated, threaded


class Wait(Trigger[str]):
    """Stands at a gate."""


def with_gate(system: Supervisor, gate: Gate) -> Supervisor:
    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> str:
        gate.pass_through()
        return "passed"

    return system


# Start ------------------------------------------------------------------------------------------------------------


def test_the_constructor_starts_nothing() -> None:
    threads = threading.active_count()
    actors = len(ActorRegistry.get_all())
    open_bank(threaded())
    assert threading.active_count() == threads
    assert len(ActorRegistry.get_all()) == actors


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_system_starts_once(make: Any) -> None:
    with make() as system, pytest.raises(RegistrationError, match="'seqtor' runs already"):
        system.start()


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_system_lives_once(make: Any) -> None:
    system = make()
    with system:
        pass
    with pytest.raises(NotRunning, match="'seqtor' was stopped: a system lives once, make a new Supervisor"):
        system.start()


def test_start_returns_the_system_and_the_repr_tells_where_it_is() -> None:
    system = Supervisor(name="desk", dispatchers=lambda settings: SimulatedDispatchers(0))
    assert repr(system) == "<Supervisor 'desk' not started>"
    assert system.start() is system
    assert repr(system) == "<Supervisor 'desk' running>"
    system.stop()
    assert repr(system) == "<Supervisor 'desk' stopped>"


def test_two_systems_run_side_by_side() -> None:
    first, second = threaded(), threaded()
    accounts, others = open_bank(first), open_bank(second)
    with first, second:
        first.ask(Deposit(amount=1), timeout=WAIT_S)
        second.ask(Deposit(amount=2), timeout=WAIT_S)
        assert first.snapshot()[accounts]["alice"].balance == 1
        assert second.snapshot()[others]["alice"].balance == 2


def test_async_with_starts_and_stops_without_blocking_the_loop() -> None:
    system = threaded()
    open_bank(system)

    async def main() -> int:
        async with system as entered:
            assert entered is system
            return await system.submit(Deposit(amount=3))

    assert asyncio.run(main()) == 3
    assert repr(system) == "<Supervisor 'seqtor' stopped>"


# An ordered stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_stop_drains_what_was_accepted(seed: int) -> None:
    system = simulated(seed)
    accounts = open_bank(system)
    with system:
        submissions = system.submit_many([Deposit()] * 100)
        assert not any(submission.done for submission in submissions)
    assert [submission.result() for submission in submissions] == list(range(1, 101))
    assert system.snapshot()[accounts]["alice"].balance == 100


def test_the_stop_drains_what_was_accepted_on_real_threads() -> None:
    system = threaded()
    accounts = open_bank(system)
    with system:
        submissions = system.submit_many([Deposit()] * 500)
    assert [submission.result(0) for submission in submissions] == list(range(1, 501))
    assert system.snapshot()[accounts]["alice"].balance == 500


def test_the_stop_drains_when_the_block_is_left_by_an_exception() -> None:
    system = threaded()
    open_bank(system)
    submissions = []

    def leave_by_an_exception() -> None:
        with system:
            submissions.extend(system.submit_many([Deposit()] * 20))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_by_an_exception()
    assert [submission.result(0) for submission in submissions] == list(range(1, 21))


@pytest.mark.parametrize("make", [simulated, threaded])
def test_stopping_twice_or_without_a_start_changes_nothing(make: Any) -> None:
    system = make()
    open_bank(system)
    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        system.stop()
        system.stop()
    assert system.stats().state_counts == {State.COMMITTED: 1}
    never_started = make()
    never_started.stop()
    never_started.stop()
    with pytest.raises(NotRunning):
        never_started.start()


@pytest.mark.parametrize("grace", [-1, "5", float("nan"), True])
def test_a_grace_that_is_no_duration_is_refused(grace: Any) -> None:
    with simulated() as system, pytest.raises(RegistrationError, match="grace must be seconds"):
        system.stop(grace=grace)


def test_a_stopped_system_leaves_no_threads_and_no_actors() -> None:
    threads = set(threading.enumerate())
    actors = len(ActorRegistry.get_all())
    system = threaded()
    open_bank(system)
    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        assert len(ActorRegistry.get_all()) > actors
    assert set(threading.enumerate()) <= threads
    assert len(ActorRegistry.get_all()) == actors


def test_a_start_that_fails_leaves_no_threads_and_no_actors() -> None:
    threads = set(threading.enumerate())
    actors = len(ActorRegistry.get_all())
    system = threaded()
    system.store("accounts", Collection(Account, initial={"a": Account()}, invariants=[lambda book: not book]))
    with pytest.raises(RegistrationError):
        system.start()
    assert set(threading.enumerate()) <= threads
    assert len(ActorRegistry.get_all()) == actors


def test_submit_during_the_stop_is_refused_and_what_was_accepted_still_ends() -> None:
    gate = Gate()
    system = with_gate(threaded(), gate).start()
    submission = system.submit(Wait())
    gate.await_arrivals()
    stopping = threading.Thread(target=system.stop)
    stopping.start()
    refused = None
    while refused is None:
        try:
            system.tell(Wait())
        except NotRunning as error:
            refused = error
    assert "stopped or stopping" in str(refused)
    gate.open()
    stopping.join(WAIT_S)
    assert submission.result(0) == "passed"


# A grace that is too short ----------------------------------------------------------------------------------------


def test_a_stop_whose_grace_is_exceeded_answers_everyone() -> None:
    gate = Gate()
    system = with_gate(threaded(threads=2), gate)
    accounts = open_bank(system)
    system.start()
    ended = system.submit(Deposit(amount=7))
    ended.result(WAIT_S)
    hanging = system.submit(Wait())
    gate.await_arrivals()
    behind = system.submit_many([Deposit()] * 30)
    outcomes: list[Any] = []

    def wait_for(submission: Any) -> None:
        try:
            outcomes.append(submission.result(WAIT_S))
        except NotRunning as error:
            outcomes.append(error)

    waiting = threading.Thread(target=wait_for, args=(hanging,))
    waiting.start()
    system.stop(grace=0.05)
    waiting.join(WAIT_S)
    assert [type(outcome) for outcome in outcomes] == [NotRunning]
    for submission in (hanging, *behind):
        with pytest.raises(NotRunning, match="stopped before this run had ended; nothing of it was written"):
            submission.result(0)
        assert submission.state is State.ABORTED
    assert ended.result(0) == 7
    assert system.snapshot()[accounts]["alice"].balance == 7
    gate.open()


def test_the_records_after_a_stop_that_cut_runs_off_say_so() -> None:
    gate = Gate()
    system = with_gate(threaded(threads=2), gate)
    open_bank(system)
    system.start()
    system.ask(Deposit(), timeout=WAIT_S)
    hanging = system.submit(Wait())
    gate.await_arrivals()
    behind = system.submit_many([Deposit()] * 30)
    system.stop(grace=0)
    stats = system.stats()
    assert stats.state_counts == {State.COMMITTED: 1, State.ABORTED: 31}
    assert (stats.queued, stats.in_flight, stats.committed_through, stats.head_age) == (0, 0, 1, None)
    numbered = [submission.seq for submission in (hanging, *behind) if submission.seq is not None]
    assert stats.current_seq == max(numbered)
    for seq in numbered:
        record = system.record(seq)
        assert (record.state, record.attempts) == (State.ABORTED, 1)
        assert record.error is not None
        assert record.error.startswith("NotRunning: the system was stopped")
        assert record.committed_at is not None
    gate.open()
    assert system.stats() == stats


def test_what_still_runs_after_the_stop_changes_nothing() -> None:
    gate = Gate()
    late = threading.Event()
    system = threaded(threads=2)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> str:
        try:
            gate.pass_through()
            tx[accounts]["late"] = Account(balance=1)
            return "passed"
        finally:
            late.set()

    system.start()
    submission = system.submit(Wait())
    gate.await_arrivals()
    system.stop(grace=0)
    gate.open()
    assert late.wait(WAIT_S)
    assert submission.state is State.ABORTED
    assert dict(system.snapshot()[accounts]) == {}


def test_a_stop_cuts_async_handlers_off_too() -> None:
    system = threaded()
    reached, cancelled = threading.Event(), threading.Event()

    @system.on(Wait)
    async def wait(trigger: Wait, tx: Transaction) -> str:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    system.start()
    submission = system.submit(Wait())
    assert reached.wait(WAIT_S)
    system.stop(grace=0)
    assert cancelled.wait(WAIT_S)
    with pytest.raises(NotRunning):
        submission.result(0)


@pytest.mark.parametrize("moment", range(30))
def test_at_any_moment_of_a_stop_the_answers_agree_with_the_state(moment: int) -> None:
    system = threaded(threads=2)
    accounts = open_bank(system, alice=0)
    system.start()
    submissions = system.submit_many([Deposit()] * 400)
    submissions[moment * 7].result(WAIT_S)
    system.stop(grace=0)
    answered = [submission for submission in submissions if submission.state is State.COMMITTED]
    assert system.snapshot()[accounts]["alice"].balance == len(answered)
    stats = system.stats()
    assert stats.state_counts.get(State.COMMITTED, 0) == len(answered) == stats.committed_through
    assert stats.state_counts.get(State.ABORTED, 0) == 400 - len(answered)
    for submission in answered:
        assert system.record(submission.seq or 0).state is State.COMMITTED


# Afterwards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [simulated, threaded])
def test_everything_can_still_be_asked_after_the_stop(make: Any) -> None:
    system = make()
    accounts = open_bank(system, alice=10)
    with system:
        system.ask(Transfer(source="alice", target="bob", amount=4), timeout=WAIT_S)
        with pytest.raises(Rejected):
            system.ask(Transfer(source="bob", target="alice", amount=5), timeout=WAIT_S)
        before = system.stats()
        records = [system.record(seq) for seq in (1, 2)]
        conflicts = system.conflicts()
    assert system.stats() == system.stats() == before
    assert [system.record(seq) for seq in (1, 2)] == records
    assert system.conflicts() == conflicts
    with pytest.raises(LookupError):
        system.record(3)
    assert {key: account.balance for key, account in system.snapshot()[accounts].items()} == {"alice": 6, "bob": 4}
    assert repr(accounts) == "<StoreRef 'accounts' (CollectionStore) at seq 1>"


def test_queries_that_race_the_stop_are_answered() -> None:
    for _ in range(8):
        system = threaded()
        open_bank(system)
        system.start()
        system.tell(Deposit())
        answers: list[Any] = []
        stopped = threading.Event()

        def ask(system: Supervisor = system, answers: list[Any] = answers, stopped: threading.Event = stopped) -> None:
            while not stopped.is_set():
                answers.append(system.stats())
                answers.append(system.conflicts())
            answers.append(system.stats())

        asking = threading.Thread(target=ask)
        asking.start()
        system.stop()
        stopped.set()
        asking.join(WAIT_S)
        assert not asking.is_alive()
        assert answers[-1].state_counts == {State.COMMITTED: 1}


class ClockThatBreaks(VirtualClock):
    """Fails to read time once, when it is told to."""

    breaks = False

    def time(self) -> float:
        if self.breaks:
            self.breaks = False
            raise OSError("the clock is gone")
        return super().time()


@pytest.mark.parametrize("seed", range(10))
def test_a_runtime_that_breaks_down_leaves_nobody_waiting(seed: int) -> None:
    clock = ClockThatBreaks()

    def make(settings: Any) -> Any:
        dispatchers = SimulatedDispatchers(seed)
        dispatchers.clock = clock
        return dispatchers

    system = Supervisor(dispatchers=make, settings={"restart_intensity": 0})
    open_bank(system)
    system.start()
    assert system.ask(Deposit()) == 1
    submissions = system.submit_many([Deposit()] * 20)
    submissions[seed].result()
    clock.breaks = True
    with pytest.raises(OutcomeUnknown, match=r"the runtime broke down .*the clock is gone"):
        [submission.result() for submission in submissions]
    assert all(submission.done for submission in submissions)
    with pytest.raises(NotRunning, match=r"the system takes no more work: .* crashed: OSError: the clock is gone"):
        system.submit(Deposit())
    assert sum(system.stats().state_counts.values()) == 21
    system.conflicts()
    assert system.record(1).state is State.COMMITTED
    system.stop()
    assert sum(system.stats().state_counts.values()) == 21


@pytest.mark.parametrize("actor", [Sequencer, Coordinator, Committer])
@pytest.mark.parametrize(
    "make", [lambda: simulated(settings={"restart_intensity": 0}), lambda: threaded(restart_intensity=0)]
)
def test_a_core_actor_that_crashes_again_and_again_leaves_nobody_waiting(
    make: Any, actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make()
    accounts = open_bank(system)
    system.start()
    assert system.ask(Deposit(), timeout=WAIT_S) == 1

    def crash(self: Any, message: Any) -> None:
        raise RuntimeError("a defect")

    kind = {Sequencer: AcceptTriggers, Coordinator: RunsSequenced, Committer: CommitRun}[actor]
    monkeypatch.setitem(actor._methods, kind, crash)
    submission = system.submit(Deposit())
    with pytest.raises(OutcomeUnknown, match=f"{actor.__name__} crashed: RuntimeError: a defect"):
        submission.result(WAIT_S)
    assert (submission.state, submission.done) == (State.ABORTED, True)
    with pytest.raises(OutcomeUnknown):
        asyncio.run(as_coroutine(submission))
    with pytest.raises(NotRunning, match="crashed"):
        system.submit(Deposit())
    assert system.stats().state_counts[State.COMMITTED] == 1
    assert system.record(1).state is State.COMMITTED
    assert system.conflicts().conflicts == 0
    system.stop()
    assert system.snapshot()[accounts]["alice"].balance == 1


async def as_coroutine(submission: Submission[Any]) -> Any:
    return await submission
