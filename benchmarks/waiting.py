"""K100 and K100fp: handlers that wait 1 to 3 ms each, on 100 keys, 64 in flight; how many times faster than one by one.

K100 finds its conflicts by executing, K100fp has declared its keys with `writes=`. The yardstick is bare asyncio that awaits
the same sleeps one after another.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from benchmarks.measure import interleave
from benchmarks.outcome import Outcome
from benchmarks.workload import Cell
from seqtor import Collection, Supervisor, Transaction, Trigger

if TYPE_CHECKING:
    from seqtor import CollectionView, StoreRef

__all__ = ["k100", "k100_footprints"]

KEYS = [f"k{number:02}" for number in range(100)]
IN_FLIGHT = 64
TRIGGERS = 3_000
ONE_BY_ONE = 300


class Wait(Trigger[int]):
    key: str
    seconds: float


def _triggers(count: int) -> list[Wait]:
    choose = random.Random(1)
    return [Wait(key=choose.choice(KEYS), seconds=choose.uniform(0.001, 0.003)) for _ in range(count)]


def k100() -> Outcome:
    """Triggers a second; the keys are found by executing."""
    return _measure("K100", declared=False)


def k100_footprints() -> Outcome:
    """Triggers a second; the keys are declared."""
    return _measure("K100fp", declared=True)


def _measure(title: str, *, declared: bool) -> Outcome:
    executions: list[float] = []

    def measure() -> float:
        per_s, mean = _run(declared=declared)
        executions.append(mean)
        return per_s

    return Outcome.of_rounds(*interleave(title, _one_by_one, measure), executions_mean=max(executions))


def _run(*, declared: bool) -> tuple[float, float]:
    system = Supervisor(settings={"max_in_flight": IN_FLIGHT})
    cells: StoreRef[CollectionView[Cell]] = system.store("cells", Collection(Cell))

    @system.on(Wait, writes=(lambda trigger: [(cells, trigger.key)]) if declared else None)
    async def wait(trigger: Wait, tx: Transaction) -> int:
        value = tx[cells].get(trigger.key, Cell()).value
        await asyncio.sleep(trigger.seconds)
        tx[cells][trigger.key] = Cell(value=value + 1)
        return value + 1

    with system:
        for submission in system.submit_many(_triggers(IN_FLIGHT)):
            submission.result()
        before = system.conflicts()
        start = time.perf_counter()
        for submission in system.submit_many(_triggers(TRIGGERS)):
            submission.result()
        elapsed_s = time.perf_counter() - start
        after = system.conflicts()
    return TRIGGERS / elapsed_s, (after.executions - before.executions) / TRIGGERS


def _one_by_one() -> float:
    async def run() -> None:
        for trigger in _triggers(ONE_BY_ONE):
            await asyncio.sleep(trigger.seconds)

    start = time.perf_counter()
    asyncio.run(run())
    return ONE_BY_ONE / (time.perf_counter() - start)
