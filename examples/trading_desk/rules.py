"""The rules of the desk: what an order costs, when it is refused, how it is filled, what a portfolio is worth.

Owns every calculation, as pure functions over records. The handlers (desk.py) and the plain loop (serial.py) differ
only in where they read and write, so that a difference between their final states can come from the runtime alone.
Every amount is an integer and every rounding goes against the desk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from seqtor import Rejected

from .market import INSTRUMENTS, Instrument
from .records import Account, BarClosed, Holding, Mark, Order, Performance, Position, Quote, Score, book_key
from .strategies import HISTORY, STRATEGIES, Strategy

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Sale:
    """What selling a position brings in after the fee, and what is won by it."""

    proceeds_e5: int
    fee_e5: int
    profit_e5: int


@dataclass(frozen=True, slots=True)
class Purchase:
    """What buying costs, fee included."""

    cost_e5: int
    fee_e5: int


def quote(bar: BarClosed, previous: Quote | None) -> Quote:
    """The new quote: the bar, and the last closes up to it."""
    earlier = previous.closes_e5 if previous else ()
    closes_e5 = (*earlier[-HISTORY + 1 :], bar.close_e5)
    return Quote(open_e5=bar.open_e5, low_e5=bar.low_e5, close_e5=bar.close_e5, closes_e5=closes_e5)


def known(quote: Quote | None) -> Quote:
    """The quote that a trigger needs. Raises `Rejected` when the bar has not arrived."""
    if quote is None:
        raise Rejected("this bar has not arrived yet", code="no_quote")
    return quote


def decide(
    strategy: Strategy,
    instrument: Instrument,
    index: int,
    quote: Quote,
    position: Position,
    pending: Order | None,
) -> Order | None:
    """The order that a strategy wants to place at the close of a bar, if any.

    It replaces a `pending` one that was refused; while an approved one waits to be filled there is no other.
    """
    if len(quote.closes_e5) < strategy.history or (pending is not None and pending.approved):
        return None
    if position.units:
        return Order(units=-position.units, decided_at=index) if strategy.leaves(quote.closes_e5) else None
    if not strategy.enters(quote.closes_e5):
        return None
    limit_e5 = quote.close_e5 + quote.close_e5 * instrument.tolerance_ppm // PPM
    units = instrument.ticket_e5 // limit_e5 // instrument.lot * instrument.lot
    if units == 0:
        return None
    reserve_e5 = purchase(instrument, units, limit_e5).cost_e5
    return Order(units=units, decided_at=index, limit_e5=limit_e5, reserve_e5=reserve_e5)


def check_risk(
    instrument: Instrument,
    order: Order,
    quote: Quote,
    positions: Iterable[Position],
    orders: Iterable[Order],
    account: Account,
) -> None:
    """Refuse a buy that the desk cannot afford or that puts too much into one instrument.

    `positions` and `orders` are all there are in this instrument. Raises `Rejected`.
    """
    held_e5 = sum(position.units for position in positions) * quote.close_e5
    promised_e5 = sum(other.reserve_e5 for other in orders if other.approved)
    exposure_e5 = held_e5 + promised_e5 + order.reserve_e5
    if exposure_e5 > instrument.exposure_max_e5:
        raise Rejected(
            "too much in one instrument",
            code="exposure",
            exposure_e5=exposure_e5,
            limit_e5=instrument.exposure_max_e5,
        )
    free_e5 = account.balance_e5 - account.reserved_e5
    if order.reserve_e5 > free_e5:
        raise Rejected("not enough free money", code="money", needed_e5=order.reserve_e5, free_e5=free_e5)


def no_promise_without_money(accounts: Mapping[str, Account]) -> bool:
    """The invariant of the accounts: no dollar that is not there is spent, and none is promised twice."""
    return all(0 <= account.reserved_e5 <= account.balance_e5 for account in accounts.values())


def buy(instrument: Instrument, order: Order, quote: Quote) -> Purchase | None:
    """Buy at the open, or at the limit if the bar comes down to it; None if the price stayed above it."""
    if quote.low_e5 > order.limit_e5:
        return None
    return purchase(instrument, order.units, min(quote.open_e5, order.limit_e5))


def purchase(instrument: Instrument, units: int, price_e5: int) -> Purchase:
    """What it takes to buy at a price."""
    fee_e5 = _fee_e5(instrument, units * price_e5)
    return Purchase(cost_e5=units * price_e5 + fee_e5, fee_e5=fee_e5)


def sell(instrument: Instrument, position: Position, price_e5: int) -> Sale:
    """What selling the whole position at a price brings."""
    fee_e5 = _fee_e5(instrument, position.units * price_e5)
    proceeds_e5 = position.units * price_e5 - fee_e5
    return Sale(proceeds_e5=proceeds_e5, fee_e5=fee_e5, profit_e5=proceeds_e5 - position.cost_e5)


def hold(position: Position, quote: Quote, score: Score) -> Holding:
    """A position at its worth, and what the strategy has won with it and before it."""
    value_e5 = position.units * quote.close_e5
    return Holding(value_e5=value_e5, profit_e5=score.profit_e5 + value_e5 - position.cost_e5)


def worth(account: Account, holdings: Mapping[str, Holding]) -> Mark:
    """The desk's worth: its money and what all positions would fetch."""
    return Mark(
        equity_e5=account.balance_e5 + sum(holding.value_e5 for holding in holdings.values()),
        profits_e5=tuple(
            sum(holdings[key].profit_e5 for key in keys if key in holdings)
            for keys in ([book_key(symbol, strategy) for symbol in INSTRUMENTS] for strategy in STRATEGIES)
        ),
    )


def perform(before: Performance, equity_e5: int) -> Performance:
    """The performance after one more valuation."""
    peak_e5 = max(before.peak_e5, equity_e5)
    drawdown_ppm = (peak_e5 - equity_e5) * PPM // peak_e5
    return Performance(peak_e5=peak_e5, drawdown_max_ppm=max(before.drawdown_max_ppm, drawdown_ppm))


def _fee_e5(instrument: Instrument, money_e5: int) -> int:
    return -(-money_e5 * instrument.fee_ppm // PPM)
