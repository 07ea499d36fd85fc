"""Every error that seqtor raises to its users.

Owns the exception classes of the public surface. Each carries a stable `code`, says what happened with its values and
what to do about it. Between actors nothing is raised: refusals there are values (`refusals.py`).
"""

from __future__ import annotations

import datetime
import math
from typing import Any

__all__ = [
    "Aborted",
    "AlreadyResubmitted",
    "Cancelled",
    "DeadlineExceeded",
    "DerivedUnreadable",
    "FootprintViolation",
    "HandlerFailed",
    "JournalCorrupted",
    "JournalLocked",
    "KeyReused",
    "NotLeader",
    "NotRunning",
    "OutcomeUnknown",
    "Overloaded",
    "RecordedFailure",
    "RegistrationError",
    "Rejected",
    "ReplayDiverged",
    "RunCrashed",
    "RunDeferred",
    "SeqtorError",
    "StoreUnavailable",
    "UnknownTrigger",
    "UseTransaction",
    "WouldDeadlock",
]


class SeqtorError(Exception):
    """Base of all errors of this package; `code` is stable across releases."""

    code: str = "seqtor"


class Rejected(SeqtorError):
    """Raised by a handler (or an invariant) to end the run without writes; nothing is retried.

    `details` are the keyword arguments, for programs; `code` may be given per rejection.
    """

    code = "rejected"

    def __init__(self, message: str = "rejected", code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        if not self.details:
            return self.message
        return f"{self.message} ({', '.join(f'{name}={value!r}' for name, value in self.details.items())})"

    def copy(self) -> Rejected:
        """Return an equal rejection with a traceback of its own, for one more caller to raise."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.args = self.args
        return twin


class HandlerFailed(SeqtorError):
    """The handler raised; `__cause__` is its exception. The run has written nothing."""

    code = "handler_failed"

    def __init__(self, trigger: str, seq: int, attempts: int, cause: BaseException) -> None:
        # A crash is no attempt of the handler's: each of them was at the same one.
        how = str(cause) if isinstance(cause, RunCrashed) else f"{type(cause).__name__}: {cause}"
        tried = "" if isinstance(cause, RunCrashed) else f" in attempt {attempts}"
        super().__init__(f"{trigger} at seq {seq} failed{tried}: {how}; nothing was written")
        self.trigger = trigger
        self.seq = seq
        self.attempts = attempts
        self.__cause__ = cause


class RunCrashed(SeqtorError):
    """The actor that executes a run crashed at each try: no doing of the handler, so replay does not repeat it."""

    code = "run_crashed"


class RunDeferred(SeqtorError):
    """A completion run that has its seq needs an answer which is not recorded; its run fails with this after too many.

    It says how others interleaved, so replay does not repeat it.
    """

    code = "run_deferred"


class DeadlineExceeded(SeqtorError):
    """One attempt of the handler ran longer than its deadline; what it still does is ignored."""

    code = "deadline_exceeded"


class Aborted(SeqtorError):
    """An operator ended the run."""

    code = "aborted"


class AlreadyResubmitted(SeqtorError):
    """The dead letter was submitted again before; what became of that is a record, and a dead letter, of its own."""

    code = "already_resubmitted"


class Cancelled(SeqtorError):
    """The trigger was taken back before it had a seq."""

    code = "cancelled"


class Overloaded(SeqtorError):
    """The queue is full; submit again after `retry_after` seconds."""

    code = "overloaded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutcomeUnknown(SeqtorError):
    """The runtime broke down while the answer was pending; the run may or may not have committed."""

    code = "outcome_unknown"


class NotRunning(SeqtorError):
    """The system is not started yet, or stopped already."""

    code = "not_running"


class UnknownTrigger(SeqtorError):
    """No handler is registered for the trigger's type."""

    code = "unknown_trigger"


class RegistrationError(SeqtorError):
    """A store, handler, trigger type or setting cannot work as it was given; the text says what to change."""

    code = "registration"


class UseTransaction(SeqtorError):
    """Inside a handler the system's own verb was used where the transaction has one that commits with the run."""

    code = "use_transaction"


class WouldDeadlock(SeqtorError):
    """Inside a handler something was waited for that cannot end before this run ends."""

    code = "would_deadlock"


class StoreUnavailable(SeqtorError):
    """Raised by a store whose medium is away; only runs that touch it wait."""

    code = "store_unavailable"

    def __init__(
        self, message: str = "the store is unavailable", retry_after: float | datetime.timedelta = 1.0
    ) -> None:
        super().__init__(message)
        wait_s = retry_after.total_seconds() if isinstance(retry_after, datetime.timedelta) else retry_after
        if not 0 <= wait_s < math.inf:
            raise ValueError(f"retry_after must be seconds (0 or more) or a timedelta, got {retry_after!r}")
        self.retry_after = float(wait_s)


class DerivedUnreadable(SeqtorError):
    """A derived store was read whose function has raised, or which was not computed yet; what it would say is not known."""

    code = "derived_unreadable"


class FootprintViolation(SeqtorError):
    """A run wrote outside the footprint that its handler declared with `writes=`; nothing of it was written."""

    code = "footprint"


class KeyReused(SeqtorError):
    """An idempotency key came back with another payload."""

    code = "key_reused"


class JournalCorrupted(SeqtorError):
    """The journal holds something that cannot have been written as it is; `seq` says where, `store` for whom."""

    code = "journal_corrupted"

    def __init__(self, message: str, seq: int | None = None, store: str | None = None) -> None:
        super().__init__(message)
        self.seq = seq
        self.store = store


class JournalLocked(SeqtorError):
    """Another process has the journal open."""

    code = "journal_locked"


class NotLeader(SeqtorError):
    """Another process leads on this journal."""

    code = "not_leader"


class ReplayDiverged(SeqtorError):
    """Executing again gave something else than the record says; `seq` and `handler` say where."""

    code = "replay_diverged"

    def __init__(self, message: str, seq: int = 0, handler: str = "", expected: Any = None, found: Any = None) -> None:
        super().__init__(message)
        self.seq = seq
        self.handler = handler
        self.expected = expected
        self.found = found


class RecordedFailure(SeqtorError):
    """An exception that was kept in the journal, of a class that cannot be made again from there: `kind` names it."""

    code = "recorded_failure"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
