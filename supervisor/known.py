"""The trigger types that a system knows: those with a registered handler, and those that carry their own `execute`.

Owns the way from a trigger that a program passes, or a name in the journal, to its handler. Promises: what gets through
`prepare` can be kept and executed.
"""

from __future__ import annotations

from typing import Any

from seqtor.actors.handlers import (
    Handler,
    Handlers,
    did_you_mean,
    event_time_of,
    make_handler,
    require_kept,
    require_payload,
    require_priority,
)
from seqtor.batches import PreparedTrigger
from seqtor.messages.errors import RegistrationError, UnknownTrigger
from seqtor.messages.triggers import Priority, Trigger

__all__ = ["KnownTriggers", "execute_method_of"]


class KnownTriggers:
    """The handlers of one system. `journaled` says whether what it accepts has to be kept."""

    def __init__(self, deadline_s: float) -> None:
        """`deadline_s` is that of triggers which carry their own `execute`."""
        self.handlers = Handlers()
        self.journaled = False
        self._deadline_s = deadline_s

    def __contains__(self, kind: type[Trigger[Any]]) -> bool:
        return kind in self.handlers or execute_method_of(kind) is not None

    def prepare(self, trigger: Trigger[Any], priority: Priority | None) -> PreparedTrigger:
        """A trigger, checked, with its handler, its priority and the time of its event if it has one.

        Raises UnknownTrigger, TypeError for a payload that cannot be kept and for a priority that is none.
        """
        handler = self.handler_of(trigger)
        if handler.unknown_fields:
            require_payload(trigger, handler)
        own_time = event_time_of(trigger) if handler.has_event_time else None
        if self.journaled and not handler.comes_back:
            require_kept(trigger, handler)
        chosen = handler.priority if priority is None else int(require_priority(priority, TypeError))
        return trigger, handler, chosen, own_time

    def handler_of(self, trigger: Trigger[Any]) -> Handler:
        """The handler of a trigger. Raises UnknownTrigger."""
        try:
            return self.handlers.of(trigger)
        except UnknownTrigger:
            if not isinstance(trigger, Trigger) or execute_method_of(type(trigger)) is None:
                raise
        return self._add_self_executing(type(trigger))

    def named(self, name: str, where: str = "") -> Handler:
        """The handler of a trigger type by its name in the journal, or `where` else. Raises RegistrationError."""
        handler = self.find(name)
        if handler is not None:
            return handler
        near = did_you_mean(name, (handler.name for handler in self.handlers))
        if where:
            raise RegistrationError(f"{where} has no handler: register one with system.on(...){near}")
        raise RegistrationError(
            f"the journal holds runs of the trigger {name!r}, for which the program registers no handler: register "
            f"it again{near}"
        )

    def find(self, name: str) -> Handler | None:
        """The handler of the trigger type with this name, or None."""
        handler = self.handlers.find(name)
        if handler is not None:
            return handler
        kind = _self_executing(name)
        return None if kind is None else self._add_self_executing(kind)

    def trigger_type(self, name: str) -> type[Trigger[Any]]:
        """The trigger type with this name. Raises UnknownTrigger."""
        handler = self.handlers.find(name)
        kind = _self_executing(name) if handler is None else handler.trigger_type
        if kind is None:
            near = did_you_mean(name, [handler.name for handler in self.handlers])
            raise UnknownTrigger(f"the system has no trigger type {name!r}{near}")
        return kind

    def _add_self_executing(self, kind: type[Trigger[Any]]) -> Handler:
        handler = make_handler(kind, execute_method_of(kind), deadline_s=self._deadline_s)
        return self.handlers.add_once(handler)


def execute_method_of(trigger_type: type[Trigger[Any]]) -> Any:
    """The trigger's own `execute(self, tx)`, which is its handler, or None if it has none."""
    execute = getattr(trigger_type, "execute", None)
    return execute if callable(execute) else None


def _self_executing(name: str) -> type[Trigger[Any]] | None:
    """The trigger type with this name that carries its own `execute`, if it was imported: it needs no registration.

    None if there is none, or more than one.
    """
    left: list[type[Trigger[Any]]] = [*Trigger.__subclasses__()]
    found: set[type[Trigger[Any]]] = set()
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.trigger_name == name and execute_method_of(kind) is not None:
            found.add(kind)
    return found.pop() if len(found) == 1 else None
