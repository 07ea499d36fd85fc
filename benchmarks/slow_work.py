"""W6a, W6b, W6c: the p99 of small updates beside one agent that takes five seconds.

200 updates a second, 2 in 100 of which touch the agent's keys. Three ways to write the agent: by completion (W6a, all
updates count), with footprints on both (W6b, those count that do not touch its keys), and with neither (W6c, for
comparison: the seconds that strict order costs). The yardstick is the p99 of the same updates without an agent. Times come
from the runs' records, submission to commit, so that the waking of the measuring thread does not count.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

from benchmarks.measure import percentile, progress
from benchmarks.outcome import Outcome
from benchmarks.workload import Cell
from seqtor import Collection, Supervisor, Transaction, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from seqtor import CollectionView, StoreRef, Submission

    Cells = StoreRef[CollectionView[Cell]]

__all__ = ["w6a", "w6b", "w6c"]

ROUNDS = 3
AGENT_S = 5.0
UPDATES_PER_S = 200
KEYS = [f"k{number:02}" for number in range(100)]
OF_THE_AGENT = KEYS[:2]


class Think(Trigger[int]):
    seconds: float


class Update(Trigger[int]):
    key: str


async def ask_model(question: int, seconds: float) -> int:
    """Stands for a model: its answer takes its time."""
    await asyncio.sleep(seconds)
    return question + 1


def with_completion(system: Supervisor, cells: Cells) -> None:
    @system.on(Think, sequence="completion")
    async def think(trigger: Think, tx: Transaction) -> int:
        answer = await tx.acall(ask_model, tx.peek(cells)[OF_THE_AGENT[0]].value, trigger.seconds)
        for key in OF_THE_AGENT:
            tx[cells][key] = Cell(value=tx[cells][key].value + answer)
        return answer

    system.on(Update)(updater(cells))


def with_footprints(system: Supervisor, cells: Cells) -> None:
    @system.on(Think, writes=lambda _: [(cells, key) for key in OF_THE_AGENT])
    async def think(trigger: Think, tx: Transaction) -> int:
        return await in_order(trigger, tx, cells)

    system.on(Update, writes=lambda trigger: [(cells, trigger.key)])(updater(cells))


def with_neither(system: Supervisor, cells: Cells) -> None:
    @system.on(Think)
    async def think(trigger: Think, tx: Transaction) -> int:
        return await in_order(trigger, tx, cells)

    system.on(Update)(updater(cells))


async def in_order(trigger: Think, tx: Transaction, cells: Cells) -> int:
    answer = await ask_model(tx[cells][OF_THE_AGENT[0]].value, trigger.seconds)
    for key in OF_THE_AGENT:
        tx[cells][key] = Cell(value=tx[cells][key].value + answer)
    return answer


def updater(cells: Cells) -> Callable[[Update, Transaction], int]:
    def update(trigger: Update, tx: Transaction) -> int:
        value = tx[cells][trigger.key].value + 1
        tx[cells][trigger.key] = Cell(value=value)
        return value

    return update


def w6a() -> Outcome:
    """All updates, beside an agent with `sequence="completion"`."""
    return _measure("W6a", with_completion, set())


def w6b() -> Outcome:
    """The updates that do not touch the agent's keys, all with footprints."""
    return _measure("W6b", with_footprints, set(OF_THE_AGENT))


def w6c() -> Outcome:
    """All updates, beside an agent that holds its place in the order."""
    return _measure("W6c", with_neither, set())


def _measure(title: str, register: Callable[[Supervisor, Cells], None], uncounted: set[str]) -> Outcome:
    alone: list[float] = []
    beside: list[float] = []
    attempts = 0
    for number in range(1, ROUNDS + 1):
        alone.append(_round(register, uncounted, agent=False)[0])
        p99_ms, executed = _round(register, uncounted, agent=True)
        beside.append(p99_ms)
        attempts = max(attempts, executed)
        progress(
            f"{title}: round {number} of {ROUNDS}: alone {alone[-1]:.2f} ms, beside the agent {beside[-1]:,.2f} ms"
        )
    return Outcome.of_rounds(alone, beside, agent_attempts_max=attempts)


def _round(register: Callable[[Supervisor, Cells], None], uncounted: set[str], *, agent: bool) -> tuple[float, int]:
    """The p99 of the updates in ms, and how often the agent was executed."""
    system = Supervisor()
    cells = system.store("cells", Collection(Cell, initial={key: Cell(value=0) for key in KEYS}))
    register(system, cells)
    with system:
        for key in KEYS:
            system.ask(Update(key=key))
        gc.collect()
        thinking = system.submit(Think(seconds=AGENT_S)) if agent else None
        updates = _stream(system)
        for update in updates:
            update.result()
        attempts = 0
        if thinking is not None:
            thinking.result()
            attempts = system.record(thinking.seq or 0).attempts
        counted = [
            _took_ms(system, update)
            for number, update in enumerate(updates)
            if KEYS[number % len(KEYS)] not in uncounted
        ]
    return percentile(counted, 99), attempts


def _stream(system: Supervisor) -> list[Submission[int]]:
    """Submit updates at their rate for as long as the agent thinks."""
    submissions: list[Submission[int]] = []
    start = time.perf_counter()
    for number in range(int(AGENT_S * UPDATES_PER_S)):
        wait_s = start + number / UPDATES_PER_S - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        submissions.append(system.submit(Update(key=KEYS[number % len(KEYS)])))
    return submissions


def _took_ms(system: Supervisor, submission: Submission[int]) -> float:
    record = system.record(submission.seq or 0)
    assert record.committed_at is not None, f"seq {record.seq} has answered without a commit"
    return (record.committed_at - record.submitted_at) * 1e3
