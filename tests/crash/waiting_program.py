"""The program that is killed: triggers that wait for their time, that are cancelled, and that become one.

`python -m tests.crash.waiting_program`. Owns the system of one life, and the process that forks the ones to be killed: for
each line `[JOURNAL, TOLD, MOMENT, N]` of its standard input one life, and then a line that says how it ended. A life
submits everything under keys and writes what it was told to the file TOLD. At the N-th time that it comes to the named
moment the process kills itself with SIGKILL; with "-" it lives until everything has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqtor import Collection, Record, Submission, Supervisor, Transaction, Trigger
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.sequencer.groups import Groups
from seqtor.actors.waiting_room import WaitingRoom
from seqtor.messages import WaitOver

__all__ = ["BELLS", "CANCELLED", "MOMENTS", "PARTS", "make_system"]

BELLS = 6
CANCELLED = 6  # Every other one waits for its time, the others in the queue.
PARTS = 12
LONG_S = 3_600.0
WAIT_S = 20.0
MOMENTS = (
    "before the triggers are on disk",
    "after triggers are on disk",
    "when a trigger begins to wait",
    "when the time of a trigger has come",
    "before a cancel is on disk",
    "after a cancel is on disk",
    "when several become one",
    "when several are merged",
    "before the record of several is on disk",
    "after the record of several is on disk",
)


class Count(Record):
    """How often something was executed."""

    n: int = 0


class Hold(Trigger[None]):
    """Has the only place for coroutines until it is let go."""


class Ring(Trigger[float]):
    """Counts; answers when it ran, POSIX seconds."""

    name: str


class Add(Trigger[tuple[int, ...]]):
    """Counts its parts; becomes one with others of its kind that wait."""

    parts: tuple[int, ...]


def make_system(
    journal: Path, let_go: threading.Event | None = None, come_to: Callable[[str], None] = print
) -> Supervisor:
    """The system under test; a `Hold` waits for `let_go`."""
    system = Supervisor(journal, settings={"max_in_flight": 1})
    counts = system.store("counts", Collection(Count))

    def joined(old: Add, new: Add) -> Add:
        come_to("when several are merged")
        return Add(parts=old.parts + new.parts)

    @system.on(Hold, deadline=60)
    async def hold(trigger: Hold, tx: Transaction) -> None:
        if let_go is not None:
            await asyncio.to_thread(let_go.wait, WAIT_S)

    @system.on(Ring)
    async def ring(trigger: Ring, tx: Transaction) -> float:
        tx[counts].increment(trigger.name, n=1)
        return tx.now.timestamp()

    @system.on(Add, coalesce=lambda trigger: "all", merge=joined)
    async def add(trigger: Add, tx: Transaction) -> tuple[int, ...]:
        for part in trigger.parts:
            tx[counts].increment(f"part-{part}", n=1)
        return trigger.parts

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
    append, wait, take = SqliteBackend.append, WaitingRoom.wait, Groups.take
    due: Any = Coordinator._methods[WaitOver]

    def appending(self: SqliteBackend, group: Any) -> None:
        kinds = {row.kind for row in group.entries}
        several = any('"coalesced":["' in row.body for row in group.commits)
        if "accepted" in kinds:
            killer("before the triggers are on disk")
        if "ended" in kinds:
            killer("before a cancel is on disk")
        if several:
            killer("before the record of several is on disk")
        append(self, group)
        if "accepted" in kinds:
            killer("after triggers are on disk")
        if "ended" in kinds:
            killer("after a cancel is on disk")
        if several:
            killer("after the record of several is on disk")

    def waiting(self: WaitingRoom, submission: Any) -> None:
        wait(self, submission)
        killer("when a trigger begins to wait")

    def being_due(self: Coordinator, message: WaitOver) -> None:
        killer("when the time of a trigger has come")
        due(self, message)

    def taking(self: Groups, lead: Any) -> Any:
        found = take(self, lead)
        if found[1] > 1:
            killer("when several become one")
        return found

    SqliteBackend.append = appending  # type: ignore[method-assign]
    WaitingRoom.wait = waiting  # type: ignore[method-assign]
    Groups.take = taking  # type: ignore[method-assign]
    Coordinator._methods[WaitOver] = being_due


class Told:
    """What this life was told, kept where a later one and the test find it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, *words: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def has(self, *words: object) -> bool:
        return " ".join(map(str, words)) in self._path.read_text("utf-8").splitlines()


def live(journal: Path, told: Told, moment: str, count: int) -> None:
    """One life."""
    killer = Killer(moment, count)
    arm(killer)
    let_go = threading.Event()
    with make_system(journal, let_go, killer) as system:

        def submit(trigger: Trigger[Any], key: str, delay: float | None = None) -> Submission[Any]:
            submission = system.submit(trigger, delay=delay, idempotency_key=key)
            submission.accepted().get(timeout=WAIT_S)
            told.note("accepted", key)
            return submission

        hold = system.submit(Hold())
        try:
            bells = {f"bell-{i}": submit(Ring(name=f"bell-{i}"), f"bell-{i}", 0.02 * (1 + i)) for i in range(BELLS)}
            adds = {f"add-{i}": submit(Add(parts=(i,)), f"add-{i}") for i in range(PARTS)}
            for i in range(CANCELLED):
                key, delay = f"cancelled-{i}", LONG_S if i % 2 else None
                if not told.has("cancelled", key) and submit(Ring(name=key), key, delay).cancel():
                    told.note("cancelled", key)
        finally:
            let_go.set()
        hold.result(WAIT_S)
        for key, submission in {**adds, **bells}.items():
            told.note("answer", key, submission.result(WAIT_S))


def main() -> None:
    """Fork a process for every life."""
    for line in sys.stdin:
        journal, told, moment, count = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                live(Path(journal), Told(Path(told)), moment, count)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
