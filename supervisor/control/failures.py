"""Errors on their way through the control socket.

Owns their form in JSON and the way back. Promises: an error of seqtor comes out as its own class with its code, its text
and what it carries; one of the program's as its own class if the other process has imported that, else as
`RecordedFailure`; no module is imported because an answer names it.
"""

from __future__ import annotations

import builtins
from typing import Any

from pydantic_core import to_jsonable_python

from seqtor.actors.journal.decoding import error_of
from seqtor.actors.journal.encoding import error_record
from seqtor.control.protocol import RemoteError
from seqtor.messages import errors
from seqtor.messages.errors import RecordedFailure, Rejected, SeqtorError
from seqtor.messages.records import RecordedError

__all__ = ["remade", "remote_error"]

OF_SEQTOR = {name: getattr(errors, name) for name in errors.__all__}
OF_PYTHON = (LookupError, TypeError, ValueError, TimeoutError, OSError)
CAUSES_MAX = 3


def remote_error(error: BaseException, causes_max: int = CAUSES_MAX) -> RemoteError:
    """The error as JSON."""
    kept = error_record(error)
    attributes: dict[str, Any] = {}
    if isinstance(error, Rejected):
        attributes = {"details": kept.details or {}}
    elif isinstance(error, SeqtorError):
        attributes = {name: _plain(value) for name, value in vars(error).items() if not name.startswith("_")}
    cause = error.__cause__
    return RemoteError(
        type=kept.type,
        known=_known(error),
        message=kept.message,
        code=error.code if isinstance(error, SeqtorError) else None,
        arguments=kept.arguments or [],
        attributes=attributes,
        cause=remote_error(cause, causes_max - 1) if cause is not None and causes_max else None,
    )


def remade(sent: RemoteError) -> Exception:
    """The error that was sent."""
    found = error_of(
        RecordedError(
            type=sent.type,
            message=sent.message,
            code=sent.code,
            details=sent.attributes.get("details"),  # type: ignore[arg-type]
            arguments=sent.arguments,
        )
    )
    if not isinstance(found, Exception):  # Another process's SystemExit must not end this one.
        return RecordedFailure(sent.type, sent.message)
    if isinstance(found, RecordedFailure) and not sent.type.endswith(".RecordedFailure"):
        found = _nearest(sent)
    if isinstance(found, SeqtorError) and not isinstance(found, Rejected):
        for name, value in sent.attributes.items():
            setattr(found, name, value)
        if sent.code is not None and found.code != sent.code:
            found.code = sent.code
    if sent.cause is not None:
        found.__cause__ = remade(sent.cause)
    return found


def _nearest(sent: RemoteError) -> Exception:
    """The error as the nearest class that is known here; made without its constructor, which asks for more than text."""
    kind = OF_SEQTOR.get(sent.known)
    if kind is not None and kind is not RecordedFailure:
        error: Exception = kind.__new__(kind)
        error.args = (sent.message,)
        if isinstance(error, Rejected):
            details: Any = sent.attributes.get("details") or {}
            Rejected.__init__(error, sent.message, sent.code, **details)
        return error
    found = getattr(builtins, sent.known, None)
    if isinstance(found, type) and issubclass(found, OF_PYTHON):
        return found(sent.message)
    return RecordedFailure(sent.type, sent.message)


def _known(error: BaseException) -> str:
    """The nearest class of the error that every client has; nothing if there is none."""
    for kind in type(error).__mro__:
        if OF_SEQTOR.get(kind.__name__) is kind or kind in OF_PYTHON:
            return kind.__name__
    return ""


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings", fallback=repr)
