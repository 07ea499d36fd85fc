"""Timers on a thread: calls back at a moment of the clock.

Owns one thread and a heap. Callbacks only send messages; one that raises is logged and harms no other.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

from loguru import logger

from seqtor.actors.clock import Clock

__all__ = ["ThreadTimers"]


class Timer:
    """One callback that waits for its moment."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless after it was called."""
        self.callback = None


class ThreadTimers:
    """Timers of one system."""

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"{name}-timers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> list[str]:
        """End the thread; timers that wait are dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return [self._thread.name] if self._thread.is_alive() else []

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        with self._changed:
            heapq.heappush(self._heap, (self._clock.monotonic() + delay_s, next(self._count), timer))
            if self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                wait_s = self._heap[0][0] - self._clock.monotonic() if self._heap else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s if wait_s is None else min(wait_s, threading.TIMEOUT_MAX))
                    continue
                callback = heapq.heappop(self._heap)[2].callback
            if callback is not None:
                try:
                    callback()
                except Exception:
                    logger.exception("a timer's callback failed")
