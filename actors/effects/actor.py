"""The effects' actor: carries out what commits have released, until each effect has ended.

Owns what is open: when each effect is tried, again after which wait, and when it is given up. Runs on the core and calls
no user code; that happens in `execution.py`. Promises: an effect is begun only when its commit is durable, and tried under
the same key until a try returns or the policy gives up; the end of an effect is on disk, together with the trigger that
it returned, before anyone is told of either; effects do not wait for each other, and have no order among themselves.
"""

from __future__ import annotations

import copy
import enum
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor, Ref
from seqtor.actors.dispatchers.contract import Cancellable, Dispatchers
from seqtor.actors.effects.execution import Workshop
from seqtor.actors.effects.functions import EffectFunction, EffectFunctions
from seqtor.actors.effects.workforce import Workforce
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox, answer
from seqtor.actors.reactor.kept import effect_fact
from seqtor.messages.effects import (
    CarryOut,
    DeadLetterRecord,
    EffectDue,
    EffectExecuted,
    EffectRecorded,
    EffectsEnded,
    ExecuteEffect,
    GetDeadLetters,
    HoldEffects,
    ResumeEffects,
    WorkerFree,
)
from seqtor.messages.journal import AppendEntry
from seqtor.messages.lifecycle import ActorCrashed, Drain, Drained
from seqtor.messages.records import EffectRecord, RecordedEffect

__all__ = ["Effects", "dead_letters"]

THREAD_RETRY_S = 1.0
NAMED_MAX = 10


class Stage(enum.Enum):
    """Where an effect is that has not ended."""

    DUE = "due"
    RUNNING = "running"
    WAITING = "waiting"
    RECORDING = "recording"


class Open:
    """An effect that has not ended."""

    __slots__ = (
        "attempt",
        "effect",
        "error",
        "function",
        "index",
        "record",
        "seq",
        "stage",
        "submission",
        "timer",
        "worker",
    )

    def __init__(self, seq: int, index: int, effect: RecordedEffect, function: EffectFunction) -> None:
        self.seq = seq
        self.index = index
        self.effect = effect
        self.function = function
        self.stage = Stage.DUE
        self.attempt = 0
        self.worker: Ref | None = None
        self.timer: Cancellable | None = None
        self.record: EffectRecord | None = None
        self.submission: Any = None
        self.error: BaseException | None = None  # Of the last try.


class Told:
    """Stands where an asker's future would: the answer becomes a message."""

    __slots__ = ("_mailbox", "_message")

    def __init__(self, mailbox: Mailbox, message: Any) -> None:
        self._mailbox = mailbox
        self._message = message

    def set(self, _: Any) -> None:
        """Tell it."""
        self._mailbox.tell(self._message)

    def set_exception(self, _: Any) -> None:
        """Tell nothing: what failed is not on disk, and whoever waited for it is told of the failure otherwise."""


