"""Runs with `sequence="completion"`: executed first, numbered when they have finished.

Owns what differs from a run of arrival: outside of the order it reads a pinned snapshot, which holds no publication after
it, and nothing abandons it because its reads have changed; once it has a seq it executes again from its recorded calls
alone, and an attempt that asks for another answer ends as `deferred`. `messages/completion.py` has the life of such a run.
Promises: what the handler sees of its inputs (`now`, `random`, ids, `peek`, answers) is the same in every attempt, outside
or not, and in replay; `tx.seq` is None in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from seqtor.actors.async_reads import AsyncReads
from seqtor.actors.calls import AnsweredCalls, ReplayedCalls
from seqtor.actors.publications import Publication
from seqtor.actors.runs import AsyncRun, Run, RunContext, SyncRun
from seqtor.actors.transactions import AttemptAbandoned, AttemptState, Transaction
from seqtor.messages.commits import CommitRun
from seqtor.messages.completion import SequenceRun
from seqtor.messages.errors import RunDeferred
from seqtor.messages.runs import State
from seqtor.messages.stores import StoreAccess

if TYPE_CHECKING:
    from seqtor.actors.dispatchers.contract import AttemptDispatcher
    from seqtor.actors.stores.contract import StoreRef
    from seqtor.actors.submissions import Submission

__all__ = ["CompletionAsyncRun", "CompletionRun", "CompletionSyncRun", "CompletionTransaction", "Pinned", "pin"]

BEHIND_ALL = math.inf  # The rank of what has no seq.


class Pinned(Publication):
    """A copy of a publication that is linked to no other: whoever holds it holds nothing that was published since.

    `written` is what was written between it and the start of this process, of one that an earlier process has read.
    """

    __slots__ = ("written",)

    written: Mapping[int, Collection[str]]


def pin(publication: Publication) -> Pinned:
    """A copy to hold on to."""
    pinned = Pinned(
        publication.index, publication.seq, publication.states, {}, publication.ahead, publication.newest, (),
        publication.ahead_last, publication.writers,
    )  # fmt: skip
    # Only one from before this process has a successor that stands for all that was written up to the start.
    older = publication.index < 0 and publication.next is not None
    pinned.written = publication.next.writes if older else {}  # type: ignore[union-attr]
    return pinned


class CompletionTransaction(Transaction):
    """One attempt of a completion run; `needs` is the call for which it has no answer, and must not make one."""

    __slots__ = ("needs",)

    def __init__(self, run: CompletionRun, attempt: int, snapshot: Publication) -> None:
        super().__init__(run, attempt, snapshot)
        self.seq = None  # type: ignore[assignment]  # The same in all attempts: the first ones have none.
        self.needs: str | None = None

    @property
    def place(self) -> str:
        return f"run {self._owner.submission.id}" if self._owner is not None else "a completion run"

    @property
    def rank(self) -> float:
        return BEHIND_ALL if self._owner is None else self._owner.actor_inbox.rank

    def changed(self, store: StoreRef[Any], key: str) -> bool:
        access = self._access(store)
        first = self._first_snapshot
        if type(first) is not Pinned or store.spec.part(first.states[store.index], key) is not NotImplemented:
            return super().changed(store, key)
        access.read(key)
        if self._snapshot is first:
            return False
        if key in first.written.get(store.index, ()):
            return True
        run: Any = self._run
        last_writers = run.context.board.last_writers
        assert last_writers is not None  # There are handlers of this kind, and a store like this.
        writer = last_writers.of(store.index, key)
        # Not for what has overtaken this one: that is not to be seen, and may hide what is.
        if self._snapshot.seq < writer < self.rank and not run.is_outside:
            self._abandon()  # Written since this attempt began, so what it has just read is stale; outside it may be.
        return bool(writer > first.seq)

    def need(self, name: str) -> None:
        """End the attempt, because it asks for an answer that is not recorded; raises."""
        self.check()
        self.needs = name
        self.end(AttemptState.DEFERRED)
        raise AttemptAbandoned(f"{self.place} needs the answer of {name}, which is not recorded")


class CompletionRun(Run):
    """What plain handlers and coroutine functions have in common."""

    transaction_class = CompletionTransaction
    pinned: Pinned | None = None  # What the attempt outside reads.
    transaction: Transaction | None = None  # The newest attempt.
    crashes = 0  # How often its run actor crashed outside.

    def __init__(
        self, context: RunContext, dispatcher: AttemptDispatcher, submission: Submission[Any], *, outside: bool
    ) -> None:
        super().__init__(context, dispatcher, submission)
        if outside:
            self.seq = None  # type: ignore[assignment]
            self.actor_inbox.rank = BEHIND_ALL

    @property
    def is_outside(self) -> bool:
        """Whether the run has no seq (any more)."""
        return self.seq is None

    def sequence(self, seq: int) -> None:
        """From here on it is the run at `seq`."""
        self.seq = seq
        self.actor_inbox.rank = seq

    @property
    def place(self) -> str:
        return f"in run {self.submission.id}" if self.is_outside else super().place

    @property
    def calls(self) -> Any:
        calls = super().calls
        # In replay there are no others than those of the record.
        return calls if self.is_outside or isinstance(calls, ReplayedCalls) else AnsweredCalls(calls)

    def replace(self, stuck: Run) -> None:
        super().replace(stuck)
        if isinstance(stuck, CompletionRun):
            self.crashes = stuck.crashes

    def abandon(self) -> None:
        """Let what executes do nothing more: the run has ended, or another actor takes its place."""
        self.actor_inbox.close("was abandoned")

    def release(self) -> None:
        super().release()
        self.pinned = self.transaction = None

    def _open(self, attempt: int) -> Transaction:
        if not self.is_outside:
            self.transaction = super()._open(attempt)
            return self.transaction
        self.attempt = attempt
        self.pinned = pinned = pin(self.context.board.newest)
        if self.first_snapshot is None:
            resumed = self._resumed
            before = None if resumed is None else resumed.first_snapshot
            self.first_snapshot = pinned if before is None else pin(before)
            if resumed is not None:
                self._resumed = resumed._replace(first_snapshot=self.first_snapshot)
        self.transaction = CompletionTransaction(self, attempt, pinned)
        return self.transaction

    def _close(
        self, transaction: Transaction, outcome: State, result: Any, error: BaseException | None, handler_s: float
    ) -> None:
        if transaction.state is AttemptState.DEFERRED:  # Whatever the handler has made of the exception.
            needs = transaction.needs  # type: ignore[attr-defined]
            why = RunDeferred(
                f"{self.submission.handler.name} was executed again with its seq and asks for the answer of {needs}, which "
                "is not recorded: the run goes on outside of the order, and comes back with a new seq"
            )
            self._send(transaction, transaction.seal(), State.DEFERRED, None, why, handler_s)
            transaction.forget()
        else:
            super()._close(transaction, outcome, result, error, handler_s)

    def _send(
        self, transaction: Transaction, accesses: tuple[StoreAccess, ...], outcome: State, result: Any,
        error: BaseException | None, handler_s: float,
    ) -> None:  # fmt: skip
        if not self.is_outside:
            super()._send(transaction, accesses, outcome, result, error, handler_s)
            return
        context, submission = self.context, self.submission
        first_snapshot: Publication = self.first_snapshot  # type: ignore[assignment]  # Set when the attempt was opened.
        intent = CommitRun(
            run=self.actor_inbox, submission=submission, seq=0, attempt=transaction.attempt, epoch=context.board.epoch,
            snapshot_seq=transaction._snapshot.seq, first_snapshot_seq=first_snapshot.seq, outcome=outcome,
            accesses=accesses, released=transaction.released, result=result, error=error, handler_s=handler_s,
            deadline_s=submission.handler.deadline_s, seen=transaction._snapshot.ahead,
        )  # fmt: skip
        assert context.sequencer is not None
        context.sequencer.put(SequenceRun(intent=intent))


class CompletionSyncRun(CompletionRun, SyncRun):
    """A plain function; on a thread of its own."""

    def abandon(self) -> None:
        super().abandon()
        if self.transaction is not None:
            dispatcher: Any = self._dispatcher
            dispatcher.abandon_attempt(self.transaction)


class CompletionAsyncRun(CompletionRun, AsyncRun):
    """A coroutine function; on the loop."""

    @property
    def async_reads(self) -> AsyncReads:
        # Outside nothing abandons it.
        return None if self.is_outside else self.context.async_reads  # type: ignore[return-value]

    def abandon(self) -> None:
        super().abandon()
        if self.transaction is not None:
            self.transaction.abandon()
        self.context.loop.call(self.cancel)


def make_completion_run(context: RunContext, submission: Submission[Any], *, outside: bool) -> CompletionRun:
    """The run actor of a submission whose handler has `sequence="completion"`."""
    if submission.handler.is_async:
        return CompletionAsyncRun(context, context.loop, submission, outside=outside)
    assert context.outside is not None
    return CompletionSyncRun(context, context.outside, submission, outside=outside)
