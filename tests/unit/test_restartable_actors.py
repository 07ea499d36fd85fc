"""Actors that are restarted under the same ref: what they keep, who waits meanwhile, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from pykka import ActorDeadError, ActorRegistry

from seqtor.actors.base import Actor, Ref
from seqtor.actors.invariants import InvariantBroken
from seqtor.messages.lifecycle import ActorCrashed, ActorStarted, ActorStopped
from tests.fragile_actors import Add, Boom, Fragile, Hold, Raise, behind, held
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
