"""Process crashes in simulation: at any step everything in memory is lost, and the journal has what was written.

The program is that of `tests/crash`, with a journal whose rows survive. Seeds choose the order of everything and the steps
at which the process dies; afterwards the journal is executed one trigger after another by an oracle in plain Python.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from seqtor import Rejected, Submission
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal import actor
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.recovery import checked_rows, commit_record
from tests.crash.desk import Oracle, make_system, planned

SEEDS_PER_TEST = 25
KEYS = 40
LIVES_MAX = 60


class Life:
    """One process: from a start to its death at some step, or to its end."""

    def __init__(self, backend: MemoryBackend, seed: int, steps: int | None) -> None:
        self.dispatchers = SimulatedDispatchers(seed)
        self.system = make_system(backend, dispatchers=lambda settings: self.dispatchers)
        self.steps = steps

    def run(self, answers: dict[str, Any], accepted: set[str]) -> bool:
        """Submit everything; note what is answered. True if nothing was left."""
        self.system.start()
        waiting: dict[str, Submission[int]] = {}
        futures: dict[str, Any] = {}
        for number in range(KEYS):
            key = f"0:{number}"
            waiting[key] = self.system.submit(planned(0, number), idempotency_key=key)
            if number % 3 == 0:
                futures[key] = waiting[key].accepted()
        left = self.steps
        while waiting:
            if left is not None:
                if not left:
                    self.dispatchers.drop()
                    return False
                left -= 1
            assert self.dispatchers.step(), "nothing can happen, and something is waited for"
            for key in [key for key, future in futures.items() if future.is_set()]:
                accepted.add(key)
                del futures[key]
            for key in [key for key, submission in waiting.items() if submission.done]:
                submission = waiting.pop(key)
                answer = (submission.seq, result_of(submission))
                assert answers.setdefault(key, answer) == answer, "the same key got another answer"
        self.system.stop()
        return True


def result_of(submission: Submission[int]) -> int | None:
    try:
        return submission.result(0)
    except Rejected:
        return None


def check(backend: MemoryBackend, answers: dict[str, Any], accepted: set[str]) -> Oracle:
    backend.close()
    opened = backend.open(write=False)
    oracle = Oracle()
    by_key: dict[str, tuple[int, Any]] = {}
    entries = {row.ref: row.body for row in backend.entries(1, opened.entries_through) if row.kind == "accepted"}
    for row in checked_rows(backend, 1, opened.commits_through, GENESIS):
        record = commit_record(row, "here")
        assert record.result == oracle.execute(record.trigger.type, record.trigger.payload)  # type: ignore[arg-type]
        if record.key is not None:
            assert record.key not in by_key, "a key was executed twice"
            by_key[record.key] = (record.seq, record.result)
    for key, answer in answers.items():
        assert by_key[key] == answer, "what was answered is not in the journal"
    for key in accepted:
        assert key in by_key or any(f'"key":"{key}"' in body for body in entries.values())
    backend.close()
    return oracle


@pytest.mark.parametrize("first", range(0, 200, SEEDS_PER_TEST))
def test_a_process_that_dies_at_any_step_loses_nothing_that_it_acknowledged_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        chance = random.Random(seed)
        monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", chance.choice([500, 4_000, 1 << 20]))
        backend = MemoryBackend()
        answers: dict[str, Any] = {}
        accepted: set[str] = set()
        for life in range(LIVES_MAX):
            steps = chance.randrange(1, 400) if life < LIVES_MAX - 1 else None
            if Life(backend, seed * 1000 + life, steps).run(answers, accepted):
                break
            check(backend, answers, accepted)
        oracle = check(backend, answers, accepted)
        assert len(answers) == KEYS
        assert not oracle.submitted, "something that a commit submitted was never executed"
