"""What the desk keeps and what it is asked to do: the records in its stores and the triggers.

Owns the vocabulary that the handlers and the plain loop share. Records and triggers are immutable, hold integers only
(`_e5`: units of 0.00001 US dollar; `_ppm`: millionths), and know nothing of stores. Every trigger names its bar, so
its handler never has to ask which bar is the newest: that answer would depend on how far the feed has run ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from seqtor import Priority, Record, Trigger

from .market import E5

CAPITAL_E5 = 100_000 * E5
"""The money the desk starts with."""
USD = "USD"
"""The key of the one account that everything is paid from."""


def bar_key(symbol: str, index: int) -> str:
    """The key of what belongs to one bar; keys sort in bar order."""
    return f"{symbol}/{index:05d}"


def book_key(symbol: str, strategy: str) -> str:
    """The key of what one strategy has in one instrument."""
    return f"{symbol}/{strategy}"


# -- records ----------------------------------------------------------------------------------------------------------


class Quote(Record):
    """One bar as the desk knows it, with the closes that led up to it (its own is the last)."""

    open_e5: int
    low_e5: int
    close_e5: int
    closes_e5: tuple[int, ...]


class Order(Record):
    """What a strategy wants: `units` to buy, or to sell if negative. Only what the risk check approved is filled."""

    units: int
    decided_at: int
    """The index of the bar at whose close it was decided; it lives until the next bar."""
    limit_e5: int = 0
    """The highest price at which a buy may be filled; a sale takes what it gets."""
    reserve_e5: int = 0
    """What a buy costs at its limit, fee included; set aside in the account once it is approved."""
    approved: bool = False


class Position(Record):
    """What a strategy holds, and what it paid for it, fee included."""

    units: int = 0
    cost_e5: int = 0


class Account(Record):
    """The desk's money. `reserved_e5` of it is promised to approved buy orders."""

    balance_e5: int = 0
    reserved_e5: int = 0


class Score(Record):
    """What a strategy has achieved in one instrument; a trade is counted when its position is sold."""

    trades: int = 0
    wins: int = 0
    profit_e5: int = 0
    fees_e5: int = 0
    expired: int = 0


class Holding(Record):
    """What a position was worth at the last valuation, and the strategy's profit, realised or not."""

    value_e5: int = 0
    profit_e5: int = 0


class Mark(Record):
    """The desk's worth after one bar. `profits_e5` has one entry per strategy, in the order of `STRATEGIES`."""

    equity_e5: int
    profits_e5: tuple[int, ...]


class Performance(Record):
    """The highest equity so far and the deepest fall below a high."""

    peak_e5: int = CAPITAL_E5
    drawdown_max_ppm: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything the desk keeps, store by store, as plain mappings."""

    quotes: Mapping[str, Quote]
    orders: Mapping[str, Order]
    positions: Mapping[str, Position]
    accounts: Mapping[str, Account]
    scores: Mapping[str, Score]
    holdings: Mapping[str, Holding]
    marks: Mapping[str, Mark]
    performance: Performance

    def books(self) -> dict[str, Mapping[str, Record]]:
        """The stores by name; the document is one record under the key `value`."""
        return {
            "quotes": self.quotes,
            "orders": self.orders,
            "positions": self.positions,
            "accounts": self.accounts,
            "scores": self.scores,
            "holdings": self.holdings,
            "marks": self.marks,
            "performance": {"value": self.performance},
        }


# -- triggers ---------------------------------------------------------------------------------------------------------


class BarClosed(Trigger[None]):
    """A bar has ended. It is urgent: a strategy cannot judge what the desk has not heard of."""

    priority: ClassVar[Priority] = Priority.HIGH
    symbol: str
    index: int
    event_time: datetime
    open_e5: int
    low_e5: int
    close_e5: int


class FillOrders(Trigger[int]):
    """Carry out at this bar's prices what was approved before it. The result is the number of orders filled."""

    symbol: str
    index: int
    event_time: datetime


class Decide(Trigger[int]):
    """Let one strategy judge this bar. The result is the units that it wants to buy or (negative) to sell."""

    symbol: str
    index: int
    event_time: datetime
    strategy: str


class CheckRisk(Trigger[bool]):
    """Approve or refuse what one strategy wants. The result is whether there was an order to approve."""

    symbol: str
    index: int
    event_time: datetime
    strategy: str


class CloseOut(Trigger[int]):
    """Withdraw every order and sell every position at this bar's close. The result is the number of sales."""

    symbol: str
    index: int
    event_time: datetime


class ValuePortfolio(Trigger[int]):
    """Value every position at this bar's close. The result is the desk's equity in `_e5`."""

    symbol: str
    index: int
    event_time: datetime


# -- outcomes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """The outcome of a trigger that was rejected; any other outcome is the trigger's result."""

    code: str
