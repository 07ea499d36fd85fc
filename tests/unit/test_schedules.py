"""Schedules in a running system: when they start what, through stops, deaths, pauses and set clocks."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from loguru import logger

from seqtor import Bundle, Collection, Priority, Retry, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.clock import VirtualClock
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.errors import NotRunning, RegistrationError, UnknownTrigger, UseTransaction, WouldDeadlock
from seqtor.messages.schedules import ScheduleTicked
from tests.programs import Account

UTC = datetime.UTC
WEST = datetime.timezone(-datetime.timedelta(hours=5))
MORNING = datetime.datetime(2026, 6, 15, 9, 59, tzinfo=UTC)


class Report(Trigger[str]):
    """Notes for when it was."""

    name: str = "x"


class Work(Trigger[None]):
    """Takes its time."""

    lasts_s: float = 150


class Count(Trigger[None]):
    """Takes its time in the order; others may overtake it."""


class Again(Trigger[str]):
    """Fails once."""


class Meddle(Trigger[None]):
    """Uses schedules in a handler."""


class SetClock(VirtualClock):
    """A clock whose time of day can be set."""

    def __init__(self, at: datetime.datetime) -> None:
        super().__init__(at.timestamp())

    def set(self, by_s: float) -> None:
        self._start_s += by_s


class Office:
    """A system that keeps its journal in memory, and is started again and again."""

    def __init__(self, at: datetime.datetime = MORNING, *, journaled: bool = True) -> None:
        self.backend = MemoryBackend() if journaled else None
        self.clock = SetClock(at)
        self.ran: list[tuple[str, datetime.datetime | None]] = []
        self.failing = False
        self.spans: list[tuple[float, float]] = []

    def open(self, *schedules: dict[str, Any], seed: int = 7, **settings: Any) -> Supervisor:
        self.dispatchers = SimulatedDispatchers(seed)
        self.clock = SetClock(datetime.datetime.fromtimestamp(self.clock.time(), UTC))
        self.dispatchers.clock = self.clock
        system = Supervisor(self.backend, dispatchers=lambda _: self.dispatchers, settings=settings)
        accounts = system.store("accounts", Collection(Account))

        @system.on(Report)
        def report(trigger: Report, tx: Transaction) -> str:
            tx[accounts].increment(trigger.name, balance=1)
            self.ran.append((trigger.name, tx.scheduled_for))
            if self.failing:
                raise ValueError("as told")
            return str(tx.scheduled_for)

        @system.on(Work, deadline=3600, sequence="completion")
        async def work(trigger: Work, tx: Transaction) -> None:
            when = tx.scheduled_for
            began = self.clock.time()
            await asyncio.sleep(trigger.lasts_s)
            self.ran.append(("work", when))
            self.spans.append((began, self.clock.time()))
            if self.failing:
                raise ValueError("as told")

        @system.on(Count, deadline=3600, writes=[accounts])
        async def count(trigger: Count, tx: Transaction) -> None:
            await asyncio.sleep(150)
            self.ran.append(("count", tx.scheduled_for))

        @system.on(Again, retry=Retry(2, backoff=1.0, jitter=0.0))
        def again(trigger: Again, tx: Transaction) -> str:
            self.ran.append(("again", tx.scheduled_for))
            if len([name for name, _ in self.ran if name == "again"]) == 1:
                raise ValueError("the first time")
            return str(tx.scheduled_for)

        @system.on(Meddle)
        def meddle(trigger: Meddle, tx: Transaction) -> None:
            for call, error in (
                (lambda: system.schedule(Report(), every=5), UseTransaction),
                (ref.pause, WouldDeadlock),
                (ref.fire, WouldDeadlock),
            ):
                with pytest.raises(error):
                    call()

        ref = system.schedule_named("x")
        for options in schedules:
            system.schedule(options.pop("trigger", Report()), **options)
        return system

    def wait(self, **duration: float) -> None:
        """Let virtual time pass."""
        self.dispatchers.run_until(lambda: False, datetime.timedelta(**duration).total_seconds())

    def close(self, system: Supervisor, **down: float) -> None:
        """Stop the system, and let time pass without it."""
        system.stop()
        self.clock.set(datetime.timedelta(**down).total_seconds())

    def slots(self, name: str = "x") -> list[str]:
        return [
            when.astimezone(UTC).strftime("%H:%M:%S") for found, when in self.ran if found == name and when is not None
        ]


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What the log says of schedules."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="INFO", filter=lambda record: record["extra"].get("actor") == "scheduler")
    logger.enable("seqtor")
    try:
        yield lines
    finally:
        logger.disable("seqtor")
        logger.remove(sink)


def payloads(system: Supervisor, code: str) -> list[dict[str, Any]]:
    """What was told with events of a code, the oldest first."""
    found = []
    for record in system.commits(oldest_first=True):
        payload: Any = record.trigger.payload
        if record.trigger.type == "seqtor.event" and payload["code"] == code:
            found.append(json.loads(payload["payload_json"]))
    return found


def test_a_schedule_runs_at_each_of_its_slots_and_knows_their_time() -> None:
    office = Office()
    with office.open({"cron": "*/2 * * * *"}) as system:
        office.wait(minutes=7, seconds=1)
        assert office.slots() == ["10:00:00", "10:02:00", "10:04:00", "10:06:00"]
        system.verify()
        [record] = system.schedules()
        assert (record.name, record.trigger, record.when) == ("Report */2 * * * *", "Report", "*/2 * * * *")
        assert (record.started, record.under_way, record.missed_count) == (4, 0, 0)
        assert record.next == MORNING.timestamp() + 9 * 60


def test_in_memory_it_is_the_same() -> None:
    office = Office(journaled=False)
    with office.open({"every": 60, "name": "each"}) as system:
        office.wait(minutes=3, seconds=1)
        assert office.slots() == ["10:00:00", "10:01:00", "10:02:00"]
        system.verify()


def test_a_bundle_brings_its_schedules(log_lines: list[str]) -> None:
    bundle = Bundle()
    assert bundle.schedule(Report(name="b"), every=60) == "Report every 60 s"
    assert bundle.schedule(Report(name="c"), cron="* * * * *", name="minutely", priority=Priority.LOW) == "minutely"
    with pytest.raises(RegistrationError, match="schedule 'x': every must be at least"):
        bundle.schedule(Report(), every=0, name="x")
    for _ in range(2):
        office = Office()
        system = office.open()
        system.include(bundle)
        with system:
            office.wait(minutes=2, seconds=1)
            assert office.slots("b") == office.slots("c") == ["10:00:00", "10:01:00"]
            assert system.schedule_named("minutely").last == MORNING + datetime.timedelta(minutes=2)
            with pytest.raises(RegistrationError, match=r"comes before the start"):
                system.include(bundle)
    taken = Supervisor()
    taken.schedule(Report(), every=5, name="minutely")
    with pytest.raises(RegistrationError, match="there is a schedule called 'minutely' already"):
        taken.include(bundle)


# What was missed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "made_up", "missed"),
    [
        ("all", ["10:00:00", "10:02:00", "10:04:00", "10:06:00"], []),
        ("latest", ["10:06:00"], ["10:00", "10:02", "10:04"]),
        ("earliest", ["10:00:00"], ["10:02", "10:04", "10:06"]),
        ("skip", [], ["10:00", "10:02", "10:04", "10:06"]),
    ],
)
def test_slots_that_were_missed_are_made_up_for_as_the_policy_says_and_the_others_are_recorded(
    misfire: str, made_up: list[str], missed: list[str]
) -> None:
    office = Office()
    plan = {"cron": "*/2 * * * *", "misfire": misfire}
    system = office.open(plan).start()
    office.close(system, minutes=8)  # It is 10:07.
    with office.open({"cron": "*/2 * * * *", "misfire": misfire}) as system:
        office.wait(seconds=30)
        assert office.slots() == made_up
        [record] = system.schedules()
        assert record.missed_count == len(missed)
        told = [slot for payload in payloads(system, "seqtor.missed_slot") for slot in payload["slots"]]
        assert [slot[11:16] for slot in told] == missed
        office.wait(minutes=1)
        assert office.slots() == [*made_up, "10:08:00"]
        system.verify()


@pytest.mark.parametrize(("misfire", "made_up"), [("all", 5), ("latest", 1), ("earliest", 1), ("skip", 0)])
def test_thousands_of_missed_slots_are_decided_in_pieces(misfire: str, made_up: int) -> None:
    office = Office()
    options: dict[str, Any] = {"every": 1, "misfire": misfire, "catch_up_max": 5, "grace": 0.5, "name": "each"}
    office.close(office.open(dict(options)).start(), seconds=3500.75)
    with office.open({**options, "end": MORNING + datetime.timedelta(seconds=3500)}) as system:
        office.wait(seconds=5)
        # The plan was changed: it begins anew, and nothing of before is made up for.
        assert not office.slots()
    office = Office()
    office.close(office.open(dict(options)).start(), seconds=3500.75)
    with office.open(dict(options)) as system:
        system._require_running().schedules.changed("each")
        office.wait(seconds=0.1)
        [record] = system.schedules()
        assert record.started == made_up
        assert record.missed_count == 3500 - made_up
        assert len(record.missed) == 20
        assert sorted(office.slots()) == office.slots()


def test_a_slot_that_is_a_little_late_is_on_time() -> None:
    office = Office()
    office.close(office.open({"cron": "0 10 * * *", "misfire": "skip"}).start(), seconds=80)
    with office.open({"cron": "0 10 * * *", "misfire": "skip"}):
        office.wait(seconds=1)
        assert office.slots() == ["10:00:00"]


def test_a_line_that_is_due_once_a_year_is_not_due_when_it_is_registered() -> None:
    office = Office()
    for _ in range(2):
        system = office.open({"cron": "0 3 1 1 *", "name": "yearly"}).start()
        office.wait(minutes=5)
        assert not office.ran
        ref = system.schedule_named("yearly")
        assert [str(slot) for slot in ref.next(2)] == ["2027-01-01 03:00:00+00:00", "2028-01-01 03:00:00+00:00"]
        assert ref.last is None
        office.close(system, days=30)


# Intervals, moments, bounds --------------------------------------------------------------------------------------------


def test_an_interval_is_counted_from_its_start_or_its_registration() -> None:
    office = Office()
    start = MORNING + datetime.timedelta(seconds=90)
    with office.open({"every": 60, "name": "a", "trigger": Report(name="a")},
                     {"every": 60, "start": start, "name": "b", "trigger": Report(name="b")}):  # fmt: skip
        office.wait(minutes=3, seconds=1)
        assert office.slots("a") == ["10:00:00", "10:01:00", "10:02:00"]
        assert office.slots("b") == ["10:00:30", "10:01:30"]


def test_a_moment_is_due_once_also_when_the_system_was_down_then() -> None:
    office = Office()
    plan = {"at": MORNING + datetime.timedelta(minutes=1), "name": "once"}
    office.close(office.open(dict(plan)).start(), hours=2)
    for _ in range(2):
        system = office.open(dict(plan)).start()
        office.wait(minutes=1)
        assert office.slots() == ["10:00:00"]
        assert system.schedules()[0].next is None
        office.close(system, minutes=5)


def test_slots_before_the_start_or_behind_the_end_do_not_exist() -> None:
    office = Office()
    bounds = {"start": MORNING + datetime.timedelta(minutes=2), "end": MORNING + datetime.timedelta(minutes=4)}
    with office.open({"cron": "* * * * *", **bounds}):
        office.wait(minutes=10)
        assert office.slots() == ["10:01:00", "10:02:00", "10:03:00"]


def test_jitter_delays_each_slot_by_the_same_wherever_it_runs_and_keeps_its_time() -> None:
    found = []
    for seed in (1, 2):
        office = Office()
        with office.open({"every": 60, "jitter": 20, "name": "each"}, seed=seed) as system:
            office.wait(minutes=5)
            assert office.slots() == ["10:00:00", "10:01:00", "10:02:00", "10:03:00"]
            found.append([record.sequenced_at for record in system.commits() if record.trigger.type == "Report"])
    assert found[0] == found[1]
    delays = [at % 60 for at in found[0]]
    assert all(0 < delay < 20.1 for delay in delays)
    assert len(set(delays)) == 4


# Overlap ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "slots", "missed"),
    [
        ("skip", ["10:00:00", "10:03:00", "10:06:00"], 6),
        ("queue", ["10:00:00", "10:01:00", "10:02:00"], 0),
        ("parallel", ["10:00:00", "10:01:00", "10:02:00", "10:03:00", "10:04:00", "10:05:00", "10:06:00"], 0),
    ],
)
def test_a_slot_while_an_earlier_run_has_not_ended_follows_the_policy(
    overlap: str, slots: list[str], missed: int
) -> None:
    office = Office()
    with office.open({"cron": "* * * * *", "overlap": overlap, "trigger": Work()}) as system:
        office.wait(minutes=9, seconds=40)
        assert office.slots("work") == slots
        [record] = system.schedules()
        assert record.missed_count == missed
        together = any(later < end for (_, end), (later, _) in pairwise(sorted(office.spans)))
        assert together == (overlap == "parallel")
        assert record.queued == (5 if overlap == "queue" else 0)
        assert record.under_way == (1 if overlap == "queue" else 0)


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_a_handler_that_raises_does_not_count_as_under_way(overlap: str) -> None:
    office = Office()
    office.failing = True
    with office.open({"cron": "* * * * *", "overlap": overlap}) as system:
        office.wait(minutes=5, seconds=1)
        assert office.slots() == ["10:00:00", "10:01:00", "10:02:00", "10:03:00", "10:04:00"]
        [record] = system.schedules()
        assert (record.under_way, record.queued, record.missed_count) == (0, 0, 0)


def test_a_queue_that_is_full_refuses_slots_and_says_so() -> None:
    office = Office()
    plan = {"cron": "* * * * *", "overlap": "queue", "catch_up_max": 2, "trigger": Work(lasts_s=1000)}
    with office.open(plan) as system:
        office.wait(minutes=6, seconds=1)
        [record] = system.schedules()
        assert (record.under_way, record.queued, record.missed_count) == (1, 2, 3)
        assert [payload["why"] for payload in payloads(system, "seqtor.missed_slot")] == ["queue"] * 3


def test_runs_of_an_earlier_process_count_as_under_way_until_they_have_ended() -> None:
    office = Office()
    plan = {"cron": "* * * * *", "trigger": Work(), "misfire": "all"}
    office.open(dict(plan)).start()
    office.wait(minutes=1, seconds=1)  # The run of 10:00 is under way.
    assert office.backend is not None
    office.backend.close()
    with office.open(dict(plan)) as system:
        office.wait(minutes=1, seconds=30)
        assert system.schedules()[0].under_way == 1
        assert not office.slots("work")
        office.wait(minutes=3)
        assert office.slots("work") == ["10:00:00"]
        assert system.schedules()[0].missed_count >= 2


def test_a_run_of_an_earlier_process_that_was_overtaken_counts_as_under_way_until_it_has_ended() -> None:
    office = Office()
    plan = {"cron": "* * * * *", "trigger": Count()}
    system = office.open(dict(plan)).start()
    office.wait(minutes=2, seconds=1)
    assert system.schedules()[0].missed_count == 1, "the tick of 10:01 has overtaken the run of 10:00"
    assert office.backend is not None
    office.backend.close()
    with office.open(dict(plan)) as system:
        office.wait(minutes=2)
        [record] = system.schedules()
        assert (record.started, record.under_way, record.missed_count) == (1, 1, 3)
        office.wait(minutes=1)
        assert office.slots("count") == ["10:00:00"]
        assert system.schedules()[0].started == 2, "that of 10:04, as the first has ended"


# Verbs ------------------------------------------------------------------------------------------------------------------


def test_a_pause_survives_a_restart_and_what_it_leaves_out_is_not_missed() -> None:
    office = Office()
    system = office.open({"cron": "* * * * *", "name": "x"}).start()
    office.wait(minutes=1, seconds=1)
    ref = system.schedule_named("x")
    ref.pause()
    assert ref.next(3) == []
    office.wait(minutes=2)
    office.close(system, minutes=10)
    with office.open({"cron": "* * * * *", "name": "x"}) as system:
        office.wait(minutes=2)
        assert office.slots() == ["10:00:00"]
        ref = system.schedule_named("x")
        [record] = system.schedules()
        assert (record.paused, record.next, record.missed_count) == (True, None, 0)
        ref.resume()
        office.wait(minutes=1)
        assert office.slots() == ["10:00:00", "10:15:00"]
        assert str(ref.last) == "2026-06-15 10:15:00+00:00"
        assert system.schedules()[0].missed_count == 0


def test_fire_starts_it_now_whatever_its_slots_say() -> None:
    office = Office()
    with office.open({"cron": "0 3 1 1 *", "name": "yearly"}) as system:
        ref = system.schedule_named("yearly")
        run = ref.fire()
        ref.pause()
        ref.fire()
        office.wait(seconds=1)
        assert office.slots() == ["09:59:00", "09:59:00"]
        assert any(record.run == run and record.scheduled is not None for record in system.commits())
        system.verify()


def test_a_schedule_that_was_removed_is_gone() -> None:
    office = Office()
    with office.open({"cron": "* * * * *", "name": "x"}) as system:
        ref = system.schedule_named("x")
        ref.remove()
        office.wait(minutes=3)
        assert not office.ran
        assert not system.schedules()
        for call in (ref.pause, ref.resume, ref.fire, ref.remove, ref.next, lambda: ref.last):
            with pytest.raises(LookupError, match="there is no schedule 'x'"):
                call()


def test_a_schedule_can_be_registered_while_the_system_runs() -> None:
    office = Office()
    with office.open() as system:
        assert not any(child.name == "scheduler" for child in system.tree().children)
        ref = system.schedule(Report(), every=datetime.timedelta(seconds=30), name="new")
        office.wait(minutes=1, seconds=1)
        assert office.slots() == ["09:59:30", "10:00:00"]
        system.schedule(Report(name="y"), every=45, name="new")  # The name is the identity.
        office.wait(minutes=1)
        assert office.slots() == ["09:59:30", "10:00:00"]
        assert office.slots("y") == ["10:00:46"]
        assert ref.last is not None
        assert any(child.name == "scheduler" for child in system.tree().children)
        with pytest.raises(LookupError, match="did you mean 'new'"):
            system.schedule_named("now").pause()


def test_a_changed_line_begins_anew_and_another_trigger_does_not() -> None:
    office = Office()
    office.close(office.open({"every": 600, "name": "x"}).start(), minutes=8)
    system = office.open({"every": 600, "name": "x", "trigger": Report(name="y")}).start()
    office.wait(minutes=2, seconds=1)
    assert office.slots("y") == ["10:09:00"]
    office.close(system, minutes=4)
    with office.open({"every": 300, "name": "x"}):
        office.wait(minutes=5, seconds=1)
        assert office.slots("x") == ["10:18:01"]


def test_a_schedule_that_the_program_no_longer_registers_is_paused_and_reported(
    log_lines: list[str],
) -> None:
    office = Office()
    office.close(office.open({"cron": "* * * * *", "name": "x"}).start(), minutes=5)
    system = office.open().start()
    said = "schedules are paused that the program does not register any more: x"
    assert any(said in line for line in log_lines)
    office.wait(minutes=3)
    assert not office.ran
    [record] = system.schedules()
    assert (record.gone, record.paused, record.next) == (True, False, None)
    seq = system.stats().current_seq
    office.close(system)
    system = office.open().start()
    assert system.stats().current_seq == seq, "it is paused once"
    office.close(system)
    with office.open({"cron": "* * * * *", "name": "x"}) as system:
        office.wait(minutes=1, seconds=1)
        assert not system.schedules()[0].gone
        assert len(office.slots()) == 2, "the latest that was missed, and the next"


def test_registering_the_same_again_takes_no_seq() -> None:
    office = Office()
    seqs = []
    for _ in range(3):
        system = office.open({"cron": "0 3 1 1 *"}).start()
        seqs.append(system.stats().current_seq)
        office.close(system)
    assert seqs == [1, 1, 1]


# Clocks -----------------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_forward_is_noticed_and_what_it_leaps_over_is_missed() -> None:
    office = Office()
    with office.open({"cron": "*/10 * * * *"}) as system:
        office.wait(minutes=2)
        office.clock.set(3600)  # It is 11:01, and nobody was told.
        office.wait(seconds=10.5)
        assert office.slots() == ["10:00:00", "11:00:00"]
        assert system.schedules()[0].missed_count == 5


def test_a_clock_that_is_set_back_starts_nothing_twice() -> None:
    office = Office()
    with office.open({"cron": "*/10 * * * *"}):
        office.wait(minutes=12)
        office.clock.set(-1800)
        office.wait(minutes=28)
        assert office.slots() == ["10:00:00", "10:10:00"]
        office.wait(minutes=12)
        assert office.slots() == ["10:00:00", "10:10:00", "10:20:00"]


# What runs ----------------------------------------------------------------------------------------------------------------


def test_a_retry_knows_the_slot_that_started_the_first_run() -> None:
    office = Office()
    with office.open({"cron": "0 10 * * *", "trigger": Again()}) as system:
        office.wait(minutes=3)
        assert office.slots("again") == ["10:00:00", "10:00:00"]
        assert [each.state for each in system.runs(trigger="Again")] == [State.COMMITTED, State.RETRYING]


def test_ticks_go_past_a_full_queue() -> None:
    office = Office()
    with office.open({"cron": "* * * * *"}, max_queued=4) as system:
        for _ in range(3):
            system.submit(Report(name="y"))
        system._require_running().edge.low_max = 0  # Nothing more fits.
        office.wait(minutes=1, seconds=1)
        assert office.slots() == ["10:00:00"]


def test_inside_a_handler_schedules_are_refused() -> None:
    office = Office()
    with office.open() as system:
        system.ask(Meddle(), timeout=5)


def test_an_old_tick_starts_nothing() -> None:
    office = Office()
    with office.open({"cron": "* * * * *", "name": "x", "overlap": "parallel"}) as system:
        office.wait(minutes=2, seconds=1)
        [first, *_] = [record for record in system.commits() if record.trigger.type == "seqtor.schedule_ticked"]
        payload: Any = first.trigger.payload
        running = system._require_running()
        assert running.edge.submit_tick(ScheduleTicked(**payload)).result(5) == 0
        later = {"schedule": "x", "slots": (MORNING.timestamp() + 180,), "on_time": 1}
        assert running.edge.submit_tick(ScheduleTicked(revision=2, **later)).result(5) == 0
        system.schedule_named("x").pause()
        assert running.edge.submit_tick(ScheduleTicked(revision=2, **later)).result(5) == 0
        office.wait(seconds=1)
        assert office.slots() == ["10:00:00", "10:01:00"]
        assert system.schedules()[0].missed_count == 0


def test_a_run_that_was_started_and_not_let_go_yet_has_not_ended() -> None:
    office = Office()
    with office.open({"cron": "* * * * *", "name": "x"}) as system:
        office.wait(minutes=1, seconds=1)
        slot = MORNING.timestamp() + 60
        assert system._require_running().schedules.ended("x", [slot, slot + 60]) == (slot,)


# Refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cron": "61 * * * *"}, "cron line '61 * * * *' is not valid: minute must be 0-59, got 61"),
        ({"cron": "0 0 31 2 *"}, "there is no day 31 in February"),
        ({"cron": "* * * * *", "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({}, "it says none of cron=, every= and at="),
        ({"cron": "* * * * *", "every": 5}, "it says cron='* * * * *' and every=5: give one of the three"),
        ({"every": 0}, "every must be at least 0.1 seconds, got 0: what is to happen more often is better a loop"),
        ({"every": 1e-9}, "every must be at least 0.1 seconds, got 1e-09"),
        ({"every": datetime.timedelta(milliseconds=50)}, "every must be at least 0.1 seconds"),
        ({"every": 1e18}, "every 1e+18 s is never due"),
        ({"every": -1}, "every must be seconds"),
        ({"every": "1h"}, "every must be seconds (a number, 0 or more) or a timedelta, got '1h'"),
        ({"at": datetime.datetime(2026, 1, 1)}, "at is a moment, an aware datetime"),  # noqa: DTZ001
        ({"every": 5, "misfire": "never"}, "misfire must be one of 'all', 'latest', 'earliest', 'skip', got 'never'"),
        ({"every": 5, "overlap": "no"}, "overlap must be one of 'skip', 'queue', 'parallel', got 'no'"),
        ({"every": 5, "catch_up_max": 0}, "catch_up_max must be an int from 1 to 10000, got 0"),
        ({"every": 5, "jitter": -1}, "jitter must be seconds"),
        ({"every": 5, "grace": "x"}, "grace must be seconds"),
        ({"every": 5, "start": MORNING, "end": MORNING - datetime.timedelta(1)}, "before it starts"),
        (
            {"cron": "0 3 * * *", "start": MORNING, "end": MORNING + datetime.timedelta(hours=1)},
            "0 3 * * * is never due with start=2026-06-15T09:59:00+00:00 and end=2026-06-15T10:59:00+00:00",
        ),
        (
            {"at": MORNING, "end": MORNING - datetime.timedelta(1)},
            "at 2026-06-15T09:59:00+00:00 is never due with end=",
        ),
        ({"at": MORNING, "start": MORNING + datetime.timedelta(1)}, "is never due with start="),
        ({"at": datetime.datetime.max.replace(tzinfo=WEST)}, "at is beyond the calendar in UTC"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_registration(options: dict[str, Any], why: str) -> None:
    system = Supervisor()
    with pytest.raises(RegistrationError) as refused:
        system.schedule(Report(), name="close-books", **options)
    assert str(refused.value).startswith("schedule 'close-books': ")
    assert why in str(refused.value)


def test_what_is_no_trigger_and_what_nothing_handles_is_refused() -> None:
    with pytest.raises(RegistrationError, match=r"pass an instance, Report\(...\)"):
        Supervisor().schedule(Report, every=5)  # type: ignore[arg-type]
    system = Supervisor()
    system.schedule(Report(), every=5, name="lost")
    with pytest.raises(RegistrationError, match=r"schedule 'lost': the trigger 'Report' has no handler: register one"):
        system.start()
    with Supervisor() as system, pytest.raises(UnknownTrigger):
        system.schedule(Report(), every=5)


def test_two_schedules_of_one_name_are_refused() -> None:
    system = Supervisor()
    system.schedule(Report(), every=5, name="x")
    system.schedule(Report(), every=5, name="x")
    said = "there is a schedule called 'x' already, for something else .every 5 s, starts Report"
    with pytest.raises(RegistrationError, match=said):
        system.schedule(Report(), every=6, name="x")


def test_a_schedule_of_a_running_system_replaces_another_under_the_name_that_it_is_given_and_the_log_says_so(
    log_lines: list[str],
) -> None:
    office = Office()
    with office.open() as system:
        system.schedule(Report(), every=600, name="x")
        assert not log_lines
        system.schedule(Report(name="y"), every=60, name="x")
        said = "schedule 'x' (every 60 s, starts Report) takes the place of 'x' (every 600 s, starts Report)"
        assert [line for line in log_lines if said in line]
        office.wait(minutes=1, seconds=1)
        assert (office.slots("x"), office.slots("y")) == ([], ["10:00:00"])


def test_a_schedule_without_a_name_of_its_own_never_replaces_another() -> None:
    office = Office()
    with office.open() as system:
        system.schedule(Report(), every=60)
        system.schedule(Report(), every=60)  # The same again is the same.
        with pytest.raises(RegistrationError, match=r"already.*\{\"name\":\"x\"\}.*give this one a name= of its own"):
            system.schedule(Report(name="y"), every=60)
        office.wait(minutes=1, seconds=1)
        assert (office.slots("x"), office.slots("y")) == (["10:00:00"], [])


@pytest.mark.parametrize(
    "plan", [{"at": MORNING - datetime.timedelta(hours=1)}, {"every": 60, "end": MORNING}], ids=["past", "ended"]
)
def test_a_schedule_that_is_never_due_from_now_on_is_refused_and_at_the_start_told(
    plan: dict[str, Any], log_lines: list[str]
) -> None:
    office = Office()
    with office.open() as system:
        with pytest.raises(RegistrationError, match=r"schedule 'late': .* is never due from now on: .* submit"):
            system.schedule(Report(), name="late", **plan)
        assert not system.schedules()
    assert not log_lines
    with Office().open({"name": "late", **plan}) as system:
        [record] = system.schedules()
        assert record.next is None
    assert [line for line in log_lines if "never due from now on: 'late' (" in line]


def test_a_moment_that_has_been_is_no_mistake_of_a_schedule_that_is_known(log_lines: list[str]) -> None:
    office = Office()
    plan = {"at": MORNING + datetime.timedelta(minutes=1), "name": "once"}
    system = office.open(dict(plan)).start()
    office.wait(minutes=2)
    system.schedule(Report(), **plan)  # type: ignore[arg-type]
    office.close(system, minutes=5)
    with office.open(dict(plan)):
        office.wait(minutes=1)
    assert office.slots() == ["10:00:00"]
    assert not log_lines


def test_names_of_the_library_are_not_for_stores() -> None:
    with pytest.raises(RegistrationError, match=r"names that begin with 'seqtor\.' are the library's"):
        Supervisor().store("seqtor.schedules", Collection(Account))
    assert not Supervisor().stores


def test_before_the_start_a_schedule_has_no_state() -> None:
    ref = Supervisor().schedule(Report(), every=5)
    with pytest.raises(NotRunning):
        ref.pause()
    with pytest.raises(TypeError, match="how many slots"):
        ref.next(-1)
