"""Who is next among the triggers that wait: priority, event time, arrival, and ageing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtor.actors.sequencer.waiting import AGEING_LIMIT, DROPPED_MAX, WaitingTriggers
from seqtor.actors.submissions import Origin
from seqtor.messages.triggers import Priority

URGENT, HIGH, NORMAL, LOW = Priority


@dataclass(frozen=True)
class Waiter:
    """As much of a submission as the queue looks at."""

    priority: int
    event_time: float
    name: Any
    origin: Any = None
    handler: Any = None


def queue_of(*waiters: Waiter) -> WaitingTriggers:
    queue = WaitingTriggers()
    for waiter in waiters:
        queue.push(waiter)  # type: ignore[arg-type]
    return queue


def take(queue: WaitingTriggers) -> Waiter:
    cls = queue.choose()
    assert cls is not None
    shown = queue.peek(cls)
    assert queue.take_next(lambda _: False) is None, "where there is no room nobody goes"
    taken: Any = queue.take_next(lambda _: True)
    assert taken is shown, "who was shown is who goes"
    return taken  # type: ignore[no-any-return]


def take_all(queue: WaitingTriggers) -> list[Any]:
    return [take(queue).name for _ in range(len(queue))]


def test_the_smaller_priority_number_goes_first() -> None:
    queue = queue_of(*(Waiter(priority, 0.0, priority) for priority in (LOW, HIGH, NORMAL, URGENT)))
    assert take_all(queue) == [URGENT, HIGH, NORMAL, LOW]


def test_among_equals_the_older_event_goes_first_then_the_older_submission() -> None:
    queue = queue_of(
        Waiter(NORMAL, 30.0, "late event"),
        Waiter(NORMAL, 10.0, "old event"),
        Waiter(NORMAL, 30.0, "late event, later submission"),
        Waiter(NORMAL, 10.0, "old event, later submission"),
        Waiter(NORMAL, 20.0, "in between"),
    )
    assert take_all(queue) == [
        "old event",
        "old event, later submission",
        "in between",
        "late event",
        "late event, later submission",
    ]


def test_priority_comes_before_event_time() -> None:
    queue = queue_of(Waiter(NORMAL, 1.0, "older"), Waiter(HIGH, 2.0, "more urgent"))
    assert take_all(queue) == ["more urgent", "older"]


def test_what_arrives_urgent_goes_before_all_that_wait() -> None:
    queue = queue_of(*(Waiter(LOW, 0.0, number) for number in range(1_000)))
    assert take(queue).name == 0
    queue.push(Waiter(URGENT, 0.0, "urgent"))  # type: ignore[arg-type]
    assert take(queue).name == "urgent"


def test_an_empty_queue_chooses_nobody() -> None:
    queue = WaitingTriggers()
    assert queue.choose() is None
    queue.push(Waiter(NORMAL, 0.0, "one"))  # type: ignore[arg-type]
    assert take_all(queue) == ["one"]
    assert queue.choose() is None
    assert len(queue) == 0


def test_choosing_changes_nothing() -> None:
    queue = queue_of(Waiter(HIGH, 0.0, "high"), Waiter(LOW, 0.0, "low"))
    for _ in range(2 * AGEING_LIMIT):
        assert queue.choose() is queue.choose()
    assert take_all(queue) == ["high", "low"]


def test_low_runs_under_a_constant_stream_of_high() -> None:
    queue = queue_of(*(Waiter(LOW, 0.0, ("low", number)) for number in range(3)))
    served: list[Any] = []
    for number in range(4 * AGEING_LIMIT):
        queue.push(Waiter(HIGH, 0.0, ("high", number)))  # type: ignore[arg-type]
        served.append(take(queue).name)
    places = [place for place, name in enumerate(served) if name[0] == "low"]
    assert places == [AGEING_LIMIT, 2 * AGEING_LIMIT + 1, 3 * AGEING_LIMIT + 2]
    assert [served[place][1] for place in places] == [0, 1, 2], "the oldest of the class goes first"


def test_no_class_starves_under_streams_of_all_classes_above_it() -> None:
    queue = queue_of(*(Waiter(LOW, 0.0, LOW) for _ in range(20)))
    served: list[int] = []
    for _ in range(20 * AGEING_LIMIT):
        for priority in (URGENT, HIGH, NORMAL):
            queue.push(Waiter(priority, 0.0, priority))  # type: ignore[arg-type]
        served.append(take(queue).priority)
    for priority in (HIGH, NORMAL, LOW):
        assert served.count(priority) >= 10, f"{Priority(priority).name} starves"
    assert served.count(URGENT) > 0.85 * len(served), "and the urgent ones still get nearly everything"


def test_a_backlog_of_low_delays_high_by_its_share_only() -> None:
    queue = queue_of(*(Waiter(LOW, 0.0, "low") for _ in range(20_000)))
    for number in range(1_000):
        queue.push(Waiter(HIGH, 0.0, number))  # type: ignore[arg-type]
    served = [take(queue).name for _ in range(1_000 + 1_000 // AGEING_LIMIT)]
    assert [name for name in served if name != "low"] == list(range(1_000))


def test_a_class_that_was_served_starts_to_wait_anew() -> None:
    queue = queue_of(Waiter(LOW, 0.0, "low"))
    for number in range(AGEING_LIMIT - 1):
        queue.push(Waiter(HIGH, 0.0, number))  # type: ignore[arg-type]
        assert take(queue).name == number
    assert take(queue).name == "low", "alone, it goes at once"
    queue.push(Waiter(LOW, 0.0, "low again"))  # type: ignore[arg-type]
    for number in range(AGEING_LIMIT):
        queue.push(Waiter(HIGH, 0.0, number))  # type: ignore[arg-type]
        assert take(queue).name == number
    queue.push(Waiter(HIGH, 0.0, "high"))  # type: ignore[arg-type]
    assert take(queue).name == "low again"


def test_waiting_alone_is_not_waiting_behind_others() -> None:
    queue = queue_of(Waiter(LOW, 0.0, "low"))
    take(queue)
    for _ in range(2 * AGEING_LIMIT):
        queue.push(Waiter(HIGH, 0.0, "high"))  # type: ignore[arg-type]
    for _ in range(2 * AGEING_LIMIT - 1):
        take(queue)
    queue.push(Waiter(LOW, 0.0, "low"))  # type: ignore[arg-type]
    assert take(queue).name == "high", "LOW has just come"


@pytest.mark.parametrize("priorities", [(-5, 0, 99), (1_000_000, 7, 3)])
def test_any_number_is_a_priority(priorities: tuple[int, ...]) -> None:
    queue = queue_of(*(Waiter(priority, 0.0, priority) for priority in priorities))
    assert take_all(queue) == sorted(priorities)


@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.sampled_from([0.0, 1.0, 2.0])), max_size=AGEING_LIMIT))
def test_before_anybody_has_aged_it_is_a_stable_sort(arrivals: list[tuple[Priority, float]]) -> None:
    queue = queue_of(*(Waiter(priority, moment, number) for number, (priority, moment) in enumerate(arrivals)))
    expected = sorted(range(len(arrivals)), key=lambda number: (*arrivals[number], number))
    assert take_all(queue) == expected


@given(st.lists(st.none() | st.sampled_from(list(Priority)), max_size=400))
def test_everybody_goes_exactly_once_and_each_class_in_its_order(steps: list[Priority | None]) -> None:
    queue, waiting, served = WaitingTriggers(), 0, []
    for number, priority in enumerate(steps):
        if priority is not None:
            queue.push(Waiter(priority, 0.0, number))  # type: ignore[arg-type]
            waiting += 1
        elif waiting:
            served.append(take(queue))
            waiting -= 1
        assert len(queue) == waiting
    served += [take(queue) for _ in range(waiting)]
    assert sorted(waiter.name for waiter in served) == [n for n, priority in enumerate(steps) if priority is not None]
    for priority in Priority:
        numbers = [waiter.name for waiter in served if waiter.priority == priority]
        assert numbers == sorted(numbers)


@given(st.lists(st.tuples(st.sampled_from([HIGH, NORMAL, LOW]), st.integers(0, 5), st.booleans()), max_size=300))
def test_what_is_dropped_is_never_next_and_changes_nothing_for_the_others(
    waiters: list[tuple[Priority, int, bool]],
) -> None:
    made = [Waiter(priority, float(event_time), name) for name, (priority, event_time, _) in enumerate(waiters)]
    kept = [waiter for waiter, (_, _, dropped) in zip(made, waiters, strict=True) if not dropped]
    queue = queue_of(*made)
    for waiter, (_, _, dropped) in zip(made, waiters, strict=True):
        if dropped:
            queue.drop(waiter)  # type: ignore[arg-type]
    assert len(queue) == len(kept)
    assert take_all(queue) == take_all(queue_of(*kept))
    assert queue.choose() is None
    assert not queue._dropped or len(queue._dropped) <= DROPPED_MAX


def test_what_is_dropped_deep_in_the_queue_does_not_pile_up() -> None:
    queue = queue_of(Waiter(HIGH, 0.0, "front"))
    for number in range(10_000):
        waiter: Any = Waiter(HIGH, 1.0, number)
        queue.push(waiter)
        queue.drop(waiter)
    assert sum(len(cls.queue) for cls in queue._classes) < 3 * DROPPED_MAX
    assert take_all(queue) == ["front"]


@dataclass(eq=False)
class Joiner:
    """A waiter that can become one with others, and come apart again."""

    event_time: float
    priority: int = NORMAL
    origin: Origin = field(default_factory=lambda: Origin(coalesce="k"))
    handler: Any = "h"
    absorbed: Any = None

    def absorb(self, others: list[Any]) -> None:
        self.absorbed = others


@pytest.mark.parametrize("is_dropped", [False, True])
def test_who_comes_back_is_there_once_though_its_old_entry_is_there_still(is_dropped: bool) -> None:
    queue = WaitingTriggers()
    joiners: list[Any] = [Joiner(event_time) for event_time in (2.0, 1.0, 3.0)]
    for each in joiners:
        queue.push(each)
    behind, lead, newest = joiners
    taken: Any = queue.take_next(lambda _: True)
    assert taken is newest
    assert newest.absorbed == [lead, behind]
    assert len(queue) == 0
    for each in newest.absorbed:
        each.origin = Origin()
        queue.push(each)
    if is_dropped:
        queue.drop(behind)
    assert [take(queue) for _ in range(len(queue))] == ([lead] if is_dropped else [lead, behind])
    assert queue.choose() is None
    assert not sum(len(each) for cls in queue._classes for each in cls.queues())
