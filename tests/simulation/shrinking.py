"""Makes a history that fails smaller, and tells it: less is done in it, and who has waited longest goes, where that does.

Owns what "fails in the same way" means, and the plays that it takes. Promises: what is told fails in the same way as the
history that was found; the same history is made small and told byte for byte the same, in every process; it ends after so
many plays, however long they take.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import RandomWalk
from seqtor.testing import Violated
from seqtor.testing.simulating.plan import Followed
from seqtor.testing.simulating.shrinking import Tries, fewest
from tests.simulation.telling import Told

__all__ = ["TRIES", "Find", "Script", "Way", "made_small", "way_of"]

TRIES = 400
TESTS = Path(__file__).parents[1]
AROUND = ("histories.py", "shrinking.py", "telling.py")  # Who calls on behalf of others: nothing fails there.


class Script(NamedTuple):
    """A world whose histories are data, so that they can be made smaller."""

    plan: Callable[[int], Any]
    """The plan of a number; what is drawn while it is played is not in it yet."""
    play: Callable[[Any, pytest.MonkeyPatch, Callable[[Any], object]], object]
    """Play a plan; the last is called with all of it that was played, however that ends."""
    smaller: Callable[[Any, Callable[[Any], bool], Tries], Any]
    """A smaller plan that fails as well."""
    sizes: Callable[[Any], Mapping[str, int]]
    told: Callable[[Any], Iterator[str]]
    """What is in it, line by line."""


Play = Callable[[Any, Callable[[Any], object]], object]
"""Plays a plan of a history, or (None) the history as its seed says; calls back with what was played."""


class Way(NamedTuple):
    """How a history fails: the error, where in the tests it was raised or arrived, and what it was about."""

    kind: str
    place: str
    line: str  # Of the source.
    about: str


def way_of(error: BaseException) -> Way:
    """How a history fails that has raised this. Numbers and names of a history are no part of it."""
    frames = traceback.extract_tb(error.__traceback__)
    paths = [(each, Path(each.filename)) for each in frames]
    ours = [each for each, path in paths if TESTS in path.parents and path.name not in AROUND]
    about = [f"{Path(each.filename).name}, {each.name}" for each in frames[-1:]]
    if isinstance(error, Violated):
        about.append(error.violations[0].checker)
    if error.__cause__ is not None:
        about += way_of(error.__cause__)[:2]
    last = (ours or frames)[-1:]
    place = "".join(f"{Path(each.filename).name}:{each.lineno}" for each in last)
    return Way(type(error).__name__, place, "".join(each.line or "" for each in last), "; ".join(about))


class Find(NamedTuple):
    """A history that fails, made small. `sizes` are what it had and what it has, by what is counted; `plays`: to find it."""

    error: Exception
    way: Way
    plan: Any
    sizes: dict[str, tuple[int, int]]
    plays: int
    lines: tuple[str, ...]
    runs: tuple[str, ...]  # What the lines call those that the error is about.

    def told(self) -> Iterator[str]:
        """All of it; what has failed last."""
        if self.plays:
            counts = [f"{left} of {count} {name}" for name, (count, left) in self.sizes.items() if count]
            yield f"made smaller in {self.plays} plays: {', '.join(counts)}"
        yield from self.lines
        yield f"FOUND {self.way.kind} at {self.way.place}: {self.way.line}"
        yield from [f"      {line}" for line in (*str(self.error).splitlines(), *self.runs)]


class Ordered:
    """Who chose who went next, in all processes of a history: as it was drawn, or in the `kept` steps only."""

    def __init__(self, kept: frozenset[int] | None) -> None:
        self._kept = kept
        self._made: list[Followed] = []

    @property
    def switches(self) -> frozenset[int]:
        """The steps in which somebody else went than who had waited longest."""
        return frozenset().union(*[each.switched for each in self._made])

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow what is simulated meanwhile."""
        init: Any = SimulatedDispatchers.__init__

        def made(dispatchers: SimulatedDispatchers, *args: Any, **others: Any) -> None:
            explorer = others.pop("explorer", RandomWalk)
            init(dispatchers, *args, explorer=lambda source: self._follow(explorer, source), **others)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimulatedDispatchers, "__init__", made)
            yield

    def _follow(self, explorer: Callable[[random.Random], Any], source: random.Random) -> Followed:
        followed = Followed(explorer(source), self._kept)
        if self._made:
            followed.count_from(self._made[-1].steps)
        self._made.append(followed)
        return followed


