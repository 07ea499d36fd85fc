"""The desk: a seqtor system with its stores and the handler of every trigger.

Owns the wiring, not the arithmetic: a handler reads stores, asks rules.py and writes stores. The handlers really
collide. Two strategies ask the risk check for the same dollar, the fill simulator takes away orders that the risk check
is looking at, the valuation reads what fills write, and every bar extends the closes of the one before it. The runtime
executes them in parallel all the same, and executes again whatever has read something that changed.
"""

from __future__ import annotations

from seqtor import Collection, Document, Supervisor, Transaction

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
    Score,
    State,
    ValuePortfolio,
    bar_key,
    book_key,
)
from .strategies import STRATEGIES

system = Supervisor(name="trading-desk")

quotes = system.store("quotes", Collection(Quote))
orders = system.store("orders", Collection(Order))
positions = system.store("positions", Collection(Position))
accounts = system.store(
    "accounts",
    Collection(
        Account,
        initial={USD: Account(balance_e5=CAPITAL_E5)},
        invariants=[rules.no_promise_without_money],
    ),
)
scores = system.store("scores", Collection(Score))
holdings = system.store("holdings", Collection(Holding))
marks = system.store("marks", Collection(Mark))
performance = system.store("performance", Document(Performance))


@system.on(BarClosed)
def close_bar(trigger: BarClosed, tx: Transaction) -> None:
    book = tx[quotes]
    previous = book.get(bar_key(trigger.symbol, trigger.index - 1)) if trigger.index else None
    book[bar_key(trigger.symbol, trigger.index)] = rules.quote(trigger, previous)


@system.on(FillOrders)
def fill_orders(trigger: FillOrders, tx: Transaction) -> int:
    quote = rules.known(tx[quotes].get(bar_key(trigger.symbol, trigger.index)))
    instrument, account, filled = INSTRUMENTS[trigger.symbol], tx[accounts], 0
    for key, order in list(tx[orders].scan(prefix=f"{trigger.symbol}/")):
        if order.decided_at >= trigger.index:
            continue
        del tx[orders][key]
        if not order.approved:
            continue
        if order.units < 0:
            _sell(tx, key, trigger.symbol, quote.open_e5)
            filled += 1
        elif purchase := rules.buy(instrument, order, quote):
            tx[positions][key] = Position(units=order.units, cost_e5=purchase.cost_e5)
            tx[scores].increment(key, fees_e5=purchase.fee_e5)
            account.increment(USD, balance_e5=-purchase.cost_e5, reserved_e5=-order.reserve_e5)
            filled += 1
        else:
            tx[scores].increment(key, expired=1)
            account.increment(USD, reserved_e5=-order.reserve_e5)
    return filled


@system.on(Decide)
def decide(trigger: Decide, tx: Transaction) -> int:
    quote = rules.known(tx[quotes].get(bar_key(trigger.symbol, trigger.index)))
    key = book_key(trigger.symbol, trigger.strategy)
    strategy, instrument = STRATEGIES[trigger.strategy], INSTRUMENTS[trigger.symbol]
    position, pending = tx[positions].get(key, Position()), tx[orders].get(key)
    order = rules.decide(strategy, instrument, trigger.index, quote, position, pending)
    if order is None:
        return 0
    tx[orders][key] = order
    return order.units


@system.on(CheckRisk)
def check_risk(trigger: CheckRisk, tx: Transaction) -> bool:
    book = tx[orders]
    key = book_key(trigger.symbol, trigger.strategy)
    order = book.get(key)
    if order is None or order.approved or order.decided_at != trigger.index:
        return False
    if order.units > 0:
        same_instrument = f"{trigger.symbol}/"
        rules.check_risk(
            INSTRUMENTS[trigger.symbol],
            order,
            rules.known(tx[quotes].get(bar_key(trigger.symbol, trigger.index))),
            [position for _, position in tx[positions].scan(prefix=same_instrument)],
            [other for _, other in book.scan(prefix=same_instrument)],
            tx[accounts][USD],
        )
        tx[accounts].increment(USD, reserved_e5=order.reserve_e5)
    book[key] = order.replace(approved=True)
    return True


@system.on(CloseOut)
def close_out(trigger: CloseOut, tx: Transaction) -> int:
    quote = rules.known(tx[quotes].get(bar_key(trigger.symbol, trigger.index)))
    same_instrument = f"{trigger.symbol}/"
    for key, order in list(tx[orders].scan(prefix=same_instrument)):
        del tx[orders][key]
        if order.approved:
            tx[accounts].increment(USD, reserved_e5=-order.reserve_e5)
    held = [key for key, _ in tx[positions].scan(prefix=same_instrument)]
    for key in held:
        _sell(tx, key, trigger.symbol, quote.close_e5)
    return len(held)


@system.on(ValuePortfolio)
def value_portfolio(trigger: ValuePortfolio, tx: Transaction) -> int:
    key = bar_key(trigger.symbol, trigger.index)
    quote = rules.known(tx[quotes].get(key))
    values = tx[holdings]
    for strategy in STRATEGIES:
        book = book_key(trigger.symbol, strategy)
        values[book] = rules.hold(tx[positions].get(book, Position()), quote, tx[scores].get(book, Score()))
    mark = rules.worth(tx[accounts][USD], dict(values.items()))
    tx[marks][key] = mark
    best = rules.perform(tx[performance].value, mark.equity_e5)
    tx[performance].update(peak_e5=best.peak_e5, drawdown_max_ppm=best.drawdown_max_ppm)
    return mark.equity_e5


def newest_state() -> State:
    """Everything the desk keeps now, from one consistent snapshot."""
    snapshot = system.snapshot()
    return State(
        quotes=dict(snapshot[quotes].items()),
        orders=dict(snapshot[orders].items()),
        positions=dict(snapshot[positions].items()),
        accounts=dict(snapshot[accounts].items()),
        scores=dict(snapshot[scores].items()),
        holdings=dict(snapshot[holdings].items()),
        marks=dict(snapshot[marks].items()),
        performance=snapshot[performance].value,
    )


def _sell(tx: Transaction, key: str, symbol: str, price_e5: int) -> None:
    sale = rules.sell(INSTRUMENTS[symbol], tx[positions][key], price_e5)
    del tx[positions][key]
    tx[accounts].increment(USD, balance_e5=sale.proceeds_e5)
    tx[scores].increment(key, trades=1, wins=int(sale.profit_e5 > 0), profit_e5=sale.profit_e5, fees_e5=sale.fee_e5)
