"""What commands print: results on standard output, everything else on standard error.

Owns the progress of long commands: a bar on a terminal, a plain line every few seconds elsewhere, and nothing at all for
what takes a moment.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from seqtor.actors.clock import SystemClock

__all__ = ["Progress", "compact", "moment", "note", "say", "say_json", "say_lines"]

PLAIN_EVERY_S = 5.0


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(f"{text}\n")


def say_lines(lines: Iterable[str], nothing: str) -> None:
    """Print results, one on each line; beside them, if there are none, that there are none."""
    count = 0
    for count, line in enumerate(lines, 1):  # noqa: B007 - how many there were
        say(line)
    if not count:
        note(nothing)


def say_json(value: Any) -> None:
    """Print a result as one line of JSON."""
    sys.stdout.write(f"{json.dumps(value, ensure_ascii=False)}\n")


def note(text: str) -> None:
    """Say something about the result, beside it."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def compact(value: Any) -> str:
    """A JSON value as people read it."""
    return json.dumps(value, ensure_ascii=False)


def moment(posix_s: float) -> str:
    """A time as text, UTC."""
    return datetime.datetime.fromtimestamp(posix_s, datetime.UTC).isoformat(timespec="milliseconds")


class Progress:
    """Shows how far a command is: `with Progress("verify") as progress: work(progress)`; call it with (done, of)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Bar | None = None
        self._row: Any = None
        self._said = SystemClock.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._row = self._bar.add_task(self._what, total=None)
        return self

    def __call__(self, done: int, of: int) -> None:
        if self._bar is not None:
            self._bar.update(self._row, completed=done, total=of)
        elif SystemClock.monotonic() - self._said >= PLAIN_EVERY_S:
            self._said = SystemClock.monotonic()
            note(f"{self._what}: {done:,} of {of:,}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
