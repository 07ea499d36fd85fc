"""`delay=` and `at=`: before when a trigger is not to run.

Owns the checks of what users pass. Pure; a moment is reckoned from one that is handed in, so that a handler gets the same
in every attempt and in replay.
"""

from __future__ import annotations

import datetime
import math
from typing import Any, NamedTuple

__all__ = ["NotBefore", "not_before"]

DELAY_MAX_S = 100 * 366 * 86_400


class NotBefore(NamedTuple):
    """A wait of `delay_s` seconds, or until `at` (POSIX seconds): one of the two."""

    delay_s: float | None
    at: float | None

    def due(self, now: float) -> float | None:
        """The moment, POSIX seconds; None if it is not after `now`."""
        due = self.at if self.delay_s is None else now + self.delay_s
        return due if due is not None and due > now else None


def not_before(delay: Any, at: Any) -> NotBefore | None:
    """What the two options say; None for neither. Raises TypeError and ValueError that say what to change."""
    if delay is None and at is None:
        return None
    if delay is not None and at is not None:
        raise TypeError(f"delay={delay!r} and at={at!r} both say when the trigger may run: give one of them")
    if delay is not None:
        return NotBefore(_seconds(delay), None)
    if not isinstance(at, datetime.datetime):
        raise TypeError(f"at is a moment, an aware datetime, got {at!r}: for a wait in seconds give delay=")
    if at.tzinfo is None or at.utcoffset() is None:
        raise ValueError(
            f"at={at!r} has no time zone, so it is no moment: give it one, for example "
            "datetime.now(UTC) + timedelta(hours=1), or value.replace(tzinfo=ZoneInfo('Europe/Berlin'))"
        )
    return NotBefore(None, at.timestamp())


def _seconds(delay: Any) -> float:
    value = delay.total_seconds() if isinstance(delay, datetime.timedelta) else delay
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"delay is seconds (a number, 0 or more) or a timedelta, got {delay!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"delay must be 0 seconds or more, and finite, got {delay!r}: leave it out to run at once")
    if value > DELAY_MAX_S:
        raise ValueError(f"delay must be at most {DELAY_MAX_S} seconds, which is 100 years, got {delay!r}")
    return float(value)
