"""A10k, A10kMB and A10kAgentsKB: 10,000 async handlers that wait at the same time; their time and their memory.

Owns both sides: the runtime, and bare asyncio (a gather of as many) as yardstick. Memory is measured in a fresh process per
round (`python -m benchmarks.sleepers seqtor`, `bare`, `agents` or `bare_agents`): in one that has run before, freed memory
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
from seqtor import Collection, Record, Supervisor, Transaction, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["a10k", "a10k_agents_kb", "a10k_mb"]

SLEEPERS = 10_000
SLEEPERS_WARM_UP = 1_000
SLEEP_S = 1.0


class Nap(Trigger[None]):
    seconds: float


class Desk(Record):
    price: int = 100
    advice: str = ""


class Advise(Trigger[str]):
    """An agent's work: look at a price, ask a model about it, write down what it says."""

    desk: str


class Model:
    """Something outside that answers everybody at the same time, when all have asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.expected = 1
        self.waiting_kb = 0.0  # Resident, when all were waiting.
        self._answers = asyncio.Event()

    async def ask(self, question: str) -> str:
        answers = self._answers
        self.asked += 1
        if self.asked == self.expected:
            self.waiting_kb = _memory_mb("VmHWM") * 1000
            self._answers = asyncio.Event()
            self.asked = 0
            answers.set()
        await answers.wait()
        return f"about {question}: wait"


def a10k() -> Outcome:
    """Seconds until all have slept."""
    return Outcome.of_rounds(*interleave("A10k", lambda: _bare(_seconds), lambda: _seqtor(_seconds)))


def a10k_mb() -> Outcome:
    """Growth of resident memory, in MB."""
    return Outcome.of_rounds(
        *interleave("A10kMB", lambda: _in_fresh_process("bare"), lambda: _in_fresh_process("seqtor"))
    )


def a10k_agents_kb() -> Outcome:
    """Growth of resident memory per agent that waits, in KB."""
    return Outcome.of_rounds(
        *interleave("A10kAgentsKB", lambda: _in_fresh_process("bare_agents"), lambda: _in_fresh_process("agents"))
    )


def _agents_kb(advise: Callable[[Model, list[str]], list[str]]) -> float:
    """The peak when all wait for the model, above what was resident before there was any trigger, per agent."""
    model = Model()
    advise(model, ["warm-up"])
    gc.collect()
    before_kb = _memory_mb("VmRSS") * 1000
    desks = [f"desk-{number}" for number in range(SLEEPERS)]
    model.expected = SLEEPERS
    advice = advise(model, desks)
    if advice != [f"about {desk} at 100: wait" for desk in desks]:
        raise AssertionError("an agent got another one's answer")
    return (model.waiting_kb - before_kb) / SLEEPERS


def _agents() -> float:
    system = Supervisor()
    desks = system.store("desks", Collection(Desk, initial={"warm-up": Desk()}))
    model: list[Model] = []

    async def ask(question: str) -> str:
        return await model[0].ask(question)

    @system.on(Advise, sequence="completion")
    async def advise(trigger: Advise, tx: Transaction) -> str:
        price = tx.peek(desks).get(trigger.desk, Desk()).price
        advice: str = await tx.acall(ask, f"{trigger.desk} at {price}")
        tx[desks][trigger.desk] = Desk(price=price, advice=advice)
        return advice

    def hand_in(asked: Model, names: list[str]) -> list[str]:
        model[:] = [asked]
        return [each.result() for each in system.submit_many([Advise(desk=name) for name in names])]

    with system:
        return _agents_kb(hand_in)


def _bare_agents() -> float:
    book: dict[str, Desk] = {}

    async def advise(model: Model, desk: str) -> str:
        price = book.get(desk, Desk()).price
        advice = await model.ask(f"{desk} at {price}")
        book[desk] = Desk(price=price, advice=advice)
        return advice

    async def gather(model: Model, names: list[str]) -> list[str]:
        return await asyncio.gather(*(advise(model, name) for name in names))

    with asyncio.Runner() as runner:
        return _agents_kb(lambda model, names: runner.run(gather(model, names)))


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
    sides: dict[str, Callable[[], float]] = {
        "seqtor": lambda: _seqtor(_growth_mb),
        "bare": lambda: _bare(_growth_mb),
        "agents": _agents,
        "bare_agents": _bare_agents,
    }
    if sys.argv[1:] not in [[side] for side in sides]:
        progress(f"usage: python -m benchmarks.sleepers {'|'.join(sides)}")
        sys.exit(2)
    print(sides[sys.argv[1]]())
