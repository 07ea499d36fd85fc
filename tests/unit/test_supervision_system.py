"""`system.supervise` and `system.tree`: users' actors beside the runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger
from pykka import ActorDeadError

from seqtor import (
    ChildRefused,
    ChildSpec,
    Collection,
    NotRunning,
    Record,
    RegistrationError,
    Restart,
    RestartsExceeded,
    StartFailed,
    Supervisor,
    SupervisorSpec,
    Transaction,
    Trigger,
)
from seqtor.actors.base import Actor
from seqtor.actors.dispatchers import SimulatedDispatchers
from tests.stages import PATIENCE_S


class Count(Record):
    value: int = 0


class Add(Trigger[int]):
    amount: int = 1


class Feed(Actor):
    """Hands in what it is told; crashes at what is no number."""

    def __init__(self, system: Supervisor, log: list[Any] | None = None, name: str = "feed") -> None:
        super().__init__()
        self.system = system
        self.log: list[Any] = [] if log is None else log
        self.name = name

    def on_start(self) -> None:
        self.log.append(("start", self.name))

    def on_receive(self, message: Any) -> Any:
        return self.system.ask(Add(amount=message + 0))

    def on_stop(self) -> None:
        self.log.append(("stop", self.name, self.system.ask(Add(amount=1), timeout=PATIENCE_S)))


@pytest.fixture
def system() -> Iterator[Supervisor]:
    made = Supervisor()
    counts = made.store("counts", Collection(Count))

    @made.on(Add)
    def add(trigger: Add, tx: Transaction) -> int:
        book = tx[counts]
        book["all"] = Count(value=book.get("all", Count()).value + trigger.amount)
        return book["all"].value

    yield made
    made.stop()


def test_supervised_actors_start_after_the_system_and_stop_before_it(system: Supervisor) -> None:
    log: list[Any] = []
    first = system.supervise(ChildSpec("first", Feed, args=(system, log, "first")))
    desk = system.supervise(SupervisorSpec([ChildSpec("second", Feed, args=(system, log, "second"))]), name="desk")
    with pytest.raises(ActorDeadError, match="first/first has not been started"):
        first.tell(1)
    with system:
        assert first.ask(5, timeout=PATIENCE_S) == 5
        third = system.supervise(ChildSpec("third", Feed, args=(system, log, "third")))
        assert third.ask(1, timeout=PATIENCE_S) == 6
        assert desk.child("second").ask(1, timeout=PATIENCE_S) == 7
    assert log == [
        ("start", "first"), ("start", "second"), ("start", "third"),
        ("stop", "third", 8), ("stop", "second", 9), ("stop", "first", 10),
    ], "each could still submit when it stopped"  # fmt: skip
    assert not third.is_alive()
    with pytest.raises(RegistrationError, match="comes too late: the system has stopped"):
        system.supervise(ChildSpec("fourth", Feed, args=(system,)))


def test_a_supervised_actor_that_crashes_goes_on_and_is_counted(system: Supervisor) -> None:
    spec = SupervisorSpec([ChildSpec("feed", Feed, args=(system,))], restart=Restart(5))
    desk = system.supervise(spec, name="desk")
    with system:
        feed = desk.child("feed")
        with pytest.raises(TypeError):
            feed.ask("garbage", timeout=PATIENCE_S)
        assert feed.ask(2, timeout=PATIENCE_S) == 2
        with pytest.raises(ChildRefused, match="is running"):
            desk.delete_child("feed")  # Answered behind what the supervisor has been told of the restart.
        found = system.tree()["desk/feed"]
        assert (found.state, found.restarts, found.kind) == ("running", 1, "actor")


def test_a_subtree_that_gives_up_harms_nobody_else(system: Supervisor) -> None:
    lines: list[str] = []
    logger.enable("seqtor")
    sink = logger.add(lambda line: lines.append(str(line)), level="ERROR", format="{message}")
    try:
        desk = system.supervise(
            SupervisorSpec([ChildSpec("feed", Feed, args=(system,))], restart=Restart(0)), name="desk"
        )
        other = system.supervise(ChildSpec("other", Feed, args=(system,)))
        with system:
            desk.child("feed").tell("garbage")
            assert desk.join(PATIENCE_S)
            assert isinstance(desk.error, RestartsExceeded)
            assert other.ask(2, timeout=PATIENCE_S) == 2
            assert system.ask(Add(amount=1), timeout=PATIENCE_S) == 3
            assert system.tree()["desk"].state == "stopped"
            assert system.tree().state == "running"
    finally:
        logger.remove(sink)
        logger.disable("seqtor")
    assert [line for line in lines if "desk gave up" in line], lines


def test_a_child_that_fails_its_start_keeps_the_system_from_starting(system: Supervisor) -> None:
    log: list[Any] = []
    system.supervise(ChildSpec("fine", Feed, args=(system, log, "fine")))
    system.supervise(ChildSpec("broken", Feed, kwargs={"no_such": 1}))
    with pytest.raises(StartFailed, match="broken/broken failed to start: TypeError"):
        system.start()
    assert [event[:2] for event in log] == [("start", "fine"), ("stop", "fine")]
    with pytest.raises(NotRunning):
        system.ask(Add())


def test_a_child_that_fails_after_the_start_leaves_its_name_free(system: Supervisor) -> None:
    with system:
        with pytest.raises(StartFailed):
            system.supervise(ChildSpec("feed", Feed, kwargs={"no_such": 1}))
        assert system.supervise(ChildSpec("feed", Feed, args=(system,))).ask(1, timeout=PATIENCE_S) == 1


def test_the_stop_of_the_system_does_not_wait_for_ever_for_a_child(system: Supervisor) -> None:
    begun, go = threading.Event(), threading.Event()

    class Stuck(Actor):
        def on_receive(self, message: Any) -> None:
            begun.set()
            go.wait(PATIENCE_S)

    stuck = system.supervise(ChildSpec("stuck", Stuck, shutdown="infinity"))
    system.start()
    stuck.tell("wait")
    assert begun.wait(PATIENCE_S)
    system.stop(grace=0.05)
    assert not stuck.is_alive()
    go.set()


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        (Feed, {}, "takes a ChildSpec or a SupervisorSpec"),
        (SupervisorSpec(), {}, "needs a name="),
        (SupervisorSpec(), {"name": "x", "restart": Restart()}, "goes into the SupervisorSpec itself"),
        (ChildSpec("x", SupervisorSpec()), {}, "takes the SupervisorSpec of 'x' itself, with name='x'"),
        (ChildSpec("taken", Feed), {}, "the name 'taken' is taken"),
    ],
)
def test_what_cannot_be_supervised_is_refused(system: Supervisor, spec: Any, options: Any, says: str) -> None:
    system.supervise(ChildSpec("taken", Feed, args=(system,)))
    with pytest.raises(RegistrationError, match=says):
        system.supervise(spec, **options)


def test_the_tree_shows_the_runtime_and_what_is_beside_it(system: Supervisor) -> None:
    system.supervise(ChildSpec("feed", Feed, args=(system,)))
    assert [child.name for child in system.tree().children] == ["feed"]
    with system:
        tree = system.tree()
        names = {found.name for found in tree}
        assert {"counts", "sequencer", "coordinator", "committer", "feed"} <= names
        assert {found.state for found in tree} == {"running"}
        assert "└─ feed (running)" in str(tree)
        assert tree.as_dict()["children"][-1]["children"][0]["name"] == "feed"
        with pytest.raises(LookupError, match="has no child 'nobody'"):
            tree["nobody"]
    assert system.tree().state == "stopped"


def test_supervised_actors_run_in_a_simulation() -> None:
    made = [SimulatedDispatchers(seed=3)]
    system = Supervisor(dispatchers=lambda settings: made[0])

    class Echo(Actor):
        def on_receive(self, message: Any) -> Any:
            if message == "crash":
                raise ValueError
            return message

    echo = system.supervise(ChildSpec("echo", Echo), restart=Restart(5, 60, backoff=2))
    with system:
        echo.tell("crash")
        assert echo.ask("hello") == "hello"
        made[0].run_to_rest()
        assert system.tree()["echo/echo"].restarts == 1
