"""How a system ends: where it is in its life, and what whoever waits for its end is told.

Owns the value of `system.wait()`. Promises: the first end counts, it is told exactly once, and waiting for it polls
nothing.
"""

from __future__ import annotations

import enum
import threading
from typing import NamedTuple

from pykka import Timeout

from seqtor.actors.futures import Driver, ReplyFuture

__all__ = ["Ending", "Life", "LifeEnd"]


class Life(enum.StrEnum):
    """Where a system is between its making and its end."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    BROKEN_DOWN = "broken down"


class Ending(NamedTuple):
    """How a system came to its end: `STOPPED` because it was told to, or `BROKEN_DOWN` by itself; `reason` says why."""

    life: Life
    reason: str

    @property
    def broke_down(self) -> bool:
        """Whether nobody had told it to end."""
        return self.life is Life.BROKEN_DOWN


class LifeEnd:
    """The end of one system, as a signal."""

    def __init__(self, driver: Driver | None) -> None:
        self._lock = threading.Lock()
        self._told = ReplyFuture()
        self._told.driver = driver
        self.ending: Ending | None = None

    def tell(self, life: Life, reason: str) -> None:
        """The system has ended; only the first end counts."""
        with self._lock:
            if self.ending is not None:
                return
            self.ending = ending = Ending(life, reason)
        self._told.set(ending)

    def wait(self, timeout_s: float | None) -> Ending:
        """Wait for the end. Raises TimeoutError."""
        try:
            ending: Ending = self._told.get(timeout=timeout_s)
        except Timeout:
            raise TimeoutError(f"the system has not ended within {timeout_s:g} s") from None
        return ending