class Effects(Actor):
    """Owns the effects that have not ended."""

    receives: ClassVar[tuple[type, ...]] = (
        CarryOut, ResumeEffects, EffectExecuted, EffectDue, EffectRecorded, GetDeadLetters, Drain, HoldEffects,
        WorkerFree, ActorCrashed,
    )  # fmt: skip

    def __init__(
        self,
        workshop: Workshop,
        functions: EffectFunctions,
        dispatchers: Dispatchers,
        journal: Mailbox | None,
        ledger: Ledger,
        workforce: Workforce,
        dead: deque[EffectRecord],
        *,
        resumed: bool = False,
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._workforce = workforce
        self._workshop = workshop
        self._functions = functions
        self._dispatchers = dispatchers
        self._journal = journal
        self._resumed = resumed
        self._seed = dispatchers.entropy()
        self._open: dict[tuple[int, int], Open] = {}
        self._left: dict[int, int] = {}  # How many effects of a commit have not ended.
        self._due_on_threads: deque[Open] = deque()
        self._due_on_loop: deque[Open] = deque()
        self._active = 0  # Begun, or being recorded.
        self._drains: list[Any] = []
        self._draining = False
        self._holding = False
        self._released = False  # A trigger was accepted since the last drain.
        self.dead = dead
        self.sequencer: Mailbox
        self.coordinator: Mailbox

    def on_start(self) -> None:
        """After a restart: begin what had not ended once more, under the same keys."""
        if self._resumed:
            self._workforce.begin_again()
            self._resume()

    # What is to be done ------------------------------------------------------------------------------------------------

    def on_carry_out(self, message: CarryOut) -> None:
        left = self._ledger.open_effects.get(message.seq, {})
        for index, effect in enumerate(message.effects):
            if index in left and (message.seq, index) not in self._open:  # Else it was told before.
                self._add(message.seq, index, effect)

    def on_resume_effects(self, _: ResumeEffects) -> None:
        if not self._resumed:
            self._resumed = True
            self._resume()

    def _resume(self) -> None:
        for seq, effects in self._ledger.open_effects.items():
            for index, effect in effects.items():
                if (seq, index) not in self._open:
                    self._add(seq, index, effect)

    def _add(self, seq: int, index: int, effect: RecordedEffect) -> None:
        opened = Open(seq, index, effect, self._functions.named(effect.name))
        self._open[seq, index] = opened
        self._left[seq] = self._left.get(seq, 0) + 1
        self._make_due(opened)

    def _make_due(self, opened: Open) -> None:
        opened.stage = Stage.DUE
        (self._due_on_loop if opened.function.is_async else self._due_on_threads).append(opened)

    def on_effect_due(self, message: EffectDue) -> None:
        opened = self._open.get((message.seq, message.index))
        if opened is None or opened.stage is not Stage.WAITING or opened.attempt + 1 != message.attempt:
            return
        opened.timer = None
        if not self._draining:  # What waits for its next try does not hold up a stop.
            self._make_due(opened)

    def on_batch_end(self) -> None:
        if not self._holding:
            self._begin_due()
        if self._drains and not (self._active or self._due_on_loop or self._due_on_threads):
            self._answer_drains()

    def _begin_due(self) -> None:
        due = self._due_on_loop
        while due and (worker := self._workforce.take_task()) is not None:
            self._execute(due.popleft(), worker)
        due = self._due_on_threads
        while due and (worker := self._free_worker()) is not None:
            self._execute(due.popleft(), worker)

    def _execute(self, opened: Open, worker: Ref) -> None:
        opened.stage = Stage.RUNNING
        opened.attempt += 1
        opened.worker = worker
        self._active += 1
        worker.actor_inbox.tell(
            ExecuteEffect(
                seq=opened.seq,
                index=opened.index,
                attempt=opened.attempt,
                function=opened.function,
                effect=opened.effect,
            )
        )

    def _free_worker(self) -> Ref | None:
        """A worker with nothing to do: a slow effect must not hold up the others."""
        try:
            return self._workforce.take_thread()
        except RuntimeError as error:  # No more threads to be had.
            logger.error("no thread for effects, tried again in {:g} s: {}", THREAD_RETRY_S, error)
            nothing = EffectDue(seq=0, index=0, attempt=0)
            self._dispatchers.timers.call_after(THREAD_RETRY_S, lambda: self.tell_self(nothing))
            return None

    # What became of it -------------------------------------------------------------------------------------------------

    def on_effect_executed(self, message: EffectExecuted) -> None:
        self._workforce.free(message.worker)
        opened = self._open.get((message.seq, message.index))
        if opened is None or opened.worker is None or opened.worker.actor_urn != message.worker:
            return  # It was begun before this instance was.
        opened.worker = None
        self._active -= 1
        if self._holding and not self._can_end(message):
            opened.stage = Stage.WAITING
        elif message.error is None:
            opened.submission = message.submission
            self._end(opened, message)
        elif opened.function.retry.tries_again(opened.attempt, message.error):
            self._wait(opened, message.failure)
        else:
            self._end(opened, message)

    def on_worker_free(self, message: WorkerFree) -> None:
        self._workforce.free(message.worker)

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        """Who executed is gone (a defect of seqtor or of the machine): what it had begun is begun once more."""
        self._workforce.lose(message.urn)
        for opened in self._open.values():
            if opened.worker is not None and opened.worker.actor_urn == message.urn:
                opened.worker = None
                self._active -= 1
                self._make_due(opened)

    def _can_end(self, message: EffectExecuted) -> bool:
        """Whether what became of an effect can still be kept while everything stops."""
        return message.submission is None if self._journal is None else not self._journal.closed

    def _wait(self, opened: Open, failure: Any) -> None:
        """Let some time pass before the next try."""
        opened.stage = Stage.WAITING
        if self._draining or self._holding:
            return
        seed = f"{self._seed}:{opened.seq}:{opened.index}:{opened.attempt}"
        delay_s = opened.function.retry.delay_s(opened.attempt, random.Random(seed))
        again = EffectDue(seq=opened.seq, index=opened.index, attempt=opened.attempt + 1)
        opened.timer = self._dispatchers.timers.call_after(delay_s, lambda: self.tell_self(again))
        self._log(opened).debug(
            "effect {!r} of seq {} failed in attempt {} and is tried again in {:.3g} s: {}",
            opened.effect.name, opened.seq, opened.attempt, delay_s, _text(failure),
        )  # fmt: skip

    def _end(self, opened: Open, message: EffectExecuted) -> None:
        """Keep how the effect ended; what it returned is accepted with the same entry, so both are there or neither."""
        opened.record = record = EffectRecord(
            seq=opened.seq,
            index=opened.index,
            attempts=opened.attempt,
            ended_at=self._dispatchers.clock.time(),
            error=message.failure,
            effect=opened.effect if message.error is not None else None,
            submitted=message.accepted,
        )
        opened.error = message.error
        opened.stage = Stage.RECORDING
        if self._journal is None:
            self._ended(opened, record)
            return
        self._active += 1
        recorded = EffectRecorded(seq=opened.seq, index=opened.index)
        reply_to = Told(self.actor_inbox, recorded)  # type: ignore[arg-type]
        self._journal.tell(AppendEntry(record=record, reply_to=reply_to, submission=opened.submission))

    def on_effect_recorded(self, message: EffectRecorded) -> None:
        opened = self._open.get((message.seq, message.index))
        if opened is not None and opened.record is not None:
            self._active -= 1
            self._ended(opened, opened.record)

    def _ended(self, opened: Open, record: EffectRecord) -> None:
        seq = opened.seq
        del self._open[seq, opened.index]
        if record.error is not None:
            self.dead.append(record)
            self._log(opened).warning(
                "effect {!r} of seq {} is a dead letter after {} attempts: {}",
                opened.effect.name, seq, opened.attempt, _text(record.error),
            )  # fmt: skip
        # While everything stops it is accepted on disk, and runs after the next start.
        returned = None if self._holding else opened.submission
        self._released = self._released or returned is not None
        failure = None
        if opened.error is not None and self._ledger.reactions is not None:
            failure = effect_fact(record, opened.error, self._ledger.reactions.kinds)
        self._ledger.end_effect(seq, opened.index, returned, self.sequencer, failure)
        self._left[seq] -= 1
        if not self._left[seq]:
            del self._left[seq]
            self.coordinator.tell(EffectsEnded(seq=seq, submitted=self._released))

    # The stop ----------------------------------------------------------------------------------------------------------

    def on_drain(self, message: Drain) -> None:
        self._draining = True
        self._drains.append(message.reply_to)

    def _answer_drains(self) -> None:
        drains, self._drains = self._drains, []
        for reply_to in drains:
            if self._released:  # What effects returned has yet to run, and may have effects of its own.
                self.sequencer.tell(Drain(reply_to=reply_to))
            else:
                answer(reply_to, Drained())
        self._released = False

    def on_hold_effects(self, _: HoldEffects) -> None:
        self._holding = self._draining = True
        drains, self._drains = self._drains, []
        for reply_to in drains:  # Nothing that they wait for will happen any more.
            answer(reply_to, Drained())

    def on_stop(self) -> None:
        """Name what has not ended."""
        for opened in self._open.values():
            if opened.timer is not None:
                opened.timer.cancel()
        if not self._open:
            return
        named = [f"{each.effect.name} of seq {each.seq}" for each in list(self._open.values())[:NAMED_MAX]]
        more = f" and {len(self._open) - NAMED_MAX} more" if len(self._open) > NAMED_MAX else ""
        log, text = logger.bind(actor="effects"), ", ".join(named) + more
        if self._journal is None:
            log.warning("effects that had not ended at the stop are lost, there is no journal: {}", text)
        else:
            log.info("effects that had not ended at the stop are carried out after the next start: {}", text)

    # Queries -----------------------------------------------------------------------------------------------------------

    def on_get_dead_letters(self, message: GetDeadLetters) -> None:
        message.reply_to.set(self.answer(message))

    def answer(self, query: GetDeadLetters) -> list[DeadLetterRecord]:
        """The newest dead letters."""
        return dead_letters(self.dead, self._workshop.key, query.limit)

    def _log(self, opened: Open) -> Any:
        return logger.bind(seq=opened.seq, attempt=opened.attempt, effect=opened.effect.name, actor="effects")


def dead_letters(records: Sequence[EffectRecord], key: Any, limit: int) -> list[DeadLetterRecord]:
    """The newest `limit` of the effects that were given up, for a caller who may keep and change them."""
    return [
        DeadLetterRecord(
            id=(record.effect and record.effect.key) or key(record.seq, record.index),
            kind="effect",
            seq=record.seq,
            name=record.effect.name if record.effect is not None else "?",
            payload=copy.deepcopy(record.effect.payload) if record.effect is not None else None,
            error=_text(record.error),
            attempts=record.attempts,
            time=record.ended_at,
            effect_index=record.index,
            version=record.effect.version if record.effect is not None else 1,
        )
        for record in list(records)[: -limit - 1 : -1]
    ]


def _text(error: Any) -> str:
    return "" if error is None else f"{error.type.rpartition('.')[2]}: {error.message}"
