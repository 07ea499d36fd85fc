"""Triggers that wait for a seq: who is next.

Owns the priority queue `(priority, event_time, arrival)` and its ageing. Pure; not thread-safe. Promises: of equal
priority the older event goes first, then the older submission; a class of triggers that has been passed over
`AGEING_LIMIT` times while it waited is served once, so LOW makes progress under any stream of HIGH, and a stream of LOW
never delays HIGH by more than its share.
"""

from __future__ import annotations

from seqtor.actors.dispatchers.ready_queue import ReadyQueue
from seqtor.actors.submissions import Submission

__all__ = ["AGEING_LIMIT", "WaitingTriggers"]

AGEING_LIMIT = 32
DROPPED_MAX = 64  # Entries without a trigger, at least, before they are removed from between the others.


class PriorityClass:
    """The triggers of one priority, and how often others went first while they waited."""

    __slots__ = ("passed_over", "priority", "queue")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.queue: ReadyQueue[Submission[object]] = ReadyQueue()
        self.passed_over = 0


class WaitingTriggers:
    """The queue between accepted and sequenced."""

    def __init__(self) -> None:
        self._classes: list[PriorityClass] = []
        self._count = 0
        self._dropped: set[Submission[object]] = set()  # Taken back; their entries go when they come to the front.

    def __len__(self) -> int:
        return self._count

    def push(self, submission: Submission[object]) -> None:
        """Queue a submission by its priority and event time; arrivals must come in order."""
        for cls in self._classes:
            if cls.priority == submission.priority:
                break
        else:
            cls = PriorityClass(submission.priority)
            self._classes.append(cls)
            self._classes.sort(key=lambda each: each.priority)
        cls.queue.push(submission.event_time, submission)
        self._count += 1

    def drop(self, submission: Submission[object]) -> None:
        """Take back a submission that waits."""
        self._dropped.add(submission)
        self._count -= 1
        if len(self._dropped) > max(DROPPED_MAX, self._count):
            for cls in self._classes:
                cls.queue.discard(self._dropped)
            self._dropped.clear()

    def choose(self) -> PriorityClass | None:
        """The class whose turn it is, or None if nothing waits."""
        if self._dropped:
            self._clear_fronts()
        best: PriorityClass | None = None
        for cls in self._classes:
            if not len(cls.queue):
                continue
            if best is None:
                best = cls
            elif cls.passed_over >= AGEING_LIMIT:
                return cls
        return best

    def peek(self, cls: PriorityClass) -> Submission[object]:
        """The next submission of a class that has one."""
        entry = cls.queue.peek()
        assert entry is not None
        return entry[2]

    def take(self, chosen: PriorityClass) -> Submission[object]:
        """Remove the next submission of the chosen class; the waiting classes below the best have been passed over."""
        for cls in self._classes:
            if cls is not chosen and cls.priority > chosen.priority and len(cls.queue):
                cls.passed_over += 1
        chosen.passed_over = 0
        self._count -= 1
        return chosen.queue.pop()

    def _clear_fronts(self) -> None:
        """Let a trigger that waits be in front in every class that has one."""
        for cls in self._classes:
            while (entry := cls.queue.peek()) is not None and entry[2] in self._dropped:
                self._dropped.discard(cls.queue.pop())
