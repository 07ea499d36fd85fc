"""`delay=` and `at=`: accepted at once, not run before, outside of the queue; through stops, deaths and set clocks."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from loguru import logger

from seqtor import Collection, NotRunning, Overloaded, Retry, State, Submission, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.clock import VirtualClock
from seqtor.actors.dispatchers.timers import Timer
from seqtor.actors.handlers import make_handler
from seqtor.actors.journal import actor
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.submissions import Intake, Origin, RetryOf
from seqtor.actors.waiting_room import LOOK_S, WaitingRoom
from seqtor.messages import AcceptTriggers, Priority, WaitOver
from tests.programs import WAIT_S, Account, simulated, threaded

START_S = 1_700_000_000.0


class Ring(Trigger[float]):
    """Answers when it ran, seconds after the start of the clock."""

    name: str = "x"


class Plan(Trigger[None]):
    """Submits a `Ring` that waits."""

    delay: float | None = None
    at: datetime.datetime | None = None


def make(
    backend: MemoryBackend | None = None, start_s: float = 0.0, order: list[str] | None = None, **settings: Any
) -> Supervisor:
    def dispatchers(_: Any) -> SimulatedDispatchers:
        made = SimulatedDispatchers(7)
        made.clock.advance_to(start_s)
        return made

    system = Supervisor(backend, dispatchers=dispatchers, settings=settings)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Ring)
    def ring(trigger: Ring, tx: Transaction) -> float:
        if order is not None:
            order.append(trigger.name)
        tx[accounts].increment(trigger.name, balance=1)
        return tx.now.timestamp() - START_S

    @system.on(Plan)
    def plan(trigger: Plan, tx: Transaction) -> None:
        tx.submit(Ring(name="planned"), delay=trigger.delay, at=trigger.at)

    return system


def world_of(system: Supervisor) -> SimulatedDispatchers:
    running: Any = system._running
    dispatchers: SimulatedDispatchers = running._dispatchers
    return dispatchers


def moment(after_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(START_S + after_s, datetime.UTC)


# When -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"delay": 5}, {"delay": datetime.timedelta(seconds=5)}, {"at": moment(5)},
     {"at": moment(5).astimezone(datetime.timezone(datetime.timedelta(hours=-3)))}],
)  # fmt: skip
def test_a_delayed_trigger_runs_when_its_time_has_come(options: dict[str, Any]) -> None:
    with make() as system:
        submission = system.submit(Ring(), **options)
        world_of(system).run_to_rest()
        assert (submission.state, submission.seq) == (State.QUEUED, None)
        assert submission.result(60) == 5


@pytest.mark.parametrize("options", [{"delay": 0}, {"delay": 0.0}, {"at": moment(-3600)}, {"at": moment(0)}])
def test_what_has_passed_is_now(options: dict[str, Any]) -> None:
    with make() as system:
        submission = system.submit(Ring(), **options)
        world_of(system).run_to_rest()
        assert submission.result(0) == 0


def test_every_way_to_hand_in_takes_a_delay() -> None:
    order: list[str] = []
    with make(order=order) as system:
        many = system.submit_many([Ring(name="b"), Ring(name="c")], delay=2)
        system.tell(Ring(name="a"), delay=1)
        keyed = system.submit(Ring(name="d"), delay=3, idempotency_key="d")
        assert system.submit(Ring(name="d"), idempotency_key="d") is keyed
        assert keyed.result(60) == 3
        assert [each.result(0) for each in many] == [2, 2]
    assert order == ["a", "b", "c", "d"]


def test_a_handler_delays_from_its_own_now_on() -> None:
    with make() as system:
        system.submit(Plan(delay=7), delay=3)
        system.ask(Plan(at=moment(6)))
        system.submit(Plan(at=moment(-1)))
        world_of(system).run_until(lambda: system.stats().committed_through == 6, 60)
        rings = [record for record in system.commits(oldest_first=True) if record.trigger.type == "Ring"]
        assert [record.result for record in rings] == [0, 6, 10]
        system.verify()


def test_a_delayed_trigger_goes_behind_what_was_submitted_before_its_time() -> None:
    order: list[str] = []
    with make(order=order) as system:
        system.submit(Ring(name="delayed"), delay=5)
        system.submit(Ring(name="urgent"), delay=5, priority=Priority.URGENT)
        world_of(system).run_to_rest()
        world_of(system).clock.advance_to(4.9)
        system.submit(Ring(name="first"))
        system.submit(Ring(name="last"), delay=60).result(100)
    assert order == ["first", "urgent", "delayed", "last"]


def test_delayed_triggers_on_real_threads_come_in_the_order_of_their_times() -> None:
    system = threaded(2)
    order: list[str] = []

    @system.on(Ring)
    def ring(trigger: Ring, tx: Transaction) -> float:
        order.append(trigger.name)
        return tx.now.timestamp()

    with system:
        late = system.submit(Ring(name="late"), delay=0.2)
        soon = system.submit(Ring(name="soon"), delay=0.05)
        assert late.result(WAIT_S) > soon.result(WAIT_S)
        assert late.result(0) - late.submitted_at >= 0.2
    assert order == ["soon", "late"]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"delay": 1, "at": moment(1)}, TypeError, "give one of them"),
        ({"at": datetime.datetime(2030, 1, 1)}, ValueError, "has no time zone, so it is no moment: give it one"),  # noqa: DTZ001
        ({"at": 5}, TypeError, "at is a moment, an aware datetime, got 5: for a wait in seconds give delay="),
        ({"at": datetime.date(2030, 1, 1)}, TypeError, "an aware datetime, got"),
        ({"delay": -1}, ValueError, "0 seconds or more"),
        ({"delay": float("inf")}, ValueError, "finite"),
        ({"delay": float("nan")}, ValueError, "finite"),
        ({"delay": 1e18}, ValueError, "delay must be at most 3162240000 seconds, which is 100 years, got 1e[+]18"),
        ({"delay": "1"}, TypeError, "delay is seconds"),
        ({"delay": True}, TypeError, "delay is seconds"),
        ({"delay": datetime.timedelta(seconds=-1)}, ValueError, "leave it out to run at once"),
    ],
)
def test_a_delay_that_cannot_be_meant_is_refused_everywhere(
    options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with make() as system:
        for submit in (system.submit, system.tell):
            with pytest.raises(kind, match=text):
                submit(Ring(), **options)
        with pytest.raises(kind, match=text):
            system.submit_many([Ring()], **options)
        assert system.stats().current_seq == 0


def test_delayed_triggers_do_not_fill_the_queue_and_have_a_limit_of_their_own() -> None:
    with make(max_queued=2, max_delayed=3) as system:
        waiting = [system.submit(Ring(name=name), delay=10 + number) for number, name in enumerate("abc")]
        with pytest.raises(
            Overloaded, match="3 triggers wait for their time and max_delayed is 3, so 1 more"
        ) as caught:
            system.submit(Ring(), delay=1)
        assert 0 < caught.value.retry_after <= 60
        system.submit_many([Ring(), Ring()])
        with pytest.raises(Overloaded, match="max_queued is 2"):
            system.submit(Ring())
        world_of(system).run_to_rest()
        stats = system.stats()
        assert (stats.delayed, stats.queued, stats.retries_waiting) == (3, 0, 0)
        assert stats.state_counts == {State.COMMITTED: 2, State.QUEUED: 3}
        assert waiting[0].result(60) == 10
        late = system.submit(Ring(), delay=100)
        with pytest.raises(Overloaded, match="max_delayed"):
            system.submit(Ring(), delay=1)
        assert late.result(200) == 110
        assert system.stats().delayed == 0
        system.submit_many([Ring(), Ring(), Ring()], delay=1)[0].result(60)


# Stops and restarts -----------------------------------------------------------------------------------------------------


def logged(stop: Callable[[], None]) -> str:
    lines: list[str] = []
    logger.enable("seqtor")
    handle = logger.add(lines.append, format="{level} {message}", level="INFO")
    try:
        stop()
    finally:
        logger.remove(handle)
        logger.disable("seqtor")
    return "".join(lines)


def test_in_memory_a_stop_waits_for_what_is_due_within_its_grace_and_names_the_rest() -> None:
    system = make().start()
    soon = system.submit(Ring(), delay=3)
    late = system.submit(Ring(), delay=30)
    text = logged(lambda: system.stop(10))
    assert soon.result(0) == 3
    with pytest.raises(NotRunning):
        late.result(0)
    assert f"not due at the stop are lost, there is no journal: Ring (run {late.id})" in text
    assert soon.id not in text


def test_with_a_journal_a_stop_leaves_them_to_the_next_start_which_runs_each_at_its_time() -> None:
    backend = MemoryBackend()
    system = make(backend).start()
    submissions = [system.submit(Ring(name=f"{at}"), delay=at, idempotency_key=f"{at}") for at in (5, 20)]
    text = logged(lambda: system.stop(10))
    assert "run after the next start: Ring" in text
    assert all(isinstance(_error_of(each), NotRunning) for each in submissions)
    assert "delayed triggers too, runs after the next start" in str(_error_of(submissions[0]))
    with make(backend, start_s=10) as again:
        overdue, later = (again.submit(Ring(name=f"{at}"), idempotency_key=f"{at}") for at in (5, 20))
        assert again.stats().delayed == 1
        assert [overdue.result(0.001), later.result(60)] == [10, 20]
        assert (overdue.id, later.id) == tuple(each.id for each in submissions)
        again.verify()
    with make(backend, start_s=30) as third:
        assert third.stats().delayed == 0
        assert third.stats().current_seq == 2


def _error_of(submission: Submission[Any]) -> BaseException | None:
    try:
        submission.result(0)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_a_commit_has_delayed_survives_a_death(checkpointed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if checkpointed:
        monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", 1)
    backend = MemoryBackend()
    system = make(backend).start()
    system.ask(Plan(delay=50))
    system.ask(Ring())
    world_of(system).run_to_rest()
    backend.close()  # The process dies here.
    with make(backend, start_s=20) as again:
        assert again.stats().delayed == 1
        world_of(again).run_until(lambda: again.stats().committed_through == 3, 60)
        assert world_of(again).clock.monotonic() == 50


def test_what_waits_for_its_time_is_durably_accepted() -> None:
    backend = MemoryBackend()
    system = make(backend).start()
    system.submit(Ring(), delay=100).accepted().get(timeout=1)
    assert '"due":1700000100.0' in "".join(entry.body for entry in backend.entries(1, 10))
    backend.close()


def test_a_clock_that_was_set_back_makes_nobody_wait_longer_than_at_first() -> None:
    backend = MemoryBackend()
    with make(backend, start_s=10_000) as system:
        system.submit(Ring(name="a"), delay=30, idempotency_key="a")
    with make(backend, start_s=0) as again:
        again.submit(Ring(name="a"), idempotency_key="a").result(60)
        assert world_of(again).clock.monotonic() == 30


# The waiting room alone -------------------------------------------------------------------------------------------------


class SetClock(VirtualClock):
    """A clock whose time of day is set."""

    set_by_s = 0.0

    def time(self) -> float:
        return super().time() + self.set_by_s


class Timers:
    """Timers that the test fires."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Timer]] = []

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.timers.append((delay_s, Timer(callback)))
        return self.timers[-1][1]

    @property
    def live(self) -> list[float]:
        return [delay_s for delay_s, timer in self.timers if timer.callback is not None]


