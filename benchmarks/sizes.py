"""SIZE, SIZEderived, SIZEeach: a commit that touches one of 1,000,000 keys of a collection, and of 1,000 (the yardstick).

Owns the two systems. The same number of distinct keys is written in both: keys over the whole of a large collection measure
the misses of the CPU's cache. With a derived store a sum and a count follow from the collection by what each commit
changes. With `each` an invariant looks at every key that a commit changes.
"""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

from benchmarks.measure import burst, interleave, progress
from benchmarks.outcome import Outcome
from seqtor import Collection, Derived, Record, SourceChange, Supervisor, Transaction, Trigger, each

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["size", "size_derived", "size_each"]

SMALL, LARGE = 1_000, 1_000_000
RUNS = 10_000


class Entry(Record):
    value: int


class Sum(Record):
    count: int = 0
    value: int = 0


class Put(Trigger[None]):
    key: str
    value: int


def size() -> Outcome:
    """Microseconds for a commit in the large collection; the yardstick is the same in the small one."""
    return _measure("SIZE")


def size_derived() -> Outcome:
    """The same with a derived store that folds what a commit changes."""
    return _measure("SIZEderived", derived=True)


def size_each() -> Outcome:
    """The same with an invariant of each key that a commit changes."""
    return _measure("SIZEeach", checked=True)


def _measure(name: str, *, derived: bool = False, checked: bool = False) -> Outcome:
    progress(f"{name}: building collections of {SMALL:,} and {LARGE:,} keys")
    small, large = [_system(count, derived=derived, checked=checked) for count in (SMALL, LARGE)]
    keys = [_key(index) for index in random.Random(7).sample(range(LARGE), SMALL)]
    near = [_key(index) for index in range(SMALL)]
    with small, large:
        gc.collect()
        small_us, large_us = interleave(name, lambda: _commits_us(small, near), lambda: _commits_us(large, keys))
    return Outcome.of_rounds(small_us, large_us, runs=RUNS)


def _system(count: int, *, derived: bool, checked: bool) -> Supervisor:
    system = Supervisor(name=f"size-{count}")
    initial = {_key(index): Entry(value=index) for index in range(count)}
    entries = system.store("entries", Collection(Entry, initial, [each(_is_natural)] if checked else []))
    if derived:
        system.store("sum", Derived(Sum, [entries], rebuild=_summed, fold=_folded, reconcile=None))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        tx[entries][trigger.key] = Entry(value=trigger.value)

    return system


def _is_natural(_key: str, entry: Entry) -> bool:
    return entry.value >= 0


def _summed(entries: Mapping[str, Entry]) -> Sum:
    return Sum(count=len(entries), value=sum(entry.value for entry in entries.values()))


def _folded(value: Sum, changes: Sequence[SourceChange]) -> Sum:
    added = sum(change.new.value - change.old.value for change in changes)
    return Sum(count=value.count, value=value.value + added)


def _commits_us(system: Supervisor, keys: Sequence[str]) -> float:
    """Microseconds for each of many commits, every one of which changes a value."""
    value = system.stats().committed_through
    puts = [Put(key=keys[number % len(keys)], value=value + number + LARGE) for number in range(RUNS)]
    return burst(system.submit_many, puts)[0] / RUNS * 1e6


def _key(index: int) -> str:
    return f"{index:07}"
