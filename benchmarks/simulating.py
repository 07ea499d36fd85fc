"""SIM: how many simulated histories of 200 triggers one core plays in a minute.

A history is a whole system with a journal in memory: plain handlers that give way at each operation, coroutines, declared
footprints, increments, effects, failures and their retries. The yardstick are the same histories with handlers in one step.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import interleave
from benchmarks.outcome import Outcome
from seqtor import Collection, EffectContext, Record, Retry, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.journal.memory import MemoryBackend

__all__ = ["sim"]

TRIGGERS = 200
KEYS = 20
HISTORIES = 12
STEPS_MAX = 100_000


class Account(Record):
    balance: int = 0


class Move(Trigger[int]):
    source: str
    target: str


class MoveSlowly(Trigger[int]):
    source: str
    target: str


class Declared(Trigger[int]):
    source: str
    target: str


class Count(Trigger[None]):
    key: str


class Ship(Trigger[int]):
    key: str


class Flaky(Trigger[int]):
    key: str


def play(seed: int, interleaving: float) -> None:
    """Play one history; raises if a sum is not that of a serial execution."""
    dispatchers = SimulatedDispatchers(
        seed, steps_max=STEPS_MAX, explorer=EXPLORERS[seed % len(EXPLORERS)], interleaving=interleaving
    )
    system = Supervisor(MemoryBackend(), dispatchers=lambda _: dispatchers)
    accounts = system.store("accounts", Collection(Account))
    shipped: list[str] = []

    def add(tx: Transaction, key: str, amount: int) -> int:
        balance = tx[accounts].get(key, Account()).balance + amount
        tx[accounts][key] = Account(balance=balance)
        return balance

    def move(trigger: Move | Declared, tx: Transaction) -> int:
        add(tx, trigger.source, -1)
        return add(tx, trigger.target, 1)

    system.on(Move)(move)
    system.on(Declared, writes=lambda trigger: [(accounts, trigger.source), (accounts, trigger.target)])(move)

    @system.on(MoveSlowly)
    async def move_slowly(trigger: MoveSlowly, tx: Transaction) -> int:
        add(tx, trigger.source, -1)
        await asyncio.sleep(0.001)
        return add(tx, trigger.target, 1)

    @system.on(Count)
    def count(trigger: Count, tx: Transaction) -> None:
        tx[accounts].increment(trigger.key, balance=1)

    @system.effect("ship")
    def ship(context: EffectContext, payload: Ship) -> None:
        shipped.append(f"{payload.key} {context.key}")

    @system.on(Ship)
    def on_ship(trigger: Ship, tx: Transaction) -> int:
        tx.effect(ship, trigger)
        return add(tx, trigger.key, 1)

    @system.on(Flaky, retry=Retry(20, backoff=0.001))
    def flaky(trigger: Flaky, tx: Transaction) -> int:
        if tx.random.random() < 0.3:
            raise ValueError("flaky")
        return add(tx, trigger.key, 1)

    chance = random.Random(seed)
    triggers = [one(chance) for _ in range(TRIGGERS)]
    with system:
        for submission in system.submit_many(triggers):
            submission.result()
        dispatchers.run_to_rest()
        balances = [account.balance for account in system.snapshot()[accounts].values()]
    added = sum(isinstance(each, (Count, Ship, Flaky)) for each in triggers)
    if sum(balances) != added or len(shipped) != sum(isinstance(each, Ship) for each in triggers):
        raise AssertionError(f"history {seed} does not add up")


def one(chance: random.Random) -> Trigger[int] | Trigger[None]:
    key, other = chance.sample(range(KEYS), 2)
    moving: type[Move | MoveSlowly | Declared] = chance.choice((Move, Move, MoveSlowly, Declared))
    if chance.random() < 0.6:
        return moving(source=str(key), target=str(other))
    touching: type[Count | Ship | Flaky] = chance.choice((Count, Ship, Flaky))
    return touching(key=str(key))


def sim() -> Outcome:
    """Histories per minute of processor time, on one core."""
    with on_one_core():
        play(0, 1.0)
        return Outcome.of_rounds(*interleave("SIM", lambda: per_minute(0.0), lambda: per_minute(1.0)))


def per_minute(interleaving: float) -> float:
    began = time.process_time()
    for seed in range(HISTORIES):
        play(seed, interleaving)
    return 60 * HISTORIES / (time.process_time() - began)


@contextmanager
def on_one_core() -> Iterator[None]:
    """As the processes of `make simulate`: handing a baton over to another core costs ten times as much."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
