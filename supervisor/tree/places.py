"""`Place`: where the actors of a supervision tree run, and what tells them the time.

Owns the choice of a dispatcher for a child. In a simulated system there is one dispatcher for all.
"""

from __future__ import annotations

import random as random_numbers
import threading
from collections.abc import Callable
from typing import Any

from loguru import logger

from seqtor.actors.clock import Clock, SystemClock
from seqtor.actors.dispatchers.contract import Dispatcher, Dispatchers, Timers
from seqtor.actors.dispatchers.dedicated import Dedicated
from seqtor.actors.dispatchers.standalone import standalone_dispatcher
from seqtor.actors.dispatchers.timers import ThreadTimers
from seqtor.tree.reports import Report, ReportKind
from seqtor.tree.specs import ChildSpec

__all__ = ["Place"]

WARNINGS = (ReportKind.CRASHED, ReportKind.FAILED_TO_START, ReportKind.ABANDONED)


class Place:
    """The surroundings of one tree; `on_report` is called on a supervisor's thread, must be quick and may not raise."""

    def __init__(
        self, dispatchers: Dispatchers | None, name: str, on_report: Callable[[Report], None] | None = None
    ) -> None:
        self._dispatchers = dispatchers
        self._name = name
        self._on_report = on_report
        simulated = dispatchers is not None and dispatchers.driver is not None
        self._threads: Dispatcher = dispatchers.core if dispatchers and simulated else standalone_dispatcher()
        self.driver = dispatchers.driver if dispatchers is not None else None
        self.dispatcher = self._threads
        self.clock: Clock = SystemClock() if dispatchers is None else dispatchers.clock
        self.timers: Timers = _timers() if dispatchers is None else dispatchers.timers
        self.random = random_numbers.Random(None if dispatchers is None else dispatchers.entropy())

    def dispatcher_of(self, spec: ChildSpec) -> Dispatcher:
        """A dispatcher for the child's next instance; a dedicated one is new, and ended by who got it."""
        if spec.dispatcher != "dedicated":
            return self._threads
        if self.driver is not None:
            return self._threads
        return Dedicated(f"{self._name}-{spec.id}")

    def report(self, report: Report) -> None:
        """Log it, and pass it on."""
        log = logger.bind(actor=report.supervisor)
        if report.kind is ReportKind.GAVE_UP:
            log.error("{}", report)
        elif report.kind in WARNINGS:
            log.warning("{}", report)
        else:
            log.debug("{}", report)
        if self._on_report is not None:
            self._on_report(report)


_lock = threading.Lock()
_standalone_timers: list[Any] = []


def _timers() -> Timers:
    """The timers of trees without a system: one thread for the process, started at first use."""
    with _lock:
        if not _standalone_timers:
            timers = ThreadTimers(SystemClock(), "seqtor-standalone")
            timers.start()
            _standalone_timers.append(timers)
        return _standalone_timers[0]  # type: ignore[no-any-return]
