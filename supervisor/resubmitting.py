"""Submits what was given up once more: a dead run as a new run, a dead effect under its key.

Owns what a caller may pass as a dead letter, and what the new run is made of. Promises: a dead letter is submitted once,
whoever asks at the same time; with a journal that is so across restarts, because the new run says whose other try it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from seqtor.actors.dead_letters import DeadRun
from seqtor.actors.effects import EffectFunctions
from seqtor.actors.handlers import Handler, did_you_mean
from seqtor.actors.journal.open_runs import DEAD_LETTERS_MAX
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.outbox import Prepare
from seqtor.actors.submissions import Submission
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import RegistrationError
from seqtor.messages.records import RecordedEffect, RecordedTrigger
from seqtor.messages.resubmissions import EffectResubmitted
from seqtor.messages.triggers import Priority, Trigger

if TYPE_CHECKING:
    from seqtor.core import RunningSystem

__all__ = ["Resubmitting"]


class Resubmitting:
    """Makes the other try of a dead letter, for one program."""

    def __init__(
        self,
        prepare: Prepare,
        handler_named: Callable[[str], Handler],
        upcasts: Upcasts,
        functions: EffectFunctions,
    ) -> None:
        self._prepare = prepare
        self._handler_named = handler_named
        self._upcasts = upcasts
        self._functions = functions

    def resubmit(self, running: RunningSystem, dead_letter: Any) -> Submission[Any]:
        """Submit it. Raises LookupError, AlreadyResubmitted, RegistrationError, TypeError, and what submit raises."""
        letter = _found(running.dead_letters(2 * DEAD_LETTERS_MAX), dead_letter)
        trigger, priority = self._other_try(running, letter)
        return running.edge.resubmit(self._prepare(trigger, priority), letter)

    def _other_try(self, running: RunningSystem, letter: DeadLetterRecord) -> tuple[Trigger[Any], Priority | None]:
        if letter.kind == "effect":
            return self._effect(letter), None
        dead = running.dead_run(letter.seq)
        if dead is None:
            raise LookupError(_gone(letter.id))
        return self._trigger(dead), Priority(dead.priority)

    def _trigger(self, dead: DeadRun) -> Trigger[Any]:
        kept = dead.trigger
        if not isinstance(kept, RecordedTrigger):
            return kept
        kind = self._handler_named(kept.type).trigger_type
        where = f"the trigger of the dead letter {dead.run} ({kept.type})"
        return self._upcasts.model(kind, kept.payload, kept.version, kind.trigger_version, where)

    def _effect(self, letter: DeadLetterRecord) -> EffectResubmitted:
        names = self._functions.names
        if letter.name not in names:
            raise RegistrationError(
                f"the dead letter {letter.id} is an effect {letter.name!r}, and no function is registered under that name: "
                f"register it again{did_you_mean(letter.name, names)}"
            )
        effect = RecordedEffect(name=letter.name, version=letter.version, payload=letter.payload, key=letter.id)
        where = f"the effect {letter.id} ({letter.name})"
        self._functions.named(letter.name).payload_of(effect, self._upcasts, where)  # What does not fit any more.
        payload = to_json(letter.payload).decode()
        return EffectResubmitted(effect=letter.name, version=letter.version, payload_json=payload, key=letter.id)


def _found(letters: list[DeadLetterRecord], wanted: Any) -> DeadLetterRecord:
    """The dead letter as it is known now, by itself or by its id; of several with that id the newest."""
    if isinstance(wanted, DeadLetterRecord):
        found = [letter for letter in letters if (letter.id, letter.place) == (wanted.id, wanted.place)]
        name = wanted.id
    elif isinstance(wanted, str):
        found, name = [letter for letter in letters if letter.id == wanted], wanted
    else:
        raise TypeError(f"resubmit() takes a dead letter (of system.dead_letters()) or the id of one, got {wanted!r}")
    if not found:
        raise LookupError(_gone(name))
    return found[0]


def _gone(name: str) -> str:
    return (
        f"there is no dead letter {name!r}: system.dead_letters() lists them; of each kind the newest {DEAD_LETTERS_MAX} "
        "are kept"
    )
