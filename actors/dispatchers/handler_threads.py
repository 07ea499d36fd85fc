"""The threads of sync handlers in a simulation, which pass one baton.

Owns the threads and who of them has the baton. Promises: exactly one thread runs at any time, the conductor (whose thread
drives the simulation) or one that executes a mailbox; a thread that gives way goes on where it was when the conductor says
so; which thread executes what follows from the order of what is begun; none is left at the end.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from seqtor.actors.batons import EventBaton, LockBaton, give_back, take
from seqtor.actors.mailbox import Mailbox

__all__ = ["HandlerStands", "HandlerThread", "HandlerThreads", "LetGo"]

REAL_WAIT_S = (
    60.0  # Far longer than an operation takes: a handler that does not come to its next one waits for a thread.
)
END_S = 5.0


class LetGo(BaseException):
    """Leaves a handler that waits when its simulation ends; not an Exception, so that `except Exception` lets it through."""


class HandlerStands(Exception):
    """A handler waits, in real time, for what another thread would have to do."""


class HandlerThread(threading.Thread):
    """A thread that executes one mailbox after another. `awaits` says whether what it waits for has come; None: it does
    not wait, and may go on at any time. `stay` is its pool's, whose `finish` is called when the mailbox has been executed.
    """

    def __init__(self, back: EventBaton | LockBaton, number: int) -> None:
        super().__init__(name=f"simulated-handler-{number}", daemon=True)
        self._back = back
        self.baton = take()
        self.mailbox: Mailbox | None = None
        self.limit = 1
        self.awaits: Callable[[], bool] | None = None
        self.error: BaseException | None = None
        self.stay: Any = None
        self.finish: Callable[[HandlerThread], object] | None = None

    def run(self) -> None:
        """Execute; it holds nothing of its simulation while it is idle."""
        while True:
            self.baton.wait()
            if self.mailbox is None:
                return
            try:
                self.mailbox.run(self.limit)
            except BaseException as error:
                self.error = error
            self.mailbox = None
            self._back.hand_over()


class HandlerThreads:
    """Those of one simulation. `in_flight` are the mailboxes that are begun and not finished, with their threads;
    `patience_s` is how long, of real time, one may take to its next operation.
    """

    def __init__(self) -> None:
        self._back: EventBaton | LockBaton | None = None  # The conductor's, while there are threads.
        self._idle: list[HandlerThread] = []
        self._running: HandlerThread | None = None
        self._started = 0
        self.in_flight: dict[Mailbox, HandlerThread] = {}
        self.ending = False
        self.patience_s = REAL_WAIT_S
        # A simulation that is dropped without an end leaves no idle threads behind.
        weakref.finalize(self, _dismiss, self._idle).atexit = False

    def here(self) -> HandlerThread | None:
        """The calling thread, if it is one of these and has the baton."""
        running = self._running
        return running if running is not None and running.ident == threading.get_ident() else None

    def begin(self, mailbox: Mailbox, limit: int, finish: Callable[[HandlerThread], object]) -> None:
        """Execute a mailbox; returns when it has finished or given way. Raises what it raises. Only the conductor."""
        thread = self._idle.pop() if self._idle else self._start()
        thread.mailbox, thread.limit, thread.finish = mailbox, limit, finish
        self.in_flight[mailbox] = thread
        self.resume(thread)

    def resume(self, thread: HandlerThread) -> None:
        """Let one go on that has given way; returns as `begin`. Only the conductor."""
        if not self._hand_over(thread, self.patience_s):
            raise HandlerStands(
                f"a handler has not come to its next operation of tx for {self.patience_s:g} s: {_shown(thread.mailbox)}. "
                "It waits for another thread, or for a lock that a handler holds which stands at an operation: in a "
                "simulation one thread runs at a time. Do not hold a lock over operations of tx (in a test of your own "
                "seqtor.testing.run(system, interleaving=0) plays each handler in one step)"
            )

    def _hand_over(self, thread: HandlerThread, patience_s: float) -> bool:
        mailbox = thread.mailbox
        self._running = thread
        thread.baton.hand_over()
        if not self._conductors.wait(patience_s):
            return False
        self._running = None
        if thread.mailbox is None:
            del self.in_flight[mailbox]  # type: ignore[arg-type]
            self._idle.append(thread)
            finish, thread.finish = thread.finish, None
            finish(thread)  # type: ignore[misc]
            error, thread.error = thread.error, None
            if error is not None:
                raise error
        return True

    def give_way(
        self, thread: HandlerThread, awaits: Callable[[], bool] | None = None, *, leaves: bool = False
    ) -> None:
        """Stand still until the conductor resumes this thread, not before `awaits()`. Only the thread itself.

        Raises LetGo if the simulation ends meanwhile, unless it `leaves` its handler anyway.
        """
        if not self.ending:
            thread.awaits = awaits
            self._conductors.hand_over()
            thread.baton.wait()
            thread.awaits = None
        if self.ending and not leaves:
            raise LetGo

    def end(self) -> list[str]:
        """Let all go, and end the threads; returns the names of those that do not leave their handlers."""
        self.ending = True
        left = [thread for thread in list(self.in_flight.values()) if not self._hand_over(thread, END_S)]
        _dismiss(self._idle)
        for thread in self._idle:
            thread.join(END_S)
            give_back(thread.baton)
        self._idle.clear()
        self.in_flight = {}
        for thread in left:
            thread.baton.hand_over()  # So that it ends when it does leave.
        if self._back is not None and not left:  # Else it is still theirs.
            give_back(self._back)
        self._back = None
        self._running = None
        self.ending = False
        return [thread.name for thread in left]

    @property
    def _conductors(self) -> EventBaton | LockBaton:
        if self._back is None:
            self._back = take()
        return self._back

    def _start(self) -> HandlerThread:
        self._started += 1
        made = HandlerThread(self._conductors, self._started)
        made.start()
        return made


def _dismiss(idle: list[HandlerThread]) -> None:
    for thread in idle:
        thread.baton.hand_over()


def _shown(mailbox: Mailbox | None) -> str:
    submission = getattr(getattr(mailbox, "_actor", None), "submission", None)
    return "an actor of the pool" if submission is None else repr(submission.trigger)
