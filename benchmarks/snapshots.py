"""W7: a snapshot and one read, in a collection of 1,000,000 keys and in one of 1,000 (the yardstick).

Owns the two systems: one each, so that a snapshot whose cost grew with the size of its system would show. The same
number of distinct keys is read from both: keys over the whole of a large collection measure the misses of the CPU's
cache, which a bare map or dict has too. That ratio is told beside as `ratio_all_keys`.
"""

from __future__ import annotations

import gc
import random
import time
from typing import TYPE_CHECKING

from benchmarks.measure import median, progress
from benchmarks.outcome import Outcome
from seqtor import Collection, Record, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["w7"]

SMALL, LARGE = 1_000, 1_000_000
BLOCKS = 2_000
BLOCKS_WARM_UP = 200
READS = 100  # per block: one read alone is as short as reading the clock


class Entry(Record):
    value: int


def w7() -> Outcome:
    """Blocks of reads, small and large in turn; keys are drawn, and made, before the clock starts."""
    progress(f"W7: building collections of {SMALL:,} and {LARGE:,} keys")
    small, read_small = _system("small", SMALL)
    large, read_large = _system("large", LARGE)
    draw = random.Random(7)
    blocks_small: list[float] = []
    blocks_large: list[float] = []
    some = draw.sample(range(LARGE), SMALL)
    with small, large:
        gc.collect()
        for _ in range(BLOCKS_WARM_UP + BLOCKS):
            blocks_small.append(_timed(read_small, draw.choices(range(SMALL), k=READS)))
            blocks_large.append(_timed(read_large, draw.choices(some, k=READS)))
        blocks_all = [_timed(read_large, draw.choices(range(LARGE), k=READS)) for _ in range(BLOCKS_WARM_UP)]
    small_us = median(blocks_small[BLOCKS_WARM_UP:])
    return Outcome(
        value=median(blocks_large[BLOCKS_WARM_UP:]),
        yardstick=small_us,
        extra={"blocks": BLOCKS, "reads_per_block": READS, "ratio_all_keys": median(blocks_all) / small_us},
    )


def _system(name: str, size: int) -> tuple[Supervisor, Callable[[Sequence[str]], None]]:
    system = Supervisor(name=name)
    entries = system.store("entries", Collection(Entry, initial={_key(i): Entry(value=i) for i in range(size)}))

    def read(keys: Sequence[str]) -> None:
        for key in keys:
            _ = system.snapshot()[entries][key]

    return system, read


def _timed(read: Callable[[Sequence[str]], None], indexes: Sequence[int]) -> float:
    keys = [_key(i) for i in indexes]
    start = time.perf_counter()
    read(keys)
    return (time.perf_counter() - start) / READS * 1e6


def _key(index: int) -> str:
    return f"k{index:07}"  # As long in the small collection as in the large one.
