"""Run actors: one per run; each executes its trigger's handler until the committer is content.

Owns the execution of an attempt: snapshot, handler, intent. Promises: exactly one intent per attempt reaches the
committer's order (a deadline's counts, the late answer is refused); the handler runs on the actor's dispatcher and nowhere
else; a run that has ended leaves nothing for the cycle collector.

The life of a run actor is leaner than that of other actors, because there is one per trigger: no uuid, no Event, no
entry in pykka's registry (the coordinator holds it), and its first message is there when it is created.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import pykka

from seqtor.actors.answers import Call
from seqtor.actors.async_reads import AsyncReads
from seqtor.actors.base import Actor, Ref
from seqtor.actors.calls import Calls, ReplayedCalls, Resumed
from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import (
    AttemptDispatcher,
    Cancellable,
    LoopDispatcher,
    OutsideDispatcher,
    PoolDispatcher,
)
from seqtor.actors.footprints import violation
from seqtor.actors.handlers import PLAIN, require_serialisable
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.outbox import Outbox
from seqtor.actors.publications import Board, Publication
from seqtor.actors.resources import ResourceRef, Resources
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Submission
from seqtor.actors.transactions import CURRENT, AttemptAbandoned, AttemptState, Transaction
from seqtor.messages.commits import CommitRun
from seqtor.messages.errors import DeadlineExceeded, Rejected, SeqtorError
from seqtor.messages.runs import ExecuteRun, RunConflicted, State
from seqtor.messages.stores import CommitIntent, StoreAccess

if TYPE_CHECKING:
    from seqtor.actors.processes.crew import Crew

__all__ = ["AsyncRun", "Run", "RunContext", "SyncRun"]

EXECUTE_FIRST = ExecuteRun(attempt=1)
ValueT = TypeVar("ValueT")


class RunContext:
    """What all runs of one system share."""

    __slots__ = ("async_reads", "board", "clock", "committer", "crew", "instead", "journal", "journal_restarts", "loop",
                 "make_outbox", "outside", "parent", "pool", "resources", "sequencer", "stores")  # fmt: skip

    def __init__(
        self,
        *,
        board: Board,
        clock: Clock,
        committer: Mailbox,
        pool: PoolDispatcher,
        loop: LoopDispatcher,
        stores: tuple[StoreRef[Any], ...],
        async_reads: AsyncReads,
        make_outbox: Callable[[Submission[Any]], Outbox],
        resources: Resources | None = None,
        outside: OutsideDispatcher | None = None,
    ) -> None:
        self.outside = outside
        self.sequencer: Mailbox | None = None
        self.resources = resources
        self.make_outbox = make_outbox
        self.board = board
        self.clock = clock
        self.committer = committer
        self.parent: Mailbox | None = None
        self.crew: Crew | None = None  # The worker processes; None if no handler executes in them.
        self.journal: Mailbox | None = None  # None in memory, where everything is durable at once.
        self.journal_restarts = 0
        self.instead: Callable[[Call], Call] | None = None  # What is called in place of what a handler asks for.
        self.pool = pool
        self.loop = loop
        self.stores = stores
        self.async_reads = async_reads


class Run(Actor):
    """One run: its seq, its trigger, and the attempt that it executes."""

    receives: ClassVar[tuple[type, ...]] = (ExecuteRun, RunConflicted)
    batch_max = 1
    transaction_class: ClassVar[type[Transaction]] = Transaction
    actor_inbox: Mailbox  # type: ignore[assignment]
    _dispatcher: AttemptDispatcher
    first_snapshot: Publication | None = None
    begun = False  # Whether it was told to begin, if it has to be told.
    _resumed: Resumed | None = None
    _calls: Calls | ReplayedCalls | None = None
    _stopped_event: threading.Event | None = None

    def __init__(self, context: RunContext, dispatcher: AttemptDispatcher, submission: Submission[Any]) -> None:
        # Not pykka's __init__: see the module's docstring. What it would set is made when somebody asks for it.
        self.context = context
        self._dispatcher = dispatcher
        self._parent = context.parent
        self.seq: int = submission.seq  # type: ignore[assignment]
        self.submission: Submission[Any] = submission
        self.attempt = 0
        self.actor_inbox = mailbox = Mailbox()
        mailbox.rank = self.seq

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        return f"urn:seqtor:run:{self.submission.id}"

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        if self._stopped_event is None:
            self._stopped_event = threading.Event()
        return self._stopped_event

    @property
    def _actor_ref(self) -> pykka.ActorRef[Any]:  # type: ignore[override]
        return Ref(self)

    @property
    def async_reads(self) -> AsyncReads | None:
        """Where this run's reads are watched for push invalidation; None if it notices by itself."""
        return None

    def prepare(self, attempt: int = 1) -> Mailbox:
        """Queue the first message, to execute `attempt`; whoever made the run schedules the mailbox."""
        first = EXECUTE_FIRST if attempt == 1 else ExecuteRun(attempt=attempt)
        self.actor_inbox.prepare(self, self._dispatcher, first)
        return self.actor_inbox

    def on_execute_run(self, message: ExecuteRun) -> None:
        self._execute(message.attempt)

    def on_run_conflicted(self, message: RunConflicted) -> None:
        if message.attempt == self.attempt + 1:
            self._execute(message.attempt)

    def on_expired(self, transaction: Transaction, accesses: tuple[StoreAccess, ...]) -> None:
        """The deadline of an attempt has passed: send its intent in its place. Called from the watch's thread."""
        deadline_s = self.submission.handler.deadline_s
        error = DeadlineExceeded(
            f"{self.submission.handler.name} {self.place} ran longer than its deadline of {deadline_s:g} s in "
            f"attempt {transaction.attempt}; nothing was written. Give the handler a longer deadline=, or make it faster"
        )
        self._send(transaction, accesses, State.DEADLINE, None, error, deadline_s)

    @property
    def place(self) -> str:
        """Where it is in the order, for what people read."""
        return f"at seq {self.seq}"

    def resource(self, ref: ResourceRef[ValueT]) -> ValueT:
        """What a resource opened, here if this is its first use. Called by the handler."""
        if self.context.resources is None:
            raise SeqtorError(f"the resource {ref.name!r} cannot be opened here: no system runs")
        place: Any = self._dispatcher
        return self.context.resources.get(ref, place, is_async=self.submission.handler.is_async)

    @property
    def calls(self) -> Calls | ReplayedCalls:
        """The recorded calls of this run, made when they are first asked for."""
        found = self._calls
        if found is None:  # Atomic: a hanging attempt and the coordinator, which replaces its run, may both come here.
            found = vars(self).setdefault("_calls", Calls(self.context, self.submission.id, self._resumed))
        return found

    def resume(self, resumed: Resumed) -> None:
        """Go on where the run was before a restart, with its calls and its first snapshot; before the first attempt."""
        self._resumed = resumed

    def replace(self, stuck: Run) -> None:
        """Take over from a run actor that hangs or has crashed: what its first attempt saw, and the calls."""
        self.first_snapshot = stuck.first_snapshot
        self._resumed = stuck._resumed
        self._calls = stuck.calls.taken_over(self.context)

    def close_calls(self) -> None:
        """The run has ended: let nobody wait for a call any more."""
        if self._calls is not None:
            self._calls.close()

    def release(self) -> None:
        """Let go of the submission and the snapshot; the coordinator calls this when the run has ended with an error.

        The error's traceback holds the frames of the handler, those hold the frames that called it, and those this run:
        through the submission, which holds the error, that would be a reference cycle.
        """
        self.submission = cast("Any", None)
        self.first_snapshot = None
        self._resumed = None

    def cancel(self) -> None:
        """Cancel the coroutine of an attempt that is over, if there is one."""

    def _execute(self, attempt: int) -> None:
        raise NotImplementedError

    def _open(self, attempt: int) -> Transaction:
        self.attempt = attempt
        board = self.context.board
        transaction = self.transaction_class(self, attempt, board.newest)
        if self.first_snapshot is None:
            resumed = self._resumed
            self.first_snapshot = (resumed and resumed.first_snapshot) or transaction._snapshot
            board.executing[self.seq] = transaction
        return transaction

    def _close(
        self, transaction: Transaction, outcome: State, result: Any, error: BaseException | None, handler_s: float
    ) -> None:
        """Turn what the handler did into the intent of this attempt."""
        if outcome is not State.COMMITTED:
            result = None
        if transaction.end(AttemptState.ENDED):
            if outcome is State.RUNNING:  # It was not abandoned itself: executed again, it would do the same for ever.
                outcome, error = State.FAILED, SeqtorError("the handler used the transaction of another attempt")
            accesses = transaction.seal()
            footprint = self.submission.footprint
            if footprint is not None and outcome is State.COMMITTED:
                error = violation(footprint, accesses, self.context.stores, self.submission.handler.name)
                if error is not None:
                    outcome, result = State.FAILED, None
            self._send(transaction, accesses, outcome, result, error, handler_s)
        elif transaction.state is AttemptState.ABANDONED:  # An expired attempt's intent was sent, a lost one has none.
            self._send(transaction, transaction.seal(), State.RUNNING, None, None, handler_s)
        transaction.forget()

    def _settle(self, transaction: Transaction, result: Any) -> Any:
        """The result as it is answered. It may run the user's code (serialisers), so it is part of the handler's time."""
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError("the handler returned a coroutine instead of its result: declare it with async def")
        returned = [result] if isinstance(result, CommitIntent) else result
        if isinstance(returned, (list, tuple)):
            intents = [part for part in returned if isinstance(part, CommitIntent)]
            if intents:
                if len(intents) < len(returned):
                    raise TypeError(
                        "the handler returned CommitIntents among other values: return nothing but the intents"
                    )
                transaction.adopt(intents)
                return None
        require_serialisable(result, f"the result of {self.submission.handler.name}")
        return result

    def _send(
        self, transaction: Transaction, accesses: tuple[StoreAccess, ...], outcome: State, result: Any,
        error: BaseException | None, handler_s: float,
    ) -> None:  # fmt: skip
        context, submission = self.context, self.submission
        first_snapshot: Publication = self.first_snapshot  # type: ignore[assignment]  # Set when the attempt was opened.
        intent = (
            self.actor_inbox, submission, self.seq, transaction.attempt, context.board.epoch,
            transaction._snapshot.seq, first_snapshot.seq, outcome, accesses, transaction.released,
            result, error, handler_s, submission.handler.deadline_s, transaction._snapshot.ahead,
        )  # fmt: skip
        # Past the named tuple's own constructor: one for every attempt, at half the price.
        context.committer.put(tuple.__new__(CommitRun, intent))


