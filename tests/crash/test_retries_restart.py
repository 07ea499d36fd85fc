"""Kill -9 of a real process around its retries: each happens exactly once, and a key has one outcome."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqtor import CommitRecord, State
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.recovery import checked_rows, commit_record
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.retries_program import DOORS, KNOCKS, MOMENTS, Enter, make_system

ROOT = Path(__file__).parents[2]


class World:
    """A journal, and the doors outside."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "doors.db"
        self.outside = folder / "knocks"
        self.outside.touch()

    def live(self, moment: str = "-", count: int = 1) -> int:
        """One life of the program; returns how it ended."""
        done = subprocess.run(
            [
                sys.executable, "-W", "error", "-m", "tests.crash.retries_program",
                str(self.journal), str(self.outside), moment, str(count),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    def records(self) -> list[CommitRecord]:
        backend = SqliteBackend(self.journal)
        opened = backend.open(write=False)
        try:
            return [commit_record(row, "here") for row in checked_rows(backend, 1, opened.commits_through, GENESIS)]
        finally:
            backend.close()

    def check(self) -> dict[str, list[CommitRecord]]:
        """What holds after every kill: the runs of a door follow each other, each of them once. Returns them by door."""
        runs: dict[str, list[CommitRecord]] = {}
        for record in self.records():
            before = runs.setdefault(str(record.key), [])
            assert record.run_number == len(before) + 1
            if before:
                assert before[-1].retry is not None
                assert (record.run, record.retry_of) == (before[-1].retry.run, before[-1].run)
            assert (record.retry is not None) == (record.state is State.RETRYING)
            before.append(record)
        return runs

    def check_complete(self) -> None:
        """What holds at the end: every door was opened once, and who asks under its key gets that answer."""
        runs = self.check()
        assert len(runs) == DOORS
        knocks = self.outside.read_text("utf-8").splitlines()
        for door, records in runs.items():
            assert [record.state for record in records[:-1]] == [State.RETRYING] * (len(records) - 1)
            assert (records[-1].state, records[-1].result) == (State.COMMITTED, knocks.count(door))
            assert knocks.count(door) >= KNOCKS
        with make_system(self.journal, not_again) as system:
            doors = system.snapshot()[system.stores["doors"]]
            assert {name: door.opened for name, door in doors.items()} == dict.fromkeys(runs, 1)
            for door, records in runs.items():
                assert system.submit(Enter(door=door), idempotency_key=door).result(20) == records[-1].result
            assert system.stats().retries_waiting == 0
            assert system.dead_letters() == []
            assert system.verify().executed == system.stats().current_seq


def not_again(door: str) -> int:
    raise AssertionError(f"knocked again although {door} was opened")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_process_that_is_not_killed_retries_until_the_doors_open(world: World) -> None:
    assert world.live() == 0
    world.check_complete()
    assert len(world.records()) == DOORS * KNOCKS


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_killed(moment: str, world: World) -> None:
    """In its first life at the first such moment, in its second at a later one; the third finds everything as it was."""
    assert world.live(moment, 1) == -signal.SIGKILL, "the moment never came"
    world.check()
    world.live(moment, 3)
    world.check()
    assert world.live() == 0
    world.check_complete()
