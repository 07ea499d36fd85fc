"""What a handler must not do raises at once and says what to do instead; nothing it does deadlocks the system."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    Collection,
    DeadlineExceeded,
    HandlerFailed,
    SeqtorError,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    UseTransaction,
    WouldDeadlock,
    current_transaction,
)
from tests.programs import WAIT_S, Account, Deposit, open_bank, simulated, threaded


class Act(Trigger[Any]):
    """Does what the test says."""

    what: int = 0


def acting(system: Supervisor, *acts: Callable[[Transaction], Any]) -> Supervisor:
    """Register a plain handler."""

    @system.on(Act, deadline=WAIT_S)
    def act(trigger: Act, tx: Transaction) -> Any:
        return acts[trigger.what](tx)

    return system


def acting_async(system: Supervisor, *acts: Callable[[Transaction], Any]) -> Supervisor:
    """Register a coroutine function as handler, which awaits what it gets."""

    @system.on(Act, deadline=WAIT_S)
    async def act(trigger: Act, tx: Transaction) -> Any:
        await asyncio.sleep(0)
        result = acts[trigger.what](tx)
        return await result if asyncio.iscoroutine(result) else result

    return system


VERBS: dict[str, tuple[type[SeqtorError], Callable[[Supervisor], Any], str]] = {
    "submit": (UseTransaction, lambda system: system.submit(Deposit()), "tx.submit"),
    "submit_many": (UseTransaction, lambda system: system.submit_many([Deposit()]), "tx.submit"),
    "tell": (UseTransaction, lambda system: system.tell(Deposit()), "tx.submit"),
    "ask": (WouldDeadlock, lambda system: system.ask(Deposit()), "tx.submit"),
    "stop": (WouldDeadlock, lambda system: system.stop(), "stop the system from outside"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("register", [acting, acting_async])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_the_system_s_verbs_are_refused_inside_a_handler(make: Any, register: Any, verb: str) -> None:
    kind, call, instead = VERBS[verb]
    system = make()
    open_bank(system)
    register(system, lambda tx: call(system))
    with system:
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Act(), timeout=WAIT_S)
        cause = caught.value.__cause__
        assert type(cause) is kind
        assert str(cause).startswith(f"system.{verb}() inside the handler of Act (seq 1): ")
        assert instead in str(cause)
        assert system.stats().current_seq == 1, "nothing was handed in"
        assert system.ask(Deposit(), timeout=WAIT_S) == 1, "the system goes on"


@pytest.mark.parametrize("register", [acting, acting_async])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_handler_may_not_wait_for_another_run(make: Any, register: Any) -> None:
    system = make()
    open_bank(system)
    later: list[Submission[int]] = []
    handed_in = threading.Event()

    def wait_for_it(tx: Transaction) -> Any:
        assert make is simulated or handed_in.wait(WAIT_S)
        return later[0].result()

    register(system, wait_for_it)
    with system:
        waiting = system.submit(Act())
        later.append(system.submit(Deposit()))
        handed_in.set()
        # The other run has a higher seq: it cannot end before this one does, which is what waiting would wait for.
        with pytest.raises(HandlerFailed) as caught:
            waiting.result(WAIT_S)
        assert type(caught.value.__cause__) is WouldDeadlock
        assert "Submission.result() inside the handler of Act (seq 1)" in str(caught.value.__cause__)
        assert "tx.submit releases it together with the commit" in str(caught.value.__cause__)
        assert later[0].result(WAIT_S) == 1


@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_async_handler_may_not_await_another_run(make: Any) -> None:
    system = make()
    open_bank(system)
    later: list[Submission[int]] = []
    handed_in = threading.Event()

    async def await_it(tx: Transaction) -> int:
        assert make is simulated or handed_in.wait(WAIT_S)
        return await later[0]

    acting_async(system, await_it)
    with system:
        waiting = system.submit(Act())
        later.append(system.submit(Deposit()))
        handed_in.set()
        with pytest.raises(HandlerFailed, match=r"await submission inside the handler of Act \(seq 1\)") as caught:
            waiting.result(WAIT_S)
        assert type(caught.value.__cause__) is WouldDeadlock
        assert later[0].result(WAIT_S) == 1


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_handler_is_refused_the_result_of_another_run_even_if_it_has_ended(make: Any) -> None:
    """What it would read is not tracked, so whether it has ended would decide what the handler does."""
    system = make()
    open_bank(system)
    ended: list[Submission[int]] = []
    acting(system, lambda tx: ended[0].result(), lambda tx: ended[0].state)
    with system:
        ended.append(system.submit(Deposit(amount=5)))
        ended[0].result(WAIT_S)
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Act(what=0), timeout=WAIT_S)
        assert isinstance(caught.value.__cause__, WouldDeadlock)
        assert system.ask(Act(what=1), timeout=WAIT_S) == State.COMMITTED


@pytest.mark.parametrize("verb", VERBS)
def test_execute_is_a_handler_too(verb: str) -> None:
    system = simulated()
    kind, call, _ = VERBS[verb]

    class Own(Trigger[Any]):
        def execute(self, tx: Transaction) -> Any:
            return call(system)

    open_bank(system)
    with system, pytest.raises(HandlerFailed) as caught:
        system.ask(Own())
    assert type(caught.value.__cause__) is kind


def test_a_helper_thread_that_carries_the_handler_s_context_is_inside_the_handler() -> None:
    system = threaded()
    open_bank(system)

    def in_copied_context(tx: Transaction) -> Any:
        errors: list[BaseException] = []

        def helper() -> None:
            try:
                system.ask(Deposit())
            except SeqtorError as error:
                errors.append(error)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(helper,))
        thread.start()
        thread.join(WAIT_S)
        return type(errors[0]).__name__

    acting(system, in_copied_context)
    with system:
        assert system.ask(Act(), timeout=WAIT_S) == "WouldDeadlock"


def test_tasks_and_to_thread_of_an_async_handler_are_inside_the_handler() -> None:
    system = threaded()
    open_bank(system)

    async def ask() -> str:
        try:
            system.ask(Deposit())
        except SeqtorError as error:
            return type(error).__name__
        return "no error"

    async def from_elsewhere(tx: Transaction) -> list[str]:
        task = asyncio.create_task(ask())
        return [await task, await asyncio.to_thread(lambda: asyncio.run(ask()))]

    acting_async(system, from_elsewhere)
    with system:
        assert system.ask(Act(), timeout=WAIT_S) == ["WouldDeadlock", "WouldDeadlock"]


@pytest.mark.parametrize("register", [acting, acting_async])
def test_another_system_may_be_used_inside_a_handler(register: Any) -> None:
    system, other = threaded(), threaded()
    accounts = open_bank(other)

    def use_other(tx: Transaction) -> int:
        other.tell(Deposit())
        return other.ask(Deposit(), timeout=WAIT_S) + other.submit(Deposit()).result(WAIT_S)

    register(system, use_other)
    with system, other:
        assert system.ask(Act(), timeout=WAIT_S) == 5
    assert other.snapshot()[accounts]["alice"].balance == 3


# Threads and tasks that a handler leaves behind -------------------------------------------------------------------


@pytest.mark.parametrize("register", [acting, acting_async])
def test_a_thread_started_in_a_handler_may_submit_but_not_use_the_transaction_after_the_end(register: Any) -> None:
    system = threaded()
    accounts = open_bank(system)
    may_go_on = threading.Event()
    heard: list[Any] = []
    started: list[threading.Thread] = []

    def leave_a_thread(tx: Transaction) -> str:
        book = tx[accounts]

        def later() -> None:
            assert may_go_on.wait(WAIT_S)
            for use in (lambda: book["alice"], lambda: tx[accounts], lambda: book.__setitem__("alice", Account())):
                try:
                    use()
                except SeqtorError as error:
                    heard.append(str(error))
            heard.append(system.ask(Deposit(), timeout=WAIT_S))

        started.append(threading.Thread(target=later))
        started[0].start()
        return "left"

    register(system, leave_a_thread)
    with system:
        assert system.ask(Act(), timeout=WAIT_S) == "left"
        may_go_on.set()
        started[0].join(WAIT_S)
        ended = "the transaction of seq 1, attempt 1 has ended: use tx only inside its handler"
        assert heard == [ended, ended, ended, 1]


def test_a_task_that_outlives_its_handler_is_outside_of_it() -> None:
    system = threaded()
    open_bank(system)
    go_on = threading.Event()
    heard: list[Any] = []
    done = threading.Event()

    async def leave_a_task(tx: Transaction) -> str:
        async def later() -> None:
            await asyncio.to_thread(go_on.wait, WAIT_S)
            try:
                current_transaction().now  # noqa: B018
            except SeqtorError as error:
                heard.append(type(error).__name__)
            heard.append(await system.submit(Deposit()))
            done.set()

        tasks.append(asyncio.create_task(later()))
        return "left"

    tasks: list[asyncio.Task[None]] = []
    acting_async(system, leave_a_task)
    with system:
        assert system.ask(Act(), timeout=WAIT_S) == "left"
        go_on.set()
        assert done.wait(WAIT_S)
    assert heard == ["SeqtorError", 1]


def test_a_handler_that_waits_for_a_thread_that_waits_for_a_run_ends_at_its_deadline() -> None:
    system = threaded(threads=2)
    open_bank(system)
    answers: list[int] = []
    asked = threading.Event()

    @system.on(Act, deadline=0.05)
    def act(trigger: Act, tx: Transaction) -> None:
        def ask() -> None:
            answers.append(system.ask(Deposit(), timeout=WAIT_S))
            asked.set()

        threading.Thread(target=ask).start()
        assert asked.wait(WAIT_S)

    with system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Act(), timeout=WAIT_S)
        assert asked.wait(WAIT_S)
    assert answers == [1]


def test_an_invariant_that_waits_for_a_run_ends_its_run_at_the_deadline() -> None:
    system = threaded(threads=2)
    open_bank(system)

    def asks(book: Any) -> bool:
        return not book or system.ask(Deposit(), timeout=WAIT_S) > 0

    others = system.store("others", Collection(Account, invariants=[asks]))

    @system.on(Act, deadline=0.05)
    def act(trigger: Act, tx: Transaction) -> None:
        tx[others]["x"] = Account()

    with system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Act(), timeout=WAIT_S)
        assert system.ask(Deposit(), timeout=WAIT_S) >= 1


# The current transaction ------------------------------------------------------------------------------------------


def deep_inside() -> Transaction:
    return current_transaction()


@pytest.mark.parametrize("register", [acting, acting_async])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_the_current_transaction_is_the_handler_s(make: Any, register: Any) -> None:
    system = register(make(), lambda tx: (deep_inside() is tx, tx.seq))
    with system:
        for seq, submission in enumerate(system.submit_many([Act()] * 20), 1):
            assert submission.result(WAIT_S) == (True, seq)
    with pytest.raises(
        LookupError, match=r"there is no current transaction: current_transaction\(\) works inside a handler"
    ):
        current_transaction()


@pytest.mark.parametrize("make", [simulated, threaded])
def test_handlers_that_take_turns_on_one_loop_keep_their_own_transaction(make: Any) -> None:
    async def take_turns(tx: Transaction) -> bool:
        same = []
        for _ in range(5):
            await asyncio.sleep(0)
            same.append(current_transaction() is tx)
        task = asyncio.create_task(in_a_task())
        return all(same) and await task is tx

    async def in_a_task() -> Transaction:
        await asyncio.sleep(0)
        return current_transaction()

    system = acting_async(make(), take_turns)
    with system:
        assert all(submission.result(WAIT_S) for submission in system.submit_many([Act()] * 20))


def test_there_is_no_current_transaction_between_handlers_or_in_a_thread_of_its_own() -> None:
    system = threaded()
    found: list[object] = []

    def in_a_thread(tx: Transaction) -> None:
        def look() -> None:
            try:
                found.append(current_transaction())
            except LookupError:
                found.append(None)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(WAIT_S)

    acting(system, in_a_thread)
    with system:
        system.ask(Act(), timeout=WAIT_S)
    assert found == [None]
