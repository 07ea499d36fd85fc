"""`Submission.cancel()`: what has no seq is taken back for good, durably; what has one runs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from seqtor import (
    Cancelled,
    Collection,
    OutcomeUnknown,
    Priority,
    Retry,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal import actor
from seqtor.actors.journal.memory import MemoryBackend
from tests.programs import WAIT_S, Account, Gate, threaded


class Note(Trigger[str]):
    """Counts under its name."""

    name: str = "x"


class Linger(Trigger[str]):
    """Waits until the test lets it go."""

    name: str


class Flaky(Trigger[int]):
    """Fails always."""


class Plan(Trigger[None]):
    """Submits a `Note` under a key, that waits."""

    key: str


def make(
    backend: MemoryBackend | None = None, start_s: float = 0.0, seed: int = 7, lateness: float = 0.0, **settings: Any
) -> tuple[Supervisor, SimulatedDispatchers, list[str]]:
    dispatchers = SimulatedDispatchers(seed, lateness=lateness)
    dispatchers.clock.advance_to(start_s)
    ran: list[str] = []
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Note)
    def note(trigger: Note, tx: Transaction) -> str:
        ran.append(trigger.name)
        tx[accounts].increment(trigger.name, balance=1)
        return trigger.name

    @system.on(Flaky, retry=Retry(1_000, backoff=10, backoff_max=10, jitter=0))
    def flaky(trigger: Flaky, tx: Transaction) -> int:
        ran.append("flaky")
        raise ValueError("always")

    @system.on(Plan)
    def plan(trigger: Plan, tx: Transaction) -> None:
        tx.submit(Note(name="planned"), delay=50, idempotency_key=trigger.key)

    return system, dispatchers, ran


journals = pytest.mark.parametrize("journaled", [False, True])


def backend_if(journaled: bool) -> MemoryBackend | None:
    return MemoryBackend() if journaled else None


@journals
def test_what_is_queued_is_taken_back_and_the_others_go_on(journaled: bool) -> None:
    system, _, ran = make(backend_if(journaled), max_in_flight=1)
    opened = asyncio.Event()

    @system.on(Linger)
    async def linger(trigger: Linger, tx: Transaction) -> str:
        await opened.wait()
        ran.append(trigger.name)
        return trigger.name

    with system:
        submissions = [system.submit(Linger(name=name)) for name in "abcde"]
        assert submissions[1].cancel()
        assert submissions[4].cancel()
        assert not submissions[0].cancel()
        for cancelled in (submissions[1], submissions[4]):
            with pytest.raises(Cancelled, match=r"Linger \(run .+\) was cancelled before it had a seq"):
                cancelled.result(60)
            assert (cancelled.state, cancelled.seq, cancelled.cancel()) == (State.CANCELLED, None, True)
        stats = system.stats()
        assert stats.state_counts == {State.QUEUED: 2, State.RUNNING: 1, State.CANCELLED: 2}
        opened.set()
        assert [submissions[number].result(60) for number in (0, 2, 3)] == ["a", "c", "d"]
        assert ran == ["a", "c", "d"]
        assert [record.seq for record in system.runs()] == [3, 2, 1]
        running: Any = system._running
        assert running.edge.accepted == running._path.sequencer.sequenced == 5
        system.verify()


@journals
def test_what_has_a_seq_or_has_ended_is_not_taken_back(journaled: bool) -> None:
    system, dispatchers, ran = make(backend_if(journaled))
    with system:
        submission = system.submit(Note())
        dispatchers.run_until(lambda: submission.seq is not None, 60)
        assert not submission.cancel()
        assert submission.result(60) == "x"
        assert not submission.cancel()
    assert ran == ["x"]
    assert not submission.cancel()


@journals
def test_what_waits_for_its_time_is_taken_back(journaled: bool) -> None:
    system, dispatchers, ran = make(backend_if(journaled), max_delayed=1)
    with system:
        delayed = system.submit(Note(), delay=5)
        assert delayed.cancel()
        assert system.stats().delayed == 0
        other = system.submit(Note(name="other"), delay=10)  # There is room for one.
        assert other.result(60) == "other"
        assert ran == ["other"]
        dispatchers.run_to_rest()


@journals
@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_a_delayed_trigger_that_becomes_due_meanwhile_ends_one_way(steps: int, journaled: bool) -> None:
    system, dispatchers, ran = make(backend_if(journaled), seed=steps)
    with system:
        submission = system.submit(Note(), delay=1)
        for _ in range(steps):
            dispatchers.step()
        if submission.cancel():
            with pytest.raises(Cancelled):
                submission.result(60)
            assert ran == []
        else:
            assert submission.result(60) == "x"
        counts = system.stats().state_counts
        assert sum(counts.values()) == 1


@journals
def test_a_delayed_trigger_whose_time_comes_while_it_is_taken_back_leaves_nothing_behind(journaled: bool) -> None:
    """The sequencer hears that it is cancelled before it hears that it may run."""
    taken_back = 0
    for seed in range(150):
        settings: Any = {"seed": seed, "lateness": 0.3, "restart_intensity": 0, "deadline": 1_000}
        system, dispatchers, ran = make(backend_if(journaled), **settings)
        with system:
            submission = system.submit(Note(name="late"), delay=1)
            for _ in range(seed % 20):
                dispatchers.step()
            is_cancelled = submission.cancel()
            taken_back += is_cancelled
            assert [each.result(60) for each in system.submit_many([Note(name="other")] * 3)] == ["other"] * 3
            assert submission.state is (State.CANCELLED if is_cancelled else State.COMMITTED)
            assert ("late" in ran) is not is_cancelled
            assert (system.stats().queued, system.stats().delayed) == (0, 0)
    assert 0 < taken_back < 150


@journals
@pytest.mark.parametrize("steps", range(0, 40, 2))
def test_a_retry_is_taken_back_while_it_waits_for_its_backoff_or_its_seq(steps: int, journaled: bool) -> None:
    system, dispatchers, ran = make(backend_if(journaled), seed=steps)
    with system:
        submission = system.submit(Flaky())
        dispatchers.run_until(lambda: submission.newest is not submission, 60)
        for _ in range(steps):
            dispatchers.step()
        before = len(ran)
        while not submission.cancel():
            dispatchers.step()
        with pytest.raises(Cancelled):
            submission.result(60)
        assert submission.state is State.CANCELLED
        counts = system.stats().state_counts
        assert counts == {State.RETRYING: len(ran), State.CANCELLED: 1}
        assert len(ran) >= before
        dispatchers.clock.advance_to(1_000)
        assert system.ask(Note()) == "x"
        assert system.stats().retries_waiting == 0


def test_a_cancelled_trigger_stays_cancelled_after_a_death() -> None:
    backend = MemoryBackend()
    system, dispatchers, _ = make(backend)
    system.start()
    accepted = system.submit(Note(name="accepted"), delay=5)
    accepted.accepted().get()
    fresh = system.submit(Note(name="fresh"), delay=5)
    kept = system.submit(Note(name="kept"), delay=5)
    kept.accepted().get()
    flaky = system.submit(Flaky())
    dispatchers.run_until(lambda: system.stats().durable_through == 1, 60)
    assert [each.cancel() for each in (accepted, fresh, flaky)] == [True, True, True]
    backend.close()  # The process dies here.
    again, dispatchers, ran = make(backend, start_s=100)
    with again:
        dispatchers.run_until(lambda: again.stats().durable_through == 2, 60)
        dispatchers.run_to_rest()
        assert ran == ["kept"]
        assert again.stats().delayed == again.stats().retries_waiting == 0
        again.verify()


def test_of_what_was_not_durable_yet_nothing_is_written() -> None:
    backend = MemoryBackend()
    system, _, _ = make(backend)
    with system:
        assert system.submit(Note(), delay=5).cancel()
        assert list(backend.entries(1, 10)) == []
        durable = system.submit(Note(), delay=5)
        durable.accepted().get()
        assert durable.cancel()
        assert [entry.kind for entry in backend.entries(1, 10)] == ["accepted", "ended"]


@pytest.mark.parametrize("late", [False, True])
def test_a_cancelled_child_of_a_commit_behind_the_checkpoint_does_not_come_back(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its terminal record is among the entries that the checkpoint stands for, the commit that submitted it is not."""
    backend = MemoryBackend()
    system, dispatchers, _ = make(backend)
    system.start()
    running: Any = system._running
    checkpoints = running.journal.checkpoints
    system.ask(Note())
    before = running.newest()
    if not late:
        system.ask(Plan(key="k"))
        assert system.submit(Note(name="planned"), idempotency_key="k").cancel()
    monkeypatch.setattr(checkpoints, "_durable", lambda: before)
    if late:
        checkpoints.take()
        system.ask(Plan(key="k"))
        assert system.submit(Note(name="planned"), idempotency_key="k").cancel()
    else:
        checkpoints.take()
    backend.close()  # The process dies here.
    again, dispatchers, ran = make(backend, start_s=100)
    with again:
        dispatchers.run_to_rest()
        assert ran == []
        assert again.stats().current_seq == 2


