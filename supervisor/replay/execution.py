"""Executes a recorded run again: the same handler, on the state as of its place in the order, with its recorded inputs.

Owns the surroundings of a run outside of any running system. Promises: the run is the runtime's own (`SyncRun`,
`AsyncRun`), only what is around it is recorded: one snapshot that nothing ever changes, a clock that stands still, a
committer that keeps the intent; what the intent comes to is decided by the same functions as in a running system.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from seqtor.actors.answers import Call
from seqtor.actors.calls import ReplayedCalls
from seqtor.actors.committer.judge import resolve_all
from seqtor.actors.completion import make_completion_run
from seqtor.actors.effects import EffectFunctions
from seqtor.actors.footprints import declare
from seqtor.actors.handlers import Handler
from seqtor.actors.journal.encoding import error_record
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.outbox import Outbox, Prepare
from seqtor.actors.publications import NOTHING_AHEAD, Publication
from seqtor.actors.resources import ResourceRef, Resources
from seqtor.actors.runs import AsyncRun, Run, RunContext, SyncRun
from seqtor.actors.stores.contract import StoreActor, StoreRef
from seqtor.actors.stores.deriving import Sources
from seqtor.actors.submissions import Intake, Origin, RetryOf, Submission
from seqtor.actors.transactions import Transaction
from seqtor.messages.commits import CommitRun, EndedRun
from seqtor.messages.errors import Rejected, ReplayDiverged, StoreUnavailable
from seqtor.messages.records import CommitRecord, RecordedCall, RecordedError
from seqtor.messages.runs import AttemptConflict, State
from seqtor.messages.stores import Commit, StoreAccess
from seqtor.replay.comparison import same_error

__all__ = ["Execution", "Program", "RecordedRun", "Surroundings"]

STORE_CRASHES_MAX = 3


class Program(NamedTuple):
    """What a system has registered. `handler_named` raises RegistrationError for a trigger type that is gone."""

    stores: tuple[StoreRef[Any], ...]
    handler_named: Callable[[str], Handler]
    upcasts: Upcasts
    effects: EffectFunctions
    resources: tuple[ResourceRef[Any], ...]
    prepare: Prepare
    intake: Intake


class Earlier(Protocol):
    """What was before a run, for the few handlers that ask. Callable from any thread."""

    def at(self, seq: int) -> tuple[Any, ...]:
        """The states after a seq."""
        ...

    def written(self, after: int, through: int) -> Mapping[int, Any]:
        """The keys that the seqs after+1..through wrote, by store."""
        ...


class RecordedRun(NamedTuple):
    """One run to execute again, on the states as of seq - 1."""

    record: CommitRecord
    handler: Handler
    states: tuple[Any, ...]
    earlier: Earlier


class FirstSnapshot(Publication):
    """What the first attempt read; looked for when the handler asks, because few do and it may be long ago."""

    __slots__ = ("_states_at",)

    def __init__(self, seq: int, states_at: Callable[[int], tuple[Any, ...]]) -> None:
        self._states_at = states_at
        self.index = -1
        self.seq = seq
        self.writes = {}
        self.ahead = NOTHING_AHEAD
        self.overtakers = ()
        self.next = None

    @property
    def states(self) -> tuple[Any, ...]:  # type: ignore[override]
        return self._states_at(self.seq)


class LastSnapshot(Publication):
    """What the recorded attempt read, by its values those as of seq - 1."""

    __slots__ = ("_writes_since",)

    def __init__(self, seq: int, states: tuple[Any, ...], writes_since: Callable[[], Mapping[int, Any]]) -> None:
        self._writes_since = writes_since
        self.index = 0
        self.seq = seq
        self.states = self.newest = states
        self.ahead = NOTHING_AHEAD
        self.overtakers = ()
        self.next = None

    @property
    def writes(self) -> Mapping[int, Any]:  # type: ignore[override]
        return self._writes_since()


class NotedCalls(ReplayedCalls):
    """Answers of calls from the record; remembers if one was asked for that is not there."""

    diverged: ReplayDiverged | None = None

    def _recorded(self, transaction: Transaction, call_id: str, call: Call) -> RecordedCall:
        try:
            return super()._recorded(transaction, call_id, call)
        except ReplayDiverged as missing:
            self.diverged = self.diverged or missing
            raise


class HastyLoop(asyncio.SelectorEventLoop):
    """A loop on which time passes at once when nothing else can happen; its timers fire in their order."""

    def __init__(self) -> None:
        self.skipped_s = 0.0
        super().__init__(HastySelector(self))

    def time(self) -> float:
        return super().time() + self.skipped_s


class HastySelector(selectors.DefaultSelector):
    """Waits for others, never for time."""

    def __init__(self, loop: HastyLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select()
        found = super().select(0)
        if not found:
            self._loop.skipped_s += max(timeout, 0.0)
        return found


class Surroundings:
    """What a run expects around it, for one thread: board, clock, committer, pool and loop in one. Close it there."""

    epoch = 1
    driver = None
    newest: Publication
    intent: CommitRun

    def __init__(self, program: Program) -> None:
        self.executing: dict[int, Any] = {}
        self._thread = threading.get_ident()
        self._runner: asyncio.Runner | None = None
        # The handlers of a simulated system wait in virtual time, here too; elsewhere one may wait for a thread of its own.
        self._make_loop = None if program.intake.driver is None else HastyLoop
        whatever: Any = self
        self.resources = Resources(program.resources, whatever)
        self.context = RunContext(
            board=whatever,
            clock=whatever,
            committer=whatever,
            pool=whatever,
            loop=whatever,
            stores=program.stores,
            async_reads=whatever,
            make_outbox=lambda submission: Outbox(submission, program.prepare, program.effects),
            resources=self.resources,
            outside=whatever,
        )

    # The clock.

    def time(self) -> float:
        return 0.0

    monotonic = time

    # The committer.

    def put(self, intent: CommitRun) -> None:
        """Keep the intent."""
        self.intent = intent

    # The pool, and the watch over reads: no deadline, and nothing changes.

    def enter_handler(self, attempt: Any, deadline_s: float) -> None:
        """No deadline: that an attempt took too long is a record, not a measurement."""

    def leave_handler(self) -> bool:
        return True

    def add(self, store: int, key: str | None, transaction: Any) -> None:
        """Nothing to watch for."""

    def discard(self, transaction: Any) -> None:
        """Nothing was watched."""

    # The loop.

    def start_coroutine(self, coroutine: Coroutine[Any, Any, None], attempt: Any, deadline_s: float) -> None:
        """Run the attempt to its end, here and now."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=self._make_loop)
        self._runner.run(coroutine, context=contextvars.copy_context())

    # Where resources are closed.

    def call(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, while it runs."""
        assert self._runner is not None  # Only what was opened on the loop is closed there.
        self._runner.get_loop().call_soon_threadsafe(callback)

    def ready(self, mailbox: Mailbox) -> None:
        """Run the mailbox on this thread."""
        if threading.get_ident() == self._thread:
            mailbox.run()
        else:
            self.call(mailbox.run)

    def dead_letter(self, letter: Any) -> None:
        """Nothing is sent that could become one."""

    def close(self) -> None:
        """Close the resources that handlers have opened, and cancel what they left on the loop."""
        if self._runner is None:
            self.resources.close()
        else:
            with self._runner as runner:
                runner.run(asyncio.to_thread(self.resources.close))


class Execution:
    """Executes runs of one program again. Thread-safe; each thread brings its surroundings."""

    def __init__(self, program: Program, build: Callable[[StoreRef[Any]], StoreActor[Any, Any]]) -> None:
        self.program = program
        self._build = build
        self._sources = Sources(program.stores)
        self._behaviours: dict[int, StoreActor[Any, Any]] = {}
        self._validating = threading.Lock()  # A store is promised that it is called by one thread at a time.

    def again(self, run: RecordedRun, around: Surroundings) -> EndedRun:
        """Execute and judge; returns how the run ends now.

        Raises ReplayDiverged for a call that is not recorded, RegistrationError if the trigger does not fit its type any
        more, StoreUnavailable from a store.
        """
        record, submission = run.record, self._submission(run)
        since, before = record.first_snapshot, record.seq - 1
        around.newest = LastSnapshot(record.snapshot, run.states, lambda: run.earlier.written(since, before))
        actor: Run
        if run.handler.by_completion:
            actor = make_completion_run(around.context, submission, outside=False)
        else:
            kind = AsyncRun if run.handler.is_async else SyncRun
            actor = kind(around.context, around.context.pool, submission)
        first = FirstSnapshot(since, run.earlier.at)
        first.next = around.newest
        actor.first_snapshot = first
        actor._calls = calls = NotedCalls(record.calls)
        actor._execute(record.attempt)
        intent = around.intent
        del around.intent, around.newest
        if calls.diverged is not None:  # Whatever the handler has made of it.
            raise calls.diverged
        state, result, error = intent.outcome, intent.result, intent.error
        writes: tuple[tuple[int, Any], ...] = ()
        if state is State.COMMITTED:
            state, error, resolved = self.judge(intent, run.states, record.error)
            if state is State.COMMITTED:
                writes = tuple((access.store, changed) for access, _, changed in resolved)
            else:
                result = None
        conflicts = tuple([AttemptConflict(**dict(conflict)) for conflict in record.conflicts])
        return EndedRun(
            submission=submission,
            seq=record.seq,
            attempts=record.attempt,
            state=state,
            result=result,
            error=error,
            conflicts=conflicts,
            handler_s=record.handler_s,
            snapshot_seq=record.snapshot,
            first_snapshot_seq=record.first_snapshot,
            accesses=intent.accesses,
            writes=writes,
            released=intent.released,
        )

    def _submission(self, run: RecordedRun) -> Submission[Any]:
        record, program = run.record, self.program
        kind = run.handler.trigger_type
        where = f"the trigger of seq {record.seq} ({record.trigger.type})"
        trigger = program.upcasts.model(
            kind, record.trigger.payload, record.trigger.version, kind.trigger_version, where
        )
        retry = None if record.retry_of is None else RetryOf(record.run_number, record.retry_of, record.submitted_at)
        submission: Submission[Any] = Submission(
            program.intake,
            0,
            trigger,
            run.handler,
            record.priority,
            record.event_time,
            record.submitted_at,
            Origin(record.run, record.key, record.cause, None, retry, record.resubmits, scheduled=record.scheduled),
        )
        declare(submission)
        submission.seq = record.seq
        submission.sequenced_at = record.sequenced_at
        return submission

    # What the intent comes to, at its turn ---------------------------------------------------------------------------

    def judge(
        self, intent: CommitRun, before: tuple[Any, ...], recorded: RecordedError | None = None
    ) -> tuple[State, BaseException | None, list[tuple[StoreAccess, Any, Any]]]:
        """How the run of an intent ends on the states `before`, why, and what it changes: (access, new state, writes).

        Of several refusals it is the one that was `recorded`.
        """
        accesses = [access for access in intent.accesses if access.writes]
        if not accesses:
            return State.COMMITTED, None, []
        states = [before[access.store] for access in accesses]
        around = [(store, before[store]) for store in self._sources.needed([access.store for access in accesses])]
        state, changed, error = resolve_all(self.program.stores, accesses, states, around)
        if error is not None:
            return state, error, []
        # All stores are asked; whose refusal came first is not recorded, so any of them that was recorded is right.
        refusals = [
            refusal
            for access, new, writes in changed
            if self.program.stores[access.store].spec.validates
            and (refusal := self._validate(intent.seq, before, access, new, writes)) is not None
        ]
        if not refusals:
            return State.COMMITTED, None, list(changed)
        kept = None if recorded is None else recorded.model_dump()
        of_record = (each for each in refusals if kept and same_error(kept, error_record(each).model_dump()))
        chosen = next(of_record, refusals[0])
        return (State.REJECTED if isinstance(chosen, Rejected) else State.FAILED), chosen, []

    def _validate(
        self, seq: int, before: tuple[Any, ...], access: StoreAccess, new: Any, writes: Any
    ) -> BaseException | None:
        """Offer the commit to the store as a running system does: rebuilt after a crash, three times at most."""
        commit = Commit(seq, tuple(access.keys), tuple(writes))
        crash: BaseException | None = None
        with self._validating:
            for _ in range(STORE_CRASHES_MAX):
                try:
                    self._behaviour(access.store).validate(before[access.store], new, commit)
                except Rejected as rejection:
                    return rejection
                except StoreUnavailable:
                    raise  # It says nothing about the commit.
                except BaseException as failure:
                    self._behaviours.pop(access.store)
                    crash = failure
                else:
                    return None
        return crash

    def _behaviour(self, store: int) -> StoreActor[Any, Any]:
        behaviour = self._behaviours.get(store)
        if behaviour is None:
            behaviour = self._behaviours[store] = self._build(self.program.stores[store])
        return behaviour

    def close(self) -> None:
        """Let the stores that were asked release what they hold."""
        for behaviour in self._behaviours.values():
            behaviour.close()
