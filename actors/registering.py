"""Registrations that are only looked at: their errors are collected instead of raised.

Owns the switch. Promises: outside of `collected()` nothing is different, a registration that will not do raises; inside,
on this thread, each error is kept with the line of the program that made it, and the program goes on.
"""

from __future__ import annotations

import contextvars
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from seqtor.messages.errors import RegistrationError

__all__ = ["Finding", "collected", "registering", "require_function", "require_not_collecting", "starts_refused"]


class Finding(NamedTuple):
    """What is wrong, and where in the program: a file and a line, if one is known."""

    message: str
    file: str | None = None
    line: int | None = None


FINDINGS: contextvars.ContextVar[list[Finding] | None] = contextvars.ContextVar("seqtor_findings", default=None)


STARTS_REFUSED: contextvars.ContextVar[bool] = contextvars.ContextVar("seqtor_starts_refused", default=False)


@contextmanager
def starts_refused() -> Iterator[None]:
    """Refuse starts inside: a worker process imports the program, and must not become another one of it."""
    token = STARTS_REFUSED.set(True)
    try:
        yield
    finally:
        STARTS_REFUSED.reset(token)


@contextmanager
def collected() -> Iterator[list[Finding]]:
    """Collect the errors of the registrations inside."""
    findings: list[Finding] = []
    token = FINDINGS.set(findings)
    try:
        yield findings
    finally:
        FINDINGS.reset(token)


class registering:  # noqa: N801
    """`with registering(): ...` around what raises RegistrationError; what follows runs if that was collected."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, RegistrationError):
            return False
        findings = FINDINGS.get()
        if findings is None:
            return False
        findings.append(Finding(str(error), *_place()))
        return True


def require_not_collecting(what: str) -> None:
    """Raise RegistrationError for what must not happen while a program is only looked at."""
    if FINDINGS.get() is not None or STARTS_REFUSED.get():
        raise RegistrationError(
            f"{what} while the module is imported: put it into a function, or under if __name__ == '__main__':, so that "
            "`seqtor run`, `seqtor check` and worker processes can import the module"
        )


def _place() -> tuple[str, int] | tuple[None, None]:
    """The file and line of the program that called into this package."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] != "seqtor":
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None, None


def require_function(function: Any, place: str, count: int, called_with: str) -> None:
    """Raise RegistrationError unless this is a plain function that can be called with `count` arguments."""
    if not callable(function):
        raise RegistrationError(f"{place} takes a function, got {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        raise RegistrationError(f"{place} takes a plain function, not a coroutine function: {function!r}")
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError as error:
        name = getattr(function, "__name__", None) or repr(function)
        raise RegistrationError(f"{place}: {name} is called with {called_with} ({error})") from None
    except ValueError:
        pass  # A callable without a signature that Python can read: its call will tell.
