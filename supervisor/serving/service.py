"""A system run as a service: started, kept until it is told to stop or breaks down, stopped in order.

Owns the signals of the process meanwhile. Promises: the first SIGTERM or SIGINT drains and stops in order; a second one
ends the process at once, which costs nothing that the journal holds; a system that breaks down by itself is noticed
without polling; nothing hangs for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any, NoReturn

from loguru import logger

from seqtor.endings import Ending, Life
from seqtor.serving.health import HealthServer
from seqtor.serving.notify import Notifier, Watchdog
from seqtor.serving.probe import Probe
from seqtor.system import Supervisor

__all__ = ["Service", "leave_within"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BREAK_DOWN_S = 30.0  # How long a system that has broken down may take to let go of everything.


class StopAsked(BaseException):
    """A signal came before the system had started; not an Exception, so that no program's code keeps it."""


class Service:
    """Runs one system in the main thread of this process.

    `at_once` and `broken_down` are the exit codes of the process where it does not end in order. `started` is called
    when the system has started.
    """

    def __init__(
        self,
        system: Supervisor,
        *,
        grace_s: float,
        at_once: int,
        broken_down: int,
        health: tuple[str, int] | None = None,
        started: Callable[[], None] = lambda: None,
        notifier: Notifier | None = None,
    ) -> None:
        self._system = system
        self._grace_s = grace_s
        self._at_once = at_once
        self._broken_down = broken_down
        self._health = health
        self._started = started
        self._notifier = Notifier() if notifier is None else notifier
        self._asked: str | None = None  # The signal that came first.
        self._starting = False
        self._events: SimpleQueue[Ending | None] = SimpleQueue()
        self._log = logger.bind(actor="system")

    def run(self) -> Ending:
        """Start the system and keep it until it has ended. Raises what the start raises."""
        with self._signals(), ExitStack() as stack:
            if self._health is not None:
                host, port = self._health
                server = stack.enter_context(HealthServer(self._system, port, host))
                self._log.info("{}: health at {}/health/live and /health/ready", self._system.name, server.url)
            self._notifier.tell(f"STATUS={self._system.name} is starting")
            if not self._start():
                return Ending(Life.STOPPED, f"{self._asked} came during the start")
            stack.enter_context(Watchdog(self._notifier, Probe(self._system)))
            self._notifier.tell("READY=1", f"STATUS={self._system.name} is running")
            self._started()
            threading.Thread(target=self._await_end, name="seqtor-end", daemon=True).start()
            self._events.get()
            return self._stop()

    def _start(self) -> bool:
        """Start the system; False if a signal came meanwhile, and everything is stopped again."""
        try:
            self._starting = True
            if self._asked is not None:
                return False
            self._system.start()
        except StopAsked:
            return False
        finally:
            self._starting = False
        return True

    def _await_end(self) -> None:
        self._events.put(self._system.wait())

    def _stop(self) -> Ending:
        """The system has broken down, or a signal came."""
        name = self._system.name
        if self._system.life is Life.STOPPED:  # By the program itself.
            self._notifier.tell("STOPPING=1", f"STATUS={name} has stopped")
        elif self._system.life is Life.BROKEN_DOWN:
            self._notifier.tell("STOPPING=1", f"STATUS={name} has broken down: {self._system.wait().reason}")
            leave_within(BREAK_DOWN_S, self._broken_down)
            self._system.stop(0)
        else:
            self._log.info("{}: {} came: no more work is taken, what was accepted has {:g} s to end", name, self._asked,
                           self._grace_s)  # fmt: skip
            self._notifier.tell("STOPPING=1", f"STATUS={name} is stopping, within {self._grace_s:g} s")
            self._system.stop(self._grace_s)
        return self._system.wait()

    # Signals -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before: dict[signal.Signals, Any] = {each: signal.signal(each, self._on_signal) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _on_signal(self, number: int, _: Any) -> None:
        name = signal.Signals(number).name
        if self._asked is not None:
            self._end_at_once(name)
        self._asked = name
        if self._starting:
            raise StopAsked
        self._events.put(None)

    def _end_at_once(self, name: str) -> NoReturn:
        # Not through sys.stderr, in whose middle the signal may have come.
        os.write(2, f"seqtor: {name} came again: stopped at once; runs that had not ended are not written\n".encode())
        os._exit(self._at_once)


def leave_within(timeout_s: float, code: int) -> None:
    """End the process with the code after so many seconds, whatever then still keeps it."""

    def leave() -> None:
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
        os.write(2, f"seqtor: the process did not end within {timeout_s:g} s, kept by {', '.join(left)}\n".encode())
        sys.stdout.flush()
        os._exit(code)

    timer = threading.Timer(timeout_s, leave)
    timer.daemon = True
    timer.start()
