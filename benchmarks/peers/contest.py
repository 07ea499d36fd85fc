"""What every contender does: add one to the value under a key, durably, one by one and then in a burst.

Owns the sizes, the timing and the check. Runs in a process of its own per contender and round, in whatever environment
has the contender, so it must not import seqtor. Promises: every answer is that of a serial execution, and the values
are read back from the disk by a second opening; a fast wrong answer is an error, not a figure.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from benchmarks.keys import KEYS, keys_in_turn, serial_answers
from benchmarks.measure import median

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

__all__ = ["BATCH", "Contender", "Measured", "batches", "contend"]

TURNS = 1_000
BURST = 20_000
WARM_UP = 50
BATCH = 1_000
"""How many additions are one transaction, for who has no bursts but transactions."""


class Contender(Protocol):
    """A library with 1,000 counters in one place on disk."""

    def bump(self, key: str) -> int:
        """Add one and return the new value; it is on disk on return."""
        ...

    def burst(self, keys: Sequence[str]) -> Sequence[int]:
        """Add one to each key in order, all on disk on return, in whatever way is fastest; the new values."""
        ...


class Measured(TypedDict):
    """What a contender's process prints."""

    release: str
    p50_us: float
    per_s: float
    burst_per_s: float


def contend(
    package: str,
    opened: Callable[[Path], AbstractContextManager[Contender]],
    counters: Callable[[Path], Mapping[str, int]],
    *,
    turns: int = TURNS,
    burst: int = BURST,
) -> None:
    """Measure in the folder that the command line names; print the figures as JSON.

    `counters` opens what the contender left behind and returns its values.
    """
    folder = Path(sys.argv[1])
    before, one_by_one, together = keys_in_turn(WARM_UP), keys_in_turn(turns), keys_in_turn(burst)
    answers: list[int] = []
    elapsed_s: list[float] = []
    with opened(folder) as contender:
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
        raise AssertionError(f"{package}: the answers differ from those of a serial execution")
    expected = dict.fromkeys(KEYS, 0) | Counter(done)
    if dict(counters(folder)) != expected:
        raise AssertionError(f"{package}: what is on disk differs from what was answered")
    found = Measured(
        release=version(package),
        p50_us=median(elapsed_s) * 1e6,
        per_s=turns / sum(elapsed_s),
        burst_per_s=burst / burst_s,
    )
    print(json.dumps(found))


def batches(keys: Sequence[str]) -> list[Sequence[str]]:
    """The keys in pieces of one transaction each."""
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