@journals
@pytest.mark.parametrize("dies", [False, True])
def test_cancel_frees_the_key(journaled: bool, dies: bool) -> None:
    backend = backend_if(journaled)
    system, _, ran = make(backend)
    system.start()
    first = system.submit(Note(name="first"), idempotency_key="k", delay=5)
    first.accepted().get()
    assert first.cancel()
    if dies and backend is not None:
        backend.close()
        system, _, ran = make(backend, start_s=100)
        system.start()
    second = system.submit(Note(name="second"), idempotency_key="k")
    assert second.result(60) == "second"
    assert system.submit(Note(name="second"), idempotency_key="k").result(60) == "second"
    assert ran == ["second"]
    system.stop()


def test_the_key_of_a_cancelled_retry_is_free_though_its_first_run_has_ended() -> None:
    backend = MemoryBackend()
    system, dispatchers, _ = make(backend)
    with system:
        submission = system.submit(Flaky(), idempotency_key="k")
        dispatchers.run_until(lambda: submission.newest is not submission, 60)
        assert submission.cancel()
        assert "k" not in [row.key for row in [*backend.keys()]]
    again, _, _ = make(backend, start_s=100)
    with again:
        assert again.submit(Note(name="other"), idempotency_key="k").result(60) == "other"


def test_a_batch_of_cancels_makes_room_for_who_was_refused() -> None:
    system, dispatchers, ran = make(max_queued=500)
    with system:
        submissions = [system.submit(Note(name=f"{number}")) for number in range(500)]
        cancelled = [submission.cancel() for submission in reversed(submissions)].count(True)
        assert cancelled > 5
        dispatchers.run_to_rest()
        more = [system.submit(Note(name=f"more {number}"), priority=Priority.HIGH) for number in range(500)]
        assert more[-1].result(60) == "more 499"
        assert len(ran) == 1_000 - cancelled
        assert system.stats().queued == 0


