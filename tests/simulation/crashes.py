"""Crashes of actors: at any line of their code, while they handle any message.

Owns where an actor is killed. A line is reached by tracing, so nothing in the runtime knows of it; mailboxes, the ledger
and submissions are no actor's own and are left alone. Only for systems on one thread.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from seqtor.actors.base import Actor

__all__ = ["Crash", "CrashBase", "Crashes", "crashing"]


# What goes wrong there is a store's, and ends its run as failed; or the medium's, which is final; or a reaction's own.
SPARED = ("_resolve", "_write", "_enter")


class Crash(Exception):
    """An ordinary exception in an actor."""


class CrashBase(BaseException):
    """One that nobody catches by accident."""


class Crashes:
    """What is killed next: an instance of `kind`, when it has executed so many lines of `files` for such a message.

    `message` is a class, or None for any. `happened` counts the crashes by (actor, message).
    """

    def __init__(self) -> None:
        self.kind: type[Actor] | None = None
        self.files: tuple[str, ...] = ()
        self.message: type | None = None
        self.lines = 0
        self.error: type[BaseException] = Crash
        self.happened: Counter[tuple[str, str]] = Counter()

    def plan(
        self, kind: type[Actor], files: tuple[str, ...], lines: int, message: type | None, error: type[BaseException]
    ) -> None:
        """Kill one instance."""
        self.kind, self.files, self.lines, self.message, self.error = kind, files, lines, message, error

    def meets(self, actor: Actor, message: Any) -> bool:
        """Whether lines count now."""
        return self.kind is not None and type(actor) is self.kind and self.message in (None, type(message))

    def trace(self, doing: str) -> Any:
        """A trace function that raises when the lines are used up."""

        def on_line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line" and self.kind is not None:
                self.lines -= 1
                if self.lines < 0:
                    self.happened[self.kind.__name__, doing] += 1
                    self.kind = None
                    raise self.error(f"killed at {frame.f_code.co_name}:{frame.f_lineno}")
            return on_line

        def on_call(frame: FrameType, _event: str, _: Any) -> Any:
            code = frame.f_code
            return on_line if code.co_filename.endswith(self.files) and code.co_name not in SPARED else None

        return on_call


@contextmanager
def crashing(monkeypatch: Any) -> Iterator[Crashes]:
    """Let actors be killed as planned."""
    crashes = Crashes()
    deliver, finish = Actor.deliver, Actor.finish_batch

    def traced(actor: Actor, message: Any, doing: str, call: Any) -> None:
        if not crashes.meets(actor, message):
            call()
            return
        before = sys.gettrace()
        sys.settrace(crashes.trace(doing))
        try:
            call()
        finally:
            sys.settrace(before)

    def deliver_traced(self: Actor, item: Any) -> None:
        message = getattr(item, "message", item) if type(item).__name__ == "Envelope" else item
        traced(self, message, type(message).__name__, lambda: deliver(self, item))

    def finish_traced(self: Actor) -> None:
        traced(self, None, "the end of a batch", lambda: finish(self))

    monkeypatch.setattr(Actor, "deliver", deliver_traced)
    monkeypatch.setattr(Actor, "finish_batch", finish_traced)
    yield crashes
