"""Values of the user's types from what the journal kept: results, errors, answers of calls.

Owns the way back from JSON. Promises: what a function's annotation names comes back as that type, without one it is plain
JSON; an exception comes back as its own class if that can be made from its arguments, else as `RecordedFailure`; nothing
is unpickled and no module is imported because a journal names it.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic_core import from_json, to_json

from seqtor.actors.journal.encoding import module_of
from seqtor.messages.errors import (
    Aborted,
    DeadlineExceeded,
    FootprintViolation,
    HandlerFailed,
    RecordedFailure,
    Rejected,
    SeqtorError,
)
from seqtor.messages.records import CommitRecord, RecordedError
from seqtor.messages.runs import State

__all__ = ["answer_adapter", "error_of", "outcome_of", "parsed", "value_of"]


AS_KEPT = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


def parsed(body: str | bytes) -> Any:
    """The JSON of a record; the slower way takes strings that are no valid Unicode."""
    try:
        return from_json(body)
    except ValueError:
        return json.loads(body)


def answer_adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """What turns JSON into what the function says it returns; anything, if it does not say or cannot be told."""
    try:
        annotation = get_type_hints(function, include_extras=True).get("return", Any)
        try:
            return TypeAdapter(annotation, config=AS_KEPT)
        except PydanticSchemaGenerationError:
            raise
        except PydanticUserError:  # Models, dataclasses and typed dicts have a configuration of their own.
            return TypeAdapter(annotation)
    except (NameError, TypeError, AttributeError, PydanticSchemaGenerationError):
        return TypeAdapter(Any, config=AS_KEPT)


def value_of(adapter: TypeAdapter[Any], value: Any) -> Any:
    """A JSON value as the adapter's type. Raises pydantic's ValidationError if it does not fit."""
    return adapter.validate_json(to_json(value))


def error_of(kept: RecordedError) -> BaseException:
    """The exception that was kept, as its own class where that is known and gives the same text."""
    module, _, name = kept.type.rpartition(".")
    found = getattr(builtins, name, None) if module == "builtins" else getattr(_module_named(module), name, None)
    if isinstance(found, type) and issubclass(found, Rejected):
        rejection = found.__new__(found)
        Rejected.__init__(rejection, kept.message, kept.code, **(kept.details or {}))
        return rejection
    if isinstance(found, type) and issubclass(found, BaseException):
        try:
            error = found(*(kept.arguments or ()))
            if str(error) == kept.message:
                return error
        except Exception:
            return RecordedFailure(kept.type, kept.message)
    return RecordedFailure(kept.type, kept.message)


def _module_named(name: str) -> Any:
    """The module, if it is imported; the program's own file under the name that others would import it by."""
    main = sys.modules.get("__main__")
    return main if main is not None and module_of(main) == name else sys.modules.get(name)


def outcome_of(record: CommitRecord, adapter: TypeAdapter[Any]) -> tuple[State, Any]:
    """How a recorded run is answered: its state, and its result or a function that makes the error."""
    if record.state is State.COMMITTED:
        return record.state, value_of(adapter, record.result)
    kept = record.error
    if kept is None:
        return record.state, lambda: SeqtorError(f"seq {record.seq} ended as {record.state.value}")
    if record.state is State.FAILED:
        error = error_of(kept)
        if isinstance(error, FootprintViolation):
            return record.state, lambda: error_of(kept)
        return record.state, lambda: HandlerFailed(record.trigger.type, record.seq, record.attempt, error_of(kept))
    if record.state is State.DEADLINE:
        return record.state, lambda: DeadlineExceeded(kept.message)
    if record.state is State.ABORTED:
        return record.state, lambda: Aborted(kept.message)
    return record.state, lambda: error_of(kept)
