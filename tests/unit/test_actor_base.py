"""What the base actor repairs of pykka's behaviour on failure, and what else it promises.

Everything runs on the simulated dispatcher and on two that have threads: no repair may depend on who runs the actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from seqtor import Collection, Record, Supervisor, Transaction, Trigger
from seqtor.actors.base import Actor, Ref
from seqtor.actors.dispatchers import ThreadedDispatchers
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.invariants import InvariantBroken, require
from seqtor.actors.runs import SyncRun
from seqtor.messages.lifecycle import ActorCrashed, ActorStarted, ActorStopped, DeadLetter
from tests.stages import PATIENCE_S, STAGES, Stage, stage


class Boom(Exception):
    """The failure that these tests cause."""


class Raise:
    """Told or asked: raises the error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Hold:
    """Told: keeps the actor busy until `go`; `begun` is set when it is."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()


class Add:
    """Adds to the actor's sum and answers it."""

    def __init__(self, amount: int = 1) -> None:
        self.amount = amount


class Fragile(Actor):
    """Does what it is told, and notes which hooks are called."""

    receives: ClassVar[tuple[type, ...]] = (Raise, Hold, Add)

    def __init__(self, *, on_start: BaseException | None = None, on_stop: BaseException | None = None) -> None:
        super().__init__()
        self.total = 0
        self.failures: list[BaseException | None] = []
        self.failed = threading.Event()
        self.stopped = threading.Event()
        self._raise_on_start = on_start
        self._raise_on_stop = on_stop

    def on_raise(self, message: Raise) -> None:
        self.total += 1
        raise message.error

    def on_hold(self, message: Hold) -> None:
        message.begun.set()
        message.go.wait(PATIENCE_S)

    def on_add(self, message: Add) -> int:
        self.total += message.amount
        return self.total

    def on_start(self) -> None:
        if self._raise_on_start is not None:
            raise self._raise_on_start

    def on_stop(self) -> None:
        self.stopped.set()
        if self._raise_on_stop is not None:
            raise self._raise_on_stop

    def on_failure(self, exception_type: Any, exception_value: BaseException | None, traceback: Any) -> None:
        self.failures.append(exception_value)
        self.failed.set()

    @property
    def unlucky(self) -> int:
        return self.no_such_part  # type: ignore[attr-defined,no-any-return]


class Parent(Actor):
    """Hears of crashes."""

    receives: ClassVar[tuple[type, ...]] = (ActorCrashed,)

    def __init__(self) -> None:
        super().__init__()
        self.crashes: list[ActorCrashed] = []
        self.heard = threading.Event()

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        self.crashes.append(message)
        self.heard.set()


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


def behind(ref: Ref) -> Any:
    """The actor itself; a test looks at it when it is at rest."""
    actor = ref._actor_weakref()
    assert actor is not None
    return actor


def held(here: Stage, ref: Ref) -> Hold:
    """Make what is sent from now on queue up behind one message; simulated actors run only when somebody waits."""
    hold = Hold()
    if here.dispatcher.driver is not None:
        hold.go.set()
    ref.tell(hold)
    if here.dispatcher.driver is None:
        here.wait_for(hold.begun)
    return hold


# An exception in an ask ----------------------------------------------------------------------------------------------


def test_an_exception_in_an_ask_reaches_the_asker_and_ends_the_actor(here: Stage) -> None:
    ref = here.start(Fragile)
    actor = behind(ref)
    error = Boom("half changed")
    with pytest.raises(Boom, match="half changed") as caught:
        ref.ask(Raise(error))
    assert caught.value is error
    assert not ref.is_alive(), "whoever has the exception must find the actor dead"
    here.wait_for(actor.failed)
    assert actor.failures == [error]
    assert not actor.stopped.is_set(), "a crash is not an ordered stop"


