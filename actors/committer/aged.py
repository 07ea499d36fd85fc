"""Reads of a snapshot that is older than what `history` remembers: only those of runs that execute outside of the order.

Owns the check of point reads at any age. Pure. Promises: never takes for fresh what has changed; what it cannot tell (a
range, a store that does not say what it holds under a key) is taken for stale, which costs one execution.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from seqtor.actors.publications import Publication
from seqtor.messages.commits import CommitRun

__all__ = ["renewed"]


def renewed(
    intent: CommitRun, pinned: Publication, specs: Sequence[Any], states: Sequence[Any], seq: int, ahead: Container[int]
) -> CommitRun:
    """The intent as if it had read the `states` after `seq` and what was `ahead`, if what it has read is there what it was.

    Otherwise the intent as it is. States are immutable and share what was not written, so identity is enough, and where a
    value was written that is the very same object the run would have read the same.
    """
    for access in intent.accesses:
        if access.ranges or access.whole:
            return intent
        spec, before, now = specs[access.store], pinned.newest[access.store], states[access.store]
        if before is not now and any(not _same(spec.part(before, key), spec.part(now, key)) for key in access.keys):
            return intent
    return intent._replace(snapshot_seq=seq, seen=ahead)


def _same(before: Any, now: Any) -> bool:
    return before is now and before is not NotImplemented
