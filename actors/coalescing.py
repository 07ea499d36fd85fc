"""`coalesce=` and `merge=`: waiting triggers of one type and one key become one run.

Owns the keys, and what the run of several executes. Promises: until that run has its record all of them are accepted
triggers of their own, so a crash loses none of them, and they become one again; the record names those that it stands for.
The users' code runs where triggers are handed in (`coalesce=`) and where handlers run, within their deadline (`merge=`),
never on the core. A `merge` that raises, or does not return in time, loses nothing: the newest goes on (or ends) alone, and
the others go back to the queue, each to run by itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loguru import logger

from seqtor.messages.errors import RegistrationError

if TYPE_CHECKING:
    from seqtor.actors.handlers import Handler

__all__ = ["key_of", "merging", "require_coalesce"]


def key_of(trigger: Any, handler: Handler, idempotency_key: str | None = None) -> str | None:
    """With whom it may become one; None if with nobody. Raises TypeError for no key, and what the function raises.

    One that is retried under an idempotency key of its own runs by itself: its outcome has to be found under that key.
    """
    if handler.coalesce is None or (idempotency_key is not None and handler.retry is not None):
        return None
    key = handler.coalesce(trigger)
    if key is not None and not isinstance(key, str):
        raise TypeError(
            f"coalesce= of the handler of {handler.name} returns a str, or None for a trigger that runs by itself; for "
            f"{trigger!r} it returned {key!r}"
        )
    return key


def require_coalesce(coalesce: Any, merge: Any, name: str, *, by_completion: bool, in_process: bool) -> None:
    """Raise RegistrationError for options that cannot be meant."""
    for option, function, called in (("coalesce", coalesce, "trigger"), ("merge", merge, "old, new")):
        if function is None:
            continue
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise RegistrationError(
                f"{option}= of the handler of {name} is a plain function, called with ({called}), got {function!r}"
            )
        try:
            inspect.signature(function).bind(*called.split(", "))
        except TypeError:
            raise RegistrationError(f"{option}= of the handler of {name} is called with ({called})") from None
        except ValueError:
            pass  # A callable without a signature that Python can read: its call will tell.
    if merge is not None and coalesce is None:
        raise RegistrationError(f"merge= of the handler of {name} needs coalesce=, which says what is merged with what")
    if coalesce is not None and by_completion:
        raise RegistrationError(f'the handler of {name} has sequence="completion", which does not go with coalesce=')
    if merge is not None and in_process:
        raise RegistrationError(f'the handler of {name} has executor="process", which does not go with merge=')


def merging(function: Callable[..., Any], merge: Callable[[Any, Any], Any], *, is_async: bool) -> Callable[..., Any]:
    """The handler, called with what its trigger and those that it stands for are merged to."""
    if is_async:

        @functools.wraps(function)
        async def handle_async(_: Any, tx: Any) -> Any:
            return await function(_merged(tx, merge), tx)

        return handle_async

    @functools.wraps(function)
    def handle(_: Any, tx: Any) -> Any:
        return function(_merged(tx, merge), tx)

    return handle


def _merged(tx: Any, merge: Callable[[Any, Any], Any]) -> Any:
    from seqtor.actors.handlers import require_kept, require_payload

    submission = tx.submission
    origin = submission.origin
    if origin is None or not origin.merging:
        return submission.trigger
    handler = submission.handler
    triggers = [*[each.trigger for each in origin.absorbed], submission.trigger]
    try:
        found = functools.reduce(merge, triggers)
        if type(found) is not handler.trigger_type:
            raise TypeError(f"merge= of the handler of {handler.name} must return a {handler.name}, got {found!r}")
        require_payload(found, handler)
        if not handler.comes_back:
            require_kept(found, handler)
    except Exception as error:
        tx.check()  # An attempt that is over decides nothing.
        log = logger.bind(seq=tx.seq, attempt=tx.attempt, trigger=handler.name, actor="run")
        log.opt(exception=error).warning(
            "merge= of the handler of {} failed, so {} triggers run each by itself", handler.name, len(triggers)
        )
        submission.intake.split(submission)
    else:
        tx.check()
        submission.become(found)
    return submission.trigger
