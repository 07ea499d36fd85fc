"""Draws triggers from the schemas of their models: valid ones, small, and with few different values.

Owns the values. Promises: the same random source gives the same triggers, in every process; what it draws has passed the
model's own validation. Few values on purpose: two triggers that never name the same key never conflict. For constraints that
a schema does not say, and for sequences that mean something, a program gives a workload of its own.
"""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from seqtor.messages.events import OURS
from seqtor.messages.triggers import Trigger
from seqtor.system import Supervisor

__all__ = ["CannotDraw", "drawn"]

TRIES = 200
DEPTH_MAX = 4
WORDS = ("a", "b", "c", "d")
NUMBERS = (0, 1, 2, 3, 5, 10, 100)
DAY = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
DEFAULT = 0.5  # The chance that a field with a default keeps it.

Schema = Mapping[str, Any]


class CannotDraw(Exception):
    """There is no trigger type that could be drawn, or one whose validation refuses all that was."""


def drawn(system: Supervisor) -> Callable[[random.Random], Iterator[Trigger[Any]]]:
    """A workload of triggers of all types that the system has handlers for, at random; it never ends.

    Raises CannotDraw if there are none, or the schema of one cannot be told.
    """
    kinds: list[tuple[type[Trigger[Any]], Schema]] = []
    for kind in sorted({handler.trigger_type for handler in system._handlers}, key=lambda each: each.trigger_name):
        if not kind.trigger_name.startswith(OURS):
            try:
                kinds.append((kind, kind.model_json_schema(by_alias=False)))
            except PydanticInvalidForJsonSchema as error:
                raise CannotDraw(
                    f"{kind.__name__} has no JSON schema ({error}): give --workload MODULE:FUNCTION"
                ) from None
    if not kinds:
        raise CannotDraw("the system has no handler with on(...): give --workload MODULE:FUNCTION")

    def work(source: random.Random) -> Iterator[Trigger[Any]]:
        while True:
            kind, schema = source.choice(kinds)
            yield _one(kind, schema, source)

    return work


def _one(kind: type[Trigger[Any]], schema: Schema, source: random.Random) -> Trigger[Any]:
    refused: ValidationError | None = None
    for _ in range(TRIES):
        try:
            return kind.model_validate(Drawing(schema, source).value(schema, 0), by_name=True)
        except ValidationError as error:
            refused = error
    raise CannotDraw(
        f"{kind.__name__}: {TRIES} drawn ones are not valid, the last because: {refused}. Give --workload "
        "MODULE:FUNCTION, a function (random) -> triggers"
    )


class Drawing:
    """One value of a JSON schema."""

    def __init__(self, root: Schema, source: random.Random) -> None:
        self._definitions: Mapping[str, Schema] = root.get("$defs", {})
        self._random = source

    def value(self, schema: Schema, depth: int) -> Any:
        """A value that the schema allows, as far as it is looked at."""
        choose = self._random.choice
        if "$ref" in schema:
            return self.value(self._definitions[schema["$ref"].rpartition("/")[2]], depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return choose(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self._one_of(schema[union], depth)
        if "allOf" in schema:
            return self.value(schema["allOf"][0], depth)
        by_type: dict[str, Callable[[Schema, int], Any]] = {
            "object": self._object, "array": self._array, "string": self._string, "integer": self._integer,
            "number": self._number, "boolean": lambda _, __: choose((False, True)), "null": lambda _, __: None,
        }  # fmt: skip
        draw = by_type.get(schema.get("type", ""))
        return choose(WORDS) if draw is None else draw(schema, depth)

    def _one_of(self, options: Sequence[Schema], depth: int) -> Any:
        shallow = [each for each in options if each.get("type") == "null"] if depth > DEPTH_MAX else []
        return self.value(self._random.choice(shallow or options), depth + 1)

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        found: dict[str, Any] = {}
        for name, each in schema.get("properties", {}).items():
            if name in required or (depth <= DEPTH_MAX and self._random.random() >= DEFAULT):
                found[name] = self.value(each, depth + 1)
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping) and not schema.get("properties"):
            found |= {
                self._random.choice(WORDS): self.value(others, depth + 1) for _ in range(self._size(schema, depth))
            }
        return found

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(each, depth + 1) for each in schema["prefixItems"]]
        found: list[Any] = []
        for _ in range(self._size(schema, depth)):
            value = self.value(schema.get("items", {}), depth + 1)
            if not schema.get("uniqueItems") or value not in found:
                found.append(value)
        return found

    def _size(self, schema: Schema, depth: int) -> int:
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", 3), max(3, least))
        return int(least if depth > DEPTH_MAX else self._random.randint(least, most))

    def _string(self, schema: Schema, _: int) -> str:
        source = self._random
        moment = DAY + datetime.timedelta(minutes=source.choice((0, 1, 60, 1440, 44_640)))
        by_format: dict[str, Callable[[], str]] = {
            "date-time": moment.isoformat,
            "date": moment.date().isoformat,
            "time": lambda: moment.time().isoformat(),
            "duration": lambda: f"PT{source.choice((1, 60, 3600))}S",
            "uuid": lambda: str(uuid.UUID(int=source.choice(NUMBERS))),
            "email": lambda: f"{source.choice(WORDS)}@example.com",
            "uri": lambda: f"https://example.com/{source.choice(WORDS)}",
        }
        made = by_format.get(schema.get("format", ""))
        if made is not None:
            return made()
        word = source.choice(WORDS)
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        return word.ljust(least, word)[:most] if most is None or most > 0 else ""

    def _integer(self, schema: Schema, _: int) -> int:
        low, high = _bounds(schema, 1)
        step = schema.get("multipleOf")
        value = self._within(low, high, [number for number in NUMBERS if low <= number <= high], int)
        return int(value if step is None else value - value % step)

    def _number(self, schema: Schema, _: int) -> float:
        low, high = _bounds(schema, 0.001)
        return float(
            self._within(low, high, [number for number in (*NUMBERS, 0.5, 1.25) if low <= number <= high], float)
        )

    def _within(self, low: float, high: float, usual: Sequence[float], kind: Callable[[float], Any]) -> Any:
        if usual:
            return kind(self._random.choice(usual))
        low = max(low, high - 1000) if low == -float("inf") else low
        return kind(self._random.choice([low, min(high, low + 1), min(high, low + 10)]))


def _bounds(schema: Schema, least: float) -> tuple[float, float]:
    low = schema.get("minimum", -float("inf"))
    high = schema.get("maximum", float("inf"))
    if "exclusiveMinimum" in schema:
        low = max(low, schema["exclusiveMinimum"] + least)
    if "exclusiveMaximum" in schema:
        high = min(high, schema["exclusiveMaximum"] - least)
    return low, high
