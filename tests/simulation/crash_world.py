"""The program whose actors are killed: everything that leaves something behind which a crash might lose or repeat.

Owns the system and what must hold of it at the end, however often actors have crashed.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from seqtor import (
    Access,
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
from seqtor.actors import Checkpoint, Commit, Write
from tests.programs import WAIT_S

__all__ = ["CrashWorld"]

OFTEN = {"restart_intensity": 1_000_000}
KEYS = 5


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

        @system.on(Put, writes=(lambda _: [even, (numbers, "puts")]) if declares else None)
        def on_put(trigger: Put, tx: Transaction) -> int:
            tx[even].write("value", trigger.value)
            return add(tx, "puts")

    def submit(self, count: int) -> None:
        """Hand in so many more triggers."""
        chance = self._chance
        for _ in range(count):
            number = len(self.submissions)
            key = str(chance.randrange(KEYS))
            trigger: Trigger[Any] = chance.choice(
                [Add(key=key), Add(key=key), AddSlowly(key=key), Order(number=number), Quote(number=number),
                 Flaky(key=key), Put(value=chance.randrange(10)), Advise(key=key, number=number),
                 Inquire(key=key, number=number)]
            )  # fmt: skip
            self.submissions.append(self.system.submit(trigger))

    def results(self) -> list[Any]:
        """Wait for all answers."""
        found: list[Any] = []
        for submission in self.submissions:
            try:
                found.append(submission.result(WAIT_S))
            except (HandlerFailed, Rejected) as error:
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
        by_seq = {record.seq: record for record in records}
        for submission, result in zip(self.submissions, results, strict=True):
            last = by_seq[submission.seq]  # type: ignore[index]
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
        assert sum(stats.state_counts.values()) == len(records)
        assert (stats.queued, stats.in_flight, stats.outside, stats.effects_through) == (0, 0, 0, len(records))


def added(kind: str, fields: dict[str, Any]) -> tuple[str, int]:
    """What a trigger adds to which key."""
    if kind in ("Add", "AddSlowly", "Flaky", "Advise", "Inquire"):
        return fields["key"], 1
    if kind == "Quote":
        return "quotes", fields["number"]
    return {"Order": "orders", "Put": "puts", "Acknowledged": "acknowledged"}[kind], 1
