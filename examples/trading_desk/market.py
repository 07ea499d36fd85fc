"""The market: which instruments the desk trades, and their recorded bars.

Owns the reading of the OHLCV files that the PyPI package `backtesting` ships. It promises bars in time order, with
aware UTC bar ends and integer prices: `_e5` means units of 0.00001 US dollar, here and in every other file. It must
never import `backtesting` (that would load pandas and bokeh); it only asks where the package's files are.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

E5 = 100_000
"""How many `_e5` make one US dollar. EURUSD is quoted to 0.00001, so every recorded price is an exact integer."""


class MarketDataMissing(Exception):
    """The recorded prices are not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What can be traded, and the terms on which the desk trades it."""

    symbol: str
    title: str
    bar_length: timedelta
    lot: int
    """Orders are a multiple of this many units."""
    ticket_e5: int
    """The money that one buy order may cost."""
    exposure_max_e5: int
    """The money that all strategies together may have in this instrument."""
    fee_ppm: int
    """Commission and half the spread, of the money that changes hands."""
    tolerance_ppm: int
    """How far above the last close a buy order may still be filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One recorded bar; `index` counts from 0 within its instrument."""

    symbol: str
    index: int
    end: datetime
    open_e5: int
    high_e5: int
    low_e5: int
    close_e5: int


GOOG = Instrument(
    symbol="GOOG",
    title="Google shares, daily",
    bar_length=timedelta(days=1),
    lot=1,
    ticket_e5=40_000 * E5,
    exposure_max_e5=90_000 * E5,
    fee_ppm=200,
    tolerance_ppm=5_000,
)
EURUSD = Instrument(
    symbol="EURUSD",
    title="Euro in US dollars, hourly",
    bar_length=timedelta(hours=1),
    lot=1_000,
    ticket_e5=90_000 * E5,
    exposure_max_e5=300_000 * E5,
    fee_ppm=20,
    tolerance_ppm=100,
)
INSTRUMENTS = {instrument.symbol: instrument for instrument in (GOOG, EURUSD)}


def load_bars(instrument: Instrument, limit: int | None = None) -> tuple[Bar, ...]:
    """Read the first `limit` bars of an instrument (all of them without a limit), oldest first.

    The files give the time at which a bar begins and no time zone; it is taken as UTC. Raises `MarketDataMissing`.
    """
    bars: list[Bar] = []
    with _path_of(instrument).open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)
        next(rows)  # the header: "", Open, High, Low, Close, Volume
        for index, (begin, open_, high, low, close, _volume) in enumerate(rows):
            if index == limit:
                break
            bar = Bar(
                symbol=instrument.symbol,
                index=index,
                end=datetime.fromisoformat(begin).replace(tzinfo=UTC) + instrument.bar_length,
                open_e5=_price_e5(open_),
                high_e5=_price_e5(high),
                low_e5=_price_e5(low),
                close_e5=_price_e5(close),
            )
            if bars and bar.end <= bars[-1].end:
                raise ValueError(f"{instrument.symbol}: bar {index} ends at {bar.end}, not after {bars[-1].end}")
            bars.append(bar)
    return tuple(bars)


def in_time_order(*series: Iterable[Bar]) -> list[Bar]:
    """Merge the bars of several instruments into the one order in which the market produced them."""
    return list(heapq.merge(*series, key=lambda bar: bar.end))


def _path_of(instrument: Instrument) -> Path:
    try:
        package = distribution("backtesting")
    except PackageNotFoundError:
        raise MarketDataMissing(
            "the recorded prices come with the package `backtesting`, which is not installed: "
            "pip install 'seqtor[examples]'"
        ) from None
    path = Path(str(package.locate_file(f"backtesting/test/{instrument.symbol}.csv")))
    if not path.is_file():
        raise MarketDataMissing(f"backtesting {package.version} has no {path}: expected the OHLCV file that 0.6 ships")
    return path


def _price_e5(text: str) -> int:
    price = Decimal(text).scaleb(5)
    if price != int(price) or price <= 0:
        raise ValueError(f"{text!r} is not a price: expected a positive number with at most 5 decimals")
    return int(price)
