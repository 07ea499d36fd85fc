"""The records in the stores, and the triggers.

Owns every shape that the journal keeps, but for what is said to the model (model.py). Prices are integers, in cents.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from seqtor import Priority, Record, Trigger

__all__ = ["Answer", "Ask", "Order", "OrderPlaced", "PlaceOrder", "Position", "Price", "PriceChanged", "Side"]

Side = Literal["buy", "sell"]


class Price(Record):
    """The newest price of a symbol, and when the market had it."""

    cents: int
    at: datetime


class Position(Record):
    """What the desk holds of a symbol."""

    quantity: int = 0


class Order(Record):
    """An order, at the price that it was decided at; `reference` is the exchange's, None until it has placed it."""

    client: str
    side: Side
    quantity: int
    symbol: str
    cents: int
    reference: str | None = None


class PriceChanged(Trigger[bool]):
    """A tick; answers whether it is the newest of its symbol. Of ticks that wait, the older goes first."""

    priority = Priority.HIGH
    symbol: str
    cents: int
    event_time: datetime


class Answer(Record):
    """What an agent answers: a text, and the order that it has made, if any."""

    text: str
    order_id: str | None = None
    order: Order | None = None


class Ask(Trigger[Answer]):
    """A message of a chat: an agent's work."""

    client: str
    text: str


class PlaceOrder(Record):
    """What the exchange is told."""

    order_id: str
    side: Side
    quantity: int
    symbol: str
    cents: int


class OrderPlaced(Trigger[None]):
    """The exchange has an order."""

    order_id: str
    reference: str