class Attempt(NamedTuple):
    """What one play came to."""

    error: Exception | None
    plan: Any
    switches: frozenset[int]


def _attempt(play: Play, plan: Any, kept: frozenset[int] | None) -> Attempt:
    played: list[Any] = []
    ordered = Ordered(kept)
    found: Exception | None = None
    with ordered.following():
        try:
            play(plan, played.append)
        except Exception as error:
            found = error
    return Attempt(found, played[-1] if played else None, ordered.switches)


def made_small(play: Play, script: Script | None, *, tries: int = TRIES) -> Find:
    """A history that fails, made smaller with so many plays at most, and told.

    Without a script only who goes when is made plain. Raises LookupError for a history that holds.
    """
    first = _attempt(play, None, None)
    if first.error is None:
        raise LookupError("nothing is found in this history")
    if first.plan is None:
        script = None  # It fails before anything is played.
    shrinking = Shrinking(play, way_of(first.error), Tries(tries))
    small = shrinking.shrunk(first, script)
    told = Told()
    with told:
        last = _attempt(play, small.plan, small.kept)
    error = cast("Exception", last.error)
    switches = {"switches": (len(first.switches), len(last.switches))}
    sizes: dict[str, tuple[int, int]] = {}
    lines: list[str] = []
    if script is not None:
        before, after = script.sizes(first.plan), script.sizes(small.plan)
        sizes = {name: (before[name], after[name]) for name in before}
        lines = [*script.told(small.plan), ""]
    elif tries:
        lines = ["what is done in this world is not made smaller, only who goes when", ""]
    lines += [*told.lines(), ""]
    return Find(
        error, way_of(error), small.plan, sizes | switches, tries - shrinking.tries.left, tuple(lines),
        tuple(told.runs_in(str(error))),
    )  # fmt: skip


class Small(NamedTuple):
    """What is left: a plan, and the steps in which somebody else goes than who has waited longest (None: as drawn)."""

    plan: Any
    kept: frozenset[int] | None


class Shrinking:
    """One history that is made smaller."""

    def __init__(self, play: Play, way: Way, tries: Tries) -> None:
        self._play = play
        self._way = way
        self.tries = tries

    def shrunk(self, first: Attempt, script: Script | None) -> Small:
        """What is left of it."""
        plain = Small(first.plan, frozenset())
        small = plain if self._try(plain) else Small(first.plan, None)
        if script is not None:
            small = self._smaller(small, script)
        if small.kept is None and self.tries.left > 0:
            small = self._switches(small)
            if script is not None:
                small = self._smaller(small, script)
        return small

    def _smaller(self, small: Small, script: Script) -> Small:
        plan = script.smaller(small.plan, lambda plan: self._fails(Small(plan, small.kept)), self.tries)
        return small._replace(plan=plan)

    def _switches(self, small: Small) -> Small:
        """Fewer switches, with half of the plays that are left: with fewer of them less of the plan may do."""
        tries = Tries(self.tries.left // 2)
        self.tries.left -= tries.left
        switches = sorted(self._attempt(small).switches)
        explicit = fewest(switches, lambda kept: small._replace(kept=frozenset(kept)), self._fails, tries)
        self.tries.left += tries.left
        return explicit if len(explicit.kept or ()) < len(switches) else small

    def _try(self, small: Small) -> bool:
        if self.tries.left <= 0:
            return False
        self.tries.left -= 1
        return self._fails(small)

    def _fails(self, small: Small) -> bool:
        found = self._attempt(small).error
        return found is not None and way_of(found) == self._way

    def _attempt(self, small: Small) -> Attempt:
        return _attempt(self._play, small.plan, small.kept)