def test_nothing_is_handled_after_an_exception_in_an_ask(here: Stage) -> None:
    ref = here.start(Fragile)
    actor = behind(ref)
    with pytest.raises(Boom):
        ref.ask(Raise(Boom()))
    with pytest.raises(ActorDeadError):
        ref.ask(Add())
    with pytest.raises(ActorDeadError):
        ref.tell(Add())
    assert actor.total == 1


def test_an_exception_in_a_proxy_call_ends_the_actor_too(here: Stage) -> None:
    ref = here.start(Fragile)
    with pytest.raises(Boom):
        ref.proxy().on_raise(Raise(Boom())).get()
    assert not ref.is_alive()


def test_a_broken_invariant_crashes_the_actor_even_in_an_ask(here: Stage) -> None:
    class Counting(Fragile):
        receives = (Add,)

        def on_add(self, message: Add) -> int:
            require(message.amount > 0, "sums only grow", amount=message.amount)
            return super().on_add(message)

    ref = here.start(Counting)
    actor = behind(ref)
    assert ref.ask(Add(2)) == 2
    with pytest.raises(InvariantBroken, match=r"sums only grow \(amount=-1\)"):
        ref.ask(Add(-1))
    assert not ref.is_alive()
    here.wait_for(actor.failed)
    assert isinstance(actor.failures[0], InvariantBroken)


# on_start ------------------------------------------------------------------------------------------------------------


def test_a_raising_on_start_calls_on_failure(here: Stage) -> None:
    error = Boom("no configuration")
    made: list[Fragile] = []

    class Noted(Fragile):
        def __init__(self) -> None:
            super().__init__(on_start=error)
            made.append(self)

    ref = here.start(Noted)
    here.wait_for(made[0].failed)
    assert made[0].failures == [error]
    assert not ref.is_alive()
    assert ActorRegistry.get_by_urn(ref.actor_urn) is None


def test_what_was_sent_before_a_raising_on_start_is_answered_or_reported(here: Stage) -> None:
    release = threading.Event()
    if here.dispatcher.driver is not None:
        release.set()

    class FailsLater(Fragile):
        def on_start(self) -> None:
            release.wait(PATIENCE_S)
            raise Boom

    parent = here.start(Parent)
    ref = here.start(FailsLater, parent=parent.actor_inbox)
    told = Add()
    ref.tell(told)
    answer = ref.ask(Add(), block=False)
    release.set()
    with pytest.raises(ActorDeadError):
        answer.get(timeout=PATIENCE_S)
    here.wait_for(behind(parent).heard)
    assert [letter.message for letter in here.letters] == [told]


# Messages behind the end ---------------------------------------------------------------------------------------------


def test_what_is_queued_behind_a_crash_is_answered_or_becomes_a_dead_letter(here: Stage) -> None:
    parent = here.start(Parent)
    ref = here.start(Fragile, parent=parent.actor_inbox)
    urn, hold = ref.actor_urn, held(here, ref)
    ref.tell(Raise(Boom()))
    told = Add(1), Add(2)
    ref.tell(told[0])
    answer = ref.ask(Add(), block=False)
    stopping = ref.stop(block=False)
    ref.tell(told[1])
    hold.go.set()
    with pytest.raises(ActorDeadError, match="crashed before handling the message"):
        answer.get(timeout=PATIENCE_S)
    assert stopping.get(timeout=PATIENCE_S) is True, "a stop that waited behind the crash has what it wants"
    here.wait_for(behind(parent).heard)
    assert [letter.message for letter in here.letters] == list(told)
    assert all("Fragile" in letter.recipient and "crashed" in letter.reason for letter in here.letters)
    (crash,) = behind(parent).crashes
    assert (crash.actor, crash.urn, type(crash.error), crash.undelivered) == ("Fragile", urn, Boom, 2)


def test_what_is_queued_behind_a_stop_is_answered_or_becomes_a_dead_letter(here: Stage) -> None:
    ref = here.start(Fragile)
    actor = behind(ref)
    hold = held(here, ref)
    stopping = ref.stop(block=False)
    told = Add()
    ref.tell(told)
    answer = ref.ask(Add(), block=False)
    hold.go.set()
    with pytest.raises(ActorDeadError, match="stopped before handling the message"):
        answer.get(timeout=PATIENCE_S)
    assert stopping.get(timeout=PATIENCE_S) is True
    assert [letter.message for letter in here.letters] == [told]
    assert (actor.total, actor.failures) == (0, [])


