"""What the book keeps, what changes it, and the four documents that follow from it.

Owns the shapes. All money, prices and sizes are `Decimal`; times are aware, in UTC.
"""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime

from seqtor import Record, Trigger

__all__ = [
    "Alarm",
    "CloseTrade",
    "Day",
    "Equity",
    "Heat",
    "ImportTrades",
    "OpenTrade",
    "PartialClose",
    "PartialExit",
    "Portfolio",
    "Position",
    "RaiseAlarm",
    "RiskState",
    "Setup",
    "SetupPerformance",
    "Trade",
    "UpdateTrade",
]

Direction = Literal["LONG", "SHORT"]
ZERO = Decimal(0)


# The book ------------------------------------------------------------------------------------------------------------


class PartialExit(Record):
    """A part of a trade that was closed before the rest."""

    exit_price: Decimal
    size_closed: Decimal
    pnl_usd: Decimal
    reason: str = ""
    timestamp: AwareDatetime


class Trade(Record):
    """One trade; `size` is what is left of `original_size`, `pnl_usd` what the last close brought, without partial exits."""

    id: str
    symbol: str
    direction: Direction
    entry_price: Decimal
    stop_price: Decimal
    original_stop: Decimal
    target_price: Decimal
    size: Decimal
    original_size: Decimal
    entry_time: AwareDatetime
    status: Literal["OPEN", "CLOSED"] = "OPEN"
    exit_price: Decimal | None = None
    exit_time: AwareDatetime | None = None
    exit_reason: str | None = None
    pnl_usd: Decimal | None = None
    pnl_pct: Decimal | None = None
    r_multiple: Decimal | None = None
    partial_exits: tuple[PartialExit, ...] = ()
    setup_type: str = ""
    grade: str = ""
    notes: str = ""
    lessons: str = ""

    @property
    def is_open(self) -> bool:
        """Whether anything is left of it."""
        return self.status == "OPEN"

    @property
    def net_pnl(self) -> Decimal:
        """What it has realised so far, partial exits included."""
        return (self.pnl_usd or ZERO) + sum((part.pnl_usd for part in self.partial_exits), ZERO)

    @property
    def risk(self) -> Decimal:
        """What was at stake when it was opened."""
        return abs(self.entry_price - self.original_stop) * self.original_size

    def gain(self, exit_price: Decimal) -> Decimal:
        """What one unit brings at this price."""
        return exit_price - self.entry_price if self.direction == "LONG" else self.entry_price - exit_price


class Alarm(Record):
    """What the library has raised: `seqtor.guard` or `seqtor.drift`, and what it said."""

    code: str
    said: str
    at: AwareDatetime


# What changes it -----------------------------------------------------------------------------------------------------


class OpenTrade(Trigger[Trade]):
    """Opens a trade; rejected by any of the checks in `rules.py`."""

    symbol: str
    direction: Direction
    entry_price: Decimal
    stop_price: Decimal
    target_price: Decimal
    size: Decimal
    setup_type: str = ""
    grade: str = ""
    notes: str = ""


class CloseTrade(Trigger[Trade]):
    """Closes what is left of a trade."""

    id: str
    exit_price: Decimal
    exit_reason: str = ""
    lessons: str = ""


class PartialClose(Trigger[Trade]):
    """Closes a part of a trade: `fraction` of what is left, between 0 and 1."""

    id: str
    fraction: Decimal
    exit_price: Decimal
    reason: str = "Partial TP"


class UpdateTrade(Trigger[Trade]):
    """Moves the stop or the target of an open trade, or changes what is noted of it; None leaves a field as it is."""

    id: str
    stop_price: Decimal | None = None
    target_price: Decimal | None = None
    setup_type: str | None = None
    grade: str | None = None
    notes: str | None = None


class ImportTrades(Trigger[int]):
    """Takes trades as they are into an empty book; answers with how many. The invariants hold for them, too."""

    trades: tuple[Trade, ...]


class RaiseAlarm(Trigger[None]):
    """Notes an alarm of the library."""

    code: str
    said: str


# What follows from it ------------------------------------------------------------------------------------------------


class Position(Record):
    """An open trade."""

    trade_id: str
    symbol: str
    direction: Direction
    size: Decimal
    entry_price: Decimal


class Portfolio(Record):
    """What is open, and what was realised."""

    starting_capital: Decimal
    realized_pnl: Decimal
    current_equity: Decimal
    total_trades: int
    winning_trades: int
    losing_trades: int
    open_positions: tuple[Position, ...]


class Day(Record):
    """The realised equity at the end of a day on which something was realised."""

    date: datetime.date
    equity: Decimal


class Heat(Record):
    """How much of the equity one open position puts at risk, in percent."""

    trade_id: str
    symbol: str
    risk_pct: Decimal


class Equity(Record):
    """The equity curve and what is said of it; percentages of losses are negative."""

    starting_capital: Decimal
    current_equity: Decimal
    total_return_pct: Decimal
    peak_equity: Decimal
    drawdown_percent: Decimal
    max_drawdown_pct: Decimal
    drawdown_status: Literal["NORMAL", "WARNING", "REDUCE", "STOP"]
    total_trades: int
    winning_trades: int
    losing_trades: int
    win_rate: Decimal
    profit_factor: Decimal
    avg_r: Decimal
    total_pnl: Decimal
    inception_date: datetime.date | None
    equity_curve: tuple[Day, ...]
    portfolio_heat: Decimal
    heat_per_position: tuple[Heat, ...]
    current_streak: int
    max_win_streak: int
    max_loss_streak: int
    last_5_results: tuple[Literal["W", "L", "BE"], ...]


class RiskState(Record):
    """The drawdowns as of a moment (in the document: of the newest entry in the book), and whether they halt the trading."""

    as_of: datetime.datetime | None
    starting_value: Decimal
    current_value: Decimal
    daily_start_value: Decimal
    weekly_start_value: Decimal
    daily_drawdown: Decimal
    weekly_drawdown: Decimal
    total_drawdown: Decimal
    open_positions: tuple[Position, ...]
    halted: bool
    halt_reason: str | None


class Setup(Record):
    """How the closed trades of one setup went."""

    setup: str
    total_trades: int
    wins: int
    losses: int
    breakeven: int
    win_rate: Decimal
    avg_r: Decimal
    avg_win_r: Decimal
    avg_loss_r: Decimal
    expectancy: Decimal
    total_pnl: Decimal
    trades: tuple[str, ...]


class SetupPerformance(Record):
    """All setups, that with the highest expectancy first."""

    setups: tuple[Setup, ...]
    total_closed: int
