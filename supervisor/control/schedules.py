"""A schedule of the system at the other end of the socket.

Owns its verbs, which are those of `ScheduleRef`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

__all__ = ["RemoteSchedule"]


class RemoteSchedule:
    """A schedule by its name. What a verb says has happened is durable when it returns.

    Each raises LookupError if there is no such schedule, and what `Connection.query` raises.
    """

    __slots__ = ("_query", "name")

    def __init__(self, query: Callable[..., Any], name: str) -> None:
        self._query = query
        self.name = name

    def pause(self) -> None:
        """As `ScheduleRef.pause`."""
        self._ask("pause")

    def resume(self) -> None:
        """As `ScheduleRef.resume`."""
        self._ask("resume")

    def fire(self) -> str:
        """As `ScheduleRef.fire`: start it now; returns the id of the run."""
        return str(self._ask("fire"))

    def remove(self) -> None:
        """As `ScheduleRef.remove`."""
        self._ask("remove")

    def next(self, count: int = 1) -> list[datetime.datetime]:
        """As `ScheduleRef.next`."""
        return [datetime.datetime.fromtimestamp(slot, datetime.UTC) for slot in self._ask("next", count=count)]

    def __repr__(self) -> str:
        return f"<RemoteSchedule {self.name!r}>"

    def _ask(self, do: str, **arguments: Any) -> Any:
        return self._query("schedule", name=self.name, do=do, **arguments)
