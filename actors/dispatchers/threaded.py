"""The dispatchers of a real system: threads, an event loop, the machine's clock."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from seqtor.actors.clock import SystemClock
from seqtor.actors.dispatchers.dedicated import Dedicated
from seqtor.actors.dispatchers.loop import Loop
from seqtor.actors.dispatchers.outside import Outside
from seqtor.actors.dispatchers.pool import Core, Pool
from seqtor.actors.dispatchers.timers import ThreadTimers

__all__ = ["ThreadedDispatchers"]


class ThreadedDispatchers:
    """`threads` execution slots for sync handlers, one loop for async ones, a thread for each outside of the
    order, one per dedicated actor."""

    driver = None

    def __init__(self, threads: int, name: str = "seqtor") -> None:
        self.clock = SystemClock()
        self.timers = ThreadTimers(self.clock, name)
        self.threads = threads
        self.core = Core()
        self.pool = Pool(self.core, threads, self.clock, self.timers, name)
        self.outside = Outside(self.clock, self.timers, name)
        self.loop = Loop(name, self.timers)
        self._name = name
        self._dedicated: list[Dedicated] = []

    def dedicated(self, name: str) -> Dedicated:
        dispatcher = Dedicated(f"{self._name}-{name}")
        self._dedicated.append(dispatcher)
        return dispatcher

    def entropy(self) -> int:
        return secrets.randbits(64)

    def start(self, head_seq: Callable[[], int]) -> None:
        self.timers.start()
        self.pool.start(head_seq)
        self.loop.start()

    def stop(self, timeout_s: float) -> list[str]:
        stuck = self.loop.stop(timeout_s)
        for dispatcher in self._dedicated:
            dispatcher.end()
        give_up_at = self.clock.monotonic() + timeout_s  # For all of them: there may be many that hang.
        for dispatcher in self._dedicated:
            stuck += dispatcher.stop(max(0.0, give_up_at - self.clock.monotonic()))
        stuck += self.outside.stop(timeout_s)
        stuck += self.pool.stop(timeout_s)
        stuck += self.timers.stop(timeout_s)
        return stuck
