"""The plain loop: the same triggers, one after another, on dictionaries.

Owns the yardstick of the self check. There is no runtime here, no thread and no snapshot: `SerialDesk.run` does to
plain dictionaries what the handlers of desk.py do to stores, by the same rules.py. It promises the final state and the
outcomes of strict one-by-one execution. It must never import desk.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqtor import Record, Rejected, Trigger

from . import rules
from .market import INSTRUMENTS
from .records import (
    CAPITAL_E5,
    USD,
    Account,
    BarClosed,
    CheckRisk,
    CloseOut,
    Decide,
    FillOrders,
    Holding,
    Mark,
    Order,
    Performance,
    Position,
    Quote,
    Refused,
    Score,
    State,
    ValuePortfolio,
    bar_key,
    book_key,
)
from .strategies import STRATEGIES


class SerialDesk:
    """The desk's stores as plain dictionaries."""

    def __init__(self) -> None:
        self.quotes: dict[str, Quote] = {}
        self.orders: dict[str, Order] = {}
        self.positions: dict[str, Position] = {}
        self.accounts: dict[str, Account] = {USD: Account(balance_e5=CAPITAL_E5)}
        self.scores: dict[str, Score] = {}
        self.holdings: dict[str, Holding] = {}
        self.marks: dict[str, Mark] = {}
        self.performance = Performance()

    def state(self) -> State:
        """Everything the desk keeps now."""
        return State(
            quotes=self.quotes,
            orders=self.orders,
            positions=self.positions,
            accounts=self.accounts,
            scores=self.scores,
            holdings=self.holdings,
            marks=self.marks,
            performance=self.performance,
        )

    def run(self, trigger: Trigger[Any]) -> object:
        """Carry out one trigger and return its outcome: the result, or `Refused`.

        The rules refuse before anything is written and keep the accounts' invariant by themselves, so there is nothing
        to roll back. Raises `AssertionError` if they do not: then the rules are wrong, not the runtime.
        """
        try:
            outcome = self._carry_out(trigger)
        except Rejected as refusal:
            return Refused(refusal.code)
        if not rules.no_promise_without_money(self.accounts):
            raise AssertionError(f"the rules broke the accounts' invariant: {trigger!r} left {self.accounts}")
        return outcome

    def _carry_out(self, trigger: Trigger[Any]) -> object:
        match trigger:
            case BarClosed():
                self._close_bar(trigger)
                return None
            case FillOrders():
                return self._fill_orders(trigger)
            case Decide():
                return self._decide(trigger)
            case CheckRisk():
                return self._check_risk(trigger)
            case CloseOut():
                return self._close_out(trigger)
            case ValuePortfolio():
                return self._value_portfolio(trigger)
            case _:
                raise TypeError(f"the plain loop does not know {type(trigger).__name__}")

    def _close_bar(self, trigger: BarClosed) -> None:
        previous = self.quotes.get(bar_key(trigger.symbol, trigger.index - 1))
        self.quotes[bar_key(trigger.symbol, trigger.index)] = rules.quote(trigger, previous)

    def _fill_orders(self, trigger: FillOrders) -> int:
        quote = rules.known(self.quotes.get(bar_key(trigger.symbol, trigger.index)))
        filled = 0
        for key in self._keys(self.orders, trigger.symbol):
            order = self.orders[key]
            if order.decided_at >= trigger.index:
                continue
            del self.orders[key]
            if not order.approved:
                continue
            if order.units < 0:
                self._sell(key, trigger.symbol, quote.open_e5)
                filled += 1
                continue
            purchase = rules.buy(INSTRUMENTS[trigger.symbol], order, quote)
            if purchase is None:
                self._pay(0, reserve_e5=-order.reserve_e5)
                self._score(key, expired=1)
                continue
            self._pay(-purchase.cost_e5, reserve_e5=-order.reserve_e5)
            self._score(key, fees_e5=purchase.fee_e5)
            self.positions[key] = Position(units=order.units, cost_e5=purchase.cost_e5)
            filled += 1
        return filled

    def _decide(self, trigger: Decide) -> int:
        quote = rules.known(self.quotes.get(bar_key(trigger.symbol, trigger.index)))
        key = book_key(trigger.symbol, trigger.strategy)
        order = rules.decide(
            STRATEGIES[trigger.strategy],
            INSTRUMENTS[trigger.symbol],
            trigger.index,
            quote,
            self.positions.get(key, Position()),
            self.orders.get(key),
        )
        if order is None:
            return 0
        self.orders[key] = order
        return order.units

    def _check_risk(self, trigger: CheckRisk) -> bool:
        key = book_key(trigger.symbol, trigger.strategy)
        order = self.orders.get(key)
        if order is None or order.approved or order.decided_at != trigger.index:
            return False
        if order.units > 0:
            rules.check_risk(
                INSTRUMENTS[trigger.symbol],
                order,
                rules.known(self.quotes.get(bar_key(trigger.symbol, trigger.index))),
                [self.positions[held] for held in self._keys(self.positions, trigger.symbol)],
                [self.orders[other] for other in self._keys(self.orders, trigger.symbol)],
                self.accounts[USD],
            )
            self._pay(0, reserve_e5=order.reserve_e5)
        self.orders[key] = order.replace(approved=True)
        return True

    def _close_out(self, trigger: CloseOut) -> int:
        quote = rules.known(self.quotes.get(bar_key(trigger.symbol, trigger.index)))
        for key in self._keys(self.orders, trigger.symbol):
            order = self.orders.pop(key)
            if order.approved:
                self._pay(0, reserve_e5=-order.reserve_e5)
        held = self._keys(self.positions, trigger.symbol)
        for key in held:
            self._sell(key, trigger.symbol, quote.close_e5)
        return len(held)

    def _value_portfolio(self, trigger: ValuePortfolio) -> int:
        key = bar_key(trigger.symbol, trigger.index)
        quote = rules.known(self.quotes.get(key))
        for strategy in STRATEGIES:
            book = book_key(trigger.symbol, strategy)
            position, score = self.positions.get(book, Position()), self.scores.get(book, Score())
            self.holdings[book] = rules.hold(position, quote, score)
        self.marks[key] = rules.worth(self.accounts[USD], self.holdings)
        self.performance = rules.perform(self.performance, self.marks[key].equity_e5)
        return self.marks[key].equity_e5

    # -- what increments do in a store --------------------------------------------------------------------------------

    def _sell(self, key: str, symbol: str, price_e5: int) -> None:
        sale = rules.sell(INSTRUMENTS[symbol], self.positions.pop(key), price_e5)
        self._pay(sale.proceeds_e5)
        self._score(key, trades=1, wins=int(sale.profit_e5 > 0), profit_e5=sale.profit_e5, fees_e5=sale.fee_e5)

    def _pay(self, amount_e5: int, *, reserve_e5: int = 0) -> None:
        account = self.accounts[USD]
        self.accounts[USD] = Account(
            balance_e5=account.balance_e5 + amount_e5,
            reserved_e5=account.reserved_e5 + reserve_e5,
        )

    def _score(
        self, key: str, *, trades: int = 0, wins: int = 0, profit_e5: int = 0, fees_e5: int = 0, expired: int = 0
    ) -> None:
        score = self.scores.get(key, Score())
        self.scores[key] = Score(
            trades=score.trades + trades,
            wins=score.wins + wins,
            profit_e5=score.profit_e5 + profit_e5,
            fees_e5=score.fees_e5 + fees_e5,
            expired=score.expired + expired,
        )

    @staticmethod
    def _keys(book: Mapping[str, Record], symbol: str) -> list[str]:
        return sorted(key for key in book if key.startswith(f"{symbol}/"))
