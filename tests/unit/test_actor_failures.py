"""What the base actor repairs of pykka's behaviour on failure.

On the simulated dispatcher and on two that have threads: no repair may depend on who runs the actor.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pykka import ActorDeadError, ActorRegistry

from seqtor.actors.base import Ref
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.invariants import InvariantBroken, require
from tests.fragile_actors import Add, Boom, Fragile, Hold, Parent, Raise, behind, held
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
