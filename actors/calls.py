"""Recorded calls: what a run asks of the outside world, answered once for all of its attempts.

Owns the calls of one run: answers that are recorded, and calls that are in flight. Promises:

* a call is made only when the snapshot of its attempt, and the run with its inputs, are durable, and its answer (or
  exception) is durable before the handler gets it; in memory both are so at once;
* a call that is recorded is not made again, one in flight is joined: whoever asks gets the one answer, each a copy of its
  own; after a crash only what was in flight is made once more, under the same id;
* an attempt that is over gets no answer and makes no call; what it had asked for is recorded for the next attempt;
* nobody waits for ever: if the journal fails, or the system stops, who waits gets `OutcomeUnknown`, and the attempt ends
  in no record.

Sync calls run on the thread of their handler, async ones as tasks of their own on the loop, so that the end of an attempt
does not cancel them; the end of the run does.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pykka import ActorDeadError

from seqtor.actors.answers import Call, CallElsewhere, answered, failed, given_up, value_of_call
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.journal.decoding import error_of
from seqtor.actors.mailbox import answer
from seqtor.messages.errors import NotRunning, OutcomeUnknown, ReplayDiverged
from seqtor.messages.journal import AppendEntry, AwaitDurable
from seqtor.messages.records import CallRecord, RecordedCall

if TYPE_CHECKING:
    from seqtor.actors.completion import CompletionTransaction
    from seqtor.actors.publications import Publication
    from seqtor.actors.runs import RunContext
    from seqtor.actors.transactions import Transaction

__all__ = ["AnsweredCalls", "Calls", "ReplayedCalls", "Resumed", "current_call_id", "inside_a_call"]

TURN_S = 10.0  # How long a replayed answer waits for one that was handed out before it; only when replay diverges.
GIVING_WAY = 100  # How many steps a replayed call that was given up leaves the handler to give it up again.
ErrorT = TypeVar("ErrorT", bound=BaseException)
CALL_ID: contextvars.ContextVar[str | None] = contextvars.ContextVar("seqtor_call_id", default=None)


def current_call_id() -> str:
    """The id of the call that is being made here, inside a function that `tx.call` or `tx.acall` calls.

    The same if the call is made once more after a crash: pass it on as the idempotency key of what the function does.
    Raises LookupError outside of such a function.
    """
    call_id = CALL_ID.get()
    if call_id is None:
        raise LookupError(
            "there is no current call: current_call_id() works inside a function that tx.call or tx.acall calls"
        )
    return call_id


def inside_a_call() -> bool:
    """Whether this is executed by a function that `tx.call` or `tx.acall` calls."""
    return CALL_ID.get() is not None


class Resumed(NamedTuple):
    """What a run goes on with after a restart: the calls that were recorded, and the snapshot of its first attempt."""

    calls: tuple[RecordedCall, ...]
    first_snapshot: Publication | None


class Flight:
    """A call that is being made or recorded. `landed` is set when that is over, recorded or not.

    `cause` is the exception of the function itself and `passed` what is no answer (a cancellation), for `maker` alone.
    """

    __slots__ = ("cause", "landed", "maker", "passed", "task")

    def __init__(self, maker: Transaction, landed: ReplyFuture) -> None:
        self.maker: Transaction | None = maker
        self.landed = landed
        self.cause: Exception | None = None
        self.passed: BaseException | None = None
        self.task: asyncio.Task[None] | None = None

    def leave(self, transaction: Transaction) -> None:
        """The attempt waits no more: let go of what was for it alone."""
        if self.maker is transaction:
            self.maker = self.cause = self.passed = None


class Calls:
    """The calls of one run, shared by its attempts. Thread-safe: an attempt that is over may still be in a call."""

    __slots__ = ("_closed", "_context", "_flights", "_given_up", "_kept", "_lock", "_run_id", "_started")

    def __init__(self, context: RunContext, run_id: str, resumed: Resumed | None = None) -> None:
        self._context = context
        self._run_id = run_id
        self._kept: dict[str, RecordedCall] = {}
        for call in () if resumed is None else resumed.calls:
            self._kept.setdefault(call.id, call)  # Of two entries the first counts.
        self._flights: dict[str, Flight] = {}
        self._given_up: dict[str, RecordedCall] = {}
        self._lock = threading.Lock()
        # That the run and its inputs are durable, so that after a crash it asks the same, under the same ids.
        self._started: ReplyFuture | None = None
        if resumed is not None:
            self._started = self._reply()
            self._started.set(None)
        self._closed = False

    def answer(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        """The answer of a call: recorded, or made and recorded now. Blocks. Raises what the function raised."""
        flight: Flight | None = None
        try:
            while (kept := self._kept.get(call_id)) is None:
                flight = self._flights.get(call_id)
                if flight is not None:
                    self._wait([flight.landed], transaction, call)
                else:
                    while not self._wait(self._snapshot_durable(transaction), transaction, call, again=True):
                        pass
                    self._wait(self._start(transaction), transaction, call)
                    flight = self._make(transaction, call_id, call)
                self._require_open(transaction, call)
                _pass_on(transaction, call_id, call, flight)
            return _hand_out(transaction, call, kept, flight)
        finally:
            if flight is not None:
                flight.leave(transaction)

    async def answer_async(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        """As `answer`, of a coroutine function; on the loop. Gives way at least once, recorded or not."""
        flight: Flight | None = None
        try:
            await asyncio.sleep(0)
            while (kept := self._kept.get(call_id)) is None:
                flight = self._flights.get(call_id)
                if flight is None:
                    while not await self._until(self._snapshot_durable(transaction), transaction, call, again=True):
                        pass
                    await self._until(self._start(transaction), transaction, call)
                    flight = self._launch(transaction, call_id, call)
                    if flight is None:
                        continue
                transaction.enter_call()
                try:
                    await self._until([flight.landed], transaction, call)
                finally:
                    transaction.leave_call()
                self._require_open(transaction, call)
                _pass_on(transaction, call_id, call, flight)
            return _hand_out(transaction, call, kept, flight)
        except asyncio.CancelledError as cancelled:
            if transaction.is_live and not self._closed and (flight is None or flight.passed is not cancelled):
                self._give_up(transaction, call_id, call)
            raise
        finally:
            if flight is not None:
                flight.leave(transaction)

    def find(self, call_id: str) -> RecordedCall | None:
        """The recorded answer of a call, or that an attempt stopped waiting for it; None if there is neither."""
        return self._kept.get(call_id) or self._given_up.get(call_id)

    def taken_over(self, context: RunContext) -> Calls:
        """These, for the next run actor of the same run; made anew if the journal crashed, which may have lost answers."""
        if not self._closed and self._context.journal_restarts == context.journal_restarts:
            self._context = context
            return self
        self.close()
        anew = Calls(context, self._run_id)
        anew._kept = dict(self._kept)
        anew._given_up = dict(self._given_up)
        return anew

    def close(self) -> None:
        """The run has ended, or the system: nothing more is called or recorded, and nobody waits any more."""
        with self._lock:
            self._closed = True
            flights = list(self._flights.values())
        for flight in flights:
            if flight.task is not None:
                self._context.loop.call(partial(_cancel, flight.task))
            answer(flight.landed, None)

    # Making a call -----------------------------------------------------------------------------------------------------

    def _make(self, transaction: Transaction, call_id: str, call: Call) -> Flight | None:
        """Make a call and have it recorded, on this thread; None if another attempt was faster."""
        flight = self._take_off(transaction, call_id, call)
        if flight is None:
            return None
        try:
            kept = _called(transaction, call_id, self._made(call), flight)
            if flight.passed is None:
                self._wait(self._record(kept, *transaction.origin), transaction, call)
                self._keep(kept)
        finally:
            self._land(call_id, flight)
        return flight

    def _launch(self, transaction: Transaction, call_id: str, call: Call) -> Flight | None:
        """Have a call made and recorded by a task of its own, which outlives the attempt; None as `_make`."""
        flight = self._take_off(transaction, call_id, call)
        if flight is not None:
            coroutine = self._fly(flight, call_id, call, transaction.origin)
            flight.task = asyncio.get_running_loop().create_task(coroutine, name=call_id)
        return flight

    async def _fly(self, flight: Flight, call_id: str, call: Call, origin: tuple[float, int]) -> None:
        try:
            kept = await _called_async(call_id, self._made(call), flight)
            for reply in self._record(kept, *origin):
                await reply
            self._keep(kept)
        except Exception:  # The journal has failed, or was stopped.
            self._closed = True
        except BaseException as passed:  # A cancellation: by the end of the run, or the function's own.
            if flight.maker is not None:
                flight.passed = passed
        finally:
            self._land(call_id, flight)

    def _made(self, call: Call) -> Call:
        """The call as it is made: in a test something else may stand in for the outside."""
        instead = self._context.instead
        return call if instead is None else instead(call)

    def _take_off(self, transaction: Transaction, call_id: str, call: Call) -> Flight | None:
        """Note that the call is being made by this attempt, which is not over; None if another one makes it already."""
        self._require_open(transaction, call)
        flight = Flight(transaction, self._reply())
        with self._lock:
            if self._closed:
                raise self._lost(transaction, call)
            if call_id in self._kept or self._flights.setdefault(call_id, flight) is not flight:
                return None
        return flight

    def _record(self, kept: RecordedCall, now: float, first_snapshot: int) -> list[ReplyFuture]:
        """Have an answer journaled; not that of a run that has ended meanwhile."""
        journal = self._context.journal
        if journal is None or self._closed:
            return []
        record = CallRecord(run=self._run_id, now=now, first_snapshot=first_snapshot, call=kept)
        return [self._ask(journal, partial(AppendEntry, record=record))]

    def _keep(self, kept: RecordedCall) -> None:
        if not self._closed:
            self._kept[kept.id] = kept

    def _land(self, call_id: str, flight: Flight) -> None:
        with self._lock:
            self._flights.pop(call_id, None)
        answer(flight.landed, None)

    def _give_up(self, transaction: Transaction, call_id: str, call: Call) -> None:
        """The handler itself waits no more (a time-out of its own): so the call is cancelled, and replay is told."""
        flight = self._flights.get(call_id)
        if flight is not None and flight.task is not None:
            flight.task.cancel()
        self._given_up[call_id] = record = given_up(call_id, call)
        transaction.use(record)

    # Waiting -----------------------------------------------------------------------------------------------------------

    def _snapshot_durable(self, transaction: Transaction) -> list[ReplyFuture]:
        """What is asked about must be durable before it is asked."""
        context, count = self._context, transaction.snapshot_count
        if context.journal is None or count <= context.board.durable.count:
            return []
        return [self._ask(context.parent, partial(AwaitDurable, count=count))]

    def _start(self, transaction: Transaction) -> list[ReplyFuture]:
        """And so must the run with its inputs, which name a durable snapshot: only to be asked for when that is true."""
        journal = self._context.journal
        if journal is None:
            return []
        if self._started is None:
            now, first_snapshot = transaction.origin
            record = CallRecord(run=self._run_id, now=now, first_snapshot=first_snapshot)
            self._started = self._ask(journal, partial(AppendEntry, record=record))
        return [self._started]

    def _wait(self, awaited: list[ReplyFuture], transaction: Transaction, call: Call, *, again: bool = False) -> bool:
        """Wait for all. With `again`, False if an actor that was asked has crashed, and is there again."""
        try:
            for reply in awaited:
                if reply.driver is None:
                    reply.get()
                else:  # Other actors run on this thread meanwhile, and are not inside of this handler.
                    contextvars.Context().run(reply.get)
        except BaseException as error:
            self._judge(error, awaited, transaction, call, again=again)
            return False
        return True

    async def _until(
        self, awaited: list[ReplyFuture], transaction: Transaction, call: Call, *, again: bool = False
    ) -> bool:
        """As `_wait`."""
        try:
            for reply in awaited:
                await reply
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            self._judge(error, awaited, transaction, call, again=again)
            return False
        return True

    def _judge(
        self, error: BaseException, awaited: list[ReplyFuture], transaction: Transaction, call: Call, *, again: bool
    ) -> None:
        """Raise what an answer that did not come means."""
        if not all(reply.is_set() for reply in awaited):
            raise error  # This thread's own.
        if not again or isinstance(error, (ActorDeadError, NotRunning, OutcomeUnknown)):
            raise self._lost(transaction, call) from None
        transaction.check()

    def _require_open(self, transaction: Transaction, call: Call) -> None:
        """Raise if the attempt is over, or the run will not end any more."""
        transaction.check()
        if self._closed:
            raise self._lost(transaction, call)

    def _lost(self, transaction: Transaction, call: Call) -> OutcomeUnknown:
        self._closed = True
        transaction.lose()
        return OutcomeUnknown(
            f"{call.name}, called at {transaction.place}, has no recorded answer: the journal failed, or the system was "
            "stopped. Nothing of this run is written; after a restart it is executed again, and a call that was in flight "
            "is made once more, under the same id"
        )

    def _ask(self, mailbox: Any, question: Callable[..., Any]) -> ReplyFuture:
        reply = self._reply()
        mailbox.tell(question(reply_to=reply))
        return reply

    def _reply(self) -> ReplyFuture:
        reply = ReplyFuture()
        reply.driver = self._context.pool.driver
        return reply


class AnsweredCalls:
    """The calls of a completion run that has its seq: the recorded answers, and nothing is called or waited for.

    Another question ends the attempt (`CompletionTransaction.need`). Shares its answers with the attempts outside.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def answer(self, transaction: CompletionTransaction, call_id: str, call: Call) -> Any:
        """The recorded answer; else raises what ends the attempt."""
        kept = self._calls.find(call_id)
        if kept is None:
            transaction.need(call.name)
            raise AssertionError  # Not reached: `need` raises.
        return _hand_out(transaction, call, kept, None)

    async def answer_async(self, transaction: CompletionTransaction, call_id: str, call: Call) -> Any:
        """As `answer`; of a call that the handler gave up before, it may do so again."""
        kept = self._calls.find(call_id)
        await asyncio.sleep(0)
        if kept is not None and kept == given_up(call_id, call):
            try:
                for _ in range(GIVING_WAY):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                if transaction.is_live:
                    transaction.use(kept)
                raise
        return self.answer(transaction, call_id, call)

    def taken_over(self, context: RunContext) -> Calls:
        """Those that they are the answers of, for the next run actor of the same run."""
        return self._calls.taken_over(context)


