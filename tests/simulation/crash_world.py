"""The program whose actors are killed: everything that leaves something behind which a crash might lose or repeat.

Owns the system and what must hold of it at the end, however often actors have crashed.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from seqtor import (
    Access,
    Cancelled,
    Collection,
    EffectContext,
    HandlerFailed,
    Record,
    Rejected,
    Restart,
    Retry,
    State,
    StoreActor,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
)
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers, Write
from seqtor.actors.base import Actor
from seqtor.actors.committer import Committer
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.dispatchers.exploring import Explorer, RandomWalk
from seqtor.actors.effects import Effects
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.actors.stores.cell import StoreCell
from seqtor.testing import watch
from tests.programs import WAIT_S
from tests.simulation.crashes import Crash, CrashBase, crashing
from tests.simulation.deeds import Deed, add
from tests.simulation.telling import note

__all__ = ["CRASHES", "OFTEN", "TARGETS", "CrashWorld", "at_rest", "survive"]

OFTEN = {"restart_intensity": 1_000_000, "deadline": 1e6, "deadline_completion": 1e6}
CRASHES = 6
STEPS_MAX = 200_000  # Far more than it takes: what is never answered fails soon.
KEYS = 5
DELAYS = (0.001, 0.004, 0.02)

TARGETS: dict[type[Actor], tuple[str, ...]] = {
    Sequencer: ("actors/sequencer/actor.py", "actors/sequencer/waiting.py", "actors/sequencer/window.py",
                "actors/sequencer/outside.py"),
    Committer: ("actors/committer/actor.py", "actors/committer/order.py", "actors/committer/states.py",
                "actors/committer/turn.py", "actors/committer/reruns.py", "actors/committer/history.py",
                "actors/committer/stalls.py", "actors/committer/aged.py", "actors/committer/footprints.py",
                "actors/deferrals.py"),
    Coordinator: ("actors/coordinator.py", "actors/run_records.py", "actors/completion.py", "actors/deferrals.py"),
    StoreCell: ("actors/stores/cell.py",),
    Effects: ("actors/effects/actor.py",),
    Journal: ("actors/journal/actor.py", "actors/journal/open_runs.py"),
}  # fmt: skip


class Number(Record):
    """What is in the collections."""

    n: int = 0


class Add(Trigger[int]):
    """Reads and writes a key."""

    key: str


class AddSlowly(Trigger[int]):
    """The same in a coroutine."""

    key: str


class Order(Trigger[int]):
    """Has an effect, which returns an `Acknowledged`."""

    number: int


class Acknowledged(Trigger[None]):
    """Counts that an effect has ended."""

    number: int


class Quote(Trigger[int]):
    """Asks outside, and adds the answer."""

    number: int


class Advise(Trigger[int]):
    """An agent: asks outside about what it sees, adds one, and gets its seq when it is done."""

    key: str
    number: int


class Inquire(Trigger[int]):
    """A plain one that asks about what it decides on, so that it may be deferred."""

    key: str
    number: int


class Flaky(Trigger[int]):
    """Fails by a chance that each of its runs has anew."""

    key: str


class Put(Trigger[int]):
    """Writes to a store that validates; refused if odd."""

    value: int


class Gather(Trigger[int]):
    """Becomes one with others of its key that wait; adds all amounts."""

    key: str
    amount: int = 1


class Newest(Trigger[int]):
    """Becomes one with others of its key that wait; only the newest is executed."""

    key: str


class EvenNumbers(StoreActor[int, Any]):
    """A store of one number, on a thread of its own, that refuses odd ones."""

    def recover(self, checkpoint: Checkpoint | None) -> int:
        return 0 if checkpoint is None else int(checkpoint.data)

    def validate(self, old: int, new: int, commit: Commit) -> None:
        if new % 2:
            raise Rejected("odd")

    def checkpoint(self, state: int) -> bytes:
        return str(state).encode()

    @staticmethod
    def fold(state: int, writes: Sequence[Write]) -> int:
        return int(writes[-1].op)

    @staticmethod
    def view(access: Access[int]) -> Access[int]:
        return access


class CrashWorld:
    """One system, what is submitted to it, and what it did outside."""

    def __init__(self, system: Supervisor, seed: int) -> None:
        self.system = system
        self._chance = random.Random(seed)
        self.submissions: list[Submission[Any]] = []
        self._by_number: dict[int, Submission[Any]] = {}
        self.cancelled: set[Submission[Any]] = set()
        self.calls: Counter[str] = Counter()
        self.tries: Counter[int] = Counter()
        self._lock = threading.Lock()
        restart = Restart(intensity=1_000_000)
        numbers = self.numbers = system.store("numbers", Collection(Number), restart=restart)
        acknowledged = self.acknowledged = system.store("acknowledged", Collection(Number), restart=restart)
        even = system.store("even", EvenNumbers.spec(), restart=restart)

        declares = self._chance.random() < 0.5  # All handlers or none: one that does not ends the overtaking.

        def keys(*named: str) -> Any:
            return (lambda trigger: [(numbers, key) for key in named or (trigger.key,)]) if declares else None

        def add(tx: Transaction, key: str, amount: int = 1) -> int:
            n = tx[numbers].get(key, Number()).n + amount
            tx[numbers][key] = Number(n=n)
            return n

        @system.effect("place", retry=Retry(3, backoff=0.001))
        def place(context: EffectContext, order: Order) -> Acknowledged:
            with self._lock:
                self.tries[order.number] += 1
            return Acknowledged(number=order.number)

        def quote(number: int, about: int = 0) -> int:
            with self._lock:
                self.calls[current_call_id()] += 1
            return number

        @system.on(Add, writes=keys())
        def on_add(trigger: Add, tx: Transaction) -> int:
            return add(tx, trigger.key)

        @system.on(AddSlowly, writes=keys())
        async def on_add_slowly(trigger: AddSlowly, tx: Transaction) -> int:
            await asyncio.sleep(0.003)
            return add(tx, trigger.key)

        @system.on(Order, writes=keys("orders"))
        def on_order(trigger: Order, tx: Transaction) -> int:
            tx.effect(place, trigger)
            return add(tx, "orders")

        @system.on(Acknowledged, writes=[acknowledged] if declares else None)
        def on_acknowledged(trigger: Acknowledged, tx: Transaction) -> None:
            tx[acknowledged].increment(str(trigger.number), n=1)

        @system.on(Quote, writes=keys("quotes"))
        async def on_quote(trigger: Quote, tx: Transaction) -> int:
            return add(tx, "quotes", await tx.acall(quote_async, trigger.number))

        async def quote_async(number: int, about: int = 0) -> int:
            return quote(number)

        @system.on(Advise, sequence="completion", writes=keys())
        async def on_advise(trigger: Advise, tx: Transaction) -> int:
            seen = tx.peek(numbers).get(trigger.key, Number()).n
            await tx.acall(quote_async, trigger.number, seen)
            await tx.acall(quote_async, trigger.number + 1, seen)
            return add(tx, trigger.key)

        @system.on(Inquire, sequence="completion", writes=keys())
        def on_inquire(trigger: Inquire, tx: Transaction) -> int:
            read = tx[numbers].get(trigger.key, Number()).n
            tx.call(quote, trigger.number, read % 3)
            return add(tx, trigger.key)

        @system.on(Flaky, retry=Retry(3, backoff=0.001), writes=keys())
        def on_flaky(trigger: Flaky, tx: Transaction) -> int:
            if tx.random.random() < 0.5:
                raise ValueError("flaky")
            return add(tx, trigger.key)

        def together(old: Gather, new: Gather) -> Gather:
            if old.amount + new.amount > 3:
                raise ValueError("too much at once")
            return Gather(key=new.key, amount=old.amount + new.amount)

        @system.on(Gather, coalesce=lambda trigger: trigger.key, merge=together)
        def on_gather(trigger: Gather, tx: Transaction) -> int:
            return add(tx, trigger.key, trigger.amount)

        @system.on(Newest, coalesce=lambda trigger: trigger.key, writes=keys())
        async def on_newest(trigger: Newest, tx: Transaction) -> int:
            await asyncio.sleep(0.001)
            return add(tx, trigger.key)

        @system.on(Put, writes=(lambda _: [even, (numbers, "puts")]) if declares else None)
        def on_put(trigger: Put, tx: Transaction) -> int:
            tx[even].write("value", trigger.value)
            return add(tx, "puts")

    def submit(self, count: int) -> None:
        """Hand in so many more triggers."""
        for deed in self.draw(count):
            self.do(deed)

    def draw(self, count: int) -> Iterator[Deed]:
        """Hand in so many more triggers; each is drawn when the one before it was done."""
        chance = self._chance
        for _ in range(count):
            number = len(self.submissions)
            key = str(chance.randrange(KEYS))
            trigger: Trigger[Any] = chance.choice(
                [Add(key=key), Add(key=key), AddSlowly(key=key), Order(number=number), Quote(number=number),
                 Flaky(key=key), Put(value=chance.randrange(10)), Advise(key=key, number=number),
                 Inquire(key=key, number=number), Gather(key=key), Newest(key=key)]
            )  # fmt: skip
            yield Deed("hand in", (number, trigger, chance.choice(DELAYS) if chance.random() < 0.2 else None))
            if chance.random() < 0.15:
                yield Deed("take back", (chance.choice([*self._by_number][-4:]),))

    def do(self, deed: Deed) -> None:
        """Hand in a trigger, or take one back that was."""
        number, *how = deed.given
        if deed.what == "hand in":
            self._by_number[number] = submission = self.system.submit(how[0], delay=how[1])
            self.submissions.append(submission)
        elif number in self._by_number:
            taken_back = self._by_number[number]
            note("take back", taken_back.id)
            if taken_back.cancel():
                self.cancelled.add(taken_back)

    def results(self) -> list[Any]:
        """Wait for all answers."""
        found: list[Any] = []
        for submission in self.submissions:
            try:
                found.append(submission.result(WAIT_S))
            except (HandlerFailed, Rejected, Cancelled) as error:
                found.append(type(error))
        return found

    def check(self, results: list[Any], journal_crashes: int) -> None:
        """What holds when everything has ended."""
        system = self.system
        records = sorted(system.commits(limit=10_000), key=lambda record: record.seq)
        assert [record.seq for record in records] == list(range(1, len(records) + 1)), "one record for every seq"
        ended = [record.run for record in records if record.state is not State.DEFERRED]
        assert len(set(ended)) == len(ended), "one record that ends it for every run"
        assert {record.run for record in records} == set(ended)
        numbers: Counter[str] = Counter()
        for record in records:
            kind, fields = record.trigger.type, cast("dict[str, Any]", record.trigger.payload)
            if record.state is not State.COMMITTED:
                continue
            key, amount = added(kind, fields)
            numbers[key] += amount
            if kind != "Acknowledged":
                assert record.result == numbers[key], "what serial execution gives"
        finished = {record.run for record in records if record.state not in (State.DEFERRED, State.RETRYING)}
        by_seq = {record.seq: record for record in records}
        for submission, result in zip(self.submissions, results, strict=True):
            assert (result is Cancelled) == (submission in self.cancelled), "who was told so, and nobody else"
            if result is Cancelled:
                assert submission.id not in finished, "cancelled, and run all the same"
                continue
            last = by_seq[submission.seq]  # type: ignore[index]
            assert submission.id in (last.run, *last.coalesced) or last.trigger.type == "Flaky", "its own outcome"
            expected = {State.COMMITTED: last.result, State.FAILED: HandlerFailed, State.REJECTED: Rejected}
            assert result == expected[last.state]
        snapshot = system.snapshot()
        acknowledged = numbers.pop("acknowledged", 0)
        assert {key: value.n for key, value in snapshot[self.numbers].items()} == dict(numbers)
        orders = {
            cast("dict[str, int]", record.trigger.payload)["number"]
            for record in records
            if record.trigger.type == "Order"
        }
        assert {int(key): value.n for key, value in snapshot[self.acknowledged].items()} == dict.fromkeys(orders, 1)
        assert acknowledged == len(orders) == numbers.get("orders", 0)
        assert all(self.tries[number] for number in orders), "every effect was carried out"
        assert all(count <= 1 + journal_crashes for count in self.calls.values()), "a call is not repeated"
        stats = system.stats()
        coalesced = sum(len(record.coalesced) for record in records)
        assert sum(stats.state_counts.values()) == len(records) + coalesced + len(self.cancelled)
        assert stats.state_counts.get(State.CANCELLED, 0) == len(self.cancelled)
        assert (stats.queued, stats.in_flight, stats.delayed, stats.outside, stats.effects_through) == (
            0,
            0,
            0,
            0,
            len(records),
        )


def added(kind: str, fields: dict[str, Any]) -> tuple[str, int]:
    """What a trigger adds to which key."""
    if kind in ("Add", "AddSlowly", "Flaky", "Advise", "Inquire", "Newest"):
        return fields["key"], 1
    if kind == "Gather":
        return fields["key"], fields["amount"]
    if kind == "Quote":
        return "quotes", fields["number"]
    return {"Order": "orders", "Put": "puts", "Acknowledged": "acknowledged"}[kind], 1


def at_rest(system: Supervisor) -> bool:
    stats = system.stats()
    through = (stats.committed_through, stats.durable_through, stats.effects_through)
    return not (stats.queued or stats.in_flight or stats.outside or stats.retries_waiting) and len(set(through)) == 1


def survive(
    seed: int,
    kind: type[Actor],
    backend: MemoryBackend | None,
    patch: pytest.MonkeyPatch,
    explorer: Callable[[random.Random], Explorer] = RandomWalk,
    interleaving: float = 1.0,
    lateness: float | None = None,
    given: Sequence[Deed] | None = None,
    done: list[Deed] | None = None,
) -> int:
    """Play a world in which actors of a kind are killed at any line; returns how many were.

    What is done is drawn, or `given`; it is noted in `done`. `lateness`: None, as the seed says.
    """
    late = 0.05 * (seed % 2) if lateness is None else lateness
    with crashing(patch) as crashes:
        dispatchers = SimulatedDispatchers(
            seed, steps_max=STEPS_MAX, lateness=late, explorer=explorer, interleaving=interleaving
        )
        system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=OFTEN)
        noted = watch(system)
        world = CrashWorld(system, seed)
        with system:
            for deed in _drawn(world, random.Random(seed)) if given is None else given:
                if done is not None:
                    add(done, deed)
                if deed.what == "kill":
                    lines, error = deed.given
                    note(f"after {lines} more lines of its code {kind.__name__} is killed")
                    crashes.plan(kind, TARGETS[kind], lines, None, error)
                elif deed.what == "step":
                    for _ in range(deed.given[0]):
                        dispatchers.step()
                else:
                    world.do(deed)
            results = world.results()
            rests = 0
            while rests < 3:
                rests = rests + 1 if at_rest(system) else 0
                dispatchers.step()
            happened = sum(crashes.happened.values())
            world.check(results, happened if kind is Journal else 0)
            noted.check()
        return happened


def _drawn(world: CrashWorld, chance: random.Random) -> Iterator[Deed]:
    """What is done to a world, drawn while it is done."""
    for _ in range(CRASHES):
        error = chance.choice([Crash, CrashBase])
        yield Deed("kill", (int(chance.expovariate(1 / 150)), error))
        yield from world.draw(8)
        for _ in range(chance.randrange(200)):
            yield Deed("step", (1,))
