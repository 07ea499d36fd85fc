"""A system run as a service: started, kept until it is told to stop or breaks down, stopped in order.

Owns the signals of the process meanwhile. Promises: the first SIGTERM or SIGINT drains and stops in order; a second one
ends the process at once, and so does one during the start: that costs nothing which the journal holds; a system that
breaks down by itself is noticed without polling; nothing hangs for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from loguru import logger

from seqtor.endings import Ending
from seqtor.serving.health import HealthServer
from seqtor.serving.notify import Notifier, Watchdog
from seqtor.serving.probe import Probe
from seqtor.system import Supervisor

__all__ = ["Service", "leave_within"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BREAK_DOWN_S = 30.0  # How long a system that has broken down may take to let go of everything.
ENDED = 0  # In the pipe from which the main thread reads, beside the numbers of signals.


class Service:
    """Runs one system; `run` is called in the main thread of the process, which does nothing but wait for signals.

    It reads them from a pipe: a thread that waits for a lock is not sure to hear of one. `at_once` and `broken_down` are
    the exit codes of the process where it does not end in order. `started` is called when the system has started.
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
        self._has_started = threading.Event()
        self._stopping: threading.Thread | None = None  # Since the first signal.
        self._outcome: Future[Ending] = Future()
        self._log = logger.bind(actor="system")

    def run(self) -> Ending:
        """Start the system and keep it until it has ended. Raises what the start raises."""
        with _signals_as_bytes() as (read_end, write_end):
            threading.Thread(target=self._live, args=(write_end,), name="seqtor-service", daemon=True).start()
            while True:
                for number in os.read(read_end, 64):
                    if number == ENDED:
                        return self._outcome.result()
                    if number in SIGNALS:  # The program may handle others.
                        self._on_signal(signal.Signals(number).name)

    # On a thread of its own ------------------------------------------------------------------------------------------

    def _live(self, write_end: int) -> None:
        try:
            self._outcome.set_result(self._start_and_wait())
        except BaseException as error:
            self._outcome.set_exception(error)
        os.write(write_end, bytes([ENDED]))

    def _start_and_wait(self) -> Ending:
        name = self._system.name
        with ExitStack() as stack:
            if self._health is not None:
                host, port = self._health
                server = stack.enter_context(HealthServer(self._system, port, host))
                self._log.info("{}: health at {}/health/live and /health/ready", name, server.url)
            self._notifier.tell(f"STATUS={name} is starting")
            self._system.start()
            self._started()  # Before a signal stops it: it may ask the system.
            self._has_started.set()
            stack.enter_context(Watchdog(self._notifier, Probe(self._system)))
            self._notifier.tell("READY=1", f"STATUS={name} is running")
            ending = self._system.wait()
            if ending.broke_down:
                self._notifier.tell("STOPPING=1", f"STATUS={name} has broken down: {ending.reason}")
                leave_within(BREAK_DOWN_S, self._broken_down)
                self._system.stop(0)
            if self._stopping is not None:
                self._stopping.join()
            return ending

    def _stop(self, asked: str) -> None:
        name = self._system.name
        self._log.info(
            "{}: {} came: no more work is taken, what was accepted has {:g} s to end", name, asked, self._grace_s
        )
        self._notifier.tell("STOPPING=1", f"STATUS={name} is stopping, within {self._grace_s:g} s")
        self._system.stop(self._grace_s)

    # Signals -----------------------------------------------------------------------------------------------------------

    def _on_signal(self, name: str) -> None:
        if not self._has_started.is_set():  # Nothing was taken yet, and what the journal holds is as it was.
            _leave(f"{name} came during the start, which is given up", 0)
        if self._stopping is not None:
            _leave(
                f"{name} came again: stopped at once; what had not ended runs at the next start, if there is a journal",
                self._at_once,
            )
        self._stopping = threading.Thread(target=self._stop, args=(name,), name="seqtor-stop", daemon=True)
        self._stopping.start()


@contextmanager
def _signals_as_bytes() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe into which each signal writes its number."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup = signal.set_wakeup_fd(write_end)
    before: dict[signal.Signals, Any] = {each: signal.signal(each, lambda *_: None) for each in SIGNALS}
    try:
        yield read_end, write_end
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(read_end)
        os.close(write_end)


def _leave(text: str, code: int) -> NoReturn:
    """End the process, whatever its threads are at."""
    os.write(2, f"seqtor: {text}\n".encode())
    os._exit(code)


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
