"""The queue of ready runs: smallest rank first, first come first among equals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtor.actors.dispatchers.ready_queue import ReadyQueue

RANKS = st.integers(0, 6)
STEPS = st.lists(st.one_of(RANKS, st.none()), max_size=60)


def test_what_comes_in_order_goes_in_order() -> None:
    queue: ReadyQueue[str] = ReadyQueue()
    for rank, item in enumerate("abc"):
        queue.push(rank, item)
    assert [queue.pop() for _ in range(3)] == ["a", "b", "c"]


def test_a_straggler_overtakes_what_has_a_larger_rank() -> None:
    queue: ReadyQueue[int] = ReadyQueue()
    for rank in (5, 7, 3, 6, 4, 8):
        queue.push(rank, rank)
    assert [queue.pop() for _ in range(6)] == [3, 4, 5, 6, 7, 8]


def test_equals_go_in_the_order_in_which_they_came_even_if_one_was_late() -> None:
    queue: ReadyQueue[str] = ReadyQueue()
    for rank, item in ((2, "x"), (1, "late"), (1, "later"), (2, "y")):
        queue.push(rank, item)
    assert queue.pop() == "late"
    queue.push(1, "latest")
    assert [queue.pop() for _ in range(4)] == ["later", "latest", "x", "y"]


def test_an_empty_queue_shows_nothing_and_gives_nothing() -> None:
    queue: ReadyQueue[str] = ReadyQueue()
    assert queue.peek() is None
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


def test_items_are_never_compared() -> None:
    queue: ReadyQueue[object] = ReadyQueue()
    items = [object() for _ in range(4)]
    for item in items:
        queue.push(1, item)
    queue.push(0, items[0])
    assert [queue.pop() for _ in range(5)] == [items[0], *items]


@given(STEPS)
def test_it_gives_what_a_stable_sort_gives(steps: list[int | None]) -> None:
    queue: ReadyQueue[tuple[int, int]] = ReadyQueue()
    model: list[tuple[int, int]] = []
    for number, rank in enumerate(steps):
        if rank is not None:
            queue.push(rank, (rank, number))
            model.append((rank, number))
        elif model:
            entry = queue.peek()
            model.sort()
            assert entry is not None
            assert queue.pop() == entry[2] == model.pop(0)
        assert len(queue) == len(model)
    assert [queue.pop() for _ in model] == sorted(model)