def test_an_ordered_stop_tells_the_parent_nothing(here: Stage) -> None:
    parent = here.start(Parent)
    boss = behind(parent)
    ref = here.start(Fragile, parent=parent.actor_inbox)
    assert ref.stop() is True
    assert parent.stop() is True  # Behind whatever the end of the child has sent.
    assert not here.letters
    assert boss.crashes == []


@pytest.mark.parametrize("where", ["elastic", "pool"])
@pytest.mark.parametrize("ending", ["stop", "crash", "closed by its owner"])
def test_an_ask_that_races_the_end_is_always_answered(where: str, ending: str) -> None:
    askers, rounds = 4, 150
    with stage(where) as here, ThreadPoolExecutor(askers + 1) as threads:

        def ask_often(ref: Ref, together: threading.Barrier) -> list[Any]:
            together.wait()
            return [ref.ask(Add(), block=False) for _ in range(10)]

        def end(ref: Ref, together: threading.Barrier) -> None:
            together.wait()
            if ending == "stop":
                ref.stop(block=False)
            elif ending == "crash":
                ref.ask(Raise(Boom()), block=False)
            else:
                ref.actor_inbox.close("has ended")  # type: ignore[attr-defined]

        for _ in range(rounds):
            together = threading.Barrier(askers + 1)
            ref = here.start(Fragile)
            asked = [threads.submit(ask_often, ref, together) for _ in range(askers)]
            threads.submit(end, ref, together).result()
            for futures in asked:
                for future in futures.result():
                    with contextlib.suppress(ActorDeadError):
                        assert future.get(timeout=PATIENCE_S) > 0
            ref.actor_stopped.set()


class Query:
    """Told, with the future for its answer inside: what passes through several actors."""

    def __init__(self) -> None:
        self.reply_to = ReplyFuture()


@pytest.mark.parametrize("enveloped", [False, True], ids=["to the mailbox", "to the ref"])
def test_a_query_that_carries_its_own_future_is_answered_when_the_actor_crashes(here: Stage, enveloped: bool) -> None:
    class Asked(Fragile):
        receives = (Query, Hold)

        def on_query(self, message: Query) -> None:
            raise Boom

    ref = here.start(Asked)
    hold = held(here, ref)
    first, behind_it = Query(), Query()
    for query in (first, behind_it):
        query.reply_to.driver = here.dispatcher.driver
        (ref if enveloped else ref.actor_inbox).tell(query)
    hold.go.set()
    with pytest.raises(Boom):
        first.reply_to.get(timeout=PATIENCE_S)
    with pytest.raises(ActorDeadError):
        behind_it.reply_to.get(timeout=PATIENCE_S)


def test_an_asker_that_filled_its_future_itself_harms_nobody(here: Stage) -> None:
    class Impatient(Fragile):
        receives = (Add, Raise, Hold)

    other, ref = here.start(Fragile), here.start(Impatient)
    hold = held(here, ref)
    for message in (Add(), Raise(Boom()), Add()):  # An answer, an exception, and one that is behind the end.
        ref.ask(message, block=False).set("I waited long enough")
    actor = behind(ref)
    hold.go.set()
    here.wait_for(actor.failed)
    assert not ref.is_alive()
    assert [other.ask(Add(), timeout=PATIENCE_S) for _ in range(10)] == list(range(1, 11))


# BaseException -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_a_base_exception_ends_this_actor_and_no_other(here: Stage, error: BaseException) -> None:
    other = here.start(Fragile)
    ref = here.start(Fragile)
    actor = behind(ref)
    ref.tell(Raise(error))
    here.wait_for(actor.failed)
    assert actor.failures == [error]
    assert not ref.is_alive()
    assert other.is_alive()
    assert [other.ask(Add()) for _ in range(20)] == list(range(1, 21)), "and its threads go on"
    assert not behind(other).stopped.is_set()


