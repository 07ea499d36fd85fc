"""Triggers that wait for a seq: who is next.

Owns the priority queue `(priority, event_time, arrival)` and its ageing. Pure; not thread-safe. Promises: of equal
priority the older event goes first, then the older submission; a class of triggers that has been passed over
`AGEING_LIMIT` times while it waited is served once, so LOW makes progress under any stream of HIGH, and a stream of LOW
never delays HIGH by more than its share. Triggers of a type that has used up its rate are passed by, as if they were not
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from seqtor.actors.dispatchers.ready_queue import ReadyQueue
from seqtor.actors.handlers import Handler
from seqtor.actors.rates import Bucket
from seqtor.actors.sequencer.groups import Groups
from seqtor.actors.submissions import Submission

__all__ = ["AGEING_LIMIT", "WaitingTriggers"]

AGEING_LIMIT = 32
DROPPED_MAX = 64  # Entries without a trigger, at least, before they are removed from between the others.
Queue = ReadyQueue[Submission[object]]


class PriorityClass:
    """The triggers of one priority, and how often others went first while they waited.

    Those of types with a rate are in queues of their own.
    """

    __slots__ = ("passed_over", "priority", "queue", "rated")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.queue: Queue = ReadyQueue()
        self.rated: dict[Handler, Queue] = {}
        self.passed_over = 0

    def queues(self) -> list[Queue]:
        """All queues of the class."""
        return [self.queue, *self.rated.values()]


class WaitingTriggers:
    """The queue between accepted and sequenced. `buckets` are those of the types that have a rate."""

    def __init__(self, buckets: Mapping[Handler, Bucket] | None = None) -> None:
        self._classes: list[PriorityClass] = []
        self._count = 0
        self._buckets = buckets or {}
        self._groups = Groups()
        self._dropped: set[Submission[object]] = set()  # Not next; their entries go when they come to the front.

    def __len__(self) -> int:
        return self._count

    def push(self, submission: Submission[object]) -> None:
        """Queue a submission by its priority and event time; arrivals must come in order.

        One that becomes one with others stands in the queue for them if its place is better than theirs.
        """
        self._count += 1
        if submission.origin is not None and submission.origin.coalesce is not None:
            group = self._groups.join(submission)
            if group is not None:
                lead = group.lead
                if (submission.priority, submission.event_time) >= (lead.priority, lead.event_time):
                    return
                self._dropped.add(lead)
                group.lead = submission
        self._enter(submission)

    def _enter(self, submission: Submission[object]) -> None:
        if self._dropped and submission in self._dropped:
            self._dropped.discard(submission)  # Its entry is there still.
            return
        for cls in self._classes:
            if cls.priority == submission.priority:
                break
        else:
            cls = PriorityClass(submission.priority)
            self._classes.append(cls)
            self._classes.sort(key=lambda each: each.priority)
        queue = cls.queue
        if self._buckets and submission.handler in self._buckets:
            queue = cls.rated.setdefault(submission.handler, ReadyQueue())
        queue.push(submission.event_time, submission)

    def drop(self, submission: Submission[object]) -> None:
        """Take back a submission that waits."""
        self._count -= 1
        group = self._groups.of(submission)
        if group is not None:
            self._groups.leave(group, submission)
            if group.lead is not submission:
                return
            if group.members:
                group.lead = group.best()
                self._enter(group.lead)
        self._dropped.add(submission)
        if len(self._dropped) > max(DROPPED_MAX, self._count):
            for cls in self._classes:
                for queue in cls.queues():
                    queue.discard(self._dropped)
            self._dropped.clear()

    def refill(self, now: float) -> None:
        """Let those go on whose types have their rate again; seconds of a clock that is never set."""
        for bucket in self._buckets.values():
            bucket.refill(now)

    def next_token_s(self) -> float | None:
        """In how many seconds the next trigger may go on that waits for nothing but its rate; None if none does."""
        waits = [
            self._buckets[handler].next_s
            for cls in self._classes
            for handler, queue in cls.rated.items()
            if len(queue) and not self._buckets[handler].has_token
        ]
        return min(waits, default=None)

    def choose(self) -> PriorityClass | None:
        """The class whose turn it is, or None if nothing waits that may go on."""
        if self._dropped:
            self._clear_fronts()
        best: PriorityClass | None = None
        for cls in self._classes:
            if not len(cls.queue) and not (cls.rated and self._front(cls)):
                continue
            if best is None:
                best = cls
            elif cls.passed_over >= AGEING_LIMIT:
                return cls
        return best

    def peek(self, cls: PriorityClass) -> Submission[object]:
        """The next submission of a class that has one."""
        queue = self._front(cls) if cls.rated else cls.queue
        entry = None if queue is None else queue.peek()
        assert entry is not None
        return entry[2]

    def take_next(self, has_room: Callable[[Handler], bool]) -> Submission[object] | None:
        """Remove the next submission, unless there is no room for it; None then, and if nothing waits that may go on."""
        if (
            len(self._classes) == 1 and not self._buckets and not self._dropped
        ):  # Nearly always: then there is no choice.
            [only] = self._classes
            entry = only.queue.peek()
            if entry is None or not has_room(entry[2].handler):
                return None
            self._count -= 1
            return self._whole(only.queue.pop())
        chosen = self.choose()
        return self.take(chosen) if chosen is not None and has_room(self.peek(chosen).handler) else None

    def take(self, chosen: PriorityClass) -> Submission[object]:
        """Remove the next submission of the chosen class; the waiting classes below the best have been passed over."""
        for cls in self._classes:
            if cls is not chosen and cls.priority > chosen.priority and (len(cls.queue) or cls.rated):
                cls.passed_over += bool(len(cls.queue) or self._front(cls))
        chosen.passed_over = 0
        self._count -= 1
        if not chosen.rated:
            submission = chosen.queue.pop()
        else:
            queue = self._front(chosen)
            assert queue is not None
            submission = queue.pop()
            if queue is not chosen.queue:
                self._buckets[submission.handler].take()
        return self._whole(submission)

    def _whole(self, submission: Submission[object]) -> Submission[object]:
        """The submission that was taken, or what it has become with others."""
        if submission.origin is not None and submission.origin.coalesce is not None:
            submission, count = self._groups.take(submission)
            self._count -= count - 1
        return submission

    def _front(self, cls: PriorityClass) -> Queue | None:
        """Of the queues of a class the one whose first is next, of those whose types may go on."""
        best, first = None, None
        entry = cls.queue.peek()
        if entry is not None:
            best, first = cls.queue, entry[0]
        for handler, queue in cls.rated.items():
            entry = queue.peek()
            if entry is not None and self._buckets[handler].has_token and (first is None or entry[0] < first):
                best, first = queue, entry[0]
        return best

    def _clear_fronts(self) -> None:
        """Let a trigger that waits be in front in every queue that has one."""
        for cls in self._classes:
            for queue in cls.queues():
                while (entry := queue.peek()) is not None and entry[2] in self._dropped:
                    self._dropped.discard(queue.pop())
