"""What systemd is told of a service with `Type=notify`: ready, alive, stopping.

Owns the protocol of sd_notify(3). Promises: without systemd nothing happens; a socket that is gone or full never fails the
program; `WATCHDOG=1` is sent only when the core has just answered, so that systemd restarts what hangs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from loguru import logger

from seqtor.serving.probe import Probe

__all__ = ["Notifier", "Watchdog"]

SEND_S = 1.0  # How long a message waits for room at the other end.


class Notifier:
    """The service's end of systemd's socket, which the environment names."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ)

    def tell(self, *lines: str) -> bool:
        """Send assignments such as `READY=1` as one message; returns whether they were taken."""
        if self._address is None:
            return False
        message = "\n".join(line.replace("\n", " ") for line in lines).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
                end.settimeout(SEND_S)
                end.sendto(message, self._address)
        except OSError as error:
            logger.bind(actor="systemd").debug("systemd was not told {}: {}", lines[0], error)
            return False
        return True


class Watchdog:
    """Tells systemd twice per `WatchdogSec=` that the system lives, as long as it does."""

    def __init__(self, notifier: Notifier, probe: Probe) -> None:
        self._notifier = notifier
        self._probe = probe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="seqtor-watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._notifier.watchdog_s is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._notifier.watchdog_s is not None:
            self._thread.join(SEND_S)  # It may just be waiting for a core that hangs; then the process does not.

    def beat(self, timeout_s: float) -> bool:
        """Ask the core, and tell systemd if it has answered; returns whether it has."""
        try:
            stats = self._probe.ask(timeout_s)
        except Exception as silent:  # A system that has broken down, or hangs: what that means is systemd's to decide.
            logger.bind(actor="systemd").warning("no WATCHDOG=1 for systemd: {}", silent)
            return False
        status = f"STATUS=seq {stats.committed_through}, {stats.queued} queued, {stats.in_flight} in flight"
        self._notifier.tell("WATCHDOG=1", status)
        return True

    def _work(self) -> None:
        interval_s = (self._notifier.watchdog_s or 0.0) / 2
        while not self._ended.wait(interval_s):
            self.beat(interval_s)


def _address(name: str) -> str | None:
    """The address of the socket; a leading @ stands for the zero byte of an abstract one. None for what we cannot use."""
    if not hasattr(socket, "AF_UNIX") or name[:1] not in ("/", "@"):
        return None
    return f"\0{name[1:]}" if name.startswith("@") else name


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often systemd wants to hear from this process; None if it does not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        if microseconds > 0:
            return microseconds / 1e6
    return None
