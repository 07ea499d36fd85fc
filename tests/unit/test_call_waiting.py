"""Who waits for what around a call: it for the journal, its handler for it, and nobody at the stop."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from seqtor import (
    OutcomeUnknown,
    Supervisor,
    Transaction,
    current_call_id,
)
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.recovery import Recovery
from seqtor.messages import AcceptTriggers
from tests.call_programs import Act, Held, acting, acting_async, answers, starts
from tests.programs import WAIT_S, Deposit, Gate, open_bank


def test_a_call_starts_when_the_run_is_durable_and_its_answer_is_before_it_is_handed_out() -> None:
    backend = Held()
    calls, handed_out = threading.Semaphore(0), threading.Event()

    def outside() -> None:
        calls.release()
        backend.may_write.clear()

    def act(tx: Transaction) -> None:
        tx.call(outside)
        handed_out.set()

    with acting(Supervisor(backend), act) as system:
        backend.may_write.clear()
        submission = system.submit(Act())
        assert backend.arrived.acquire(timeout=WAIT_S)
        assert not calls.acquire(blocking=False), "neither run nor inputs are durable"
        backend.may_write.set()
        assert calls.acquire(timeout=WAIT_S)
        assert backend.arrived.acquire(timeout=WAIT_S)
        while not any(row.kind == "accepted" for row in backend.entries(1, 9)):
            assert backend.arrived.acquire(timeout=WAIT_S)
        assert not handed_out.is_set()
        backend.may_write.set()
        assert handed_out.wait(WAIT_S)
        submission.result(WAIT_S)


def test_a_call_starts_when_what_its_attempt_reads_is_durable() -> None:
    backend = Held()
    made = threading.Event()
    system = Supervisor(backend)
    accounts = open_bank(system)
    read = threading.Event()

    def act(tx: Transaction) -> Any:
        assert tx[accounts]["alice"].balance == 5
        assert tx.snapshot_seq == 1
        read.set()
        return tx.call(outside)

    def outside() -> int:
        made.set()
        return backend._reached.total

    with acting(system, act):
        backend.may_write.clear()
        deposit = system.submit(Deposit(amount=5))
        while system.stats().committed_through < 1:
            pass
        submission = system.submit(Act())
        assert read.wait(WAIT_S)
        assert not made.is_set(), "the deposit is visible, and not durable"
        backend.may_write.set()
        assert submission.result(WAIT_S) >= 1
        assert deposit.result(WAIT_S) == 5


@pytest.mark.parametrize("register", [acting, acting_async])
@pytest.mark.parametrize("when", [starts, answers])
def test_if_the_journal_fails_while_a_call_waits_the_outcome_is_unknown_and_the_run_goes_on_after_a_restart(
    when: Any, register: Any
) -> None:
    backend = Held()
    backend.fails_at = when
    made: list[str] = []
    heard: list[str] = []
    has_heard = threading.Event()

    def outside() -> int:
        made.append(current_call_id())
        return 5

    async def outside_async() -> int:
        return outside()

    def act(tx: Transaction) -> Any:
        try:
            return tx.call(outside)
        except OutcomeUnknown as unknown:
            heard.append(str(unknown))
            has_heard.set()
            raise

    async def act_async(tx: Transaction) -> Any:
        try:
            return await tx.acall(outside_async)
        except OutcomeUnknown as unknown:
            heard.append(str(unknown))
            has_heard.set()
            raise

    handler: Any = act if register is acting else act_async
    with register(Supervisor(backend), handler) as system:
        submission = system.submit(Act(), idempotency_key="one")
        with pytest.raises(OutcomeUnknown):
            submission.result(WAIT_S)
        assert has_heard.wait(WAIT_S)
    assert len(made) == (when is answers)
    backend.fails_at = lambda group: False
    # Accepted durably, if that was written before the group that failed; else it was not acknowledged either.
    goes_on = bool(list(Recovery(backend, backend.open(write=False)).open_accepted()))
    backend.close()
    assert goes_on or when is starts
    with register(Supervisor(backend), handler) as system:
        if goes_on:
            assert system.submit(Act(), idempotency_key="one").result(WAIT_S) == 5
            assert len(made) == 1 + (when is answers)
            assert len(set(made)) == 1
    assert len(heard) == 1
    assert "has no recorded answer: the journal failed, or the system was stopped" in heard[0]
    backend.open(write=False)
    states = [json.loads(row.body)["state"] for row in backend.commits(1, 9)]
    assert states == ["committed"] * goes_on, "the attempt that got no answer ended in no record"


@pytest.mark.parametrize("register", [acting, acting_async])
def test_if_the_runtime_breaks_down_in_a_call_the_run_ends_in_no_record_although_the_journal_could_take_it(
    register: Any,
) -> None:
    backend = MemoryBackend()
    gate = Gate()
    made: list[str] = []
    over = threading.Event()

    def outside() -> int:
        made.append(current_call_id())
        gate.pass_through()
        return 5

    async def outside_async() -> int:
        made.append(current_call_id())
        await asyncio.to_thread(gate.pass_through)
        return 5

    def act(tx: Transaction) -> Any:
        try:
            return tx.call(outside)
        finally:
            over.set()

    async def act_async(tx: Transaction) -> Any:
        try:
            return await tx.acall(outside_async)
        finally:
            over.set()

    handler: Any = act if register is acting else act_async
    with register(Supervisor(backend, settings={"restart_intensity": 0}), handler) as system:
        submission = system.submit(Act(), idempotency_key="one")
        gate.await_arrivals()
        broken: Any = None
        system._running.edge.inbox.put(AcceptTriggers(submissions=(broken,)))  # The sequencer crashes.
        with pytest.raises(OutcomeUnknown):
            submission.result(WAIT_S)
        gate.open()
        assert over.wait(WAIT_S)
    with register(Supervisor(backend), handler) as system:
        assert system.submit(Act(), idempotency_key="one").result(WAIT_S) == 5
    assert len(made) == 2
    assert made[0] == made[1]
    backend.open(write=False)
    assert [json.loads(row.body)["state"] for row in backend.commits(1, 9)] == ["committed"]


@pytest.mark.parametrize("register", [acting, acting_async])
def test_a_stop_leaves_no_call_waiting(register: Any) -> None:
    gate = Gate()
    heard: list[Any] = []
    over = threading.Event()

    def outside() -> int:
        gate.pass_through()
        return 5

    async def outside_async() -> int:
        await asyncio.to_thread(gate.pass_through)
        return 5

    def act(tx: Transaction) -> Any:
        try:
            return tx.call(outside)
        except BaseException as error:
            heard.append(error)
            raise
        finally:
            over.set()

    async def act_async(tx: Transaction) -> Any:
        try:
            return await tx.acall(outside_async)
        except BaseException as error:
            heard.append(error)
            raise
        finally:
            over.set()

    backend = MemoryBackend()
    system = register(Supervisor(backend), act if register is acting else act_async)
    with system:
        system.submit(Act())
        gate.await_arrivals()
        system.stop(grace=0)
        gate.open()
        assert over.wait(WAIT_S)
    assert type(heard[0]) in (OutcomeUnknown, asyncio.CancelledError)
    backend.open(write=False)
    assert list(backend.commits(1, 9)) == []
