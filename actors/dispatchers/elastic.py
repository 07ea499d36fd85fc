"""As many threads as are needed at a time.

Owns the threads and what is ready for them. Promises: what is ready begins at once, on an idle thread or on a new one, so an
actor that blocks stops no other.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from seqtor.actors.clock import Clock, SystemClock
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.mailbox import Mailbox

__all__ = ["ElasticDispatcher"]

IDLE_S = 5.0


class ElasticDispatcher:
    """Runs each ready mailbox on an idle thread, or on a new one; a thread that was idle for `idle_s` ends, None: stays."""

    driver = None

    def __init__(self, name: str, idle_s: float | None = IDLE_S, clock: Clock | None = None) -> None:
        self._name = name
        self._idle_s = idle_s
        self._clock = clock or SystemClock()
        self._ready: queue.SimpleQueue[Mailbox | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0
        self._threads: dict[threading.Thread, None] = {}
        self.dead_letter = log_dead_letter

    def ready(self, mailbox: Mailbox) -> None:
        with self._lock:
            self._ready.put(mailbox)
            if self._idle:
                self._idle -= 1
                return
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
            self._started += 1
            self._threads[thread] = None
        thread.start()

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        for mailbox in mailboxes:
            self.ready(mailbox)

    def stop(self, timeout_s: float) -> list[str]:
        """Let the threads end; returns the names of those that are stuck in a handler."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._ready.put(None)
        give_up_at = self._clock.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, give_up_at - self._clock.monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]

    def _work(self) -> None:
        while True:
            try:
                mailbox = self._ready.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    # `_idle` was lowered for every mailbox that counts on an idle thread: leave only if this one is free.
                    if self._idle:
                        self._idle -= 1
                        del self._threads[threading.current_thread()]
                        return
                continue
            if mailbox is None:
                return
            self._run(mailbox)
            with self._lock:
                self._idle += 1

    def _run(self, mailbox: Mailbox) -> None:
        mailbox.run()
