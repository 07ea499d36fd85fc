"""`head_warning`: what holds the order up is named in the log, once and then ever more rarely; nothing polls when idle."""

from __future__ import annotations

import asyncio
import re

from loguru import logger

from seqtor import Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers


class Hold(Trigger[None]):
    """Waits until the test lets it go."""


class Quick(Trigger[int]):
    """Does nothing."""


def lines_of(head_warning: float | None, behind: int, hold_s: float) -> tuple[list[str], SimulatedDispatchers]:
    dispatchers = SimulatedDispatchers(3)
    system = Supervisor(dispatchers=lambda _: dispatchers, settings={"head_warning": head_warning})

    @system.on(Hold, deadline=100_000)
    async def hold(trigger: Hold, tx: Transaction) -> None:
        await asyncio.sleep(hold_s)

    @system.on(Quick)
    def quick(trigger: Quick, tx: Transaction) -> int:
        return tx.seq

    lines: list[str] = []
    logger.enable("seqtor")
    sink = logger.add(lines.append, format="{message}", level="WARNING")
    try:
        with system:
            head = system.submit(Hold())
            dispatchers.run_to_rest()
            for _ in range(behind):
                system.submit(Quick())
            head.result(None)
            system.ask(Quick())
            dispatchers.run_to_rest()
    finally:
        logger.remove(sink)
        logger.disable("seqtor")
    return lines, dispatchers


def test_a_head_that_others_wait_for_is_named_at_growing_intervals() -> None:
    lines, _ = lines_of(1.0, 3, 20.0)
    expected = r"seq 1 \(Hold\) has held the order for [\d.]+ s: executing attempt 1; 3 runs wait behind it"
    assert all(re.match(expected, line) for line in lines)
    assert [round(float(line.split(" for ")[1].split(" s:")[0])) for line in lines] == [1, 2, 4, 8, 16]


def test_nothing_is_said_of_a_head_that_nobody_waits_for_or_that_ends_in_time() -> None:
    assert lines_of(1.0, 0, 20.0)[0] == []
    assert lines_of(1.0, 3, 0.5)[0] == []


def test_without_the_setting_nothing_is_looked_at() -> None:
    lines, dispatchers = lines_of(None, 3, 20.0)
    assert lines == []
    assert all(timer.callback is None for _, _, timer in dispatchers._heap)


def test_an_idle_system_sets_no_timer() -> None:
    _, dispatchers = lines_of(1.0, 3, 5.0)
    while dispatchers.step():
        assert dispatchers.clock.monotonic() < 30, "it polls"
