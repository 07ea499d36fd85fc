"""SCHED10k: what 10,000 schedules cost of which none is due; the yardstick is 1 % of a core."""

from __future__ import annotations

import threading
import time

from benchmarks.outcome import Outcome
from seqtor import Supervisor, Transaction, Trigger

__all__ = ["sched_10k"]

SCHEDULES = 10_000
IDLE_S = 30.0


class Report(Trigger[None]):
    number: int


def sched_10k() -> Outcome:
    """Percent of a core that 10,000 idle schedules take."""
    system = Supervisor()

    @system.on(Report)
    def report(trigger: Report, tx: Transaction) -> None:
        pass

    for number in range(SCHEDULES):
        line = f"{number % 60} {number // 60 % 24} 29 2 *"
        system.schedule(Report(number=number), cron=line, timezone="Europe/Berlin", name=f"report {number}")
    began = time.perf_counter()
    with system:
        start_s = time.perf_counter() - began
        idle = threading.Event()
        busy_s = 1.0
        while busy_s > 0.05:  # The scheduler looks for the next slot of each.
            begun = time.process_time()
            idle.wait(1.0)
            busy_s = time.process_time() - begun
        processor, wall = time.process_time(), time.perf_counter()
        idle.wait(IDLE_S)
        percent = 100 * (time.process_time() - processor) / (time.perf_counter() - wall)
    return Outcome(value=percent, yardstick=1.0, extra={"start_s": start_s})
