"""Whether a system really lives: its core answers a question.

Owns the asking. Promises: whoever asks waits no longer than it says, however dead the system is; there is one question at
a time, so that a flood of askers costs the core no more than one of them.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from seqtor.messages.runs import Stats
from seqtor.system import Supervisor

__all__ = ["Probe"]


class Probe:
    """Asks one running system for its figures."""

    def __init__(self, system: Supervisor) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._asked: Future[Stats] | None = None

    def ask(self, timeout_s: float) -> Stats:
        """The figures, answered by the core. Raises TimeoutError, and what `stats()` raises."""
        try:
            return self._begin().result(timeout_s)
        except TimeoutError:
            raise TimeoutError(_silent(timeout_s)) from None

    async def ask_async(self, timeout_s: float) -> Stats:
        """The same, without blocking the event loop."""
        answer = asyncio.wrap_future(self._begin())
        try:
            return await asyncio.wait_for(asyncio.shield(answer), timeout_s)
        except TimeoutError:
            answer.add_done_callback(lambda late: late.cancelled() or late.exception())  # Nobody waits for it any more.
            raise TimeoutError(_silent(timeout_s)) from None

    def _begin(self) -> Future[Stats]:
        """The question that is on its way, or a new one."""
        with self._lock:
            if self._asked is None:
                asked: Future[Stats] = Future()
                self._asked = asked
                asked.set_running_or_notify_cancel()
                # A thread for each: of a system that hangs, one hangs with it, and nothing waits for that one at the exit.
                threading.Thread(target=self._answer, args=(asked,), name="seqtor-probe", daemon=True).start()
            return self._asked

    def _answer(self, asked: Future[Stats]) -> None:
        try:
            stats = self._system.stats()
        except BaseException as error:
            self._forget()
            asked.set_exception(error)
        else:
            self._forget()
            asked.set_result(stats)

    def _forget(self) -> None:
        with self._lock:
            self._asked = None


def _silent(timeout_s: float) -> str:
    return f"the core has not answered within {timeout_s:g} s"
