"""Who wrote each key last, of the stores that cannot say what they hold under a key: for `tx.changed` of long runs.

Owns the answer to "was this key written since that snapshot?" without holding what was published in between. Kept only if
there are handlers with `sequence="completion"`; one number for each key that was ever written. Written on the core, read by
any thread. Promises: a key is noted before the publication that has it can be read; what an epoch had published and not
told is forgotten with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["LastWriters"]


class LastWriters:
    """The publication, by its seq, that each key changed in last; 0 for one that was not written since the start."""

    __slots__ = ("_published", "_stores", "_told")

    def __init__(self, stores: Collection[int]) -> None:
        self._stores = frozenset(stores)
        self._told: dict[tuple[int, str], int] = {}
        self._published: dict[tuple[int, str], int] = {}  # Since the journal was told last.

    def note(self, seq: int, writes: Mapping[int, Collection[str]]) -> None:
        """What is about to be published; the newest publication so far."""
        for store in self._stores.intersection(writes):
            for key in writes[store]:
                self._published[store, key] = seq

    def settle(self) -> None:
        """The journal is told of all that was published."""
        self._told.update(self._published)  # First: who reads finds it in one of the two.
        self._published = {}

    def forget_untold(self) -> None:
        """What was published and not told is taken back."""
        self._published = {}

    def of(self, store: int, key: str) -> int:
        """The seq of the publication."""
        found: Any = self._published.get((store, key))
        return self._told.get((store, key), 0) if found is None else found
