"""The actor of a derived store that keeps a JSON file.

Owns when the file is written. Promises: only what is durable, the newest of it; a disk that is full or away suspends this
file alone, and it is tried again with a backoff; what others did to the file is told.
"""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.mailbox import answer
from seqtor.actors.stores.cell import StoreCell
from seqtor.actors.stores.export import Export
from seqtor.messages.derived import DRIFT
from seqtor.messages.errors import NotRunning
from seqtor.messages.events import make_alarm
from seqtor.messages.stores import BeginOutside, PersistCommits, StoreDue

__all__ = ["ExportCell"]

BACKOFF_S, BACKOFF_MAX_S = 0.1, 30.0


class ExportCell(StoreCell):
    """Hosts one derived store with a file. `export` is what outlives a crash of this actor."""

    receives: ClassVar[tuple[type, ...]] = (*StoreCell.receives, BeginOutside, PersistCommits, StoreDue)

    def __init__(self, *args: Any, export: Export) -> None:
        super().__init__(*args)
        self._export = export
        self._waits = False  # For a timer.
        self._failures = 0

    def on_start(self) -> None:
        super().on_start()
        if self._incarnation > 1:
            self._bring()

    def on_begin_outside(self, message: BeginOutside) -> None:
        self._export.submit = message.submit
        self._export.suspension.alarm = message.alarm
        self._bring()
        answer(message.reply_to, ())

    def on_persist_commits(self, message: PersistCommits) -> None:
        self._export.take(message.commits, message.through)
        self._bring()

    def on_store_due(self, message: StoreDue) -> None:
        if message.incarnation == self._incarnation:
            self._waits = False
            self._bring()

    def on_stop(self) -> None:
        self._waits = False
        self._bring()
        super().on_stop()

    def _bring(self) -> None:
        """Write the file if it does not say what is durable; try again later if that cannot be done."""
        export = self._export
        if self._waits or export.submit is None:
            return
        log = logger.bind(actor=self._ref.name)
        try:
            drift = export.bring()
        except OSError as error:
            self._waits = True
            delay_s = min(BACKOFF_S * 2 ** min(self._failures, 16), BACKOFF_MAX_S)
            self._failures += 1
            export.suspension.begin(error, 1)
            log.warning("store {}: {} cannot be written, tried again: {}", self._ref.name, export.path, error)
            self._timers.call_after(delay_s, lambda: self.tell_self(StoreDue(incarnation=self._incarnation)))
            return
        self._failures = 0
        export.suspension.end()
        if drift is not None:
            log.warning("store {}: {}: {}, and is written anew", self._ref.name, export.path, drift)
            told = {"derived": self._ref.name, "fields": (), "why": drift, "path": str(export.path)}
            with contextlib.suppress(NotRunning):  # It stops; the file is as it should be.
                export.submit(make_alarm(DRIFT, told))
