"""Who gets a seq first: priority, then event time, then arrival; and nobody waits for ever."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from typing import Any, Self

import pytest

from seqtor import Priority, Submission, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from tests.programs import WAIT_S, Gate, threaded

UTC = datetime.UTC
NOON = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Plug(Trigger[None]):
    """Keeps the only slot until everything else waits."""


class Step(Trigger[str]):
    """Work without a priority of its own."""

    name: str = ""


class Pressing(Trigger[str]):
    """Work whose class says that it is urgent."""

    name: str = ""
    priority = Priority.URGENT


class Timed(Trigger[str]):
    """Work that belongs to a moment."""

    name: str = ""
    event_time: datetime.datetime | None = None


class OneSlot:
    """A simulated system that numbers one run at a time, the next one when all that was submitted waits."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.dispatchers = SimulatedDispatchers(seed)
        self.system = Supervisor(settings={"max_in_flight": 1}, dispatchers=lambda settings: self.dispatchers)

        @self.system.on(Plug)
        async def plug(trigger: Plug, tx: Transaction) -> None:
            await asyncio.sleep(1)

        for kind in (Step, Pressing, Timed):
            self.system.on(kind, **options)(self.step)

    async def step(self, trigger: Any, tx: Transaction) -> str:
        await asyncio.sleep(0.001)
        return str(trigger.name)

    def __enter__(self) -> Self:
        self.system.start().tell(Plug())
        self.dispatchers.run_to_rest()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.stop()

    def order(self, submissions: Sequence[Submission[str]]) -> list[str]:
        """The names of submissions in the order of their seqs."""
        self.dispatchers.run_to_rest()
        assert all(submission.seq is None for submission in submissions), "everything waits behind the plug"
        for submission in submissions:
            submission.result()
        return [submission.result() for submission in sorted(submissions, key=lambda each: each.seq or 0)]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_urgent_goes_first_and_equals_go_in_the_order_of_submission(seed: int) -> None:
    with OneSlot(seed) as slot:
        submissions = [
            slot.system.submit(Step(name=f"{priority.name}{n}"), priority=priority)
            for n in range(3)
            for priority in (Priority.LOW, Priority.NORMAL, Priority.URGENT, Priority.HIGH)
        ]
        assert slot.order(submissions) == [
            f"{name}{n}" for name in ("URGENT", "HIGH", "NORMAL", "LOW") for n in range(3)
        ]


def test_the_same_holds_on_real_threads() -> None:
    gate = Gate()
    system = threaded(threads=2)

    @system.on(Plug)
    def plug(trigger: Plug, tx: Transaction) -> None:
        gate.pass_through()

    @system.on(Step)
    def step(trigger: Step, tx: Transaction) -> str:
        return trigger.name

    with system:
        system.submit_many([Plug()] * 10)
        gate.await_arrivals()
        submissions = [
            system.submit(Step(name=f"{priority.name}{n}"), priority=priority)
            for n in range(3)
            for priority in (Priority.LOW, Priority.URGENT, Priority.HIGH)
        ]
        assert all(submission.seq is None for submission in submissions)
        gate.open()
        for submission in submissions:
            submission.result(WAIT_S)
        ordered = sorted(submissions, key=lambda each: each.seq or 0)
        assert [each.result() for each in ordered] == [
            f"{name}{n}" for name in ("URGENT", "HIGH", "LOW") for n in range(3)
        ]
        assert [system.record(each.seq or 0).trigger for each in ordered] == [each.trigger for each in ordered]


def test_a_priority_may_be_given_by_number() -> None:
    with OneSlot() as slot:
        low = slot.system.submit(Step(name="low"), priority=3)  # type: ignore[arg-type]
        urgent = slot.system.submit(Step(name="urgent"), priority=0)  # type: ignore[arg-type]
        assert slot.order([low, urgent]) == ["urgent", "low"]


def test_the_class_s_own_priority_goes_before_the_default() -> None:
    with OneSlot() as slot:
        step = slot.system.submit(Step(name="step"))
        pressing = slot.system.submit(Pressing(name="pressing"))
        assert slot.order([step, pressing]) == ["pressing", "step"]


