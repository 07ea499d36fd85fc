"""A program that others talk to: `python -m tests.crash.control_program JOURNAL`.

Owns counters that can be held up by a file: while `JOURNAL.hold` exists, `CountSlowly` does not end. Says "ready" when
the system runs, and stops when its standard input ends.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from seqtor import Collection, Record, Rejected, Supervisor, Transaction, Trigger

__all__ = ["CountSlowly", "CountUp", "make"]


class Count(Record):
    """What is stored."""

    value: int = 0


class TooMany(Rejected):
    """A rejection of the program's own."""


class CountUp(Trigger[int]):
    """Adds, and answers with the sum."""

    key: str = "sum"
    amount: int = 1


class CountSlowly(Trigger[int]):
    """Adds one when it is let through; executes again after a crash."""


def make(journal: str) -> Supervisor:
    system = Supervisor(journal, settings={"threads": 2, "stop_grace": 5.0})
    counts = system.store("counts", Collection(Count))
    held = Path(f"{journal}.hold")

    @system.on(CountUp)
    def add(trigger: CountUp, tx: Transaction) -> int:
        value = tx[counts].get(trigger.key, Count()).value + trigger.amount
        if value > 1_000_000:
            raise TooMany("it is too much", most=1_000_000)
        tx[counts][trigger.key] = Count(value=value)
        return value

    @system.on(CountSlowly, deadline=300)
    def slow(trigger: CountSlowly, tx: Transaction) -> int:
        Path(f"{journal}.reached").touch()
        while held.exists():
            time.sleep(0.005)
        value = tx[counts].get("slow", Count()).value + 1
        tx[counts]["slow"] = Count(value=value)
        return value

    return system


if __name__ == "__main__":
    with make(sys.argv[1]):
        print("ready", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
