"""What a handler tells of its progress, and those who listen to it.

Owns the way from `tx.progress(value)` to `async for value in submission.progress()`. Best effort: nothing of it is kept or
replayed, an attempt that is executed again tells again, and a listener that is slow loses the oldest values. Promises: a
handler never waits for a listener; a listener ends when the run does; whoever comes late gets the newest value first.
Thread-safe: listeners may be on any event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqtor.actors.submissions import Submission

__all__ = ["Listener", "Progress"]

KEPT_MAX = 1000  # Values that a listener may be behind.
LOCK = threading.Lock()
NOTHING = object()


class Progress:
    """The newest value of one submission, and its listeners."""

    __slots__ = ("_listeners", "_newest")

    def __init__(self) -> None:
        self._newest: Any = NOTHING
        self._listeners: list[Listener] = []

    def tell(self, value: Any) -> None:
        """Hand a value to all who listen."""
        with LOCK:
            self._newest = value
            listeners = tuple(self._listeners)
            for listener in listeners:
                listener.values.append(value)
        for listener in listeners:
            listener.wake()

    def add(self, listener: Listener) -> None:
        """Let a listener have the newest value, and those that follow."""
        with LOCK:
            if self._newest is not NOTHING:
                listener.values.append(self._newest)
            self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """It listens no more."""
        with LOCK, contextlib.suppress(ValueError):
            self._listeners.remove(listener)


class Listener:
    """One `async for` over the progress of a submission."""

    def __init__(self, submission: Submission[Any], progress: Progress, driver: Any) -> None:
        self.values: deque[Any] = deque(maxlen=KEPT_MAX)
        self._submission = submission
        self._progress = progress
        self._driver = driver
        self._wake: Callable[[], None] | None = None
        progress.add(self)

    def wake(self) -> None:
        """Something has come, or the run has ended; from any thread."""
        wake = self._wake
        if wake is not None:
            wake()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Any:
        while not self.values and not self._submission.done:
            await self._next()
        if not self.values:
            self._progress.remove(self)
            raise StopAsyncIteration
        return self.values.popleft()

    async def aclose(self) -> None:
        """Listen no more, before the end."""
        self._progress.remove(self)

    async def _next(self) -> None:
        """Wait until a value has come, or the run has ended."""
        if self._driver is not None:  # A simulated system has no thread of its own: drive it from here.
            self._driver.run_until(lambda: bool(self.values) or self._submission.done, None)
            return
        loop = asyncio.get_running_loop()
        came = loop.create_future()

        def arrive() -> None:
            if not came.done():
                came.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # The loop was closed, so nobody listens any more.
                loop.call_soon_threadsafe(arrive)

        first, self._wake = self._wake is None, wake
        if first:
            self._submission.when_done(self.wake)
        if (
            not self.values and not self._submission.done
        ):  # Looked at once more: it may have come before `_wake` was there.
            await came
