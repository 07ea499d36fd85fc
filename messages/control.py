"""Messages about the control socket: what other processes ask of a running system."""

from __future__ import annotations

from typing import Any

from seqtor.messages.message import message

__all__ = ["ServeRequest"]


@message
class ServeRequest:
    """From: the control socket's connections (the edge). To: a control desk.

    Answer: JSON for a query, the `Submission`s for what hands triggers in, or the exception that the facade raised, as a
    value. `request` is one of the requests of the control protocol. Twice: carried out twice; each is sent once.
    """

    request: Any
