"""The program that is killed: accounts, transfers between them, and what they submit; and the same in plain Python.

Owns the system that the worker process runs, and `Oracle`, which executes the journal's triggers one after another in a
dict. Both say what each trigger answers; they must agree for every record.
"""

from __future__ import annotations

import random
from typing import Any

from seqtor import Collection, Record, Rejected, Supervisor, Transaction, Trigger

__all__ = ["ACCOUNTS", "Count", "Oracle", "Transfer", "make_system", "planned"]

ACCOUNTS = 24
START = 100


class Account(Record):
    """What is in the store."""

    balance: int = 0
    transfers: int = 0


class Transfer(Trigger[int]):
    """Move an amount; refused if there is not enough. Every second is counted by a trigger of its own."""

    source: str
    target: str
    amount: int


class Count(Trigger[int]):
    """Submitted by a transfer: counts it, once."""

    key: str


class Sweep(Trigger[int]):
    """Reads everything and writes one account."""

    target: str


def make_system(journal: Any, **options: Any) -> Supervisor:
    """The system under test."""
    system = Supervisor(journal, **options)
    initial = {name(i): Account(balance=START) for i in range(ACCOUNTS)}
    accounts = system.store("accounts", Collection(Account, initial=initial))
    counts = system.store("counts", Collection(Account))

    @system.on(Transfer)
    def transfer(trigger: Transfer, tx: Transaction) -> int:
        book = tx[accounts]
        source, target = book[trigger.source], book[trigger.target]
        if source.balance < trigger.amount:
            raise Rejected("insufficient funds", balance=source.balance)
        book[trigger.source] = source = source.replace(
            balance=source.balance - trigger.amount, transfers=source.transfers + 1
        )
        target = book[trigger.target]
        book[trigger.target] = target.replace(balance=target.balance + trigger.amount)
        if source.transfers % 2 == 0:
            tx.submit(Count(key=trigger.source))
        return source.balance

    @system.on(Count)
    async def count(trigger: Count, tx: Transaction) -> int:
        found = tx[counts].get(trigger.key, Account())
        tx[counts][trigger.key] = found.replace(transfers=found.transfers + 1)
        return found.transfers + 1

    @system.on(Sweep)
    def sweep(trigger: Sweep, tx: Transaction) -> int:
        total = sum(account.balance for account in tx[accounts].values())
        tx[accounts].increment(trigger.target, transfers=1)
        return total

    return system


def name(index: int) -> str:
    """The key of an account."""
    return f"account-{index:02}"


def planned(submitter: int, number: int) -> Trigger[int]:
    """The trigger that a submitter hands in as its n-th, the same in every process."""
    chance = random.Random(f"{submitter}:{number}")
    if chance.random() < 0.05:
        return Sweep(target=name(chance.randrange(ACCOUNTS)))
    source, target = chance.sample(range(ACCOUNTS), 2)
    return Transfer(source=name(source), target=name(target), amount=chance.randrange(1, 40))


class Oracle:
    """The same program, one trigger after another, in dicts: no seqtor in it."""

    def __init__(self) -> None:
        self.accounts = {name(i): [START, 0] for i in range(ACCOUNTS)}
        self.counts: dict[str, int] = {}
        self.submitted: list[str] = []

    def execute(self, kind: str, fields: dict[str, Any]) -> Any:
        """What the trigger answers; None if it is rejected."""
        if kind == "Transfer":
            source, target = self.accounts[fields["source"]], self.accounts[fields["target"]]
            if source[0] < fields["amount"]:
                return None
            source[0] -= fields["amount"]
            source[1] += 1
            target[0] += fields["amount"]
            if source[1] % 2 == 0:
                self.submitted.append(fields["source"])
            return source[0]
        if kind == "Count":
            self.submitted.remove(fields["key"])  # ValueError: it was counted without having been submitted.
            self.counts[fields["key"]] = self.counts.get(fields["key"], 0) + 1
            return self.counts[fields["key"]]
        self.accounts[fields["target"]][1] += 1
        return sum(balance for balance, _ in self.accounts.values())
