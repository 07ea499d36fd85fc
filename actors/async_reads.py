"""Push invalidation of attempts that run on the event loop.

A coroutine may wait for a long time between two operations, so it cannot find out by itself that what it read has
changed. Owns the index of what live async attempts have read. Promises: used on the loop's thread only, but for
`published`; an attempt that is hit is abandoned and its coroutine cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from seqtor.actors.publications import Publication

__all__ = ["AsyncReads"]


class AsyncReads:
    """Which live async attempts have read what."""

    def __init__(self, first: Publication, call_on_loop: Callable[[Callable[[], None]], None]) -> None:
        self._seen = first
        self._call_on_loop = call_on_loop
        self._by_key: dict[tuple[int, str], dict[Any, None]] = {}
        self._wide: dict[Any, None] = {}
        self._scheduled = False

    def add(self, store: int, key: str | None, transaction: Any) -> None:
        """Note a read of a key, or (None) of a range."""
        if key is None:
            self._wide[transaction] = None
        else:
            self._by_key.setdefault((store, key), {})[transaction] = None

    def discard(self, transaction: Any) -> None:
        """The attempt is over."""
        self._wide.pop(transaction, None)
        for place in transaction.keys_read():
            readers = self._by_key.get(place)
            if readers is not None:
                readers.pop(transaction, None)
                if not readers:
                    del self._by_key[place]

    def published(self, publication: Publication) -> None:
        """Look at what has become visible, on the loop's thread. Called by the committer."""
        if (self._by_key or self._wide) and not self._scheduled:
            self._scheduled = True
            self._call_on_loop(self._look)
        elif not self._scheduled:
            self._seen = publication

    def _readers_of(self, writes: Mapping[int, Collection[str]]) -> Iterator[Any]:
        for store, keys in writes.items():
            for key in keys:
                yield from self._by_key.get((store, key), ())

    def _look(self) -> None:
        self._scheduled = False  # Before looking: what is published after this is looked at by a later call.
        seen = self._seen  # Once: with nobody left to watch for, the committer moves `_seen` on meanwhile.
        while seen.next is not None:
            self._seen = seen = seen.next
            hit: dict[Any, None] = dict.fromkeys(self._readers_of(seen.writes))
            for overtaker, writes in seen.overtakers:  # Those below it have nothing to do with it.
                hit.update({each: None for each in self._readers_of(writes) if each.rank > overtaker})
            for transaction in self._wide:
                below = seen.written_below(transaction.rank)
                if transaction.snapshot_index < seen.index and any(transaction.meets(writes) for writes in below):
                    hit[transaction] = None
            # In seq order: the order of a set of keys depends on the process's hash seed.
            for transaction in sorted(hit, key=lambda transaction: transaction.rank):
                if transaction.snapshot_index < seen.index:
                    transaction.invalidate()
