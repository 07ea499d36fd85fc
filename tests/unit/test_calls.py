"""`tx.call` and `tx.acall`: the two verbs, what a called function may do, and what a run has recorded besides."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
    current_transaction,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from tests.call_programs import Act, Acts, Client, acting, acting_async, cause_of, coroutine, plain
from tests.programs import WAIT_S, Account, Deposit, open_bank, simulated, threaded

# Verbs ----------------------------------------------------------------------------------------------------------------


def test_the_wrong_verb_names_the_right_one() -> None:
    client = Client()
    for function in (coroutine, client.fetch_async, functools.partial(coroutine, 1)):
        cause = cause_of(acting(simulated(), lambda tx, f=function: tx.call(f)))  # type: ignore[misc]
        assert type(cause) is TypeError
        assert "is a coroutine function, and tx.call calls plain ones" in str(cause)
        assert "await tx.acall" in str(cause)
    cause = cause_of(acting_async(simulated(), lambda tx: tx.acall(plain)))  # type: ignore[arg-type]
    assert type(cause) is TypeError
    assert "is a plain function, and tx.acall calls coroutine functions: use tx.call" in str(cause)
    cause = cause_of(acting(simulated(), lambda tx: tx.acall(coroutine)))
    assert type(cause) is TypeError
    assert "has to be awaited, which the plain handler of Act cannot" in str(cause)


def test_a_function_that_turns_out_to_make_coroutines_is_refused() -> None:
    def in_disguise() -> Any:
        return coroutine()

    cause = cause_of(acting(simulated(), lambda tx: tx.call(in_disguise)))
    assert type(cause) is TypeError
    assert "returned a coroutine instead of its answer" in str(cause)


def test_keywords_of_any_name_are_the_function_s() -> None:
    system = acting(simulated(), lambda tx: tx.call(plain, 1, function=2, self=3, args=4))
    with system:
        assert system.ask(Act()) == [[1], {"function": 2, "self": 3, "args": 4}]


def test_equal_calls_of_one_attempt_are_told_apart_by_their_number() -> None:
    def count() -> str:
        return current_call_id()

    system = acting(simulated(), lambda tx: [tx.call(count), tx.call(count), tx.call(functools.partial(count))])
    with system:
        ids = system.ask(Act())
        run = system.record(1).id
    assert [each.rpartition(":")[2] for each in ids] == ["1", "2", "3"]
    assert len({each.rpartition(":")[0] for each in ids}) == 1
    assert ids[0].startswith(f"{run}:{__name__}.")


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_plain_call_works_in_a_coroutine_function_too(make: Any) -> None:
    def both(tx: Transaction) -> Any:
        async def ask() -> Any:
            return [tx.call(plain, 1), await tx.acall(coroutine, 2)]

        return ask()

    for journal in (None, MemoryBackend()):
        system = make(**({"journal": journal} if make is simulated else {}))
        with acting_async(system, both) as system:
            assert system.ask(Act(), timeout=WAIT_S) == [[[1], {}], 2]


def test_several_calls_are_under_way_at_a_time() -> None:
    started: list[int] = []
    all_started = asyncio.Event()

    async def wait_for_all(number: int) -> int:
        started.append(number)
        if len(started) == 3:
            all_started.set()
        await all_started.wait()
        return number

    async def ask(tx: Transaction) -> Any:
        return await asyncio.gather(*(tx.acall(wait_for_all, number) for number in range(3)))

    with acting_async(simulated(), ask) as system:
        assert system.ask(Act()) == [0, 1, 2]


# Inside the function --------------------------------------------------------------------------------------------------


def test_there_is_no_current_call_outside_of_one() -> None:
    with pytest.raises(LookupError, match=r"current_call_id\(\) works inside a function that tx.call"):
        current_call_id()
    cause = cause_of(acting(simulated(), lambda tx: current_call_id()))
    assert type(cause) is LookupError


def look_inside(look: Callable[[], Any]) -> tuple[Acts, Acts]:
    def inside() -> Any:
        return look()

    async def inside_async() -> Any:
        await asyncio.sleep(0)
        return look()

    return lambda tx: tx.call(inside), lambda tx: tx.acall(inside_async)


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_called_function_is_outside_of_the_run_but_not_of_the_handler(make: Any) -> None:
    for register, place in ((acting, 0), (acting_async, 1)):
        system = make()
        looks = look_inside(lambda system=system: [said_by(current_transaction), said_by(lambda: system.ask(Act()))])  # type: ignore[misc]
        with register(system, looks[place]):
            no_transaction, would_deadlock = system.ask(Act(), timeout=WAIT_S)
        assert no_transaction.startswith("LookupError: there is no current transaction inside a function that tx.call")
        assert would_deadlock.startswith("WouldDeadlock: system.ask() inside the handler of Act")


def said_by(do: Callable[[], Any]) -> str:
    try:
        return f"nothing: {do()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_called_function_cannot_use_the_transaction(make: Any) -> None:
    """What it read or wrote would be missing in the next attempt, which does not call it again."""

    def uses(tx: Transaction, accounts: Any) -> list[Callable[[], Any]]:
        return [
            lambda: tx[accounts]["alice"],
            lambda: tx[accounts].increment("alice", balance=1),
            lambda: tx.peek(accounts),
            lambda: tx.random,
            tx.uuid4,
            lambda: tx.submit(Deposit()),
            lambda: tx.call(plain),
        ]

    for register, place in ((acting, 0), (acting_async, 1)):
        system = make()
        accounts = open_bank(system, alice=1)

        def act(tx: Transaction, accounts: Any = accounts, place: int = place) -> Any:
            _ = tx[accounts]["alice"]  # The view is there already.
            return look_inside(lambda: [said_by(use) for use in uses(tx, accounts)])[place](tx)

        with register(system, act):
            heard = system.ask(Act(), timeout=WAIT_S)
            assert system.snapshot(1)[accounts]["alice"] == Account(balance=1)
        assert len(heard) == 7
        for said in heard:
            assert said.startswith("SeqtorError: the transaction of seq 1 is used inside a function that tx.call"), said


def test_the_handler_itself_can_use_the_transaction_while_a_call_is_under_way() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)

    async def act(tx: Transaction) -> Any:
        called = asyncio.create_task(tx.acall(coroutine, 5))
        await asyncio.sleep(0)
        balance = tx[accounts]["alice"].balance
        await asyncio.sleep(0)
        tx[accounts]["alice"] = Account(balance=balance + await called)
        return tx[accounts]["alice"].balance

    with acting_async(system, act):
        assert system.ask(Act()) == 6


# Recorded inputs ------------------------------------------------------------------------------------------------------


def test_recorded_inputs_are_equal_in_every_attempt_and_after_a_restart_of_a_run_that_had_called() -> None:
    backend = MemoryBackend()
    seen: list[Any] = []
    made: list[str] = []
    lives = [0]

    class Below(Trigger[None]):
        """Changes what the other has read."""

    def outside(prompt: str) -> str:
        made.append(current_call_id())
        return prompt

    def begin(seed: int) -> tuple[Supervisor, SimulatedDispatchers]:
        dispatchers = SimulatedDispatchers(seed)
        dispatchers.clock.advance_to(1000.0 * seed)
        system = Supervisor(backend, dispatchers=lambda settings: dispatchers)
        accounts = open_bank(system, alice=1)

        @system.on(Act, deadline=1e6)
        async def act(trigger: Act, tx: Transaction) -> str:
            peeked = tx.peek(accounts)["alice"].balance
            seen.append((tx.now, tx.random.random(), tx.uuid4(), peeked))
            changed = tx.changed(accounts, "alice")
            answer = tx.call(outside, f"{tx.now} {peeked}")
            if lives[0] == 0:
                await asyncio.sleep(1e5)
            tx[accounts]["alice"] = Account(balance=100)
            return f"{answer} {changed}"

        @system.on(Below)
        async def write_below(trigger: Below, tx: Transaction) -> None:
            await asyncio.sleep(1)
            tx[accounts]["alice"] = Account(balance=2)

        return system, dispatchers

    system, dispatchers = begin(1)
    system.start()
    system.submit(Below())
    system.submit(Act(), idempotency_key="it")
    dispatchers.run_until(lambda: len(seen) == 2 and system.stats().durable_through == 1, None)
    backend.close()  # The process is gone, in the second attempt, which reads what the first one did not.
    dispatchers.stop(0)
    lives[0] = 1
    system, dispatchers = begin(7)
    with system:
        answer = system.submit(Act(), idempotency_key="it").result()
        assert seen[0][3] == 1
        assert answer == f"{seen[0][0]} 1 True"
        assert system.verify().executed == 2
    assert len(seen) >= 3
    assert len(set(seen)) == 1
    assert len(made) == 1
