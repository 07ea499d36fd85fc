"""Runs with declared footprints are overtaken while processes die: nothing is lost, and the order is serial all the same.

The journal's rows survive a death at any step. Afterwards the records are executed one after another, in seq order, by an
oracle in plain Python.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from seqtor import Collection, Record, Submission, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal import actor
from seqtor.actors.journal.checking import check_journal
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.recovery import checked_rows, commit_record

SEEDS_PER_TEST = 20
TRIGGERS = 40
LIVES_MAX = 40
KEYS = "abcde"


class Amount(Record):
    """What is under a key."""

    value: int = 0


class Slow(Trigger[int]):
    """Waits for the outside, and changes its key; it declares that it writes nothing else."""

    key: str
    wait_s: float


class Quick(Trigger[int]):
    """Changes one key, from what another holds."""

    key: str
    other: str
    amount: int


class Sum(Trigger[int]):
    """Reads everything, so it can overtake nobody."""


def make_system(backend: MemoryBackend, **options: Any) -> Supervisor:
    system = Supervisor(backend, **options)
    amounts = system.store("amounts", Collection(Amount))

    def of(tx: Transaction, key: str) -> int:
        return tx[amounts].get(key, Amount()).value

    @system.on(Slow, writes=lambda trigger: [(amounts, trigger.key)])
    async def slow(trigger: Slow, tx: Transaction) -> int:
        await asyncio.sleep(trigger.wait_s)
        tx[amounts][trigger.key] = Amount(value=of(tx, trigger.key) * 2 + 1)
        return of(tx, trigger.key)

    @system.on(Quick)
    def quick(trigger: Quick, tx: Transaction) -> int:
        tx[amounts][trigger.key] = Amount(value=of(tx, trigger.other) + trigger.amount)
        return of(tx, trigger.key)

    @system.on(Sum)
    def total(trigger: Sum, tx: Transaction) -> int:
        return sum(of(tx, key) for key in KEYS)

    return system


def executed(state: dict[str, int], trigger: str, payload: Any) -> int:
    """The oracle: what the trigger comes to, and the state after it."""
    if trigger == "Sum":
        return sum(state.values())
    key = payload["key"]
    if trigger == "Slow":
        state[key] = state.get(key, 0) * 2 + 1
    else:
        state[key] = state.get(payload["other"], 0) + payload["amount"]
    return state[key]


def planned(chance: random.Random) -> Trigger[int]:
    kind = chance.random()
    if kind < 0.3:
        return Slow(key=chance.choice(KEYS), wait_s=chance.choice([0.0, 0.001, 0.005]))
    if kind < 0.95:
        return Quick(key=chance.choice(KEYS), other=chance.choice(KEYS), amount=chance.randint(0, 9))
    return Sum()


def live(
    backend: MemoryBackend, plan: list[Trigger[int]], seed: int, steps: int | None, answers: dict[str, Any]
) -> bool:
    """One process, to its death after so many steps or to its end; notes what is answered. True if nothing was left."""
    dispatchers = SimulatedDispatchers(seed)
    system = make_system(backend, dispatchers=lambda settings: dispatchers)
    system.start()
    waiting: dict[str, Submission[int]] = {}
    for number, trigger in enumerate(plan):
        waiting[f"{number}"] = system.submit(trigger, idempotency_key=f"{number}")
    while waiting:
        if steps is not None:
            if not steps:
                dispatchers.drop()
                return False
            steps -= 1
        assert dispatchers.step(), "nothing can happen, and something is waited for"
        for key in [key for key, submission in waiting.items() if submission.done]:
            submission = waiting.pop(key)
            answer = (submission.seq, submission.result(0))
            assert answers.setdefault(key, answer) == answer, "the same key got another answer"
    system.stop()
    system.verify()
    return True


def check(backend: MemoryBackend, answers: dict[str, Any]) -> int:
    """Hold what is on disk against the oracle, and against what was answered; returns how many had overtaken."""
    backend.close()
    opened = backend.open(write=False)
    assert check_journal(backend, opened).damage == ()
    state: dict[str, int] = {}
    by_key: dict[str, tuple[int, Any]] = {}
    records = [
        commit_record(row, "here") for row in checked_rows(backend, 1, opened.commits_last, GENESIS, opened.gaps)
    ]
    for record in records:
        assert record.key is not None
        assert record.key not in by_key, "a key was executed twice"
        by_key[record.key] = (record.seq, record.result)
        if record.seq <= opened.commits_through:
            assert record.result == executed(state, record.trigger.type, record.trigger.payload)
    for key, answer in answers.items():
        assert by_key[key] == answer, "what was answered is not in the journal"
    backend.close()
    return sum(record.previous > record.seq for record in records)


@pytest.mark.parametrize("first", range(0, 60, SEEDS_PER_TEST))
def test_overtaken_runs_keep_their_seqs_through_the_death_of_the_process_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken = gaps = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        chance = random.Random(seed)
        monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", chance.choice([500, 4_000, 1 << 20]))
        plan = [planned(chance) for _ in range(TRIGGERS)]
        backend = MemoryBackend()
        answers: dict[str, Any] = {}
        for life in range(LIVES_MAX):
            steps = chance.choice([20, 100, 300, 600]) + chance.randrange(100) if life < LIVES_MAX - 1 else None
            if live(backend, plan, seed * 1000 + life, steps, answers):
                break
            check(backend, answers)
            gaps += bool(backend._reached.gaps)
        overtaken += check(backend, answers)
        assert len(answers) == TRIGGERS
        assert backend._reached == (TRIGGERS, TRIGGERS, frozenset())
    assert overtaken
    assert gaps, "no process died while something was overtaken"
