"""Restarts of the runtime's actors, one at a time: how often and when, what is told of them, and what is final."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from loguru import logger

from seqtor import (
    Access,
    HandlerFailed,
    Life,
    NotRunning,
    OutcomeUnknown,
    Restart,
    State,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers, Write
from seqtor.actors.base import Actor, Ref
from seqtor.actors.committer import Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.journal.contract import Group as RowGroup
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import AcceptTriggers, CommitRun, RunsSequenced
from seqtor.messages.lifecycle import ActorCrashed, Drain
from seqtor.root import Group, Root
from tests.programs import WAIT_S, Deposit, Gate, open_bank, threaded

# The root and its groups ---------------------------------------------------------------------------------------------


class Boom(Exception):
    """What goes wrong in these tests."""


class Crash:
    """Told to an actor that is to crash."""


class Fragile(Actor):
    """Crashes when it is told to."""

    receives: ClassVar[tuple[type, ...]] = (Crash,)

    def on_crash(self, _: Crash) -> None:
        raise Boom


class Household:
    """A root on a virtual clock, with one group of two actors."""

    def __init__(self, policy: Restart) -> None:
        self.dispatchers = dispatchers = SimulatedDispatchers(0)
        recovered = ReplyFuture()
        recovered.driver = dispatchers
        self.ended: list[tuple[str, BaseException]] = []
        self.restarted: list[float] = []
        self.helps = True
        ref = Root.start_on(
            dispatchers.core, (), recovered, dispatchers.clock, dispatchers.timers, 0,
            lambda actor, error: self.ended.append((actor, error)),
        )  # fmt: skip
        self.root: Any = ref._actor_weakref()
        recovered.get()
        self.refs = tuple(
            Fragile.start_on(dispatchers.core, parent=ref.actor_inbox, restartable=True) for _ in range(2)
        )
        self.group = Group("both", self.refs, policy, self._restart, lambda: self.helps)
        self.root.supervise(self.group)
        dispatchers.run_to_rest()

    @property
    def now(self) -> float:
        return self.dispatchers.clock.monotonic()

    def _restart(self, _: ActorCrashed) -> None:
        self.restarted.append(self.now)
        for ref in self.refs:
            ref.restart()

    def crash(self, *refs: Ref) -> None:
        for ref in refs or self.refs[:1]:
            ref.tell(Crash())
        self.dispatchers.run_to_rest()

    def pass_time(self, seconds: float) -> None:
        clock = self.dispatchers.clock
        until = clock.monotonic() + seconds
        self.dispatchers.run_until(lambda: clock.monotonic() >= until, seconds)
        self.dispatchers.run_to_rest()


def test_all_of_a_group_are_restarted_when_one_crashes_and_both_crashing_is_one_restart() -> None:
    household = Household(Restart(intensity=1))
    household.crash(*household.refs)
    assert (household.group.restarts, len(household.restarted), household.ended) == (1, 1, [])
    assert [ref.incarnation for ref in household.refs] == [2, 2]
    assert all(ref.is_alive() and not ref.suspended for ref in household.refs)


def test_the_window_allows_as_many_restarts_as_it_says_and_one_more_gives_up() -> None:
    household = Household(Restart(intensity=3, period=10))
    for crashes in range(1, 4):
        household.crash()
        assert (household.group.restarts, household.ended) == (crashes, [])
    household.crash()
    assert household.group.restarts == 3
    [(actor, error)] = household.ended
    assert (actor, type(error)) == ("Fragile", Boom)
    assert household.root.gave_up
    assert not any(ref.is_alive() for ref in household.refs), "who was suspended must not keep anyone waiting"


def test_restarts_that_the_period_has_left_behind_do_not_count() -> None:
    household = Household(Restart(intensity=1, period=10))
    for _ in range(5):
        household.crash()
        household.pass_time(10.5)
    assert (household.group.restarts, household.ended) == (5, [])


def test_with_a_window_of_nothing_the_first_crash_gives_up() -> None:
    household = Household(Restart(intensity=0))
    household.crash()
    assert (household.restarted, len(household.ended)) == ([], 1)


def test_each_restart_within_the_period_waits_twice_as_long_by_a_timer() -> None:
    household = Household(Restart(intensity=10, period=3600, backoff=1, backoff_max=3))
    waited = []
    for _ in range(4):
        household.crash()
        before = household.now
        assert household.group.waits
        assert all(ref.suspended for ref in household.refs), "nobody handles messages while a group waits"
        household.pass_time(30)
        assert not household.group.waits
        waited.append(household.restarted[-1] - before)
    assert waited == pytest.approx([1, 2, 3, 3])


def test_what_arrives_while_a_group_waits_is_handled_after_its_restart() -> None:
    household = Household(Restart(intensity=2, period=3600, backoff=1))
    household.crash()
    household.crash(*household.refs)  # Waits in the mailboxes.
    assert (household.group.restarts, household.root.gave_up) == (0, False)
    household.pass_time(10)
    assert household.group.restarts == 2


def test_a_second_report_while_a_group_waits_is_no_second_restart() -> None:
    household = Household(Restart(intensity=1, period=3600, backoff=1))
    household.crash()
    other = household.refs[1]
    report = ActorCrashed(actor="Fragile", urn=other.actor_urn, error=Boom(), undelivered=0, incarnation=1)
    household.root.tell_self(report)
    household.pass_time(10)
    assert (household.group.restarts, household.ended) == (1, [])


def test_a_report_of_an_instance_that_was_replaced_is_no_news() -> None:
    household = Household(Restart(intensity=1))
    household.crash()
    old = ActorCrashed(actor="Fragile", urn=household.refs[1].actor_urn, error=Boom(), undelivered=0, incarnation=1)
    household.root.tell_self(old)
    household.dispatchers.run_to_rest()
    assert (household.group.restarts, household.ended) == (1, [])


def test_a_restart_that_was_due_when_the_system_gave_up_does_not_come() -> None:
    household = Household(Restart(intensity=1, period=3600, backoff=5))
    household.crash()
    lone = Fragile.start_on(household.dispatchers.core, parent=household.root.actor_inbox, restartable=True)
    household.root.supervise(Group("lone", [lone], Restart(intensity=0), lambda _: None))
    household.crash(lone)
    assert [type(error) for _, error in household.ended] == [Boom]
    assert not any(ref.is_alive() for ref in (lone, *household.refs))
    household.pass_time(10)
    assert household.restarted == []
    assert len(household.ended) == 1


def test_what_no_restart_helps_is_final_at_once() -> None:
    household = Household(Restart(intensity=10))
    household.helps = False
    household.crash()
    assert (household.restarted, len(household.ended)) == ([], 1)
    assert not any(ref.is_alive() for ref in household.refs)


def test_the_crash_of_an_actor_that_nothing_restarts_gives_up() -> None:
    household = Household(Restart(intensity=10))
    stranger = Fragile.start_on(household.dispatchers.core, parent=household.root.actor_inbox)
    household.crash(stranger)
    assert [actor for actor, _ in household.ended] == ["Fragile"]


def test_a_restart_that_raises_gives_up() -> None:
    household = Household(Restart(intensity=10))

    def fail(_: ActorCrashed) -> None:
        raise ZeroDivisionError

    household.group.restart = fail
    household.crash()
    assert [(actor, type(error)) for actor, error in household.ended] == [("Root", ZeroDivisionError)]
    assert not any(ref.is_alive() for ref in household.refs)


# Stores of one's own -------------------------------------------------------------------------------------------------


class Put(Trigger[int]):
    """Writes a number."""

    value: int = 1


class Moody(StoreActor[int, Any]):
    """A number, on a thread of its own; crashes as often as the test says, and closes when it says."""

    crashes = 0
    validated: ClassVar[list[float]] = []
    clock: ClassVar[Any] = None
    closing: ClassVar[Gate | None] = None

    def recover(self, checkpoint: Checkpoint | None) -> int:
        return 0

    def validate(self, old: int, new: int, commit: Commit) -> None:
        if Moody.clock is not None:
            Moody.validated.append(Moody.clock.monotonic())
        if Moody.crashes:
            Moody.crashes -= 1
            raise Boom("moody")

    def close(self) -> None:
        if Moody.closing is not None:
            Moody.closing.pass_through()

    @staticmethod
    def fold(state: int, writes: Sequence[Write]) -> int:
        return int(writes[-1].op)

    @staticmethod
    def view(access: Access[int]) -> Access[int]:
        return access


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("crashes", 0), ("validated", []), ("clock", None), ("closing", None)):
        monkeypatch.setattr(Moody, name, value)


def with_moody(system: Supervisor, **options: Any) -> Any:
    store = system.store("moody", Moody.spec(), **options)

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> int:
        tx[store].write("value", trigger.value)
        return trigger.value

    return store


def on_virtual_time(**options: Any) -> tuple[Supervisor, SimulatedDispatchers]:
    dispatchers = SimulatedDispatchers(0)
    return Supervisor(dispatchers=lambda _: dispatchers, **options), dispatchers


def test_a_store_waits_for_its_restarts_as_its_own_policy_says() -> None:
    system, dispatchers = on_virtual_time()
    with_moody(system, restart=Restart(intensity=10, period=3600, backoff=4))
    Moody.clock = dispatchers.clock
    with system:
        Moody.crashes = 2
        assert system.ask(Put(value=5)) == 5
        assert Moody.validated == pytest.approx([0, 4, 12])
        assert system.stats().restarts == 2


def test_a_stores_own_window_counts_for_it_and_not_that_of_the_settings() -> None:
    system, _ = on_virtual_time(settings={"restart_intensity": 0})
    open_bank(system)
    with_moody(system, restart=Restart(intensity=2))
    with system:
        Moody.crashes = 2
        assert system.ask(Put()) == 1
        Moody.crashes = 1
        put = system.submit(Put())
        with pytest.raises(NotRunning, match="StoreCell crashed: Boom: moody"):
            for _ in range(100):
                system.ask(Deposit())
        with pytest.raises((OutcomeUnknown, HandlerFailed)):
            put.result()
        assert system.wait(0).life is Life.BROKEN_DOWN


def test_restarts_are_seen_in_the_statistics_and_in_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    system, _ = on_virtual_time()
    open_bank(system)
    with_moody(system, restart=Restart(intensity=10))
    with system:
        assert system.stats().restarts == 0
        assert {each.restarts for each in system.tree()} == {0}
        Moody.crashes = 2
        system.ask(Put())
        tree = system.tree()
        assert (tree["stores/moody"].restarts, tree["stores/accounts"].restarts) == (2, 0)
        assert "moody (running, 2 restarts)" in str(tree)
        once(monkeypatch, Committer, CommitRun)
        system.ask(Deposit())
        tree = system.tree()
        assert {tree[f"core/{name}"].restarts for name in ("sequencer", "coordinator", "committer")} == {1}
        assert system.stats().restarts == 3


def test_a_store_that_waits_for_its_restart_is_shown_as_restarting() -> None:
    system, dispatchers = on_virtual_time()
    store = with_moody(system, restart=Restart(intensity=10, backoff=5))
    with system:
        Moody.crashes = 1
        put = system.submit(Put(value=7))
        while dispatchers.clock.monotonic() == 0 and system.tree()["stores/moody"].state == "running":
            dispatchers.step()
        assert system.tree()["stores/moody"].state == "restarting"
        assert put.result() == 7
        assert system.tree()["stores/moody"].state == "running"
        assert system.snapshot()[store].state == 7


def test_the_stop_waits_for_a_stores_close_as_long_as_its_shutdown_says() -> None:
    system = threaded(threads=2)
    with_moody(system, shutdown=0.01)
    warned: list[str] = []
    sink = logger.add(lambda message: warned.append(str(message)), level="WARNING")
    gate = Moody.closing = Gate()
    try:
        logger.enable("seqtor")
        with system:
            assert system.ask(Put(), timeout=WAIT_S) == 1
    finally:
        logger.remove(sink)
        logger.disable("seqtor")
        gate.open()
    assert any("StoreCell" in text and "did not stop in time" in text for text in warned), warned


def test_a_stop_while_a_store_waits_for_its_restart_is_a_stop_like_any_other() -> None:
    """The stop of another store takes longer than the wait: the restart is due when its store is gone."""
    system = threaded(threads=2)
    other = system.store("other", Slow.spec())
    with_moody(system, restart=Restart(intensity=10, backoff=0.3))

    @system.on(Trigger2)
    def both(trigger: Trigger2, tx: Transaction) -> None:
        tx[other].write("value", 1)

    crashed = threading.Event()
    Slow.root = None
    system.start()
    Moody.crashes = 1
    system.submit(Put())
    del crashed
    while system.tree()["stores/moody"].state != "restarting":
        pass
    Slow.root = system._running._root  # type: ignore[union-attr]
    system.stop(grace=0.0)
    assert system.wait(WAIT_S).life is Life.STOPPED, system.wait(0)


class Trigger2(Trigger[None]):
    """Writes to the other store."""


class Slow(StoreActor[int, Any]):
    """Closes only when the root has come to a restart that is due."""

    root: ClassVar[Any] = None

    def recover(self, checkpoint: Checkpoint | None) -> int:
        return 0

    def close(self) -> None:
        if Slow.root is not None:
            threading.Event().wait(0.6)

    @staticmethod
    def fold(state: int, writes: Sequence[Write]) -> int:
        return int(writes[-1].op)

    @staticmethod
    def view(access: Access[int]) -> Access[int]:
        return access


# The core ------------------------------------------------------------------------------------------------------------


def once(monkeypatch: pytest.MonkeyPatch, actor: type[Actor], kind: type) -> list[int]:
    """Have an actor crash at the next message of a kind; the returned list counts."""
    handle = actor._methods[kind]
    crashes: list[int] = []

    def crash_once(self: Any, message: Any) -> Any:
        if not crashes:
            crashes.append(1)
            raise Boom(f"at a {kind.__name__}")
        return handle(self, message)

    monkeypatch.setitem(actor._methods, kind, crash_once)
    return crashes


@pytest.mark.parametrize(
    ("actor", "kind"),
    [(Sequencer, AcceptTriggers), (Coordinator, RunsSequenced), (Committer, CommitRun), (Sequencer, Drain),
     (Coordinator, Drain)],
)  # fmt: skip
@pytest.mark.parametrize("journal", [None, MemoryBackend])
def test_a_stop_goes_on_when_the_core_crashes_in_its_drain(
    journal: Any, actor: type[Actor], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, dispatchers = on_virtual_time(journal=journal and journal())
    accounts = open_bank(system)
    system.start()
    submissions = system.submit_many([Deposit()] * 20)
    crashes = once(monkeypatch, actor, kind)
    before = dispatchers.clock.monotonic()
    system.stop(grace=1000)
    assert crashes
    assert [submission.result() for submission in submissions] == list(range(1, 21))
    assert system.snapshot()[accounts]["alice"].balance == 20
    assert system.wait(0).life is Life.STOPPED
    assert dispatchers.clock.monotonic() - before < 100, "nobody waited for the grace to be over"


# The journal ---------------------------------------------------------------------------------------------------------


class BadDisk(MemoryBackend):
    """Fails once when it is told to."""

    fails = False

    def append(self, group: RowGroup) -> None:
        if self.fails:
            self.fails = False
            raise OSError("input/output error")
        super().append(group)


def test_a_medium_that_fails_is_final_although_the_journals_actor_could_be_restarted() -> None:
    backend = BadDisk()
    system, _ = on_virtual_time(journal=backend)
    open_bank(system)
    with system:
        assert system.ask(Deposit()) == 1
        backend.fails = True
        deposit = system.submit(Deposit())
        with pytest.raises(OutcomeUnknown, match="input/output error"):
            deposit.result()
        assert system.wait(0).reason == "Journal crashed: OSError: input/output error"
        with pytest.raises(NotRunning):
            system.submit(Deposit())
        assert system.tree()["journal"].restarts == 0
    system, _ = on_virtual_time(journal=backend)
    accounts = open_bank(system)
    with system:
        assert system.snapshot()[accounts]["alice"].balance in (1, 2)
        assert system.record(1) is None or system.record(1).state is State.COMMITTED  # type: ignore[union-attr]
