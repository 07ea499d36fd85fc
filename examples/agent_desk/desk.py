"""The desk: its stores, the agent, the ticks, and the effect that places orders.

Owns what is decided. The agent asks the model about what it peeks at, which never changes, and decides on what it reads,
which is the newest: however long the model thinks, an order is made at the price of its own place in the order of all
runs. Whatever is asked outside comes through `tx.acall`, whatever is done outside is an effect; so a crash repeats neither
an answered question nor a placed order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqtor import (
    Collection,
    CollectionView,
    EffectContext,
    Rejected,
    Retry,
    Settings,
    StoreRef,
    Supervisor,
    Transaction,
)

from .exchange import Exchange
from .model import Model, Prompt, Wish
from .records import Answer, Ask, Order, OrderPlaced, PlaceOrder, Position, Price, PriceChanged, Side

__all__ = ["POSITION_MAX", "Desk", "make_desk"]

POSITION_MAX = 1000
"""What the desk may hold of a symbol."""
AGENT_S = 120
"""How long an agent may think, all of its questions together."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The system, and its stores."""

    system: Supervisor
    prices: StoreRef[CollectionView[Price]]
    positions: StoreRef[CollectionView[Position]]
    orders: StoreRef[CollectionView[Order]]


def make_desk(
    journal: str | os.PathLike[str] | None,
    model: Model,
    exchange: Exchange,
    settings: Settings | Mapping[str, Any] | None = None,
) -> Desk:
    """Make the system; it opens and starts nothing."""
    system = Supervisor(journal, name="agent desk", settings=settings)
    desk = Desk(
        system=system,
        prices=system.store("prices", Collection(Price)),
        positions=system.store("positions", Collection(Position)),
        orders=system.store("orders", Collection(Order)),
    )

    # What a tick writes is declared: runs that touch another symbol go past it, and none executes twice because of it.
    @system.on(PriceChanged, writes=lambda tick: [(desk.prices, tick.symbol)])
    def price_changed(tick: PriceChanged, tx: Transaction) -> bool:
        """Take a tick, unless a newer one came before it."""
        before = tx[desk.prices].get(tick.symbol)
        if before is not None and before.at > tick.event_time:
            return False
        tx[desk.prices][tick.symbol] = Price(cents=tick.cents, at=tick.event_time)
        return True

    @system.on(Ask, sequence="completion", deadline=AGENT_S)
    async def ask(message: Ask, tx: Transaction) -> Answer:
        """Find out what the client wants, ask for advice, decide."""
        tx.progress("reads your message")
        wish = await tx.acall(model.read, message.text)
        if wish.side is None:
            return Answer(text="Say what to trade, for example: buy 10 ACME below 105.00")
        seen = tx.peek(desk.prices).get(wish.symbol)
        if seen is None:
            raise Rejected("there is no price of this symbol yet", code="no_price", symbol=wish.symbol)
        held = tx.peek(desk.positions).get(wish.symbol, Position()).quantity
        tx.progress(f"asks for advice at {seen.cents / 100:.2f}")
        advice = await tx.acall(model.advise, Prompt(wish=wish, cents=seen.cents, held=held))
        tx.progress("decides")
        order = decide(wish, wish.side, advice.limit_cents, message.client, tx)
        order_id = str(tx.uuid4())
        tx[desk.orders][order_id] = order
        tx.effect(
            place_order,
            PlaceOrder(
                order_id=order_id, side=order.side, quantity=order.quantity, symbol=order.symbol, cents=order.cents
            ),
        )
        return Answer(
            text=f"{advice.text} {order.side} {order.quantity} {order.symbol} at {order.cents / 100:.2f}.",
            order_id=order_id,
            order=order,
        )

    def decide(wish: Wish, side: Side, limit_cents: int, client: str, tx: Transaction) -> Order:
        """Make the order on the newest price and position, or refuse."""
        cents = tx[desk.prices][wish.symbol].cents
        if (cents > limit_cents) if side == "buy" else (cents < limit_cents):
            raise Rejected("the price has moved past the limit", code="price_moved", cents=cents, limit=limit_cents)
        position = tx[desk.positions].get(wish.symbol, Position())
        quantity = position.quantity + (wish.quantity if side == "buy" else -wish.quantity)
        if not 0 <= quantity <= POSITION_MAX:
            raise Rejected(
                f"the desk holds 0 to {POSITION_MAX} of a symbol", code="position_limit", held=position.quantity
            )
        tx[desk.positions][wish.symbol] = position.replace(quantity=quantity)
        return Order(client=client, side=side, quantity=wish.quantity, symbol=wish.symbol, cents=cents)

    @system.effect("exchange.place", retry=Retry(20))
    def place_order(context: EffectContext, order: PlaceOrder) -> OrderPlaced:
        """Place an order whose run is on disk, under the same key at every try."""
        return OrderPlaced(order_id=order.order_id, reference=exchange.place(context.key, order))

    @system.on(OrderPlaced, writes=lambda placed: [(desk.orders, placed.order_id)])
    def order_placed(placed: OrderPlaced, tx: Transaction) -> None:
        """Note the exchange's reference."""
        tx[desk.orders][placed.order_id] = tx[desk.orders][placed.order_id].replace(reference=placed.reference)

    return desk
