"""The threads of sync handlers that execute outside of the order (`sequence="completion"`).

Owns the watch over them, on one thread for each that executes; how many that are is the sequencer's to bound. Apart from
the pool's, so that work which takes minutes takes no slot from work that takes microseconds. Promises: a deadline is watched
by a timer; a handler past it, or past its abort, keeps its thread until it returns, and is counted and reported as the
pool's are.
"""

from __future__ import annotations

import threading
from typing import Any

from loguru import logger

from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Cancellable, Expirable, Timers
from seqtor.actors.dispatchers.elastic import ElasticDispatcher
from seqtor.actors.mailbox import Mailbox

__all__ = ["Outside"]


class Stay:
    """One attempt on a thread, and the watch over its deadline."""

    __slots__ = ("attempt", "stuck_since", "watch")

    def __init__(self, attempt: Expirable) -> None:
        self.attempt = attempt
        self.watch: Cancellable | None = None
        self.stuck_since: float | None = None


class Outside(ElasticDispatcher):
    """An elastic dispatcher that watches deadlines."""

    def __init__(self, clock: Clock, timers: Timers, name: str) -> None:
        super().__init__(f"{name}-outside", None, clock)
        self._timers = timers
        self._stays: dict[int, Stay] = {}  # By the thread's identity.
        self.replaced = 0
        self.stuck = 0

    def _run(self, mailbox: Mailbox) -> None:
        mailbox.run()
        self._end_stay()  # Of an actor that crashed in its handler; nobody else ends it.

    # Attempts and their deadlines ------------------------------------------------------------------------------------

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        stay = self._stays[threading.get_ident()] = Stay(attempt)
        stay.watch = self._timers.call_after(deadline_s, lambda: self._expire(stay))

    def leave_handler(self) -> bool:
        return self._end_stay()

    def _end_stay(self) -> bool:
        """The thread has left its handler. False if it had been taken for stuck."""
        with self._lock:
            stay = self._stays.pop(threading.get_ident(), None)
            if stay is None:
                return True
            if stay.watch is not None:
                stay.watch.cancel()
            if stay.stuck_since is None:
                return True
            self.stuck -= 1
        logger.bind(actor="outside").info(
            "the thread that was stuck in {} has come back after {:.1f} s: {} are stuck now",
            stay.attempt.handler_name, self._clock.monotonic() - stay.stuck_since, self.stuck,
        )  # fmt: skip
        return False

    def _expire(self, stay: Stay) -> None:
        if self._take_for_stuck(stay):
            stay.attempt.expire()

    def abandon_attempt(self, attempt: Expirable) -> None:
        """The run was aborted or goes on elsewhere: abandon what executes, and count on its thread no more."""
        attempt.abandon()
        with self._lock:
            stays = [stay for stay in self._stays.values() if stay.attempt is attempt]
        for stay in stays:
            self._take_for_stuck(stay)

    def _take_for_stuck(self, stay: Stay) -> bool:
        with self._lock:
            if stay.stuck_since is not None or stay not in self._stays.values():
                return False
            stay.stuck_since = self._clock.monotonic()
            self.stuck += 1
            self.replaced += 1
        logger.bind(actor="outside").warning(
            "a thread is stuck in {}, past its deadline or its abort: {} are stuck now",
            stay.attempt.handler_name, self.stuck,
        )  # fmt: skip
        return True

    def adapt(self, *, conflicted: bool) -> None:
        """Each handler has a thread anyway."""

    def start_coroutine(self, coroutine: Any, attempt: Expirable, deadline_s: float) -> Cancellable:
        raise NotImplementedError("async handlers run on the loop dispatcher")
