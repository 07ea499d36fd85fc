"""How often triggers of a type are given a seq (`rate=`), and how fast the queue moves.

Owns the token buckets, one for each type that has a rate, and the measurement from which `retry_after` is told. Pure; on
the core, `Pace` is read by the edge. Both outlive the sequencer: a crash makes no burst.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from seqtor.messages.errors import RegistrationError

__all__ = ["Bucket", "Pace", "require_rate"]

BURST_S = 0.1  # What a type may catch up on at once, or timers that come late would cost it part of its rate.
ROUNDING = 1e-6
MARK_EVERY_S = 0.25
MARKS_MAX = 20  # Five seconds of a busy system.


class Bucket:
    """The tokens of one type: `rate` more every second, a run takes one."""

    __slots__ = ("_at", "_tokens", "_tokens_max", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = self._tokens_max = max(1.0, rate * BURST_S)
        self._at = -math.inf

    def refill(self, now: float) -> None:
        """Count the time up to `now`, seconds of a clock that is never set."""
        if now > self._at:
            self._tokens = min(self._tokens_max, self._tokens + (now - self._at) * self.rate)
            self._at = now

    @property
    def has_token(self) -> bool:
        """Whether a run may be numbered."""
        return self._tokens >= 1 - ROUNDING

    def take(self) -> None:
        """A run is numbered."""
        self._tokens -= 1

    @property
    def next_s(self) -> float:
        """In how many seconds, from the last refill on, there is a token."""
        return max(0.0, (1 - self._tokens) / self.rate)


class Pace:
    """How many triggers have left the queue, and when."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS_MAX)

    def note(self, now: float, left: int) -> None:
        """So many have left the queue by now, seconds of a clock that is never set."""
        marks = self._marks
        if not marks or now - marks[-1][0] >= MARK_EVERY_S or left < marks[-1][1]:
            if marks and left < marks[-1][1]:
                marks.clear()  # Counted anew, by the next sequencer.
            marks.append((now, left))

    def per_second(self, now: float, left: int) -> float | None:
        """How many leave it in a second, of late; None if that is not known."""
        marks = list(self._marks)
        for at, before in marks:
            if now - at <= MARKS_MAX * MARK_EVERY_S and now > at and left >= before:
                return (left - before) / (now - at)
        return None


def require_rate(rate: Any, name: str) -> float | None:
    """The rate, per second, or None. Raises RegistrationError for what is none."""
    if rate is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise RegistrationError(
            f"rate= of the handler of {name} is how many runs may begin in a second (a number above 0), got {rate!r}"
        )
    return float(rate)
