"""The equity chart: one self-contained HTML page with inline SVG.

Owns the drawing; the look (colours for light and dark, type) and the page around it are in chart.html. It promises a
page that needs nothing from outside: no library, no font, no network. The two instruments were recorded years apart, so
each has half of the width, and time runs from the left one to the right one.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from .market import E5, INSTRUMENTS, Bar
from .records import Mark, bar_key
from .report import Line, signed_usd, usd
from .strategies import STRATEGIES

WIDTH, HEIGHT = 1120, 744
LEFT, RIGHT, GAP = 74, 130, 30
SAMPLES_MAX = 400
"""How many points of a period the pointer can read."""


@dataclass(frozen=True, slots=True)
class Period:
    """One instrument's bars, what the desk was worth after each, and its place on the x axis."""

    symbol: str
    bars: Sequence[Bar]
    equity: Sequence[float]
    profits: Sequence[Sequence[float]]
    """One sequence per strategy."""
    fall: Sequence[float]
    """How far equity is below its peak so far, in percent; never positive."""
    left: float
    right: float

    def x(self, index: int) -> float:
        """Where a bar is drawn."""
        return self.left + (self.right - self.left) * index / max(1, len(self.bars) - 1)


@dataclass(frozen=True, slots=True)
class Panel:
    """A strip of the chart with a y axis of its own."""

    title: str
    top: float
    bottom: float
    low: float
    high: float
    step: float
    """The distance between two grid lines."""
    unit: str

    def y(self, value: float) -> float:
        """Where a value is drawn."""
        return self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)


