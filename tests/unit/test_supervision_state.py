"""The supervisor as a state machine, event by event: what no child of ours would say, and moments that hardly happen."""

from __future__ import annotations

import random
from typing import Any

from seqtor import ChildSpec, Restart, SupervisorSpec
from seqtor.actors.base import Actor
from seqtor.tree.events import (
    Abandon,
    Begin,
    ChildEnded,
    ChildStarted,
    Command,
    Exit,
    Launch,
    Ready,
    Reply,
    SetTimer,
    Stop,
    StopAsked,
    Tell,
    TerminateChild,
    TimerFired,
)
from seqtor.tree.state import Supervision


class Driven:
    """A supervisor of workers, whose commands are carried out by the test."""

    def __init__(self, *names: str, restart: Restart | None = None, **options: Any) -> None:
        children = [ChildSpec(name, Actor, **options) for name in names]
        spec = SupervisorSpec(children, restart=restart or Restart(10))
        self.machine = Supervision(spec, "top", random.Random(1))
        self.now = 0.0
        self.hear(Begin())
        for name in names:
            self.hear(ChildStarted(name, 1))

    def hear(self, event: Any) -> list[Command]:
        """What it wants done, reports left out."""
        return [each for each in self.machine.handle(event, self.now, self.now) if not isinstance(each, Tell)]

    def states(self) -> dict[str, str]:
        return {child.id: str(child.state) for child in self.machine.children}


def test_it_is_ready_when_the_last_child_has_acknowledged() -> None:
    spec = SupervisorSpec([ChildSpec("a", Actor), ChildSpec("b", Actor)])
    machine = Supervision(spec, "top")
    a, b = spec.children
    assert machine.handle(Begin(), 0, 0) == [Launch("a", 1, a)]
    assert machine.handle(ChildStarted("a", 1), 0, 0)[-1] == Launch("b", 1, b)
    assert machine.handle(ChildStarted("b", 1), 0, 0)[-1] == Ready()


def test_what_an_older_instance_says_is_ignored() -> None:
    driven = Driven("a")
    driven.hear(ChildEnded("a", 1, ValueError()))
    driven.hear(ChildStarted("a", 2))
    assert driven.hear(ChildEnded("a", 1, ValueError())) == []
    assert driven.hear(ChildStarted("a", 1)) == []
    assert driven.hear(ChildEnded("nobody", 1, None)) == []
    assert driven.states() == {"a": "running"}


def test_the_end_of_a_child_that_was_abandoned_is_ignored() -> None:
    driven = Driven("a", shutdown=5)
    asked = driven.hear(TerminateChild("a", "caller"))
    timer = next(each for each in asked if isinstance(each, SetTimer))
    assert asked == [Stop("a", 1, False), SetTimer(timer.timer, 5)]
    abandoned = driven.hear(TimerFired(timer.timer))
    assert abandoned[0] == Abandon("a", 1, False)
    assert abandoned[-1] == Reply("caller", None)
    assert driven.hear(ChildEnded("a", 1, ValueError())) == [], "and it is not restarted"
    assert driven.states() == {"a": "stopped"}


def test_a_child_that_stopped_in_time_makes_its_timer_void() -> None:
    driven = Driven("a", "b", shutdown=5)
    asked = driven.hear(TerminateChild("b", "caller"))
    timer = next(each.timer for each in asked if isinstance(each, SetTimer))
    driven.hear(ChildEnded("b", 1, None))
    assert driven.hear(TimerFired(timer)) == []


def test_each_backoff_ends_with_its_own_timer() -> None:
    driven = Driven("a", "b", restart=Restart(10, 100, backoff=2))
    (first,) = driven.hear(ChildEnded("a", 1, ValueError()))
    (second,) = driven.hear(ChildEnded("b", 1, ValueError()))
    assert isinstance(first, SetTimer)
    assert isinstance(second, SetTimer)
    assert (first.delay_s, second.delay_s) == (2, 4)
    (launched,) = driven.hear(TimerFired(first.timer))
    assert isinstance(launched, Launch)
    assert launched.child == "a"
    driven.hear(ChildStarted("a", 2))
    assert driven.states() == {"a": "running", "b": "restarting"}


def test_what_comes_while_children_are_restarted_waits_its_turn() -> None:
    driven = Driven("a", "b")
    driven.hear(ChildEnded("a", 1, ValueError()))
    assert driven.hear(ChildEnded("b", 1, ValueError())) == []
    assert driven.hear(StopAsked()) == []
    assert [type(each) for each in driven.hear(ChildStarted("a", 2))] == [Launch]
    assert [each for each in driven.hear(ChildStarted("b", 2)) if isinstance(each, Stop)] == [Stop("b", 2, False)]


def test_who_asks_a_supervisor_that_has_ended_is_told_so() -> None:
    driven = Driven("a")
    driven.hear(StopAsked())
    assert driven.hear(ChildEnded("a", 1, None))[-1] == Exit(None)
    (reply,) = driven.hear(TerminateChild("a", "caller"))
    assert isinstance(reply, Reply)
    assert "top has stopped" in str(reply.value)


def test_a_request_that_waits_while_the_supervisor_gives_up_is_answered() -> None:
    driven = Driven("a", "b", restart=Restart(0))
    driven.hear(ChildEnded("a", 1, ValueError()))
    assert driven.hear(TerminateChild("b", "caller")) == []
    done = driven.hear(ChildEnded("b", 1, None))
    assert [each.reply for each in done if isinstance(each, Reply)] == ["caller"]
    assert [type(each.error).__name__ for each in done if isinstance(each, Exit)] == ["RestartsExceeded"]
