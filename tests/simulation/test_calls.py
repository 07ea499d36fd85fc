"""Recorded calls in every order, and over deaths of the process at any step: asked once, answered alike, durable first.

The outside world checks each call that reaches it: whether what it was asked about is durable, and whether it has been
answered before. Handlers check each answer that they get. What runs wrote is checked against counting, and by replay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from seqtor import Collection, Record, StoreRef, Supervisor, Transaction, Trigger, current_call_id
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal import actor
from seqtor.actors.journal.contract import EntryRow, Group
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.stores import CollectionView
from seqtor.messages import CallRecord
from tests.programs import WAIT_S, simulated
from tests.seeds import seeds

SEEDS_PER_TEST = 20
RUNS = 12
KEYS = ("a", "b")
LIVES_MAX = 40
SEQUENCES = ["arrival", "completion"]


class Note(Record):
    """What is kept under a key."""

    count: int = 0
    text: str = ""


class Consult(Trigger[str]):
    """Asks twice and notes the answers; a plain handler."""

    key: str
    number: int


class ConsultAtOnce(Trigger[str]):
    """Asks twice at a time, then once more; a coroutine function."""

    key: str
    number: int


class Answer(Record):
    """What the world says."""

    text: str
    call_id: str


class Unwilling(Exception):
    """What the world raises now and then."""


class Death(BaseException):
    """The process is gone."""


class Mortal(SimulatedDispatchers):
    """Dies after so many steps, wherever that is."""

    steps_to_live: int | None = None

    def step(self) -> bool:
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live < 0:
                raise Death
        return super().step()


class World:
    """What is outside, in all lives of the process, with the journal that it looks into."""

    def __init__(self, backend: Checked | None, sequence: Any = "arrival") -> None:
        self.backend = backend
        self.sequence = sequence
        self.life = 0
        self.made: dict[str, list[int]] = {}  # By call id, the lives in which it was made.
        self.arguments: dict[str, Any] = {}
        self.snapshots: dict[str, int] = {}  # By run (its first uuid4), the seq after which the last attempt reads.
        self.inputs: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.may_answer = True

    def begin(self, tx: Transaction, key: str, notes: StoreRef[CollectionView[Note]]) -> tuple[str, Any]:
        """An attempt begins: its recorded inputs are those of the run's first call, whichever attempt or life that was."""
        me = str(tx.uuid4())
        inputs = (tx.now.isoformat(), tx.random.random(), str(tx.uuid4()), tx.peek(notes).get(key, Note()).text)
        assert self.inputs.get(me, inputs) == inputs
        self.snapshots[me] = tx.snapshot_seq
        return me, inputs

    def asked(self, me: str, inputs: Any, *arguments: Any) -> Answer:
        """A call has arrived."""
        call_id = current_call_id()
        assert self.may_answer, "replay makes no call"
        assert self.life not in self.made.get(call_id, ()), "made twice in one life"
        assert self.arguments.setdefault(call_id, (me, inputs, arguments)) == (me, inputs, arguments)
        self.made.setdefault(call_id, []).append(self.life)
        if self.backend is not None:
            assert call_id not in self.recorded(), "an answered call is made again"
            assert self.snapshots[me] <= self.backend.durable_through, "what it is asked about is not durable"
            run = call_id.split(":")[0]
            assert any(row.ref == run and row.kind == "accepted" for row in self.backend.written), (
                "the run is not durable"
            )
            self.inputs[me] = inputs
        else:
            self.inputs.setdefault(me, inputs)
        if sum(map(ord, call_id)) % 4 == 0:
            raise Unwilling(call_id)
        return Answer(text=f"{len(call_id)}", call_id=call_id)

    def recorded(self) -> Mapping[str, Any]:
        """The answers that are durable, by call id."""
        assert self.backend is not None
        return self.backend.calls

    def answered(self, call_id: str, answer: Any) -> None:
        """A handler got an answer, or an exception."""
        if self.backend is not None and self.may_answer:
            assert call_id in self.recorded(), "the handler has an answer that is not durable"
        assert self.answers.setdefault(call_id, answer) == answer


