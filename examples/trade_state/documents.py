"""The four documents, as functions of the book alone: no clock, no file, nothing that was computed before.

Owns what follows from the trades. So the curve, its peak, and where the day and the week began are the same whenever they
are computed, and nothing is lost with a document.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from typing import Literal

from .records import (
    Day,
    Equity,
    Heat,
    Portfolio,
    Position,
    RiskState,
    Setup,
    SetupPerformance,
    Trade,
)

__all__ = ["STARTING_CAPITAL", "cents", "closed_count", "closed_trades", "equity", "open_trades", "portfolio",
           "realized_equity", "risk_state", "setup_performance"]  # fmt: skip

Book = Mapping[str, Trade]

STARTING_CAPITAL = Decimal(5000)
# Of the peak: what the document warns of. Of the start of the day, of the week, and of all: what halts the trading.
WARNING, REDUCE, STOP = Decimal(-5), Decimal(-10), Decimal(-20)
DAILY_HALT, WEEKLY_HALT, TOTAL_HALT = Decimal("-0.02"), Decimal("-0.10"), Decimal("-0.20")
ZERO = Decimal("0.00")
PART = Decimal("0.000001")  # What shares are rounded to in documents.


def cents(amount: Decimal) -> Decimal:
    """Rounded to two places."""
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def open_trades(book: Book) -> list[Trade]:
    """What is open, by id."""
    return [trade for trade in book.values() if trade.is_open]


def closed_trades(book: Book) -> list[Trade]:
    """What is closed, the last to be closed at the end."""
    closed = [trade for trade in book.values() if not trade.is_open]
    return sorted(closed, key=lambda trade: (trade.exit_time or trade.entry_time, trade.id))


def closed_count(book: Book) -> int:
    """How many are closed: what the guard counts."""
    return sum(not trade.is_open for trade in book.values())


def realized(book: Book) -> list[tuple[datetime.datetime, Decimal]]:
    """What was realised when, in the order of time: partial exits and closes."""
    found = [(part.timestamp, part.pnl_usd) for trade in book.values() for part in trade.partial_exits]
    found += [(trade.exit_time, trade.pnl_usd or ZERO) for trade in book.values() if trade.exit_time is not None]
    return sorted(found)


def realized_equity(book: Book, before: datetime.datetime | None = None) -> Decimal:
    """The starting capital and all that was realised (before a moment)."""
    return STARTING_CAPITAL + sum((pnl for at, pnl in realized(book) if before is None or at < before), ZERO)


def portfolio(book: Book) -> Portfolio:
    """What is open, and what was realised."""
    total, closed = realized_equity(book), closed_trades(book)
    return Portfolio(
        starting_capital=STARTING_CAPITAL,
        realized_pnl=cents(total - STARTING_CAPITAL),
        current_equity=cents(total),
        total_trades=len(closed),
        winning_trades=sum(trade.net_pnl > 0 for trade in closed),
        losing_trades=sum(trade.net_pnl < 0 for trade in closed),
        open_positions=positions(book),
    )


def positions(book: Book) -> tuple[Position, ...]:
    """The open trades, in short."""
    return tuple(
        Position(
            trade_id=trade.id, symbol=trade.symbol, direction=trade.direction, size=trade.size, entry_price=trade.entry_price
        )
        for trade in open_trades(book)
    )  # fmt: skip


def equity(book: Book) -> Equity:
    """The curve and what is said of it."""
    closed, curve, total = closed_trades(book), equity_curve(book), realized_equity(book)
    peak, deepest = _peak_and_deepest(curve)
    drawdown = _percent(total - peak, peak)
    wins = [trade.net_pnl for trade in closed if trade.net_pnl > 0]
    losses = [trade.net_pnl for trade in closed if trade.net_pnl < 0]
    current, longest_win, longest_loss, results = streaks(closed)
    heats = tuple(
        Heat(trade_id=trade.id, symbol=trade.symbol, risk_pct=_percent(_at_stake(trade), total))
        for trade in open_trades(book)
    )
    return Equity(
        starting_capital=STARTING_CAPITAL,
        current_equity=cents(total),
        total_return_pct=_percent(total - STARTING_CAPITAL, STARTING_CAPITAL),
        peak_equity=cents(peak),
        drawdown_percent=drawdown,
        max_drawdown_pct=deepest,
        drawdown_status=_status(drawdown),
        total_trades=len(closed),
        winning_trades=len(wins),
        losing_trades=len(losses),
        win_rate=_percent(Decimal(len(wins)), Decimal(len(closed))),
        profit_factor=_ratio(sum(wins, ZERO), -sum(losses, ZERO)),
        avg_r=_mean([r for trade in closed if (r := r_multiple(trade)) is not None]),
        total_pnl=cents(total - STARTING_CAPITAL),
        inception_date=min((trade.entry_time.date() for trade in book.values()), default=None),
        equity_curve=curve,
        portfolio_heat=_percent(sum((_at_stake(trade) for trade in open_trades(book)), ZERO), total),
        heat_per_position=heats,
        current_streak=current,
        max_win_streak=longest_win,
        max_loss_streak=longest_loss,
        last_5_results=tuple(results[-5:]),
    )


def equity_curve(book: Book) -> tuple[Day, ...]:
    """The equity at the end of each day on which something was realised."""
    total, curve = STARTING_CAPITAL, []
    for date, realizations in groupby(realized(book), key=lambda each: each[0].astimezone(datetime.UTC).date()):
        total += sum((pnl for _, pnl in realizations), ZERO)
        curve.append(Day(date=date, equity=cents(total)))
    return tuple(curve)


def _peak_and_deepest(curve: Iterable[Day]) -> tuple[Decimal, Decimal]:
    peak, deepest = STARTING_CAPITAL, ZERO
    for day in curve:
        peak = max(peak, day.equity)
        deepest = min(deepest, _percent(day.equity - peak, peak))
    return peak, deepest


def _status(drawdown: Decimal) -> Literal["NORMAL", "WARNING", "REDUCE", "STOP"]:
    if drawdown <= STOP:
        return "STOP"
    if drawdown <= REDUCE:
        return "REDUCE"
    return "WARNING" if drawdown <= WARNING else "NORMAL"


def _at_stake(trade: Trade) -> Decimal:
    return abs(trade.entry_price - trade.original_stop) * trade.size


def streaks(closed: Sequence[Trade]) -> tuple[int, int, int, list[Literal["W", "L", "BE"]]]:
    """The streak that goes on (losses are negative), the longest of both kinds, and all results."""
    results: list[Literal["W", "L", "BE"]] = [
        "W" if trade.net_pnl > 0 else "L" if trade.net_pnl < 0 else "BE" for trade in closed
    ]
    current = longest_win = longest_loss = 0
    for result in results:
        if result != "BE":
            step = 1 if result == "W" else -1
            current = current + step if current * step > 0 else step
            longest_win, longest_loss = max(longest_win, current), max(longest_loss, -current)
    return current, longest_win, longest_loss, results


def risk_state(book: Book, now: datetime.datetime | None = None) -> RiskState:
    """The drawdowns of the day and the week of `now` (without it: of the newest entry in the book), and of all."""
    as_of = _newest(book) if now is None else now
    total = realized_equity(book)
    day, week = (
        (total, total) if as_of is None else (realized_equity(book, _day(as_of)), realized_equity(book, _week(as_of)))
    )
    drawdowns = (_part(total - day, day), _part(total - week, week), _part(total - STARTING_CAPITAL, STARTING_CAPITAL))
    limits = (("daily", DAILY_HALT), ("weekly", WEEKLY_HALT), ("total", TOTAL_HALT))
    reason = next(
        (
            f"{name} drawdown {drawdown:.2%} has reached the limit of {limit:.0%}"
            for drawdown, (name, limit) in zip(drawdowns, limits, strict=True)
            if drawdown <= limit
        ),
        None,
    )
    return RiskState(
        as_of=as_of,
        starting_value=STARTING_CAPITAL,
        current_value=cents(total),
        daily_start_value=cents(day),
        weekly_start_value=cents(week),
        daily_drawdown=drawdowns[0].quantize(PART),
        weekly_drawdown=drawdowns[1].quantize(PART),
        total_drawdown=drawdowns[2].quantize(PART),
        open_positions=positions(book),
        halted=reason is not None,
        halt_reason=reason,
    )


def _newest(book: Book) -> datetime.datetime | None:
    entries = [trade.entry_time for trade in book.values()]
    return max([*entries, *[at for at, _ in realized(book)]], default=None)


def _day(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _week(moment: datetime.datetime) -> datetime.datetime:
    day = _day(moment)
    return day - datetime.timedelta(days=day.weekday())


def setup_performance(book: Book) -> SetupPerformance:
    """How each setup went."""
    by_setup: dict[str, list[Trade]] = {}
    for trade in closed_trades(book):
        by_setup.setdefault(trade.setup_type or "Unknown", []).append(trade)
    setups = [_setup(name, trades) for name, trades in by_setup.items()]
    setups.sort(key=lambda each: (-each.expectancy, each.setup))
    return SetupPerformance(setups=tuple(setups), total_closed=closed_count(book))


def _setup(name: str, trades: Sequence[Trade]) -> Setup:
    wins, losses = sum(trade.net_pnl > 0 for trade in trades), sum(trade.net_pnl < 0 for trade in trades)
    multiples = [r for trade in trades if (r := r_multiple(trade)) is not None]
    average_win = _mean([r for r in multiples if r > 0])
    average_loss = _mean([r for r in multiples if r < 0])
    win_rate = Decimal(wins) / len(trades)
    return Setup(
        setup=name,
        total_trades=len(trades),
        wins=wins,
        losses=losses,
        breakeven=len(trades) - wins - losses,
        win_rate=cents(100 * win_rate),
        avg_r=_mean(multiples),
        avg_win_r=average_win,
        avg_loss_r=average_loss,
        expectancy=cents(win_rate * average_win + (1 - win_rate) * average_loss),
        total_pnl=cents(sum((trade.net_pnl for trade in trades), ZERO)),
        trades=tuple(trade.id for trade in trades),
    )


def r_multiple(trade: Trade) -> Decimal | None:
    """What a closed trade brought, in units of what it had put at stake; None if that was nothing."""
    return None if trade.risk == 0 else cents(trade.net_pnl / trade.risk)


def _mean(values: Sequence[Decimal]) -> Decimal:
    return cents(sum(values, ZERO) / len(values)) if values else ZERO


def _part(amount: Decimal, whole: Decimal) -> Decimal:
    return amount / whole if whole > 0 else ZERO


def _percent(amount: Decimal, whole: Decimal) -> Decimal:
    return cents(100 * _part(amount, whole))


def _ratio(one: Decimal, other: Decimal) -> Decimal:
    return cents(one / other) if other > 0 else ZERO
