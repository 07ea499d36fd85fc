"""What a supervisor's state machine hears (events) and wants done (commands).

Owns their shapes: frozen, compared by value. `start` counts the starts of a child, so that what an instance says after
its successor has been launched is known to be old.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqtor.tree.reports import Report
from seqtor.tree.specs import ChildSpec

__all__ = [
    "Abandon",
    "Begin",
    "ChildEnded",
    "ChildStarted",
    "Command",
    "DeleteChild",
    "Event",
    "Exit",
    "Forget",
    "Launch",
    "Ready",
    "Release",
    "Reply",
    "RestartChild",
    "SetTimer",
    "StartChild",
    "StartDynamic",
    "Stop",
    "StopAsked",
    "Tell",
    "TerminateChild",
    "TimerFired",
]  # fmt: skip

# Events --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the children."""


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child has acknowledged its start."""

    child: str
    start: int


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """The child has ended: with an error, or by itself (None)."""

    child: str
    start: int
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that was set is due."""

    timer: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Stop the children in reverse order, then exit."""


@dataclass(frozen=True, slots=True)
class StartChild:
    """Add a child behind the others and start it. Answer: its id."""

    spec: ChildSpec
    reply: Any


@dataclass(frozen=True, slots=True)
class StartDynamic:
    """Start one more child of a dynamic supervisor, with these arguments behind those of the recipe. Answer: its id."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reply: Any


@dataclass(frozen=True, slots=True)
class TerminateChild:
    """Stop a child and leave it stopped. Answer: None."""

    child: str
    reply: Any


@dataclass(frozen=True, slots=True)
class RestartChild:
    """Start a stopped child again. Answer: None."""

    child: str
    reply: Any


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Drop the spec of a stopped child. Answer: None."""

    child: str
    reply: Any


Event = (
    Begin | ChildStarted | ChildEnded | TimerFired | StopAsked | StartChild | StartDynamic | TerminateChild | RestartChild
    | DeleteChild
)  # fmt: skip


# Commands ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """Make an instance of the child; it is answered by `ChildStarted` or `ChildEnded`, once."""

    child: str
    start: int
    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the child stop; it is answered by `ChildEnded`. `keep`: what waits in its mailbox is its successor's."""

    child: str
    start: int
    keep: bool


@dataclass(frozen=True, slots=True)
class Abandon:
    """Cut the child's instance off, whatever it is doing; nothing more is heard of it."""

    child: str
    start: int
    keep: bool


@dataclass(frozen=True, slots=True)
class Release:
    """The child has ended and nobody will restart it: answer what waits in its mailbox."""

    child: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The child's spec is gone."""

    child: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send `TimerFired` in a while."""

    timer: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request, with a value or with an exception to raise."""

    reply: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Tell:
    """Pass the report on."""

    report: Report


@dataclass(frozen=True, slots=True)
class Ready:
    """All children have acknowledged their first start."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The supervisor has ended; all its children have. With an error it has failed."""

    error: BaseException | None


Command = Launch | Stop | Abandon | Release | Forget | SetTimer | Reply | Tell | Ready | Exit
