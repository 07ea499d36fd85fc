"""Values of the user's types from what the journal kept: results, errors, answers of calls.

Owns the way back from JSON. Promises: what a function's annotation names comes back as that type, without one it is plain
JSON; an exception comes back as its own class if that can be made from its arguments, else as `RecordedFailure`; nothing
is unpickled and no module is imported because a journal names it.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic_core import to_json

from seqtor.messages.errors import Aborted, DeadlineExceeded, HandlerFailed, RecordedFailure, Rejected, SeqtorError
from seqtor.messages.records import CommitRecord, RecordedError
from seqtor.messages.runs import State

__all__ = ["answer_adapter", "error_of", "outcome_of", "value_of"]


def answer_adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """What turns JSON into what the function says it returns; anything, if it does not say or cannot be told."""
    try:
        annotation = get_type_hints(function, include_extras=True).get("return", Any)
        return TypeAdapter(annotation)
    except (NameError, TypeError, AttributeError, PydanticSchemaGenerationError):
        return TypeAdapter(Any)


def value_of(adapter: TypeAdapter[Any], value: Any) -> Any:
    """A JSON value as the adapter's type. Raises pydantic's ValidationError if it does not fit."""
    return adapter.validate_json(to_json(value))


def error_of(kept: RecordedError) -> BaseException:
    """The exception that was kept, as its own class where that is known and gives the same text."""
    module, _, name = kept.type.rpartition(".")
    found = getattr(builtins, name, None) if module == "builtins" else getattr(sys.modules.get(module), name, None)
    if isinstance(found, type) and issubclass(found, Rejected):
        rejection = found.__new__(found)
        Rejected.__init__(rejection, kept.message, kept.code, **(kept.details or {}))
        return rejection
    if isinstance(found, type) and issubclass(found, BaseException):
        try:
            error = found(*(kept.arguments or ()))
        except Exception:
            return RecordedFailure(kept.type, kept.message)
        if str(error) == kept.message:
            return error
    return RecordedFailure(kept.type, kept.message)


def outcome_of(record: CommitRecord, adapter: TypeAdapter[Any]) -> tuple[State, Any]:
    """How a recorded run is answered: its state, and its result or a function that makes the error."""
    if record.state is State.COMMITTED:
        return record.state, value_of(adapter, record.result)
    kept = record.error
    if kept is None:
        return record.state, lambda: SeqtorError(f"seq {record.seq} ended as {record.state.value}")
    if record.state is State.FAILED:
        return record.state, lambda: HandlerFailed(record.trigger.type, record.seq, record.attempt, error_of(kept))
    if record.state is State.DEADLINE:
        return record.state, lambda: DeadlineExceeded(kept.message)
    if record.state is State.ABORTED:
        return record.state, lambda: Aborted(kept.message)
    return record.state, lambda: error_of(kept)
