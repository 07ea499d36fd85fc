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
from seqtor.actors.futures import Driver
from seqtor.tree.reports import Report, ReportKind
from seqtor.tree.specs import ChildSpec

__all__ = ["Place"]

WARNINGS = (ReportKind.CRASHED, ReportKind.FAILED_TO_START, ReportKind.ABANDONED)


class Place:
    """The surroundings of one tree, once it is opened. `on_report` is called on the supervisors' threads."""

    dispatcher: Dispatcher
    clock: Clock
    timers: Timers
    random: random_numbers.Random
    driver: Driver | None = None

    def __init__(self, name: str, on_report: Callable[[Report], None]) -> None:
        self._name = name
        self._on_report = on_report

    def open(self, dispatchers: Dispatchers | None) -> None:
        """Say where actors run: beside those of a system, in a simulation, or (None) by themselves."""
        simulated = dispatchers is not None and dispatchers.driver is not None
        self.dispatcher = dispatchers.core if dispatchers and simulated else standalone_dispatcher()
        self.driver = dispatchers.driver if dispatchers is not None else None
        self.clock = SystemClock() if dispatchers is None else dispatchers.clock
        self.timers = _timers() if dispatchers is None else dispatchers.timers
        self.random = random_numbers.Random(None if dispatchers is None else dispatchers.entropy())

    def dispatcher_of(self, spec: ChildSpec) -> Dispatcher:
        """A dispatcher for the child's next instance; a dedicated one is new, and ended by who got it."""
        if spec.dispatcher != "dedicated" or self.driver is not None:
            return self.dispatcher
        return Dedicated(f"{self._name}-{spec.id}")

    def report(self, report: Report) -> None:
        """Log it, and pass it on."""
        log = logger.bind(actor=report.supervisor)
        if report.kind is ReportKind.GAVE_UP:
            log.error("{}", report)  # Its cause has been logged: as the crash of the child.
        elif report.kind in WARNINGS:
            log.opt(exception=report.error).warning("{}", report)
        else:
            log.debug("{}", report)
        try:
            self._on_report(report)
        except Exception:  # The program's own function: no supervisor fails because of it.
            log.exception("on_report failed at: {}", report)


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
