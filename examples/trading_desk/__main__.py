"""The command: `python -m examples.trading_desk`.

Owns the options, the order of the acts (load, trade, check, report) and the exit code: 0 when the self check holds, 1
when it does not or a run failed, 2 when there are no prices to trade on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from seqtor import SeqtorError

from . import chart, desk, report
from .check import check
from .feed import feed
from .market import INSTRUMENTS, MarketDataMissing, in_time_order, load_bars
from .records import CAPITAL_E5


def main(arguments: Sequence[str] | None = None) -> int:
    """Trade the recorded bars, check the result, print the tables and write the chart."""
    options = _parser().parse_args(arguments)
    try:
        series = {symbol: load_bars(instrument, options.bars) for symbol, instrument in INSTRUMENTS.items()}
    except MarketDataMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    bars = in_time_order(*series.values())
    print("Trading " + " and ".join(f"{len(own):,} bars of {symbol}" for symbol, own in series.items()))

    try:
        with desk.system as system:
            progress = report.Progress(system, len(bars), sys.stderr)
            fed = feed(system, bars, progress.on_bar)
            state = desk.newest_state()
            conflicts = system.conflicts()
    except (SeqtorError, TimeoutError) as failure:
        print(f"\nThe desk failed: {failure!r}", file=sys.stderr)
        return 1

    lines = report.lines_of(state.scores, fed)
    figures = report.figures(fed, conflicts)
    verdict = check(fed.runs, state)
    if verdict.difference is None:
        figures.append(("self check", report.verdict_line(verdict)))
    print(f"\n{report.table(lines)}\n\n{report.listing(figures)}")
    if verdict.difference is not None:
        print(f"\nThe self check FAILED. The first difference:\n{verdict.difference}", file=sys.stderr)
        return 1

    options.chart.write_text(chart.page(series, state.marks, CAPITAL_E5, lines, figures), encoding="utf-8")
    print(f"\nThe equity chart is in {options.chart}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.trading_desk",
        description="Trade recorded prices on a seqtor system, and check the result against a plain loop.",
    )
    parser.add_argument("--bars", type=_count, metavar="N", help="trade only the first N bars of each instrument")
    parser.add_argument(
        "--chart",
        type=_file,
        default=Path("trading_desk.html"),
        metavar="PATH",
        help="where the equity chart goes (default: %(default)s)",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 bar, got {number}")
    return number


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path


if __name__ == "__main__":
    sys.exit(main())
