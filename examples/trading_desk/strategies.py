"""The strategies: when to be in the market, judged from closing prices alone.

Owns the three rules that the desk runs side by side. They are pure functions over a tuple of closes, the newest last.
All arithmetic is on integers: averages are compared by their cross-multiplied sums and ratios by their parts, so no
result depends on rounding. Every strategy is either in or out; none is ever short.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy(ABC):
    """When to enter and when to leave; asked only with at least `history` closes."""

    name: str
    title: str

    @property
    @abstractmethod
    def history(self) -> int:
        """How many closes a judgement needs."""

    @abstractmethod
    def enters(self, closes_e5: Sequence[int]) -> bool:
        """Whether a strategy that is out buys now."""

    @abstractmethod
    def leaves(self, closes_e5: Sequence[int]) -> bool:
        """Whether a strategy that is in sells now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover(Strategy):
    """Buy when the fast moving average crosses above the slow one; sell when it is below."""

    fast: int
    slow: int

    @property
    def history(self) -> int:
        return self.slow + 1

    def enters(self, closes_e5: Sequence[int]) -> bool:
        return self._lead(closes_e5[:-1]) <= 0 < self._lead(closes_e5)

    def leaves(self, closes_e5: Sequence[int]) -> bool:
        return self._lead(closes_e5) < 0

    def _lead(self, closes_e5: Sequence[int]) -> int:
        """The fast average minus the slow one, times both lengths."""
        return sum(closes_e5[-self.fast :]) * self.slow - sum(closes_e5[-self.slow :]) * self.fast


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversion(Strategy):
    """Buy what has fallen too far, by the relative strength index; sell when it has recovered."""

    length: int
    buy_below: int
    sell_above: int

    @property
    def history(self) -> int:
        return self.length + 1

    def enters(self, closes_e5: Sequence[int]) -> bool:
        gain, move = self._strength(closes_e5)
        return 100 * gain < self.buy_below * move

    def leaves(self, closes_e5: Sequence[int]) -> bool:
        gain, move = self._strength(closes_e5)
        return 100 * gain > self.sell_above * move

    def _strength(self, closes_e5: Sequence[int]) -> tuple[int, int]:
        """The sum of all rises and the sum of all moves; the index is 100 times their ratio."""
        window = closes_e5[-self.length - 1 :]
        changes = [new - old for old, new in pairwise(window)]
        return sum(change for change in changes if change > 0), sum(abs(change) for change in changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakout(Strategy):
    """Buy at a close above all of the last `entry` closes; sell at one below all of the last `exit`."""

    entry: int
    exit: int

    @property
    def history(self) -> int:
        return max(self.entry, self.exit) + 1

    def enters(self, closes_e5: Sequence[int]) -> bool:
        return closes_e5[-1] > max(closes_e5[-self.entry - 1 : -1])

    def leaves(self, closes_e5: Sequence[int]) -> bool:
        return closes_e5[-1] < min(closes_e5[-self.exit - 1 : -1])


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Crossover(name="crossover", title="Moving-average crossover", fast=10, slow=30),
        Reversion(name="reversion", title="RSI mean reversion", length=14, buy_below=30, sell_above=55),
        Breakout(name="breakout", title="Breakout", entry=40, exit=20),
    )
}
HISTORY = max(strategy.history for strategy in STRATEGIES.values())
"""How many closes a quote has to carry so that every strategy can judge it."""
