"""What was, from a journal that is open for writing: states and records of earlier seqs.

Owns time travel: the nearest checkpoint and the commits behind it. Asks the journal's actor for bounded pieces, so that
commits go on in between. Called at the edge, where waiting is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pydantic_core import from_json

from seqtor.actors.futures import Driver, ReplyFuture
from seqtor.actors.journal.contract import Backend, CheckpointInfo, CommitRow
from seqtor.actors.journal.recovery import store_section
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.journal import ReadJournal
from seqtor.messages.stores import Checkpoint

__all__ = ["KeptHistory"]

PIECE = 1000


class KeptHistory:
    """Reads a running system's journal."""

    def __init__(
        self, journal: Mailbox, place: str, stores: Sequence[StoreRef[Any]], driver: Driver | None,
        checkpoints: Callable[[], Sequence[CheckpointInfo]],
    ) -> None:  # fmt: skip
        self._journal = journal
        self._place = place
        self._stores = stores
        self._driver = driver
        self._checkpoints = checkpoints

    def rows(self, first: int, last: int) -> Iterator[CommitRow]:
        """The commits first..last, as they are kept."""
        while first <= last:
            stop = min(last, first + PIECE - 1)
            piece = self._read(partial(_commits, first, stop))
            yield from piece
            if len(piece) < stop - first + 1:
                return
            first = stop + 1

    def states_at(self, seq: int) -> tuple[Any, ...]:
        """All stores' states after `seq`, which is durable. Raises LookupError if it was trimmed."""
        before = [info for info in self._checkpoints() if info.seq <= seq]
        if not before:
            kept = self._checkpoints()
            oldest = kept[0].seq if kept else 0
            raise LookupError(
                f"the history of seq {seq} is not kept: {self._place} was compacted up to seq {oldest}; raise retain= to "
                "keep more"
            )
        info = before[-1]
        parts = self._read(lambda backend: list(backend.checkpoint_parts(info.seq)))
        data = {
            ref.name: b"".join([p.data for p in parts if p.section == store_section(ref.name)]) for ref in self._stores
        }
        tail: dict[str, list[tuple[int, list[tuple[str, Any, int]]]]] = {}
        for row in self.rows(info.seq + 1, seq):
            by_store: dict[str, list[tuple[str, Any, int]]] = {}
            for write in from_json(row.body).get("writes", ()):
                by_store.setdefault(write[0], []).append((write[1], write[2], write[3] if len(write) > 3 else 1))
            for store, writes in by_store.items():
                tail.setdefault(store, []).append((row.seq, writes))
        states = []
        for ref in self._stores:
            checkpoint = Checkpoint(info.seq, data[ref.name]) if data[ref.name] else None
            behaviour = ref.spec.build()
            state = behaviour.recover(checkpoint)
            states.append(ref.spec.restore(checkpoint, state, tail.get(ref.name, [])))
        return tuple(states)

    def _read(self, read: Callable[[Backend], Any]) -> Any:
        reply = ReplyFuture()
        reply.driver = self._driver
        self._journal.tell(ReadJournal(read=read, reply_to=reply))
        return reply.get()


def _commits(first: int, last: int, backend: Backend) -> list[CommitRow]:
    return list(backend.commits(first, last))
