"""How far a journal can be compacted: up to which checkpoint, so that what was promised can still be brought back.

Owns the choice. Deleting is the backend's (`trim`). Promises: the checkpoint that is chosen is one behind which every
later state can be had; nothing is chosen that a store still needs: one without checkpoints, or one that
writes outside and has not done so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from pydantic_core import from_json

from seqtor.actors.journal.contract import Backend, CheckpointInfo
from seqtor.actors.journal.recovery import OPEN_WORK, open_work
from seqtor.messages.records import OpenWork

__all__ = ["Compactable", "ended_before", "outside_through", "up_to"]


class Compactable(NamedTuple):
    """The checkpoint that may become the oldest. `unkept` are stores that it does not hold: then nothing may go."""

    info: CheckpointInfo
    unkept: tuple[str, ...]


def ended_before(
    backend: Backend, checkpoints: Sequence[CheckpointInfo], moment: float, through: float = math.inf
) -> Compactable | None:
    """The newest checkpoint of a seq up to `through` that had ended before a moment (POSIX s); None if nothing would go."""
    for info in reversed(checkpoints):
        if info.seq > through:
            continue
        row = next(iter(backend.commits(info.seq, info.seq)), None)
        if row is None or row.seq != info.seq:
            return None  # Compacted up to here already, or nothing is before it.
        if from_json(row.body)["ended_at"] < moment:
            return _checked(backend, info)
    return None


def up_to(backend: Backend, checkpoints: Sequence[CheckpointInfo], seq: int, commits_from: int) -> Compactable | None:
    """The newest checkpoint of a seq up to `seq`; None if nothing would go."""
    for info in reversed(checkpoints):
        if info.seq <= seq:
            return _checked(backend, info) if info.seq >= commits_from else None
    return None


def outside_through(backend: Backend, checkpoints: Sequence[CheckpointInfo]) -> float:
    """Up to which seq the stores that write outside need a journal no more that nobody has open; infinite without any."""
    if not checkpoints:
        return math.inf
    work = _work(backend, checkpoints[-1])
    if not work.changed:
        return math.inf
    return 0 if work.outside is None else work.outside


def _checked(backend: Backend, info: CheckpointInfo) -> Compactable:
    return Compactable(info, tuple(_work(backend, info).unkept))


def _work(backend: Backend, info: CheckpointInfo) -> OpenWork:
    # What is open is its first section; the states behind it may be large.
    parts = takewhile(lambda part: part.section == OPEN_WORK, backend.checkpoint_parts(info.seq))
    return open_work({OPEN_WORK: b"".join([part.data for part in parts])}, info.seq, backend.place)
