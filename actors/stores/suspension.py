"""Whether the outside of a store is left alone for a while, because it is away or writing to it fails.

Owns the two alarms about it. Promises: one at the first failure, one when it works again; none in between, however often it
is tried. Outlives a crash of the store's actor; others may read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["STORE_RESUMED", "STORE_SUSPENDED", "Suspension"]

STORE_SUSPENDED = "seqtor.store_suspended"
STORE_RESUMED = "seqtor.store_resumed"


class Suspension:
    """Of one store. `error` is why its outside was left alone first, None while it works."""

    def __init__(self, store: str) -> None:
        self.error: str | None = None
        self.alarm: Callable[[str, Any], object] | None = None  # None until the store may begin.
        self._store = store

    def begin(self, error: BaseException, waiting: int) -> None:
        """Note that the outside cannot be written; `waiting` commits are not there yet."""
        if self.error is None:
            self.error = f"{type(error).__name__}: {error}"
            self._tell(STORE_SUSPENDED, {"store": self._store, "error": self.error, "waiting": waiting})

    def end(self) -> None:
        """Note that it can be written again."""
        if self.error is not None:
            error, self.error = self.error, None
            self._tell(STORE_RESUMED, {"store": self._store, "error": error})

    def _tell(self, code: str, payload: Any) -> None:
        if self.alarm is not None:
            self.alarm(code, payload)
