"""What every contender does: add one to the value under a key, durably, one by one and then in a burst.

Owns the sizes, the timing and the check. Must not import seqtor: a contender is measured in whatever environment it is
installed in, in a fresh process per round. Promises: every answer is that of a serial execution, and the values are
read back from the disk by a second opening; a fast wrong answer is an error, not a figure.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol, TypedDict

from benchmarks.keys import KEYS, keys_in_turn, serial_answers
from benchmarks.measure import median

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["BATCH", "Contender", "Contest", "Measured", "batches"]

WARM_UP = 50
BATCH = 1_000
"""How many additions are one transaction, for who has no bursts but transactions."""


class Contender(Protocol):
    """A library with 1,000 counters in one place on disk."""

    def bump(self, key: str) -> int:
        """Add one and return the new value; it is on disk on return."""
        ...

    def burst(self, keys: Sequence[str]) -> Sequence[int]:
        """Add one to each key in order, in whatever way is fastest; the new values. All are on disk on return."""
        ...


class Measured(TypedDict):
    """One round of one contender."""

    release: str
    p50_us: float
    per_s: float
    burst_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """How a contender is opened in a folder, and how what it left there is read back."""

    package: str
    opened: Callable[[Path], AbstractContextManager[Contender]]
    counters: Callable[[Path], Mapping[str, int]]
    turns: int = 400
    burst: int = 10_000

    def measure(self, folder: Path) -> Measured:
        before, one_by_one, together = (keys_in_turn(count) for count in (WARM_UP, self.turns, self.burst))
        answers: list[int] = []
        elapsed_s: list[float] = []
        with self.opened(folder) as contender:
            answers += [contender.bump(key) for key in before]
            gc.collect()
            for key in one_by_one:
                start = time.perf_counter()
                answers.append(contender.bump(key))
                elapsed_s.append(time.perf_counter() - start)
            gc.collect()
            start = time.perf_counter()
            answers += contender.burst(together)
            burst_s = time.perf_counter() - start
        done = [*before, *one_by_one, *together]
        if answers != serial_answers((), done):
            raise AssertionError(f"{self.package}: the answers differ from those of a serial execution")
        if dict(self.counters(folder)) != dict.fromkeys(KEYS, 0) | Counter(done):
            raise AssertionError(f"{self.package}: what is on disk differs from what was answered")
        return Measured(
            release=version(self.package),
            p50_us=median(elapsed_s) * 1e6,
            per_s=self.turns / sum(elapsed_s),
            burst_per_s=self.burst / burst_s,
        )


def batches(keys: Sequence[str]) -> list[Sequence[str]]:
    """The keys in pieces of one transaction each."""
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
