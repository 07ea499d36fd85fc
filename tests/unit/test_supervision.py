"""Supervisors with real children: what OTP has no word for, and that threads change nothing.

The order of starts, stops and restarts is compared with Erlang/OTP in tests/otp.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry

from seqtor import (
    ChildRefused,
    ChildSpec,
    Report,
    ReportKind,
    Restart,
    RestartsExceeded,
    StartFailed,
    SupervisorRef,
    SupervisorSpec,
    start_supervisor,
    unwatch,
    watch,
)
from seqtor.actors.base import Actor
from seqtor.actors.dispatchers import SimulatedDispatchers
from seqtor.messages.lifecycle import ActorCrashed, ActorStopped
from seqtor.messages.supervision import ActorDied, SupervisorTimer
from seqtor.tree.events import ChildEnded
from seqtor.tree.handles import KilledByBaseException
from seqtor.tree.state import Supervision
from tests.stages import PATIENCE_S

MANY = Restart(1_000, 5)


class Boom(Exception):
    """The failure that these tests cause."""


class Hold:
    """Keeps a child busy until `go`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def hold(self, child: Any) -> None:
        child.tell(self)
        assert self.begun.wait(PATIENCE_S)


class Adder:
    """Adds up what it is told; fails when it is told an exception."""

    total = 0

    def __init__(self, start: int = 0, *, stopped: list[Any] | None = None, name: str = "") -> None:
        super().__init__()
        self.total = start
        self.stopped = stopped
        self.name = name

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, Hold):
            message.begun.set()
            message.go.wait(PATIENCE_S)
            return None
        self.total += message
        return self.total

    def on_stop(self) -> None:
        if self.stopped is not None:
            self.stopped.append(self.name)


class Cell(Adder, Actor):  # type: ignore[misc]
    """Ours."""


class Foreign(Adder, pykka.ThreadingActor):  # type: ignore[misc]
    """pykka's own."""

    use_daemon_thread = True


