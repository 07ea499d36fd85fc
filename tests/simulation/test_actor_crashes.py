"""Crashes of the runtime's actors in simulation: at any line, nothing accepted is lost and the order stays.

Seeds choose the order of everything and where actors are killed. Afterwards what was committed is executed one trigger
after another by an oracle in plain Python.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from seqtor import Rejected, Submission, Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.effects import Effects
from seqtor.actors.journal import actor as journal_actor
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.checkpoints import Checkpointer
from seqtor.actors.journal.memory import MemoryBackend
from tests.crash.desk import Oracle, make_system, planned
from tests.seeds import seeds
from tests.simulation.crash_world import CRASHES, OFTEN, TARGETS, survive
from tests.simulation.crashes import Crash, CrashBase, crashing

TRIGGERS = 60
SEEDS_PER_TEST = 40
SEEDS_AGAIN = 1_000_000  # Others than those of the first test.

KILLED = [(kind, journal) for kind in TARGETS for journal in (None, MemoryBackend) if journal or kind is not Journal]
SEEDED = [  # 160 worlds for each actor, in two tests; 640 with SEQTOR_EXAMPLES=4.
    (kind, journal, first) for kind, journal in KILLED for first in seeds(80 if kind is Journal else 40, SEEDS_PER_TEST)
]
EFFECTS_AGAIN = [  # They are in one test only.
    (kind, journal, first + SEEDS_AGAIN) for kind, journal, first in SEEDED if kind is Effects
]


def result_of(submission: Submission[int]) -> int | None:
    try:
        return submission.result()
    except Rejected:
        return None


def check(system: Supervisor, answers: list[tuple[int | None, Any]]) -> None:
    """Every seq has one record, which says what serial execution says; and so does every answer."""
    oracle = Oracle()
    records = sorted(system.commits(limit=10_000), key=lambda record: record.seq)
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    results = {}
    for record in records:
        results[record.seq] = record.result
        assert record.result == oracle.execute(record.trigger.type, record.trigger.payload)  # type: ignore[arg-type]
    for seq, result in answers:
        assert seq is not None
        assert results[seq] == result
    assert not oracle.submitted, "something that a commit submitted was never executed"
    snapshot = system.snapshot()
    accounts, counts = system.stores["accounts"], system.stores["counts"]
    balances = {key: [value.balance, value.transfers] for key, value in snapshot[accounts].items()}
    assert balances == oracle.accounts
    assert {key: value.transfers for key, value in snapshot[counts].items()} == oracle.counts
    stats = system.stats()
    assert sum(stats.state_counts.values()) == len(records)
    assert (stats.committed_through, stats.queued, stats.in_flight) == (len(records), 0, 0)
    assert {record.seq for record in system.runs(limit=10_000)} == set(results)


def play(seed: int, kind: type[Actor], journal: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    chance = random.Random(seed)
    system = make_system(journal, dispatchers=lambda _: SimulatedDispatchers(seed), settings=OFTEN)
    with crashing(monkeypatch) as crashes, system:
        submissions: list[Submission[int]] = []
        for _ in range(CRASHES):
            error = chance.choice([Crash, CrashBase])
            crashes.plan(kind, TARGETS[kind], int(chance.expovariate(1 / 150)), None, error)
            for _ in range(TRIGGERS // CRASHES):
                submissions.append(system.submit(planned(0, len(submissions))))
            for _ in range(chance.randrange(3)):
                chance.choice(submissions).state  # noqa: B018
                system.stats()
            if chance.random() < 0.5:
                result_of(submissions[chance.randrange(len(submissions))])
        results = [result_of(submission) for submission in submissions]
        answers = [(submission.seq, result) for submission, result in zip(submissions, results, strict=True)]
        settle(system)
        check(system, answers)
    return sum(crashes.happened.values())


def settle(system: Supervisor) -> None:
    """Wait for what commits have submitted."""
    dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]

    rests = 0
    while rests < 3:  # What a commit submits is accepted when the commit is durable.
        stats = system.stats()
        at_rest = not (stats.queued or stats.in_flight or stats.durable_through < stats.committed_through)
        rests = rests + 1 if at_rest else 0
        dispatchers.step()


@pytest.mark.parametrize(("kind", "journal", "first"), [each for each in SEEDED if each[0] is not Effects])
def test_an_actor_that_is_killed_at_any_line_loses_nothing_under_seeds_from(
    first: int, kind: type[Actor], journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        with monkeypatch.context() as patch:
            happened += play(seed, kind, journal and journal(), patch)
    assert happened >= SEEDS_PER_TEST // 4


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_after_kills_of_the_checkpointer_a_journal_opens_with_what_there_was_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any line of a checkpoint: what was half made counts for nothing, and others are made."""
    monkeypatch.setattr(journal_actor, "CHECKPOINT_BYTES_MIN", 2_000)  # Half a dozen for each world.
    killed = made = 0
    for seed in range(first, first + 15):
        chance, backend = random.Random(seed), MemoryBackend()
        system = make_system(backend, dispatchers=lambda _: SimulatedDispatchers(seed), settings=OFTEN)  # noqa: B023
        with monkeypatch.context() as patch, crashing(patch) as crashes, system:
            answers = []
            for number in range(TRIGGERS):
                if crashes.kind is None:
                    error = chance.choice(
                        [Crash, CrashBase, CrashBase]
                    )  # The first is caught: that checkpoint is skipped.
                    lines = int(chance.expovariate(1 / 40))
                    crashes.plan(Checkpointer, ("actors/journal/checkpoints.py",), lines, None, error)
                submission = system.submit(planned(0, number))
                result = result_of(submission)
                answers.append((submission.seq, result))
            settle(system)
            check(system, answers)
            killed += system.tree()["checkpointer"].restarts
            made += len(backend._checkpoints)
            crashes.kind = None  # The last one, at the stop, is made by who stops.
            expected = states_of(system)
        system = make_system(backend, dispatchers=lambda _: SimulatedDispatchers(seed))  # noqa: B023
        with system:
            assert states_of(system) == expected
    assert killed >= 15
    assert made >= 30


def states_of(system: Supervisor) -> dict[str, dict[str, Any]]:
    snapshot = system.snapshot()
    return {name: dict(snapshot[ref].items()) for name, ref in system.stores.items()}


@pytest.mark.parametrize(("kind", "journal", "first"), [*SEEDED, *EFFECTS_AGAIN])
def test_with_calls_effects_and_retries_nothing_is_lost_or_repeated_under_seeds_from(
    first: int, kind: type[Actor], journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        with monkeypatch.context() as patch:
            survive(seed, kind, journal and journal(), patch)
