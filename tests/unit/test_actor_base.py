"""What the base actor promises besides: the registry, unknown messages, batches, futures, run actors.

Everything runs on the simulated dispatcher and on two that have threads: no repair may depend on who runs the actor.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pykka
import pytest
from pykka import ActorRegistry
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from seqtor import Collection, Record, Supervisor, Transaction, Trigger
from seqtor.actors.base import Actor
from seqtor.actors.dispatchers import ThreadedDispatchers
from seqtor.actors.runs import SyncRun
from seqtor.messages.lifecycle import DeadLetter
from tests.fragile_actors import Add, Boom, Fragile, Raise, behind, held
from tests.stages import PATIENCE_S, STAGES, Stage, stage


@pytest.fixture(params=STAGES)
def here(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def nobody_left_in_the_registry() -> Iterator[None]:
    before = set(map(id, ActorRegistry.get_all()))
    yield
    for ref in ActorRegistry.get_all():
        if id(ref) not in before:
            ref.actor_stopped.set()
            ActorRegistry.unregister(ref)


# The registry --------------------------------------------------------------------------------------------------------


class CountingRef:
    """A registered reference that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingRef.compared += 1
        return self is other

    __hash__ = object.__hash__


def comparisons_to_leave(count: int) -> int:
    refs: list[Any] = [CountingRef() for _ in range(count)]
    for ref in refs:
        ActorRegistry.register(ref)
    CountingRef.compared = 0
    for ref in refs[count // 2 : count // 2 + 200]:
        ActorRegistry.unregister(ref)
    compared = CountingRef.compared
    for ref in refs:
        ActorRegistry.unregister(ref)
    return compared


def test_leaving_the_registry_costs_the_same_among_1_000_and_among_20_000_actors() -> None:
    assert comparisons_to_leave(1_000) == comparisons_to_leave(20_000) == 0


def test_the_registry_keeps_the_order_in_which_actors_were_started(here: Stage) -> None:
    refs = [here.start(Fragile) for _ in range(5)]
    refs.pop(2).stop()
    assert [ref for ref in ActorRegistry.get_all() if ref.actor_class is Fragile] == refs
    assert ActorRegistry.get_by_class(Fragile) == refs
    assert ActorRegistry.get_by_urn(refs[3].actor_urn) is refs[3]


# Messages that the actor does not know -------------------------------------------------------------------------------


def test_an_unknown_message_is_logged_and_a_dead_letter_and_nothing_crashes(
    here: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    ref = here.start(Fragile)
    ref.tell("what is this?")
    assert ref.ask(Add()) == 1, "the actor goes on"
    (letter,) = here.letters
    assert (letter.message, letter.reason) == ("what is this?", "the actor does not know this message")
    assert "Fragile" in letter.recipient
    assert f"Unexpected message received by {ref}: what is this?" in caplog.messages


def test_an_unknown_message_that_was_asked_is_answered(here: Stage) -> None:
    ref = here.start(Fragile)
    assert ref.ask("what is this?", timeout=PATIENCE_S) is None
    assert len(here.letters) == 1
    assert ref.is_alive()


@pytest.mark.parametrize(
    "message",
    [
        ProxyCall(attr_path=("nothing",), args=(), kwargs={}),
        ProxyCall(attr_path=("total", "nothing"), args=(), kwargs={}),
        ProxyGetAttr(attr_path=("nothing",)),
        ProxySetAttr(attr_path=("nothing", "more"), value=1),
    ],
    ids=["call", "nested call", "get", "set"],
)
def test_an_unknown_attribute_is_refused_and_nothing_crashes(
    here: Stage, message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ref = here.start(Fragile)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ref.ask(message)
    ref.tell(message)
    assert ref.ask(Add()) == 1
    assert [letter.message for letter in here.letters] == [message], "what nobody waits for is reported"
    assert any(line.startswith(f"Unexpected message received by {ref}") for line in caplog.messages)


def test_an_attribute_that_raises_is_a_crash(here: Stage) -> None:
    ref = here.start(Fragile)
    with pytest.raises(AttributeError, match="no_such_part"):
        ref.ask(ProxyGetAttr(attr_path=("unlucky",)))
    assert not ref.is_alive()


def test_a_class_that_promises_a_message_without_a_method_for_it_is_refused() -> None:
    with pytest.raises(AttributeError, match="on_add"):

        class Forgetful(Actor):
            receives = (Add,)


# Batches and dispatchers ---------------------------------------------------------------------------------------------


def test_an_actor_gives_the_thread_back_after_a_batch(here: Stage) -> None:
    class Batching(Fragile):
        batch_max = 10

        def __init__(self) -> None:
            super().__init__()
            self.sums: list[int] = []

        def on_batch_end(self) -> None:
            self.sums.append(self.total)

    ref = here.start(Batching)
    actor = behind(ref)
    hold = held(here, ref)
    for _ in range(95):
        ref.tell(Add())
    hold.go.set()
    assert ref.ask(Add()) == 96
    ref.stop()
    sums = [0, *actor.sums]
    assert all(later - earlier <= 10 for earlier, later in itertools.pairwise(sums))


def test_start_uses_the_dispatcher_that_the_class_names() -> None:
    with stage("simulated") as here:

        class Placed(Fragile):
            _dispatcher = here.dispatcher

        ref = Placed.start()
        ref.tell(Add())
        assert behind(ref).total == 0, "nothing runs before somebody waits"
        assert ref.ask(Add()) == 2


def test_on_start_runs_before_what_was_sent_while_the_actor_was_made(here: Stage) -> None:
    class TellsItself(Fragile):
        def __init__(self) -> None:
            super().__init__()
            self.tell_self(Add(10))

        def on_start(self) -> None:
            assert self.total == 0
            self.total = 1

    assert here.start(TellsItself).ask(Add(100)) == 111


# Futures -------------------------------------------------------------------------------------------------------------


async def wait_for(future: Any) -> Any:
    return await future


@pytest.mark.parametrize("where", ["elastic", "pool"])
def test_an_answer_can_be_awaited_without_blocking_the_loop(where: str) -> None:
    with stage(where) as here:
        ref = here.start(Fragile)
        hold = held(here, ref)

        async def ask() -> Any:
            asked = asyncio.ensure_future(wait_for(ref.ask(Add(), block=False)))
            for _ in range(10):
                await asyncio.sleep(0)
            hold.go.set()  # If the await held the loop, the actor would never go on.
            return await asked

        assert asyncio.run(ask()) == 1
        assert asyncio.run(wait_for(ref.ask(Add(), block=False))) == 2
        assert asyncio.run(wait_for(ref.stop(block=False))) is True


@pytest.mark.parametrize("where", ["elastic", "pool"])
def test_an_answer_that_comes_after_the_askers_loop_has_closed_harms_nobody(where: str) -> None:
    with stage(where) as here:
        ref = here.start(Fragile)
        hold = held(here, ref)
        future = ref.ask(Add(), block=False)

        async def give_up() -> None:
            waiting.append(asyncio.ensure_future(wait_for(future)))
            await asyncio.sleep(0)

        waiting: list[asyncio.Future[Any]] = []
        asyncio.run(give_up())
        assert waiting[0].cancelled()
        hold.go.set()
        assert future.get(timeout=PATIENCE_S) == 1
        assert ref.ask(Add(), timeout=PATIENCE_S) == 2


def test_a_time_out_of_an_ask_leaves_the_actor_alone(here: Stage) -> None:
    ref = here.start(Fragile)
    hold = held(here, ref)
    if here.dispatcher.driver is None:
        with pytest.raises(pykka.Timeout):
            ref.ask(Add(), timeout=0)
    hold.go.set()
    assert ref.ask(Add()) >= 1


# Run actors ----------------------------------------------------------------------------------------------------------


class Account(Record):
    balance: int = 0


class Deposit(Trigger[int]):
    amount: int


@pytest.fixture
def bank() -> Supervisor:
    system = Supervisor()
    accounts = system.store("accounts", Collection(Account))

    @system.on(Deposit)
    def deposit(trigger: Deposit, tx: Transaction) -> int:
        book = tx[accounts]
        book["alice"] = Account(balance=book.get("alice", Account()).balance + trigger.amount)
        return book["alice"].balance

    return system


def test_a_run_actor_that_crashes_executes_again_with_the_same_seq(
    bank: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    open_attempt = SyncRun._open

    def fails_once(run: SyncRun, attempt: int) -> Any:
        opened.append(run.seq)
        if len(opened) == 1:
            raise Boom("a defect of the run actor")
        return open_attempt(run, attempt)

    monkeypatch.setattr(SyncRun, "_open", fails_once)
    with bank:
        assert bank.ask(Deposit(amount=5), timeout=PATIENCE_S) == 5
        assert bank.ask(Deposit(amount=2), timeout=PATIENCE_S) == 7
        assert opened == [1, 1, 2]


def test_the_threads_of_a_real_system_outlive_crashing_actors() -> None:
    dispatchers = ThreadedDispatchers(threads=2, name="crashing")
    dispatchers.start(lambda: 0)
    letters: list[DeadLetter] = []
    for dispatcher in (dispatchers.core, dispatchers.pool, dispatchers.loop):
        dispatcher.dead_letter = letters.append
    for dispatcher in (dispatchers.core, dispatchers.pool, dispatchers.loop, dispatchers.dedicated("medium")):
        for _ in range(10):
            with pytest.raises(SystemExit):
                Fragile.start_on(dispatcher).ask(Raise(SystemExit(3)), timeout=PATIENCE_S)
        assert Fragile.start_on(dispatcher).ask(Add(), timeout=PATIENCE_S) == 1
    assert dispatchers.stop(PATIENCE_S) == []
