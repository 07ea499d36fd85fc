"""Batons: how a caller's thread sleeps until another thread wakes it.

Owns the primitive behind `Submission.result()`. Promises: `wait` returns once `hand_over` was called, by any thread,
before or after; signals interrupt it. A baton is for one wait; only one that has been waited for may be given back.

Why not always a lock: whoever releases a lock goes on holding the GIL. On a busy core the thread that it wakes can run
at once, only to fall asleep on the GIL, and is woken twice more when the waker pauses: six switches of threads for one
turn of submit and wait. Writing to a descriptor lets go of the GIL first: two switches. Locks remain for where there is
no such descriptor, or none is left.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["EventBaton", "LockBaton", "give_back", "take"]

SPARE_MAX = 64
POLL_MAX_S = 2_000_000.0  # 23 days: poll() counts milliseconds in an int.
ONE = (1).to_bytes(8, "little")


class LockBaton:
    """A lock that its releaser hands over: a third of the price of an Event."""

    __slots__ = ("_lock", "hand_over")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.hand_over: Callable[[], None] = self._lock.release

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the baton is handed over; False if the time-out came first."""
        if timeout_s is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))


class EventBaton:
    """A counter in the kernel (Linux): neither who writes it nor who waits for it holds the GIL meanwhile."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def hand_over(self) -> None:
        os.write(self._descriptor, ONE)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the baton is handed over; False if the time-out, of at most 23 days, came first."""
        if timeout_s is not None and timeout_s < POLL_MAX_S:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if not poll.poll(max(timeout_s, 0.0) * 1000):
                return False
        os.read(self._descriptor, 8)  # Not eventfd_read: that one gives up when a signal comes.
        return True

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Nowhere else: who is late to hand over still holds the baton, and must not write to what was opened since.
        close(self._descriptor)


_spare: deque[EventBaton] = deque(maxlen=SPARE_MAX)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_spare.clear)  # They are the parent's too: each would take the other's wakings.


def take() -> EventBaton | LockBaton:
    """A baton that nobody else holds."""
    try:
        return _spare.pop()
    except IndexError:
        pass
    try:
        return EventBaton(os.eventfd(0))
    except (AttributeError, OSError):
        return LockBaton()


def give_back(baton: EventBaton | LockBaton) -> None:
    """Keep a baton for another wait; only after its `wait` has returned True."""
    if type(baton) is EventBaton:
        _spare.append(baton)