def test_the_handler_s_option_goes_before_the_class_s_own_priority() -> None:
    with OneSlot(priority=Priority.LOW) as slot:
        pressing = slot.system.submit(Pressing(name="pressing"))
        high = slot.system.submit(Step(name="high"), priority=Priority.HIGH)
        assert slot.order([pressing, high]) == ["high", "pressing"]


def test_the_argument_goes_before_the_handler_s_option() -> None:
    with OneSlot(priority=Priority.LOW) as slot:
        low, high = (
            slot.system.submit(Step(name="low")),
            slot.system.submit(Pressing(name="high"), priority=Priority.HIGH),
        )
        several = slot.system.submit_many([Step(name="a"), Step(name="b")], priority=Priority.URGENT)
        assert slot.order([low, high, *several]) == ["a", "b", "high", "low"]


def test_a_priority_is_inherited_and_may_be_overridden() -> None:
    class MorePressing(Pressing): ...

    class LessPressing(Pressing):
        priority = Priority.LOW

    slot = OneSlot()
    slot.system.on(MorePressing)(slot.step)
    slot.system.on(LessPressing)(slot.step)
    with slot:
        less = slot.system.submit(LessPressing(name="less"))
        step = slot.system.submit(Step(name="step"))
        more = slot.system.submit(MorePressing(name="more"))
        assert slot.order([less, step, more]) == ["more", "step", "less"]


# Event time -------------------------------------------------------------------------------------------------------


def minutes(count: int) -> datetime.datetime:
    return NOON + datetime.timedelta(minutes=count)


@pytest.mark.parametrize("seed", range(5))
def test_among_equals_the_older_event_goes_first_and_then_the_older_submission(seed: int) -> None:
    events = [("c", 5), ("a", 1), ("d", 5), ("b", 2), ("e", 5), ("z", 9), ("f", 5)]
    with OneSlot(seed) as slot:
        submissions = [slot.system.submit(Timed(name=name, event_time=minutes(at))) for name, at in events]
        assert slot.order(submissions) == ["a", "b", "c", "d", "e", "f", "z"]


def test_a_batch_is_ordered_by_its_event_times_too() -> None:
    with OneSlot() as slot:
        batch = [Timed(name=name, event_time=minutes(at)) for name, at in (("b", 2), ("c", 3), ("a", 1))]
        assert slot.order(slot.system.submit_many(batch)) == ["a", "b", "c"]


def test_event_time_does_not_cross_priorities() -> None:
    with OneSlot() as slot:
        older = slot.system.submit(Timed(name="older", event_time=minutes(1)))
        newer = slot.system.submit(Timed(name="newer", event_time=minutes(2)), priority=Priority.HIGH)
        assert slot.order([older, newer]) == ["newer", "older"]


def test_event_times_in_different_zones_are_compared_as_moments() -> None:
    paris = datetime.timezone(datetime.timedelta(hours=1))
    with OneSlot() as slot:
        one_o_clock_paris = slot.system.submit(
            Timed(name="b", event_time=datetime.datetime(2026, 3, 1, 13, 0, 1, tzinfo=paris))
        )
        noon_utc = slot.system.submit(Timed(name="a", event_time=NOON))
        assert slot.order([one_o_clock_paris, noon_utc]) == ["a", "b"]


def test_a_trigger_without_an_event_time_counts_from_its_submission() -> None:
    with OneSlot() as slot:
        now = slot.dispatchers.clock.time()
        without = slot.system.submit(Timed(name="without"))
        before = slot.system.submit(Timed(name="before", event_time=datetime.datetime.fromtimestamp(now - 1, UTC)))
        after = slot.system.submit(Timed(name="after", event_time=datetime.datetime.fromtimestamp(now + 1, UTC)))
        assert slot.order([after, without, before]) == ["before", "without", "after"]


