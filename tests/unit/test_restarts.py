"""Restarts of the runtime's actors, one at a time: how often and when, what is told of them, and what is final."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from loguru import logger

from seqtor import (
    Aborted,
    Access,
    EffectContext,
    Life,
    NotRunning,
    OutcomeUnknown,
    Rejected,
    Restart,
    State,
    StoreActor,
    StoreUnavailable,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers, Write
from seqtor.actors.base import Actor, Ref
from seqtor.actors.committer import Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.effects import Effects
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.journal import actor as journal_actor
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart
from seqtor.actors.journal.contract import Group as RowGroup
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.ledger import Ledger
from seqtor.actors.publications import Publication
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import AcceptTriggers, CommitRun, RunsSequenced
from seqtor.messages.commits import CommitJudged
from seqtor.messages.effects import EffectExecuted
from seqtor.messages.journal import AppendIntake, AwaitDurable, FinishCheckpoint, KeepCheckpointPart
from seqtor.messages.lifecycle import ActorCrashed, Drain
from seqtor.messages.runs import AbortRun, GetConflicts, GetRecord, GetRuns, GetStats
from seqtor.messages.stores import ValidationDone
from seqtor.root import Group, Root
from tests.programs import WAIT_S, Account, Deposit, Gate, open_bank, threaded

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
            lambda actor, error, _why: self.ended.append((actor, error)), lambda *_: None,
        )  # fmt: skip
        root: Any = ref._actor_weakref()
        self.root = root
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
    """A number, on a thread of its own; crashes, or is away, as often as the test says, and closes when it says."""

    crashes = 0
    away = 0
    validated: ClassVar[list[float]] = []
    clock: ClassVar[Any] = None
    closing: ClassVar[Gate | None] = None

    def recover(self, checkpoint: Checkpoint | None) -> int:
        return 0

    def validate(self, old: int, new: int, commit: Commit) -> None:
        if Moody.clock is not None:
            Moody.validated.append(Moody.clock.monotonic())
        if Moody.away:
            Moody.away -= 1
            raise StoreUnavailable(retry_after=100)
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
    for name, value in (("crashes", 0), ("away", 0), ("validated", []), ("clock", None), ("closing", None)):
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
        put = system.submit(Put(value=2))  # Another value, or nothing is validated.
        with pytest.raises((NotRunning, OutcomeUnknown), match="StoreCell crashed: Boom: moody"):
            system.ask(Deposit())
        with pytest.raises(OutcomeUnknown, match="StoreCell crashed: Boom: moody"):
            put.result()
        with pytest.raises(NotRunning, match="StoreCell crashed: Boom: moody"):
            system.submit(Put())
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
        assert "moody (running, 2 restarts" in str(tree)
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


class Slow(Moody):
    """Takes its time to close."""

    dispatchers: ClassVar[Any] = None

    def close(self) -> None:
        until = Slow.dispatchers.clock.monotonic() + 60
        Slow.dispatchers.run_until(lambda: Slow.dispatchers.clock.monotonic() >= until, 60)
        Slow.dispatchers.run_to_rest()


def test_a_restart_that_is_due_when_its_store_is_stopped_already_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, dispatchers = on_virtual_time()
    monkeypatch.setattr(Slow, "dispatchers", dispatchers)
    system.store("slow", Slow.spec())
    with_moody(system, restart=Restart(intensity=10, backoff=5))
    system.start()
    Moody.crashes = 1
    put = system.submit(Put())
    while system.tree()["stores/moody"].state != "restarting":
        dispatchers.step()
    system.stop(grace=0)
    with pytest.raises(NotRunning, match="nothing of it was written"):
        put.result()
    assert dispatchers.clock.monotonic() > 5, "the restart was due"
    assert system.wait(0).life is Life.STOPPED


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


def crash_core(system: Supervisor, *told: tuple[str, Any]) -> None:
    """Have the core rebuilt, with these messages in the mailboxes of its actors; they come first."""
    running: Any = system._running
    group = running._root.groups[0]
    for ref in group.refs:
        ref.suspend()
    for actor, message in told:
        getattr(running._path, f"{actor}_ref").actor_inbox.put_first(message)
    group.restart(None)


@contextlib.contextmanager
def stopping(system: Supervisor) -> Iterator[None]:
    """Stop a system that runs already."""
    try:
        yield
    finally:
        system.stop()


def behind_a_store_that_is_away() -> tuple[Supervisor, SimulatedDispatchers, Any, Any]:
    """A running system whose first run waits for its store, and whose second waits for the first."""
    system, dispatchers = on_virtual_time()
    open_bank(system)
    with_moody(system)
    system.start()
    Moody.away = 1
    put, deposit = system.submit(Put()), system.submit(Deposit())
    while Moody.away or deposit.seq is None:
        dispatchers.step()
    return system, dispatchers, put, deposit


def test_an_abort_that_was_decided_outlives_a_crash_of_the_core() -> None:
    system, _, put, deposit = behind_a_store_that_is_away()
    with stopping(system):
        system.abort(2, "not wanted")
        assert not deposit.done
        crash_core(system)
        with pytest.raises(Aborted, match="not wanted"):
            deposit.result()
        assert put.result() == 1


@pytest.mark.parametrize(
    ("actor", "ask"),
    [
        ("coordinator", lambda reply: AbortRun(seq=2, reason="not wanted", reply_to=reply)),
        ("coordinator", lambda reply: AwaitDurable(seq=2, reply_to=reply)),
        ("sequencer", lambda reply: GetStats(reply_to=reply)),
        ("sequencer", lambda reply: Drain(reply_to=reply)),
        ("coordinator", lambda reply: Drain(reply_to=reply)),
        ("committer", lambda reply: GetRecord(reply_to=reply, seq=1)),
        ("committer", lambda reply: GetRuns(reply_to=reply, before=None, count=5)),
        ("committer", lambda reply: GetConflicts(reply_to=reply)),
    ],
)
def test_who_asked_before_the_core_crashed_is_answered(actor: str, ask: Any) -> None:
    system, dispatchers, _, _ = behind_a_store_that_is_away()
    with stopping(system):
        reply = ReplyFuture()
        reply.driver = dispatchers
        crash_core(system, (actor, ask(reply)))
        reply.get(timeout=1000)


def numbered(system: Supervisor, dispatchers: SimulatedDispatchers) -> Submission[int]:
    """A deposit that has its seq."""
    submission = system.submit(Deposit())
    while submission.seq is None:
        dispatchers.step()
    return submission


def test_who_had_a_seq_of_which_nobody_was_told_is_not_later_than_those_behind_it() -> None:
    """The sequencer goes on before the coordinator has made the runs of the core before it."""
    system, dispatchers = on_virtual_time()
    open_bank(system)
    with system:
        coordinator = system._running._path.coordinator_ref.actor_inbox  # type: ignore[union-attr]
        with dispatchers.holding(coordinator):
            submissions = [numbered(system, dispatchers)]
            crash_core(system)
            submissions.append(numbered(system, dispatchers))
            dispatchers.clock.advance_to(5.0)
            submissions.append(numbered(system, dispatchers))
        assert [each.result() for each in submissions] == [1, 2, 3]
        times = [system.record(seq).sequenced_at for seq in (1, 2, 3)]
        assert times == sorted(times)
        assert times[1] < times[2]


def test_a_stores_answer_to_an_older_epoch_decides_nothing() -> None:
    system, _, put, _ = behind_a_store_that_is_away()
    with stopping(system):
        crash_core(system)
        running: Any = system._running
        index = next(ref.index for ref in running._stores if ref.name == "moody")
        path = running._path
        while not path.order._turn.asked:
            running._dispatchers.step()
        old = path.ledger.epoch - 1
        refusal = ValidationDone(store=index, seq=1, attempt=1, epoch=old, error=Rejected("stale"))
        path.committer_ref.actor_inbox.put_first(refusal)
        assert put.result() == 1


def test_a_judgement_for_an_older_epoch_decides_nothing() -> None:
    system, dispatchers = on_virtual_time()
    with_moody(system)
    with system:
        put = system.submit(Put())
        running: Any = system._running
        while running._path.order._turn.intent is None:
            dispatchers.step()
        path = running._path
        assert not path.order._turn.asked
        path.committer_ref.actor_inbox.put_first(
            CommitJudged(
                seq=1, attempt=1, outcome=State.REJECTED, resolved=(), error=Rejected("stale"),
                epoch=path.ledger.epoch - 1,
            )
        )  # fmt: skip
        assert put.result() == 1


def test_what_was_durable_and_not_answered_when_the_coordinator_crashed_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last run of all: no later group would say once more what is durable."""
    system, _ = on_virtual_time(journal=MemoryBackend())
    open_bank(system)
    answer_durable, crashes = Coordinator._durable, []

    def crash_once(self: Any) -> None:
        ledger = self._ledger
        if not crashes and ledger.undurable and ledger.durable_through >= ledger.undurable[0].seq:
            crashes.append(1)
            raise Boom("before anyone was answered")
        answer_durable(self)

    monkeypatch.setattr(Coordinator, "_durable", crash_once)
    with system:
        assert system.ask(Deposit(), timeout=1000) == 1
        assert crashes


