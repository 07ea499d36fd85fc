"""Many triggers that were checked and are about to be handed in.

Owns them between the check of all and the acceptance of all. Promises: their order. In columns, because a tuple for each
would be as many objects again that the cycle collector walks while their submissions are made: one of six full collections
of a burst of 50,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from seqtor.actors.handlers import Handler
from seqtor.messages.triggers import Trigger

__all__ = ["Batch", "PreparedTrigger"]

PreparedTrigger = tuple[Trigger[Any], Handler, int, float | None]
"""A trigger, its handler, its priority, and the time of its event if it has one."""


class Batch:
    """Checked triggers, in order."""

    __slots__ = ("_event_times", "_handlers", "_priorities", "_triggers")

    def __init__(self, prepared: Iterable[PreparedTrigger]) -> None:
        self._triggers: list[Trigger[Any]] = []
        self._handlers: list[Handler] = []
        self._priorities: list[int] = []
        self._event_times: list[float | None] = []
        for trigger, handler, priority, event_time in prepared:
            self._triggers.append(trigger)
            self._handlers.append(handler)
            self._priorities.append(priority)
            self._event_times.append(event_time)

    def __len__(self) -> int:
        return len(self._triggers)

    def __iter__(self) -> Iterator[PreparedTrigger]:
        return zip(self._triggers, self._handlers, self._priorities, self._event_times, strict=True)
