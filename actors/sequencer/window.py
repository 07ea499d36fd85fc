"""How much numbered work may be in flight.

Owns the slots: a trigger gets its seq only when one is free, so that what arrives urgent does not stand behind a window
of numbered work. Pure. For async handlers a fixed number; for sync ones as many as `HANDLER_TIME_S` of work hold, by
the running estimate of each handler's time, but at least threads + 2 and at most `SYNC_MAX`. For those in worker processes
two more than there are: the next runs wait there, and what arrives urgent does not wait for more than these. A run that
waits for lower ones before it executes holds no slot: what has nothing to do with it must not stand behind it.
"""

from __future__ import annotations

from seqtor.actors.handlers import Handler

__all__ = ["Window"]

HANDLER_TIME_S = 0.002
RUN_OVERHEAD_S = 0.00002  # What a run costs beside its handler; without it a window of empty handlers would be endless.
SYNC_MAX = 256
SMOOTHING = 0.2


class Window:
    """The slots of one system."""

    def __init__(self, threads: int, async_max: int, processes: int = 1) -> None:
        self._sync_min = threads + 2
        self._process_max = processes + 2
        self._process_count = 0
        self._async_max = async_max
        self._sync_count = 0
        self._async_count = 0
        self._sync_time_s = 0.0
        self._estimates: dict[Handler, float] = {}
        self._in_flight: dict[int, tuple[Handler, float]] = {}
        self._held: set[int] = set()  # Those without a slot.

    def __len__(self) -> int:
        return len(self._in_flight)

    def has_room(self, handler: Handler) -> bool:
        """Whether a run of the handler may be numbered now."""
        if handler.place:
            return self._async_count < self._async_max if handler.is_async else self._process_count < self._process_max
        count = self._sync_count
        return count < self._sync_min or (self._sync_time_s < HANDLER_TIME_S and count < SYNC_MAX)

    def enter(self, seq: int, handler: Handler) -> None:
        """Take a slot."""
        # A handler not seen yet is taken for a slow one: the window opens as it proves to be fast.
        estimate_s = self._estimates.get(handler, HANDLER_TIME_S)
        self._in_flight[seq] = (handler, estimate_s)
        if handler.place:
            self._count(handler, estimate_s, 1)
        else:  # As `_count` does, without a call: this is done for every run.
            self._sync_count += 1
            self._sync_time_s += estimate_s

    def hold(self, seq: int) -> None:
        """Free the slot of a run that has to wait before it executes; one of too many keeps it."""
        if len(self._held) < self._async_max and seq in self._in_flight and seq not in self._held:
            self._count(*self._in_flight[seq], -1)
            self._held.add(seq)

    def begin(self, seq: int) -> None:
        """The run executes now: it takes a slot, whether there is one or not."""
        if seq in self._held:
            self._held.remove(seq)
            self._count(*self._in_flight[seq], 1)

    def _count(self, handler: Handler, estimate_s: float, by: int) -> None:
        if not handler.place:
            self._sync_count += by
            self._sync_time_s = self._sync_time_s + by * estimate_s if self._sync_count else 0.0
        elif handler.is_async:
            self._async_count += by
        else:
            self._process_count += by

    def leave(self, seq: int, handler_s: float) -> None:
        """Free the slot of a run that has ended and learn from its handler's time."""
        if self._held:
            self.begin(seq)  # It was aborted before it began.
        handler, estimate_s = self._in_flight.pop(seq)  # KeyError: only a run in flight ends.
        if handler.place:
            self._count(handler, estimate_s, -1)
            return
        self._sync_count -= 1
        self._sync_time_s = self._sync_time_s - estimate_s if self._sync_count else 0.0
        known = self._estimates.get(handler)
        sample_s = handler_s + RUN_OVERHEAD_S
        self._estimates[handler] = sample_s if known is None else known + SMOOTHING * (sample_s - known)
