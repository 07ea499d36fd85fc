"""Messages about effects: what is done to the outside world after a durable commit."""

from __future__ import annotations

from typing import Any

from seqtor.messages.message import message

__all__ = ["CarryOut"]


@message
class CarryOut:
    """From: coordinator, once the commit at `seq` is durable. To: effects. Answer: none.

    `effects` are `RecordedEffect`s; their place in the tuple is their index. Twice: the second is ignored.
    """

    seq: int
    effects: tuple[Any, ...]
