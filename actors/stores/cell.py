"""The store actor: the cell that hosts a store's behaviour.

Owns the instance of the user's `StoreActor` and the store's state as of the last commit that it was told. Promises: the
behaviour's methods run on the store's dispatcher, one at a time; when one raises, the cell crashes, and is restarted with a
behaviour made anew from its recipe while its reference and its mailbox stay.
"""

from __future__ import annotations

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

    def on_start(self) -> None:
        self._recover_first()

    def on_recover_again(self, _: RecoverAgain) -> None:
        self._recover_first()

    def _recover_first(self) -> None:
        try:
            behaviour = self._build()
            if self._incarnation == 1 or not behaviour._keeps_only_state:
                self._state = behaviour.recover(self._checkpoint)
        except StoreUnavailable as away:
            logger.bind(actor=self._ref.name).warning("store {} is away: {}", self._ref.name, away)
            self._timers.call_after(max(away.retry_after, 0.001), lambda: self.tell_self(RecoverAgain()))
        except BaseException as error:
            if self._incarnation > 1:
                raise
            self._started.tell(StoreRefusedToStart(store=self._ref.name, error=error))
        else:
            self._behaviour = behaviour
            self._started.tell(StoreRecovered(store=self._ref.name, state=self._state))

    def _build(self) -> StoreActor[Any, Any]:
        behaviour = self._ref.spec.build()
        behaviour.journal_id = self._journal_id
        return behaviour

    def on_apply_commits(self, message: ApplyCommits) -> None:
        if message.seq > self.seq:
            self._state = message.state
            self.seq = message.seq

    def on_make_checkpoint(self, message: MakeCheckpoint) -> None:
        if self._behaviour is None:
            error = StoreUnavailable(f"store {self._ref.name!r} has not recovered yet")
            message.reply_to.set_exception((type(error), error, None))
            return
        try:
            data = self._behaviour.checkpoint(message.state)
            if data is not None and type(data) is not bytes:
                raise TypeError(f"checkpoint returned {type(data).__name__}, not bytes or None")
        except Exception as error:
            error.add_note(f"store {self._ref.name!r} could not make its checkpoint")
            raise
        message.reply_to.set(data)

    def on_validate_commit(self, message: ValidateCommit) -> None:
        error: BaseException | None = None
        unavailable_s: float | None = None
        if self._behaviour is None:
            return  # It is asked again when it has recovered.
        try:
            self._behaviour.validate(message.old, message.new, message.commit)
        except Rejected as rejection:
            error = rejection
        except StoreUnavailable as away:
            unavailable_s = max(away.retry_after, 0.001)
        except BaseException as failure:
            message.committer.tell(_answer(message, failure, crashed=True))
            raise
        message.committer.tell(_answer(message, error, unavailable_s=unavailable_s))
        del error  # Its traceback leads back to this frame.

    def on_stop(self) -> None:
        if self._behaviour is not None:
            self._behaviour.close()


def _answer(
    asked: ValidateCommit, error: BaseException | None, *, crashed: bool = False, unavailable_s: float | None = None
) -> ValidationDone:
    return ValidationDone(
        store=asked.store, seq=asked.commit.seq, attempt=asked.attempt, epoch=asked.epoch, error=error, crashed=crashed,
        unavailable_s=unavailable_s,
    )  # fmt: skip
