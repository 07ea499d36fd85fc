"""The keys of the tiny workload: which, how many, in which order, and the serial answers that all are checked against.

Owns the sizes. Must not import seqtor: the peers of `benchmarks/peers` do the same work in an environment without it.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BURST",
    "KEYS",
    "TURNS",
    "WARM_UP",
    "keys_at_random",
    "keys_in_turn",
    "keys_of_one",
    "serial_answers",
]

BURST = 50_000
WARM_UP = 2_000
TURNS = 3_000
KEYS = tuple(f"k{i:03}" for i in range(1_000))


def keys_in_turn(count: int = BURST) -> list[str]:
    """1,000 keys, one after another (W1)."""
    return [KEYS[i % len(KEYS)] for i in range(count)]


def keys_of_one() -> list[str]:
    """One hot key (W3)."""
    return [KEYS[0]] * BURST


def keys_at_random() -> list[str]:
    """Random keys out of 1,000, the same every time (W3r)."""
    return random.Random(3).choices(KEYS, k=BURST)


def serial_answers(before: Iterable[str], keys: Iterable[str]) -> list[int]:
    """The answers to `keys`, executed one after another, once those `before` have been."""
    counts = Counter(before)
    answers: list[int] = []
    for key in keys:
        counts[key] += 1
        answers.append(counts[key])
    return answers
