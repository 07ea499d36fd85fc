"""`Restart`: how many restarts are too many, and how long each one waits.

Owns the arithmetic of the restart window and of backoff. Pure: the moments and the chance are handed in.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import random as random_numbers

from seqtor.messages.errors import RegistrationError

__all__ = ["Restart", "Window"]

INTENSITY = 1
PERIOD_S = 5.0
BACKOFF_MAX_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Restart:
    """At most `intensity` restarts within `period`; one more is a failure of the supervisor itself.

    Without `backoff` a child is restarted at once. With it the first restart within the period waits so long, each
    further one twice as long, up to `backoff_max`; `jitter` is the part of each wait that is left to chance: with 0.5 it
    lasts between half and all of it. Durations are seconds or timedeltas. Raises RegistrationError for values that
    cannot be meant.
    """

    intensity: int
    period: float
    backoff: float
    backoff_max: float
    jitter: float

    def __init__(
        self,
        intensity: int = INTENSITY,
        period: float | datetime.timedelta = PERIOD_S,
        *,
        backoff: float | datetime.timedelta = 0.0,
        backoff_max: float | datetime.timedelta = BACKOFF_MAX_S,
        jitter: float = 0.0,
    ) -> None:
        if isinstance(intensity, bool) or not isinstance(intensity, int) or intensity < 0:
            raise RegistrationError(f"intensity counts restarts: 0 or more, got {intensity!r}")
        period_s = duration_s("period", period)
        if not period_s:
            raise RegistrationError(
                "period must be longer than 0 seconds: it is the time in which restarts are counted"
            )
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise RegistrationError(f"jitter is the part of a wait that is left to chance, from 0 to 1, got {jitter!r}")
        put = object.__setattr__
        put(self, "intensity", intensity)
        put(self, "period", period_s)
        put(self, "backoff", duration_s("backoff", backoff))
        put(self, "backoff_max", duration_s("backoff_max", backoff_max))
        put(self, "jitter", float(jitter))

    def delay_s(self, restarts: int, random: random_numbers.Random) -> float:
        """How long the restart waits that is the `restarts`-th (from 1) within the period."""
        try:
            delay_s = min(math.ldexp(self.backoff, restarts - 1), self.backoff_max)
        except OverflowError:
            delay_s = self.backoff_max
        return delay_s * (1 - self.jitter * random.random()) if self.jitter else delay_s


class Window:
    """The restarts of one supervisor that lie within the period."""

    def __init__(self, restart: Restart) -> None:
        self._restart = restart
        self._moments: list[float] = []

    def add(self, now: float) -> bool:
        """Count a restart at `now`, which never decreases. False if it is one too many."""
        oldest = now - self._restart.period
        self._moments = [moment for moment in self._moments if moment >= oldest]
        self._moments.append(now)
        return len(self._moments) <= self._restart.intensity

    def __len__(self) -> int:
        return len(self._moments)


def duration_s(name: str, value: object) -> float:
    """A duration as seconds. Raises RegistrationError for what is no duration."""
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise RegistrationError(f"{name} must be seconds (a number, 0 or more) or a timedelta, got {value!r}")
    return float(value)
