"""What a figure yields, and how it is judged and printed.

Owns the shape of a line of output. Promises: `ratio` is the value over the yardstick's value of the same rounds,
and a missed target is data, not an error.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from benchmarks.measure import median, rounded
from benchmarks.placement import placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Figure", "Json", "Outcome", "Target", "at_least", "at_most"]

Json = str | float | bool | list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Value and yardstick of one figure, and other numbers under their names."""

    value: float
    yardstick: float
    extra: Mapping[str, float] = field(default_factory=dict[str, float])
    values: Sequence[float] = ()
    yardsticks: Sequence[float] = ()

    @classmethod
    def of_rounds(cls, yardsticks: Sequence[float], values: Sequence[float], **extra: float) -> Self:
        """The medians of interleaved rounds."""
        return cls(
            value=median(values), yardstick=median(yardsticks), extra=extra, values=values, yardsticks=yardsticks
        )

    def numbers(self) -> dict[str, float]:
        """Everything that a target can be about."""
        return {"value": self.value, "ratio": self.value / self.yardstick, **self.extra}


class Target(NamedTuple):
    """A bound on the ratio, the value, or one of the extra numbers."""

    number: str
    direction: Literal[">=", "<="]
    bound: float

    def __str__(self) -> str:
        return f"{self.number} {self.direction} {self.bound:g}"

    def met(self, outcome: Outcome) -> bool:
        compare = operator.ge if self.direction == ">=" else operator.le
        return bool(compare(outcome.numbers()[self.number], self.bound))


def at_least(bound: float, number: str = "ratio") -> Target:
    return Target(number, ">=", bound)


def at_most(bound: float, number: str = "ratio") -> Target:
    return Target(number, "<=", bound)


class Figure(NamedTuple):
    """A figure: how it is measured, its unit, and what it must reach (all of it)."""

    measure: Callable[[], Outcome]
    unit: str
    targets: tuple[Target, ...]

    def line(self, name: str, outcome: Outcome) -> dict[str, Json]:
        """The figure as one JSON object."""
        numbers = {key: rounded(number) for key, number in outcome.numbers().items()}
        line: dict[str, Json] = {
            "figure": name,
            "value": numbers.pop("value"),
            "unit": self.unit,
            "yardstick": rounded(outcome.yardstick),
            "ratio": numbers.pop("ratio"),
            "target": ", ".join(map(str, self.targets)),
            "met": all(target.met(outcome) for target in self.targets),
            "placement": placement(),
            **numbers,
        }
        if outcome.values:
            line["values"] = [rounded(value) for value in outcome.values]
            line["yardsticks"] = [rounded(value) for value in outcome.yardsticks]
        return line
