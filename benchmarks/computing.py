"""PROC: handlers that compute for 20 ms, in two worker processes; the yardstick is the same work, one after another.

Owns the work: a fixed number of rounds, found once to take 20 ms when nothing else runs, so that processes which take the
processor from each other take longer. Each run reads and writes a key of its own and gets other numbers, and every answer is
compared with that of the yardstick.
"""

from __future__ import annotations

import gc
import time
from typing import Any

from benchmarks.measure import burst, interleave, median, turns
from benchmarks.outcome import Outcome
from seqtor import Collection, Record, Supervisor, Transaction, Trigger

__all__ = ["proc"]

RUNS = 100
WORK_S = 0.020
PROCESSES = 2
CALIBRATION_ROUNDS = 200_000


class Sum(Record):
    value: int = 0


class Compute(Trigger[int]):
    """`rounds` of a generator of random numbers, from `start`."""

    key: str
    start: int
    rounds: int


system = Supervisor(settings={"processes": PROCESSES})
sums = system.store("sums", Collection(Sum))


def work(start: int, rounds: int) -> int:
    """Compute."""
    value = start
    for _ in range(rounds):
        value = (value * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return value


@system.on(Compute, executor="process")
def compute(trigger: Compute, tx: Transaction) -> int:
    before = tx[sums].get(trigger.key, Sum()).value
    found = work(trigger.start, trigger.rounds)
    tx[sums][trigger.key] = Sum(value=before + found)
    return found


def rounds_of(work_s: float) -> int:
    """How many rounds take so long; the fastest of some tries."""
    tries = []
    for start in range(5):
        started = time.perf_counter()
        work(start, CALIBRATION_ROUNDS)
        tries.append(time.perf_counter() - started)
    return round(CALIBRATION_ROUNDS * work_s / min(tries))


def proc() -> Outcome:
    """Runs per second."""
    rounds = rounds_of(WORK_S)
    triggers = [Compute(key=f"k{number}", start=number, rounds=rounds) for number in range(RUNS)]
    answers: list[Any] = []

    def serial() -> float:
        started = time.perf_counter()
        answers[:] = [work(trigger.start, trigger.rounds) for trigger in triggers]
        return RUNS / (time.perf_counter() - started)

    cpu_s: list[float] = []  # Of the system's own process: what it costs beside the computing.

    def in_processes() -> float:
        gc.collect()
        before = time.process_time()
        gc.collect()  # As the one that the burst begins with, which is no work of a run.
        collected = time.process_time()
        elapsed_s, found = burst(system.submit_many, triggers)
        cpu_s.append((time.process_time() - collected - (collected - before)) / RUNS)
        assert found == answers, "worker processes compute something else"
        return RUNS / elapsed_s

    with system:
        burst(system.submit_many, triggers[: 4 * PROCESSES])  # Until the processes have started.
        empty = Compute(key="empty", start=0, rounds=0)
        overhead_s = sorted(turns(system.submit, [empty] * 200))[100]
        yardsticks, values = interleave("PROC", serial, in_processes)
    numbers = {"empty_run_ms": overhead_s * 1e3, "system_cpu_ms": median(cpu_s) * 1e3}
    return Outcome.of_rounds(yardsticks, values, **numbers)