# Effects -------------------------------------------------------------------------------------------------------------


def test_a_worker_whose_report_was_lost_in_a_crash_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system, dispatchers = on_virtual_time()
    accounts = open_bank(system)
    tried: list[str] = []

    @system.effect("note")
    def note(context: EffectContext, put: Put) -> None:
        tried.append(context.key)

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> int:
        tx[accounts]["bob"] = Account()
        tx.effect(note, trigger)
        return 1

    crashes = once(monkeypatch, Effects, EffectExecuted)
    with system:
        system.ask(Put())
        while system.stats().effects_through < 1:
            dispatchers.step()
        dispatchers.run_to_rest()
        running: Any = system._running
        _, busy = running._effects._workforce.all()
        assert crashes
        assert busy == []
        assert len(tried) == 2
        assert len(set(tried)) == 1, "under the same key"


class Returned:
    """Stands in for what an effect submits."""

    def __init__(self) -> None:
        self._intake = SimpleNamespace(open={})


def test_an_effect_ends_once_also_when_its_end_is_noted_twice() -> None:
    told: list[Any] = []
    ledger = Ledger(Publication(0, 0, (), {}), 1, 0.0)
    effects: Any = ["first", "second"]
    left: Any = {1: {1: "second"}}
    ledger.open_effects_of(1, effects)
    submission: Any = Returned()
    for _ in range(2):
        ledger.end_effect(1, 0, submission, SimpleNamespace(tell=told.append))  # type: ignore[arg-type]
        assert ledger.open_effects == left
    assert len(told) == 1
    ledger.end_effect(1, 1, None, SimpleNamespace(tell=told.append))  # type: ignore[arg-type]
    ledger.open_effects_of(1, effects)
    assert ledger.open_effects == {}, "what has ended is not opened again"


