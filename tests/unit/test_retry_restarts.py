"""Retries in the journal: kept with the record that ends the run before, through stops, deaths and compaction."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from seqtor import Collection, HandlerFailed, NotRunning, Retry, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal import actor
from seqtor.actors.journal.memory import MemoryBackend
from tests.programs import Account

LONG_S = 10_000.0
BACKOFF_S = 10.0


class Flaky(Trigger[int]):
    """Fails while the state says so: as long as `gate` is closed."""

    name: str = "x"


class Open(Trigger[None]):
    """Opens the gate."""


def make(backend: MemoryBackend, retry: Retry | None, executed: list[str], start_s: float = 0.0) -> Supervisor:
    """A system on a journal; its clock begins `start_s` after that of the first."""

    def dispatchers(_: Any) -> SimulatedDispatchers:
        made = SimulatedDispatchers(7)
        made.clock.advance_to(start_s)
        return made

    system = Supervisor(backend, dispatchers=dispatchers)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Flaky, retry=retry)
    def flaky(trigger: Flaky, tx: Transaction) -> int:
        executed.append(f"{trigger.name} at {tx.now.timestamp() - 1_700_000_000:g}")
        if "gate" not in tx[accounts]:
            raise LookupError(f"{trigger.name} finds the gate closed")
        tx[accounts].increment(trigger.name, balance=1)
        return tx.seq

    @system.on(Open)
    def open_gate(trigger: Open, tx: Transaction) -> None:
        tx[accounts]["gate"] = Account()

    return system


def world_of(system: Supervisor) -> SimulatedDispatchers:
    running: Any = system._running
    dispatchers: SimulatedDispatchers = running._dispatchers
    return dispatchers


STEADY = Retry(4, backoff=BACKOFF_S, jitter=0.0)


def leave(system: Supervisor, backend: MemoryBackend, *, dies: bool) -> None:
    """The process ends: in order, or by dying."""
    if dies:
        backend.close()
    else:
        system.stop()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(("start_s", "runs_at"), [(4.0, 10.0), (30.0, 30.0), (-5.0, 10.0)])
def test_a_retry_that_waited_runs_after_the_restart_when_it_was_due(
    dies: bool, start_s: float, runs_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, executed = MemoryBackend(), list[str]()
    system = make(backend, STEADY, executed).start()
    submission = system.submit(Flaky())
    world_of(system).run_to_rest()
    assert submission.state is State.QUEUED
    system.ask(Open())
    clock = world_of(system).clock
    leave(system, backend, dies=dies)
    assert clock.time() == 1_700_000_000, "with a journal a stop does not wait for it"
    with make(backend, STEADY, executed, start_s) as system:
        world_of(system).run_until(lambda: len(executed) == 2, LONG_S)
        world_of(system).run_to_rest()
        assert executed == ["x at 0", f"x at {runs_at:g}"]
        first, retry = system.record(1), system.record(3)
        assert (first.state, first.retried_as) == (State.RETRYING, retry.id)
        assert (retry.state, retry.retry_of, retry.run_number) == (State.COMMITTED, first.id, 2)
        assert retry.submitted_at == first.submitted_at
        assert {record.id for record in system.runs()} >= {first.id, retry.id}
        assert system.verify().executed == len(system.runs())


def test_runs_are_counted_through_restarts() -> None:
    backend, executed = MemoryBackend(), list[str]()
    for life in range(3):
        system = make(backend, STEADY, executed, life * 100.0).start()
        if not life:
            system.submit(Flaky(), idempotency_key="k")
        else:
            world_of(system).run_until(lambda count=life: len(executed) > count, LONG_S)  # type: ignore[misc]
        world_of(system).run_to_rest()
        system.stop()
    with make(backend, STEADY, executed, 300.0) as system:
        with pytest.raises(HandlerFailed, match="Flaky at seq 4 failed"):
            system.submit(Flaky(), idempotency_key="k").result(LONG_S)
        assert [record.state for record in system.runs()] == [State.FAILED] + [State.RETRYING] * 3
        assert [record.run_number for record in system.runs()] == [4, 3, 2, 1]
        (letter,) = system.dead_letters()
        assert (letter.seq, letter.attempts) == (4, 4)
    with make(backend, STEADY, executed, 400.0) as system:
        again = system.submit(Flaky(), idempotency_key="k")
        with pytest.raises(HandlerFailed, match="Flaky at seq 4 failed"):
            again.result(LONG_S)
        assert len(executed) == 4, "a key gets the last run's outcome, and runs nothing"


def test_a_retry_whose_policy_is_gone_runs_once_more_and_then_fails() -> None:
    backend, executed = MemoryBackend(), list[str]()
    system = make(backend, STEADY, executed).start()
    system.submit(Flaky())
    world_of(system).run_to_rest()
    system.stop()
    with make(backend, None, executed, 100.0) as system:
        world_of(system).run_to_rest()
        assert [record.state for record in system.runs()] == [State.FAILED, State.RETRYING]


def test_a_key_binds_to_the_retry_after_a_restart_too() -> None:
    backend, executed = MemoryBackend(), list[str]()
    system = make(backend, STEADY, executed).start()
    system.submit(Flaky(), idempotency_key="k")
    world_of(system).run_to_rest()
    backend.close()
    with make(backend, STEADY, executed) as system:
        submission = system.submit(Flaky(), idempotency_key="k")
        assert submission.state is State.QUEUED
        system.ask(Open())
        assert submission.result(LONG_S) == 3
        assert len(executed) == 2
    with make(backend, STEADY, executed) as system:
        assert system.submit(Flaky(), idempotency_key="k").result(LONG_S) == 3
        assert len(executed) == 2


def test_a_clock_that_was_set_back_makes_nobody_wait_longer_than_the_policy_lets() -> None:
    backend, executed = MemoryBackend(), list[str]()
    policy = Retry(4, backoff=BACKOFF_S, backoff_max=15.0, jitter=0.0)
    system = make(backend, policy, executed, 5000.0).start()
    system.submit(Flaky())
    world_of(system).run_to_rest()
    system.stop()
    with make(backend, policy, executed) as system:
        world_of(system).run_until(lambda: len(executed) == 2, LONG_S)
        assert world_of(system).clock.monotonic() == 15.0


@pytest.mark.parametrize("checkpoint_bytes", [1, 1 << 20])
def test_a_retry_survives_checkpoints_between_its_runs(checkpoint_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", checkpoint_bytes)
    backend, executed = MemoryBackend(), list[str]()
    system = make(backend, STEADY, executed).start()
    system.submit(Flaky())
    world_of(system).run_to_rest()
    for _ in range(5):
        system.ask(Open())
    backend.close()
    for life in range(2):  # The second finds it in the checkpoint that the first made at its start or stop.
        system = make(backend, STEADY, executed, life * 2.0).start()
        system.ask(Open())
        assert system.stats().retries_waiting == 1
        leave(system, backend, dies=bool(life))
    with make(backend, STEADY, executed, 50.0) as system:
        world_of(system).run_to_rest()
        assert [record.run_number for record in system.runs(trigger=Flaky)] == [2, 1]
        assert system.runs(trigger=Flaky)[0].state is State.COMMITTED


def test_who_waits_at_a_stop_is_told() -> None:
    backend, executed = MemoryBackend(), list[str]()
    system = make(backend, STEADY, executed).start()
    submission = system.submit(Flaky())
    world_of(system).run_to_rest()
    system.stop(grace=60)
    with pytest.raises(NotRunning):
        submission.result()


def test_a_journal_that_holds_retries_is_verified() -> None:
    backend, executed = MemoryBackend(), list[str]()
    with make(backend, Retry(2, backoff=0.0), executed) as system:
        with pytest.raises(HandlerFailed):
            system.ask(Flaky(), timeout=LONG_S)
        report = system.verify()
        assert (report.executed, dict(report.skipped)) == (2, {})
        (first, second) = system.commits(oldest_first=True)
        assert first.retry is not None
        assert (first.retry.run, first.retry.due) == (second.run, first.ended_at)
        assert report.chain == backend._commits[-1].chain.hex()


class Agent(Trigger[None]):
    """Takes long, outside of the order."""


class Twice(Trigger[None]):
    """Fails at once, and takes its time when it is tried again."""


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("coalesce", [None, lambda _: "all"])
def test_a_trigger_whose_retry_is_under_way_is_not_accepted_once_more(
    coalesce: Any, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of many that were accepted before it are written meanwhile; then its own turn comes."""
    monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", 1)
    backend, executed = MemoryBackend(), list[int]()

    def made() -> Supervisor:
        system = Supervisor(backend, dispatchers=lambda _: SimulatedDispatchers(7))

        @system.on(Agent, sequence="completion")
        async def agent(trigger: Agent, tx: Transaction) -> None:
            await asyncio.sleep(100)

        @system.on(Twice, retry=Retry(2, backoff=0.0), coalesce=coalesce)
        async def twice(trigger: Twice, tx: Transaction) -> None:
            executed.append(tx.seq)
            if len(executed) == 1:
                raise LookupError("not yet")
            await asyncio.sleep(1)

        return system

    system = made().start()
    system.submit_many([*[Agent()] * 100, *[Twice()] * (1 if coalesce is None else 2)])
    world_of(system).run_for(0.5 if dies else 200)
    assert len(executed) == 2
    leave(system, backend, dies=dies)
    with made() as system:
        world_of(system).run_for(200)
        states = [record.state for record in system.commits(oldest_first=True) if record.trigger.type == "Twice"]
        assert states == [State.RETRYING, State.COMMITTED]
        assert system.stats().committed_through == 102