class ReplayedCalls:
    """The calls of a run that is executed again: answered from its record, none is made.

    Answers are handed out in the order of the record, so that a handler which asks several at a time gets them as it did.
    """

    def __init__(self, kept: Sequence[RecordedCall]) -> None:
        self._kept = {call.id: call for call in kept}
        self._order = {call.id: place for place, call in enumerate(kept)}
        self._handed_out = 0
        self._turns: dict[int, asyncio.Future[None]] = {}

    def answer(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        """The recorded answer. Raises what the function raised, ReplayDiverged if there is none."""
        kept = self._recorded(transaction, call_id, call)
        self._next(call_id)
        return _hand_out(transaction, call, kept, None)

    async def answer_async(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        """As `answer`, when everything that was handed out before it has been."""
        kept = self._recorded(transaction, call_id, call)
        try:
            await self._turn(call_id)
            if kept == given_up(call_id, call):
                for _ in range(GIVING_WAY):
                    await asyncio.sleep(0)
        except asyncio.CancelledError:  # By the handler, as when it was recorded.
            if transaction.is_live:
                transaction.use(given_up(call_id, call))
            raise
        finally:
            self._next(call_id)
        return _hand_out(transaction, call, kept, None)

    async def _turn(self, call_id: str) -> None:
        await asyncio.sleep(0)
        place = self._order[call_id]
        if place > self._handed_out:
            turn = self._turns[place] = asyncio.get_running_loop().create_future()
            await asyncio.wait([turn], timeout=TURN_S)  # `wait_for` may swallow a cancellation.

    def close(self) -> None:
        """Nothing is in flight."""

    def taken_over(self, _: RunContext) -> ReplayedCalls:
        """These."""
        return self

    def _recorded(self, transaction: Transaction, call_id: str, call: Call) -> RecordedCall:
        kept = self._kept.get(call_id)
        if kept is None:
            seq, name = transaction.seq, transaction.trigger_name
            raise ReplayDiverged(
                f"seq {seq}: {name} called {call.name} in a way that is not recorded ({call_id}): with other arguments, or "
                "more often",
                seq,
                name,
                expected=", ".join(self._kept) or "no call",
                found=call_id,
            )
        return kept

    def _next(self, call_id: str) -> None:
        self._handed_out = max(self._handed_out, self._order[call_id] + 1)
        for place in [place for place in self._turns if place <= self._handed_out]:
            turn = self._turns.pop(place)
            if not turn.done():
                turn.set_result(None)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _called(transaction: Transaction, call_id: str, call: Call, flight: Flight) -> RecordedCall:
    """Call the function, and return what is to be recorded of it."""
    token = CALL_ID.set(call_id)
    transaction.enter_call()
    try:
        answer = call.function(*call.arguments, **call.keywords)
        return answer if isinstance(call, CallElsewhere) else answered(call_id, call, answer)
    except Exception as error:
        flight.cause = _without_own_frame(error)
        return failed(call_id, call, error)
    except BaseException as passed:
        flight.passed = _without_own_frame(passed)
        return failed(call_id, call, passed)
    finally:
        transaction.leave_call()
        CALL_ID.reset(token)


async def _called_async(call_id: str, call: Call, flight: Flight) -> RecordedCall:
    """As `_called`, in a task of its own."""
    CALL_ID.set(call_id)
    try:
        answer = call.function(*call.arguments, **call.keywords)
        return answered(call_id, call, await answer if inspect.isawaitable(answer) else answer)
    except Exception as error:
        if flight.maker is not None:
            flight.cause = _without_own_frame(error)
        return failed(call_id, call, error)


def _pass_on(transaction: Transaction, call_id: str, call: Call, flight: Flight | None) -> None:
    """Raise what is no answer in the attempt that made the call; its record has it, for replay. Others call again."""
    if flight is not None and flight.maker is transaction and flight.passed is not None:
        transaction.use(failed(call_id, call, flight.passed))
        raise flight.passed


def _hand_out(transaction: Transaction, call: Call, kept: RecordedCall, flight: Flight | None) -> Any:
    """Give the handler the answer, or raise the exception; its cause, if this attempt is the one that made the call."""
    transaction.use(kept)  # Raises if the attempt is over.
    if isinstance(call, CallElsewhere):
        return kept
    if kept.error is None:
        return value_of_call(kept, call)
    error = error_of(kept.error)
    if flight is not None and flight.maker is transaction:
        error.__cause__ = flight.cause
        flight.cause = None  # Before it is raised: the frames of the cause lead to the flight.
    try:
        raise error
    finally:
        del error  # Its traceback leads back to this frame.


def _without_own_frame(error: ErrorT) -> ErrorT:
    """Cut the frame of this module off the traceback."""
    return error if error.__traceback__ is None else error.with_traceback(error.__traceback__.tb_next)