# The journal ---------------------------------------------------------------------------------------------------------


class BadDisk(MemoryBackend):
    """Fails once when it is told to."""

    fails = False

    def append(self, group: RowGroup) -> None:
        if self.fails:
            self.fails = False
            raise OSError("input/output error")
        super().append(group)


def test_what_was_written_and_not_reported_when_the_journals_actor_crashed_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last group of all: only the restart can say that it is durable."""
    system, _ = on_virtual_time(journal=MemoryBackend())
    open_bank(system)
    write, crashes = Journal._write, []

    def crash_once(self: Any, how: Any, *what: Any) -> Any:
        found = write(self, how, *what)
        if not crashes and isinstance(what[0], RowGroup) and what[0].commits:
            crashes.append(1)
            raise Boom("after the group was on disk")
        return found

    monkeypatch.setattr(Journal, "_write", crash_once)
    with system:
        assert system.ask(Deposit(), timeout=1000) == 1
        assert crashes
        assert system.tree()["journal"].restarts == 1


def test_what_was_accepted_without_a_row_when_the_journals_actor_crashed_gets_one() -> None:
    backend = MemoryBackend()
    system, dispatchers = on_virtual_time(journal=backend)
    with_moody(system)
    with system:
        Moody.away = 1
        put = system.submit(Put())
        running: Any = system._running
        while put not in running.journal.actor._accepted:
            dispatchers.step()
        [group] = [each for each in running._root.groups if each.name == "the journal"]
        for ref in group.refs:
            ref.suspend()
        group.restart(None)
        until = dispatchers.clock.monotonic() + 1
        dispatchers.run_until(lambda: dispatchers.clock.monotonic() >= until, 1)
        assert not put.done
        assert [row.ref for row in backend._entries if row.kind == "accepted"] == [put.id]


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
        assert system.wait(0).reason.startswith("Journal crashed: OSError: input/output error")
        with pytest.raises(NotRunning):
            system.submit(Deposit())
        assert system.tree()["journal"].restarts == 0
    system, _ = on_virtual_time(journal=backend)
    accounts = open_bank(system)
    with system:
        assert system.snapshot()[accounts]["alice"].balance in (1, 2)
        assert system.record(1) is None or system.record(1).state is State.COMMITTED  # type: ignore[union-attr]


def test_a_journal_that_is_restarted_often_is_checkpointed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_actor, "CHECKPOINT_BYTES_MIN", 5_000)
    backend = MemoryBackend()
    system, dispatchers = on_virtual_time(journal=backend, settings={"restart_intensity": 100})
    open_bank(system)
    with system:
        made = len(backend._checkpoints)
        for count in range(1, 31):  # No instance writes more than a few hundred bytes.
            assert system.ask(Deposit()) == count
            system._running.journal.ref.actor_inbox.put(AppendIntake(submissions=None))  # type: ignore[union-attr,arg-type]
            while system.tree()["journal"].restarts < count:
                dispatchers.step()
        dispatchers.run_to_rest()
        assert len(backend._checkpoints) > made


def test_a_checkpoint_that_a_crash_of_the_journal_cuts_off_harms_nothing() -> None:
    backend = MemoryBackend()
    system, dispatchers = on_virtual_time(journal=backend)
    open_bank(system)
    with system:
        assert system.ask(Deposit()) == 1
        journal: Any = system._running.journal  # type: ignore[union-attr]
        inbox, part = journal.ref.actor_inbox, CheckpointPart("open", b"{}")
        inbox.put(KeepCheckpointPart(seq=1, number=0, part=part))
        inbox.put(AppendIntake(submissions=None))  # type: ignore[arg-type]
        reply = ReplyFuture()
        reply.driver = dispatchers
        inbox.put(KeepCheckpointPart(seq=1, number=1, part=part))
        inbox.put(FinishCheckpoint(info=CheckpointInfo(1, 0, bytes(32), 2, 4), reply_to=reply))
        with pytest.raises(RuntimeError, match="the journal was restarted while the checkpoint at seq 1 was made"):
            reply.get()
        assert journal.checkpoints.take() is not None, "the next one is made"
        assert system.ask(Deposit()) == 2
        assert system.tree()["journal"].restarts == 1
