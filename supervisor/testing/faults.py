"""Faults at named points of the runtime: `with faults.at("journal.append.before_sync", raises=OSError(28, "full")): ...`

Owns what is armed. Promises: a name that is no point is refused with the nearest one; a block whose fault never happened
fails, since its test has shown nothing; behind the block nothing is armed. Points are passed by every system of the
process, on any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType

from seqtor.actors import faults as points
from seqtor.actors.handlers import did_you_mean

__all__ = ["POINTS", "Fault", "NotReached", "at", "watching"]

POINTS = MappingProxyType(points.POINTS)
"""Every point by name, and what holds there."""


class NotReached(AssertionError):
    """A fault was armed and did not happen."""


class Fault:
    """What is to happen at a point. `reached` counts who came by it, `happened` how often it did happen."""

    def __init__(
        self,
        point: str,
        raises: BaseException | type[BaseException] | None,
        calls: Callable[[], object] | None,
        times: int | None,
        after: int,
    ) -> None:
        self.point = point
        self.happened = 0
        self.passed: Counter[str] = Counter()  # All points that were passed meanwhile.
        self._raises = raises
        self._calls = calls
        self._times = times
        self._after = after

    @property
    def reached(self) -> int:
        """How often the point was passed."""
        return self.passed[self.point]

    def _is_due(self, point: str) -> bool:
        """Take notice of a point that is passed; whether it is to happen there."""
        self.passed[point] += 1
        if point != self.point or self.reached <= self._after or self.happened == self._times:
            return False
        self.happened += 1
        return True

    def _happen(self) -> None:
        if self._calls is not None:
            self._calls()
        if self._raises is not None:
            raise self._raises

    def __repr__(self) -> str:
        return f"<Fault at {self.point}: reached {self.reached} times, happened {self.happened} times>"


_lock = threading.Lock()
_armed: tuple[Fault, ...] = ()
_watching: tuple[Callable[[str], object], ...] = ()


@contextmanager
def at(
    point: str,
    *,
    raises: BaseException | type[BaseException] | None = None,
    calls: Callable[[], object] | None = None,
    times: int | None = 1,
    after: int = 0,
) -> Iterator[Fault]:
    """Have something happen at a point, while the block runs: `calls` is called, then `raises` is raised.

    The first `after` who come by are spared, then it happens `times` times (None: always). Blocks can be nested; at one
    point the outer one comes first. Raises ValueError for what is no point, and at the end of the block NotReached if it
    did not happen at all.
    """
    global _armed  # noqa: PLW0603 - one for the process, as the points are
    if point not in POINTS:
        raise ValueError(
            f"there is no fault point {point!r}{did_you_mean(point, POINTS)} (seqtor.testing.faults.POINTS)"
        )
    if raises is None and calls is None:
        raise ValueError(f"say what is to happen at {point}: raises= an exception, or calls= a function")
    if (times is not None and times < 1) or after < 0:
        raise ValueError(f"times= is 1 or more (None: always) and after= 0 or more, got {times} and {after}")
    fault = Fault(point, raises, calls, times, after)
    with _lock:
        _armed = (*_armed, fault)
        _listen()
    try:
        yield fault
    finally:
        with _lock:
            _armed = tuple([each for each in _armed if each is not fault])
            _listen()
    if not fault.happened:
        passed = ", ".join(f"{name} ({count})" for name, count in fault.passed.items()) or "no point at all"
        spared = f", of which {after} were to be spared" if after else ""
        raise NotReached(
            f"nothing happened at {point}: it was reached {fault.reached} times{spared}. Reached meanwhile: {passed}"
        )


@contextmanager
def watching(watch: Callable[[str], object]) -> Iterator[None]:
    """Call this with the name of every point that is passed, while the block runs; before what is armed there happens."""
    global _watching  # noqa: PLW0603 - see `at`
    with _lock:
        _watching = (*_watching, watch)
        _listen()
    try:
        yield
    finally:
        with _lock:
            _watching = tuple([each for each in _watching if each is not watch])
            _listen()


def _listen() -> None:
    points.listen(_pass if _armed or _watching else None)


def _pass(point: str) -> None:
    for watch in _watching:
        watch(point)
    with _lock:
        due = [fault for fault in _armed if fault._is_due(point)]
    for fault in due:  # Without the lock: what happens may pass other points.
        fault._happen()
