"""The tiny workload: add one to the value under a key.

Owns the items and the values, the same for yardstick and runtime; the keys are those of `keys.py`.
"""

from __future__ import annotations

from benchmarks.keys import (
    BURST,
    KEYS,
    TURNS,
    WARM_UP,
    keys_at_random,
    keys_in_turn,
    keys_of_one,
    serial_answers,
)
from seqtor import Record, Trigger

__all__ = [
    "BURST",
    "KEYS",
    "TURNS",
    "WARM_UP",
    "Bump",
    "Cell",
    "keys_at_random",
    "keys_in_turn",
    "keys_of_one",
    "serial_answers",
]


class Bump(Trigger[int]):
    """Add one to the value under `key`; the result is the new value."""

    key: str


class Cell(Record):
    """A value in the store."""

    value: int = 0
