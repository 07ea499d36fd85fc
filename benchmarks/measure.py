"""How things are timed: the same code for the yardstick and for the runtime, in alternation.

Owns clocks, medians and the order of rounds. Promises that both sides of a ratio are treated alike: garbage is
collected before each timed part and the collector stays on in it, as in a program; the sides alternate, so that a
machine that gets slower meanwhile slows both.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ROUNDS", "Pending", "burst", "interleave", "median", "percentile", "progress", "rounded", "turns"]

ROUNDS = 5

ItemT = TypeVar("ItemT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
ResultT = TypeVar("ResultT")
median = statistics.median


class Pending(Protocol[ResultT_co]):
    """What a submission gives: a `Submission`, or the yardstick's future."""

    def result(self, timeout: float | None = None) -> ResultT_co: ...


def burst(
    submit_many: Callable[[Sequence[ItemT]], Sequence[Pending[ResultT]]], items: Sequence[ItemT]
) -> tuple[float, list[ResultT]]:
    """Submit all items at once and wait for every result in order; returns seconds and results."""
    gc.collect()
    start = time.perf_counter()
    answers = [pending.result() for pending in submit_many(items)]
    return time.perf_counter() - start, answers


def turns(submit: Callable[[ItemT], Pending[object]], items: Sequence[ItemT]) -> list[float]:
    """Submit, wait, repeat; returns the seconds of each turn."""
    gc.collect()
    elapsed_s: list[float] = []
    for item in items:
        start = time.perf_counter()
        submit(item).result()
        elapsed_s.append(time.perf_counter() - start)
    return elapsed_s


def interleave(
    title: str, yardstick: Callable[[], float], measure: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Yardstick, measure, yardstick, measure, ...; returns the values of each."""
    pairs: list[tuple[float, float]] = []
    for number in range(1, ROUNDS + 1):
        pairs.append((yardstick(), measure()))
        progress(f"{title}: round {number} of {ROUNDS}: yardstick {pairs[-1][0]:,.5g}, value {pairs[-1][1]:,.5g}")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def rounded(value: float) -> float:
    """Four significant digits: more would claim a precision that no time here has. Counts stay whole."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def progress(text: str) -> None:
    """Say something on standard error: standard output is for figures only."""
    print(text, file=sys.stderr, flush=True)
