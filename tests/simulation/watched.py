"""A program of a user's kind, for the checkers and for `seqtor simulate`: every way to depend on what others write.

Owns the program and its stand-ins. Nothing in it knows that it is watched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

from seqtor import Collection, EffectContext, Record, Rejected, Retry, Snapshot, Supervisor, Transaction, Trigger
from seqtor.testing import StandIns

__all__ = ["KEYS", "make", "stand_ins", "system", "total", "work"]

KEYS = ("a", "b", "c", "d")


class Number(Record):
    """What is in the stores."""

    n: int = 0


class Copy(Trigger[int]):
    """Reads one key and writes another."""

    source: str
    target: str


class Sum(Trigger[int]):
    """Reads a range, and writes beside it."""


class Declared(Trigger[int]):
    """Adds to a key, slowly, and has said so: others may overtake it."""

    key: str
    slow: bool = False


class Order(Trigger[int]):
    """Has an effect."""

    key: str


class Acknowledged(Trigger[None]):
    """What the effect returns."""

    key: str


class Ask(Trigger[int]):
    """Asks outside about what it sees, and gets its seq when it has decided."""

    key: str


class Flaky(Trigger[int]):
    """Fails by chance, and is run again."""

    key: str


async def quote(about: int) -> int:
    """The outside."""
    raise AssertionError("nobody calls this in a simulation")


def place(context: EffectContext, key: str) -> Acknowledged:
    """The outside."""
    raise AssertionError("nobody calls this in a simulation")


def make() -> Supervisor:
    """The program."""
    system = Supervisor("watched.db")
    numbers = system.store("numbers", Collection(Number))
    sums = system.store("sums", Collection(Number))
    system.effect("place", retry=Retry(3, backoff=0.01))(place)

    def add(tx: Transaction, key: str, amount: int = 1) -> int:
        n = tx[numbers].get(key, Number()).n + amount
        tx[numbers][key] = Number(n=n)
        return n

    @system.on(Copy)
    async def copy(trigger: Copy, tx: Transaction) -> int:
        n = tx[numbers].get(trigger.source, Number()).n
        await asyncio.sleep(0.001)
        tx[numbers][trigger.target] = Number(n=n + 1)
        return n

    @system.on(Sum)
    async def sum_up(trigger: Sum, tx: Transaction) -> int:
        n = sum(number.n for _, number in tx[numbers].scan(start="a", stop="c"))
        await asyncio.sleep(0.001)
        tx[sums]["a to b"] = Number(n=n)
        return n

    @system.on(Declared, writes=lambda trigger: [(numbers, trigger.key)])
    async def declared(trigger: Declared, tx: Transaction) -> int:
        await asyncio.sleep(0.05 if trigger.slow else 0.001)
        return add(tx, trigger.key)

    @system.on(Order, writes=lambda trigger: [(numbers, trigger.key)])
    def order(trigger: Order, tx: Transaction) -> int:
        tx.effect(place, trigger.key)
        return add(tx, trigger.key)

    @system.on(Acknowledged, writes=[sums])
    def acknowledged(trigger: Acknowledged, tx: Transaction) -> None:
        tx[sums].increment(trigger.key, n=1)

    @system.on(Ask, sequence="completion")
    async def ask(trigger: Ask, tx: Transaction) -> int:
        seen = tx.peek(numbers).get(trigger.key, Number()).n
        return add(tx, trigger.key, await tx.acall(quote, seen))

    @system.on(Flaky, retry=Retry(3, backoff=0.01))
    def flaky(trigger: Flaky, tx: Transaction) -> int:
        if tx.random.random() < 0.3:
            raise ValueError("by chance")
        if tx.random.random() < 0.1:
            raise Rejected("by chance")
        return add(tx, trigger.key)

    return system


def stand_ins() -> StandIns:
    """What stands in for the outside."""

    def acknowledge(context: EffectContext, key: str) -> Acknowledged:
        return Acknowledged(key=key)

    return StandIns(calls={quote: lambda about: about % 3}, effects={place: acknowledge})


def work(source: random.Random) -> Iterator[Trigger[Any]]:
    """What is handed in."""
    declares = source.random() < 0.5  # One that does not ends the overtaking.
    while True:
        key = source.choice(KEYS)
        kinds: list[Trigger[Any]] = [Declared(key=key, slow=source.random() < 0.3), Declared(key=key), Order(key=key)]
        if not declares:
            kinds += [Copy(source=key, target=source.choice(KEYS)), Sum(), Ask(key=key), Flaky(key=key)]
        yield source.choice(kinds)


def total(snapshot: Snapshot) -> None:
    """An invariant that holds: nothing is negative."""
    for store in snapshot._stores:
        if store.name in ("numbers", "sums"):
            assert all(number.n >= 0 for number in snapshot[store].values())


system = make()
