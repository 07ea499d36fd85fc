"""Mistakes that the type checkers must report. Read by them, never executed.

Each line with a mistake carries the comment that silences it, so this file itself is clean; a comment that silences
nothing is reported. `test_types.py` takes the comments away and counts the reports.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from seqtor import (
    Bundle,
    Collection,
    Document,
    EffectContext,
    Priority,
    Record,
    Retry,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.testing import call


class Account(Record):
    """A stored record."""

    balance: int = 0


class Board(Record):
    """A document."""

    title: str = ""


class Transfer(Trigger[int]):
    """A trigger."""

    amount: int


class Note(Trigger[str]):
    """Another trigger."""

    text: str


system = Supervisor()
accounts = system.store("accounts", Collection(Account))
board = system.store("board", Document(Board))

# What is frozen cannot be assigned to.
account = Account(balance=3)
account.balance = 4  # type: ignore[misc]
trigger = Transfer(amount=3)
trigger.amount = 4  # type: ignore[misc]
system.snapshot()[accounts]["alice"].balance = 5  # type: ignore[misc]

# Models are made by keyword, of fields that they have, with values that fit.
Account(3)  # type: ignore[call-arg]
Account(balanse=3)  # type: ignore[call-arg]
Account(balance="3")  # type: ignore[arg-type]
Transfer()  # type: ignore[call-arg]


# A handler takes its trigger and a transaction.
@system.on(Transfer)  # type: ignore[arg-type]
def takes_another_trigger(trigger: Note, tx: Transaction) -> int:
    return 1


@system.on(Transfer)  # type: ignore[arg-type]
def takes_no_transaction(trigger: Transfer) -> int:
    return 1


@system.on(Transfer)  # type: ignore[arg-type]
def takes_something_else(trigger: Transfer, tx: int) -> int:
    return tx


system.on(Account)  # type: ignore[type-var]
system.on(Transfer, priority="high")  # type: ignore[arg-type]
system.on(Transfer, priorty=Priority.HIGH)  # type: ignore[call-arg]


@system.on(Transfer)
def transfer(trigger: Transfer, tx: Transaction) -> int:
    tx[accounts]["alice"] = 3  # type: ignore[assignment]
    tx[accounts][3] = Account()  # type: ignore[index]
    tx[accounts]["alice"].balanse  # type: ignore[attr-defined]  # noqa: B018
    tx[board].fields.titel  # type: ignore[attr-defined]  # noqa: B018
    tx[board].fields.title = "x"  # type: ignore[misc]
    tx[board].set(Account())  # type: ignore[arg-type]
    tx["accounts"]  # type: ignore[index]
    return trigger.amount


# An effect takes a context and a payload, and returns a trigger or nothing.
@system.effect("place", retry=Retry(5))
def place(context: EffectContext, order: Account) -> Trigger | None:
    return Note(text=context.key)


@system.effect("notify")
async def notify(context: EffectContext, text: str) -> None:
    return None


@system.effect("one")  # type: ignore[type-var]
def takes_no_payload(context: EffectContext) -> None:
    return None


@system.effect("two")  # type: ignore[type-var]
def takes_a_transaction(tx: Transaction, order: Account) -> None:
    return None


@system.effect("three")  # type: ignore[type-var]
def returns_a_text(context: EffectContext, order: Account) -> str:
    return "text"


system.effect("four", retry=5)  # type: ignore[arg-type]
Retry(5, backof=3)  # type: ignore[call-arg]
Retry("5")  # type: ignore[arg-type]
system.resource("five", 5)  # type: ignore[call-overload]


@system.on(Note)
def release(trigger: Note, tx: Transaction) -> str:
    tx.effect(place, Board())  # type: ignore[arg-type]
    tx.effect(place, "alice")  # type: ignore[arg-type]
    tx.effect(place)  # type: ignore[call-arg]
    tx.effect(notify, 3)  # type: ignore[arg-type]
    tx.effect("place", Account())  # type: ignore[arg-type]
    tx.effect(transfer, Account())  # type: ignore[arg-type]
    tx.resource("client")  # type: ignore[arg-type]
    return trigger.text


# A call takes the function's arguments, and is what it returns.
def quote(symbol: str) -> int:
    return len(symbol)


async def quote_later(symbol: str) -> int:
    return len(symbol)


async def ask(tx: Transaction) -> None:
    tx.call(quote)  # type: ignore[call-arg]
    tx.call(quote, 3)  # type: ignore[arg-type]
    tx.call(quote, symbl="A")  # type: ignore[call-arg]
    tx.call("quote")  # type: ignore[arg-type]
    price: str = tx.call(quote, "A")  # type: ignore[assignment]
    later: str = await tx.acall(quote_later, "A")  # type: ignore[assignment]
    await tx.acall(quote, "A")  # type: ignore[arg-type]
    await tx.acall(quote_later)  # type: ignore[call-arg]
    print(price, later)


# A handler is called by itself with a trigger of its own.
call(transfer, Note(text="x"))  # type: ignore[call-overload]
call(transfer, Transfer)  # type: ignore[call-overload]
call(transfer, Transfer(amount=3), sequence="never")  # type: ignore[call-overload]
balance: str = call(transfer, Transfer(amount=3)).value  # type: ignore[assignment]

# A schedule starts a trigger, at times, by policies that there are.
system.schedule(Transfer, every=60)  # type: ignore[arg-type]
system.schedule(Transfer(amount=3), every="1h")  # type: ignore[arg-type]
system.schedule(Transfer(amount=3), evry=60)  # type: ignore[call-arg]
system.schedule(Transfer(amount=3), every=60, misfire="never")  # type: ignore[arg-type]
Bundle().schedule(Transfer(amount=3), at="noon")  # type: ignore[arg-type]

# What is asked for has the type that its trigger promises.
name: str = system.ask(Transfer(amount=3))  # type: ignore[assignment]
text: int = system.submit(Note(text="x")).result()  # type: ignore[assignment]
system.ask("transfer")  # type: ignore[arg-type]
_ = system.submit(Account())  # type: ignore[arg-type]
transfer("x", 3)  # type: ignore[arg-type]

Collection(int)  # type: ignore[type-var]
