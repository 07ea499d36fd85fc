"""Agents through crashes and restarts: of their own actors, of the core, of the process. No answer is asked for twice."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from pykka.messages import ProxyCall

from seqtor import (
    Collection,
    HandlerFailed,
    Record,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
)
from seqtor.actors.committer import Committer
from seqtor.actors.completion import CompletionAsyncRun, CompletionSyncRun
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.deferrals import DEFERRALS_MAX
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import ExecuteRun, GetStats, RunSequenced
from tests.programs import WAIT_S, simulated, threaded


class Number(Record):
    """What is in the store."""

    n: int = 0


class Add(Trigger[int]):
    """Adds one, at once."""


class Consult(Trigger[Any]):
    """Asks about what it sees, or (`decides`) about what it reads."""

    decides: bool = False


class World:
    """What is outside: it counts, and may keep whoever asks waiting."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def ask(self, question: int) -> int:
        self.made[current_call_id()] += 1
        self.asked.release()
        assert self.may_answer.wait(WAIT_S)
        return question * 10

    async def ask_async(self, question: int) -> int:
        self.made[current_call_id()] += 1
        await asyncio.sleep(1)
        return question * 10


def make(system: Supervisor, world: World, *, is_async: bool) -> Supervisor:
    numbers = system.store("numbers", Collection(Number, initial={"it": Number()}))

    @system.on(Add)
    def add(trigger: Add, tx: Transaction) -> int:
        n = tx[numbers]["it"].n + 1
        tx[numbers]["it"] = Number(n=n)
        return n

    def question(trigger: Consult, tx: Transaction) -> int:
        return (tx[numbers] if trigger.decides else tx.peek(numbers))["it"].n

    if is_async:

        @system.on(Consult, sequence="completion")
        async def consult_async(trigger: Consult, tx: Transaction) -> Any:
            answer = await tx.acall(world.ask_async, question(trigger, tx))
            return answer, tx[numbers]["it"].n, str(tx.uuid4()), tx.now.timestamp()
    else:

        @system.on(Consult, sequence="completion")
        def consult(trigger: Consult, tx: Transaction) -> Any:
            answer = tx.call(world.ask, question(trigger, tx))
            return answer, tx[numbers]["it"].n, str(tx.uuid4()), tx.now.timestamp()

    return system


def crash_at(monkeypatch: pytest.MonkeyPatch, kind: Any, message: type, times: int) -> list[int]:
    """Let the next actors of a kind crash at a message."""
    left = [times]
    original = kind._methods[message]

    def crashing(actor: Any, told: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("a defect of the runtime")
        original(actor, told)

    monkeypatch.setitem(kind._methods, message, crashing)
    return left


@pytest.mark.parametrize("world_of", [simulated, threaded])
@pytest.mark.parametrize("kind", [CompletionSyncRun, CompletionAsyncRun])
@pytest.mark.parametrize("times", [2, 3])
def test_a_run_actor_that_crashes_outside_is_made_again_and_the_third_crash_ends_the_run_with_a_seq(
    times: int, kind: Any, world_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = crash_at(monkeypatch, kind, ExecuteRun, times)
    with make(world_of(), World(), is_async=kind is CompletionAsyncRun) as system:
        submission = system.submit(Consult())
        if times == 2:
            assert submission.result(WAIT_S)[:2] == (0, 0)
        else:
            with pytest.raises(HandlerFailed, match="crashed 3 times"):
                submission.result(WAIT_S)
            assert system.verify().skipped == {"crashed": 1}
        assert (left, submission.seq, system.stats().restarts, system.stats().outside) == ([0], 1, times, 0)
        assert system.ask(Add(), timeout=WAIT_S) == 1


@pytest.mark.parametrize("actor", [Sequencer, Coordinator, Committer])
def test_on_threads_agents_go_on_after_a_crash_of_the_core_and_no_call_is_made_twice(
    actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.may_answer.clear()
    with make(threaded(restart_intensity=100), world, is_async=False) as system:
        agents = [system.submit(Consult()) for _ in range(5)]
        for _ in agents:
            assert world.asked.acquire(timeout=WAIT_S)
        crash_at(monkeypatch, actor, GetStats, 1)
        assert system.stats().restarts == 1
        assert system.ask(Add(), timeout=WAIT_S) == 1
        world.may_answer.set()
        assert [agent.result(WAIT_S)[:2] for agent in agents] == [(0, 1)] * 5
        assert sorted(agent.seq or 0 for agent in agents) == [2, 3, 4, 5, 6]
    assert list(world.made.values()) == [1] * 5


def crash_once_noting(monkeypatch: pytest.MonkeyPatch, ledger: Any) -> list[int]:
    """Let the coordinator crash when it hears of a seq; notes what has ended by then."""
    through: list[int] = []
    original = Coordinator._methods[RunSequenced]

    def crashing(actor: Any, message: Any) -> None:
        if not through:
            through.append(ledger.told.through)
            raise RuntimeError("a defect of the runtime")
        original(actor, message)

    monkeypatch.setitem(Coordinator._methods, RunSequenced, crashing)
    return through


def test_a_run_that_has_ended_before_the_coordinator_heard_of_its_seq_is_in_the_records_after_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = 0
    for seed in range(40):
        with monkeypatch.context() as patch, make(simulated(seed), World(), is_async=False) as system:
            submission = system.submit(Consult())
            ledger = system._running._path.ledger  # type: ignore[union-attr]
            crashed_at = crash_once_noting(patch, ledger)
            assert submission.result()[:2] == (0, 0)
            record = system.record(1)
            assert record is not None
            assert (record.state, record.id) == (State.COMMITTED, submission.id)
            assert system.stats().restarts == 1
            told += crashed_at[0]
    assert told, "it had never ended before: the test shows nothing"


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_that_a_stop_leaves_goes_on_after_the_next_start_with_what_it_was_answered(is_async: bool) -> None:
    backend, world = MemoryBackend(), World()
    system = make(simulated(1, journal=backend), world, is_async=is_async)
    system.start()
    submission = system.submit(Consult(decides=True), idempotency_key="it")
    dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]
    dispatchers.run_to_rest()
    if is_async:
        dispatchers.run_until(lambda: False, 0.5)
        system.ask(Add())
    run_id = submission.id
    system.stop(grace=0.0)
    with make(simulated(2, journal=backend), world, is_async=is_async) as again:
        goes_on = again.submit(Consult(decides=True), idempotency_key="it")
        assert goes_on.id == run_id
        assert goes_on.result()[1] == again.snapshot()[again.stores["numbers"]]["it"].n
        states = [record.state for record in again.commits() if record.run == run_id]
        assert states.count(State.COMMITTED) == 1
        assert again.submit(Consult(decides=True), idempotency_key="it").result() == goes_on.result()
    assert all(count <= 2 for count in world.made.values())


def test_how_often_it_was_deferred_counts_through_restarts() -> None:
    backend, world = MemoryBackend(), World()
    deferred: list[str] = []
    for life in range(DEFERRALS_MAX):
        system = live_until_sequenced(backend, world, life)[0]
        deferred = [record.run for record in system.commits() if record.state is State.DEFERRED]
        assert len(deferred) == life + 1
        system.stop(grace=0.0)
    system, submission = live_until_sequenced(backend, world, DEFERRALS_MAX)
    with pytest.raises(HandlerFailed, match="deferred 5 times"):
        submission.result()
    system.stop()
    assert set(deferred) == {submission.id}
    assert all(count <= 2 for count in world.made.values()), "once more only what was in flight at a stop"


def live_until_sequenced(backend: MemoryBackend, world: World, life: int) -> tuple[Supervisor, Submission[Any]]:
    """Start, hand in the agent under its key, change what it has asked about, and let it come back with a seq."""
    system = make(simulated(life, journal=backend), world, is_async=True)
    system.start()
    dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]
    submission = system.submit(Consult(decides=True), idempotency_key="it")
    dispatchers.run_to_rest()
    system.ask(Add())
    dispatchers.run_until(lambda: submission.seq is not None, 2.0)
    dispatchers.run_to_rest()
    return system, submission


def test_a_deferred_run_goes_on_after_a_death_that_left_nothing_but_its_record() -> None:
    backend, world = MemoryBackend(), World()
    system, submission = live_until_sequenced(backend, world, 0)
    assert system.stats().durable_through == 2
    backend.close()  # No stop and no checkpoint: the process is gone.
    dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]
    dispatchers.stop(0)
    with make(simulated(7, journal=backend), world, is_async=True) as again:
        goes_on = again.submit(Consult(decides=True), idempotency_key="it")
        assert goes_on.id == submission.id
        assert goes_on.result()[:2] == (10, 1)
        assert [record.state for record in again.commits() if record.run == submission.id] == [
            State.COMMITTED, State.DEFERRED,
        ]  # fmt: skip


