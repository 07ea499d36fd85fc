"""Derived stores in any order: what follows from the sources at every seq, whoever overtakes, crashes, or starts anew."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from seqtor import (
    Collection,
    Derived,
    Document,
    HandlerFailed,
    ReconcileDerived,
    Record,
    SourceChange,
    State,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.committer import Committer
from seqtor.actors.committer.judge import Judge
from seqtor.actors.journal.memory import MemoryBackend
from tests.seeds import seeds
from tests.simulation.deaths import OFTEN, kill_at_any_line

FILES = (
    "actors/committer/actor.py",
    "actors/committer/order.py",
    "actors/committer/turn.py",
    "actors/committer/judge.py",
)
KEYS = "abc"


class Item(Record):
    amount: int = 0


class Rate(Record):
    factor: int = 1


class Sum(Record):
    count: int = 0
    amount: int = 0


class Work(Trigger[tuple[int, int]]):
    """Writes and reads as it says; what it declares is what it writes, if it declares. Slow ones let others overtake."""

    items: tuple[tuple[str, int | None], ...] = ()
    others: tuple[tuple[str, int | None], ...] = ()
    factor: int | None = None
    reads: bool = False
    slow: bool = False


class Declared(Work):
    """The same, with a footprint."""


def summed(items: Mapping[str, Item]) -> Sum:
    return Sum(count=len(items), amount=sum(item.amount for item in items.values()))


def folded(value: Sum, changes: Sequence[SourceChange]) -> Sum:
    count, amount = value.count, value.amount
    for change in changes:
        count += (change.new is not None) - (change.old is not None)
        amount += (change.new.amount if change.new else 0) - (change.old.amount if change.old else 0)
    return Sum(count=count, amount=amount)


def priced(items: Mapping[str, Item], others: Mapping[str, Item], rate: Any) -> Sum:
    both = [*items.values(), *others.values()]
    return Sum(count=len(both), amount=rate.value.factor * sum(item.amount for item in both))


class World:
    """Two collections and a rate; `sums` follows from the first by its changes, `prices` from all of them as a whole."""

    def __init__(self, dispatchers: SimulatedDispatchers, backend: MemoryBackend | None) -> None:
        self.system = system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=OFTEN)
        self.items = items = system.store("items", Collection(Item))
        self.others = others = system.store("others", Collection(Item))
        self.rate = rate = system.store("rate", Document(Rate))
        self.sums = sums = system.store("sums", Derived(Sum, [items], rebuild=summed, fold=folded, reconcile=None))
        self.prices = prices = system.store("prices", Derived(Sum, [items, others, rate], rebuild=priced))

        async def work(trigger: Work, tx: Transaction) -> tuple[int, int]:
            found = (tx[sums].fields.amount, tx[prices].value.amount) if trigger.reads else (0, 0)
            if trigger.slow:
                await asyncio.sleep(0.002)
            for store, writes in ((items, trigger.items), (others, trigger.others)):
                for key, amount in writes:
                    if amount is not None:
                        tx[store][key] = Item(amount=amount)
                    elif key in tx[store]:
                        del tx[store][key]
            if trigger.factor is not None:
                tx[rate].update(factor=trigger.factor)
            return found

        def footprint(trigger: Declared) -> Iterable[Any]:
            yield from [(items, key) for key, _ in trigger.items]
            yield from [(others, key) for key, _ in trigger.others]
            yield from [rate] if trigger.factor is not None else []

        system.on(Work)(work)
        system.on(Declared, writes=footprint)(work)

    def require_derived(self) -> None:
        """What is derived is what the sources give, after every seq; and what was read is what was there."""
        system = self.system
        before = system.snapshot(0)
        for record in sorted(system.commits(limit=10_000), key=lambda each: each.seq):
            after = system.snapshot(record.seq)
            assert after[self.sums].value == summed(after[self.items]), record.seq
            assert after[self.prices].value == priced(after[self.items], after[self.others], after[self.rate])
            payload: Any = record.trigger.payload
            if payload.get("reads") and record.state is State.COMMITTED:
                assert record.result == [before[self.sums].value.amount, before[self.prices].value.amount], record.seq
            before = after
        for name in ("sums", "prices"):
            assert system.ask(ReconcileDerived(derived=name)).outcome == "same"


def works(chance: random.Random, count: int) -> list[Trigger[Any]]:
    found: list[Trigger[Any]] = []
    for _ in range(count):
        kind = chance.choice([Work, Declared, Declared, Declared])
        found.append(
            kind(
                items=_writes(chance),
                others=_writes(chance),
                factor=chance.choice([None, None, None, chance.randrange(5)]),
                reads=chance.random() < 0.4,
                slow=chance.random() < 0.3,
            )
        )
    return found


def _writes(chance: random.Random) -> tuple[tuple[str, int | None], ...]:
    keys = chance.sample(KEYS, chance.choice([0, 0, 1, 1, 2]))
    return tuple((key, chance.choice([None, *range(5)])) for key in keys)


@pytest.mark.parametrize("journaled", [False, True])
def test_what_is_derived_follows_from_the_sources_whoever_overtakes_whom(journaled: bool) -> None:
    overtook = 0
    for seed in seeds(30):
        chance = random.Random(seed)
        world = World(SimulatedDispatchers(seed), MemoryBackend() if journaled else None)
        with world.system as system:
            submissions = system.submit_many(works(chance, 20))
            for submission in submissions:
                submission.result()
            ended = [record.seq for record in sorted(system.commits(limit=100), key=lambda each: each.ended_at)]
            overtook += ended != sorted(ended)
            world.require_derived()
            system.verify()
    assert overtook > len(seeds(30)) / 4, "runs overtake each other here"


@pytest.mark.parametrize("kind", [Committer, Judge])
def test_a_killed_actor_of_the_commit_leaves_nothing_half_derived(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(number: int, dispatchers: SimulatedDispatchers, kill: Any) -> None:
        world = World(dispatchers, MemoryBackend() if number % 2 else None)
        with world.system as system:
            submissions = system.submit_many(works(random.Random(number), 8))
            kill()
            for submission in submissions:
                with contextlib.suppress(HandlerFailed):  # Killed where the stores' own code runs, that ends its run.
                    submission.result()
            if kind is Committer or all(record.state is State.COMMITTED for record in system.commits()):
                system.verify()
            world.require_derived()

    assert kill_at_any_line(monkeypatch, kind, FILES, None, play, worlds=40, worlds_per_line=1) > 20
