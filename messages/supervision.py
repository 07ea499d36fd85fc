"""Messages to and from supervisors of users' actors."""

from __future__ import annotations

from typing import Any

from seqtor.messages.message import message

__all__ = ["ActorDied", "ChangeChildren", "SupervisorTimer"]


@message
class ActorDied:
    """From: an actor that has ended for good. To: who watches it. Answer: none. Twice: the second says the same.

    `error` is None if it stopped in order, or had ended before it was watched. A restart is no death.
    """

    urn: str
    error: BaseException | None = None


@message
class ChangeChildren:
    """From: the program. To: a supervisor. Answer: what the request is answered with. Twice: asked twice.

    `request` is one of `StartChild`, `StartDynamic`, `TerminateChild`, `RestartChild`, `DeleteChild` of the supervisor's
    state machine.
    """

    request: Any
    reply_to: Any


@message
class SupervisorTimer:
    """From: a timer. To: the supervisor that set it. Answer: none. Twice: the second is ignored.

    `incarnation` tells it from a timer that the instance before a restart has set.
    """

    timer: int
    incarnation: int
