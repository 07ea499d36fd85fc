"""The event loop dispatcher: run actors with async handlers, tens of thousands at a time.

Owns one asyncio loop on one thread. Mailboxes run between callbacks; handlers are its asyncio tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from seqtor.actors.dispatchers.contract import Expirable, Timers
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.mailbox import Mailbox

__all__ = ["Loop"]


class Loop:
    """Mailboxes and coroutines on one asyncio loop."""

    driver = None

    def __init__(self, name: str, timers: Timers) -> None:
        self._timers = timers
        self._ready: deque[Mailbox] = deque()
        self._pending = threading.Lock()  # Held while a drain is scheduled: one wake-up serves many mailboxes.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name=f"{name}-loop", daemon=True)
        self.dead_letter = log_dead_letter

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> list[str]:
        """Cancel what still runs, end the thread, close the loop."""
        if not self._thread.is_alive():
            self._loop.close()
            return []
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)
        return [self._thread.name] if self._thread.is_alive() else []

    def ready(self, mailbox: Mailbox) -> None:
        self._ready.append(mailbox)
        if self._pending.acquire(False):
            self._loop.call_soon_threadsafe(self._drain)

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        self._ready.extend(mailboxes)
        if self._pending.acquire(False):
            self._loop.call_soon_threadsafe(self._drain)

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        raise NotImplementedError("sync handlers run on the pool dispatcher")

    def adapt(self, *, conflicted: bool) -> None:
        """Coroutines run one step at a time anyway."""

    def leave_handler(self) -> bool:
        return True

    def start_coroutine(
        self, coroutine: Coroutine[Any, Any, None], attempt: Expirable, deadline_s: float
    ) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        # Not a timer of the loop: a coroutine that blocks the loop would hold up its own deadline.
        watch = self._timers.call_after(deadline_s, attempt.expire)
        task.add_done_callback(lambda _: watch.cancel())
        return task

    def call(self, callback: Any) -> None:
        """Call back on the loop's thread; not at all if the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _drain(self) -> None:
        self._pending.release()  # Before looking: what comes after this schedules a drain of its own.
        for _ in range(len(self._ready)):  # No more, so that actors which never rest leave time for the coroutines.
            self._ready.popleft().run()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
