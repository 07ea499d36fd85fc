"""Small programs that many tests run: accounts with transfers between them, and systems to run them in."""

from __future__ import annotations

import threading
from typing import Any

from seqtor import Collection, CollectionView, Record, Rejected, StoreRef, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers

WAIT_S = 20.0  # How long a test waits for what must happen; reached only when it fails.


class Account(Record):
    """A stored balance."""

    balance: int = 0


class Transfer(Trigger[int]):
    """Moves an amount; answers with what is left at the source."""

    source: str
    target: str
    amount: int


class Deposit(Trigger[int]):
    """Adds an amount by reading and writing; answers with the new balance."""

    account: str = "alice"
    amount: int = 1


Accounts = StoreRef[CollectionView[Account]]


def simulated(seed: int = 0, **options: Any) -> Supervisor:
    """A system on one thread and a virtual clock, in the order that the seed chooses."""
    return Supervisor(dispatchers=lambda settings: SimulatedDispatchers(seed), **options)


def threaded(threads: int = 4, **settings: Any) -> Supervisor:
    """A system on real threads, few of them."""
    return Supervisor(settings={"threads": threads, **settings})


def open_bank(system: Supervisor, **balances: int) -> Accounts:
    """Register accounts and the handlers of `Transfer` and `Deposit`."""
    initial = {name: Account(balance=balance) for name, balance in balances.items()}
    accounts = system.store("accounts", Collection(Account, initial=initial))

    @system.on(Transfer)
    def transfer(trigger: Transfer, tx: Transaction) -> int:
        book = tx[accounts]
        source, target = book[trigger.source], book.get(trigger.target, Account())
        if source.balance < trigger.amount:
            raise Rejected("insufficient funds", balance=source.balance)
        book[trigger.source] = source.replace(balance=source.balance - trigger.amount)
        book[trigger.target] = target.replace(balance=target.balance + trigger.amount)
        return book[trigger.source].balance

    @system.on(Deposit)
    def deposit(trigger: Deposit, tx: Transaction) -> int:
        book = tx[accounts]
        balance = book.get(trigger.account, Account()).balance + trigger.amount
        book[trigger.account] = Account(balance=balance)
        return balance

    return accounts


class Gate:
    """A door in a handler: `pass_through()` says that it was reached and waits until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Semaphore(0)
        self._opened = threading.Event()

    def pass_through(self) -> None:
        """Called by the handler."""
        self._reached.release()
        assert self._opened.wait(WAIT_S), "nobody opened the gate"

    def await_arrivals(self, count: int = 1) -> None:
        """Wait until so many more handlers stand at the gate."""
        for _ in range(count):
            assert self._reached.acquire(timeout=WAIT_S), "no handler came to the gate"

    def open(self) -> None:
        """Let everyone through, from now on."""
        self._opened.set()
