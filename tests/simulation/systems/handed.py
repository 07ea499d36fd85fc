"""What is known of a trigger by who has handed it in."""

from __future__ import annotations

from typing import Any

from seqtor import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    HandlerFailed,
    NotRunning,
    OutcomeUnknown,
    Rejected,
    Submission,
)

__all__ = ["Handed"]


class Handed:
    """One trigger as its caller knows it: `outcome` is (state, value) once that was answered."""

    def __init__(self, submission: Submission[Any], number: int, program: int, key: str | None, life: int) -> None:
        self.submission, self.number, self.program, self.key, self.life = submission, number, program, key, life
        self.accepted: Any = None  # A future, if its caller has asked when it is durable.
        self.outcome: tuple[str, Any] | None = None

    @property
    def id(self) -> str:
        return self.submission.id

    @property
    def is_accepted(self) -> bool:
        """Whether its caller was told that it is durable."""
        return self.outcome is not None or (self.accepted is not None and _has_come(self.accepted))

    def look(self) -> None:
        """Note what its caller has been told by now."""
        if self.outcome is None and self.submission.done:
            self.outcome = _outcome_of(self.submission)


def _outcome_of(submission: Submission[Any]) -> tuple[str, Any] | None:
    try:
        return "committed", submission.result(0)
    except Rejected as error:
        return "rejected", str(error)
    except HandlerFailed as error:
        return "failed", str(error.__cause__)
    except DeadlineExceeded:
        return "deadline", None
    except Aborted:
        return "aborted", None
    except Cancelled:
        return "cancelled", None
    except (NotRunning, OutcomeUnknown):
        return None


def _has_come(future: Any) -> bool:
    """Whether it was answered, with no error."""
    if not future.is_set():
        return False
    try:
        future.get(timeout=0)
    except (NotRunning, OutcomeUnknown):
        return False
    return True
