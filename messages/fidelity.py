"""Tells whether every value of a type comes back from JSON as it was.

Owns the rules by which values are written to the journal without looking: where the type promises it, nothing is
checked; where it does not (`Any`, unions that JSON cannot tell apart, serialisers of the user's), each value is tried.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import pathlib
import types
import typing
import uuid
from typing import Any, Literal

from pydantic import BaseModel

__all__ = ["comes_back"]

PLAIN: frozenset[Any] = frozenset({int, float, bool, str, type(None)})  # JSON tells them apart.
TEXTS: frozenset[Any] = frozenset({
    bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID,
    pathlib.Path, pathlib.PurePath, pathlib.PosixPath, pathlib.PurePosixPath,
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
})  # fmt: skip
SEQUENCES = (tuple, list, frozenset, set)


def comes_back(annotation: Any, config: Any = None) -> bool:
    """Whether each value of the type is equal to what JSON makes of it. `config` is that of the model around it."""
    return _walk(annotation, config or {}, set())


def _walk(annotation: Any, config: Any, seen: set[Any]) -> bool:
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _walk_generic(annotation, origin, config, seen)
    if annotation is None or annotation in (int, bool, str, type(None)):
        return True
    if annotation is float:
        return config.get("ser_json_inf_nan") in ("strings", "constants")
    if annotation is bytes:
        return bool(config.get("ser_json_bytes") == "base64" == config.get("val_json_bytes"))
    if not isinstance(annotation, type):
        return False
    if annotation in TEXTS or issubclass(annotation, enum.Enum):
        return True
    if issubclass(annotation, BaseModel):
        return _walk_model(annotation, seen)
    return False


def _walk_generic(annotation: Any, origin: Any, config: Any, seen: set[Any]) -> bool:
    arguments = [argument for argument in typing.get_args(annotation) if argument is not Ellipsis]
    if origin is Literal:
        return all(type(argument) in (int, str, bool, type(None)) for argument in arguments)
    if origin is typing.Annotated:
        first, *metadata = arguments
        return not any(_serialises(each) for each in metadata) and _walk(first, config, seen)
    if origin in (typing.Union, types.UnionType):
        others = [argument for argument in arguments if argument is not type(None)]
        if len(others) > 1 and not all(argument in PLAIN for argument in others):
            return False
        return all(_walk(argument, config, seen) for argument in others)
    if origin in SEQUENCES:
        return all(_walk(argument, config, seen) for argument in arguments)
    if origin is dict:
        return len(arguments) == 2 and arguments[0] in (str, int) and _walk(arguments[1], config, seen)
    return False


def _walk_model(model: type[BaseModel], seen: set[Any]) -> bool:
    if model in seen:
        return True
    seen.add(model)
    decorators = model.__pydantic_decorators__
    if decorators.field_serializers or decorators.model_serializers or model.__private_attributes__:
        return False
    if model.model_config.get("extra") == "allow":
        return False
    return all(
        not field.exclude
        and not any(_serialises(each) for each in field.metadata)
        and _walk(field.annotation, model.model_config, seen)
        for field in model.model_fields.values()
    )


def _serialises(metadata: Any) -> bool:
    return type(metadata).__module__ == "pydantic.functional_serializers"
