"""What a supervisor did, as data.

Owns the kinds of reports. A report is made once, when it has happened, and never changes.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum

__all__ = ["Report", "ReportKind"]


class ReportKind(StrEnum):
    """What happened."""

    STARTED = "started"
    """A child has acknowledged its first start."""

    FAILED_TO_START = "failed_to_start"
    """A child failed before it acknowledged; `error` says how."""

    CRASHED = "crashed"
    """A child ended with an exception."""

    STOPPED = "stopped"
    """A child stopped by itself."""

    RESTARTED = "restarted"
    """A child has acknowledged a later start."""

    BACKED_OFF = "backed_off"
    """A child will be restarted in `delay_s` seconds."""

    SHUT_DOWN = "shut_down"
    """The supervisor stopped a child."""

    ABANDONED = "abandoned"
    """A child did not stop in time (or was to be killed): its instance is cut off, and may still hold a thread."""

    GAVE_UP = "gave_up"
    """The supervisor will stop its children and end as failed: too many restarts, or a child that failed its first start."""

    ENDED = "ended"
    """The supervisor has ended, after its children."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One thing that a supervisor did or saw.

    `supervisor` is its path from the top, `child` the id of the child concerned (None: the supervisor itself). `time` is
    in seconds since the epoch. `restarts` counts those of the child so far, for `GAVE_UP` those within the period.
    """

    time: float
    kind: ReportKind
    supervisor: str
    child: str | None = None
    error: BaseException | None = None
    restarts: int = 0
    delay_s: float | None = None

    def __str__(self) -> str:
        who = self.supervisor if self.child is None else f"{self.supervisor}/{self.child}"
        text = f"{who} {str(self.kind).replace('_', ' ')}"
        if self.error is not None:
            text += f": {type(self.error).__name__}: {self.error}"
        if self.delay_s is not None:
            text += f", restart in {self.delay_s:g} s"
        return text