def ask(world: World, tx: Transaction, *arguments: Any) -> str:
    """A call from a plain handler, and the checks of its answer."""
    try:
        answer = tx.call(QUESTIONS[id(world)].ask, *arguments)
    except Unwilling as refusal:
        (call_id,) = refusal.args
        world.answered(call_id, (type(refusal), refusal.args))
        return "unwilling"
    assert type(answer) is Answer
    world.answered(answer.call_id, answer)
    return answer.text


async def ask_async(world: World, tx: Transaction, *arguments: Any) -> str:
    try:
        answer = await tx.acall(QUESTIONS[id(world)].ask_async, *arguments)
    except Unwilling as refusal:
        (call_id,) = refusal.args
        world.answered(call_id, (type(refusal), refusal.args))
        return "unwilling"
    world.answered(answer.call_id, answer)
    return answer.text


class Checked:
    """What is durable in a journal, which can be looked at from any thread."""

    durable_through = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.written: list[EntryRow] = []
        self.calls: dict[str, Any] = {}

    def append(self, group: Group) -> None:
        super().append(group)  # type: ignore[misc]
        self.written += group.entries
        if group.commits:
            self.durable_through = group.commits[-1].seq
        for row in group.entries:
            if row.kind == "call":
                record = CallRecord.model_validate_json(row.body)
                assert record.first_snapshot <= self.durable_through, (
                    "an input of a run names a state that a crash can undo"
                )
                if record.call is not None:
                    self.calls[record.call.id] = record.call


class CheckedMemory(Checked, MemoryBackend):
    """In memory."""


class CheckedSqlite(Checked, SqliteBackend):
    """On disk."""


class Questions:
    """What is called: methods of an object that is no argument."""

    def __init__(self, world: World) -> None:
        self.world = world

    def ask(self, *arguments: Any) -> Answer:
        return self.world.asked(*arguments)

    async def ask_async(self, *arguments: Any) -> Answer:
        await asyncio.sleep(len(str(arguments)) % 3 / 100)
        answer = self.world.asked(*arguments)
        await asyncio.sleep(0.01)
        return answer


QUESTIONS: dict[int, Questions] = {}


def make_system(system: Supervisor, world: World) -> StoreRef[CollectionView[Note]]:
    QUESTIONS[id(world)] = Questions(world)
    notes = system.store("notes", Collection(Note))

    @system.on(Consult, deadline=WAIT_S, sequence=world.sequence)
    def consult(trigger: Consult, tx: Transaction) -> str:
        me, inputs = world.begin(tx, trigger.key, notes)
        note = tx[notes].get(trigger.key, Note())
        first = ask(world, tx, me, inputs, trigger.number)
        second = ask(world, tx, me, inputs, first, note.count % 2, tx.changed(notes, trigger.key))
        tx[notes][trigger.key] = Note(count=note.count + 1, text=f"{first}{second}")
        return f"{first} {second}"

    @system.on(ConsultAtOnce, deadline=1000 * WAIT_S, sequence=world.sequence)
    async def consult_at_once(trigger: ConsultAtOnce, tx: Transaction) -> str:
        me, inputs = world.begin(tx, trigger.key, notes)
        note = tx[notes].get(trigger.key, Note())
        answers: list[str] = []

        async def one(number: int) -> None:
            answers.append(f"{number}:{await ask_async(world, tx, me, inputs, number)}")

        await asyncio.gather(one(1), one(2), one(3))
        last = await ask_async(world, tx, me, inputs, answers, note.count % 2)
        tx[notes][trigger.key] = Note(count=note.count + 1, text=last)
        return " ".join([*answers, last])

    return notes


def planned(number: int) -> Trigger[str]:
    kind = Consult if number % 3 else ConsultAtOnce
    return kind(key=KEYS[number % len(KEYS)], number=number)


