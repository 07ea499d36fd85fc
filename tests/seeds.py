"""How many seeds a test tries: few by default, so that the suite is quick; `make search` tries many.

`SEQTOR_EXAMPLES=4` is four times as many.
"""

from __future__ import annotations

import os

__all__ = ["FACTOR", "scaled", "seeds"]

FACTOR = float(os.environ.get("SEQTOR_EXAMPLES", "1"))


def scaled(count: int) -> int:
    """So many by default, at least one."""
    return max(1, round(count * FACTOR))


def seeds(count: int, step: int = 1) -> range:
    """So many seeds by default; with `step`, the first of each so many."""
    return range(0, scaled(count), step)
