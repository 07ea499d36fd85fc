"""Runs that are to execute, for the first time or again, and what each of them waits for.

Owns the stall. What a run waits for is fixed when it begins to wait. Pure. Promises: waits point downwards only, so there is
no cycle; a run is handed over once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from seqtor.actors.invariants import require

__all__ = ["Reruns"]


class Reruns:
    """Those of one order. `runs` are their mailboxes by seq, and whether the actor must be replaced.

    A run with a footprint that has yet to begin has no mailbox.
    """

    def __init__(self) -> None:
        self.runs: dict[int, tuple[Any, bool]] = {}
        self._behind: dict[int, list[int]] = {}  # Un-ended seq -> those that wait for its end.
        self._left: dict[int, int] = {}  # For how many a run waits, if for more than one.
        self._until_head: set[int] = set()

    def is_yet_to_begin(self, seq: int) -> bool:
        """Whether a run waits for its first execution."""
        return seq in self.runs and self.runs[seq][0] is None

    def waits_to_be_head(self, seq: int) -> bool:
        """Whether a run executes when all lower ones have ended, and not before."""
        return seq in self._until_head

    def add(self, seq: int, run: Any, *, replace: bool = False) -> None:
        """A run is to execute; it waits until it is taken."""
        self.runs[seq] = (run, replace)

    def wait_to_be_head(self, seq: int) -> None:
        """Let a run wait for all lower ones."""
        self._until_head.add(seq)

    def wait_for(self, seq: int, awaited: Collection[int]) -> None:
        """Let a run wait for these lower ones, none of which has ended."""
        require(max(awaited) < seq, "waits point downwards", seq=seq, awaited=awaited)
        if len(awaited) > 1:
            self._left[seq] = len(awaited)
        for lower in sorted(awaited):
            self._behind.setdefault(lower, []).append(seq)

    def freed(self, ended: int, head: int) -> list[int]:
        """Who waits no more now that a run has ended; `head` is the lowest seq that has not."""
        found = [seq for seq in self._behind.pop(ended, ()) if self._is_last_awaited(seq)]
        if head in self._until_head:
            self._until_head.remove(head)
            found.append(head)
        return found

    def _is_last_awaited(self, seq: int) -> bool:
        left = self._left.pop(seq, 1) - 1
        if left > 1:
            self._left[seq] = left
        return left == 0

    def take(self, seq: int) -> tuple[Any, bool]:
        """The mailbox of a run that executes now, and whether its actor must be replaced."""
        return self.runs.pop(seq)

    def forget(self, seq: int) -> None:
        """A run is not to execute, neither now nor when what it waits for has ended."""
        if self.runs.pop(seq, None) is not None:
            for waiting in self._behind.values():
                if seq in waiting:
                    waiting.remove(seq)
            self._left.pop(seq, None)
            self._until_head.discard(seq)
