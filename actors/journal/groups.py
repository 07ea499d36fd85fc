"""Where a journal ends after a group.

Owns the check that every backend makes before it writes: nothing that leaves a gap ever gets as far as a medium.
"""

from __future__ import annotations

from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import Group

__all__ = ["ends_after"]


def ends_after(group: Group, commits_through: int, entries_through: int) -> tuple[int, int]:
    """Return the last seq and the last position with this group. Raises unless it goes on where the journal ends."""
    for commit in group.commits:
        commits_through += 1
        if commit.seq != commits_through:
            require(False, "commits leave no gap in seq", seq=commit.seq, expected=commits_through)
    for entry in group.entries:
        entries_through += 1
        if entry.pos != entries_through:
            require(False, "entries leave no gap in their positions", pos=entry.pos, expected=entries_through)
    return commits_through, entries_through
