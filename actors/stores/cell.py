"""The store actor: the cell that hosts a store's behaviour.

Owns the instance of the user's `StoreActor` and the store's state as of the last commit that it was told. Promises: the
behaviour's methods run on the store's dispatcher, one at a time; when one raises, the behaviour is rebuilt from its
recipe while the cell, its reference and its mailbox stay.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.contract import Timers
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.contract import StoreActor, StoreRef
from seqtor.messages.errors import Rejected, StoreUnavailable
from seqtor.messages.journal import MakeCheckpoint
from seqtor.messages.lifecycle import StoreRecovered, StoreRefusedToStart
from seqtor.messages.stores import ApplyCommits, Checkpoint, ValidateCommit, ValidationDone

__all__ = ["StoreCell"]


class RecoverAgain:
    """Told to oneself by a timer: the medium was away at the first try."""


class StoreCell(Actor):
    """Hosts one store."""

    receives: ClassVar[tuple[type, ...]] = (ApplyCommits, ValidateCommit, MakeCheckpoint, RecoverAgain)

    def __init__(
        self, ref: StoreRef[Any], timers: Timers, started: Mailbox, checkpoint: Checkpoint | None = None,
        journal_id: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self._checkpoint = checkpoint
        self._journal_id = journal_id
        self._ref = ref
        self._timers = timers
        self._started = started
        self._behaviour: StoreActor[Any, Any] | None = None
        self._state: Any = None
        self.seq = 0
        self.committer: Mailbox | None = None

    def on_start(self) -> None:
        self._recover_first()

    def on_recover_again(self, _: RecoverAgain) -> None:
        self._recover_first()

    def _recover_first(self) -> None:
        try:
            self._state = self._rebuild()
        except StoreUnavailable as away:
            logger.bind(actor=self._ref.name).warning("store {} is away: {}", self._ref.name, away)
            self._timers.call_after(max(away.retry_after, 0.001), lambda: self.tell_self(RecoverAgain()))
        except BaseException as error:
            self._started.tell(StoreRefusedToStart(store=self._ref.name, error=error))
        else:
            self._started.tell(StoreRecovered(store=self._ref.name, state=self._state))

    def _rebuild(self) -> Any:
        self._behaviour = None
        behaviour = self._ref.spec.build()
        behaviour.journal_id = self._journal_id
        state = behaviour.recover(self._checkpoint)
        self._behaviour = behaviour
        return state

    def on_apply_commits(self, message: ApplyCommits) -> None:
        if message.seq > self.seq:
            self._state = message.state
            self.seq = message.seq

    def on_make_checkpoint(self, message: MakeCheckpoint) -> None:
        try:
            if self._behaviour is None:
                self._rebuild()
            data = self._behaviour.checkpoint(message.state)  # type: ignore[union-attr]
            if data is not None and type(data) is not bytes:
                raise TypeError(f"checkpoint returned {type(data).__name__}, not bytes or None")
        except Exception as error:
            self._behaviour = None
            error.add_note(f"store {self._ref.name!r} could not make its checkpoint")
            message.reply_to.set_exception((type(error), error, error.__traceback__))
        else:
            message.reply_to.set(data)

    def on_validate_commit(self, message: ValidateCommit) -> None:
        error: BaseException | None = None
        crashed = False
        unavailable_s: float | None = None
        try:
            if self._behaviour is None:
                self._rebuild()
            self._behaviour.validate(message.old, message.new, message.commit)  # type: ignore[union-attr]
        except Rejected as rejection:
            error = rejection
        except StoreUnavailable as away:
            unavailable_s = max(away.retry_after, 0.001)
        except BaseException as failure:
            error, crashed = failure, True
            self._behaviour = None  # Half-changed: rebuilt before the commit is offered again.
            logger.bind(actor=self._ref.name, seq=message.commit.seq).opt(exception=sys.exc_info()).warning(
                "store {} crashed at seq {} and is rebuilt", self._ref.name, message.commit.seq
            )
        assert self.committer is not None
        self.committer.tell(
            ValidationDone(
                store=message.store, seq=message.commit.seq, attempt=message.attempt, error=error, crashed=crashed,
                unavailable_s=unavailable_s,
            )
        )  # fmt: skip
        del error  # Its traceback leads back to this frame.

    def on_stop(self) -> None:
        if self._behaviour is not None:
            self._behaviour.close()
