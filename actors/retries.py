"""`Retry`: how often what failed is tried again, and how long it waits before.

Owns the arithmetic of backoff. Pure and immutable: chance is handed in, so that the same seed waits the same time.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import random as random_numbers
from collections.abc import Iterable
from typing import Any

from seqtor.messages.errors import RegistrationError

__all__ = ["Retry"]

BACKOFF_S = 1.0
BACKOFF_MAX_S = 300.0
JITTER = 0.5


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Retry:
    """At most `max_runs` executions, the first included, with a growing wait in between.

    After the first failure the wait is `backoff` (seconds or a timedelta), then it doubles each time, up to
    `backoff_max`. `jitter` is the part of each wait that is left to chance: with 0.5 it lasts between half and all of
    it, with 0 exactly as long. Only instances of the classes in `on` are tried again, any other exception is final.

    Of a handler, what counts is what it raises, a model that does not validate in the commit, and `DeadlineExceeded` if `on`
    names it or a base of it, as the default does; never `Rejected`, a broken invariant, or a crash of the run's actor. Of an
    effect it is what the function raises.

    Raises RegistrationError for values that cannot be meant.
    """

    max_runs: int
    backoff: float
    backoff_max: float
    jitter: float
    on: tuple[type[BaseException], ...]

    def __init__(
        self,
        max_runs: int,
        *,
        backoff: float | datetime.timedelta = BACKOFF_S,
        backoff_max: float | datetime.timedelta = BACKOFF_MAX_S,
        jitter: float = JITTER,
        on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
    ) -> None:
        if isinstance(max_runs, bool) or not isinstance(max_runs, int) or max_runs < 1:
            raise RegistrationError(
                f"Retry(max_runs) counts executions, the first included: 1 or more, got {max_runs!r}"
            )
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise RegistrationError(f"jitter is the part of a wait that is left to chance, from 0 to 1, got {jitter!r}")
        put = object.__setattr__
        put(self, "max_runs", max_runs)
        put(self, "backoff", _seconds("backoff", backoff))
        put(self, "backoff_max", _seconds("backoff_max", backoff_max))
        put(self, "jitter", float(jitter))
        put(self, "on", _classes(on))

    def tries_again(self, run_number: int, error: BaseException) -> bool:
        """Whether another execution follows the one with this number (from 1), which failed with `error`."""
        return run_number < self.max_runs and isinstance(error, self.on)

    def delay_s(self, run_number: int, random: random_numbers.Random) -> float:
        """How long to wait after the execution with this number (from 1) has failed."""
        try:
            delay_s = min(math.ldexp(self.backoff, run_number - 1), self.backoff_max)
        except OverflowError:
            delay_s = self.backoff_max
        return delay_s * (1 - self.jitter * random.random()) if self.jitter else delay_s


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise RegistrationError(f"{name} must be seconds (a number, 0 or more) or a timedelta, got {value!r}")
    return float(value)


def _classes(on: Any) -> tuple[type[BaseException], ...]:
    classes: tuple[Any, ...] = (on,) if isinstance(on, type) else tuple(on) if isinstance(on, Iterable) else (on,)
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise RegistrationError(f"Retry(on=...) takes classes of exceptions, got {kind!r}")
    if not classes:
        raise RegistrationError("Retry(on=()) would try nothing again: name classes of exceptions, or say Retry(1)")
    return classes
