"""Handing triggers in: what is taken, what is refused and why, and how a handler's failure comes back."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from seqtor import (
    Collection,
    HandlerFailed,
    NotRunning,
    Overloaded,
    Priority,
    RegistrationError,
    Rejected,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    UnknownTrigger,
)
from tests.ids import shown
from tests.programs import WAIT_S, Account, Deposit, Gate, Transfer, open_bank, simulated, threaded

# What is refused --------------------------------------------------------------------------------------------------


class Unheard(Trigger[None]):
    """A trigger that nobody handles."""


def test_a_trigger_without_a_handler_is_refused_with_both_ways_to_give_it_one() -> None:
    with simulated() as system:
        with pytest.raises(UnknownTrigger, match=r"@system.on\(Unheard\), or give the class a method execute"):
            system.submit(Unheard())
        assert system.stats().current_seq == 0


def test_a_trigger_with_a_misspelt_name_gets_a_suggestion() -> None:
    class Depositt(Trigger[int]):
        pass

    system = simulated()
    open_bank(system)
    with system, pytest.raises(UnknownTrigger, match="did you mean 'Deposit'"):
        system.submit(Depositt())


def test_a_subclass_of_a_registered_type_needs_a_handler_of_its_own() -> None:
    class LargeDeposit(Deposit):
        pass

    system = simulated()
    open_bank(system)
    with system, pytest.raises(UnknownTrigger, match="no handler is registered for LargeDeposit"):
        system.submit(LargeDeposit())


@pytest.mark.parametrize("given", [Deposit, None, 3, "Deposit", {"account": "alice"}, Account()])
@pytest.mark.parametrize("verb", ["submit", "tell", "ask"])
def test_what_is_no_trigger_is_refused(verb: str, given: Any) -> None:
    system = simulated()
    open_bank(system)
    with system, pytest.raises(UnknownTrigger, match="a trigger is an instance of a Trigger subclass, got"):
        getattr(system, verb)(given)


def test_a_class_in_place_of_a_trigger_is_told_to_be_called() -> None:
    given: Any = Deposit
    with simulated() as system, pytest.raises(UnknownTrigger, match=r"pass an instance, Deposit\(\.\.\.\)"):
        system.submit(given)


VERBS: dict[str, Callable[[Supervisor], object]] = {
    "submit": lambda system: system.submit(Deposit()),
    "submit_many": lambda system: system.submit_many([Deposit()]),
    "tell": lambda system: system.tell(Deposit()),
    "ask": lambda system: system.ask(Deposit(), timeout=1),
}


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_taken_before_the_start(verb: str) -> None:
    system = simulated()
    open_bank(system)
    with pytest.raises(NotRunning, match=r"'seqtor' is not started: with system: \.\.\. or system.start\(\)"):
        VERBS[verb](system)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_taken_after_the_stop(verb: str) -> None:
    system = simulated()
    open_bank(system)
    with system:
        system.ask(Deposit())
    with pytest.raises(NotRunning, match="stopped"):
        VERBS[verb](system)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_taken_after_a_stop_without_a_start(verb: str) -> None:
    system = simulated()
    open_bank(system)
    system.stop()
    with pytest.raises(NotRunning, match="stopped"):
        VERBS[verb](system)


def test_there_is_nothing_to_ask_before_the_start() -> None:
    system = simulated()
    for query in (system.stats, system.conflicts, system.snapshot, lambda: system.record(1)):
        with pytest.raises(NotRunning, match="is not started"):
            query()


class Carries(Trigger[None]):
    """A trigger whose field says nothing about what it holds."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    held: Any = None


class Loose(BaseModel):
    """A model that can be changed in place."""

    x: int = 0


def carrier() -> Supervisor:
    system = simulated()

    @system.on(Carries)
    def carry(trigger: Carries, tx: Transaction) -> None: ...

    return system


@pytest.mark.parametrize("held", [[1], {"a": 1}, {1}, Loose(), bytearray(b"x"), (1, [2]), object(), threading.Lock()])
@pytest.mark.parametrize("verb", ["submit", "tell", "ask"])
def test_a_payload_that_turns_out_to_be_mutable_is_refused_at_submit(verb: str, held: Any) -> None:
    with carrier() as system:
        with pytest.raises(
            TypeError, match=r"a trigger is immutable, but Carries.held.* can be changed in place: use "
        ):
            getattr(system, verb)(Carries(held=held))
        assert system.stats().current_seq == 0


def test_a_payload_that_cannot_be_serialised_is_refused_at_submit() -> None:
    with carrier() as system:
        with pytest.raises(TypeError, match=r"Carries.held is a type that cannot be serialised .*: use plain values"):
            system.submit(Carries(held=int))
        assert system.stats().current_seq == 0


