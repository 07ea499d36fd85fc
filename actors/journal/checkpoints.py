"""Makes checkpoints: the state of every store at one durable seq, and the work that has not ended. Then compacts.

Owns the encoding, which takes long for large states and therefore happens here and not on the journal's thread: the
states are immutable, so nothing waits for it. Promises: a checkpoint is valid only when all of it is on disk.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from loguru import logger
from pykka import ActorDeadError

from seqtor.actors.base import Actor
from seqtor.actors.futures import Driver, ReplyFuture
from seqtor.actors.journal.chain import Links
from seqtor.actors.journal.compaction import ended_before
from seqtor.actors.journal.contract import Backend, CheckpointInfo, CheckpointPart
from seqtor.actors.journal.encoding import accepted_text, json_of, model_json, text
from seqtor.actors.journal.recovery import OPEN_WORK, store_section
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.journal import (
    CheckpointDue,
    CheckpointSkipped,
    FinishCheckpoint,
    GetOpenWork,
    KeepCheckpointPart,
    MakeCheckpoint,
    OpenWorkFound,
    TrimJournal,
)

__all__ = ["Checkpointer", "Checkpoints", "Compaction"]

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
        changed: Callable[[], Mapping[str, int]] = dict,
        outside: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._journal = journal
        self._stores = stores
        self._cells = cells
        self._durable = durable
        self._now = now
        self._driver = driver
        self.last_seq = last_seq
        self._changed = changed
        self._outside = outside

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
        sections.insert(0, (OPEN_WORK, self._open_work(seq, work, unkept).encode()))
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

    def skip(self) -> None:
        """Say that there is none this time."""
        with contextlib.suppress(ActorDeadError):  # Then nobody asks for another.
            self._journal.tell(CheckpointSkipped())

    def _open_work(self, seq: int, work: OpenWorkFound, unkept: Sequence[str]) -> str:
        shapes = json_of({ref.name: ref.spec.shape for ref in self._stores})
        parts = [
            ("unkept", map(text, unkept)),
            ("accepted", map(accepted_text, work.submissions)),
            ("calls", map(model_json, work.calls)),
            ("effects", map(model_json, work.effects)),
            ("closed", map(json_of, work.closed)),
            ("dead", map(model_json, work.dead)),
        ]
        if work.dead_runs:
            parts.append(("dead_runs", map(model_json, work.dead_runs)))
        if work.sequenced:
            parts.append(("sequenced", map(model_json, work.sequenced)))
        links: Links = work.links
        if links != Links({seq: work.chain}):
            parts.append(("links", map(json_of, [(each, chain.hex()) for each, chain in links.hashes.items()])))
            parts.append(("passed", map(json_of, links.passed)))
        if work.ended:
            parts.append(("ended", map(text, work.ended)))
        lists = "".join(f',"{name}":[{",".join(texts)}]' for name, texts in parts)
        if work.resubmitted:
            lists += f',"resubmitted":{json_of(dict(work.resubmitted))}'
        if work.reactions is not None:
            lists += f',"reactions":{model_json(work.reactions.record())}'
        changed = self._changed()  # Asked for after the state was taken: so it may say too much, never too little.
        if changed:
            lists += f',"changed":{json_of(dict(changed))},"outside":{int(self._outside())}'
        return f'{{"format":1,"now":{self._now()!r},"shapes":{shapes}{lists}}}'

    def _ask(self, mailbox: Mailbox, question: Callable[..., Any]) -> Any:
        reply = ReplyFuture()
        reply.driver = self._driver
        mailbox.tell(question(reply_to=reply))
        return reply.get()


class Compaction:
    """Has the journal give up what is older than is promised (`retain_s`; None promises everything).

    `forget` is told up to which seq idempotency keys go with it; `outside` says up to which seq the stores that write
    outside have done so, and need the journal no more. Blocks its caller for a look into the journal.
    """

    def __init__(
        self,
        read: Callable[[Callable[[Backend], Any]], Any],
        checkpoints: Callable[[], Sequence[CheckpointInfo]],
        retain_s: float | None,
        time: Callable[[], float],
        forget: Callable[[int], None],
        journal: Mailbox,
        outside: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._read = read
        self._checkpoints = checkpoints
        self._retain_s = retain_s
        self._time = time
        self._forget = forget
        self._journal = journal
        self._outside = outside
        self._warned = False

    def compact(self) -> None:
        """Begin to delete, in pieces between groups, what no promise covers any more; nothing if there is nothing.

        The newest checkpoint from before the promised history stays, so that every state since can be brought back.
        """
        if self._retain_s is None:
            return
        moment = self._time() - self._retain_s
        through = self._outside()
        found = self._read(lambda backend: ended_before(backend, self._checkpoints(), moment, through))
        if found is None:
            return
        if not found.unkept:
            self._forget(found.info.seq)
            self._journal.tell(TrimJournal(info=found.info))
        elif not self._warned:
            self._warned = True
            logger.warning(
                "the journal is not compacted although retain= is set: {} made no checkpoint (StoreActor.checkpoint "
                "returned None), so all commits are needed",
                ", ".join(found.unkept),
            )


class Checkpointer(Actor):
    """Takes a checkpoint when the journal has grown, and has it compacted; on a thread of its own, so it may wait."""

    receives: ClassVar[tuple[type, ...]] = (CheckpointDue,)

    def __init__(self, checkpoints: Checkpoints, compaction: Compaction) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._compaction = compaction

    def on_checkpoint_due(self, _: CheckpointDue) -> None:
        try:
            info = self._checkpoints.take()
            if info is None:
                self._checkpoints.skip()
            self._compaction.compact()
        except Exception as error:  # A store's own code, or the journal is gone; commits do not depend on checkpoints.
            logger.opt(exception=error).warning("no checkpoint was made: {}; the next one is tried later", error)
            self._checkpoints.skip()
        else:
            if info is not None:
                logger.debug("checkpoint at seq {}: {} bytes", info.seq, info.size_bytes)
