"""Kill -9 of a real process at random and at named moments, under load: nothing acknowledged is missing, nothing twice.

After every kill the journal is read with the state it was left in, and its triggers are executed one after another by an
oracle in plain Python: every answer that was given must be in it, with the answer that the oracle gives.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.recovery import Recovery, checked_rows, commit_record
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.desk import Oracle, make_system
from tests.crash.zygote import MOMENTS, SUBMITTERS
from tests.seeds import FACTOR, seeds

ROOT = Path(__file__).parents[2]
KILLS_AT_RANDOM = 17  # In the lives of one journal.
COUNTS = [1, 3] if FACTOR <= 1 else [1, 2, 3, 7]
PER_SUBMITTER = 60
pytestmark = pytest.mark.timeout(600)


class Zygote:
    """The process that forks the ones to be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **command: Any) -> tuple[list[dict[str, Any]], int]:
        """What the child told, and how it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["told"], answer["status"]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    assert made.process.stdin is not None
    assert made.process.stdout is not None
    made.process.stdin.close()
    made.process.wait()
    made.process.stdout.close()


class Witness:
    """What was acknowledged over all lives of one journal, and the check of what is in it."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.answers: dict[str, dict[str, Any]] = {}
        self.accepted: set[str] = set()
        self.lives = 0

    def heard(self, told: list[dict[str, Any]]) -> None:
        for each in told:
            assert "died" not in each, each["died"]
            if "accepted" in each:
                self.accepted.add(each["accepted"])
            elif "key" in each:
                before = self.answers.setdefault(each["key"], each)
                assert before == each, "the same key got another answer"

    def check(self, *, complete: bool = False) -> Oracle:
        """Read the journal as it was left: everything that was acknowledged is there, once, and as the oracle has it."""
        backend = SqliteBackend(self.journal)
        opened = backend.open(write=False)
        try:
            records = [
                commit_record(row, backend.place) for row in checked_rows(backend, 1, opened.commits_through, GENESIS)
            ]
            waiting = {record.key for record in Recovery(backend, opened).open_accepted()}
        finally:
            backend.close()
        oracle = Oracle()
        by_key: dict[str, Any] = {}
        runs: set[str] = set()
        for record in records:
            answer = oracle.execute(record.trigger.type, record.trigger.payload)  # type: ignore[arg-type]
            assert record.result == answer, record
            assert (record.state.value == "rejected") == (answer is None), record
            assert record.run not in runs, "a run ended twice"
            runs.add(record.run)
            if record.key is not None:
                assert record.key not in by_key, "a key was executed twice"
                by_key[record.key] = record
        for key, told in self.answers.items():
            assert key in by_key, f"{key} was answered and is not in the journal"
            assert (told["seq"], told["answer"]) == (by_key[key].seq, by_key[key].result)
        for key in self.accepted:
            assert key in by_key or key in waiting, f"{key} was accepted and is not in the journal"
        if complete:
            assert len(by_key) == SUBMITTERS * PER_SUBMITTER
            assert not oracle.submitted, "something that a commit submitted was never executed"
            assert not waiting
        return oracle


def plan() -> list[tuple[int, int]]:
    """All of it, in every life: what was answered before is answered again from the journal."""
    return [(0, PER_SUBMITTER)] * SUBMITTERS


def finish(zygote: Zygote, witness: Witness) -> None:
    """Let the last life end by itself; then everything is there and the store holds what the oracle has."""
    told, status = zygote.run(journal=str(witness.journal), plan=plan())
    assert status == 0, told[-1:]
    witness.heard(told)
    oracle = witness.check(complete=True)
    with make_system(witness.journal) as system:
        found = system.snapshot()[system.stores["accounts"]]
        assert {key: [found[key].balance, found[key].transfers] for key in found} == oracle.accounts
        counts = system.snapshot()[system.stores["counts"]]
        assert {key: counts[key].transfers for key in counts} == oracle.counts


@pytest.mark.parametrize("seed", seeds(3))
def test_a_process_killed_at_random_moments_loses_nothing_that_it_acknowledged(
    seed: int, zygote: Zygote, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    witness = Witness(tmp_path / "desk.db")
    for _ in range(KILLS_AT_RANDOM):
        told, status = zygote.run(
            journal=str(witness.journal),
            plan=plan(),
            kill_after=chance.randrange(SUBMITTERS * PER_SUBMITTER // 4),
            checkpoint_bytes=chance.choice([2_000, 30_000, None]),
        )
        assert status == signal.SIGKILL, told[-1:]
        witness.heard(told)
        witness.check()
    finish(zygote, witness)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_process_killed(moment: str, count: int, zygote: Zygote, tmp_path: Path) -> None:
    """Killed by itself at a named moment, in its first life and in its second."""
    witness = Witness(tmp_path / "desk.db")
    killed = 0
    for _ in range(2):
        told, status = zygote.run(
            journal=str(witness.journal), plan=plan(), die_at=(moment, count), checkpoint_bytes=3_000
        )
        killed += status == signal.SIGKILL
        witness.heard([each for each in told if "stopped" not in each])
        witness.check()
    finish(zygote, witness)
    assert killed or count > 1, "the moment never came"
