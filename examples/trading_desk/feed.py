"""The feed: hands the market's bars to the desk, and the desk's daily round with each of them.

Owns the order of submission and how far the feed runs ahead. Handlers cannot submit triggers in this release, so
everything comes from here. The round of one bar is: the bar itself, fills at its open, one decision and one risk check
per strategy, a valuation. All of it carries the bar's end as event time, so the round of an older bar goes first;
bars are of HIGH priority and overtake waiting rounds. Because every trigger names its bar, that changes no decision:
the profits are the same in every run, on every machine, while the conflicts are not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seqtor import Rejected, Submission, Supervisor, Trigger

from .market import Bar
from .records import BarClosed, CheckRisk, CloseOut, Decide, FillOrders, Refused, ValuePortfolio
from .strategies import STRATEGIES

BARS_AHEAD = 64
"""How many bars' rounds may be unfinished at a time; a real feed is held back by the clock."""
PATIENCE_S = 60.0
"""How long one trigger may take before the demo gives up on it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One trigger, the place in the total order that the runtime gave it, and its outcome."""

    seq: int
    trigger: Trigger[Any]
    outcome: object


@dataclass(frozen=True, slots=True)
class Fed:
    """What a feed came to: every run in seq order, and how long all of it took."""

    runs: tuple[Run, ...]
    elapsed_s: float


def rounds(bars: Sequence[Bar]) -> Iterator[list[Trigger[Any]]]:
    """Give the triggers of each bar, in the order in which they are submitted.

    After its last bar an instrument is closed out, so that every profit in the final table is realised.
    """
    last = {bar.symbol: bar.index for bar in bars}
    for bar in bars:
        symbol, index, event_time = bar.symbol, bar.index, bar.end
        triggers: list[Trigger[Any]] = [
            BarClosed(
                symbol=symbol,
                index=index,
                event_time=event_time,
                open_e5=bar.open_e5,
                low_e5=bar.low_e5,
                close_e5=bar.close_e5,
            ),
            FillOrders(symbol=symbol, index=index, event_time=event_time),
        ]
        triggers += [Decide(symbol=symbol, index=index, event_time=event_time, strategy=name) for name in STRATEGIES]
        triggers += [CheckRisk(symbol=symbol, index=index, event_time=event_time, strategy=name) for name in STRATEGIES]
        if index == last[symbol]:
            triggers.append(CloseOut(symbol=symbol, index=index, event_time=event_time))
        triggers.append(ValuePortfolio(symbol=symbol, index=index, event_time=event_time))
        yield triggers


def feed(system: Supervisor, bars: Sequence[Bar], on_bar: Callable[[int], None]) -> Fed:
    """Submit every round, wait for every outcome, and return the runs in seq order.

    `on_bar` hears how many bars are finished after each of them. Raises what a run failed with; `Rejected` is an
    outcome, not a failure.
    """
    submitted: list[tuple[Trigger[Any], Submission[Any]]] = []
    unfinished: deque[Submission[Any]] = deque()
    begun_s = time.perf_counter()
    bars_done = 0
    for triggers in rounds(bars):
        submissions = system.submit_many(triggers)
        submitted += zip(triggers, submissions, strict=True)
        unfinished.append(submissions[-1])
        if len(unfinished) == BARS_AHEAD:
            _outcome(unfinished.popleft())
            bars_done += 1
            on_bar(bars_done)
    for submission in unfinished:
        _outcome(submission)
        bars_done += 1
        on_bar(bars_done)
    runs = [_run(trigger, submission) for trigger, submission in submitted]
    elapsed_s = time.perf_counter() - begun_s
    return Fed(runs=tuple(sorted(runs, key=lambda run: run.seq)), elapsed_s=elapsed_s)


def _run(trigger: Trigger[Any], submission: Submission[Any]) -> Run:
    outcome = _outcome(submission)
    if submission.seq is None:
        raise AssertionError(f"{trigger!r} has ended without a seq")
    return Run(seq=submission.seq, trigger=trigger, outcome=outcome)


def _outcome(submission: Submission[Any]) -> object:
    try:
        result: object = submission.result(timeout=PATIENCE_S)
    except Rejected as refusal:
        return Refused(refusal.code)
    return result
