"""Which un-ended runs have declared what they write: who may overtake them, and who waits before it executes.

Owns the index of declared footprints. Pure. A run may end before a lower one that has not ended only if every such lower
run has declared a footprint, and none of these meets what it has read and written.

Runs that may write the same begin one after another, so of each key and store only the last below a seq is of interest: the
others have ended when it has.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqtor.actors.footprints import Footprint
from seqtor.actors.transactions import in_ranges
from seqtor.messages.stores import StoreAccess

__all__ = ["Footprints"]

Key = tuple[int, str]


class Footprints:
    """The declared footprints of the runs that have not ended."""

    def __init__(self) -> None:
        self.declared: dict[int, Footprint] = {}  # By seq; asked for every run whether there are any.
        self._by_key: dict[Key, list[int]] = {}  # Seqs in rising order, here and below.
        self._whole: dict[int, list[int]] = {}  # By store.
        self._within: dict[int, dict[str, list[int]]] = {}  # By store and key: the same as `_by_key`, for ranges.
        self._declared_through = 0  # Up to here every run has ended, or has declared.

    def declare(self, seq: int, footprint: Footprint) -> None:
        """A run has a seq; it has not executed yet."""
        self.declared[seq] = footprint
        for key in footprint.keys:
            seqs = self._by_key.setdefault(key, [])
            insort(seqs, seq)
            self._within.setdefault(key[0], {})[key[1]] = seqs
        for store in footprint.stores:
            insort(self._whole.setdefault(store, []), seq)

    def remove(self, seq: int) -> None:
        """The run has ended."""
        footprint = self.declared.pop(seq, None)
        if footprint is None:
            return
        for key in footprint.keys:
            if _without(self._by_key, key, seq):
                within = self._within[key[0]]
                del within[key[1]]
                if not within:
                    del self._within[key[0]]
        for store in footprint.stores:
            _without(self._whole, store, seq)

    def met_by(self, seq: int, footprint: Footprint) -> set[int]:
        """The last of the lower runs that may write something of this footprint."""
        return self._below(seq, footprint.keys, dict.fromkeys(footprint.stores))

    def that_meet(self, seq: int, accesses: Sequence[StoreAccess]) -> set[int]:
        """The last of the lower runs that may write something which these accesses have read."""
        keys = [(access.store, key) for access in accesses for key in access.keys]
        wide = {
            access.store: None if access.whole else access.ranges
            for access in accesses
            if access.whole or access.ranges
        }
        return self._below(seq, keys, wide)

    def blocker(
        self, seq: int, accesses: Sequence[StoreAccess], by_key: Sequence[bool], next_seq: int, ahead: Mapping[int, Any]
    ) -> int | None:
        """The run that has to end before this one may, or None if it may overtake all that have not ended.

        `by_key` tells of each store whether its writes can be told apart by key; `ahead` are the seqs above `next_seq` that
        have ended.
        """
        through = max(self._declared_through, next_seq - 1)
        while through + 1 < seq and (through + 1 in self.declared or through + 1 in ahead):
            through += 1
        self._declared_through = through
        if through + 1 < seq:
            return through + 1
        return max(self._below(seq, *_touched(accesses, by_key)), default=None)

    def _below(
        self, seq: int, keys: Iterable[Key], wide: Mapping[int, Sequence[tuple[str | None, str | None]] | None]
    ) -> set[int]:
        """The last of those that may write one of the keys, or something within `wide`: ranges of a store, or (None) all."""
        found: set[int] = set()
        for key in keys:
            _add_last(found, self._by_key.get(key), seq)
            _add_last(found, self._whole.get(key[0]), seq)
        for store, ranges in wide.items():
            _add_last(found, self._whole.get(store), seq)
            for each, seqs in self._within.get(store, {}).items():
                if ranges is None or in_ranges(each, ranges):
                    _add_last(found, seqs, seq)
        return found


def _touched(
    accesses: Sequence[StoreAccess], by_key: Sequence[bool]
) -> tuple[list[Key], dict[int, Sequence[tuple[str | None, str | None]] | None]]:
    """What an attempt has read and written: keys, and ranges (None: everything) by store."""
    keys: list[Key] = []
    wide: dict[int, Sequence[tuple[str | None, str | None]] | None] = {}
    for access in accesses:
        store = access.store
        keys += [(store, key) for key in access.keys]
        if access.whole or (access.writes and not by_key[store]):
            wide[store] = None
            continue
        keys += [(store, write.key) for write in access.writes]
        if access.ranges:
            wide[store] = access.ranges
    return keys, wide


def _add_last(found: set[int], seqs: Sequence[int] | None, seq: int) -> None:
    """Add the highest of the seqs below this one."""
    if seqs:
        at = bisect_left(seqs, seq)
        if at:
            found.add(seqs[at - 1])


def _without(index: dict[Any, list[int]], place: Any, seq: int) -> bool:
    """Take a seq out of an index; True if nothing is left at that place."""
    seqs = index[place]
    del seqs[bisect_left(seqs, seq)]
    if seqs:
        return False
    del index[place]
    return True
