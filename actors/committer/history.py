"""What was written lately: the evidence against which read sets are validated.

Owns, per store, the last writer of each key and the order of recent writes. Pure. Kept for `horizon` seqs behind the one
up to which everything has ended, which is more than can be in flight; a read from before that is taken for stale. What has
overtaken a run is no evidence against its reads: only what lower seqs wrote is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from typing import NamedTuple

from seqtor.actors.transactions import in_ranges
from seqtor.messages.stores import StoreAccess

__all__ = ["Change", "History"]


class Change(NamedTuple):
    """What made a read stale: the key (or "*") of a store, and the seq that wrote it (None: too long ago to say)."""

    store: int
    key: str
    writer_seq: int | None


class History:
    """Recent writes of all stores."""

    def __init__(self, stores: int, horizon: int, floor: int = 0) -> None:
        self._last_writer: list[dict[str, int]] = [{} for _ in range(stores)]
        # (seq, store, key), in the order of the commits: flat, so the collector skips them.
        self._recent: deque[tuple[int, int, str]] = deque()
        self._horizon = horizon
        self._floor = floor  # Nothing at or below this seq is remembered.

    @property
    def floor(self) -> int:
        """What was written up to this seq is not remembered."""
        return self._floor

    def note(self, seq: int, store: int, keys: Sequence[str], next_seq: int) -> None:
        """Remember which keys of a store a commit wrote; all runs below `next_seq` have ended.

        The seqs that write one key must not fall: who may write it is not overtaken by who does.
        """
        recent, last_writer = self._recent, self._last_writer[store]
        for key in keys:
            last_writer[key] = seq
            recent.append((seq, store, key))
        oldest = next_seq - self._horizon
        while recent[0][0] <= oldest:
            self._forget(*recent.popleft())

    def _forget(self, seq: int, store: int, key: str) -> None:
        self._floor = max(self._floor, seq)
        if self._last_writer[store].get(key) == seq:
            del self._last_writer[store][key]

    def stale(
        self, accesses: Sequence[StoreAccess], snapshot_seq: int, seq: int, seen: Container[int] = ()
    ) -> Change | None:
        """The first thing that a run at `seq` has read and a lower one has written since, or None: then every read holds.

        Its snapshot is what was written through `snapshot_seq`, and by the overtakers in `seen`.
        """
        if not self._recent or self._recent[-1][0] <= snapshot_seq or snapshot_seq + 1 >= seq:
            return None  # Nothing was: whatever versions a store names, what executes at the head is not stale.
        for access in accesses:
            keys = access.keys
            if snapshot_seq < self._floor and (keys or access.ranges or access.whole):
                return Change(access.store, "*", None)
            last_writer = self._last_writer[access.store]
            for key, version in keys.items():
                writer = last_writer.get(key)
                if writer is not None and writer > seq:
                    writer = self._writer_below(access.store, key, seq, snapshot_seq)
                if (
                    writer is not None
                    and writer > (snapshot_seq if version is None else version)
                    and writer not in seen
                ):
                    return Change(access.store, key, writer)
            if access.ranges or access.whole:
                change = self._written_within(access, snapshot_seq, seq, seen)
                if change is not None:
                    return change
        return None

    def _writer_below(self, store: int, key: str, seq: int, snapshot_seq: int) -> int | None:
        """The last lower run that wrote a key which one that has overtaken wrote too."""
        for writer, written_store, written_key in reversed(self._recent):
            if writer <= snapshot_seq:
                return None  # What comes before it was there when the snapshot was taken.
            if writer < seq and written_store == store and written_key == key:
                return writer
        return None

    def _written_within(self, access: StoreAccess, snapshot_seq: int, seq: int, seen: Container[int]) -> Change | None:
        for writer, store, key in reversed(self._recent):
            if writer <= snapshot_seq:
                return None
            relevant = store == access.store and writer < seq and writer not in seen
            if relevant and (access.whole or in_ranges(key, access.ranges)):
                return Change(store, key, writer)
        return None
