"""A shop's stock: deliveries come in, orders go out, and each order that is taken becomes one shipping note, a file.

    seqtor check shop:system
    seqtor run shop:system

The journal is `shop.db`, or what SEQTOR_JOURNAL names; the notes are written to the folder that SHOP_OUTBOX names.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from loguru import logger

from seqtor import Collection, EffectContext, Record, Rejected, Retry, Supervisor, Transaction, Trigger

__all__ = ["system"]


class Item(Record):
    """What is in stock of one article."""

    count: int = 0


class Sale(Record):
    """An order that was taken; `note` is the name of its shipping note once that is written."""

    item: str
    count: int
    note: str | None = None


class Deliver(Trigger[int]):
    """Adds to the stock; answers with what is there now."""

    item: str
    count: int


class Order(Trigger[int]):
    """Takes from the stock, or is rejected; answers with what is left."""

    id: str
    item: str
    count: int


class Shipped(Trigger[None]):
    """The shipping note of an order is written."""

    id: str
    note: str


class Note(Record):
    """What a shipping note says."""

    id: str
    item: str
    count: int


system = Supervisor("shop.db", name="shop")
stock = system.store("stock", Collection(Item))
sales = system.store("sales", Collection(Sale))


@system.on(Deliver)
def deliver(trigger: Deliver, tx: Transaction) -> int:
    """Add to the stock."""
    if trigger.count < 1:
        raise Rejected("a delivery has at least one piece", count=trigger.count)
    there = tx[stock].get(trigger.item, Item()).count + trigger.count
    tx[stock][trigger.item] = Item(count=there)
    return there


@system.on(Order)
def order(trigger: Order, tx: Transaction) -> int:
    """Take from the stock, and have it shipped once that is on disk."""
    there = tx[stock].get(trigger.item, Item()).count
    if trigger.id in tx[sales]:
        raise Rejected("there is an order with this id", id=trigger.id)
    if not 1 <= trigger.count <= there:
        raise Rejected("not in stock", item=trigger.item, there=there, asked=trigger.count)
    tx[stock][trigger.item] = Item(count=there - trigger.count)
    tx[sales][trigger.id] = Sale(item=trigger.item, count=trigger.count)
    tx.effect(ship, Note(id=trigger.id, item=trigger.item, count=trigger.count))
    return there - trigger.count


@system.on(Shipped)
def shipped(trigger: Shipped, tx: Transaction) -> None:
    """Note that an order was shipped."""
    tx[sales][trigger.id] = tx[sales][trigger.id].replace(note=trigger.note)


@system.effect("ship", retry=Retry(20))
def ship(context: EffectContext, note: Note) -> Shipped:
    """Write the shipping note: under the same name at every try, so that there is one however often it is tried."""
    outbox = Path(os.environ.get("SHOP_OUTBOX", "outbox"))
    outbox.mkdir(exist_ok=True)
    target = outbox / f"{context.key}.json"
    with tempfile.NamedTemporaryFile("w", dir=outbox, suffix=".part", delete=False, encoding="utf-8") as part:
        json.dump(note.model_dump(), part)
        part.flush()
        os.fsync(part.fileno())
    Path(part.name).replace(target)
    logger.bind(seq=context.seq, attempt=context.attempt, actor="ship").info("order {} is shipped: {}", note.id, target)
    return Shipped(id=note.id, note=target.name)
