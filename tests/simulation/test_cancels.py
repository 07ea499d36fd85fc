"""Cancels while actors are killed at any line, and while the process dies at any step: each trigger ends one way."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pykka.messages import ProxyCall

from seqtor import Cancelled, Collection, NotRunning, Retry, State, Submission, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal import actor
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages import CancelTrigger, CommitRecord, EndTriggers, TriggersEnded
from tests.programs import WAIT_S, Account
from tests.simulation.crashes import Crash, crashing

FILES = ("actors/coordinator.py", "actors/sequencer/actor.py", "actors/sequencer/waiting.py", "actors/waiting_room.py",
         "actors/journal/actor.py", "actors/journal/open_runs.py")  # fmt: skip
SEEDS_PER_TEST = 25


class Note(Trigger[int]):
    """Counts under its number."""

    number: int
    fails: bool = False


def make(dispatchers: SimulatedDispatchers, backend: MemoryBackend | None) -> Supervisor:
    settings = {"restart_intensity": 1_000_000}
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)
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
    happened = 0
    for lines in range(50):
        with monkeypatch.context() as patch, crashing(patch) as crashes:
            dispatchers = SimulatedDispatchers(lines)
            with make(dispatchers, MemoryBackend() if journaled else None) as system:
                kept = system.submit(Note(number=1), delay=2)
                delayed = system.submit(Note(number=2), delay=1, idempotency_key="k")
                if lines % 2:
                    delayed.accepted().get()
                crashes.plan(kind, FILES, lines // 2, message, Crash)
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
                assert running._delayed == running._ledger.waiting_room.left == 2
                assert running._ledger.ending == {}
            happened += sum(crashes.happened.values())
    assert happened >= 2


@pytest.mark.parametrize("first", range(0, 100, SEEDS_PER_TEST))
def test_cancels_through_crashes_and_deaths_are_for_good_under_seeds_from(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled_durably = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        chance = random.Random(seed)
        monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", chance.choice([300, 3_000, 1 << 20]))
        backend = MemoryBackend()
        cancelled: set[int] = set()
        submitted = 0
        lives = 5
        records: list[CommitRecord] = []
        for life in range(lives):
            dispatchers = SimulatedDispatchers(seed * 100 + life)
            dispatchers.clock.advance_to(life * 7.0)
            system = make(dispatchers, backend).start()
            open_ones: dict[int, Submission[int]] = {}
            last = life == lives - 1
            for _ in range(0 if last else chance.randrange(60, 400)):
                draw = chance.random()
                if draw < 0.08:
                    delay = chance.choice([None, None, 1.0, 9.0])
                    note = Note(number=submitted, fails=chance.random() < 0.5)
                    open_ones[submitted] = system.submit(note, delay=delay)
                    if chance.random() < 0.5:
                        open_ones[submitted].accepted().get()
                    submitted += 1
                elif draw < 0.13 and open_ones:
                    number = chance.choice(list(open_ones))
                    if open_ones.pop(number).cancel():
                        cancelled.add(number)
                elif draw < 0.14:
                    crash_one(system, chance)
                elif dispatchers.clock.time() > 1_700_000_000 + life * 7 + 6.5 or not dispatchers.step():
                    break
            if last:
                finish(system)
                records = list(system.commits())
                system.verify()
                system.stop()
            else:
                backend.close()
        ended = [record.trigger.payload["number"] for record in records if record.state is not State.RETRYING]  # type: ignore[index, call-overload]
        assert len(ended) == len(set(ended)), "a trigger has two outcomes"
        ran_after = cancelled & set(ended)
        assert not ran_after, f"seed {seed}: cancelled, and run all the same: {ran_after}"
        cancelled_durably += len(cancelled)
    assert cancelled_durably > SEEDS_PER_TEST


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


def crash_one(system: Supervisor, chance: random.Random) -> None:
    """Make one of the core's actors crash, at its next message."""
    running: Any = system._running
    ref = chance.choice(running._path.refs)
    ref.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))
