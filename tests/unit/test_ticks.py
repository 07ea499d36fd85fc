"""`on_cron`: the slots of a cron line as facts, alone and together with others, through stops and crashes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import Collection, Facts, Record, RegistrationError, Supervisor, Transaction, Trigger, on_cron, on_event
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.clock import VirtualClock
from seqtor.actors.journal.memory import MemoryBackend

UTC = datetime.UTC
MORNING = datetime.datetime(2026, 6, 15, 9, 59, tzinfo=UTC)
LINE = "*/2 * * * *"


class Note(Trigger[None]):
    """Writes down what a reaction has said."""

    text: str


class Entry(Record):
    """How often something was noted."""

    count: int = 0


class Newsroom:
    """A system that keeps its journal in memory, and is started again and again."""

    def __init__(self, at: datetime.datetime = MORNING, *, journaled: bool = True) -> None:
        self.backend = MemoryBackend() if journaled else None
        self.at = at

    def open(self, register: Callable[[Supervisor], object], seed: int = 3) -> Supervisor:
        self.dispatchers = SimulatedDispatchers(seed)
        self.dispatchers.clock = VirtualClock(self.at.timestamp())
        system = Supervisor(self.backend, dispatchers=lambda _: self.dispatchers)
        self.notes = notes = system.store("notes", Collection(Entry))

        @system.on(Note)
        def note(trigger: Note, tx: Transaction) -> None:
            tx[notes].increment(trigger.text, count=1)

        register(system)
        return system

    def wait(self, **duration: float) -> None:
        """Let virtual time pass."""
        self.dispatchers.run_until(lambda: False, datetime.timedelta(**duration).total_seconds())

    def close(self, system: Supervisor, **down: float) -> None:
        """Stop the system, and let time pass without it."""
        system.stop()
        now = datetime.datetime.fromtimestamp(self.dispatchers.clock.time(), UTC)
        self.at = now + datetime.timedelta(**down)

    def noted(self, system: Supervisor) -> dict[str, int]:
        self.dispatchers.driver.run_to_rest()
        return {key: entry.count for key, entry in system.snapshot()[self.notes].items()}


def slot_of(facts: Facts) -> Note:
    return Note(text=facts.tick.scheduled_for.strftime("%H:%M"))


def every_slot(system: Supervisor, **options: Any) -> None:
    system.when(on_cron(LINE, **options), name="tidy")(slot_of)


@pytest.mark.parametrize("journaled", [False, True], ids=["memory", "journal"])
def test_each_slot_is_a_tick_that_starts_one_run(journaled: bool) -> None:
    room = Newsroom(journaled=journaled)
    with room.open(every_slot) as system:
        room.wait(minutes=6)
        assert room.noted(system) == {"10:00": 1, "10:02": 1, "10:04": 1}
        [newest, *_] = system.runs(trigger=Note)
        [tick] = system.runs(trigger="seqtor.slot_reached", limit=1)
        assert newest.caused_by == (tick.id,)
        assert tick.causes == (newest.id,)
        assert [each.name for each in system.schedules()] == [f"seqtor.cron {LINE}"]


def test_one_line_is_one_schedule_for_all_reactions_and_other_options_are_another() -> None:
    def several(system: Supervisor) -> None:
        system.when(on_cron(LINE), name="first")(slot_of)
        system.when(on_cron(LINE), name="second")(slot_of)
        system.when(on_cron(LINE, "Europe/Berlin"), name="third")(slot_of)
        system.when(on_cron(LINE, misfire="all"), name="fourth")(slot_of)

    room = Newsroom()
    with room.open(several) as system:
        room.wait(minutes=2)
        assert room.noted(system) == {"10:00": 4}
        assert len(system.schedules()) == 3


def test_a_tick_has_the_time_of_its_slot_on_the_clocks_of_its_time_zone() -> None:
    seen: list[datetime.datetime] = []

    def nightly(system: Supervisor) -> None:
        @system.when(on_cron("0 3 * * *", "Europe/Berlin"))
        def backup(facts: Facts) -> Note:
            seen.append(facts.tick.scheduled_for)
            return Note(text=facts.tick.schedule)

    room = Newsroom()
    with room.open(nightly) as system:
        room.wait(days=1)
        assert room.noted(system) == {"seqtor.cron 0 3 * * * Europe/Berlin": 1}
    assert seen == [datetime.datetime(2026, 6, 16, 1, 0, tzinfo=UTC)]


def test_a_line_that_names_january_does_not_fire_at_a_start_in_june() -> None:
    room = Newsroom()
    yearly = lambda system: system.when(on_cron("0 3 1 1 *"), name="yearly")(slot_of)  # noqa: E731
    with room.open(yearly) as system:
        room.wait(minutes=5)
        assert room.noted(system) == {}
        room.close(system, hours=1)
    with room.open(yearly) as system:
        room.wait(minutes=5)
        assert room.noted(system) == {}


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [
        ("all", {"10:00": 1, "10:02": 1, "10:04": 1, "10:06": 1}),
        ("latest", {"10:06": 1}),
        ("earliest", {"10:00": 1}),
        ("skip", {}),
    ],
)
def test_slots_that_come_while_the_system_is_down_are_made_up_for_as_misfire_says(
    misfire: Any, expected: dict[str, int]
) -> None:
    def register(system: Supervisor) -> None:
        every_slot(system, misfire=misfire)

        @system.when(on_event("seqtor.missed_slot"))
        def missed(facts: Facts) -> list[Note]:
            return [Note(text=f"missed {slot[11:16]}") for slot in facts.event.payload["slots"]]

    room = Newsroom()
    with room.open(register) as system:
        room.wait(seconds=30)
        room.close(system, minutes=7.5)  # From 9:59:30 to 10:07.
    with room.open(register) as system:
        room.wait(seconds=50)
        missed = {f"missed 10:0{minute}" for minute in (0, 2, 4, 6)} - {f"missed {slot}" for slot in expected}
        assert room.noted(system) == {**expected, **dict.fromkeys(missed, 1)}


def test_a_tick_takes_part_in_composites_and_alternatives() -> None:
    tick, ready = on_cron("0 * * * *"), on_event("ready")

    def hour_of(fact: Any) -> int:
        return int(fact.payload if hasattr(fact, "payload") else fact.scheduled_for.hour)

    def register(system: Supervisor) -> None:
        @system.when((tick & ready).correlate(hour_of))
        def both(facts: Facts) -> Note:
            return Note(text=f"both {facts[tick].scheduled_for.hour} {facts[ready].payload}")

        @system.when(tick | ready)
        def either(facts: Facts) -> Note:
            return Note(text="tick" if facts.get(tick) is not None else "event")

    room = Newsroom()
    with room.open(register) as system:
        system.emit("ready", 11)
        room.wait(minutes=30)
        assert room.noted(system) == {"tick": 1, "event": 1}
        assert len(system.reactions()[1].half_met) == 2
        room.close(system)
    with room.open(register) as system:  # What waits is there again, the tick too.
        system.emit("ready", 10)
        room.wait(minutes=45)
        assert room.noted(system) == {"tick": 2, "event": 2, "both 10 10": 1, "both 11 11": 1}


def test_a_tick_needs_a_key_to_be_put_together_with_what_is_not_about_a_run() -> None:
    with pytest.raises(RegistrationError, match="does not say which facts belong together"):
        Newsroom().open(lambda system: system.when(on_cron(LINE) & on_event("a"))(slot_of))


class DyingBackend(MemoryBackend):
    """A journal whose process is killed before it writes one of its groups."""

    groups_left: int | None = None

    def append(self, group: Any) -> None:
        if self.groups_left is not None:
            self.groups_left -= 1
            if self.groups_left < 0:
                raise OSError("the process was killed")
        super().append(group)


@pytest.mark.parametrize("groups", range(12))
def test_a_process_that_dies_at_any_point_behind_a_slot_starts_its_run_once(groups: int) -> None:
    room = Newsroom()
    room.backend = backend = DyingBackend()
    with room.open(every_slot, seed=groups) as system:
        room.wait(seconds=10)
        backend.groups_left = groups  # Of the tick, the slot, the decision of the reactor, and what it starts.
        room.wait(minutes=2)
        room.close(system)
    backend.groups_left = None
    backend.close()
    with room.open(every_slot, seed=groups) as system:
        room.wait(seconds=20)
        assert room.noted(system) == {"10:00": 1}


def test_a_line_that_nothing_waits_for_any_more_is_forgotten_without_a_word() -> None:
    room = Newsroom()
    with room.open(every_slot) as system:
        room.close(system)
    with room.open(lambda system: None) as system:
        assert system.schedules() == []


def test_what_cannot_be_meant_is_refused_where_it_is_written() -> None:
    for line, why in (
        ("61 * * * *", "minute must be 0-59"),
        ("* * *", "fields"),
        ("0 0 31 2 *", "no day 31 in February"),
    ):
        with pytest.raises(RegistrationError, match=f"on_cron.*{why}"):
            on_cron(line)
    with pytest.raises(RegistrationError, match=r"no time zone 'Europe/Berlim'; did you mean 'Europe/Berlin'"):
        on_cron(LINE, "Europe/Berlim")
    with pytest.raises(RegistrationError, match="misfire must be one of"):
        on_cron(LINE, misfire="sometimes")  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="seqtor's own"):
        Supervisor().schedule(Note(text="x"), every=5, name="seqtor.mine")
