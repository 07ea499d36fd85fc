"""A priority queue that costs no more than a deque while things arrive in order.

Used for ready runs (by seq) and for waiting triggers (by event time and arrival): both nearly always arrive in order,
so a deque holds the ordered part and a heap only the stragglers. Not thread-safe.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container
from typing import Any, Generic, TypeVar

__all__ = ["ReadyQueue"]

T = TypeVar("T")


class ReadyQueue(Generic[T]):
    """Yields the item with the smallest rank first, and items of one rank in the order in which they came."""

    __slots__ = ("_arrivals", "_late", "_ordered")

    def __init__(self) -> None:
        self._ordered: deque[tuple[Any, int, T]] = deque()
        self._late: list[tuple[Any, int, T]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._ordered) + len(self._late)

    def push(self, rank: Any, item: T) -> None:
        self._arrivals += 1
        entry = (rank, self._arrivals, item)
        if not self._ordered or self._ordered[-1][0] <= rank:
            self._ordered.append(entry)
        else:
            heapq.heappush(self._late, entry)

    def peek(self) -> tuple[Any, int, T] | None:
        """The next (rank, arrival, item), or None."""
        if self._late and (not self._ordered or self._late[0] < self._ordered[0]):
            return self._late[0]
        return self._ordered[0] if self._ordered else None

    def discard(self, items: Container[T]) -> None:
        """Remove all of these."""
        self._ordered = deque([entry for entry in self._ordered if entry[2] not in items])
        self._late = [entry for entry in self._late if entry[2] not in items]
        heapq.heapify(self._late)

    def pop(self) -> T:
        """Remove and return the next item; raises IndexError when there is none."""
        if self._late and (not self._ordered or self._late[0] < self._ordered[0]):
            return heapq.heappop(self._late)[2]
        return self._ordered.popleft()[2]
