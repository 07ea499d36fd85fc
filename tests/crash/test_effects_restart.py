"""Kill -9 of a real process around its effects: none before its commit is on disk, none forgotten, triggers exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seqtor import EffectContext
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.recovery import checked_rows, commit_record
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.effects_program import EFFECTS, MOMENTS, ORDERS, PLAN, Line, Order, make_system

ROOT = Path(__file__).parents[2]
RETURNING = ORDERS * sum(returns for _, returns in PLAN)


class World:
    """A journal, and the outside world with what it has heard."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "desk.db"
        self.outside = folder / "outside.jsonl"
        self.outside.touch()

    def live(self, moment: str = "-", count: int = 1) -> int:
        """One life of the program; returns how it ended."""
        done = subprocess.run(
            [
                sys.executable, "-W", "error", "-m", "tests.crash.effects_program",
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

    @property
    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.outside.read_text("utf-8").splitlines()]

    def read(self) -> tuple[str, dict[str, Any], list[Any]]:
        """The journal's id, the effects that are on disk by their keys, and all records."""
        if not self.journal.exists():
            return "", {}, []
        backend = SqliteBackend(self.journal)
        opened = backend.open(write=False)
        try:
            rows = list(checked_rows(backend, 1, opened.commits_through, GENESIS))
        finally:
            backend.close()
        records = [commit_record(row, "the journal") for row in rows]
        released = {
            f"{opened.journal_id}-{record.seq}-{index}": effect.payload
            for record in records
            for index, effect in enumerate(record.effects)
        }
        return opened.journal_id, released, records

    def ended(self) -> tuple[list[Any], set[str]]:
        """All records, and the keys of the effects whose ends are on disk."""
        journal_id, _, records = self.read()
        backend = SqliteBackend(self.journal)
        opened = backend.open(write=False)
        try:
            entries = list(backend.entries(opened.entries_from, opened.entries_through))
        finally:
            backend.close()
        ends = [json.loads(entry.body) for entry in entries if entry.kind == "effect"]
        return records, {f"{journal_id}-{each['seq']}-{each['index']}" for each in ends}

    def check(self) -> None:
        """What holds after every kill: whatever was heard outside is of a commit that is on disk, under one key."""
        _, released, records = self.read()
        for each in self.heard:
            assert released.get(each["key"]) == each["line"], f"heard outside, but not on disk: {each}"
        assert max(Counter(record.run for record in records).values(), default=1) == 1

    def check_complete(self) -> None:
        """What holds at the end: every effect was heard of, and what it returned ran once."""
        self.check()
        _, released, records = self.read()
        assert len(released) == EFFECTS
        assert {each["key"] for each in self.heard} == set(released), "every effect, at least once"
        returning = sorted(key for key, line in released.items() if line["returns"])
        assert len(returning) == RETURNING
        assert sorted(record.run for record in records if record.trigger.type == "Acknowledged") == returning
        assert sorted(
            record.trigger.payload["key"] for record in records if record.trigger.type == "Acknowledged"
        ) == returning  # fmt: skip
        refused = sorted(key for key, line in released.items() if PLAN[line["index"]][0] == "refuse")
        system = make_system(self.journal, not_again)
        with system:
            assert sorted(letter.id for letter in system.dead_letters()) == refused
            assert system.stats().effects_through == system.stats().committed_through == len(records)

    def times(self, key: str) -> int:
        return sum(each["key"] == key for each in self.heard)


def not_again(context: EffectContext, line: Line) -> None:
    raise AssertionError(f"carried out although it had ended: {context} {line}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_process_that_is_not_killed_carries_out_everything_once(world: World) -> None:
    assert world.live() == 0
    world.check_complete()
    tries = Counter(each["key"] for each in world.heard)
    assert sorted(tries.values()) == [1] * (EFFECTS - ORDERS) + [2] * ORDERS, "two tries of what was refused"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_killed(moment: str, world: World) -> None:
    """In its first life at the first such moment, in its second at a later one; the third finds everything as it was."""
    ends = []
    for count in (1, 3):
        before = Counter(each["key"] for each in world.heard)
        ends.append(world.live(moment, count))
        world.check()
        after = Counter(each["key"] for each in world.heard)
        assert all(after[key] >= before[key] for key in before)
    assert ends[0] == -signal.SIGKILL, "the moment never came"
    assert world.live() == 0
    world.check_complete()


def test_between_the_execution_and_its_record_means_once_more_under_the_same_key(world: World) -> None:
    assert world.live("after the outside world has heard of it", 1) == -signal.SIGKILL
    before, (_, ended) = world.heard, world.ended()
    unrecorded = {each["key"]: each["line"] for each in before if each["key"] not in ended}
    assert unrecorded, "heard outside, and its end is not on disk"
    assert world.live() == 0
    again = [each for each in world.heard[len(before) :] if each["key"] in unrecorded]
    assert {each["key"]: each["line"] for each in again} == unrecorded, "executed again"
    assert not {each["pid"] for each in again} & {each["pid"] for each in before}
    world.check_complete()


def test_after_its_record_means_never_again(world: World) -> None:
    assert world.live("after an end with a trigger is written", 1) == -signal.SIGKILL
    records, keys = world.ended()
    assert keys, "the record is on disk"
    assert not [record for record in records if record.run in keys], "what it returned has not run"
    before = {key: world.times(key) for key in keys}
    assert world.live() == 0
    assert {key: world.times(key) for key in keys} == before
    world.check_complete()


def test_a_process_killed_from_outside_while_an_effect_executes(world: World, tmp_path: Path) -> None:
    """The effect tells that it runs and never returns; it is resumed by the next process."""
    program = (
        "import os, sys, threading\nfrom pathlib import Path\nfrom tests.crash.effects_program import Order, make_system\n"
        "def hang(context, line):\n    os.write(1, f'{context.key}\\n'.encode())\n    threading.Event().wait()\n"
        "system = make_system(Path(sys.argv[1]), hang)\nsystem.start()\nsystem.tell(Order(number=0))\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(world.journal)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        running = {process.stdout.readline().strip() for _ in range(3)}
        process.kill()
    _, released, records = world.read()
    assert [record.trigger.type for record in records] == ["Order"]
    assert running <= set(released), "it runs, so its commit is on disk"
    heard: list[str] = []
    system = make_system(world.journal, lambda context, line: heard.append(context.key))
    with system:
        assert system.submit(Order(number=1)).result(30) == 1
    assert running <= set(heard)
    again = Counter(heard)
    assert set(again) >= set(released)