def test_cancel_works_inside_a_handler_and_from_many_threads() -> None:
    system = threaded(2, max_queued=10_000)
    gate = Gate()
    ran: list[str] = []

    @system.on(Note)
    def note(trigger: Note, tx: Transaction) -> str:
        if trigger.name == "gate":
            gate.pass_through()
        ran.append(trigger.name)
        return trigger.name

    cancelled: list[bool] = []
    later: list[Submission[str]] = []

    class Inside(Trigger[bool]):
        pass

    class InsideAsync(Trigger[bool]):
        pass

    @system.on(Inside)
    def inside(trigger: Inside, tx: Transaction) -> bool:
        return later[0].cancel()

    @system.on(InsideAsync)
    async def inside_async(trigger: InsideAsync, tx: Transaction) -> bool:
        return later[1].cancel()

    with system:
        later += system.submit_many([Note(name="later"), Note(name="later")], delay=60)
        gates = [system.submit(Note(name="gate")) for _ in range(2)]
        gate.await_arrivals(1)
        waiting = [system.submit(Note(name="waiting"), priority=Priority.LOW) for _ in range(400)]
        threads = [
            threading.Thread(target=lambda part=part: cancelled.extend(each.cancel() for each in part))  # type: ignore[misc]
            for part in (waiting[::2], waiting[::2])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        gate.open()
        assert [each.result(WAIT_S) for each in gates] == ["gate", "gate"]
        assert system.ask(Inside(), timeout=WAIT_S)
        assert system.ask(InsideAsync(), timeout=WAIT_S)
        states = [each.state for each in waiting[::2]]
        for each in waiting[1::2]:
            assert each.result(WAIT_S) == "waiting"
        assert cancelled.count(True) == 2 * states.count(State.CANCELLED)
        assert states.count(State.CANCELLED) > 100


def test_who_awaits_a_cancelled_trigger_is_told() -> None:
    system = threaded(2)

    @system.on(Note)
    def note(trigger: Note, tx: Transaction) -> str:
        return trigger.name

    async def cancel_and_await() -> None:
        submission = system.submit(Note(), delay=60)
        waiting = asyncio.ensure_future(_awaited(submission))
        await asyncio.sleep(0)
        assert submission.cancel()
        with pytest.raises(Cancelled):
            await asyncio.wait_for(waiting, WAIT_S)

    with system:
        asyncio.run(cancel_and_await())


async def _awaited(submission: Submission[str]) -> str:
    return await submission


def test_a_journal_that_fails_while_it_is_cancelled_says_that_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    system, _, _ = make(backend)
    system.start()
    submission = system.submit(Note(), delay=5)
    submission.accepted().get()

    def fail(group: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(backend, "append", fail)
    with pytest.raises(OutcomeUnknown):
        submission.cancel()
    with pytest.raises(OutcomeUnknown):
        submission.result(0)
    monkeypatch.undo()
    system.stop()


def test_an_accepted_trigger_that_is_cancelled_is_not_in_the_next_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", 1)
    backend = MemoryBackend()
    system, _, _ = make(backend)
    with system:
        submission = system.submit(Note(name="gone"), delay=5)
        submission.accepted().get()
        assert submission.cancel()
        system.ask(Note())
    again, dispatchers, ran = make(backend, start_s=100)
    with again:
        dispatchers.run_to_rest()
        assert ran == []
