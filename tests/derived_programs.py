"""A program whose handlers read a derived store in a worker process, which imports this module.

Everything is at the top level; `Look` waits at a door, so that a test can commit something meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqtor import Collection, Derived, Record, Supervisor, Transaction, Trigger

__all__ = ["Add", "Item", "Look", "Meddle", "Sum", "hold", "items", "sums", "system"]


class Item(Record):
    amount: int


class Sum(Record):
    count: int = 0
    amount: int = 0


class Add(Trigger[None]):
    key: str
    amount: int


class Held(Trigger[None]):
    """Waits for its gate, and then sets "a" to 100."""


class Look(Trigger[dict[str, Any]]):
    """Says what the derived store is; `folder` has a door, of another process, or is empty."""

    folder: str = ""
    one_field: bool = False


class Meddle(Trigger[None]):
    """Writes a source and reads what follows, which is as it was."""


def summed(items: Mapping[str, Item]) -> Sum:
    if any(item.amount < 0 for item in items.values()):
        raise ValueError("below zero")
    return Sum(count=len(items), amount=sum(item.amount for item in items.values()))


system = Supervisor(settings={"processes": 1})
items = system.store("items", Collection(Item, initial={"a": Item(amount=1)}))
sums = system.store("sums", Derived(Sum, [items], rebuild=summed, reconcile=None))


@system.on(Add)
def add(trigger: Add, tx: Transaction) -> None:
    tx[items][trigger.key] = Item(amount=trigger.amount)


GATES: list[threading.Event] = []


@system.on(Held)
def held(trigger: Held, tx: Transaction) -> None:
    GATES[-1].wait(60)
    tx[items]["a"] = Item(amount=100)


def hold(running: Supervisor) -> threading.Event:
    """Have a run stand at its seq until the event is set; then it sets "a" to 100."""
    gate = threading.Event()
    GATES.append(gate)
    running.tell(Held())
    return gate


@system.on(Look, executor="process")
def look(trigger: Look, tx: Transaction) -> dict[str, Any]:
    view = tx[sums]
    found = {"amount": view.fields.amount} if trigger.one_field else view.value.model_dump()
    if trigger.folder and tx.attempt == 1:
        with (Path(trigger.folder) / "reached").open("w") as pipe:
            pipe.write("here")
        with (Path(trigger.folder) / "opened").open() as pipe:
            pipe.read()
        return found  # Without another tracked read.
    peeked = tx.peek(sums).value.amount
    return {**found, "peeked": peeked, "changed": tx.changed(sums, "amount"), "attempt": tx.attempt}


@system.on(Meddle, executor="process")
def meddle(trigger: Meddle, tx: Transaction) -> None:
    before = tx[sums].value
    tx[items]["b"] = Item(amount=10)
    if tx[sums].value != before:
        raise AssertionError("a run sees what its own writes will come to")
    tx[sums].fields.amount = 5  # type: ignore[misc]
