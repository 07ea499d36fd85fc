"""The decorator that makes a class a message between actors.

Owns the shape of internal messages: frozen, slotted, keyword-only. Promises: as cheap to build as Python allows
without giving up immutability (a plain frozen dataclass costs 1.5 times as much, because its `__init__` looks up
`object.__setattr__` by name for every field).
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast, dataclass_transform

__all__ = ["message"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def message(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, slotted, keyword-only dataclass whose fields are set through their slots."""
    made = dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)(cls)
    fields = dataclasses.fields(cast("Any", made))
    names: dict[str, Any] = {f"set_{field.name}": made.__dict__[field.name].__set__ for field in fields}
    parameters = []
    for field in fields:
        if field.default is not dataclasses.MISSING:
            names[f"default_{field.name}"] = field.default
            parameters.append(f"{field.name}=default_{field.name}")
        else:
            parameters.append(field.name)
    body = "\n".join(f"    set_{field.name}(self, {field.name})" for field in fields) or "    pass"
    star = "*, " if parameters else ""
    exec(f"def __init__(self, {star}{', '.join(parameters)}):\n{body}", names)
    cast("Any", made).__init__ = names["__init__"]
    return made
