"""A dispatcher with a thread of its own, for actors that block: outside media, the journal writer, effects.

Owns one thread that ends when it is stopped, or with the process.
"""

from __future__ import annotations

import queue
import threading

from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.mailbox import Mailbox

__all__ = ["Dedicated"]


class Dedicated:
    """Runs its mailboxes one after another on its own thread."""

    driver = None

    def __init__(self, name: str) -> None:
        self._ready: queue.SimpleQueue[Mailbox | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.dead_letter = log_dead_letter
        self._thread.start()

    def ready(self, mailbox: Mailbox) -> None:
        self._ready.put(mailbox)

    def end(self) -> None:
        """Have the thread end after what is ready now; does not wait for it. Twice: harmless."""
        self._ready.put(None)

    def stop(self, timeout_s: float) -> list[str]:
        """End the thread and wait for it; returns its name if it did not end in time."""
        self.end()
        self._thread.join(timeout_s)
        return [self._thread.name] if self._thread.is_alive() else []

    def _work(self) -> None:
        while (mailbox := self._ready.get()) is not None:
            mailbox.run()