class Heard:
    """Reports, and a way to wait for one."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._changed = threading.Condition()

    def __call__(self, report: Report) -> None:
        with self._changed:
            self.reports.append(report)
            self._changed.notify_all()

    def wait_for(self, kind: ReportKind, child: str | None = None, count: int = 1) -> None:
        def found() -> bool:
            return sum((report.kind, report.child) == (kind, child) for report in self.reports) >= count

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE_S), f"no {kind} of {child}: {self.kinds()}"

    def kinds(self) -> list[tuple[str, str | None]]:
        return [(str(report.kind), report.child) for report in self.reports]


class Stand:
    """Starts supervisors in one place, and knows how to wait there."""

    def __init__(self, dispatchers: SimulatedDispatchers | None) -> None:
        self.dispatchers: Any = dispatchers
        self.started: list[SupervisorRef] = []
        self.heard = Heard()

    def start(self, *children: ChildSpec, **options: Any) -> SupervisorRef:
        options.setdefault("restart", MANY)
        spec = SupervisorSpec(children, **options)
        tree = start_supervisor(spec, "top", dispatchers=self.dispatchers, on_report=self.heard)
        self.started.append(tree)
        return tree

    def wait_for(self, kind: ReportKind, child: str | None = None, count: int = 1) -> None:
        if self.dispatchers is not None:
            self.dispatchers.run_to_rest()
        self.heard.wait_for(kind, child, count)


@pytest.fixture(params=["simulated", "threads"])
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    yield from _stand(SimulatedDispatchers(seed=1) if request.param == "simulated" else None)


@pytest.fixture
def threads() -> Iterator[Stand]:
    yield from _stand(None)


@pytest.fixture
def simulated() -> Iterator[Stand]:
    yield from _stand(SimulatedDispatchers(seed=1))


def _stand(dispatchers: SimulatedDispatchers | None) -> Iterator[Stand]:
    before = set(map(id, ActorRegistry.get_all()))
    made = Stand(dispatchers)
    yield made
    for tree in made.started:
        assert tree.stop(PATIENCE_S)
    assert [ref for ref in ActorRegistry.get_all() if id(ref) not in before] == []


# Children ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Boom("x"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_crash_restarts_a_child_under_the_same_ref_and_loses_only_the_failing_message(
    stand: Stand, error: BaseException
) -> None:
    tree = stand.start(ChildSpec("a", Cell, args=(10,)))
    child = tree.child("a")
    ref = child.ref
    assert child.ask(1) == 11
    for message in (1, error, 2, 3):
        child.tell(message)
    assert child.ask(4, timeout=PATIENCE_S) == 19, "a new instance with the arguments of the spec, and what waited"
    assert child.ref is ref
    assert tree.child("a") is child
    stand.wait_for(ReportKind.RESTARTED, "a")
    assert tree.tree()["a"].restarts == tree.restarts == 1
    crash = next(report for report in tree.reports() if report.kind is ReportKind.CRASHED)
    assert (crash.supervisor, crash.child, crash.error) == ("top", "a", error)


@pytest.mark.parametrize("error", [Boom("x"), SystemExit(3)], ids=repr)
def test_a_threading_actor_is_replaced_behind_its_handle(threads: Stand, error: BaseException) -> None:
    bystander = Foreign.start()
    tree = threads.start(ChildSpec("a", Foreign, args=(10,)))
    child = tree.child("a")
    old = child.ref
    assert child.ask(1) == 11
    child.tell(error)
    threads.wait_for(ReportKind.RESTARTED, "a")
    assert child.ref is not old
    assert not old.is_alive()
    assert child.ask(5) == 15
    assert child.proxy().total.get() == 15
    assert bystander.ask(1) == 1, "a BaseException ends no other actor of the process"
    bystander.stop()


def test_a_base_exception_in_an_ask_ends_a_threading_actor_too(threads: Stand) -> None:
    tree = threads.start(ChildSpec("a", Foreign))
    child = tree.child("a")
    assert child.ask(1) == 1
    with pytest.raises(KilledByBaseException, match="Foreign: SystemExit: 3"):
        child.ask(SystemExit(3))
    threads.wait_for(ReportKind.RESTARTED, "a")
    assert child.ask(1) == 1
    with pytest.raises(Boom):
        child.ask(Boom())
    assert child.ask(1) == 2, "another exception in an ask ends no actor of pykka"


def test_a_threading_actor_that_stops_by_itself_or_fails_its_start_is_told_apart(threads: Stand) -> None:
    class Failing(Foreign):
        def on_start(self) -> None:
            raise Boom("in on_start")

    tree = threads.start(ChildSpec("a", Foreign, restart="transient"))
    tree.child("a").ref.stop()
    threads.wait_for(ReportKind.STOPPED, "a")
    assert not tree.child("a").is_alive()
    tree.restart_child("a")
    assert tree.child("a").ask(1) == 1
    with pytest.raises(StartFailed, match=r"top/b failed to start: Boom: in on_start"):
        tree.start_child(ChildSpec("b", Failing))


def test_a_child_that_stops_by_itself_is_restarted_if_it_is_permanent(stand: Stand) -> None:
    tree = stand.start(ChildSpec("a", Cell))
    child = tree.child("a")
    ref = child.ref
    ref.stop()
    stand.wait_for(ReportKind.RESTARTED, "a")
    assert child.ref is ref
    assert child.ask(1, timeout=PATIENCE_S) == 1


def test_the_others_keep_their_messages_when_they_are_restarted_with_a_crashed_one(simulated: Stand) -> None:
    tree = simulated.start(ChildSpec("a", Cell), ChildSpec("b", Cell), strategy="one_for_all")
    a, b = tree.child("a"), tree.child("b")
    assert b.ask(100) == 100
    a.tell(Boom())
    for number in (1, 2, 3):
        b.tell(number)
    simulated.wait_for(ReportKind.RESTARTED, "b")
    handled_before = 106 - 100 - b.ask(0)
    assert handled_before in (0, 1, 3, 6), "each was handled once: by the old instance or by the new one"


def test_a_failing_init_is_a_failed_start(stand: Stand) -> None:
    with pytest.raises(StartFailed, match="top/b failed to start: TypeError") as caught:
        stand.start(ChildSpec("a", Cell), ChildSpec("b", Cell, kwargs={"no_such": 1}))
    assert isinstance(caught.value.__cause__, TypeError)
    assert stand.heard.kinds() == [
        ("started", "a"), ("failed_to_start", "b"), ("gave_up", None), ("shut_down", "a"), ("ended", None),
    ]  # fmt: skip


def test_requests_that_cannot_be_met_say_why(stand: Stand) -> None:
    below = SupervisorSpec([ChildSpec("x", Cell)])
    tree = stand.start(ChildSpec("a", Cell), ChildSpec("sub", below))
    with pytest.raises(ChildRefused, match="top/a runs already") as refused:
        tree.start_child(ChildSpec("a", Cell))
    assert refused.value.reason == "already_started"
    with pytest.raises(ChildRefused, match="top/a is running: terminate it first"):
        tree.delete_child("a")
    with pytest.raises(ChildRefused, match=r"top has no child 'z': it has 'a', 'sub'"):
        tree.terminate_child("z")
    with pytest.raises(LookupError, match=r"top/sub has no child 'z': it has 'x'"):
        tree.child("sub/z")
    with pytest.raises(LookupError, match="top has no supervisor 'a' below it"):
        tree.terminate_child("a/x")
    with pytest.raises(ChildRefused, match="top is not dynamic"):
        tree.start_dynamic(1)
    tree.terminate_child("sub/x")
    assert tree.tree()["sub/x"].state == "stopped"
    tree.restart_child("sub/x")
    assert tree.start_child(ChildSpec("y", Cell), under="sub").ask(2) == 2
    assert tree.count_children() == {"specs": 2, "active": 2, "supervisors": 1, "workers": 1}
    assert tree.stop(PATIENCE_S)
    with pytest.raises(ChildRefused, match="top has stopped"):
        tree.restart_child("a")


def test_children_of_a_dynamic_supervisor_are_made_from_one_recipe(stand: Stand) -> None:
    tree = stand.start(ChildSpec("worker", Cell, args=(100,)), strategy="dynamic")
    assert tree.which_children() == ()
    first, second = tree.start_dynamic(name="one"), tree.start_dynamic(name="two")
    assert (first.id, second.id) == ("worker-1", "worker-2")
    assert first.proxy().name.get(timeout=PATIENCE_S) == "one"
    second.tell(Boom())
    assert second.ask(1, timeout=PATIENCE_S) == 101
    tree.terminate_child("worker-1")
    assert [child.name for child in tree.which_children()] == ["worker-2"]
    with pytest.raises(ChildRefused, match="takes the arguments of one more child"):
        tree.start_child(ChildSpec("x", Cell))


# Time ----------------------------------------------------------------------------------------------------------------


def test_a_restart_waits_for_its_backoff_and_messages_wait_with_it(simulated: Stand) -> None:
    clock = simulated.dispatchers.clock
    tree = simulated.start(ChildSpec("a", Cell), restart=Restart(10, 1_000, backoff=2, backoff_max=5))
    child = tree.child("a")
    for waited in (2, 4, 5):
        crashed_at = clock.monotonic()
        child.tell(Boom())
        simulated.dispatchers.run_to_rest()
        assert tree.tree()["a"].state == "restarting"
        assert child.ref.suspended  # type: ignore[attr-defined]
        assert child.ask(1) == 1
        assert clock.monotonic() == pytest.approx(crashed_at + waited)
    delays = [report.delay_s for report in tree.reports() if report.kind is ReportKind.BACKED_OFF]
    assert delays == [2, 4, 5]


def test_a_child_in_its_backoff_can_be_terminated_and_is_not_restarted_then(simulated: Stand) -> None:
    tree = simulated.start(ChildSpec("a", Cell), restart=Restart(10, backoff=60))
    child = tree.child("a")
    child.tell(Boom())
    simulated.dispatchers.run_to_rest()
    asker = child.ask(1, block=False)
    tree.terminate_child("a")
    with pytest.raises(ActorDeadError):
        asker.get(timeout=1)
    simulated.dispatchers.run_until(lambda: False, 120)
    assert tree.tree()["a"].state == "stopped"


def test_the_supervisor_answers_while_a_restart_waits(simulated: Stand) -> None:
    tree = simulated.start(ChildSpec("a", Cell), ChildSpec("b", Cell), restart=Restart(10, backoff=60))
    tree.child("a").tell(Boom())
    simulated.dispatchers.run_to_rest()
    before = simulated.dispatchers.clock.monotonic()
    assert tree.start_child(ChildSpec("c", Cell)).ask(1) == 1
    assert tree.child("b").ask(1) == 1
    assert simulated.dispatchers.clock.monotonic() == before


# Children that do not stop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Cell, Foreign])
def test_a_child_that_does_not_stop_in_time_is_abandoned_and_the_others_are_stopped(
    threads: Stand, kind: type[Any]
) -> None:
    hold, stopped = Hold(), []
    tree = threads.start(
        ChildSpec("a", Cell, kwargs={"stopped": stopped, "name": "a"}),
        ChildSpec("stuck", kind, shutdown=0.01),
        ChildSpec("c", Cell, kwargs={"stopped": stopped, "name": "c"}),
    )
    stuck = tree.child("stuck")
    hold.hold(stuck)
    assert tree.stop(PATIENCE_S)
    hold.go.set()
    assert stopped == ["c", "a"]
    assert [kind for kind, child in threads.heard.kinds() if child == "stuck"] == ["started", "abandoned"]
    assert not stuck.is_alive()
    with pytest.raises(ActorDeadError):
        stuck.tell(1)


@pytest.mark.parametrize("dispatcher", [None, "dedicated"])
def test_a_stuck_child_that_must_be_restarted_gets_a_successor_at_once(threads: Stand, dispatcher: Any) -> None:
    hold = Hold()
    stuck = ChildSpec("stuck", Cell, shutdown=0.01, dispatcher=dispatcher)
    tree = threads.start(ChildSpec("a", Cell), stuck, strategy="one_for_all")
    child = tree.child("stuck")
    hold.hold(child)
    child.tell(5)
    tree.child("a").tell(Boom())
    assert child.ask(1, timeout=PATIENCE_S) == 6, "what waited behind the stuck message goes to the successor"
    hold.go.set()
    assert child.ask(1, timeout=PATIENCE_S) == 7


def test_the_thread_of_a_dedicated_child_ends_with_it(threads: Stand) -> None:
    class Telling(Cell):
        def on_receive(self, message: Any) -> Any:
            return threading.current_thread()

    tree = threads.start(ChildSpec("a", Telling, dispatcher="dedicated"))
    thread = tree.child("a").ask("who are you?")
    assert thread.name == "top-a"
    tree.terminate_child("a")
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    tree.restart_child("a")
    assert tree.child("a").ask("who are you?") is not thread


# Giving up -----------------------------------------------------------------------------------------------------------


def test_a_supervisor_that_gives_up_stops_its_children_and_says_why(stand: Stand) -> None:
    stopped: list[str] = []
    tree = stand.start(
        ChildSpec("a", Cell, kwargs={"stopped": stopped, "name": "a"}), ChildSpec("b", Cell), restart=Restart(1, 60)
    )
    b = tree.child("b")
    error = Boom("again")
    b.tell(error)
    b.tell(error)
    asker = b.ask(1, block=False)
    assert tree.join(PATIENCE_S)
    assert not tree.is_alive()
    assert isinstance(tree.error, RestartsExceeded)
    assert tree.error.__cause__ is error
    assert "top gave up: 'b' would need restart number 2 within 60 s" in str(tree.error)
    assert stopped == ["a"]
    with pytest.raises(ActorDeadError):
        asker.get(timeout=PATIENCE_S)
    assert stand.heard.kinds()[-4:] == [("crashed", "b"), ("gave_up", None), ("shut_down", "a"), ("ended", None)]
    assert {child.state for child in tree.which_children()} == {"stopped"}


def test_a_subtree_that_gives_up_is_restarted_by_the_supervisor_above_and_its_refs_survive(stand: Stand) -> None:
    below = SupervisorSpec([ChildSpec("x", Cell), ChildSpec("y", Cell)], restart=Restart(0))
    tree = stand.start(ChildSpec("sub", below))
    x, y = tree.child("sub/x"), tree.child("sub/y")
    refs = x.ref, y.ref
    assert (x.ask(1), y.ask(1)) == (1, 1)
    x.tell(Boom())
    stand.wait_for(ReportKind.RESTARTED, "sub")
    assert (x.ref, y.ref) == refs
    assert (x.ask(1, timeout=PATIENCE_S), y.ask(1, timeout=PATIENCE_S)) == (1, 1)
    assert tree.child("sub/x") is x


@pytest.mark.parametrize("restart", ["permanent", "temporary"])
def test_a_supervisor_that_crashes_itself_leaves_no_child_behind(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, restart: str
) -> None:
    handle, defects = Supervision.handle, ["a defect of the supervisor"]

    def fails_once(machine: Supervision, event: Any, now: float, time: float) -> Any:
        if isinstance(event, ChildEnded) and machine.path == "top/sub" and defects:
            raise Boom(defects.pop())
        return handle(machine, event, now, time)

    monkeypatch.setattr(Supervision, "handle", fails_once)
    below = SupervisorSpec([ChildSpec("x", Cell), ChildSpec("y", Cell)])
    tree = stand.start(ChildSpec("sub", below, restart=restart))
    x, y = tree.child("sub/x"), tree.child("sub/y")
    old = y.ref._actor_weakref()
    assert y.ask(5) == 5
    x.tell(Boom())
    if restart == "temporary":
        stand.wait_for(ReportKind.CRASHED, "sub")
        assert not x.is_alive()
        assert not y.is_alive()
        return
    stand.wait_for(ReportKind.RESTARTED, "sub")
    assert (x.ask(1, timeout=PATIENCE_S), y.ask(1, timeout=PATIENCE_S)) == (1, 1)
    assert y.ref._actor_weakref() is not old


def test_a_supervisor_that_was_stopped_and_started_again_is_told_by_its_children_directly(stand: Stand) -> None:
    tree = stand.start(ChildSpec("sub", SupervisorSpec([ChildSpec("x", Cell)], restart=MANY)))
    for _ in range(3):
        tree.terminate_child("sub")
        tree.restart_child("sub")
    x: Any = tree.child("sub/x")
    assert x.ref._parent is tree.child("sub").ref.actor_inbox
    x.tell(Boom())
    assert x.ask(1, timeout=PATIENCE_S) == 1


def test_a_supervisor_that_does_not_stop_in_time_is_cut_off_with_all_below(threads: Stand) -> None:
    hold = Hold()
    deep = SupervisorSpec([ChildSpec("stuck", Cell, shutdown="infinity"), ChildSpec("z", Cell)])
    below = SupervisorSpec([ChildSpec("deep", deep), ChildSpec("y", Cell)])
    tree = threads.start(ChildSpec("sub", below, shutdown=0.01))
    handles = [tree.child(path) for path in ("sub/deep/stuck", "sub/deep/z", "sub/deep", "sub/y", "sub")]
    hold.hold(handles[0])
    assert tree.stop(PATIENCE_S)
    assert [handle.is_alive() for handle in handles] == [False] * 5
    hold.go.set()


def test_what_an_older_instance_still_says_is_not_taken_for_the_present_one(simulated: Stand) -> None:
    tree = simulated.start(ChildSpec("a", Cell), restart=Restart(10, backoff=5))
    top: Any = tree._ref
    urn = tree.child("a").ref.actor_urn
    top.tell(ActorCrashed(actor="Cell", urn=urn, error=Boom(), undelivered=0, incarnation=7))
    top.tell(ActorStopped(urn=urn, incarnation=7))
    simulated.dispatchers.run_to_rest()
    assert [kind for kind, _ in simulated.heard.kinds()] == ["started"]
    tree.child("a").tell(Boom())
    simulated.dispatchers.run_to_rest()
    top.tell(SupervisorTimer(timer=1, incarnation=7))
    simulated.dispatchers.run_to_rest()
    assert tree.tree()["a"].state == "restarting", "the timer was another instance's"


def test_a_report_that_its_hearer_cannot_take_harms_no_supervisor() -> None:
    def fails(report: Report) -> None:
        raise Boom

    with start_supervisor(SupervisorSpec([ChildSpec("a", Cell)]), "top", on_report=fails) as tree:
        assert tree.child("a").ask(1) == 1
    assert [str(report.kind) for report in tree.reports()] == ["started", "shut_down", "ended"]


# Watching ------------------------------------------------------------------------------------------------------------


class Watcher(Actor):
    """Notes deaths."""

    receives: ClassVar[tuple[type, ...]] = (ActorDied,)

    def __init__(self) -> None:
        super().__init__()
        self.died: list[ActorDied] = []

    def on_actor_died(self, message: ActorDied) -> None:
        self.died.append(message)

    def on_receive(self, message: Any) -> Any:
        return [(died.urn, died.error) for died in self.died]


def test_who_watches_a_child_is_told_when_it_ends_for_good_and_not_when_it_is_restarted(stand: Stand) -> None:
    error = Boom("for good")
    tree = stand.start(
        ChildSpec("a", Cell), ChildSpec("once", Cell, restart="temporary"), ChildSpec("watcher", Watcher)
    )
    watcher = tree.child("watcher")
    a, once = tree.child("a"), tree.child("once")
    tree.watch("a", watcher.ref)
    tree.watch("a", watcher.ref)
    tree.watch("once", watcher.ref)
    a.tell(Boom())
    a.ref.stop()
    stand.wait_for(ReportKind.RESTARTED, "a", 2)
    once.tell(error)
    stand.wait_for(ReportKind.CRASHED, "once")
    assert watcher.ask("who died?", timeout=PATIENCE_S) == [(once.ref.actor_urn, error)]
    tree.terminate_child("a")
    assert watcher.ask("who died?", timeout=PATIENCE_S)[1:] == [(a.ref.actor_urn, None)]


@pytest.mark.parametrize("kind", [Cell, Foreign])
@pytest.mark.parametrize("end", ["stop", "crash", "before"])
def test_any_actor_can_be_watched(kind: type[Any], end: str) -> None:
    error = Boom()
    told = threading.Event()

    class Telling(Watcher):
        def on_actor_died(self, message: ActorDied) -> None:
            super().on_actor_died(message)
            told.set()

    watcher, watched = Telling.start(), kind.start()
    if end == "before":
        watched.stop()
    watch(watched, watcher)
    if end == "stop":
        watched.stop()
    elif end == "crash":
        watched.tell(error)
    assert told.wait(PATIENCE_S)
    assert watcher.ask("who died?") == [(watched.actor_urn, error if end == "crash" else None)]
    watcher.stop()


@pytest.mark.parametrize("kind", [Cell, Foreign])
def test_who_watches_no_more_is_not_told(kind: type[Any]) -> None:
    watcher, watched = Watcher.start(), kind.start()
    watch(watched, watcher)
    unwatch(watched, watcher)
    unwatch(watched, watcher)
    watched.stop()
    assert watcher.ask("who died?") == []
    watcher.stop()


def test_a_watcher_that_has_ended_harms_nobody() -> None:
    first, second, watched = Watcher.start(), Watcher.start(), Cell.start()
    watch(watched, first)
    watch(watched, second)
    first.stop()
    watched.stop()
    assert second.ask("who died?") == [(watched.actor_urn, None)]
    second.stop()


# Everything at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
def test_no_message_is_lost_on_threads_while_children_crash_under_load(threads: Stand, strategy: str) -> None:
    """Each message is handled once: by an instance that crashes at it, or by one that counts it."""
    senders, each = 3, 400
    lock = threading.Lock()
    seen: list[tuple[int, int]] = []
    complete = threading.Event()

    class Counting(Actor):
        def on_receive(self, message: Any) -> None:
            with lock:
                seen.append(message)
                if len(seen) == 2 * senders * each:
                    complete.set()
            if message[1] % 50 == 7:
                raise Boom

    tree = threads.start(
        ChildSpec("a", Counting), ChildSpec("b", Counting), strategy=strategy, restart=Restart(100_000, 5)
    )
    handles = tree.child("a"), tree.child("b")
    together = threading.Barrier(senders)

    def send(sender: int) -> None:
        together.wait()
        for number in range(each):
            for handle in handles:
                handle.tell((sender, number))

    workers = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for worker in workers:
        worker.start()
    assert complete.wait(PATIENCE_S)
    for worker in workers:
        worker.join()
    assert sorted(seen) == sorted(
        (sender, number) for sender in range(senders) for number in range(each) for _ in handles
    )


@pytest.mark.parametrize("seed", range(50))
def test_a_tree_under_crashes_at_random_moments_always_ends_in_order(seed: int) -> None:
    """Whatever is under way when a crash, a stop or a request comes: nobody hangs, and no instance is left."""
    dispatchers = SimulatedDispatchers(seed)
    alive: set[str] = set()

    class Living(Actor):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def on_start(self) -> None:
            assert self.name not in alive, "two instances at a time"
            alive.add(self.name)
            if dispatchers.entropy() % 5 == 0:
                alive.discard(self.name)
                raise Boom("in on_start")

        def on_receive(self, message: Any) -> None:
            if dispatchers.entropy() % 3 == 0:
                alive.discard(self.name)
                raise Boom

        def on_stop(self) -> None:
            alive.discard(self.name)

    def specs(names: str) -> list[ChildSpec]:
        kinds = ("permanent", "transient", "temporary")
        return [ChildSpec(name, Living, args=(name,), restart=kinds[dispatchers.entropy() % 3]) for name in names]

    strategies = ("one_for_one", "one_for_all", "rest_for_one")
    below = SupervisorSpec(specs("xy"), strategy=strategies[seed % 3], restart=Restart(3, 5))
    children = [*specs("ab"), ChildSpec("sub", below), *specs("c")]
    spec = SupervisorSpec(children, strategy=strategies[seed // 3 % 3], restart=Restart(20, 5, backoff=seed % 2))
    try:
        tree = start_supervisor(spec, "top", dispatchers=dispatchers)
    except StartFailed:
        assert alive == set()
        return
    handles = [tree.child(path) for path in ("a", "b", "c", "sub/x", "sub/y")]
    requests: tuple[Callable[[], Any], ...] = (
        lambda: tree.terminate_child("b"), lambda: tree.restart_child("b"), lambda: tree.terminate_child("sub/x"),
    )  # fmt: skip
    for number in range(60):
        for handle in handles:
            if handle.is_alive():
                handle.tell(number)
        if number % 7 == 0:
            try:
                requests[number % 3]()
            except (ChildRefused, StartFailed, LookupError, ActorDeadError):
                continue
        else:
            dispatchers.step()
    assert tree.stop(1_000)
    assert alive == set()
    dispatchers.run_to_rest()
    assert all(not handle.is_alive() for handle in handles)
