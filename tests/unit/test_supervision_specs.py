"""Child specs, the restart window and its backoff: what they refuse, and their arithmetic."""

from __future__ import annotations

import datetime
import random
from typing import Any, cast

import pytest

from seqtor import ChildSpec, RegistrationError, Restart, RestartKind, Strategy, SupervisorSpec
from seqtor.actors.base import Actor
from seqtor.tree.window import Window


class Worker(Actor):
    """Any actor."""


def child(**options: Any) -> ChildSpec:
    return ChildSpec("a", Worker, **options)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ChildSpec("", Worker), "id is a text that is not empty"),
        (lambda: ChildSpec("a/b", Worker), "has no '/', got 'a/b'"),
        (lambda: ChildSpec("a", str), "class of pykka actors or a SupervisorSpec"),
        (lambda: ChildSpec("a", SupervisorSpec(), args=(1,)), "a SupervisorSpec takes no arguments"),
        (lambda: child(args=[1]), "args must be a tuple"),
        (lambda: child(restart="sometimes"), "'permanent', 'transient', 'temporary', got 'sometimes'"),
        (lambda: child(shutdown="later"), "seconds, 'brutal_kill' or 'infinity', got 'later'"),
        (lambda: child(shutdown=-1), "must be seconds"),
        (lambda: child(shutdown=float("inf")), "must be seconds"),
        (lambda: child(significant=True), "a permanent child never stops for good"),
        (lambda: child(dispatcher="core"), "dispatcher must be None or 'dedicated', got 'core'"),
        (lambda: SupervisorSpec([child(), child()]), "two children have the id 'a'"),
        (lambda: SupervisorSpec([cast("Any", Worker)]), "described by a ChildSpec"),
        (lambda: SupervisorSpec(strategy="all"), "'one_for_one', 'one_for_all', 'rest_for_one', 'dynamic', got 'all'"),
        (lambda: SupervisorSpec(restart="permanent"), "whether a child is restarted is said in its ChildSpec"),
        (lambda: SupervisorSpec(strategy="dynamic"), "one child spec, the recipe, got 0"),
        (lambda: SupervisorSpec([child(restart="transient", significant=True)]), "give the supervisor auto_shutdown"),
        (lambda: Restart(intensity=-1), "intensity counts restarts: 0 or more, got -1"),
        (lambda: Restart(intensity=True), "intensity counts restarts"),
        (lambda: Restart(period=0), "period must be longer than 0 seconds"),
        (lambda: Restart(backoff=-1), "backoff must be seconds"),
        (lambda: Restart(jitter=2), "from 0 to 1, got 2"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(make: Any, says: str) -> None:
    with pytest.raises(RegistrationError, match=says.replace("(", r"\(")):
        make()


def test_the_defaults_are_those_of_otp() -> None:
    spec = child()
    assert (spec.restart, spec.shutdown, spec.significant) == (RestartKind.PERMANENT, 5.0, False)
    assert ChildSpec("tree", SupervisorSpec()).shutdown == "infinity"
    tree = SupervisorSpec([spec])
    assert (tree.strategy, tree.restart.intensity, tree.restart.period) == (Strategy.ONE_FOR_ONE, 1, 5.0)
    assert tree.restart.delay_s(1, random.Random()) == 0


def test_a_spec_is_a_value() -> None:
    assert child(kwargs={"x": 1}) == child(kwargs={"x": 1})
    assert child(shutdown=datetime.timedelta(seconds=2)).shutdown == 2.0
    with pytest.raises(AttributeError):
        child().id = "b"  # type: ignore[misc]
    arguments = {"x": 1}
    spec = child(kwargs=arguments)
    arguments["x"] = 2
    assert spec.kwargs == {"x": 1}


def test_the_window_forgets_what_is_older_than_the_period() -> None:
    window = Window(Restart(intensity=2, period=10))
    assert [window.add(now) for now in (0, 5, 10)] == [True, True, False]
    window = Window(Restart(intensity=2, period=10))
    assert [window.add(now) for now in (0, 5, 10.5, 15.1)] == [True, True, True, True]
    assert len(window) == 2


def test_a_backoff_doubles_up_to_its_bound() -> None:
    restart = Restart(100, backoff=0.5, backoff_max=4)
    assert [restart.delay_s(number, random.Random()) for number in (1, 2, 3, 4, 5, 5_000)] == [0.5, 1, 2, 4, 4, 4]


def test_the_jitter_is_the_part_of_a_backoff_that_is_left_to_chance() -> None:
    restart = Restart(100, backoff=8, jitter=0.25)
    chance = random.Random(1)
    waits = [restart.delay_s(1, chance) for _ in range(1_000)]
    assert 6 <= min(waits) < 6.1
    assert 7.9 < max(waits) <= 8
