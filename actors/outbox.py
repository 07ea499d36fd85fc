"""What an attempt releases with its commit: triggers, events, effects.

Owns their making inside a handler. Promises: everything about them follows from the run and their place in it, so that
another attempt and a replay make the same; nothing leaves before the commit is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seqtor.actors.coalescing import key_of
from seqtor.actors.footprints import declare
from seqtor.actors.not_before import NotBefore
from seqtor.actors.submissions import Origin, Submission, require_key
from seqtor.messages.commits import Released
from seqtor.messages.errors import RegistrationError
from seqtor.messages.events import is_alarm
from seqtor.messages.records import RecordedCall, RecordedEffect

if TYPE_CHECKING:
    from seqtor.actors.effects.functions import EffectFunctions
    from seqtor.actors.handlers import Handler
    from seqtor.messages.triggers import Priority, Trigger

__all__ = ["Outbox", "Prepare"]

Prepare = Callable[["Trigger[Any]", "Priority | None"], "tuple[Trigger[Any], Handler, int, float | None]"]


class Outbox:
    """The outbox of one attempt, in the order in which the handler filled it."""

    __slots__ = ("_functions", "_parent", "_prepare", "calls", "effects", "submissions")

    def __init__(self, parent: Submission[Any], prepare: Prepare, functions: EffectFunctions | None = None) -> None:
        self._parent = parent
        self._prepare = prepare
        self._functions = functions
        self.calls: list[RecordedCall] = []
        self.submissions: list[Submission[Any]] = []
        self.effects: list[RecordedEffect] = []

    def submit(
        self,
        trigger: Trigger[Any],
        priority: Priority | None,
        key: str | None,
        not_before: NotBefore | None = None,
        scheduled: tuple[str, float] | None = None,
    ) -> str:
        """Add a trigger; returns the run id that it will have. A delay counts from the run's `tx.now`."""
        checked, handler, chosen, own_time = self._prepare(trigger, priority)
        parent = self._parent
        moment = parent.sequenced_at
        index = len(self.submissions) + 1
        due = None if not_before is None else not_before.due(moment)
        coalesce = None if handler.coalesce is None else key_of(checked, handler, key)
        origin = Origin(f"{parent.id}.{index}", require_key(key), parent.id, due=due, coalesce=coalesce)
        if scheduled is not None:
            origin = origin._replace(scheduled=scheduled)
        event_time = (moment if due is None else due) if own_time is None else own_time
        submission: Submission[Any] = Submission(
            parent._intake, index, checked, handler, chosen, event_time, moment, origin
        )
        declare(submission)
        self.submissions.append(submission)
        return f"{parent.id}.{index}"

    def effect(self, function: Any, payload: Any) -> None:
        """Add an effect. Raises RegistrationError for an unknown function, TypeError for a payload that will not do."""
        if self._functions is None:
            raise RegistrationError("no effect is registered here: decorate the function with @system.effect(...)")
        effect = self._functions.record(function, payload)
        self.effects.append(effect.model_copy(update={"alarm": True}) if is_alarm(self._parent.id) else effect)

    def effect_again(self, effect: RecordedEffect) -> None:
        """Add an effect that was given up, as it was kept. Raises RegistrationError for an unknown function."""
        if self._functions is None or effect.name not in self._functions.names:
            raise RegistrationError(
                f"the effect {effect.name!r} cannot be carried out again: no function is registered under that name"
            )
        self.effects.append(effect)

    def released(self) -> Released:
        """What goes with the intent."""
        return Released(tuple(self.calls), tuple(self.submissions), tuple(self.effects))