class Inbox(Mailbox):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        self.told.append(message)


class Room:
    """A waiting room, and what is around it."""

    def __init__(self, clock: SetClock | None = None) -> None:
        self.clock, self.timers, self.inbox = clock or SetClock(), Timers(), Inbox()
        self.intake = Intake("t", None, lambda _, future: future.set(None))
        self.room = WaitingRoom(self.clock, self.timers, self.intake)
        self.room.coordinator = self.inbox
        self.handler = make_handler(Ring, lambda trigger, tx: None, retry=Retry(2))

    def waiting(self, due_in_s: float, number: int = 1) -> Submission[Any]:
        now = self.clock.time()
        submission: Submission[Any] = Submission(
            self.intake, number, Ring(), self.handler, 2, now, now, Origin(due=now + due_in_s)
        )
        self.intake.open[submission] = None
        assert self.room.hold_back([submission]) == ()
        return submission

    def retry(self, due_in_s: float) -> Submission[Any]:
        """One that follows a run which has failed; nobody has told the room of it."""
        now = self.clock.time()
        return Submission(
            self.intake, 1, Ring(), self.handler, 2, now, now, Origin(retry=RetryOf(2, "t-1", now + due_in_s))
        )

    def let_out(self) -> list[Any]:
        self.inbox.told.clear()
        self.room.let_out(self.inbox)
        return [each for told in self.inbox.told if isinstance(told, AcceptTriggers) for each in told.submissions]


