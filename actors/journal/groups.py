"""Where a journal ends after a group.

Owns the check that every backend makes before it writes: nothing that leaves a gap ever gets as far as a medium, unless
the group names it as one that is filled later.
"""

from __future__ import annotations

from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.reached import Reached

__all__ = ["ends_after"]


def ends_after(group: Group, reached: Reached, entries_through: int) -> tuple[Reached, int]:
    """Return the seqs that are there and the last position with this group. Raises unless it goes on where they end."""
    reached = reached.after([commit.seq for commit in group.commits], group.late)
    for entry in group.entries:
        entries_through += 1
        if entry.pos != entries_through:
            require(False, "entries leave no gap in their positions", pos=entry.pos, expected=entries_through)
    return reached, entries_through
