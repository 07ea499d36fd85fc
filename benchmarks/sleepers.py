"""A10k and A10kMB: 10,000 async handlers that each sleep one second, submitted together; their time and their memory.

Owns both sides: the runtime, and bare asyncio (a gather of as many sleeps) as yardstick. Memory is measured in
a fresh process per round (`python -m benchmarks.sleepers seqtor` or `bare`): in one that has run before, freed memory
hides growth. Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import interleave, progress
from benchmarks.outcome import Outcome
from seqtor import Supervisor, Transaction, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["a10k", "a10k_mb"]

SLEEPERS = 10_000
SLEEPERS_WARM_UP = 1_000
SLEEP_S = 1.0


class Nap(Trigger[None]):
    seconds: float


def a10k() -> Outcome:
    """Seconds until all have slept."""
    return Outcome.of_rounds(*interleave("A10k", lambda: _bare(_seconds), lambda: _seqtor(_seconds)))


def a10k_mb() -> Outcome:
    """Growth of resident memory, in MB."""
    return Outcome.of_rounds(
        *interleave("A10kMB", lambda: _in_fresh_process("bare"), lambda: _in_fresh_process("seqtor"))
    )


def _seqtor(meter: Callable[[Callable[[int, float], None]], float]) -> float:
    system = Supervisor()

    @system.on(Nap)
    async def nap(trigger: Nap, _tx: Transaction) -> None:
        await asyncio.sleep(trigger.seconds)

    def sleep(count: int, seconds: float) -> None:
        for submission in system.submit_many([Nap(seconds=seconds) for _ in range(count)]):
            submission.result()

    with system:
        return meter(sleep)


def _bare(meter: Callable[[Callable[[int, float], None]], float]) -> float:
    async def gather(count: int, seconds: float) -> None:
        await asyncio.gather(*(asyncio.sleep(seconds) for _ in range(count)))

    with asyncio.Runner() as runner:
        return meter(lambda count, seconds: runner.run(gather(count, seconds)))


def _seconds(sleep: Callable[[int, float], None]) -> float:
    sleep(SLEEPERS_WARM_UP, 0.0)
    gc.collect()
    start = time.perf_counter()
    sleep(SLEEPERS, SLEEP_S)
    return time.perf_counter() - start


def _growth_mb(sleep: Callable[[int, float], None]) -> float:
    """The peak while they sleep, above what was resident before; the triggers themselves count as growth."""
    sleep(1, 0.0)
    gc.collect()
    before_mb = _memory_mb("VmRSS")
    sleep(SLEEPERS, SLEEP_S)
    return _memory_mb("VmHWM") - before_mb


def _memory_mb(name: str) -> float:
    """VmRSS or VmHWM. Not getrusage: its peak is inherited from the process that started this one."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024 / 1e6


def _in_fresh_process(side: str) -> float:
    command = [sys.executable, "-m", __name__, side]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    sides = {"seqtor": _seqtor, "bare": _bare}
    if sys.argv[1:] not in [[side] for side in sides]:
        progress("usage: python -m benchmarks.sleepers seqtor|bare")
        sys.exit(2)
    print(sides[sys.argv[1]](_growth_mb))
