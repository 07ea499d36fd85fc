"""The scheduler: gives each schedule its ticks when its slots are due.

Owns which slot of each schedule is next, and one timer for whoever is first. It decides nothing: a tick that it gives twice,
because it crashed or the clock was set, starts nothing twice. Promises: the time of day is looked at once in `LOOK_S` at
least, so a clock that is set and a machine that was suspended are noticed; one tick of a schedule is under way at a time.
Runs on a thread of its own, because looking for slots takes its time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar, Protocol

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Cancellable, Timers
from seqtor.actors.schedules.calendar import jitter_of
from seqtor.actors.schedules.plans import Bounded, calendar_of
from seqtor.actors.submissions import Submission
from seqtor.messages.errors import NotRunning
from seqtor.messages.runs import State
from seqtor.messages.schedules import (
    LookAtSchedules,
    ScheduleChanged,
    ScheduledRunEnded,
    ScheduleState,
    ScheduleTicked,
    TickEnded,
)

__all__ = ["Desk", "Scheduler", "due_of"]

LOOK_S = 10.0
SLOTS_MAX = 1_000  # Of those that are late, how many one tick is about; the next is given when it has ended.
FAILED_WAIT_S = 60.0


class Desk(Protocol):
    """What the scheduler asks of the system. Thread-safe; it outlives the actor."""

    def schedules(self) -> Iterable[str]:
        """The names of all."""
        ...

    def state(self, name: str) -> ScheduleState | None:
        """A schedule as it is now."""
        ...

    def ended(self, name: str, slots: Iterable[float]) -> tuple[float, ...]:
        """Those of the slots whose runs have ended."""
        ...

    def forget(self, name: str, under_way: Iterable[float]) -> None:
        """Forget the runs of a schedule that have ended, but those of the slots that are not known to."""
        ...

    def give(self, tick: ScheduleTicked) -> Submission[int]:
        """Submit a tick, past the bound of the queue. Raises NotRunning."""
        ...


class Scheduler(Actor):
    """The schedules of one system, and when each is due next."""

    receives: ClassVar[tuple[type, ...]] = (LookAtSchedules, ScheduleChanged, ScheduledRunEnded, TickEnded)

    def __init__(self, desk: Desk, clock: Clock, timers: Timers) -> None:
        super().__init__()
        self._desk = desk
        self._clock = clock
        self._timers = timers
        self._next: dict[
            str, float
        ] = {}  # When each is due, by the time of day; an entry of the heap that differs is old.
        self._heap: list[tuple[float, str]] = []
        self._under_way: dict[str, Submission[int]] = {}
        self._calendars: dict[str, tuple[int, Bounded]] = {}
        self._timer: Cancellable | None = None

    def on_start(self) -> None:
        for name in self._desk.schedules():
            self._plan(name)
        self._set_timer()

    def on_stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def on_look_at_schedules(self, _: LookAtSchedules) -> None:
        now = self._clock.time()
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, name = heapq.heappop(heap)
            if self._next.get(name) == due:
                del self._next[name]
                self._tick(name)
        self._set_timer()

    def on_schedule_changed(self, message: ScheduleChanged) -> None:
        self._plan(message.schedule)
        self._set_timer()

    def on_scheduled_run_ended(self, message: ScheduledRunEnded) -> None:
        state = self._desk.state(message.schedule)
        self._desk.forget(message.schedule, () if state is None else state.under_way)
        if state is not None and state.queued:
            self._tick(message.schedule)

    def on_tick_ended(self, message: TickEnded) -> None:
        name = message.schedule
        tick = self._under_way.get(name)
        if tick is not message.submission:
            return
        assert tick is not None
        del self._under_way[name]
        failed = tick.state is not State.COMMITTED
        if failed:
            logger.bind(actor="scheduler").error(
                "schedule {!r}: its tick (seq {}) ended as {}; it is given again in {:g} s",
                name, tick.seq, tick.state.value, FAILED_WAIT_S,
            )  # fmt: skip
        self._plan(name, self._clock.time() + FAILED_WAIT_S if failed else 0.0)
        state = self._desk.state(name)
        self._desk.forget(name, () if state is None else state.under_way)
        if not failed and state is not None and state.queued and self._desk.ended(name, state.under_way):
            self._tick(name)  # It ended meanwhile.
        self._set_timer()

    # What is due -----------------------------------------------------------------------------------------------------

    def _plan(self, name: str, not_before: float = 0.0) -> None:
        """Note when the schedule is due next; if a tick of it is under way, its end does."""
        state = self._desk.state(name)
        self._next.pop(name, None)
        if state is None or state.paused or state.gone:
            self._calendars.pop(name, None)
            return
        if name in self._under_way:
            return
        for slot in self._slots(name, state):
            due = max(due_of(name, state, slot), not_before)
            self._next[name] = due
            heapq.heappush(self._heap, (due, name))
            return

    def _slots(self, name: str, state: ScheduleState) -> Iterator[float]:
        """The slots that are not decided yet, rising."""
        revision, calendar = self._calendars.get(name, (0, None))
        if calendar is None or revision != state.revision:
            calendar = calendar_of(state.plan, state.anchor)
            self._calendars[name] = (state.revision, calendar)
        return calendar.slots(state.through)

    def _tick(self, name: str) -> None:
        """Give the schedule a tick about all that is due now."""
        state = self._desk.state(name)
        if state is None or name in self._under_way:
            return
        now = self._clock.time()
        # The newest that may be made up for are in the last tick of all.
        kept = state.plan.catch_up_max
        found = list(islice(self._due(name, state, now), SLOTS_MAX + kept + 1))
        more = len(found) > SLOTS_MAX + kept
        slots = tuple(found[:SLOTS_MAX] if more else found)
        grace = state.plan.grace
        on_time = 0 if more else sum(1 for slot in slots if now - due_of(name, state, slot) <= grace)
        tick = ScheduleTicked(
            schedule=name,
            revision=state.revision,
            slots=slots,
            on_time=on_time,
            more=more,
            ended=self._desk.ended(name, state.under_way),
        )
        if not slots and not (tick.ended and state.queued):
            self._plan(name)
            return
        try:
            submission = self._desk.give(tick)
        except NotRunning:
            return  # The system stops: the slots are due after the next start.
        self._under_way[name] = submission
        ended = TickEnded(schedule=name, submission=submission)
        if submission.when_done(lambda: self._tell(ended)):
            self._tell(ended)

    def _due(self, name: str, state: ScheduleState, now: float) -> Iterator[float]:
        for slot in self._slots(name, state):
            if due_of(name, state, slot) > now:
                return
            yield slot

    def _set_timer(self) -> None:
        """Have a look when the next is due, and now and then before."""
        heap = self._heap
        while heap and self._next.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if heap:
            wait_s = min(max(0.0, heap[0][0] - self._clock.time()), LOOK_S)
            self._timer = self._timers.call_after(wait_s, lambda: self._tell(LookAtSchedules()))

    def _tell(self, message: Any) -> None:
        """From any thread: it may come when the system has stopped."""
        inbox: Any = self.actor_inbox
        if not inbox.closed:
            inbox.put(message)


def due_of(name: str, state: ScheduleState, slot: float) -> float:
    """When a slot is to begin: at its time, or a little later if the schedule has a jitter."""
    return slot + jitter_of(name, slot, state.plan.jitter)
