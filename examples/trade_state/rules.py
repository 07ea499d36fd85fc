"""What may be done to the book, and what must hold of it. Pure.

Owns the checks, in their order, and the six invariants. A check raises `Rejected` with a code; whatever it looks at comes
from the book as of the run's place in the order, so no two runs can pass it on the same state.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise

from seqtor import Rejected, each

from .documents import closed_trades, open_trades, realized_equity, risk_state
from .records import OpenTrade, Trade

__all__ = ["INVARIANTS", "POSITIONS_MAX", "require_may_change", "require_may_open", "require_open", "require_positive"]

Book = Mapping[str, Trade]

POSITIONS_MAX = 7
GROUP_RISK_MAX = Decimal("0.04")  # Of the realised equity.
LOSSES_MAX = 3  # In a row, of one symbol.
CORRELATION_GROUPS: Mapping[str, frozenset[str]] = {
    "crypto_major": frozenset({"BTC", "ETH"}),
    "crypto_alt": frozenset({"SOL", "XRP"}),
    "tech_megacap": frozenset({"AAPL", "MSFT", "AMZN", "META", "NFLX"}),
    "tech_semi": frozenset({"NVDA", "AMD"}),
}
CENT = Decimal("0.01")


# Checks --------------------------------------------------------------------------------------------------------------


def require_may_open(wanted: OpenTrade, book: Book, now: datetime.datetime) -> None:
    """Raise `Rejected` unless the trade may be opened now."""
    _require_sound(wanted)
    state = risk_state(book, now)
    if state.halted:
        raise Rejected(f"trading is halted: {state.halt_reason}", "halted")
    open_now = open_trades(book)
    if any(trade.symbol == wanted.symbol for trade in open_now):
        raise Rejected(f"{wanted.symbol} has an open position already", "duplicate_symbol")
    if len(open_now) >= POSITIONS_MAX:
        raise Rejected("the cap of open positions is reached", "position_cap", open=len(open_now), cap=POSITIONS_MAX)
    _require_room_in_group(wanted, book)
    _require_no_losing_streak(wanted.symbol, book)


def _require_sound(wanted: OpenTrade) -> None:
    if not wanted.symbol:
        raise Rejected("a trade needs a symbol", "symbol")
    for name in ("entry_price", "stop_price", "target_price", "size"):
        require_positive(name, getattr(wanted, name))
    if not _in_order(wanted.direction, wanted.stop_price, wanted.entry_price, wanted.target_price):
        raise Rejected(
            f"a {wanted.direction} needs its stop and its target on either side of the entry",
            "wrong_side", stop=wanted.stop_price, entry=wanted.entry_price, target=wanted.target_price,
        )  # fmt: skip


def _in_order(direction: str, *prices: Decimal) -> bool:
    """Whether they rise (of a LONG) or fall (of a SHORT)."""
    rising = prices if direction == "LONG" else prices[::-1]
    return all(one < other for one, other in pairwise(rising))


def _require_room_in_group(wanted: OpenTrade, book: Book) -> None:
    group = next((name for name, symbols in CORRELATION_GROUPS.items() if wanted.symbol in symbols), None)
    if group is None:
        return
    taken = sum((trade.risk for trade in open_trades(book) if trade.symbol in CORRELATION_GROUPS[group]), Decimal(0))
    risk = taken + abs(wanted.entry_price - wanted.stop_price) * wanted.size
    limit = realized_equity(book) * GROUP_RISK_MAX
    if risk > limit:
        raise Rejected(f"the correlation group {group} would risk too much", "group_risk", risk=risk, limit=limit)


def _require_no_losing_streak(symbol: str, book: Book) -> None:
    recent = [trade for trade in closed_trades(book) if trade.symbol == symbol][-LOSSES_MAX:]
    if len(recent) == LOSSES_MAX and all(trade.net_pnl <= 0 for trade in recent):
        raise Rejected(f"the last {LOSSES_MAX} trades of {symbol} have brought nothing", "losing_streak")


def require_positive(name: str, value: Decimal) -> None:
    """Raise `Rejected` for what is no positive amount."""
    if not value.is_finite() or value <= 0:
        raise Rejected(f"{name} must be above 0", "not_positive", value=value)


def require_may_change(updated: Trade) -> None:
    """Raise `Rejected` for a stop or a target that no trade could have. A stop may follow the price beyond the entry."""
    require_positive("stop_price", updated.stop_price)
    require_positive("target_price", updated.target_price)
    if not _in_order(updated.direction, updated.stop_price, updated.target_price):
        raise Rejected(
            f"a {updated.direction} needs its stop on the other side of its target",
            "wrong_side", stop=updated.stop_price, target=updated.target_price,
        )  # fmt: skip


def require_open(book: Book, trade_id: str) -> Trade:
    """The trade of this id; `Rejected` if there is none, or it is closed."""
    trade = book.get(trade_id)
    if trade is None:
        raise Rejected(f"there is no trade {trade_id}", "unknown_trade")
    if not trade.is_open:
        raise Rejected(f"trade {trade_id} is closed", "closed")
    return trade


# Invariants ----------------------------------------------------------------------------------------------------------


def each_trade_has_an_id_of_its_own(key: str, trade: Trade) -> bool:
    """No two trades say that they have the same id."""
    return key == trade.id


def open_trades_are_complete(_: str, trade: Trade) -> bool:
    """What is open has a symbol, positive prices and size, and nothing of an exit."""
    return not trade.is_open or (
        bool(trade.symbol)
        and min(trade.entry_price, trade.stop_price, trade.target_price, trade.size) > 0
        and (trade.exit_price, trade.exit_time, trade.pnl_usd) == (None, None, None)
    )


def closed_trades_have_an_exit(_: str, trade: Trade) -> bool:
    """What is closed says when, at which price, and what it brought."""
    return trade.is_open or None not in (trade.exit_price, trade.exit_time, trade.pnl_usd)


def the_position_cap_holds(book: Book) -> bool:
    """Not too many are open."""
    return len(open_trades(book)) <= POSITIONS_MAX


def no_symbol_is_open_twice(book: Book) -> bool:
    """One open trade for each symbol."""
    return max(Counter(trade.symbol for trade in open_trades(book)).values(), default=0) <= 1


def a_profit_has_the_sign_of_its_prices(_: str, trade: Trade) -> bool:
    """No closed trade has won where its prices have lost, but for a cent of rounding."""
    if trade.exit_price is None or trade.pnl_usd is None:
        return True
    gain = trade.gain(trade.exit_price)
    return not ((gain > 0 and trade.pnl_usd < -CENT) or (gain < 0 and trade.pnl_usd > CENT))


INVARIANTS = (
    each(each_trade_has_an_id_of_its_own),
    each(open_trades_are_complete),
    each(closed_trades_have_an_exit),
    the_position_cap_holds,
    no_symbol_is_open_twice,
    each(a_profit_has_the_sign_of_its_prices),
)
