"""The clock that is handed to everything which reads time.

Owns the only calls of the operating system's clocks. `time()` is POSIX seconds for records, `monotonic()` is seconds
from an arbitrary start for durations. Nothing else in the package reads a clock.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock"]


class Clock(Protocol):
    """Reads time; never waits."""

    def time(self) -> float:
        """POSIX seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.perf_counter)
    time = staticmethod(time.time)


class VirtualClock:
    """A clock that stands still until it is told to advance; for simulation and tests."""

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._start_s = start_s
        self._elapsed_s = 0.0

    def time(self) -> float:
        return self._start_s + self._elapsed_s

    def monotonic(self) -> float:
        return self._elapsed_s

    def advance_to(self, monotonic_s: float) -> None:
        """Move forward to a moment of `monotonic()`; a moment in the past changes nothing."""
        self._elapsed_s = max(self._elapsed_s, monotonic_s)
