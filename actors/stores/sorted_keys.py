"""A persistent sorted set of strings: the order in which collections are iterated.

Owns key order and nothing else. Promises: an older version is never changed by a newer one; iteration is in code point
order whatever the process's hash seed; adding or removing a key copies O(sqrt n) references.

Keys sit in chunks of at most `CHUNK_MAX`, as in Grant Jenks' sortedcontainers, but in tuples, so that versions share
all chunks except the one that changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

__all__ = ["SortedKeys", "after_prefix"]

CHUNK_MAX = 1024


class SortedKeys:
    """An immutable sorted set of strings."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self, chunks: tuple[tuple[str, ...], ...] = (), lasts: tuple[str, ...] = ()) -> None:
        self._chunks = chunks
        self._lasts = lasts  # The last key of each chunk, to find the chunk of a key by bisection.

    @classmethod
    def of(cls, keys: Iterable[str]) -> SortedKeys:
        """Build from distinct keys in any order."""
        ordered = sorted(keys)
        half = CHUNK_MAX // 2
        chunks = tuple(tuple(ordered[i : i + half]) for i in range(0, len(ordered), half))
        return cls(chunks, tuple(chunk[-1] for chunk in chunks))

    def __iter__(self) -> Iterator[str]:
        return (key for chunk in self._chunks for key in chunk)

    def add(self, key: str) -> SortedKeys:
        """Return a version that has the key too; the key must not be there yet."""
        if not self._chunks:
            return SortedKeys(((key,),), (key,))
        at = min(bisect_left(self._lasts, key), len(self._chunks) - 1)
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        grown = (*chunk[:place], key, *chunk[place:])
        if len(grown) <= CHUNK_MAX:
            return self._with(at, (grown,))
        half = len(grown) // 2
        return self._with(at, (grown[:half], grown[half:]))

    def discard(self, key: str) -> SortedKeys:
        """Return a version without the key; the same version if it is not there."""
        at = bisect_left(self._lasts, key)
        if at == len(self._chunks):
            return self
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        if place == len(chunk) or chunk[place] != key:
            return self
        shrunk = chunk[:place] + chunk[place + 1 :]
        return self._with(at, (shrunk,) if shrunk else ())

    def between(self, start: str | None, stop: str | None) -> Iterator[str]:
        """Iterate over keys with start <= key < stop; None leaves that side open."""
        at = 0 if start is None else bisect_left(self._lasts, start)
        for chunk in self._chunks[at:]:
            low = 0 if start is None else bisect_left(chunk, start)
            high = len(chunk) if stop is None else bisect_left(chunk, stop)
            yield from chunk[low:high]
            if high < len(chunk):
                return

    def _with(self, at: int, chunks: tuple[tuple[str, ...], ...]) -> SortedKeys:
        lasts = tuple(chunk[-1] for chunk in chunks)
        return SortedKeys(
            (*self._chunks[:at], *chunks, *self._chunks[at + 1 :]), (*self._lasts[:at], *lasts, *self._lasts[at + 1 :])
        )


def after_prefix(prefix: str) -> str | None:
    """The smallest string above every string with the prefix, or None if there is none."""
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1])
        if code < 0x10FFFF:
            return prefix[: end - 1] + chr(code + 1)
    return None
