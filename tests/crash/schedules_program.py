"""A system to be killed, with one fast schedule and a reaction to each of its runs.

`python -m tests.crash.schedules_program JOURNAL` runs until then. With `contend` behind it, it stands by while another
process has the journal.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from seqtor import Facts, JournalLocked, Supervisor, Transaction, Trigger, on_result
from tests.programs import WAIT_S

EVERY_S = 0.1
TRY_AGAIN_S = 0.2


class Ring(Trigger[None], name="schedules-program.ring"):
    """Does nothing."""


class Echo(Trigger[None], name="schedules-program.echo"):
    """What follows from a ring."""

    ring: str


def office(journal: str) -> Supervisor:
    system = Supervisor(journal)

    @system.on(Ring)
    def ring(trigger: Ring, tx: Transaction) -> None:
        assert tx.scheduled_for is not None

    @system.on(Echo)
    def echo(trigger: Echo, tx: Transaction) -> None:
        """Nothing more is to be done."""

    @system.when(on_result(Ring))
    def answer(facts: Facts) -> Echo:
        return Echo(ring=facts.result.run)

    system.schedule(Ring(), every=EVERY_S, name="bell", misfire="all", catch_up_max=10_000, overlap="queue")
    return system


@contextmanager
def killed_at_the_end(journal: str, lines: int = 1) -> Iterator[None]:
    """Another process that runs the system: until it has said so many lines, and then with SIGKILL."""
    command = [sys.executable, "-m", "tests.crash.schedules_program", journal]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline().startswith("runs")
        yield
    finally:
        process.kill()
        process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()


class Contenders:
    """Processes that want the same journal at the same time; each tells what it does, and its pid."""

    def __init__(self, journal: str, count: int) -> None:
        ours, theirs = os.pipe()
        self._lines = os.fdopen(ours)
        command = [sys.executable, "-m", "tests.crash.schedules_program", journal, "contend"]
        self._processes = {each.pid: each for each in (subprocess.Popen(command, stdout=theirs) for _ in range(count))}
        os.close(theirs)
        self.stood_by: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._processes):
            self.kill(pid)
        self._lines.close()

    def next(self) -> tuple[str, int]:
        """What was told next by one that lives, and by whom; that one stands by is noted."""
        while True:
            word, pid = self._lines.readline().split()
            if word == "stands-by":
                self.stood_by.add(int(pid))
            elif int(pid) in self._processes:
                return word, int(pid)

    def kill(self, pid: int) -> None:
        process = self._processes.pop(pid)
        process.kill()
        process.wait(WAIT_S)


def require_each_slot_once(system: Supervisor) -> None:
    """Every slot from the first to the newest was started by one run, which one run has followed; the newest may not yet."""
    commits = sorted(system.commits(limit=1_000_000), key=lambda each: each.seq)
    records = [each for each in commits if each.trigger.type == Ring.trigger_name]
    echoed = [str(each.trigger.payload["ring"]) for each in commits if each.trigger.type == Echo.trigger_name]  # type: ignore[index, call-overload]
    assert echoed == [each.run for each in records][: len(echoed)], "a reaction was lost, or came twice"
    assert len(echoed) > len(records) - 20
    counted = Counter(each.scheduled[1] for each in records if each.scheduled is not None)
    assert len(counted) == len(records), "a slot was started twice"
    slots = sorted(counted)
    assert [round((slot - slots[0]) / EVERY_S) for slot in slots] == list(range(len(slots))), "a slot was lost"
    system.verify()


def tell(word: str) -> None:
    """One line in one write: all contenders share a pipe, and an unbuffered `print` writes its pieces one by one."""
    os.write(sys.stdout.fileno(), f"{word} {os.getpid()}\n".encode())


def contend(journal: str) -> None:
    """Lead as soon as nobody else does, and tell of each commit."""
    pause, system = threading.Event(), office(journal)
    while True:
        try:
            system.start()
            break
        except JournalLocked:
            tell("stands-by")
            pause.wait(TRY_AGAIN_S)
            system = office(journal)
    tell("leads")
    while True:
        system.snapshot(seq=system.stats().durable_through + 1)
        tell("commits")


if __name__ == "__main__":
    if sys.argv[2:] == ["contend"]:
        contend(sys.argv[1])
    with office(sys.argv[1]) as system:
        print("runs", flush=True)
        last = 0
        while True:
            system.snapshot(seq=system.stats().durable_through + 1)
            print("runs on", flush=True)