def test_a_deferred_run_is_open_in_a_checkpoint_and_its_key_stays_bound() -> None:
    backend, world = MemoryBackend(), World()
    system, submission = live_until_sequenced(backend, world, 0)
    record = system.record(submission.seq)
    assert record is not None
    assert record.state is State.DEFERRED
    assert submission.state is State.RUNNING
    now = record.sequenced_at
    assert [row.seq for row in tuple(backend.keys())] == [None], "the key's run has not ended"
    system.stop(grace=0.0)  # Takes a checkpoint: what comes after reads nothing else.
    with make(simulated(6, journal=backend), world, is_async=True) as again:
        goes_on = again.submit(Consult(decides=True), idempotency_key="it")
        assert goes_on.id == submission.id
        answer, level, _, then = goes_on.result()
        assert (answer, level) == (10, 1)
        assert then == now, "tx.now is that of the first attempt, in another process"
        assert again.verify().skipped == {"deferred": 1}
    assert max(world.made.values()) <= 2


@pytest.mark.parametrize("crashes", [["core"], ["journal"], ["journal", "death"], ["core", "journal", "core"]])
def test_who_asks_again_under_the_key_of_an_earlier_process_gets_its_outcome_through_crashes(
    crashes: list[str],
) -> None:
    backend, world = MemoryBackend(), World()
    with make(simulated(1, journal=backend), world, is_async=True) as system:
        first = system.submit(Consult(decides=True), idempotency_key="it")
        outcome = first.result()
    system = make(simulated(2, journal=backend), world, is_async=True)
    system.start()
    running: Any = system._running
    journal = running.journal.ref
    with running._dispatchers.holding(journal.actor_inbox):
        again = system.submit(Consult(decides=True), idempotency_key="it")
        running._dispatchers.run_to_rest()
        assert not again.done
    for crash in crashes:
        if crash != "death":
            ref = running._path.coordinator_ref if crash == "core" else journal
            ref.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))
            running._dispatchers.run_until(lambda: False, 5.0)
    if "death" in crashes:
        backend.close()
        running._dispatchers.drop()
    else:
        assert tuple(again.result()) == outcome
        system.stop()
    with make(simulated(3, journal=backend), world, is_async=True) as last:
        last._running._dispatchers.run_until(lambda: False, 5.0)  # type: ignore[union-attr]
        assert last.submit(Consult(decides=True), idempotency_key="it").result() == list(outcome)
        assert [record.state for record in last.commits() if record.run == first.id] == [State.COMMITTED]
