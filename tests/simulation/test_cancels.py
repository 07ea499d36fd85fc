"""Cancels while actors are killed at any line, and while the process dies at any step: each trigger ends one way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import Cancelled, Collection, NotRunning, Retry, State, Submission, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal import actor
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import CancelTrigger, EndTriggers, TriggersEnded
from tests.programs import WAIT_S, Account
from tests.simulation.deaths import OFTEN, die_at_any_step, kill_at_any_line

FILES = ("actors/coordinator.py", "actors/sequencer/actor.py", "actors/sequencer/waiting.py", "actors/waiting_room.py",
         "actors/journal/actor.py", "actors/journal/open_runs.py")  # fmt: skip
SEEDS_PER_TEST = 25


class Note(Trigger[int]):
    """Counts under its number."""

    number: int
    fails: bool = False


def make(dispatchers: SimulatedDispatchers, backend: MemoryBackend | None) -> Supervisor:
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=OFTEN)
    accounts = system.store("accounts", Collection(Account))

    @system.on(Note, retry=Retry(3, backoff=2))
    def note(trigger: Note, tx: Transaction) -> int:
        if trigger.fails and tx.random.random() < 0.7:
            raise ValueError("not now")
        tx[accounts].increment(str(trigger.number), balance=1)
        return trigger.number

    return system


KILLED: list[tuple[type[Actor], type | None]] = [
    (Coordinator, CancelTrigger), (Sequencer, CancelTrigger), (Coordinator, TriggersEnded), (Journal, EndTriggers),
    (Journal, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message", "journaled"),
    [(*killed, journaled) for killed in KILLED for journaled in (False, True) if journaled or killed[0] is not Journal],
)
def test_an_actor_that_is_killed_at_any_line_of_a_cancel_ends_the_trigger_once(
    kind: type[Actor], message: type | None, journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(number: int, dispatchers: SimulatedDispatchers, kill: Callable[[], None]) -> None:
        with make(dispatchers, MemoryBackend() if journaled else None) as system:
            kept = system.submit(Note(number=1), delay=2)
            delayed = system.submit(Note(number=2), delay=1, idempotency_key="k")
            if number % 2:
                delayed.accepted().get()
            kill()
            assert delayed.cancel()
            with pytest.raises(Cancelled):
                delayed.result(0)
            assert kept.result(WAIT_S) == 1
            again = system.submit(Note(number=3), idempotency_key="k")
            assert again.result(WAIT_S) == 3
            stats = system.stats()
            assert stats.state_counts == {State.COMMITTED: 2, State.CANCELLED: 1}
            assert (stats.queued, stats.delayed) == (0, 0)
            running: Any = system._running
            assert running.edge.delayed == running._ledger.waiting_room.left == 2
            assert running._ledger.ending == {}

    assert kill_at_any_line(monkeypatch, kind, FILES, message, play, worlds=50, worlds_per_line=2) >= 2


@pytest.mark.parametrize("first", range(0, 100, SEEDS_PER_TEST))
def test_cancels_through_crashes_and_deaths_are_for_good_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled_durably = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        with monkeypatch.context() as patch:
            cancelled_durably += play_lives(seed, patch)
    assert cancelled_durably > SEEDS_PER_TEST


def play_lives(seed: int, patch: pytest.MonkeyPatch) -> int:
    """Submit and cancel through crashes and deaths; returns how many were cancelled for good."""
    patch.setattr(actor, "CHECKPOINT_BYTES_MIN", random.Random(seed).choice([300, 3_000, 1 << 20]))
    client = Client()
    system, _ = die_at_any_step(seed, make, client.act, begin=client.begin, lives=5, steps=(60, 400), crashes=0.01)
    finish(system)
    records = list(system.commits())
    system.verify()
    system.stop()
    ended = [record.trigger.payload["number"] for record in records if record.state is not State.RETRYING]  # type: ignore[index, call-overload]
    assert len(ended) == len(set(ended)), "a trigger has two outcomes"
    ran_after = client.cancelled & set(ended)
    assert not ran_after, f"seed {seed}: cancelled, and run all the same: {ran_after}"
    return len(client.cancelled)


class Client:
    """Submits and cancels, through the lives of a system."""

    def __init__(self) -> None:
        self.cancelled: set[int] = set()
        self.submitted = 0
        self._open: dict[int, Submission[int]] = {}  # Of this life.

    def begin(self, system: Supervisor, chance: random.Random) -> None:
        self._open = {}

    def act(self, system: Supervisor, chance: random.Random) -> bool:
        draw = chance.random()
        if draw < 0.08:
            delay = chance.choice([None, None, 1.0, 9.0])
            submission = system.submit(Note(number=self.submitted, fails=chance.random() < 0.5), delay=delay)
            self._open[self.submitted] = submission
            if chance.random() < 0.5:
                submission.accepted().get()
            self.submitted += 1
        elif draw < 0.13 and self._open:
            number = chance.choice(list(self._open))
            if self._open.pop(number).cancel():
                self.cancelled.add(number)
        return draw < 0.13


def finish(system: Supervisor) -> None:
    """Let everything end that an earlier process has left."""
    running: Any = system._running
    left = list(running.intake.open)
    for submission in left:
        try:
            submission.result(WAIT_S)
        except NotRunning:
            raise
        except Exception:
            continue