def test_a_base_exception_in_an_ask_reaches_the_asker(here: Stage) -> None:
    ref = here.start(Fragile)
    with pytest.raises(SystemExit):
        ref.ask(Raise(SystemExit(3)))
    assert not ref.is_alive()


@pytest.mark.parametrize("error", [Boom(), SystemExit(3)], ids=["exception", "base exception"])
def test_an_actor_that_fails_while_it_stops_has_stopped(here: Stage, error: BaseException) -> None:
    ref = here.start(Fragile, on_stop=error)
    actor = behind(ref)
    hold = held(here, ref)
    stopping = ref.stop(block=False)
    answer = ref.ask(Add(), block=False)
    hold.go.set()
    assert stopping.get(timeout=PATIENCE_S) is True
    with pytest.raises(ActorDeadError):
        answer.get(timeout=PATIENCE_S)
    assert actor.total == 0, "nothing is handled after the stop"
    assert here.start(Fragile).ask(Add()) == 1


@pytest.mark.parametrize("error", [Boom(), SystemExit(3)], ids=["exception", "base exception"])
def test_a_failing_on_failure_harms_nobody_else(here: Stage, error: BaseException) -> None:
    class FailsTwice(Fragile):
        def on_failure(self, *raised: Any) -> None:
            super().on_failure(*raised)
            raise error

    parent = here.start(Parent)
    ref = here.start(FailsTwice, parent=parent.actor_inbox)
    with pytest.raises(Boom, match="first"):
        ref.ask(Raise(Boom("first")))
    here.wait_for(behind(parent).heard)
    assert [type(crash.error) for crash in behind(parent).crashes] == [Boom]
    assert here.start(Fragile).ask(Add()) == 1


@pytest.mark.parametrize("error", [Boom(), SystemExit(3)], ids=["exception", "base exception"])
def test_a_failing_end_of_a_batch_is_a_crash(here: Stage, error: BaseException) -> None:
    class FailsBehindTheBatch(Fragile):
        def on_batch_end(self) -> None:
            if self.total:
                raise error

    ref = here.start(FailsBehindTheBatch)
    actor = behind(ref)
    ref.tell(Add())
    here.wait_for(actor.failed)
    assert actor.failures == [error]
    assert not ref.is_alive()


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


# Restartable actors --------------------------------------------------------------------------------------------------


class Keeper(Actor):
    """A parent that notes what it hears of its child, and restarts it if it is to."""

    receives: ClassVar[tuple[type, ...]] = (ActorCrashed, ActorStarted, ActorStopped)

    def __init__(self, *, restarts: bool) -> None:
        super().__init__()
        self.restarts = restarts
        self.child: Ref | None = None
        self.heard: list[Any] = []
        self.crashed = threading.Event()
        self.stopped = threading.Event()

    def on_actor_started(self, message: ActorStarted) -> None:
        self.heard.append(("started", message.incarnation))

    def on_actor_stopped(self, message: ActorStopped) -> None:
        self.heard.append(("stopped", message.incarnation))
        self.stopped.set()

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        self.heard.append(("crashed", message.incarnation, message.error, message.undelivered))
        assert self.child is not None
        if self.restarts:
            self.child.restart()
        self.crashed.set()


class BatchEnd(Fragile):
    """Fails at the end of a batch, once."""

    failed_once = False

    def on_batch_end(self) -> None:
        if self.total and not type(self).failed_once:
            type(self).failed_once = True
            raise Boom("at the end of a batch")


def kept(here: Stage, kind: type[Actor] = Fragile, *, restarts: bool = True, **options: Any) -> tuple[Ref, Keeper]:
    keeper: Keeper = behind(here.start(Keeper, restarts=restarts))
    ref = kind.start_on(here.dispatcher, parent=keeper.actor_inbox, restartable=True, **options)
    keeper.child = ref
    return ref, keeper


