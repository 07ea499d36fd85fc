"""The report: the progress line while the desk trades, and the tables at the end.

Owns every word the demo prints except its errors. It only reads: the scores, the runs and the counts that it is given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from seqtor import ConflictReport, Supervisor

from .check import Verdict
from .feed import Fed
from .market import E5, INSTRUMENTS
from .records import CheckRisk, Refused, Score, book_key
from .strategies import STRATEGIES

REDRAWN_EVERY_S = 0.1
"""How often the progress line changes on a terminal."""
LINES_WITHOUT_TERMINAL = 10
"""How many progress lines are written where nothing can be redrawn."""
HOTTEST = 3
"""How many of the keys and of the pairs of handlers that collide most are named."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table of strategies."""

    title: str
    score: Score
    refused: int
    indent: bool = False

    @property
    def win_rate(self) -> str:
        """Of the closed trades, how many won; a dash when there were none."""
        return f"{100 * self.score.wins / self.score.trades:.1f} %" if self.score.trades else "–"


class Progress:
    """Tells how far the desk is: one line that changes on a terminal, a few lines elsewhere."""

    def __init__(self, system: Supervisor, bars: int, out: TextIO) -> None:
        self._system, self._bars, self._out = system, bars, out
        self._terminal = out.isatty()
        self._begun_s = self._told_s = time.perf_counter()
        self._steps_told = 0

    def on_bar(self, bars_done: int) -> None:
        """Hear that one more bar is finished, and say so if it is time to."""
        now_s = time.perf_counter()
        if self._terminal:
            if now_s - self._told_s < REDRAWN_EVERY_S and bars_done < self._bars:
                return
        elif (step := bars_done * LINES_WITHOUT_TERMINAL // self._bars) == self._steps_told:
            return
        else:
            self._steps_told = step
        self._told_s = now_s
        stats = self._system.stats()
        rate = stats.committed_through / max(now_s - self._begun_s, 1e-9)
        line = (
            f"{bars_done:>7,} of {self._bars:,} bars  {stats.committed_through:>8,} triggers"
            f"  {rate:>8,.0f}/s  {stats.conflicts:>8,} conflicts"
        )
        if not self._terminal:
            print(line, file=self._out, flush=True)
            return
        end = "\n" if bars_done == self._bars else ""
        print(f"\r\x1b[K{line}", end=end, file=self._out, flush=True)


def lines_of(scores: Mapping[str, Score], fed: Fed) -> list[Line]:
    """The table of strategies: one line each, its instruments below it, and all of them at the end."""
    refused: Counter[str] = Counter(
        book_key(run.trigger.symbol, run.trigger.strategy)
        for run in fed.runs
        if isinstance(run.outcome, Refused) and isinstance(run.trigger, CheckRisk)
    )
    lines: list[Line] = []
    for name, strategy in STRATEGIES.items():
        keys = {symbol: book_key(symbol, name) for symbol in INSTRUMENTS}
        of_strategy = _total(scores.get(key, Score()) for key in keys.values())
        lines.append(Line(strategy.title, of_strategy, sum(refused[key] for key in keys.values())))
        lines += [Line(symbol, scores.get(key, Score()), refused[key], indent=True) for symbol, key in keys.items()]
    lines.append(Line("All strategies", _total(scores.values()), refused.total()))
    return lines


def table(lines: Iterable[Line]) -> str:
    """The table of strategies as text."""
    header = ("strategy", "trades", "win rate", "profit or loss", "fees", "refused", "expired")
    rows = [
        (
            ("  " if line.indent else "") + line.title,
            f"{line.score.trades:,}",
            line.win_rate,
            signed_usd(line.score.profit_e5),
            usd(line.score.fees_e5),
            f"{line.refused:,}",
            f"{line.score.expired:,}",
        )
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join(
        [_row(header, widths), rule, *(_row(row, widths) for row in rows[:-1]), rule, _row(rows[-1], widths)]
    )


def figures(fed: Fed, conflicts: ConflictReport) -> list[tuple[str, str]]:
    """What the runtime did, as pairs of a name and a text."""
    runs = len(fed.runs)
    refusals = Counter(run.outcome.code for run in fed.runs if isinstance(run.outcome, Refused))
    reasons = ", ".join(f"{code} {count:,}" for code, count in sorted(refusals.items()))
    rejected = f"{refusals.total():,} rejected" + (f" ({reasons})" if reasons else "")
    per_trigger = conflicts.executions / runs
    figures = [
        ("runs", f"{runs:,}: {runs - refusals.total():,} committed, {rejected}"),
        ("conflicts", f"{conflicts.conflicts:,}"),
        ("re-executions", f"{conflicts.wasted_executions:,} ({per_trigger:.2f} executions per trigger)"),
        ("speed", f"{runs / fed.elapsed_s:,.0f} triggers per second ({fed.elapsed_s:.1f} s)"),
    ]
    if conflicts.conflicts:
        keys = [f"{key.store}[{key.key!r}] {key.conflicts:,}" for key in conflicts.hottest_keys[:HOTTEST]]
        pairs = [f"{pair.reader} after {pair.writer} {pair.conflicts:,}" for pair in conflicts.pairs[:HOTTEST]]
        figures[2:2] = [("  most on", ", ".join(keys)), ("  most by", ", ".join(pairs))]
    return figures


def verdict_line(verdict: Verdict) -> str:
    """What the self check covered, once it has found no difference."""
    return (
        f"{verdict.runs:,} outcomes and {verdict.records:,} records equal a plain loop's to the last digit"
        f" (it took {verdict.elapsed_s:.1f} s)"
    )


def listing(pairs: Sequence[tuple[str, str]]) -> str:
    """Pairs of a name and a text, one a line."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in pairs)


def usd(money_e5: int) -> str:
    """Money in dollars and cents."""
    return f"{money_e5 / E5:,.2f}"


def signed_usd(money_e5: int) -> str:
    """Money in dollars and cents, with its sign."""
    return f"{money_e5 / E5:+,.2f}"


def _total(scores: Iterable[Score]) -> Score:
    every = list(scores)
    return Score(
        trades=sum(score.trades for score in every),
        wins=sum(score.wins for score in every),
        profit_e5=sum(score.profit_e5 for score in every),
        fees_e5=sum(score.fees_e5 for score in every),
        expired=sum(score.expired for score in every),
    )


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others])
