"""Events: what happened outside, or in a handler, as a trigger without a handler of its own.

Owns the trigger type that carries an event through the order. An event takes a seq and a record like any other trigger.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from seqtor.messages.triggers import Trigger

__all__ = ["ALARM", "ALARM_CODES", "OURS", "EventEmitted", "is_alarm", "make_alarm", "make_event", "take_event"]

OURS = "seqtor."
ALARM = "alarm-"
ALARM_CODES = frozenset(
    {
        "seqtor.dead_letter", "seqtor.drift", "seqtor.guard", "seqtor.missed_slot", "seqtor.reaction_failed",
        "seqtor.restarted", "seqtor.store_resumed", "seqtor.store_suspended",
    }
)  # fmt: skip


class EventEmitted(Trigger[None], name="seqtor.event"):
    """An event: its code and its payload as JSON text, which is immutable."""

    code: str
    payload_json: str = "null"


def make_event(code: str, payload: Any = None) -> EventEmitted:
    """Check and make a program's event.

    Raises TypeError for a code that is no text or a payload that is not JSON, ValueError for a code of seqtor's own.
    """
    if not isinstance(code, str) or not code:
        raise TypeError(f"an event's code is a non-empty string, got {code!r}")
    if code.startswith(OURS):
        raise ValueError(
            f"the codes that begin with {OURS!r} are seqtor's own, for alarms: call the event {code!r} otherwise"
        )
    return make_alarm(code, payload)


def make_alarm(code: str, payload: Any) -> EventEmitted:
    """Make an event of seqtor's own. Raises TypeError for a payload that is not JSON, ValueError for a code it lacks."""
    if code.startswith(OURS) and code not in ALARM_CODES:
        raise ValueError(f"{code!r} is not among the codes that can be waited for: add it to ALARM_CODES")
    try:
        payload_json = to_json(payload, bytes_mode="base64", inf_nan_mode="strings").decode()
    except PydanticSerializationError as error:
        raise TypeError(f"the payload of event {code!r} cannot be serialised: {error}") from error
    return EventEmitted(code=code, payload_json=payload_json)


def is_alarm(fact_or_run_id: str) -> bool:
    """Whether it is an alarm of seqtor's own, or follows from one."""
    return fact_or_run_id.startswith(ALARM)


def take_event(trigger: EventEmitted, tx: Any) -> None:
    """The handler of events: their record is all there is to do."""
