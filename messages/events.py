"""Events: what happened outside, or in a handler, as a trigger without a handler of its own.

Owns the trigger type that carries an event through the order. An event takes a seq and a record like any other trigger.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from seqtor.messages.triggers import Trigger

__all__ = ["EventEmitted", "make_event", "take_event"]


class EventEmitted(Trigger[None], name="seqtor.event"):
    """An event: its code and its payload as JSON text, which is immutable."""

    code: str
    payload_json: str = "null"


def make_event(code: str, payload: Any = None) -> EventEmitted:
    """Check and make an event. Raises TypeError for a code that is no text or a payload that is not JSON."""
    if not isinstance(code, str) or not code:
        raise TypeError(f"an event's code is a non-empty string, got {code!r}")
    try:
        payload_json = to_json(payload, bytes_mode="base64", inf_nan_mode="strings").decode()
    except PydanticSerializationError as error:
        raise TypeError(f"the payload of event {code!r} cannot be serialised: {error}") from error
    return EventEmitted(code=code, payload_json=payload_json)


def take_event(trigger: EventEmitted, tx: Any) -> None:
    """The handler of events: their record is all there is to do."""
