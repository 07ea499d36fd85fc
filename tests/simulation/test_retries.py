"""Retries, aborts and crashes at any step: every seq ends once, every trigger has one outcome, the order stays serial.

Handlers fail because of what they read, so the serial oracle says which run fails and which of its retries does not. Seeds
choose the order of everything, the moments of aborts, of crashes of the core's actors, and of deaths of the process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    Aborted,
    Collection,
    HandlerFailed,
    NotRunning,
    Record,
    Retry,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.committer import Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal import actor
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages import AbortRun, CommitRecord, WaitOver
from tests.oracle import Outcome, PlainCollection, SerialOracle
from tests.simulation.crashes import Crash
from tests.simulation.deaths import crash_one, kill_at_any_line

SEEDS_PER_TEST = 25
TRIGGERS = 30
LIVES_MAX = 40
MAX_RUNS = 4
POLICY = Retry(MAX_RUNS, backoff=0.5, jitter=0.5)
ACCOUNTS = "abc"


class Purse(Record):
    """What is in an account."""

    amount: int = 0
    taken: int = 0


class Put(Trigger[int]):
    """Adds to an account; never fails."""

    account: str
    amount: int


class Take(Trigger[int]):
    """Takes from an account; fails, with retries, while there is not enough."""

    account: str
    amount: int


class Linger(Trigger[str]):
    """Waits until the test lets it go, if it is the head."""

    name: str


class Empty(Exception):
    """There is not enough."""


class Desk:
    """The system under test, and its handlers for the oracle."""

    def __init__(self, seed: int, backend: MemoryBackend | None) -> None:
        self.dispatchers = SimulatedDispatchers(seed)
        self.system = Supervisor(backend, dispatchers=lambda settings: self.dispatchers)
        purses = self.system.store("purses", Collection(Purse))

        def put(trigger: Put, tx: Transaction) -> int:
            purse = tx[purses].get(trigger.account, Purse())
            tx[purses][trigger.account] = purse.replace(amount=purse.amount + trigger.amount)
            return purse.amount + trigger.amount

        async def take(trigger: Take, tx: Transaction) -> int:
            purse = tx[purses].get(trigger.account, Purse())
            if purse.amount < trigger.amount:
                raise Empty(f"{trigger.account} has {purse.amount}, not {trigger.amount}")
            left = purse.replace(amount=purse.amount - trigger.amount, taken=purse.taken + 1)
            tx[purses][trigger.account] = left
            return left.amount

        self.system.on(Put)(put)
        self.system.on(Take, retry=POLICY)(take)
        self.handlers: dict[str, Any] = {"Put": put, "Take": take}
        self.kinds: dict[str, Any] = {"Put": Put, "Take": Take}


def planned(number: int) -> Trigger[int]:
    chance = random.Random(f"plan {number}")
    kind = Take if chance.random() < 0.5 else Put
    return kind(account=chance.choice(ACCOUNTS), amount=chance.randrange(1, 20))


def outcome_of(submission: Submission[int]) -> tuple[State, Any]:
    try:
        return State.COMMITTED, submission.result(0)
    except HandlerFailed as failure:
        return State.FAILED, str(failure.__cause__)
    except Aborted as aborted:
        return State.ABORTED, str(aborted)


def run_serially(desk: Desk, records: list[CommitRecord]) -> dict[str, tuple[State, Any]]:
    """Execute the records one after another and hold each against what it says; returns how each trigger ended."""
    oracle = SerialOracle({"purses": PlainCollection(Purse)})
    ended: dict[str, tuple[State, Any]] = {}
    first_of: dict[str, str] = {}  # The first run of the trigger, by the id of each of its runs.
    expected: dict[str, CommitRecord] = {}  # Retries that are still to come.
    for seq, record in enumerate(records, 1):
        assert record.seq == seq
        before = expected.pop(record.run, None)
        assert (record.retry_of, record.run_number) == (
            (None, 1) if before is None else (before.run, before.run_number + 1)
        ), record
        first = first_of[record.run] = record.run if before is None else first_of[before.run]
        assert first not in ended, "a trigger was executed after its outcome"
        if record.state is State.ABORTED:
            outcome: Outcome = oracle.skip(State.ABORTED)
        else:
            kind = desk.kinds[record.trigger.type]
            trigger = kind.model_validate(record.trigger.payload)
            max_runs = MAX_RUNS if kind is Take else 1
            handler = desk.handlers[record.trigger.type]
            outcome = oracle.run(handler, trigger, max_runs=max_runs, run_number=record.run_number)
        assert (record.state, record.result) == (outcome.state, outcome.result), record
        assert (record.retry is not None) == (record.state is State.RETRYING)
        if record.retry is not None:
            follows = record.retry
            assert (follows.retry_of, follows.trigger, follows.key) == (record.run, record.trigger, record.key)
            assert record.retry.due is not None
            assert record.retry.due >= record.ended_at - 1e-6
            expected[record.retry.run] = record
        else:
            message = record.error.message if record.error is not None else None
            ended[first] = (record.state, outcome.result if record.state is State.COMMITTED else message)
    assert not expected, "a retry never ran"
    return ended


def records_of(backend: MemoryBackend) -> list[CommitRecord]:
    return [CommitRecord.model_validate_json(row.body) for row in backend._commits]


class Trouble:
    """What happens to a system besides its triggers."""

    def __init__(self, seed: int, *, crashes: bool) -> None:
        self.chance = random.Random(f"trouble {seed}")
        self.crashes = crashes
        self.aborted: set[int] = set()

    def strike(self, desk: Desk, open_submissions: list[Submission[int]]) -> None:
        draw = self.chance.random()
        if draw < 0.01:
            seqs = [submission.seq for submission in open_submissions if submission.seq is not None]
            if seqs:
                seq = self.chance.choice(seqs)
                try:
                    desk.system.abort(seq, "at any step")
                except LookupError:
                    return  # It has ended as retrying, or just now.
                self.aborted.add(seq)
        elif draw < 0.016 and self.crashes:
            crash_one(desk.system, self.chance)


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("first", range(0, 50, SEEDS_PER_TEST))
def test_retries_and_aborts_at_any_step_keep_the_order_serial_under_seeds_from(
    first: int, crashes: bool, journaled: bool
) -> None:
    aborts = retries = restarts = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        backend = MemoryBackend() if journaled else None
        desk, trouble = Desk(seed, backend), Trouble(seed, crashes=crashes)
        with desk.system as system:
            submissions = [system.submit(planned(number)) for number in range(TRIGGERS)]
            first_ids = [submission.id for submission in submissions]
            while left := [submission for submission in submissions if not submission.done]:
                assert desk.dispatchers.step(), f"seed {seed}: nothing can happen, and something is waited for"
                trouble.strike(desk, left)
            records = list(system.commits(oldest_first=True))
            ended = run_serially(desk, records)
            assert [submission.id for submission in submissions] == first_ids
            assert ended == {each.id: outcome_of(each) for each in submissions}, f"seed {seed}"
            assert {each.seq for each in submissions} == {
                record.seq for record in records if record.state is not State.RETRYING
            }
            letters = {letter.seq for letter in system.dead_letters()}
            assert letters == {record.seq for record in records if record.state is State.FAILED}
            assert trouble.aborted == {record.seq for record in records if record.state is State.ABORTED}
            counts = system.stats().state_counts
            assert sum(counts.values()) == len(records)
            assert system.stats().retries_waiting == 0
            system.verify()
        aborts += counts.get(State.ABORTED, 0)
        retries += counts.get(State.RETRYING, 0)
        restarts += system.stats().restarts
    assert (restarts > SEEDS_PER_TEST / 5) == crashes
    assert aborts > SEEDS_PER_TEST / 5
    assert retries > SEEDS_PER_TEST


@pytest.mark.parametrize("journaled", [False, True])
def test_a_retry_that_becomes_due_while_the_core_crashes_runs_once(journaled: bool) -> None:
    crashed = 0
    for seed in range(40):
        desk = Desk(seed, MemoryBackend() if journaled else None)
        with desk.system as system:
            submission = system.submit(Take(account="a", amount=1))
            desk.dispatchers.run_to_rest()
            assert system.ask(Put(account="a", amount=5)) == 5
            desk.dispatchers.run_to_rest()
            assert desk.dispatchers.step(), "the backoff is over, and the coordinator has yet to hear of it"
            crash_one(desk.system, random.Random(seed))
            assert submission.result(60.0) == 4
            desk.dispatchers.run_to_rest()
            crashed += system.stats().restarts
            records = list(system.commits(oldest_first=True))
            assert [record.state for record in records] == [State.RETRYING, State.COMMITTED, State.COMMITTED]
    assert crashed == 40


@pytest.mark.parametrize("journaled", [False, True])
def test_an_actor_that_is_killed_at_any_line_while_a_retry_is_due_loses_nothing(
    journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(number: int, dispatchers: SimulatedDispatchers, kill: Callable[[], None]) -> None:
        desk = Desk(number, MemoryBackend() if journaled else None)
        with desk.system as system:
            submission = system.submit(Take(account="a", amount=1))
            desk.dispatchers.run_to_rest()
            assert system.ask(Put(account="a", amount=5)) == 5
            kill()
            assert submission.result(60.0) == 4
            records = list(system.commits(oldest_first=True))
            assert [record.state for record in records] == [State.RETRYING, State.COMMITTED, State.COMMITTED]
            stats = system.stats()
            assert (stats.retries_waiting, stats.delayed) == (0, 0)

    files = ("actors/coordinator.py", "actors/waiting_room.py")
    assert kill_at_any_line(monkeypatch, Coordinator, files, WaitOver, play, worlds=50) >= 25


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("kind", [Coordinator, Committer])
def test_an_actor_that_is_killed_at_any_line_of_an_abort_aborts_it_at_once_or_when_asked_again(
    kind: type[Actor], journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (
        "actors/coordinator.py",
        "actors/committer/actor.py",
        "actors/committer/order.py",
        "actors/committer/states.py",
    )

    def play(number: int, dispatchers: SimulatedDispatchers, kill: Callable[[], None]) -> None:
        desk = Desk(number, MemoryBackend() if journaled else None)
        opened = asyncio.Event()

        @desk.system.on(Linger)
        async def linger(trigger: Linger, tx: Transaction) -> str:
            if trigger.name == "head":
                await opened.wait()
            return trigger.name

        with desk.system as system:
            head, waiting, behind = system.submit_many([Linger(name=name) for name in ("head", "waiting", "behind")])
            desk.dispatchers.run_to_rest()
            kill()
            try:
                system.abort(2, "any line")
            except Crash:
                desk.dispatchers.run_to_rest()
                system.abort(2, "any line")
            desk.dispatchers.run_to_rest()
            opened.set()
            assert (head.result(60.0), behind.result(60.0)) == ("head", "behind")
            assert outcome_of(waiting)[0] is State.ABORTED
            assert [record.state.value for record in system.runs()] == ["committed", "aborted", "committed"]

    assert kill_at_any_line(monkeypatch, kind, files, AbortRun, play, worlds=40) >= 8


def live(desk: Desk, steps: int | None, trouble: Trouble, answers: dict[str, Any]) -> bool:
    """One process: submits everything, notes what is answered; False if it dies, after so many steps."""
    system = desk.system.start()
    waiting = {f"{number}": system.submit(planned(number), idempotency_key=f"{number}") for number in range(TRIGGERS)}
    while waiting:
        if steps is not None:
            if not steps:
                desk.dispatchers.drop()
                return False
            steps -= 1
        assert desk.dispatchers.step(), "nothing can happen, and something is waited for"
        trouble.strike(desk, list(waiting.values()))
        for key in [key for key, submission in waiting.items() if submission.done]:
            submission = waiting.pop(key)
            answer = (submission.seq, *outcome_of(submission))
            assert answers.setdefault(key, answer) == answer, "the same key got another answer"
    try:
        system.stop()
    except NotRunning:
        return False
    return True


@pytest.mark.parametrize("first", range(0, 100, SEEDS_PER_TEST))
def test_processes_that_die_at_any_step_run_every_retry_exactly_once_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    retried_over_a_death = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        chance = random.Random(seed)
        monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", chance.choice([500, 4_000, 1 << 20]))
        backend, answers = MemoryBackend(), dict[str, Any]()
        trouble, desk = Trouble(seed, crashes=False), Desk(seed, None)
        for life in range(LIVES_MAX):
            desk = Desk(seed * 1000 + life, backend)
            desk.dispatchers.clock.advance_to(life * 1.0)  # So that some retries are overdue at a start.
            if live(desk, chance.randrange(1, 300) if life < LIVES_MAX - 1 else None, trouble, answers):
                break
            backend.close()
        records = records_of(backend)
        ended = run_serially(desk, records)
        by_key = {record.key: record for record in records if record.state is not State.RETRYING}
        assert len(by_key) == len(ended) == TRIGGERS
        assert answers == {
            key: (record.seq, record.state, record.result if record.error is None else record.error.message)
            for key, record in by_key.items()
        }
        epochs = {record.run: record.epoch for record in records}
        retried_over_a_death += sum(
            record.retry is not None and epochs[record.retry.run] != record.epoch for record in records
        )
    assert retried_over_a_death > SEEDS_PER_TEST, "no retry was left to a later process"