@pytest.mark.parametrize(
    "held", [1, "a", None, (1, ("b", 2.5)), frozenset({1}), Account(balance=1), b"\xff", float("inf")]
)
def test_a_payload_that_turns_out_to_be_immutable_is_taken(held: Any) -> None:
    with carrier() as system:
        assert system.ask(Carries(held=held)) is None


def test_a_batch_is_taken_as_a_whole_or_not_at_all() -> None:
    with carrier() as system:
        with pytest.raises(TypeError, match=r"Carries.held"):
            system.submit_many([Carries(held=1), Carries(held=[2]), Carries(held=3)])
        with pytest.raises(UnknownTrigger):
            system.submit_many([Carries(held=1), Unheard()])
        assert system.stats().queued == system.stats().current_seq == 0


@pytest.mark.parametrize("priority", ["high", 9, None.__class__])
def test_a_priority_that_is_none_is_refused_at_submit(priority: Any) -> None:
    system = simulated()
    open_bank(system)
    with system, pytest.raises(TypeError, match=r"priority must be one of Priority.URGENT"):
        system.submit(Deposit(), priority=priority)


# The bounded queue ------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    system = simulated(settings={"max_queued": 3})
    open_bank(system)
    with system:
        taken = system.submit_many([Deposit(), Deposit(), Deposit()])
        with pytest.raises(Overloaded, match=r"3 triggers wait for a seq and max_queued is 3, so 1 more") as caught:
            system.submit(Deposit())
        assert 0 < caught.value.retry_after <= 60
        assert caught.value.code == "overloaded"
        assert [submission.result() for submission in taken] == [1, 2, 3]
        assert system.ask(Deposit()) == 4
        assert system.stats().current_seq == 4


def test_a_batch_that_does_not_fit_is_refused_as_a_whole() -> None:
    system = simulated(settings={"max_queued": 3})
    open_bank(system)
    with system:
        system.tell(Deposit())
        with pytest.raises(Overloaded, match="so 3 more were not taken"):
            system.submit_many([Deposit()] * 3)
        assert len(system.submit_many([Deposit()] * 2)) == 2
    assert system.stats().current_seq == 3


def submit_until_refused(system: Supervisor, taken: list[Submission[None]]) -> None:
    while len(taken) < 100:
        taken.append(system.submit(Carries()))


def test_a_queue_that_is_full_because_handlers_hang_refuses_at_once_and_recovers() -> None:
    gate = Gate()
    system = threaded(threads=2, max_queued=5)

    @system.on(Carries)
    def carry(trigger: Carries, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        taken = [system.submit(Carries())]
        gate.await_arrivals()
        with pytest.raises(Overloaded) as caught:
            submit_until_refused(system, taken)
        assert caught.value.retry_after > 0
        assert len(taken) < 100
        gate.open()
        for submission in taken:
            submission.result(WAIT_S)
        system.ask(Carries(), timeout=WAIT_S)


# What is taken ----------------------------------------------------------------------------------------------------


def test_a_batch_is_sequenced_in_its_order() -> None:
    system = simulated(seed=5)
    open_bank(system)
    with system:
        submissions = system.submit_many(Deposit(amount=amount) for amount in range(1, 51))
        assert [submission.result() for submission in submissions] == [n * (n + 1) // 2 for n in range(1, 51)]
        assert [submission.seq for submission in submissions] == list(range(1, 51))
        assert system.submit_many([]) == []


def test_tell_forgets_and_the_work_is_done_all_the_same() -> None:
    system = simulated()
    accounts = open_bank(system)
    with system:
        answer: Any = system.tell(Deposit(amount=3))  # type: ignore[func-returns-value]
        assert answer is None
    assert system.snapshot()[accounts]["alice"].balance == 3


def test_fifty_increments_from_many_threads_give_fifty_and_every_seq_once() -> None:
    system = threaded()
    accounts = open_bank(system)
    seqs: list[int | None] = []
    ready = threading.Barrier(5)

    def deposit() -> None:
        ready.wait(WAIT_S)
        for _ in range(10):
            submission = system.submit(Deposit())
            submission.result(WAIT_S)
            seqs.append(submission.seq)

    with system:
        threads = [threading.Thread(target=deposit) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert system.snapshot()[accounts]["alice"].balance == 50
    assert sorted(seq or 0 for seq in seqs) == list(range(1, 51))


def test_ask_that_times_out_leaves_the_run_running() -> None:
    gate = Gate()
    system = threaded()

    @system.on(Carries)
    def carry(trigger: Carries, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        with pytest.raises(TimeoutError, match=r"Carries \(seq .*\) has not ended within 0.0 s; it goes on"):
            system.ask(Carries(), timeout=0.0)
        gate.await_arrivals()
        assert system.stats().in_flight == 1
        gate.open()
    assert system.stats().state_counts == {State.COMMITTED: 1}


# How handlers fail ------------------------------------------------------------------------------------------------


class Act(Trigger[Any]):
    """Does what the test says."""

    what: int = 0


def acting(*acts: Callable[[Transaction], Any], system: Supervisor | None = None) -> Any:
    """A started system whose n-th act writes to its store and then does the n-th thing."""
    system = system or simulated()
    notes = system.store("notes", Collection(Account))

    @system.on(Act)
    def act(trigger: Act, tx: Transaction) -> Any:
        tx[notes]["written"] = Account(balance=1)
        return acts[trigger.what](tx)

    return system, notes


def raising(error: BaseException) -> Callable[[Transaction], Any]:
    def raise_it(tx: Transaction) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()]
)
@pytest.mark.parametrize("make", [simulated, threaded])
def test_whatever_a_handler_raises_fails_its_run_and_no_other(make: Any, error: BaseException) -> None:
    system, notes = acting(raising(error), lambda tx: "fine", system=make())
    with system:
        submission = system.submit(Act(what=0))
        with pytest.raises(HandlerFailed, match=r"Act at seq 1 failed in attempt 1: .*; nothing was written") as caught:
            submission.result(WAIT_S)
        assert caught.value.__cause__ is error
        assert (caught.value.trigger, caught.value.seq, caught.value.attempts) == ("Act", 1, 1)
        assert dict(system.snapshot()[notes]) == {}
        assert system.record(1).state is State.FAILED
        assert system.ask(Act(what=1), timeout=WAIT_S) == "fine"


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_whatever_an_async_handler_raises_fails_its_run_and_no_other(make: Any, error: BaseException) -> None:
    system = make()

    @system.on(Act)
    async def act(trigger: Act, tx: Transaction) -> str:
        await asyncio.sleep(0)
        if trigger.what == 0:
            raise error
        return "fine"

    with system:
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Act(what=0), timeout=WAIT_S)
        assert caught.value.__cause__ is error
        assert system.ask(Act(what=1), timeout=WAIT_S) == "fine"


def test_a_rejection_comes_back_with_its_details_and_writes_nothing() -> None:
    system = simulated()
    accounts = open_bank(system, alice=3)
    with system:
        submission = system.submit(Transfer(source="alice", target="bob", amount=5))
        with pytest.raises(Rejected, match=r"insufficient funds \(balance=3\)") as caught:
            submission.result()
        assert caught.value.details == {"balance": 3}
        assert submission.state is State.REJECTED
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=3)}


