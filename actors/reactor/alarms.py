"""Alarms: what went wrong in seqtor itself, as events that can be reacted to.

Owns their codes. Promises: what follows from an alarm raises no other, or alarms would go on for ever; its run ids say so.
`seqtor.missed_slot` is told by the tick that missed it, in `actors/schedules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqtor.actors.reactor.reactions import ANY_NAME, Reactions
from seqtor.messages.conditions import Condition
from seqtor.messages.events import is_alarm, make_alarm
from seqtor.messages.facts import EffectFailureFact, FailureFact
from seqtor.messages.triggers import Trigger

if TYPE_CHECKING:
    from seqtor.actors.reactor.facts import Facts

__all__ = ["DEAD_LETTER", "REACTION_FAILED", "RESTARTED", "alarm_of", "watch_dead_letters"]

DEAD_LETTER = "seqtor.dead_letter"
REACTION_FAILED = "seqtor.reaction_failed"
RESTARTED = "seqtor.restarted"


def watch_dead_letters(reactions: Reactions) -> None:
    """If somebody reacts to `seqtor.dead_letter`, let whatever is given up become that event."""
    if f"event {DEAD_LETTER}" in reactions.interests and reactions.find(DEAD_LETTER) is None:
        anything = Condition[Any]("failure", ANY_NAME) | Condition[Any]("effect", ANY_NAME)
        reactions.add_own(anything, alarm_of, DEAD_LETTER)


def alarm_of(facts: Facts) -> Trigger[Any] | None:
    """The function of the reaction behind `seqtor.dead_letter`: an event for what was given up, but for alarms."""
    [fact] = facts.all
    if is_alarm(fact.id):
        return None
    if isinstance(fact, FailureFact):
        what = {"kind": "run", "id": fact.run, "name": fact.trigger.trigger_name}
    else:
        assert isinstance(fact, EffectFailureFact)
        what = {"kind": "effect", "id": fact.id.partition("/")[0], "name": fact.effect}
    error = f"{fact.exception_type}: {fact.message}"
    return make_alarm(DEAD_LETTER, {**what, "seq": fact.seq, "error": error})
