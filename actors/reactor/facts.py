"""`Facts`: what a reaction's function gets.

Owns the typed access: `facts[condition]` is of the type that the condition promises.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

from seqtor.messages.conditions import Condition
from seqtor.messages.facts import (
    EffectFailureFact,
    EventFact,
    Fact,
    FailureFact,
    ResultFact,
    StatusFact,
    TickFact,
)

__all__ = ["Facts", "MatchedFact"]

FactT = TypeVar("FactT", bound=Fact)


class MatchedFact(NamedTuple):
    """A fact, and the conditions of a reaction that it has met."""

    fact: Fact
    conditions: tuple[Condition[Any], ...]


class Facts:
    """The facts that have met the condition of a reaction, in the order in which they happened; immutable.

    `facts[condition]` is the fact that met this part of it; `facts.event`, `.status`, `.result`, `.failure`,
    `.effect_failure` and `.tick` are the only one of their kind.
    """

    __slots__ = ("_matched",)

    def __init__(self, matched: tuple[MatchedFact, ...]) -> None:
        self._matched = matched

    @property
    def all(self) -> tuple[Fact, ...]:
        """Every fact, each once."""
        return tuple([each.fact for each in self._matched])

    def __getitem__(self, condition: Condition[FactT]) -> FactT:
        """The fact that met this part of the condition. Raises LookupError if none did."""
        found = self.get(condition)
        if found is None:
            raise LookupError(
                f"no fact met {condition}: index with the very object that the condition is made of; a side of `|` may not "
                "have happened, facts.get(condition) is None then"
            )
        return found

    def get(self, condition: Condition[FactT]) -> FactT | None:
        """The fact that met this part of the condition, or None."""
        for each in self._matched:
            if any(met is condition for met in each.conditions):
                return cast("FactT", each.fact)
        return None

    @property
    def event(self) -> EventFact:
        """The event. Raises LookupError unless there is exactly one."""
        return cast("EventFact", self._only(EventFact, "event"))

    @property
    def status(self) -> StatusFact[Any]:
        """The status. Raises LookupError unless there is exactly one."""
        return cast("StatusFact[Any]", self._only(StatusFact, "status"))

    @property
    def result(self) -> ResultFact[Any]:
        """The result. Raises LookupError unless there is exactly one."""
        return cast("ResultFact[Any]", self._only(ResultFact, "result"))

    @property
    def failure(self) -> FailureFact[Any]:
        """The failure. Raises LookupError unless there is exactly one."""
        return cast("FailureFact[Any]", self._only(FailureFact, "failure"))

    @property
    def effect_failure(self) -> EffectFailureFact:
        """The effect that was given up. Raises LookupError unless there is exactly one."""
        return cast("EffectFailureFact", self._only(EffectFailureFact, "effect_failure"))

    @property
    def tick(self) -> TickFact:
        """The slot of a schedule. Raises LookupError unless there is exactly one."""
        return cast("TickFact", self._only(TickFact, "tick"))

    def _only(self, kind: type[Any], name: str) -> Any:
        found = [each.fact for each in self._matched if isinstance(each.fact, kind)]
        if len(found) != 1:
            raise LookupError(
                f"facts.{name} is for a reaction with exactly one such fact, here are {len(found)}: use facts[condition]"
            )
        return found[0]

    def __repr__(self) -> str:
        return f"<Facts {', '.join(each.fact.id for each in self._matched)}>"