class SyncRun(Run):
    """A run whose handler is a plain function: executes on `pool`."""

    def _execute(self, attempt: int) -> None:
        context, submission = self.context, self.submission
        transaction = self._open(attempt)
        result: Any = None
        error: BaseException | None = None
        outcome = State.COMMITTED
        place = self._dispatcher
        place.enter_handler(transaction, submission.handler.deadline_s)
        token = CURRENT.set(transaction)
        clock = context.clock
        started = clock.monotonic()
        try:
            result = submission.handler.function(submission.trigger, transaction)
            if type(result) not in PLAIN:
                result = self._settle(transaction, result)
        except AttemptAbandoned:
            outcome = State.RUNNING
        except Rejected as rejection:
            outcome, error = State.REJECTED, _without_own_frame(rejection)
        except BaseException as failure:
            outcome, error = State.FAILED, _without_own_frame(failure)
        handler_s = clock.monotonic() - started
        CURRENT.reset(token)
        place.leave_handler()
        self._close(transaction, outcome, result, error, handler_s)
        del submission, error  # The traceback of the error leads back to this frame.


class AsyncRun(Run):
    """A run whose handler is a coroutine function: executes on `loop`, as one of its tasks."""

    _task: Cancellable | None = None

    @property
    def async_reads(self) -> AsyncReads:
        return self.context.async_reads

    def _execute(self, attempt: int) -> None:
        transaction = self._open(attempt)
        coroutine = self._attempt(transaction)
        self._task = self.context.loop.start_coroutine(coroutine, transaction, self.submission.handler.deadline_s)

    async def _attempt(self, transaction: Transaction) -> None:
        submission = self.submission
        result: Any = None
        error: BaseException | None = None
        outcome = State.COMMITTED
        CURRENT.set(transaction)
        clock = self.context.clock
        started = clock.monotonic()
        try:
            result = await submission.handler.function(submission.trigger, transaction)
            if type(result) not in PLAIN:
                result = self._settle(transaction, result)
        except AttemptAbandoned:
            outcome = State.RUNNING
        except Rejected as rejection:
            outcome, error = State.REJECTED, _without_own_frame(rejection)
        except asyncio.CancelledError as cancelled:
            # Ours if the attempt is over already (its intent then says so); else the handler cancelled itself.
            outcome, error = State.FAILED, _without_own_frame(cancelled)
        except BaseException as failure:
            outcome, error = State.FAILED, _without_own_frame(failure)
        self._task = None
        self.context.async_reads.discard(transaction)
        self._close(transaction, outcome, result, error, clock.monotonic() - started)
        del submission, error  # The traceback of the error leads back to this frame.

    def on_expired(self, transaction: Transaction, accesses: tuple[StoreAccess, ...]) -> None:
        super().on_expired(transaction, accesses)
        if self._task is not None:
            self.context.loop.call(self._task.cancel)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _without_own_frame(error: BaseException) -> BaseException:
    """Cut the frame of this module off the traceback: it holds the error, which would be a reference cycle."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error


def _without_frames(error: BaseException) -> BaseException:
    """Cut all frames off: they are this package's own, and hold the error."""
    cut: BaseException | None = error
    while cut is not None:
        cut.__traceback__ = None
        cut = cut.__cause__ or cut.__context__
    return error
