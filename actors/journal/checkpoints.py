"""Makes checkpoints: the state of every store at one durable seq, and the work that has not ended.

Owns the encoding, which takes long for large states and therefore happens here and not on the journal's thread: the
states are immutable, so nothing waits for it. Promises: a checkpoint is valid only when all of it is on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.futures import Driver, ReplyFuture
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart
from seqtor.actors.journal.encoding import accepted_text, json_of, model_json, text
from seqtor.actors.journal.recovery import OPEN_WORK, store_section
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.journal import (
    CheckpointDue,
    FinishCheckpoint,
    GetOpenWork,
    KeepCheckpointPart,
    MakeCheckpoint,
    OpenWorkFound,
)

__all__ = ["Checkpointer", "Checkpoints"]

PART_BYTES = 1 << 20


class Checkpoints:
    """Makes one checkpoint after another; `take` blocks its caller until it is on disk."""

    def __init__(
        self,
        journal: Mailbox,
        stores: Sequence[StoreRef[Any]],
        cells: Sequence[Mailbox],
        durable: Callable[[], Any],
        now: Callable[[], float],
        driver: Driver | None,
        last_seq: int | None,
    ) -> None:
        self._journal = journal
        self._stores = stores
        self._cells = cells
        self._durable = durable
        self._now = now
        self._driver = driver
        self.last_seq = last_seq
        self._warned = False

    def take(self, *, again: bool = False) -> CheckpointInfo | None:
        """Make a checkpoint of what is durable now; None if there is one of that seq (and not `again`)."""
        publication = self._durable()
        seq = publication.seq
        if seq == self.last_seq and not again:
            return None
        number = size = 0
        work: OpenWorkFound = self._ask(self._journal, partial(GetOpenWork, seq=seq))
        sections: list[tuple[str, bytes]] = []
        unkept = []
        for ref, cell, state in zip(self._stores, self._cells, publication.states, strict=True):
            data = ref.spec.checkpoint_of(state)
            if data is NotImplemented:
                data = self._ask(cell, partial(MakeCheckpoint, state=state))
            if data is None:
                unkept.append(ref.name)
            else:
                sections.append((store_section(ref.name), data))
        sections.insert(0, (OPEN_WORK, self._open_work(work, unkept).encode()))
        for section, data in sections:
            for start in range(0, max(1, len(data)), PART_BYTES):
                part = CheckpointPart(section, data[start : start + PART_BYTES])
                self._journal.tell(KeepCheckpointPart(seq=seq, number=number, part=part))
                number += 1
            size += len(data)
        info = CheckpointInfo(seq, work.entries_through, work.chain, number, size)
        self._ask(self._journal, partial(FinishCheckpoint, info=info))
        self.last_seq = seq
        return info

    def compact(self, ended_before: float, forget: Callable[[int], None]) -> CheckpointInfo | None:
        """Have the journal give up what ended before a moment (POSIX seconds), as far as there is a checkpoint for it.

        The newest checkpoint from before that moment stays, so that every state since can still be brought back.
        `forget` is told up to which seq idempotency keys go. Returns the checkpoint, None if there is nothing to give up.
        """
        found = self._ask(self._journal, partial(ReadJournal, read=partial(compactable, ended_before)))
        if found is None:
            return None
        info, unkept = found
        if unkept:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the journal is not compacted, retain= has no effect: the stores {} make no checkpoint "
                    "(StoreActor.checkpoint returns None), so their commits are needed from the first on",
                    ", ".join(unkept),
                )
            return None
        forget(info.seq)
        self._journal.tell(TrimJournal(info=info))
        return info  # type: ignore[no-any-return]

    def _open_work(self, work: OpenWorkFound, unkept: Sequence[str]) -> str:
        shapes = json_of({ref.name: ref.spec.shape for ref in self._stores})
        parts = [
            ("unkept", map(text, unkept)),
            ("accepted", map(accepted_text, work.submissions)),
            ("calls", map(model_json, work.calls)),
            ("effects", map(model_json, work.effects)),
            ("closed", map(json_of, work.closed)),
            ("dead", map(model_json, work.dead)),
        ]
        lists = "".join(f',"{name}":[{",".join(texts)}]' for name, texts in parts)
        return f'{{"format":1,"now":{self._now()!r},"shapes":{shapes}{lists}}}'

    def _ask(self, mailbox: Mailbox, question: Callable[..., Any]) -> Any:
        reply = ReplyFuture()
        reply.driver = self._driver
        mailbox.tell(question(reply_to=reply))
        return reply.get()


def compactable(ended_before: float, backend: Backend) -> tuple[CheckpointInfo, list[str]] | None:
    """The newest checkpoint whose seq had ended before a moment, and the stores that it does not hold.

    None if there is none, or if it is the oldest, behind which nothing is left to give up.
    """
    for info in reversed(backend.checkpoints()):
        row = next(iter(backend.commits(info.seq, info.seq)), None)
        if row is None or row.seq != info.seq:
            return None  # Compacted up to here.
        if from_json(row.body)["ended_at"] < ended_before:
            parts = takewhile(lambda part: part.section == OPEN_WORK, backend.checkpoint_parts(info.seq))
            work = open_work({OPEN_WORK: b"".join([part.data for part in parts])}, info.seq, backend.place)
            return info, work.unkept
    return None


class Checkpointer(Actor):
    """Takes a checkpoint when the journal has grown; on a thread of its own, so it may wait."""

    receives: ClassVar[tuple[type, ...]] = (CheckpointDue,)

    def __init__(self, checkpoints: Checkpoints) -> None:
        super().__init__()
        self._checkpoints = checkpoints

    def on_checkpoint_due(self, _: CheckpointDue) -> None:
        try:
            info = self._checkpoints.take()
        except Exception as error:  # A store's own code, or the journal is gone; commits do not depend on checkpoints.
            logger.opt(exception=error).warning("no checkpoint was made: {}; the next one is tried later", error)
        else:
            if info is not None:
                logger.debug("checkpoint at seq {}: {} bytes", info.seq, info.size_bytes)
