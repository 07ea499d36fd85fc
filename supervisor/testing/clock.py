"""`ManualClock`: the time of a system under test.

Owns how a test lets time pass. Promises: what falls due meanwhile happens at its own time and in its order, also what
follows from it; when `advance` returns, nothing is left that could happen at that moment.
"""

from __future__ import annotations

import datetime

from seqtor.actors.dispatchers.simulated import SimulatedDispatchers

__all__ = ["ManualClock"]


class ManualClock:
    """Virtual time. Nothing of a test takes real time, whatever it waits for."""

    def __init__(self, dispatchers: SimulatedDispatchers) -> None:
        self._dispatchers = dispatchers

    @property
    def now(self) -> datetime.datetime:
        """The time of day: aware, UTC."""
        return datetime.datetime.fromtimestamp(self._dispatchers.clock.time(), datetime.UTC)

    def advance(
        self,
        duration: float | datetime.timedelta = 0.0,
        *,
        seconds: float = 0.0,
        minutes: float = 0.0,
        hours: float = 0.0,
        days: float = 0.0,
    ) -> None:
        """Let so much time pass, and all happen that falls due until then: delays, retries, schedules, time-outs.

        `duration` is seconds or a timedelta; all that is given is added. Raises ValueError for less than nothing.
        """
        given = duration if isinstance(duration, datetime.timedelta) else datetime.timedelta(seconds=duration)
        total = given + datetime.timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
        if total < datetime.timedelta():
            raise ValueError(
                f"advance() takes a time that passes, got {total.total_seconds():g} s: time never goes back"
            )
        self._dispatchers.run_for(total.total_seconds())

    def advance_to(self, moment: datetime.datetime) -> None:
        """Let time pass until a moment, an aware datetime. Raises ValueError for one that has passed."""
        if moment.tzinfo is None:
            raise ValueError(f"advance_to() takes an aware datetime, got {moment!r}: say its tzinfo, datetime.UTC")
        self.advance(moment - self.now)

    def sleep(self, duration: float | datetime.timedelta) -> None:
        """Block the plain handler that calls this for so long, as one that is slow or stuck; `math.inf` is for ever.

        Others go on meanwhile. Past its deadline the run ends with DeadlineExceeded, and the thread is replaced, as on real
        threads. Raises RuntimeError outside of a plain handler: a test lets time pass with `advance`, a coroutine awaits
        `asyncio.sleep`.
        """
        self._dispatchers.sleep(duration.total_seconds() if isinstance(duration, datetime.timedelta) else duration)

    def __repr__(self) -> str:
        return f"<ManualClock {self.now.isoformat()}>"
