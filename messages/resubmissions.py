"""Another try of what was given up, as a trigger: it takes a seq and a record like any other.

Owns the trigger type that carries a dead effect through the order, so that its commit releases the effect once more.
"""

from __future__ import annotations

from seqtor.messages.triggers import Trigger

__all__ = ["EffectResubmitted"]


class EffectResubmitted(Trigger[None], name="seqtor.effect_resubmitted"):
    """Releases the effect of a dead letter again: its function's name, its payload as JSON text, the key of every try."""

    effect: str
    version: int = 1
    payload_json: str
    key: str