def test_one_timer_is_set_for_whoever_is_next() -> None:
    world = Room()
    late, soon, sooner = (world.waiting(due_in_s, number) for number, due_in_s in enumerate((30, 20, 10)))
    assert world.timers.live == [10]
    world.timers.timers[-1][1].callback()  # type: ignore[misc]
    assert [type(told) for told in world.inbox.told] == [WaitOver]
    world.clock.advance_to(25)
    assert world.let_out() == [sooner, soon]
    assert (len(world.room), world.room.left) == (1, 2)
    assert world.timers.timers[-1][0] == 5
    assert world.let_out() == []
    assert late in world.room


def test_a_clock_that_is_set_forward_is_noticed_within_a_minute() -> None:
    world = Room()
    submission = world.waiting(10 * LOOK_S)
    assert world.timers.live == [LOOK_S]
    world.clock.advance_to(LOOK_S)
    world.clock.set_by_s = 9 * LOOK_S
    assert world.let_out() == [submission]


def test_a_clock_that_is_set_back_while_somebody_waits_changes_nothing() -> None:
    world = Room()
    submission = world.waiting(30)
    world.clock.set_by_s = -5_000
    world.clock.advance_to(29)
    assert world.let_out() == []
    world.clock.advance_to(30)
    assert world.let_out() == [submission]