def test_the_event_time_may_be_a_property_and_posix_seconds() -> None:
    class Bar(Trigger[str]):
        name: str
        start_s: int
        length_s: int

        @property
        def event_time(self) -> float:
            return float(self.start_s + self.length_s)

    slot = OneSlot()
    slot.system.on(Bar)(slot.step)
    with slot:
        long = slot.system.submit(Bar(name="long", start_s=0, length_s=60))
        short = slot.system.submit(Bar(name="short", start_s=40, length_s=1))
        assert slot.order([long, short]) == ["short", "long"]


def test_an_event_time_without_a_zone_is_refused() -> None:
    with OneSlot() as slot:
        with pytest.raises(TypeError, match=r"Timed.event_time is .* without a time zone: give it one, for example"):
            slot.system.submit(Timed(event_time=datetime.datetime(2026, 3, 1, 12)))  # noqa: DTZ001
        assert slot.system.stats().queued == 0


@pytest.mark.parametrize("value", ["noon", True, float("nan"), float("inf"), NOON.date(), (1,)])
def test_an_event_time_that_is_no_moment_is_refused(value: Any) -> None:
    class Odd(Trigger[str]):
        event_time: Any = None

    slot = OneSlot()
    slot.system.on(Odd)(slot.step)
    with slot:
        with pytest.raises(TypeError, match=r"Odd.event_time must be an aware datetime or POSIX seconds, got"):
            slot.system.submit(Odd(event_time=value))
        assert slot.system.stats().queued == 0


# Ageing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_low_runs_under_a_constant_stream_of_high(seed: int) -> None:
    slot = OneSlot(seed)
    later: list[Submission[str]] = []

    class Endless(Trigger[str]):
        """HIGH work that is followed by more of it for as long as LOW waits."""

        name: str = "high"
        priority = Priority.HIGH

    slot.system.on(Endless)(slot.step)
    with slot:
        low = slot.system.submit(Step(name="low"), priority=Priority.LOW)
        later += slot.system.submit_many([Endless()] * 200)
        while not low.done:
            later[0].result()
            later.pop(0)
            later.append(slot.system.submit(Endless()))
            assert low.done or len(later) == 200, "there is always HIGH work waiting"
            assert (low.seq or slot.system.stats().current_seq) < 60, "LOW is starved"


def test_every_class_makes_progress_and_the_better_one_more() -> None:
    with OneSlot() as slot:
        streams = {
            priority: [slot.system.submit(Step(name=priority.name), priority=priority) for _ in range(300)]
            for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH)
        }
        for submission in streams[Priority.HIGH]:
            submission.result()
        end = max(submission.seq or 0 for submission in streams[Priority.HIGH])
        served = {
            priority: sum((each.seq or end + 1) <= end for each in stream) for priority, stream in streams.items()
        }
        assert served[Priority.HIGH] == 300
        assert 5 <= served[Priority.LOW] <= served[Priority.NORMAL] <= 30


def test_high_does_not_wait_behind_a_queue_of_low() -> None:
    with OneSlot() as slot:
        low = slot.system.submit_many([Step(name="low")] * 500, priority=Priority.LOW)
        slot.dispatchers.run_to_rest()
        high = slot.system.submit(Step(name="high"), priority=Priority.HIGH)
        assert high.result() == "high"
        assert high.seq == 2
        assert low[-1].result() == "low"


def test_priority_does_not_act_once_a_seq_is_assigned() -> None:
    gate = Gate()
    system = threaded(threads=2)
    order: list[str] = []

    @system.on(Plug)
    def plug(trigger: Plug, tx: Transaction) -> None:
        gate.pass_through()

    @system.on(Step)
    def step(trigger: Step, tx: Transaction) -> str:
        order.append(f"{trigger.name}{tx.seq}")
        return trigger.name

    with system:
        plugged = system.submit(Plug(), priority=Priority.LOW)
        gate.await_arrivals()
        urgent = system.submit(Step(name="urgent"), priority=Priority.URGENT)
        gate.open()
        urgent.result(WAIT_S)
        assert (plugged.seq, urgent.seq) == (1, 2)
        assert plugged.done, "what is urgent commits behind the lower seq"
