"""The dispatcher of actors that a program starts without a system.

Owns one pool for the process, made at first use. Threads are started as actors need them, because such actors may wait
for each other.
"""

from __future__ import annotations

import queue
import threading

from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.mailbox import Mailbox

__all__ = ["ElasticDispatcher", "standalone_dispatcher"]

IDLE_S = 5.0


class ElasticDispatcher:
    """Runs each ready mailbox on an idle thread, or on a new one: an actor that blocks stops no other."""

    driver = None

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready: queue.SimpleQueue[Mailbox] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0
        self.dead_letter = log_dead_letter

    def ready(self, mailbox: Mailbox) -> None:
        with self._lock:
            self._ready.put(mailbox)
            if self._idle:
                self._idle -= 1
                return
            self._started += 1
            name = f"{self._name}-{self._started}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                mailbox = self._ready.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    # `_idle` was lowered for every mailbox that counts on an idle thread: leave only if this one is free.
                    if self._idle:
                        self._idle -= 1
                        return
                continue
            mailbox.run()
            with self._lock:
                self._idle += 1


_lock = threading.Lock()
_standalone: ElasticDispatcher | None = None


def standalone_dispatcher() -> ElasticDispatcher:
    """The process's dispatcher for actors without a system."""
    global _standalone
    with _lock:
        if _standalone is None:
            _standalone = ElasticDispatcher("seqtor-standalone")
        return _standalone