def check_the_end(system: Supervisor, world: World, notes: StoreRef[CollectionView[Note]]) -> None:
    """All runs have committed once, in an order that replay confirms without a call."""
    through = system.stats().committed_through
    counts = {key: note.count for key, note in system.snapshot(through)[notes].items()}
    assert counts == {key: RUNS // len(KEYS) for key in KEYS}
    world.may_answer = False
    assert system.verify().executed == RUNS
    world.may_answer = True


# In one life ----------------------------------------------------------------------------------------------------------


def journal_of(seed: int) -> CheckedMemory:
    """A journal; the ids of runs and calls follow from its id, and that from the seed."""
    backend = CheckedMemory()
    backend._journal_id = f"{random.Random(seed).getrandbits(128):032x}"
    return backend


def live_once(system: Supervisor, world: World) -> None:
    notes = make_system(system, world)
    with system:
        for submission in [system.submit(planned(number)) for number in range(RUNS)]:
            assert submission.result(WAIT_S)
        check_the_end(system, world, notes)
        assert all(len(lives) == 1 for lives in world.made.values())


@pytest.mark.parametrize("first", seeds(20, SEEDS_PER_TEST))
@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_call_is_made_once_however_often_its_run_executes_under_seeds_from(
    sequence: str, journaled: bool, first: int
) -> None:
    conflicts = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        backend = journal_of(seed) if journaled else None
        system = simulated(seed, journal=backend)
        live_once(system, World(backend, sequence))
        conflicts += system.stats().conflicts
    assert conflicts, "nothing was executed twice: the test shows nothing"


@pytest.mark.parametrize("journal", ["none", "memory", "sqlite"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_call_is_made_once_however_often_its_run_executes_on_threads(
    sequence: str, journal: str, tmp_path: Path
) -> None:
    for number in range(5):
        backend = journal_at(journal, tmp_path / f"{number}.db")
        live_once(Supervisor(backend, settings={"threads": 3}), World(backend, sequence))


@pytest.mark.parametrize("seed", range(4))
def test_a_call_is_made_once_over_a_journal_on_disk(seed: int, tmp_path: Path) -> None:
    backend = CheckedSqlite(tmp_path / "calls.db")
    live_once(simulated(seed, journal=backend), World(backend))


def journal_at(kind: str, path: Path) -> Checked | None:
    return {"none": lambda: None, "memory": CheckedMemory, "sqlite": lambda: CheckedSqlite(path)}[kind]()


# In many lives --------------------------------------------------------------------------------------------------------


def live(backend: CheckedMemory, world: World, seed: int, steps: int | None) -> bool:
    """One life of the process: everything is submitted again under its keys. True if it came to its end."""
    dispatchers = Mortal(seed)
    dispatchers.steps_to_live = steps
    system = Supervisor(backend, dispatchers=lambda settings: dispatchers)
    notes = make_system(system, world)
    try:
        system.start()
        for submission in [system.submit(planned(number), idempotency_key=f"{number}") for number in range(RUNS)]:
            submission.result()
        check_the_end(system, world, notes)
        system.stop()
    except Death:
        backend.close()
        dispatchers.stop(0)  # What coroutines do at their end reaches nobody any more.
        return False
    return True


@pytest.mark.parametrize("first", seeds(40, SEEDS_PER_TEST))
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_only_the_calls_in_flight_at_a_death_are_made_once_more_with_their_ids_under_seeds_from(
    sequence: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_again = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        with monkeypatch.context() as patch:
            made_again += play_lives(seed, sequence, patch)
    assert made_again, "nobody died in the middle of a call: the test shows nothing"


def play_lives(seed: int, sequence: str, patch: pytest.MonkeyPatch) -> int:
    """Make calls through deaths of the process; returns how many were made once more."""
    chance = random.Random(seed)
    patch.setattr(actor, "CHECKPOINT_BYTES_MIN", chance.choice([500, 4_000, 1 << 20]))
    backend = journal_of(seed)
    world = World(backend, sequence)
    for life in range(LIVES_MAX):
        world.life = life
        steps = chance.randrange(1, 500) if life < LIVES_MAX - 1 else None
        if live(backend, world, seed * 1000 + life, steps):
            break
    return sum(1 for lives in world.made.values() if len(lives) > 1)
