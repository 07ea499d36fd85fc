"""How many triggers are numbered at a time: enough to keep the threads busy, few enough for what arrives urgent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtor.actors.handlers import IN_PROCESS, ON_LOOP, ON_POOL
from seqtor.actors.sequencer.window import HANDLER_TIME_S, SYNC_MAX, Window

THREADS = 4


@dataclass(frozen=True, eq=False)
class Kind:
    """As much of a handler as the window looks at."""

    is_async: bool = False
    in_process: bool = False

    @property
    def place(self) -> int:
        """Where it executes."""
        return IN_PROCESS if self.in_process else ON_LOOP if self.is_async else ON_POOL


def fill(window: Window, handler: Any, first_seq: int = 1) -> list[int]:
    """Number runs of one handler while there is room; returns their seqs."""
    seqs: list[int] = []
    while window.has_room(handler):
        assert len(seqs) < 100_000, "a window without a bound"
        window.enter(first_seq + len(seqs), handler)
        seqs.append(first_seq + len(seqs))
    return seqs


def known_window(handler_s: float, handler: Any) -> Window:
    """A window that has seen many runs of the handler."""
    window = Window(THREADS, async_max=10_000)
    for seq in range(1, 101):
        window.enter(seq, handler)
        window.leave(seq, handler_s)
    return window


def test_slow_handlers_get_two_more_than_there_are_threads() -> None:
    handler: Any = Kind()
    assert len(fill(known_window(1.0, handler), handler)) == THREADS + 2


def test_worker_processes_get_two_more_than_there_are_however_fast_their_handlers_and_what_else_is_in_flight() -> None:
    handler: Any = Kind(in_process=True)
    window = Window(THREADS, async_max=10, processes=3)
    assert len(fill(window, Kind())) == THREADS + 2  # type: ignore[arg-type]
    seqs = fill(window, handler, first_seq=100)
    assert len(seqs) == 5
    for seq in seqs:
        window.leave(seq, 0.0)
    assert len(fill(window, handler, first_seq=200)) == 5


def test_tiny_handlers_flow_in_batches_but_never_without_a_bound() -> None:
    handler: Any = Kind()
    assert THREADS + 2 < len(fill(known_window(0.0, handler), handler)) <= SYNC_MAX
    assert len(fill(known_window(0.000_001, handler), handler)) > 50


@given(st.floats(0.0, 10.0))
def test_the_window_holds_about_2_ms_of_handler_time_within_its_bounds(handler_s: float) -> None:
    handler: Any = Kind()
    numbered = len(fill(known_window(handler_s, handler), handler))
    assert THREADS + 2 <= numbered <= SYNC_MAX
    if numbered > THREADS + 2:
        assert (numbered - 1) * handler_s < HANDLER_TIME_S


def test_a_handler_that_was_never_seen_is_taken_for_a_slow_one() -> None:
    handler: Any = Kind()
    assert len(fill(Window(THREADS, async_max=10), handler)) == THREADS + 2


def test_the_window_opens_as_a_handler_proves_to_be_fast_and_closes_as_it_turns_slow() -> None:
    handler: Any = Kind()
    window = Window(THREADS, async_max=10)
    seqs = fill(window, handler)
    for seq in seqs:
        window.leave(seq, 0.000_01)
    opened = fill(window, handler, first_seq=100)
    assert len(opened) > len(seqs)
    for seq in opened:
        window.leave(seq, 0.5)
    assert len(fill(window, handler, first_seq=1_000)) == THREADS + 2


def test_each_handler_has_its_own_estimate() -> None:
    tiny: Any = Kind()
    slow: Any = Kind()
    window = known_window(0.0, tiny)
    for seq in range(1, 50):
        window.enter(seq, slow)
        window.leave(seq, 1.0)
    assert len(fill(window, slow, first_seq=100)) == THREADS + 2
    assert not window.has_room(tiny), "slow work fills the window for all"


def test_async_handlers_have_a_fixed_number_of_slots_of_their_own() -> None:
    sync: Any = Kind()
    waits: Any = Kind(is_async=True)
    window = Window(THREADS, async_max=500)
    assert len(fill(window, sync)) == THREADS + 2
    seqs = fill(window, waits, first_seq=1_000)
    assert len(seqs) == 500
    assert len(window) == THREADS + 2 + 500
    for seq in seqs:
        window.leave(seq, 60.0)
    assert len(fill(window, waits, first_seq=2_000)) == 500, "their time does not count"
    assert not window.has_room(sync)


def test_a_slot_that_is_left_can_be_taken_again() -> None:
    handler: Any = Kind()
    window = known_window(1.0, handler)
    seqs = fill(window, handler, first_seq=1_000)
    assert not window.has_room(handler)
    window.leave(seqs[3], 1.0)
    assert window.has_room(handler)
    assert len(window) == len(seqs) - 1


@pytest.mark.parametrize("seq", [7, 0])
def test_only_a_run_in_flight_ends(seq: int) -> None:
    handler: Any = Kind()
    window = Window(THREADS, async_max=10)
    window.enter(1, handler)
    window.leave(1, 0.0)
    with pytest.raises((AssertionError, KeyError)):
        window.leave(seq, 0.0)
    with pytest.raises((AssertionError, KeyError)):
        window.leave(1, 0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 0.01)), max_size=200))
def test_an_empty_window_has_all_its_room_whatever_went_through_it(ends: list[tuple[int, float]]) -> None:
    handlers: list[Any] = [Kind(), Kind(), Kind(), Kind(is_async=True)]
    window = Window(THREADS, async_max=10)
    for seq, (which, handler_s) in enumerate(ends, start=1):
        window.enter(seq, handlers[which])
        if seq % 3:
            window.leave(seq, handler_s)
    for seq in range(3, len(ends) + 1, 3):
        window.leave(seq, ends[seq - 1][1])
    assert len(window) == 0
    new: Any = Kind()
    assert len(fill(window, new, first_seq=10_000)) == THREADS + 2
