"""The program that is killed: runs that fail and are retried.

`python -m tests.crash.retries_program JOURNAL OUTSIDE MOMENT N`. Owns the system of one life. Each run knocks at a door,
which is a line in the file OUTSIDE; it fails until there have been three knocks. At the N-th time that it comes to the named
moment the process kills itself with SIGKILL; with "-" it lives until everything has ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqtor import Collection, Record, Retry, Supervisor, Transaction, Trigger
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.waiting_room import WaitingRoom
from seqtor.messages import WaitOver

__all__ = ["DOORS", "KNOCKS", "MOMENTS", "make_system"]

DOORS = 6
KNOCKS = 3
MAX_RUNS = 10
MOMENTS = (
    "before a record that retries is on disk",
    "after a record that retries is on disk",
    "when a retry begins to wait",
    "when a retry is due",
    "when a retry knocks",
)


class Door(Record):
    """How often it was opened."""

    opened: int = 0


class Enter(Trigger[int]):
    """Opens a door, once there have been enough knocks."""

    door: str


class Closed(Exception):
    """Nobody has heard the knocks yet."""


def make_system(journal: Path, knock: Callable[[str], int]) -> Supervisor:
    """The system under test; `knock` returns how many knocks there have been at a door."""
    system = Supervisor(journal)
    doors = system.store("doors", Collection(Door))

    def knock_at(door: str) -> int:  # A call is known by its function's name, and that must be the same in every life.
        return knock(door)

    @system.on(Enter, retry=Retry(MAX_RUNS, backoff=0.01, on=Closed))
    def enter(trigger: Enter, tx: Transaction) -> int:
        knocks = tx.call(knock_at, trigger.door)
        if knocks < KNOCKS:
            raise Closed(f"{trigger.door} has heard {knocks}")
        tx[doors].increment(trigger.door, opened=1)
        return knocks

    return system


class Killer:
    """Ends the process at the `count`-th time that it comes to a moment."""

    def __init__(self, moment: str, count: int) -> None:
        self._moment = moment
        self._left = count

    def __call__(self, moment: str) -> None:
        if moment == self._moment:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def arm(killer: Killer) -> None:
    """Put the killer where its moments are."""
    append, wait = SqliteBackend.append, WaitingRoom.wait
    due: Any = Coordinator._methods[WaitOver]

    def appending(self: SqliteBackend, group: Any) -> None:
        retries = any('"state":"retrying"' in row.body for row in group.commits)
        if retries:
            killer("before a record that retries is on disk")
        append(self, group)
        if retries:
            killer("after a record that retries is on disk")

    def waiting(self: WaitingRoom, submission: Any) -> None:
        wait(self, submission)
        killer("when a retry begins to wait")

    def being_due(self: Coordinator, message: WaitOver) -> None:
        killer("when a retry is due")
        due(self, message)

    SqliteBackend.append = appending  # type: ignore[method-assign]
    WaitingRoom.wait = waiting  # type: ignore[method-assign]
    Coordinator._methods[WaitOver] = being_due


def main(journal: Path, outside: Path, moment: str, count: int) -> None:
    killer = Killer(moment, count)
    arm(killer)

    def knock(door: str) -> int:
        heard = outside.read_text("utf-8").splitlines().count(door)
        if heard:
            killer("when a retry knocks")
        with outside.open("a", encoding="utf-8") as file:
            file.write(f"{door}\n")
        return heard + 1

    with make_system(journal, knock) as system:
        keys = [f"door-{number}" for number in range(DOORS)]
        submissions = [system.submit(Enter(door=key), idempotency_key=key) for key in keys]
        for submission in submissions:
            submission.result(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
