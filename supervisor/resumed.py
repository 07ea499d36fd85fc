"""What runs go on with that had made calls before a restart: their answers, and what their first attempt saw.

Owns the reading of that from a journal that nobody writes yet. Promises: `tx.peek` of such a run gives what it gave before,
so a question that was asked about it is known again; where the history of that seq was compacted, it gives what is there
now, and a warning is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loguru import logger

from seqtor.actors.calls import Resumed
from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.history import KeptHistory, history_of
from seqtor.actors.journal.recovery import Recovery, writes_by_store
from seqtor.actors.publications import Publication
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.records import CallRecord

__all__ = ["ResumedRuns"]


class ResumedRuns:
    """The runs with recorded calls that had not ended."""

    def __init__(self, recovery: Recovery, stores: Sequence[StoreRef[Any]]) -> None:
        self.calls: dict[str, list[CallRecord]] = {
            run: calls for run, calls in recovery.calls.items() if run in recovery.accepted
        }
        self._through = recovery.opened.commits_through
        self._snapshots: dict[int, Publication] = {}
        seqs = {calls[0].first_snapshot for calls in self.calls.values()} - {self._through}
        if seqs:
            history = history_of(recovery.backend, recovery.opened, stores)
            for seq in sorted(seqs):
                self._read(history, seq, stores)

    def before(self, newest: Publication) -> dict[str, Resumed]:
        """What each goes on with, by run id; `newest` is the first publication of the system that starts."""
        for snapshot in self._snapshots.values():
            assert snapshot.next is not None
            snapshot.next.next = newest
        snapshots = {self._through: newest, **self._snapshots}
        return {
            run: Resumed(
                tuple([each.call for each in calls if each.call is not None]), snapshots.get(calls[0].first_snapshot)
            )
            for run, calls in self.calls.items()
        }

    def _read(self, history: KeptHistory, seq: int, stores: Sequence[StoreRef[Any]]) -> None:
        """The state after `seq`, and as its successor what was written from there up to the end of the journal."""
        try:
            snapshot = Publication(-1, seq, history.states_at(seq), {})
            written: dict[int, set[str]] = {}
            indexes = {ref.name: ref.index for ref in stores}
            for row in history.rows(seq + 1, self._through):
                for store, writes in writes_by_store(parsed(row.body)).items():
                    written.setdefault(indexes[store], set()).update(key for key, _, _ in writes)
        except LookupError as compacted:
            logger.warning("runs with recorded calls go on with a new first snapshot (tx.peek): {}", compacted)
            return
        snapshot.next = Publication(-1, self._through, (), written)
        self._snapshots[seq] = snapshot
