"""What happens in a history, line by line: in all of its systems, one process after another, with the time of each line.

Owns the notes of one history at a time, which `Told` takes by watching; and the text. Promises: it only watches, so that
what is told plays as it would untold; the same history is told byte for byte the same, in every process. `note` is for
worlds: what they do to a history; it does nothing while nobody listens.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import pytest

from seqtor import Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.testing.checkers.evidence import Evidence
from seqtor.testing.checkers.watching import Life
from seqtor.testing.simulating.telling import Story, cut

__all__ = ["Told", "note"]

LINES_MAX = 200  # Of a history that does not become small its end is told.

_told: list[Told] = []  # Who listens: one at most.


class Done(NamedTuple):
    """A note: what a world has done, and to which run, if it was to one."""

    text: str
    run: str | None


def note(text: str, run: str | None = None) -> None:
    """Note what a world does to its history, or to a run in it."""
    for each in _told:
        each.note(Done(text, run))


class Told:
    """The notes of the history that is played inside of its `with` block."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, Any]] = []
        self._lives: list[Life] = []
        self._dispatchers: SimulatedDispatchers | None = None
        self._names: dict[str, str] = {}  # Of runs, by their ids, as they were told last.
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        start, stop, crash = Supervisor.start, Supervisor.stop, Actor._crash
        init: Any = SimulatedDispatchers.__init__

        def made(dispatchers: SimulatedDispatchers, *args: Any, **kwargs: Any) -> None:
            init(dispatchers, *args, **kwargs)
            self._dispatchers = dispatchers

        def started(system: Supervisor) -> Supervisor:
            self._follow(system)
            return start(system)

        def stopped(system: Supervisor, *args: Any, **kwargs: Any) -> None:
            note("the process stops in order")
            stop(system, *args, **kwargs)

        def crashed(actor: Actor, reply_to: Any) -> None:
            error = sys.exc_info()[1]
            note(cut(f"{type(actor).__name__} crashes: {type(error).__name__}: {error}"))
            crash(actor, reply_to)

        self._patch.setattr(SimulatedDispatchers, "__init__", made)
        self._patch.setattr(Supervisor, "start", started)
        self._patch.setattr(Supervisor, "stop", stopped)
        self._patch.setattr(Actor, "_crash", crashed)
        _told.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _told.remove(self)
        self._patch.undo()

    def note(self, what: Any) -> None:
        """Note something, with the time that it is."""
        now_s = 0.0 if self._dispatchers is None else self._dispatchers.clock.monotonic()
        self._noted.append((now_s, what))

    def lines(self, most: int = LINES_MAX) -> list[str]:
        """What was noted, in its order; of more lines than that the last."""
        story = Story(Evidence(self._lives, [what for _, what in self._noted]), all_triggers=True)
        told = [f"{now_s:11.3f} {line}" for now_s, what in self._noted for line in _lines(story, what)]
        self._names = story.names
        more = len(told) - most
        return told if more <= 0 else [f"... {more} lines before these", *told[-most:]]

    def runs_in(self, text: str) -> Iterator[str]:
        """What the lines call the runs whose ids are in a text."""
        for run, name in self._names.items():
            if re.search(rf"(?<![\w.-]){re.escape(run)}(?![\w.-])", text):
                yield f"{name} is {run}"

    def _follow(self, system: Supervisor) -> None:
        for life in self._lives:
            life.notes = []  # What is left of a process that is gone has not happened.
        life = system._around.watcher
        if isinstance(life, Life):  # The world watches, too.
            life.notes = Notes(self, life.notes)
        else:
            life = Life(len(self._lives), Notes(self, []), system)
            system._around = system._around._replace(watcher=life)
        self._lives.append(life)


def _lines(story: Story, what: Any) -> Iterator[str]:
    if isinstance(what, Done):
        yield f"-- {what.text}" if what.run is None else f"-- {what.text} {story.name(what.run)}"
    else:
        yield from story.lines(what)


class Notes(list[Any]):
    """The notes of a process: they go where they would without us, and to us."""

    def __init__(self, told: Told, others: list[Any]) -> None:
        super().__init__()
        self._told = told
        self._others = others

    def append(self, what: Any) -> None:
        self._others.append(what)
        self._told.note(what)