def test_a_rejection_may_carry_a_code_and_be_a_class_of_its_own() -> None:
    class Short(Rejected):
        code = "short"

        def __init__(self, missing: int) -> None:
            super().__init__(f"{missing} missing", missing=missing)

    system, _ = acting(raising(Short(2)), raising(Rejected("no", "not_now")))
    with system:
        with pytest.raises(Short, match="2 missing") as short:
            system.ask(Act(what=0))
        assert (short.value.code, short.value.details) == ("short", {"missing": 2})
        with pytest.raises(Rejected) as rejected:
            system.ask(Act(what=1))
        assert (rejected.value.code, Rejected.code) == ("not_now", "rejected")


@pytest.mark.parametrize(
    "result", [object(), int, threading.Lock(), lambda: 1, {"a": object()}, [print], range(3)], ids=shown
)
def test_a_result_that_cannot_be_serialised_fails_the_run_and_the_cause_says_so(result: Any) -> None:
    system, notes = acting(lambda tx: result)
    with system:
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Act())
        assert isinstance(caught.value.__cause__, TypeError)
        assert "the result of Act is a" in str(caught.value.__cause__)
        assert "cannot be serialised" in str(caught.value.__cause__)
        assert "use plain values" in str(caught.value.__cause__)
        assert dict(system.snapshot()[notes]) == {}
        assert system.record(1).error == f"TypeError: {caught.value.__cause__}"


def test_a_result_that_refers_to_itself_fails_the_run() -> None:
    loop: list[Any] = []
    loop.append(loop)
    system, _ = acting(lambda tx: loop)
    with system, pytest.raises(HandlerFailed, match="cannot be serialised"):
        system.ask(Act())


@pytest.mark.parametrize(
    "generates", [lambda tx: (n for n in (1, 2)), lambda tx: iter([1, 2]), lambda tx: map(str, [1])]
)
def test_a_result_that_can_be_read_only_once_fails_the_run(generates: Any) -> None:
    system, _ = acting(generates)
    with system, pytest.raises(HandlerFailed, match=r"the result of Act is a .*: return a list or a tuple"):
        system.ask(Act())


def test_a_view_is_no_result() -> None:
    system = simulated()
    accounts = open_bank(system)

    @system.on(Act)
    def act(trigger: Act, tx: Transaction) -> Any:
        return tx[accounts]

    with system, pytest.raises(HandlerFailed, match="the result of Act is a CollectionView that cannot be serialised"):
        system.ask(Act())


