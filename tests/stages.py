"""Dispatchers for tests of single actors: where they run, and how a test waits for them without sleeping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from seqtor.actors.base import Actor, Ref
from seqtor.actors.clock import VirtualClock
from seqtor.actors.dispatchers import ElasticDispatcher, SimulatedDispatchers, ThreadedDispatchers
from seqtor.messages.lifecycle import DeadLetter

__all__ = ["PATIENCE_S", "STAGES", "ManualTimers", "Stage", "Work", "stage"]

PATIENCE_S = 30.0  # How long a test waits for what must happen before it fails.
STAGES = ("simulated", "elastic", "pool")


class Stage:
    """A dispatcher for the actors of one test; its dead letters end in `letters`."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self.letters: list[DeadLetter] = []
        dispatcher.dead_letter = self.letters.append

    def start(self, actor_class: type[Actor], *args: Any, **kwargs: Any) -> Ref:
        return actor_class.start_on(self.dispatcher, *args, **kwargs)

    def wait_for(self, event: threading.Event) -> None:
        """Return when the event is set; fail if it never is."""
        if self.dispatcher.driver is not None:
            self.dispatcher.driver.run_until(event.is_set, None)
        assert event.wait(PATIENCE_S), "what the test waits for has not happened"


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """A stage by its name; afterwards its threads have ended."""
    if name == "simulated":
        yield Stage(SimulatedDispatchers(seed=1))
    elif name == "elastic":
        yield Stage(ElasticDispatcher("test"))
    else:
        dispatchers = ThreadedDispatchers(threads=4, name="test")
        dispatchers.start(lambda: 0)
        try:
            yield Stage(dispatchers.pool)
        finally:
            assert dispatchers.stop(PATIENCE_S) == []


class Work:
    """Stands in for a mailbox where only the dispatcher matters: has a rank, and does something when it is run."""

    def __init__(self, rank: int, does: Callable[[], None]) -> None:
        self.rank = rank
        self.started = threading.Event()
        self.done = threading.Event()
        self._does = does

    def run(self, limit: int = 0) -> None:
        self.started.set()
        self._does()
        self.done.set()


class ManualTimers:
    """Timers on a virtual clock: what is due is called by `advance`, on the calling thread."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._set: list[tuple[float, ManualTimer]] = []
        self._lock = threading.Lock()

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        with self._lock:
            self._set.append((self._clock.monotonic() + delay_s, timer))
        return timer

    def advance(self, seconds: float) -> None:
        self._clock.advance_to(self._clock.monotonic() + seconds)
        with self._lock:
            due = [timer for moment, timer in self._set if moment <= self._clock.monotonic()]
            self._set = [(moment, timer) for moment, timer in self._set if timer not in due]
        for timer in due:
            if timer.callback is not None:
                timer.callback()


class ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None
