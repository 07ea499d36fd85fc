"""Messages about the life of actors and of the system."""

from __future__ import annotations

from typing import Any

from seqtor.messages.message import message

__all__ = [
    "ActorCrashed",
    "ActorStarted",
    "ActorStopped",
    "CloseResource",
    "DeadLetter",
    "Drain",
    "Drained",
    "StoreRecovered",
    "StoreRefusedToStart",
]


@message
class ActorCrashed:
    """From: an actor that ended by an exception. To: its parent. Answer: none. Twice: the second is ignored.

    `incarnation` counts the instances of a restartable actor, from 1; 0 says that it has only one.
    """

    actor: str
    urn: str
    error: BaseException
    undelivered: int
    incarnation: int = 0


@message
class ActorStarted:
    """From: a restartable actor whose `on_start` has returned. To: its parent. Answer: none. Twice: harmless."""

    urn: str
    incarnation: int = 0


@message
class ActorStopped:
    """From: a restartable actor that stopped without failing. To: its parent. Answer: none. Twice: harmless."""

    urn: str
    incarnation: int = 0


@message
class DeadLetter:
    """From: a mailbox that will not deliver. To: the dispatcher's dead-letter sink. Answer: none. Twice: two letters."""

    recipient: str
    reason: str
    message: Any


@message
class Drain:
    """From: the system that stops. To: sequencer, which passes it on to the coordinator when every run has ended.

    The coordinator passes it on to effects while some of them have not ended. Answer: `Drained`. Twice: the later one is
    answered too.
    """

    reply_to: Any


@message
class Drained:
    """From: coordinator, or effects. To: the system that stops. Answer: none; every caller has been answered.

    Twice: harmless.
    """


@message
class CloseResource:
    """From: the system that stops. To: resource closer, on the dispatcher where the resource was opened.

    Answer: None, or the exception with which its context manager ended. Twice: closed twice.
    """

    manager: Any
    reply_to: Any


@message
class StoreRecovered:
    """From: a store cell. To: the root; after a restart, from it, committer. Answer: none. Twice: the second is ignored.

    Carries the recovered state, with which a system starts; after a restart the committer has the state.
    """

    store: str
    state: Any


@message
class StoreRefusedToStart:
    """From: a store cell whose `recover` failed. To: the root. Answer: none. Twice: the second is ignored."""

    store: str
    error: BaseException
