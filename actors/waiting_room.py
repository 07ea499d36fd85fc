"""The waiting room: triggers whose time has not come, outside of the queue. Retries in their backoff, and delayed ones.

Owns the wait. On the core; it outlives the actors there. Promises: nothing in the order waits for what is in here, a wait
is a timer, and only one of them is set, for whoever is next; who waits is open, so a crash loses nobody and a restart of
the process finds them in the journal; nobody waits longer than it had to at first, even if the time of day is set back.
When the time of day is set forward, that is noticed within `LOOK_S`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from typing import Any

from loguru import logger

from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Cancellable, Timers
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.retries import BACKOFF_MAX_S
from seqtor.actors.submissions import Intake, Submission
from seqtor.messages.runs import AcceptTriggers, WaitOver

__all__ = ["WaitingRoom"]

NAMED_MAX = 10
LOOK_S = 60.0  # How long a timer is set for at most; then the time of day is looked at once more.
SET_FORWARD_S = 0.5  # By more than this the time of day must have left the other clock behind to count as set.
STALE_MAX = 64  # Entries of those who left before their time, at least, before the heap is made anew.


class WaitingRoom:
    """The triggers of one system that wait for their time."""

    def __init__(self, clock: Clock, timers: Timers, intake: Intake) -> None:
        self._clock = clock
        self._timers = timers
        self._intake = intake
        self._waiting: dict[Submission[Any], float] = {}  # Until when, by the clock that is never set.
        self._heap: list[tuple[float, int, Submission[Any]]] = []
        self._count = itertools.count()
        self._offset_s = clock.time() - clock.monotonic()
        self._timer: Cancellable | None = None
        self._timer_at = 0.0
        self._closed = False
        self.retries = 0  # How many of those who wait are retries.
        self.left = 0  # How many have left whom the edge had sent. Read by the edge to bound them.
        self.coordinator: Mailbox
        self.stop_at = float("inf")  # POSIX seconds: what is due later does not hold up a stop.

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, submission: object) -> bool:
        return submission in self._waiting

    # Coming ----------------------------------------------------------------------------------------------------------

    def wait(self, submission: Submission[Any]) -> None:
        """Let it wait; the coordinator is told when somebody's time has come (`WaitOver`). Twice: the second is ignored."""
        if submission in self._waiting or submission.ended_as is not None or submission.done or self._closed:
            return
        delay_s = self._delay_s(submission)  # First: a thread that is interrupted between the two is late, not early.
        until = self._clock.monotonic() + delay_s
        heapq.heappush(self._heap, (until, next(self._count), submission))  # First: who waits is in it.
        self._waiting[submission] = until
        self.retries += _is_retry(submission)
        self._set_timer()

    def wait_again(self, retry: Submission[Any]) -> None:
        """Let a retry wait for its backoff, before it is open. Twice: the second is ignored, also when the wait is over."""
        if retry not in self._intake.open:
            self.wait(retry)

    def hold_back(self, submissions: Sequence[Submission[Any]]) -> tuple[Submission[Any], ...]:
        """Let those wait whose time has not come; returns the others, which may be queued."""
        now = self._clock.time()
        admitted = []
        for submission in submissions:
            due = submission.due
            if due is not None and due > now:
                self.wait(submission)
            else:
                admitted.append(submission)
                self.left += due is not None and is_from_edge(submission)
        return tuple(admitted)

    # Leaving ---------------------------------------------------------------------------------------------------------

    def let_out(self, sequencer: Mailbox) -> bool:
        """Have those run whose time has come; whether there were any."""
        over = self._over()
        for submission in over:
            # First: who is open and does not wait here is queued after a crash.
            self._intake.open[submission] = None
            submission.leave_for_queue()
            self.remove(submission)
        if over:
            sequencer.tell(AcceptTriggers(submissions=tuple(over), bypasses=True))
        self._timer_at = 0.0
        self._set_timer()
        return bool(over)

    def remove(self, submission: Submission[Any]) -> bool:
        """It does not wait any more; False if it did not."""
        if self._waiting.pop(submission, None) is None:
            return False
        self.retries -= _is_retry(submission)
        self.left += is_from_edge(submission)
        if len(self._heap) > 2 * len(self._waiting) + STALE_MAX:
            self._make_heap()
        return True

    def remind(self) -> None:
        """Tell again that somebody's time has come; the coordinator that was told may have crashed, also in here."""
        self.retries = sum(map(_is_retry, self._waiting))
        self._make_heap()
        self._timer_at = 0.0
        self._set_timer()

    def count_left(self, sent: int) -> None:
        """Count anew who has left of `sent` whom the edge has sent; when no message with one of them is under way."""
        self.left = sent - self.from_edge

    # The stop --------------------------------------------------------------------------------------------------------

    def hold_up_a_stop(self) -> bool:
        """Whether one of them is due before the grace of the stop is over."""
        return any(_due(submission) <= self.stop_at for submission in self._waiting)

    def close(self, *, journaled: bool) -> None:
        """Stop waiting, because the system stops; names what is left."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._waiting:
            return
        named = [f"{each.handler.name} (run {each.id})" for each in list(self._waiting)[:NAMED_MAX]]
        more = f" and {len(self._waiting) - NAMED_MAX} more" if len(self._waiting) > NAMED_MAX else ""
        log, text = logger.bind(actor="core"), ", ".join(named) + more
        if journaled:
            log.info("retries and delayed triggers that were not due at the stop run after the next start: {}", text)
        else:
            log.warning(
                "retries and delayed triggers that were not due at the stop are lost, there is no journal: {}", text
            )

    @property
    def delayed(self) -> int:
        """How many wait that are no retries."""
        return len(self._waiting) - self.retries

    @property
    def from_edge(self) -> int:
        """How many wait whom the edge has sent."""
        return sum(map(is_from_edge, self._waiting))

    @property
    def next_s(self) -> float:
        """In how many seconds somebody's time comes; 0 if nobody waits. Read by the edge."""
        heap = self._heap
        return max(0.0, heap[0][0] - self._clock.monotonic()) if heap else 0.0

    # Time ------------------------------------------------------------------------------------------------------------

    def _delay_s(self, submission: Submission[Any]) -> float:
        """How long from now, and never longer than it had to wait at first."""
        due = _due(submission)
        if _is_retry(submission):
            policy = submission.handler.retry
            longest_s = BACKOFF_MAX_S if policy is None else policy.backoff_max
        else:
            longest_s = max(0.0, due - submission.submitted_at)
        return min(max(0.0, due - self._clock.time()), longest_s)

    def _over(self) -> list[Submission[Any]]:
        """Those whose time has come, the earliest first; they stay."""
        now = self._clock.monotonic()
        offset_s = self._clock.time() - now
        if offset_s > self._offset_s + SET_FORWARD_S:
            for submission, until in self._waiting.items():
                delay_s = self._delay_s(submission)
                self._waiting[submission] = min(until, self._clock.monotonic() + delay_s)
            self._make_heap()
        self._offset_s = offset_s
        heap, over = self._heap, dict[Submission[Any], None]()
        while heap and heap[0][0] <= now:
            until, _, submission = heapq.heappop(heap)
            if self._waiting.get(submission) == until:
                over[submission] = None
        return list(over)

    def _make_heap(self) -> None:
        self._heap = [(until, next(self._count), submission) for submission, until in self._waiting.items()]
        heapq.heapify(self._heap)

    def _set_timer(self) -> None:
        """Set the timer for whoever is next, unless it is."""
        heap = self._heap
        while heap and heap[0][2] not in self._waiting:
            heapq.heappop(heap)
        if not heap or self._closed:
            return
        now = self._clock.monotonic()
        at = min(heap[0][0], now + LOOK_S)
        if self._timer is not None and now < self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay_s = max(0.0, at - now)
        while now + delay_s < at:  # By rounding; a timer that comes too early would be set again for ever.
            delay_s = math.nextafter(delay_s, math.inf)
        self._timer = self._timers.call_after(delay_s, lambda: _tell(self.coordinator))


def is_from_edge(submission: Submission[Any]) -> bool:
    """Whether it was submitted by the program; else a commit has submitted it, or it is a retry."""
    return submission.cause is None and not _is_retry(submission)


def _is_retry(submission: Submission[Any]) -> bool:
    return submission.origin is not None and submission.origin.retry is not None


def _due(submission: Submission[Any]) -> float:
    due = submission.due
    assert due is not None
    return due


def _tell(coordinator: Mailbox) -> None:
    if not coordinator.closed:  # Closed: the system is gone, and with it whoever waits.
        coordinator.tell(WaitOver())
