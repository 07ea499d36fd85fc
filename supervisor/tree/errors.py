"""What goes wrong in supervision, as exceptions.

Owns their codes and texts; who raises them is told in `state` and `actor`.
"""

from __future__ import annotations

from seqtor.messages.errors import SeqtorError

__all__ = ["ChildRefused", "RestartsExceeded", "StartFailed", "StoppedInStart"]


class ChildRefused(SeqtorError):
    """A child cannot be started, terminated, restarted or deleted now; `reason` says why in OTP's words.

    It is one of "already_started", "already_present", "not_found", "running", "restarting", "dynamic" and "stopped".
    """

    code = "child_refused"

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class StartFailed(SeqtorError):
    """A child failed before it had acknowledged its start; `__cause__` is the failure."""

    code = "start_failed"

    def __init__(self, path: str, cause: BaseException) -> None:
        super().__init__(f"{path} failed to start: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


class RestartsExceeded(SeqtorError):
    """A supervisor gave up: more restarts within the period than its window allows. `__cause__` is the last failure."""

    code = "restarts_exceeded"

    def __init__(self, path: str, child: str, restarts: int, period_s: float, cause: BaseException | None) -> None:
        last = "it stopped by itself" if cause is None else f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"{path} gave up: {child!r} would need restart number {restarts} within {period_s:g} s; the last time {last}. "
            f"Mend it, or widen Restart(intensity, period)"
        )
        self.__cause__ = cause


class StoppedInStart(SeqtorError):
    """A child stopped by itself before it had acknowledged its start."""

    code = "stopped_in_start"
