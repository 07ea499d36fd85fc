"""Prints what happens in histories, step by step, as hashes: `python -m tests.simulation.history_trace FIRST_SEED COUNT`.

Owns what is noted: who becomes ready, who goes next and when, and where each plain handler gives way and goes on.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pytest

from seqtor.actors import SimulatedDispatchers
from tests.simulation.histories import play

__all__ = ["traced_history"]


def traced_history(seed: int) -> list[str]:
    """Who becomes ready, who goes next and when, in all simulations of a history."""
    trace: list[str] = []
    ready, step, give_way = SimulatedDispatchers.ready, SimulatedDispatchers.step, SimulatedDispatchers.give_way

    def named(mailbox: Any) -> str:
        return f"{type(mailbox._actor).__name__} {mailbox.rank}"

    def is_ready(dispatchers: SimulatedDispatchers, mailbox: Any) -> None:
        trace.append(f"ready {named(mailbox)}")
        ready(dispatchers, mailbox)

    def steps(dispatchers: SimulatedDispatchers) -> bool:
        trace.append(f"step at {dispatchers.clock.monotonic()}")
        return step(dispatchers)

    def gives_way(dispatchers: SimulatedDispatchers, thread: Any, **others: Any) -> None:
        trace.append(f"gives way {named(thread.mailbox)} on {thread.name}")
        give_way(dispatchers, thread, **others)
        trace.append(f"goes on {named(thread.mailbox)} after {dispatchers.steps}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedDispatchers, "ready", is_ready)
        patch.setattr(SimulatedDispatchers, "step", steps)
        patch.setattr(SimulatedDispatchers, "give_way", gives_way)
        play(seed)
    return trace


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    for seed in range(first, first + count):
        print(seed, hashlib.sha256("\n".join(traced_history(seed)).encode()).hexdigest())
