"""Kill -9 of a real process around triggers that wait, are cancelled or become one: each has exactly one outcome."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqtor import CommitRecord, State
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.recovery import Recovery, checked_rows, commit_record
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.waiting_program import BELLS, CANCELLED, MOMENTS, PARTS, Add, Ring, make_system

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.crash.waiting_program"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


class World:
    """A journal, and what its processes were told."""

    def __init__(self, folder: Path, zygote: subprocess.Popen[str]) -> None:
        self.zygote = zygote
        self.journal = folder / "waiting.db"
        self.told = folder / "told"
        self.told.touch()

    def live(self, moment: str = "-", count: int = 1) -> int:
        """One life of the program; returns how it ended."""
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.zygote.stdin.write(json.dumps([str(self.journal), str(self.told), moment, count]) + "\n")
        self.zygote.stdin.flush()
        status = int(self.zygote.stdout.readline())
        assert status in (0, -signal.SIGKILL), "what the process raised is on standard error"
        return status

    def lines(self, verb: str) -> list[str]:
        """What was told by that verb, in order."""
        lines = [line.split(" ", 1) for line in self.told.read_text("utf-8").splitlines()]
        return [line[1] for line in lines if line[0] == verb]

    def check(self) -> list[CommitRecord]:
        """What holds after every kill: nothing that was told is lost, nothing has two outcomes. Returns the records."""
        backend = SqliteBackend(self.journal)
        opened = backend.open(write=False)
        try:
            records = [commit_record(row, "here") for row in checked_rows(backend, 1, opened.commits_through, GENESIS)]
            open_ones = Recovery(backend, opened).open_accepted()
            waiting = [accepted.key for accepted in open_ones if accepted.key is not None]
        finally:
            backend.close()
        executed = Counter(name for record in records for name in names_of(record))
        assert set(executed.values()) <= {1}, "something was executed twice"
        assert len(set(waiting)) == len(waiting)
        cancelled = set(self.lines("cancelled"))
        assert not cancelled & (executed.keys() | set(waiting)), "what was cancelled is there again"
        for key in set(self.lines("accepted")) - cancelled:
            if not key.startswith("cancelled"):  # Else its end may be on disk, and not have been told.
                assert (key in executed) != (key in waiting), f"{key} has one outcome, or is still to have one"
        runs = [run for record in records for run in (record.run, *record.coalesced)]
        assert len(set(runs)) == len(runs), "a trigger has two outcomes"
        return records

    def check_complete(self) -> None:
        """What holds at the end: everything was executed once, at its time, and answered alike in every life."""
        records = self.check()
        executed = {name: record for record in records for name in names_of(record)}
        expected = [f"bell-{i}" for i in range(BELLS)] + [f"add-{i}" for i in range(PARTS)]
        assert sorted(executed) == sorted(expected)
        assert sorted(self.lines("cancelled")) == sorted(f"cancelled-{i}" for i in range(CANCELLED))
        assert all(record.state is State.COMMITTED for record in records)
        with make_system(self.journal) as system:
            counts = system.snapshot()[system.stores["counts"]]
            wanted = [name.replace("add", "part") for name in expected]
            assert {name: count.n for name, count in counts.items()} == dict.fromkeys(wanted, 1)
            answers = dict(line.split(" ", 1) for line in self.lines("answer"))
            assert len(answers) == len({tuple(line.split(" ", 1)) for line in self.lines("answer")})
            for key in expected:
                again = Ring(name=key) if key.startswith("bell") else Add(parts=(int(key.split("-")[1]),))
                assert str(system.submit(again, idempotency_key=key).result(20)) == answers[key]
            stats = system.stats()
            assert (stats.delayed, stats.queued, stats.current_seq) == (0, 0, len(records))
            assert system.verify().executed == len(records)


def names_of(record: CommitRecord) -> list[str]:
    """The keys of all that a record has executed."""
    payload: dict[str, list[int]] = record.trigger.payload  # type: ignore[assignment]
    if record.trigger.type == "Add":
        return [f"add-{part}" for part in payload["parts"]]
    return [str(payload["name"])] if record.trigger.type == "Ring" else []


@pytest.fixture
def world(tmp_path: Path, zygote: subprocess.Popen[str]) -> World:
    return World(tmp_path, zygote)


def test_a_process_that_is_not_killed_rings_cancels_and_adds_all_at_once(world: World) -> None:
    assert world.live() == 0
    world.check_complete()
    (several,) = [record for record in world.check() if record.trigger.type == "Add"]
    assert len(several.coalesced) == PARTS - 1


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_killed(moment: str, world: World) -> None:
    """In its first life at the first such moment, in its second at a later one; the third finds everything as it was."""
    assert world.live(moment, 1) == -signal.SIGKILL, "the moment never came"
    world.check()
    world.live(moment, 3)
    world.check()
    assert world.live() == 0
    world.check_complete()
