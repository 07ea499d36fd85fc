"""Retry policies of handlers: a new run with a new seq, one submission, one outcome."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from seqtor import (
    Bundle,
    Collection,
    DeadlineExceeded,
    HandlerFailed,
    NotRunning,
    Overloaded,
    Record,
    RegistrationError,
    Rejected,
    Retry,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.retrying import retry_id
from tests.programs import WAIT_S, Account, Deposit, Gate, open_bank, simulated, threaded

LONG_S = 10_000.0  # Of virtual time.
STEADY = {"backoff": 10.0, "jitter": 0.0}


class Flaky(Trigger[int]):
    """Fails as often as the test says."""

    name: str = ""


class Broken(Exception):
    """What the handler raises."""


class Failing:
    """A handler that raises in its first executions; notes when each was."""

    def __init__(self, failures: int, error: Callable[[], BaseException] = lambda: Broken("not yet")) -> None:
        self.failures = failures
        self.error = error
        self.times: list[float] = []
        self.seqs: list[int] = []

    def __call__(self, trigger: Flaky, tx: Transaction) -> int:
        self.times.append(tx.now.timestamp())
        self.seqs.append(tx.seq)
        if len(self.times) <= self.failures:
            raise self.error()
        return len(self.times)


def flaky(retry: Retry | None, failing: Failing, system: Supervisor | None = None) -> Supervisor:
    """A system whose `Flaky` fails, beside a bank."""
    system = system or simulated()
    open_bank(system)
    system.on(Flaky, retry=retry)(failing)
    return system


def world_of(system: Supervisor) -> SimulatedDispatchers:
    running: Any = system._running
    dispatchers: SimulatedDispatchers = running._dispatchers
    return dispatchers


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_run_that_fails_is_followed_by_a_new_run_with_a_new_seq_and_one_answer(make: Any) -> None:
    failing = Failing(2)
    with flaky(Retry(3, backoff=0.001), failing, make()) as system:
        submission = system.submit(Flaky())
        first_id = submission.id
        assert submission.result(WAIT_S) == 3
        assert failing.seqs == [1, 2, 3]
        assert (submission.seq, submission.state, submission.id) == (3, State.COMMITTED, first_id)
        first, second, third = (system.record(seq) for seq in (1, 2, 3))
        assert [record.state for record in (first, second, third)] == [State.RETRYING, State.RETRYING, State.COMMITTED]
        assert [record.run_number for record in (first, second, third)] == [1, 2, 3]
        assert (first.id, second.id, third.id) == (first_id, f"{first_id}~2", f"{first_id}~3")
        assert (first.retry_of, first.retried_as) == (None, second.id)
        assert (second.retry_of, second.retried_as) == (first.id, third.id)
        assert (third.retry_of, third.retried_as) == (second.id, None)
        assert first.error == "Broken: not yet"
        assert third.error is None
        assert first.durable
        assert {record.submitted_at for record in (first, second, third)} == {first.submitted_at}
        assert system.stats().state_counts == {State.RETRYING: 2, State.COMMITTED: 1}
        assert system.stats().retries_waiting == 0


def test_while_a_retry_waits_the_submission_is_queued_and_then_running() -> None:
    with flaky(Retry(2, **STEADY), Failing(1)) as system:
        submission = system.submit(Flaky())
        world = world_of(system)
        world.run_to_rest()
        assert (submission.state, submission.seq, submission.done) == (State.QUEUED, 1, False)
        assert system.record(1).state is State.RETRYING
        assert system.stats().retries_waiting == 1
        states = set()
        while not submission.done:
            world.step()
            states.add((submission.state, submission.seq))
        assert states >= {(State.QUEUED, 1), (State.RUNNING, 2), (State.COMMITTED, 2)}
        assert submission.result() == 2


def test_nobody_waits_for_a_retry() -> None:
    failing = Failing(1)
    with flaky(Retry(2, **STEADY), failing) as system:
        submission = system.submit(Flaky())
        assert [system.ask(Deposit(), timeout=1.0) for _ in range(20)] == list(range(1, 21))
        assert submission.state is State.QUEUED
        assert system.stats().committed_through == 21
        assert submission.result(LONG_S) == 2
        assert failing.seqs == [1, 22]
        assert failing.times[1] - failing.times[0] == pytest.approx(10.0)


def test_waits_double_up_to_their_limit() -> None:
    failing = Failing(5)
    with flaky(Retry(6, backoff=1.0, backoff_max=5.0, jitter=0.0), failing) as system:
        assert system.ask(Flaky(), timeout=LONG_S) == 6
    waits = [later - earlier for earlier, later in pairwise(failing.times)]
    assert waits == pytest.approx([1, 2, 4, 5, 5])


def test_jitter_comes_from_the_seed() -> None:
    def times(seed: int) -> list[float]:
        failing = Failing(3)
        with flaky(Retry(4, backoff=8.0, jitter=0.5), failing, simulated(seed)) as system:
            system.ask(Flaky(), timeout=LONG_S)
        return failing.times

    first = times(1)
    assert times(1) == first
    assert times(2) != first
    for number, (earlier, later) in enumerate(pairwise(first)):
        assert 4.0 * 2**number <= later - earlier <= 8.0 * 2**number


@pytest.mark.parametrize("make", [simulated, threaded])
def test_after_the_last_run_the_caller_gets_its_failure(make: Any) -> None:
    with flaky(Retry(3, backoff=0.001), Failing(9), make()) as system:
        submission = system.submit(Flaky())
        with pytest.raises(HandlerFailed, match="Flaky at seq 3 failed in attempt 1: Broken: not yet") as caught:
            submission.result(WAIT_S)
        assert isinstance(caught.value.__cause__, Broken)
        assert submission.state is State.FAILED
        assert submission.seq == 3
        assert [system.record(seq).state for seq in (1, 2, 3)] == [State.RETRYING, State.RETRYING, State.FAILED]


def test_only_what_the_policy_names_is_retried() -> None:
    failing = Failing(1, lambda: KeyError("other"))
    with flaky(Retry(3, on=(Broken, OSError)), failing) as system:
        with pytest.raises(HandlerFailed):
            system.ask(Flaky(), timeout=LONG_S)
        assert system.record(1).state is State.FAILED
        assert len(failing.times) == 1


def test_without_a_policy_and_with_one_run_nothing_is_retried() -> None:
    for retry in (None, Retry(1)):
        failing = Failing(1)
        with flaky(retry, failing) as system, pytest.raises(HandlerFailed):
            system.ask(Flaky(), timeout=LONG_S)
        assert len(failing.times) == 1


def test_a_rejection_is_never_retried() -> None:
    failing = Failing(1, lambda: Rejected("no"))
    with flaky(Retry(3), failing) as system:
        with pytest.raises(Rejected, match="no"):
            system.ask(Flaky(), timeout=LONG_S)
        assert system.record(1).state is State.REJECTED
        assert len(failing.times) == 1


def test_a_broken_invariant_is_never_retried() -> None:
    system = simulated()
    accounts = system.store("accounts", Collection(Account, invariants=[lambda state: "x" not in state]))
    executions = []

    @system.on(Flaky, retry=Retry(3))
    def write(trigger: Flaky, tx: Transaction) -> int:
        executions.append(tx.seq)
        tx[accounts]["x"] = Account(balance=1)
        return 1

    with system:
        with pytest.raises(Rejected):
            system.ask(Flaky(), timeout=LONG_S)
        assert executions == [1]


def test_what_fails_in_the_commit_is_retried_like_what_fails_in_the_handler() -> None:
    class Small(Record):
        n: int = 0

    system = simulated()
    numbers = system.store("numbers", Collection(Small))
    executions: list[int] = []

    @system.on(Flaky, retry=Retry(2))
    def write(trigger: Flaky, tx: Transaction) -> int:
        executions.append(tx.seq)
        tx[numbers].increment("x", n="one" if len(executions) == 1 else 1)
        return 1

    with system:
        assert system.ask(Flaky(), timeout=LONG_S) == 1
        assert executions == [1, 2]


@pytest.mark.parametrize("make", [simulated, threaded])
@pytest.mark.parametrize(("on", "retried"), [((Exception,), True), ((DeadlineExceeded,), True), ((Broken,), False)])
def test_a_deadline_is_retried_if_the_policy_names_it(make: Any, on: Any, retried: bool) -> None:
    system: Supervisor = make()
    seqs: list[int] = []

    @system.on(Flaky, deadline=0.05, retry=Retry(2, backoff=0.001, on=on))
    async def hang(trigger: Flaky, tx: Transaction) -> int:
        seqs.append(tx.seq)
        if tx.seq == 1:
            await asyncio.Event().wait()
        return tx.seq

    with system:
        submission = system.submit(Flaky())
        if retried:
            assert submission.result(WAIT_S) == 2
            assert system.record(1).state is State.RETRYING
            assert (system.record(1).error or "").startswith("DeadlineExceeded: Flaky at seq 1")
            assert system.dead_letters() == []
        else:
            with pytest.raises(DeadlineExceeded):
                submission.result(WAIT_S)
            assert seqs == [1]
            assert [letter.seq for letter in system.dead_letters()] == [1]


def test_a_thread_that_hangs_past_its_deadline_is_retried_on_another() -> None:
    gate = Gate()
    system = threaded(2)

    @system.on(Flaky, deadline=0.05, retry=Retry(2, backoff=0.001))
    def hang(trigger: Flaky, tx: Transaction) -> int:
        if tx.seq == 1:
            gate.pass_through()
        return tx.seq

    with system:
        assert system.ask(Flaky(), timeout=WAIT_S) == 2
        gate.open()


def test_what_a_failed_run_wanted_to_release_is_not_released() -> None:
    system = simulated()
    open_bank(system)
    carried_out: list[Any] = []

    @system.effect("note")
    def note(context: Any, payload: str) -> None:
        carried_out.append(payload)

    executions: list[int] = []

    @system.on(Flaky, retry=Retry(2))
    def release(trigger: Flaky, tx: Transaction) -> None:
        executions.append(tx.seq)
        tx.submit(Deposit(amount=len(executions)))
        tx.effect(note, f"run {len(executions)}")
        if len(executions) == 1:
            raise Broken

    with system:
        system.ask(Flaky(), timeout=LONG_S)
        world_of(system).run_to_rest()
        assert [record.trigger for record in system.runs(trigger=Deposit)] == [Deposit(amount=2)]
        assert system.record(1).causes == ()
        assert carried_out == ["run 2"]


def test_a_retry_has_inputs_of_its_own() -> None:
    system = simulated()
    seen: list[Any] = []

    def quote() -> int:
        return len(seen)

    @system.on(Flaky, retry=Retry(2, **STEADY))
    def ask(trigger: Flaky, tx: Transaction) -> None:
        seen.append((tx.now, tx.uuid4(), tx.random.random(), tx.call(quote)))
        if len(seen) == 1:
            raise Broken

    with system:
        system.ask(Flaky(), timeout=LONG_S)
    assert all(first != second for first, second in zip(*seen, strict=True)), seen


def test_retries_are_not_refused_by_a_full_queue() -> None:
    failing = Failing(1)
    system = flaky(Retry(2, **STEADY), failing, simulated(settings={"max_queued": 1}))
    with system:
        submission = system.submit(Flaky())
        world_of(system).run_to_rest()
        assert submission.state is State.QUEUED
        deposit = system.submit(Deposit())  # From here on the queue is full.
        world_of(system).clock.advance_to(20.0)
        assert submission.result(LONG_S) == 2
        assert deposit.result(LONG_S) == 1
        with pytest.raises(Overloaded):  # A retry counts as what has been queued, else one more would be taken now.
            system.submit_many([Deposit(), Deposit()])


def test_a_key_stands_for_the_run_and_its_retries() -> None:
    with flaky(Retry(2, **STEADY), Failing(1)) as system:
        first = system.submit(Flaky(), idempotency_key="k")
        world_of(system).run_to_rest()
        again = system.submit(Flaky(), idempotency_key="k")
        assert again.id == first.id
        assert again.result(LONG_S) == 2
        assert first.result() == 2
        assert system.submit(Flaky(), idempotency_key="k").result() == 2
        assert len(system.runs()) == 2


def test_a_trigger_that_a_commit_submitted_is_retried() -> None:
    failing = Failing(1)
    system = flaky(Retry(2, **STEADY), failing)

    class Start(Trigger[None]):
        pass

    @system.on(Start)
    def start(trigger: Start, tx: Transaction) -> None:
        tx.submit(Flaky())

    with system:
        system.ask(Start(), timeout=LONG_S)
        world_of(system).run_until(lambda: len(failing.times) == 2, LONG_S)
        world_of(system).run_to_rest()
        assert system.record(3).state is State.COMMITTED
        assert system.record(3).caused_by == system.record(2).caused_by == (system.record(1).id,)


def test_many_retries_at_once_each_get_one_answer() -> None:
    system = threaded(4)
    accounts = open_bank(system)
    lock = threading.Lock()
    failed: dict[str, int] = {}

    @system.on(Flaky, retry=Retry(5, backoff=0.001))
    def sometimes(trigger: Flaky, tx: Transaction) -> int:
        with lock:
            count = failed[trigger.name] = failed.get(trigger.name, 0) + 1
        if count <= int(trigger.name) % 4:
            raise Broken(trigger.name)
        tx[accounts].increment("sum", balance=1)
        return int(trigger.name)

    with system:
        submissions = system.submit_many([Flaky(name=str(number)) for number in range(200)])
        assert [submission.result(WAIT_S) for submission in submissions] == list(range(200))
        assert system.snapshot()[accounts]["sum"].balance == 200
        assert len({submission.seq for submission in submissions}) == 200
        assert system.stats().state_counts == {State.COMMITTED: 200, State.RETRYING: 50 * (1 + 2 + 3)}


def test_awaiting_a_submission_waits_for_its_last_run() -> None:
    async def main() -> int:
        async with flaky(Retry(2, backoff=0.001), Failing(1), threaded()) as system:
            return await system.submit(Flaky())

    assert asyncio.run(main()) == 2


# The stop --------------------------------------------------------------------------------------------------------------


def test_a_stop_in_memory_waits_for_a_retry_that_is_due_within_the_grace() -> None:
    system = flaky(Retry(2, **STEADY), Failing(1)).start()
    submission = system.submit(Flaky())
    world_of(system).run_to_rest()
    system.stop(grace=60)
    assert submission.result() == 2


def test_a_stop_in_memory_does_not_wait_for_a_retry_that_is_due_after_the_grace() -> None:
    system = flaky(Retry(2, **STEADY), Failing(1)).start()
    submission = system.submit(Flaky())
    world = world_of(system)
    world.run_to_rest()
    before = world.clock.time()
    system.stop(grace=5)
    assert world.clock.time() == before, "nothing could have come of waiting"
    with pytest.raises(NotRunning):
        submission.result()
    assert submission.state is State.ABORTED
    assert system.record(1).state is State.RETRYING


def test_a_caller_that_waits_for_a_retry_is_woken_by_the_stop() -> None:
    system = flaky(Retry(2, backoff=1000.0), Failing(1), threaded()).start()
    submission = system.submit(Flaky())
    answers: list[Any] = []

    def wait() -> None:
        try:
            submission.result(WAIT_S)
        except NotRunning as error:
            answers.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    system.ask(Deposit(), timeout=WAIT_S)
    system.stop(grace=1)
    waiting.join(WAIT_S)
    assert len(answers) == 1


# Registration ------------------------------------------------------------------------------------------------------------


def test_a_bundle_carries_the_policy() -> None:
    bundle = Bundle()
    failing = Failing(1)
    bundle.on(Flaky, retry=Retry(2))(failing)
    system = simulated()
    system.include(bundle)
    with system:
        assert system.ask(Flaky(), timeout=LONG_S) == 2


@pytest.mark.parametrize("register", [simulated, Bundle])
@pytest.mark.parametrize(
    ("retry", "says"),
    [
        (3, r"retry= of the handler of Flaky takes a Retry\(...\), got 3"),
        (Retry(2, on=Rejected), r"names Rejected: a rejection is an answer, and is never retried"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(register: Any, retry: Any, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        register().on(Flaky, retry=retry)(Failing(1))


def test_ids_of_retries_count_the_runs_of_the_first() -> None:
    assert retry_id("9f-1-7", 2) == "9f-1-7~2"
    assert retry_id("9f-1-7~2", 3) == "9f-1-7~3"
    assert retry_id("9f-1-7~9", 10) == "9f-1-7~10"
    assert retry_id("9f~2", 2) == "9f~2~2"


def test_a_submission_that_is_given_up_while_it_retries_keeps_its_record() -> None:
    system = flaky(Retry(2, **STEADY), Failing(1)).start()
    submission: Submission[int] = system.submit(Flaky())
    world_of(system).run_to_rest()
    system.stop(grace=0)
    record = system.record(1)
    assert (record.state, record.error, record.durable) == (State.RETRYING, "Broken: not yet", True)
    assert record.retried_as == f"{submission.id}~2"