@pytest.mark.parametrize("error", [Boom(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("how", ["tell", "ask", "proxy"])
def test_a_restartable_actor_goes_on_under_the_same_ref_after_a_crash(
    here: Stage, how: str, error: BaseException
) -> None:
    ref, keeper = kept(here)
    urn, inbox, stopped = ref.actor_urn, ref.actor_inbox, ref.actor_stopped
    assert ref.ask(Add(5)) == 5
    if how == "tell":
        ref.tell(Raise(error))
    else:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            ref.ask(Raise(error)) if how == "ask" else ref.proxy().on_raise(Raise(error)).get()
        # A BaseException would interrupt the asker's own thread, whose actor is no worse for it.
        assert (caught.value if isinstance(error, Exception) else caught.value.__cause__) is error
    assert ref.ask(Add(), timeout=PATIENCE_S) == 1, "the state is that of a new instance"
    assert ref.is_alive()
    assert (ref.actor_urn, ref.actor_inbox, ref.actor_stopped) == (urn, inbox, stopped)
    assert ref.incarnation == 2
    assert ActorRegistry.get_by_urn(urn) is ref
    assert behind(ref).actor_ref is ref
    assert keeper.heard[:2] == [("started", 1), ("crashed", 1, error, 0)]
    assert here.letters == []
    ref.stop(timeout=PATIENCE_S)
    assert not ref.is_alive()


def test_the_next_instance_gets_the_arguments_of_the_last_start_or_others(here: Stage) -> None:
    ref, keeper = kept(here, restarts=False, on_stop=Boom("first"))

    def other() -> None:
        ref.restart(on_stop=Boom("other"))

    for restart, expected in ((ref.restart, "first"), (other, "other"),
                              (ref.restart, "other")):  # fmt: skip
        with pytest.raises(Boom):
            ref.ask(Raise(Boom()))
        here.wait_for(keeper.crashed)
        keeper.crashed.clear()
        restart()
        assert str(behind(ref)._raise_on_stop) == expected


def test_a_raising_on_start_suspends_a_restartable_actor(here: Stage) -> None:
    error = Boom("in on_start")
    ref, keeper = kept(here, restarts=False, on_start=error)
    ref.tell(Add(3))
    here.wait_for(keeper.crashed)
    assert keeper.heard == [("crashed", 1, error, 0)], "a start that has failed is not acknowledged"
    assert ref.suspended
    assert ref.is_alive()
    ref.restart(on_stop=None)
    assert ref.ask(Add()) == 4, "what waited is delivered"


def test_a_failing_end_of_a_batch_crashes_a_restartable_actor(here: Stage) -> None:
    BatchEnd.failed_once = False
    ref, keeper = kept(here, BatchEnd)
    ref.tell(Add())
    here.wait_for(keeper.crashed)
    assert (
        str(keeper.heard[-1][2] if keeper.heard[-1][0] == "crashed" else keeper.heard[-2][2]) == "at the end of a batch"
    )
    assert ref.ask(Add()) == 1


def test_a_restart_whose_init_raises_leaves_the_actor_suspended(here: Stage) -> None:
    ref, keeper = kept(here, restarts=False)
    ref.tell(Raise(Boom()))
    here.wait_for(keeper.crashed)
    with pytest.raises(TypeError):
        ref.restart(no_such_argument=1)
    assert ref.suspended
    ref.tell(Add(2))
    ref.restart(on_stop=None)
    assert ref.ask(Add()) == 3


def test_an_actor_that_is_given_up_answers_and_reports_what_waits(here: Stage) -> None:
    ref, keeper = kept(here, restarts=False)
    ref.tell(Raise(Boom()))
    here.wait_for(keeper.crashed)
    ref.tell("waits")
    asker = ref.ask("waits, too", block=False)
    assert ref.give_up("was given up") == 1
    with pytest.raises(ActorDeadError, match="was given up"):
        asker.get(timeout=PATIENCE_S)
    assert [letter.message for letter in here.letters] == ["waits"]
    assert not ref.is_alive()
    assert ActorRegistry.get_by_urn(ref.actor_urn) is None
    with pytest.raises(ActorDeadError):
        ref.tell("late")


def test_only_a_suspended_actor_is_restarted_or_given_up(here: Stage) -> None:
    ref, _ = kept(here)
    assert ref.ask(Add()) == 1
    assert not ref.suspended
    with pytest.raises(InvariantBroken, match="only a suspended actor is restarted"):
        ref.restart()
    with pytest.raises(InvariantBroken, match="only a suspended actor is given up"):
        ref.give_up("too early")
    assert ref.ask(Add()) == 2


def test_an_idle_actor_is_suspended_without_its_failing(here: Stage) -> None:
    ref, keeper = kept(here)
    assert ref.ask(Add()) == 1
    actor = behind(ref)
    ref.suspend()
    ref.suspend()
    assert ref.suspended
    assert (actor.failures, actor.stopped.is_set()) == ([], False)
    asker = ref.ask(Add(2), block=False)
    ref.restart()
    assert asker.get(timeout=PATIENCE_S) == 2
    assert [heard[0] for heard in keeper.heard] in (["started"], ["started", "started"])


def test_a_recycled_actor_ends_in_order_before_its_next_message(here: Stage) -> None:
    ref, keeper = kept(here)
    assert ref.ask(Add()) == 1
    old = behind(ref)
    hold = held(here, ref)
    ref.tell(Add(10))
    ref.recycle()
    hold.go.set()
    here.wait_for(keeper.stopped)
    assert old.stopped.is_set()
    assert ref.suspended
    assert ref.is_alive()
    ref.restart()
    assert ref.ask(Add()) == 11, "what waited is the new instance's"


def test_a_restartable_actor_that_stops_has_stopped(here: Stage) -> None:
    ref, keeper = kept(here)
    assert ref.stop(timeout=PATIENCE_S)
    here.wait_for(keeper.stopped)
    assert keeper.heard == [("started", 1), ("stopped", 1)]
    assert not ref.is_alive()
    assert not ref.suspended
    ref.detach()
    assert ref.is_alive(), "its parent brings it back, under the same ref"
    ref.restart()
    assert ref.ask(Add()) == 1
    assert ActorRegistry.get_by_urn(ref.actor_urn) is ref


@pytest.mark.parametrize("here", ["elastic", "pool"], indirect=True)
@pytest.mark.parametrize("end", ["returns", "crashes", "stops"])
def test_an_instance_that_was_cut_off_harms_its_successor_in_no_way(here: Stage, end: str) -> None:
    left = threading.Event()

    class Stuck(Fragile):
        def on_hold(self, message: Hold) -> None:
            super().on_hold(message)
            try:
                if end == "crashes":
                    raise Boom("late")
                if end == "stops":
                    self.stop()
                self.tell_self(Add(100))
            finally:
                left.set()

    ref, keeper = kept(here, Stuck)
    hold = Hold()
    ref.tell(hold)
    here.wait_for(hold.begun)
    waiting = ref.ask(Add(2), block=False)
    ref.detach()
    ref.restart()
    assert waiting.get(timeout=PATIENCE_S) == 2
    hold.go.set()
    here.wait_for(left)
    assert ref.ask(Add(), timeout=PATIENCE_S) in (3, 103), "what it tells itself is its successor's"
    assert ref.is_alive()
    assert [heard[0] for heard in keeper.heard] == ["started", "started"], "nothing that it does is reported"


def test_an_actor_that_is_not_restartable_says_nothing_of_its_start_and_its_stop(here: Stage) -> None:
    keeper: Keeper = behind(here.start(Keeper, restarts=False))
    ref = here.start(Fragile, parent=keeper.actor_inbox)
    assert ref.ask(Add()) == 1
    ref.stop(timeout=PATIENCE_S)
    keeper.actor_ref.ask("are you there?", timeout=PATIENCE_S)
    assert keeper.heard == []