@pytest.mark.parametrize(
    "result", [1, "a", None, 2.5, b"\xff", [1, {"a": (2,)}], Account(balance=1), float("nan"), {1, 2}]
)
def test_a_result_is_any_value_that_pydantic_can_serialise(result: Any) -> None:
    system, _ = acting(lambda tx: result)
    with system:
        assert system.ask(Act()) is result


async def a_coroutine() -> int:
    return 1


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_plain_function_that_returns_a_coroutine_fails_and_is_told_to_be_async(make: Any) -> None:
    system, notes = acting(lambda tx: a_coroutine(), system=make())
    with system:
        with pytest.raises(
            HandlerFailed, match="returned a coroutine instead of its result: declare it with async def"
        ):
            system.ask(Act(), timeout=WAIT_S)
        assert dict(system.snapshot()[notes]) == {}


# Which handler it is ----------------------------------------------------------------------------------------------


class Shout(Trigger[str]):
    """Carries its own work."""

    text: str
    priority = Priority.HIGH

    def execute(self, tx: Transaction) -> str:
        return f"{self.text.upper()}{tx.seq}"


class ShoutLater(Trigger[str]):
    """Carries its own work, as a coroutine."""

    text: str

    async def execute(self, tx: Transaction) -> str:
        await asyncio.sleep(0.001)
        return f"{self.text.upper()}{tx.seq}"


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_trigger_may_carry_its_own_execute(make: Any) -> None:
    with make() as system:
        assert system.ask(Shout(text="a"), timeout=WAIT_S) == "A1"
        assert system.ask(ShoutLater(text="b"), timeout=WAIT_S) == "B2"
        assert [s.result(WAIT_S) for s in system.submit_many([Shout(text="c"), Shout(text="d")])] == ["C3", "D4"]


def test_a_registered_handler_goes_before_execute() -> None:
    system = simulated()

    @system.on(Shout)
    def whisper(trigger: Shout, tx: Transaction) -> str:
        return trigger.text.lower()

    with system:
        assert system.ask(Shout(text="A")) == "a"


def test_many_threads_may_bring_the_same_new_type_first() -> None:
    ready = threading.Barrier(4)
    answers: list[str] = []

    with threaded() as system:

        def shout() -> None:
            ready.wait(WAIT_S)
            answers.append(system.ask(Shout(text="a"), timeout=WAIT_S))

        threads = [threading.Thread(target=shout) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert sorted(answers) == ["A1", "A2", "A3", "A4"]


def test_an_execute_of_a_wrong_shape_is_refused_at_submit() -> None:
    class NoTx(Trigger[None]):
        def execute(self) -> None: ...

    class Yields(Trigger[None]):
        def execute(self, tx: Transaction) -> Any:
            yield 1

    class HoldsList(Trigger[None]):
        tags: list[str] = []  # noqa: RUF012

        def execute(self, tx: Transaction) -> None: ...

    with simulated() as system:
        with pytest.raises(RegistrationError, match=r"NoTx.execute takes \(self\).*called with \(trigger, tx\)"):
            system.submit(NoTx())
        with pytest.raises(RegistrationError, match=r"Yields.execute is a generator"):
            system.submit(Yields())
        with pytest.raises(RegistrationError, match=r"HoldsList.tags is a list.* use tuple\[X, \.\.\.\]"):
            system.submit(HoldsList())
        assert system.stats().current_seq == 0


def decorated_async(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(trigger: Any, tx: Transaction) -> Any:
        await asyncio.sleep(0)
        return function(trigger, tx)

    return wrapper


def decorated_plain(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(trigger: Any, tx: Transaction) -> Any:
        return function(trigger, tx)

    return wrapper


class AsyncObject:
    """An object as handler."""

    async def __call__(self, trigger: Act, tx: Transaction) -> int:
        await asyncio.sleep(0)
        return trigger.what


async def answer_async(trigger: Act, tx: Transaction) -> int:
    await asyncio.sleep(0)
    return trigger.what


async def answer_with(extra: int, trigger: Act, tx: Transaction) -> int:
    await asyncio.sleep(0)
    return trigger.what


def answer(trigger: Act, tx: Transaction) -> int:
    return trigger.what


@pytest.mark.parametrize(
    "handler",
    [
        answer,
        answer_async,
        AsyncObject(),
        functools.partial(answer_with, 1),
        decorated_async(answer),
        decorated_plain(answer_async),
        decorated_plain(answer),
    ],
)
@pytest.mark.parametrize("make", [simulated, threaded])
def test_handlers_are_functions_coroutine_functions_and_whatever_wraps_them(make: Any, handler: Any) -> None:
    system = make()
    system.on(Act)(handler)
    with system:
        assert system.ask(Act(what=7), timeout=WAIT_S) == 7
