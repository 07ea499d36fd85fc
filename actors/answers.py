"""What a call outside is called, and its answer as JSON and back.

Owns the identity of a call (function, arguments) and both ways of its outcome. Pure. Promises: the same function with equal
arguments has the same identity in every process, whatever its hash seed; an answer is what its JSON says, made anew for
everyone who gets it, so attempts, restarts and replay get equal values and share nothing; what has no stable identity or
no JSON is refused with a TypeError that says what to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from seqtor.actors.journal.decoding import answer_adapter
from seqtor.actors.journal.encoding import error_record, json_of, module_of, text
from seqtor.messages.models import field_values
from seqtor.messages.records import RecordedCall, RecordedError

__all__ = [
    "Call",
    "CallElsewhere",
    "answered",
    "failed",
    "given_up",
    "identify",
    "is_coroutine_function",
    "value_of_call",
]

RECORD_DEPTH = 8  # What is around an answer in the records that hold it; a reader's depth is limited.


class Call(NamedTuple):
    """A function of the user's with its arguments. `place` is what it and its arguments are known by, without a number."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    name: str
    place: str


class CallElsewhere(Call):
    """A call that another process makes: its function has it made there, and returns what is to be recorded of it."""

    __slots__ = ()


def identify(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call:
    """Find out what the call is known by. Raises TypeError if there is nothing stable to know it by."""
    if not callable(function):
        raise TypeError(f"tx.call and tx.acall take a function and its arguments, got {function!r} as function")
    while isinstance(function, functools.partial):
        arguments = (*function.args, *arguments)
        keywords = {**function.keywords, **keywords}
        function = function.func
    name = _name(function)
    digest = blake2b(_arguments_text(name, function, arguments, keywords).encode(), digest_size=8).hexdigest()
    return Call(function, arguments, keywords, name, f"{name}:{digest}")


def is_coroutine_function(function: Any) -> bool:
    """Whether calling it makes a coroutine, also behind a decorator that says what it wraps."""
    callees = (function, inspect.unwrap(function), getattr(function, "__call__", None))  # noqa: B004
    return any(inspect.iscoroutinefunction(callee) for callee in callees)


# The name -------------------------------------------------------------------------------------------------------------


def _name(function: Any) -> str:
    """Module and qualified name; of a method, those of its object's class."""
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__qualname__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        kind = owner if isinstance(owner, type) else type(owner)
        return f"{module_of(kind)}.{kind.__qualname__}.{function.__name__}"
    if not isinstance(name, str):
        return f"{module_of(type(function))}.{type(function).__qualname__}"
    if name.rpartition(".")[2] == "<lambda>":
        raise TypeError(
            f"a call is known by the name of its function, and {function!r} has none: define a function (def ...) and pass "
            "that, with what it needs as arguments"
        )
    return f"{module_of(function)}.{name}"


# The arguments --------------------------------------------------------------------------------------------------------


def _arguments_text(name: str, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    by_place = [_argument_text(name, function, index, value) for index, value in enumerate(arguments)]
    by_name = [f"{text(each)}:{_argument_text(name, function, each, keywords[each])}" for each in sorted(keywords)]
    return ",".join([*by_place, *by_name])


def _argument_text(name: str, function: Any, place: int | str, value: Any) -> str:
    try:
        return _text(value)
    except (ValueError, RecursionError) as error:  # Pydantic's error of serialising is a ValueError.
        argument = _argument_name(function, place)
        raise TypeError(
            f"argument {argument} of {name} is a {type(value).__name__} that cannot be serialised ({error}), and a call is "
            "known by its arguments: pass plain values, pydantic models or dataclasses (an id, a path), and let the "
            "function find the rest; a client it needs can be the object whose method is called"
        ) from None


def _argument_name(function: Any, place: int | str) -> str:
    if isinstance(place, str):
        return repr(place)
    with contextlib.suppress(TypeError, ValueError, IndexError):
        names = [each.name for each in inspect.signature(function).parameters.values()]
        return repr(names[place])
    return str(place + 1)


def _text(value: Any) -> str:
    """A value as JSON in which nothing depends on the process: mappings and sets are in an order of their own."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return json_of(value)
    if isinstance(value, Iterator):
        raise ValueError("it can be read only once")
    if isinstance(value, BaseModel):
        try:
            return _mapping_text(field_values(value))
        except ValueError:  # A field of a type that only the model's own serialiser knows.
            return json.dumps(from_json(to_json(value, bytes_mode="base64", inf_nan_mode="strings")), sort_keys=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping_text({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return _mapping_text(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, AbstractSet):
        return f"[{','.join(sorted(map(_text, value)))}]"
    return json_of(value)


def _mapping_text(value: Mapping[Any, Any]) -> str:
    pairs = [(text(key if type(key) is str else _text(key)), _text(part)) for key, part in value.items()]
    return f"{{{','.join(f'{key}:{part}' for key, part in sorted(pairs))}}}"


# The outcome ----------------------------------------------------------------------------------------------------------


def answered(call_id: str, call: Call, answer: Any) -> RecordedCall:
    """What the function returned, as it is recorded. Raises TypeError if it cannot be, or is not what was annotated."""
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(
            f"{call.name} returned a coroutine instead of its answer: in a handler that is declared with async def, "
            "await tx.acall(...), with the coroutine function itself"
        )
    adapter = _adapter(call.function)
    try:
        if isinstance(answer, Iterator):
            raise ValueError("it can be read only once")
        value = _parsed(adapter.dump_json(answer, by_alias=False, round_trip=True, warnings=False))
    except (ValueError, RecursionError) as error:
        raise TypeError(
            f"{call.name} returned a {type(answer).__name__} that cannot be serialised ({error}), and its answer is "
            "recorded: return plain values, pydantic models or dataclasses"
        ) from None
    kept = RecordedCall(id=call_id, function=call.name, value=value)
    value_of_call(kept, call)
    return kept


def value_of_call(kept: RecordedCall, call: Call) -> Any:
    """The recorded answer as what the function is annotated to return. Raises TypeError if it does not fit (any more)."""
    try:
        return _adapter(call.function).validate_json(to_json(kept.value), by_alias=False, by_name=True)
    except ValidationError as error:
        raise TypeError(
            f"the recorded answer of {call.name} does not fit what the function is annotated to return: "
            f"{error.errors()[0]['msg']}; it is {text(json_of(kept.value)[:200])}"
        ) from None


def failed(call_id: str, call: Call, error: BaseException) -> RecordedCall:
    """What the function raised, as it is recorded: always possible."""
    try:
        kept = error_record(error)
        _parsed(kept.model_dump_json().encode())
    except Exception:  # Its text or its arguments cannot be had, or are no valid Unicode.
        kind = type(error)
        message = "?"
        with contextlib.suppress(Exception):
            message = str(error).encode(errors="backslashreplace").decode()
        kept = RecordedError(type=f"{module_of(kind)}.{kind.__qualname__}", message=message)
    return RecordedCall(id=call_id, function=call.name, error=kept)


def given_up(call_id: str, call: Call) -> RecordedCall:
    """The record of a call for which the handler stopped waiting: in replay, which asks no clock, it times out at once."""
    message = f"the handler stopped waiting for {call.name}"
    kept = RecordedError(type="builtins.TimeoutError", message=message, arguments=[message])
    return RecordedCall(id=call_id, function=call.name, error=kept)


def _parsed(raw: bytes) -> Any:
    """JSON that can be read back, also from deep inside of a record. Raises ValueError for invalid Unicode and such."""
    value = from_json(b"[" * RECORD_DEPTH + raw + b"]" * RECORD_DEPTH)
    for _ in range(RECORD_DEPTH):
        (value,) = value
    return value


_adapters: weakref.WeakKeyDictionary[Any, TypeAdapter[Any]] = weakref.WeakKeyDictionary()
_adapters_lock = threading.Lock()


def _adapter(function: Any) -> TypeAdapter[Any]:
    """What turns the function's answers into JSON and back; kept as long as the function lives."""
    function = getattr(function, "__func__", function)
    try:
        with _adapters_lock:
            found = _adapters.get(function)
        if found is None:
            found = answer_adapter(_annotated(function))
            with _adapters_lock:
                _adapters[function] = found
    except TypeError:  # It cannot be a key.
        found = answer_adapter(_annotated(function))
    return found


def _annotated(function: Any) -> Any:
    """The function that carries the annotations; of a callable object, its `__call__`."""
    if isinstance(function, (type, types.FunctionType)) or getattr(function, "__annotations__", None):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004