def page(
    series: Mapping[str, Sequence[Bar]],
    marks: Mapping[str, Mark],
    capital_e5: int,
    lines: Sequence[Line],
    figures: Iterable[tuple[str, str]],
) -> str:
    """Draw the page for the bars in `series` that were valued; at least one was."""
    periods = _periods(series, marks, capital_e5)
    final, capital = periods[-1].equity[-1], capital_e5 / E5
    deepest = min(min(period.fall) for period in periods)
    cards = [
        ("final equity", f"${final:,.0f}"),
        ("profit", f"{100 * (final - capital) / capital:+.1f} %"),
        ("deepest fall from a peak", f"{deepest:.1f} %".replace("-", "−")),
        ("trades", f"{lines[-1].score.trades:,}"),
        ("won", lines[-1].win_rate),
    ]
    parts = {
        "summary": _text(
            f"Three strategies trade {' and '.join(_span(period) for period in periods)}, with a capital of "
            f"${capital:,.0f}: recorded prices, executed by seqtor in parallel, equal to one-by-one execution."
        ),
        "cards": "".join(
            f'<div class="card"><span>{_text(name)}</span><b>{_text(value)}</b></div>' for name, value in cards
        ),
        "figure": "\n".join(_figure(periods, capital)),
        "table": "".join(_table(lines)),
        "figures": "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in figures),
        "samples": json.dumps([_samples(period) for period in periods]),
        "names": json.dumps(["equity", *STRATEGIES]),
    }
    filled = Path(__file__).with_name("chart.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        filled = filled.replace("{{" + name + "}}", part)
    return filled


# -- data -------------------------------------------------------------------------------------------------------------


def _periods(series: Mapping[str, Sequence[Bar]], marks: Mapping[str, Mark], capital_e5: int) -> list[Period]:
    valued = {symbol: [bar for bar in bars if bar_key(symbol, bar.index) in marks] for symbol, bars in series.items()}
    shown = sorted((bars for bars in valued.values() if bars), key=lambda bars: bars[0].end)
    width = (WIDTH - LEFT - RIGHT - GAP * (len(shown) - 1)) / len(shown)
    periods: list[Period] = []
    peak_e5 = capital_e5
    for place, bars in enumerate(shown):
        own = [marks[bar_key(bar.symbol, bar.index)] for bar in bars]
        fall: list[float] = []
        for mark in own:
            peak_e5 = max(peak_e5, mark.equity_e5)
            fall.append(100 * (mark.equity_e5 - peak_e5) / peak_e5)
        left = LEFT + place * (width + GAP)
        periods.append(
            Period(
                symbol=bars[0].symbol,
                bars=bars,
                equity=[mark.equity_e5 / E5 for mark in own],
                profits=[[mark.profits_e5[column] / E5 for mark in own] for column in range(len(STRATEGIES))],
                fall=fall,
                left=left,
                right=left + width,
            )
        )
    return periods


def _samples(period: Period) -> dict[str, object]:
    last = len(period.bars) - 1
    count = min(SAMPLES_MAX, last)
    chosen = [round(step * last / count) for step in range(count + 1)] if count else [0]
    rows = [
        [
            f"{period.bars[index].end:%Y-%m-%d %H:%M}",
            round(period.equity[index]),
            *(round(profit[index]) for profit in period.profits),
        ]
        for index in chosen
    ]
    return {"symbol": period.symbol, "left": period.left, "right": period.right, "rows": rows}


# -- drawing ----------------------------------------------------------------------------------------------------------


def _figure(periods: Sequence[Period], capital: float) -> Iterator[str]:
    equity = _panel("Equity", 54, 304, "$", [value for each in periods for value in each.equity], capital)
    profits = _panel(
        "Profit by strategy", 352, 562, "$", [value for each in periods for line in each.profits for value in line], 0
    )
    fall = _panel("Below the peak", 610, 706, "%", [value for each in periods for value in each.fall], 0)
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Equity, profit by strategy and drawdown">'
    for panel in (equity, profits, fall):
        yield from _grid(panel, periods)
    yield from _dates(periods, fall.bottom)
    base = equity.y(capital)
    yield f'<line class="capital" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>'
    for period in periods:
        yield _line(period, period.equity, equity, "equity")
        for name, values in zip(STRATEGIES, period.profits, strict=True):
            yield _line(period, values, profits, name)
        yield _area(period, fall)
    yield from _labels(equity, {"equity": ("Equity", periods[-1].equity[-1]), "soft": ("Capital", capital)})
    ends = {name: (name.capitalize(), values[-1]) for name, values in zip(STRATEGIES, periods[-1].profits, strict=True)}
    yield from _labels(profits, ends)
    yield from _legend(profits)
    yield f'<line class="cursor" x1="0" x2="0" y1="{equity.top}" y2="{fall.bottom}"/>'
    yield "</svg>"


def _panel(title: str, top: float, bottom: float, unit: str, values: Sequence[float], base: float) -> Panel:
    low, high = min(*values, base), max(*values, base)
    step = _step(high - low, aim=max(2, round((bottom - top) / 50)))
    low, high = step * (low // step), -step * (-high // step)
    return Panel(title, top, bottom, low, high if high > low else low + step, step, unit)


def _grid(panel: Panel, periods: Sequence[Period]) -> Iterator[str]:
    yield f'<text class="title" x="{LEFT}" y="{panel.top - 14}">{panel.title}</text>'
    for number in range(round((panel.high - panel.low) / panel.step) + 1):
        value = panel.low + number * panel.step
        y = panel.y(value)
        style = "axis" if value == 0 or number == 0 else "grid"
        for period in periods:
            yield f'<line class="{style}" x1="{period.left:.1f}" x2="{period.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_amount(value, panel.unit)}</text>'


def _dates(periods: Sequence[Period], bottom: float) -> Iterator[str]:
    for period in periods:
        instrument = INSTRUMENTS[period.symbol]
        yield f'<text class="name" x="{period.left:.1f}" y="18">{_text(instrument.title)}</text>'
        for x, label in _date_ticks(period):
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{label}</text>'


def _line(period: Period, values: Sequence[float], panel: Panel, name: str) -> str:
    points = " ".join(f"{period.x(index):.1f},{panel.y(values[index]):.1f}" for index in _outline(values, period))
    return f'<polyline class="line" style="stroke: var(--{name})" points="{points}"/>'


def _area(period: Period, panel: Panel) -> str:
    outline = _outline(period.fall, period)
    points = " ".join(f"{period.x(index):.1f},{panel.y(period.fall[index]):.1f}" for index in outline)
    zero = panel.y(0)
    return (
        f'<polygon class="fall" points="{period.left:.1f},{zero:.1f} {points} {period.right:.1f},{zero:.1f}"/>'
        f'<polyline class="line" style="stroke: var(--fall)" points="{points}"/>'
    )


def _outline(values: Sequence[float], period: Period) -> list[int]:
    """The indexes that draw the same line on paper: of each pixel's bars the first, lowest, highest and last."""
    per_pixel = max(1, int(len(values) / (period.right - period.left)))
    kept: set[int] = set()
    for begin in range(0, len(values), per_pixel):
        pixel = range(begin, min(begin + per_pixel, len(values)))
        kept |= {pixel[0], min(pixel, key=values.__getitem__), max(pixel, key=values.__getitem__), pixel[-1]}
    return sorted(kept)


def _labels(panel: Panel, ends: Mapping[str, tuple[str, float]]) -> Iterator[str]:
    """Name each line where it ends, and push names apart that would overlap."""
    x, below = WIDTH - RIGHT + 8, panel.top - 16
    for colour, (name, value) in sorted(ends.items(), key=lambda item: -item[1][1]):
        y = below = max(panel.y(value), below + 30)
        yield (
            f'<text x="{x}" y="{y:.1f}" style="fill: var(--{colour})">{name}'
            f'<tspan x="{x}" dy="14">{_text(f"${value:,.0f}".replace("$-", "−$"))}</tspan></text>'
        )


def _legend(panel: Panel) -> Iterator[str]:
    x = LEFT + 150
    for name, strategy in STRATEGIES.items():
        y = panel.top - 18
        yield f'<line class="line" style="stroke: var(--{name})" x1="{x}" x2="{x + 18}" y1="{y}" y2="{y}"/>'
        yield f'<text class="name" x="{x + 24}" y="{y + 4}">{_text(strategy.title)}</text>'
        x += 50 + 7 * len(strategy.title)


def _table(lines: Iterable[Line]) -> Iterator[str]:
    names = ("strategy", "trades", "win rate", "profit or loss, $", "fees, $", "refused", "expired")
    yield "<thead><tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr></thead><tbody>"
    for line in lines:
        score = line.score
        cells = (
            line.title,
            f"{score.trades:,}",
            line.win_rate,
            signed_usd(score.profit_e5).replace("-", "−"),
            usd(score.fees_e5),
            f"{line.refused:,}",
            f"{score.expired:,}",
        )
        yield (
            f'<tr class="{"of" if line.indent else ""}">'
            + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    yield "</tbody>"


# -- scales and words -------------------------------------------------------------------------------------------------


def _step(span: float, aim: int) -> float:
    """A round distance between about `aim` grid lines."""
    rough = (span or 1.0) / aim
    magnitude = 1.0
    while magnitude > rough:
        magnitude /= 10
    while magnitude * 10 <= rough:
        magnitude *= 10
    return next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= rough)


def _date_ticks(period: Period) -> list[tuple[float, str]]:
    """Where a year, a month or a day begins, whichever suits the period, as far as there is room for its label."""
    ends = [bar.end for bar in period.bars]
    days = (ends[-1] - ends[0]).days
    if days > 3 * 365:
        labels, room = [f"{end:%Y}" for end in ends], 42
    elif days > 75:
        labels, room = [f"{end:%b %Y}" for end in ends], 76
    else:
        labels, room = [f"{end.day} {end:%b}" for end in ends], 60
    ticks: list[tuple[float, str]] = []
    free_from = period.left + room / 4
    for index, (before, label) in enumerate(pairwise(labels), start=1):
        if label != before and free_from <= (x := period.x(index)) <= period.right - room / 4:
            ticks.append((x, label))
            free_from = x + room
    return ticks


def _amount(value: float, unit: str) -> str:
    sign, size = "−" if value < 0 else "", abs(value)
    if unit == "$":
        return f"{sign}${size / 1000:g}k" if size >= 1000 else f"{sign}${size:g}"
    return f"{sign}{size:g} {unit}"


def _span(period: Period) -> str:
    first, last = period.bars[0].end, period.bars[-1].end
    return f"{len(period.bars):,} bars of {period.symbol} ({first:%b %Y} to {last:%b %Y})"


def _text(text: str) -> str:
    return html.escape(text)
