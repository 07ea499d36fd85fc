"""Tells whether a type or a value is immutable all the way down.

Owns the rules by which payloads are accepted and stored models are shared instead of copied. Promises: never says
"immutable" of something that a handler could change in place; says "unknown" where only the value can tell.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import pathlib
import types
import typing
import uuid
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple, cast

from pydantic import AnyUrl, BaseModel

__all__ = [
    "Mutable",
    "has_cached_property",
    "has_user_validation",
    "mutable_in_type",
    "mutable_in_value",
    "needs_value_check",
]

ATOMS: frozenset[type] = frozenset({
    int, float, bool, str, bytes, complex, type(None),
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
    decimal.Decimal, fractions.Fraction, uuid.UUID,
    pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.Path, pathlib.PosixPath,
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
})  # fmt: skip
ADVICE: dict[type, str] = {
    list: "tuple[X, ...]",
    MutableSequence: "tuple[X, ...]",
    Sequence: "tuple[X, ...]",
    set: "frozenset[X]",
    MutableSet: "frozenset[X]",
    AbstractSet: "frozenset[X]",
    dict: "tuple[tuple[K, V], ...] or a nested Record",
    MutableMapping: "tuple[tuple[K, V], ...] or a nested Record",
    Mapping: "tuple[tuple[K, V], ...] or a nested Record",
    bytearray: "bytes",
}


class Mutable(NamedTuple):
    """Where something mutable sits (`path`), what it is, and what to use instead."""

    path: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path} is {self.found}, which can be changed in place: use {self.advice}"


def mutable_in_type(annotation: Any, path: str = "value") -> Mutable | None:
    """Return the first part of a type that is mutable for certain, or None."""
    return _walk(annotation, path, set(), [])


def needs_value_check(annotation: Any) -> bool:
    """Whether values of the type must be looked at one by one (`Any`, unions with unknown classes, ...)."""
    unknown: list[str] = []
    _walk(annotation, "value", set(), unknown)
    return bool(unknown)


def _walk(annotation: Any, path: str, seen: set[Any], unknown: list[str]) -> Mutable | None:
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _walk_generic(annotation, origin, path, seen, unknown)
    if isinstance(annotation, getattr(typing, "TypeAliasType", ())):
        return _walk(cast("Any", annotation).__value__, path, seen, unknown)
    if annotation is None or annotation in ATOMS:
        return None
    if not isinstance(annotation, type):
        unknown.append(path)
        return None
    if issubclass(annotation, (enum.Enum, AnyUrl)):
        return None
    if annotation in ADVICE:
        return Mutable(path, f"a {annotation.__name__}", ADVICE[annotation])
    if issubclass(annotation, BaseModel):
        return _walk_model(annotation, path, seen, unknown)
    if issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        return _walk_fields(annotation, typing.get_type_hints(annotation), path, seen, unknown)
    if dataclasses.is_dataclass(annotation):
        if not annotation.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return Mutable(path, f"the dataclass {annotation.__name__}", "@dataclass(frozen=True) or a Record")
        return _walk_fields(annotation, typing.get_type_hints(annotation), path, seen, unknown)
    if any(issubclass(annotation, mutable) for mutable in (list, set, dict, bytearray)):
        return Mutable(path, f"a {annotation.__name__}", "an immutable type such as tuple, frozenset or a Record")
    unknown.append(path)
    return None


def _walk_generic(annotation: Any, origin: Any, path: str, seen: set[Any], unknown: list[str]) -> Mutable | None:
    if origin is Literal:
        return None
    if origin is typing.Annotated:
        return _walk(typing.get_args(annotation)[0], path, seen, unknown)
    if origin in (typing.Union, types.UnionType, tuple, frozenset, typing.ClassVar, typing.Final):
        for argument in typing.get_args(annotation):
            found = None if argument is Ellipsis else _walk(argument, path, seen, unknown)
            if found is not None:
                return found
        return None
    if origin in ADVICE:
        return Mutable(path, f"a {origin.__name__}", ADVICE[origin])
    return _walk(origin, path, seen, unknown)


def _walk_model(model: type[BaseModel], path: str, seen: set[Any], unknown: list[str]) -> Mutable | None:
    if not model.model_config.get("frozen"):
        return Mutable(path, f"the model {model.__name__}", "a Record, or frozen=True in its model_config")
    if model.model_config.get("extra") == "allow":
        return Mutable(path, f"the model {model.__name__} with extra fields of any type", 'extra="forbid"')
    if model.__private_attributes__:  # Frozen does not cover them.
        name = next(iter(model.__private_attributes__))
        return Mutable(f"{path}.{name}", "a private attribute", "a field, or a property")
    fields = {name: field.annotation for name, field in model.model_fields.items()}
    if has_cached_property(model):
        unknown.append(path)
    return _walk_fields(model, fields, path, seen, unknown)


def _walk_fields(
    owner: type, fields: Mapping[str, Any], path: str, seen: set[Any], unknown: list[str]
) -> Mutable | None:
    if owner in seen:
        return None
    seen.add(owner)
    for name, annotation in fields.items():
        found = _walk(annotation, f"{path}.{name}", seen, unknown)
        if found is not None:
            return found
    return None


def mutable_in_value(value: Any, path: str = "value") -> Mutable | None:
    """Return the first part of a value that could be changed in place, or None."""
    kind = type(value)
    if kind in ATOMS or isinstance(value, (enum.Enum, datetime.tzinfo, type, AnyUrl)):
        return None
    if isinstance(value, BaseModel):
        if not kind.model_config.get("frozen"):
            return Mutable(path, f"the model {kind.__name__}", "a Record, or frozen=True in its model_config")
        if value.__pydantic_private__:
            return Mutable(f"{path}.{next(iter(value.__pydantic_private__))}", "a private attribute", "a field")
        parts = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        return _first(((f"{path}.{name}", part) for name, part in parts.items()))
    if isinstance(value, (tuple, frozenset)):
        return _first(((f"{path}[{i}]", part) for i, part in enumerate(value)))
    if dataclasses.is_dataclass(value) and kind.__dataclass_params__.frozen:
        return _first((f"{path}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value))
    return Mutable(
        path, f"a {kind.__name__}", ADVICE.get(kind, "an immutable type such as tuple, frozenset or a Record")
    )


def _first(parts: typing.Iterable[tuple[str, Any]]) -> Mutable | None:
    for path, part in parts:
        found = mutable_in_value(part, path)
        if found is not None:
            return found
    return None


def has_cached_property(model: type) -> bool:
    """Whether instances keep values of any type beside their fields."""
    return any(isinstance(thing, functools.cached_property) for base in model.__mro__ for thing in vars(base).values())


def has_user_validation(model: type[BaseModel]) -> bool:
    """Whether validating the model can run code of the user's (which must stay off the core dispatcher)."""
    return _validates(model, set())


def _validates(annotation: Any, seen: set[Any]) -> bool:
    arguments = typing.get_args(annotation)
    if arguments:
        if typing.get_origin(annotation) is Literal:
            return False
        return any(a is not Ellipsis and _validates(a, seen) for a in arguments)
    if annotation is None or annotation in ATOMS or annotation in seen:
        return False
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return not (isinstance(annotation, type) and issubclass(annotation, (enum.Enum, list, dict, set, tuple)))
    seen.add(annotation)
    decorators = annotation.__pydantic_decorators__
    if (
        decorators.field_validators
        or decorators.validators
        or decorators.model_validators
        or decorators.root_validators
    ):
        return True
    if annotation.__init__ is not BaseModel.__init__ or annotation.model_post_init is not BaseModel.model_post_init:
        return True
    for field in annotation.model_fields.values():
        if any(_calls_a_function(metadata) for metadata in field.metadata):
            return True
        if _validates(field.annotation, seen):
            return True
    return False


def _calls_a_function(metadata: Any) -> bool:
    """Bounds and formats are pydantic's own; everything else in `Annotated` may call the user's code."""
    module = type(metadata).__module__
    return not module.startswith(("annotated_types", "pydantic.")) or module == "pydantic.functional_validators"