class InterruptedClock(SetClock):
    """The clock of a thread that is interrupted whenever it is about to read the time of day."""

    interrupted_for_s = 0.0

    def time(self) -> float:
        self.advance_to(self._elapsed_s + self.interrupted_for_s)
        return super().time()


def test_a_thread_that_is_interrupted_while_it_reads_the_clocks_lets_nobody_out_before_the_time() -> None:
    clock = InterruptedClock()
    world = Room(clock)
    submission = world.waiting(30)
    clock.interrupted_for_s = 1.0
    world.room.remove(submission)
    world.room.wait(submission)
    clock.interrupted_for_s = 0.0
    clock.advance_to(29.5)
    assert world.let_out() == []
    clock.interrupted_for_s = 10.0  # Taken for a clock that was set forward.
    later = world.waiting(100, 2)
    due_s = 29.5 + 10 + 100
    world.let_out()
    clock.interrupted_for_s = 0.0
    clock.advance_to(due_s - 1)
    assert later not in world.let_out()
    clock.advance_to(due_s)
    assert world.let_out() == [later]


def test_who_leaves_before_the_time_leaves_nothing_behind() -> None:
    world = Room()
    for number in range(10_000):
        assert world.room.remove(world.waiting(1_000 + number, number))
    assert len(world.room) == 0
    assert len(world.room._heap) < 1_000
    assert world.room.left == 10_000


def test_a_coordinator_that_lost_the_message_is_told_again() -> None:
    world = Room()
    submission = world.waiting(10)
    world.clock.advance_to(11)
    world.timers.timers.clear()
    world.room.remind()
    assert world.timers.live == [0]
    assert world.let_out() == [submission]


def test_who_waits_already_waits_once_and_until_the_same_time() -> None:
    world = Room()
    retry = world.retry(due_in_s=10)
    world.room.wait(retry)
    world.clock.set_by_s = -5.0
    world.room.wait(retry)
    assert (world.room.retries, len(world.room._heap)) == (1, 1)
    world.clock.advance_to(10)
    assert world.let_out() == [retry]
    assert (world.room.retries, world.let_out()) == (0, [])


def test_a_retry_that_was_let_out_does_not_wait_for_its_backoff_once_more() -> None:
    world = Room()
    retry = world.retry(due_in_s=10)
    world.room.wait_again(retry)
    assert retry in world.room
    world.clock.advance_to(10)
    assert world.let_out() == [retry]
    world.room.wait_again(retry)
    assert retry not in world.room


class CrashesOnce(dict[Any, None]):
    """Crashes who comes to write in it, the first time."""

    crashed = False

    def __setitem__(self, key: Any, value: None) -> None:
        if not self.crashed:
            self.crashed = True
            raise RuntimeError("crashed")
        super().__setitem__(key, value)


def test_a_crash_while_one_is_let_out_loses_nobody() -> None:
    world = Room()
    retry = world.retry(due_in_s=10)  # Its backoff is over before the record of the run that failed is on disk.
    world.room.wait_again(retry)
    world.clock.advance_to(10)
    world.intake.open = CrashesOnce()
    with pytest.raises(RuntimeError):
        world.let_out()
    assert retry in world.room
    world.room.remind()
    assert world.let_out() == [retry]
    assert retry in world.intake.open


def test_one_whose_time_came_while_it_was_handed_in_has_left_the_room_without_having_been_in_it() -> None:
    world = Room()
    now = world.clock.time()
    submission: Submission[Any] = Submission(world.intake, 1, Ring(), world.handler, 2, now, now, Origin(due=now - 1))
    assert world.room.hold_back([submission]) == (submission,)
    assert (len(world.room), world.room.left) == (0, 1)


def test_a_program_that_delays_nothing_sets_no_timer() -> None:
    with simulated() as system:
        assert system.stats().delayed == 0
        assert world_of(system)._heap == []
