"""The future that an `ask` returns: pykka's, but awaitable without blocking the event loop and usable in simulation.

A simulated system has one thread: waiting there means running the other actors, so the future of such an actor carries
the `driver` that does it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any

from pykka import ThreadingFuture, Timeout

__all__ = ["Driver", "ReplyFuture"]


class Driver:
    """What runs other actors while its only thread waits."""

    def run_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Run actors until `done()`; returns False if the (virtual) time-out came first."""
        raise NotImplementedError


class ReplyFuture(ThreadingFuture[Any]):
    """pykka's future with callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.driver: Driver | None = None
        self._callbacks: list[Callable[[], None]] = []

    def get(self, *, timeout: float | None = None) -> Any:
        """Wait for the value. Raises pykka.Timeout after `timeout` seconds, or the exception that was set."""
        driver = self.driver
        if driver is not None and not self.is_set() and not driver.run_until(self.is_set, timeout):
            raise Timeout(f"{timeout} seconds")
        return super().get(timeout=timeout)

    def set(self, value: Any = None) -> None:
        super().set(value)
        self._notify()

    def set_exception(self, exc_info: Any = None) -> None:
        super().set_exception(exc_info)
        self._notify()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait without blocking the event loop."""
        if self._get_hook is not None:
            return (yield from asyncio.to_thread(self.get).__await__())
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()

        def arrive() -> None:
            if not arrived.done():
                arrived.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # The loop was closed, so nobody waits any more.
                loop.call_soon_threadsafe(arrive)

        with self._condition:
            waiting = self._result is None
            if waiting:
                self._callbacks.append(wake)
        if waiting:
            yield from arrived.__await__()
        return super().get(timeout=0)

    __iter__ = __await__

    def is_set(self) -> bool:
        return self._result is not None or self._get_hook is not None

    def _notify(self) -> None:
        with self._condition:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
