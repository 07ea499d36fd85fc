"""A call and the attempts of its run: made once, joined by the next one, given up at the deadline."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    DeadlineExceeded,
    State,
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
)
from seqtor.actors.journal.memory import MemoryBackend
from tests.call_programs import Act, Held, Plain, acting, acting_async
from tests.programs import WAIT_S, Account, Gate, open_bank, simulated, threaded


def conflicting(system: Supervisor, call: Callable[[Transaction], Any]) -> tuple[Any, list[Any]]:
    """A plain handler whose first attempt reads what a lower seq then changes; the attempts' answers."""
    accounts = open_bank(system, alice=1)
    answers: list[Any] = []

    @system.on(Act, deadline=WAIT_S)
    def act(trigger: Act, tx: Transaction) -> Any:
        balance = tx[accounts]["alice"].balance
        answer = call(tx)
        answers.append((tx.attempt, answer))
        tx[accounts]["alice"] = Account(balance=balance + 1)
        return answer

    return accounts, answers


def test_an_attempt_that_was_abandoned_in_a_call_stops_there_and_the_next_gets_its_answer() -> None:
    system = threaded(3)
    below, in_call = Gate(), Gate()
    made: list[str] = []

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def outside() -> str:
        made.append(current_call_id())
        in_call.pass_through()
        return "answer"

    accounts, answers = conflicting(system, lambda tx: tx.call(outside))

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        first = system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        in_call.await_arrivals()
        below.open()
        first.result(WAIT_S)
        in_call.open()
        assert second.result(WAIT_S) == "answer"
        assert answers == [(2, "answer")], "the first attempt went no further"
        assert len(made) == 1
        assert system.snapshot(2)[accounts]["alice"].balance == 11


def test_an_attempt_that_is_over_before_its_call_starts_makes_none() -> None:
    backend = Held()
    system = Supervisor(backend, settings={"threads": 3})
    below, before_call = Gate(), Gate()
    made: list[int] = []

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def call(tx: Transaction) -> None:
        if tx.attempt == 1:
            before_call.pass_through()
        tx.call(made.append, tx.attempt)

    accounts, _ = conflicting(system, call)

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        before_call.await_arrivals()
        backend.may_write.clear()
        before_call.open()
        assert backend.arrived.acquire(timeout=WAIT_S)
        below.open()
        while system.stats().committed_through < 1:
            pass
        backend.may_write.set()
        second.result(WAIT_S)
    assert made == [2]


def test_every_attempt_gets_an_equal_answer_of_its_own() -> None:
    system = threaded(3)
    below, after_call = Gate(), Gate()
    seen: list[Any] = []

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def outside() -> dict[str, list[int]]:
        return {"list": [1]}

    def fails() -> None:
        raise Plain("no", 1)

    def call(tx: Transaction) -> str:
        answer = tx.call(outside)
        seen.append(json.dumps(answer))
        answer["list"].append(tx.attempt)
        with pytest.raises(Plain) as caught:
            tx.call(fails)
        seen.append((type(caught.value), caught.value.args))
        if tx.attempt == 1:
            after_call.pass_through()
        return "done"

    accounts, _ = conflicting(system, call)

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        first = system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        after_call.await_arrivals()
        below.open()
        first.result(WAIT_S)
        after_call.open()
        second.result(WAIT_S)
        assert system.record(2).attempts == 2
    assert seen == ['{"list": [1]}', (Plain, ("no", 1))] * 2


def test_a_call_that_hangs_is_joined_by_the_attempt_that_takes_over() -> None:
    system = threaded(4)
    below, in_call = Gate(), Gate()
    made: list[str] = []
    accounts = open_bank(system, alice=1)

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def outside() -> str:
        made.append(current_call_id())
        in_call.pass_through()
        return "answer"

    attempts: list[int] = []
    joining = threading.Event()

    @system.on(Act, deadline=0.2)
    def act(trigger: Act, tx: Transaction) -> str:
        attempts.append(tx.attempt)
        balance = tx[accounts]["alice"].balance
        if tx.attempt == 2:
            joining.set()
        answer = tx.call(outside)
        tx[accounts]["alice"] = Account(balance=balance + 1)
        return f"{answer} to attempt {tx.attempt}"

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        first = system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        in_call.await_arrivals()
        while system.stats().pending_commits == 0:  # Until the deadline of the first attempt has passed.
            pass
        below.open()
        first.result(WAIT_S)
        assert joining.wait(WAIT_S)
        in_call.open()
        assert second.result(WAIT_S) == "answer to attempt 2"
        assert attempts == [1, 2]
        assert len(made) == 1


def test_a_call_that_hangs_past_the_deadline_ends_the_run_and_its_late_answer_is_dropped() -> None:
    backend = MemoryBackend()
    in_call, over = Gate(), threading.Event()

    def outside() -> str:
        in_call.pass_through()
        return "late"

    def act(tx: Transaction) -> str:
        try:
            return tx.call(outside)
        finally:
            over.set()

    with acting(Supervisor(backend), act, deadline=0.05) as system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Act(), timeout=WAIT_S)
        in_call.open()
        assert over.wait(WAIT_S)
        assert system.record(1).state is State.DEADLINE
    backend.open(write=False)
    assert not [row for row in backend.entries(1, 99) if row.kind == "call" and '"call"' in row.body]


def test_a_coroutine_that_hangs_past_the_deadline_is_cancelled_with_its_run() -> None:
    cancelled: list[bool] = []

    async def outside() -> None:
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with acting_async(simulated(), lambda tx: tx.acall(outside), deadline=5) as system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Act())
        system.stats()
    assert cancelled == [True]


def test_an_invalidated_coroutine_does_not_cancel_its_call_and_the_next_attempt_joins_it() -> None:
    for seed in range(20):
        system = simulated(seed)
        accounts = open_bank(system, alice=1)
        made: list[str] = []
        attempts: list[int] = []
        finished: list[str] = []

        async def outside(made: list[str] = made, finished: list[str] = finished) -> str:
            made.append(current_call_id())
            await asyncio.sleep(100)
            finished.append("finished")
            return "answer"

        async def act(
            tx: Transaction, accounts: Any = accounts, attempts: Any = attempts, outside: Any = outside
        ) -> str:
            attempts.append(tx.attempt)
            balance = tx[accounts]["alice"].balance
            answer = await tx.acall(outside)
            tx[accounts]["alice"] = Account(balance=balance + 1)
            return str(answer)

        class Below(Trigger[None]):
            """Writes when the other is in its call."""

        @system.on(Below)
        async def write_below(trigger: Below, tx: Transaction, accounts: Any = accounts) -> None:
            await asyncio.sleep(1)
            tx[accounts]["alice"] = Account(balance=10)

        with acting_async(system, act, deadline=1e6):
            first, second = system.submit(Below()), system.submit(Act())
            first.result()
            assert second.result() == "answer"
            assert system.snapshot(2)[accounts]["alice"].balance == 11
        assert attempts == [1, 2]
        assert (len(made), finished) == (1, ["finished"])
