"""The commit order as a pure state machine: intents in, decisions out.

Owns the order of commits, the contiguous state of every store, what has overtaken it, and who must execute again. No
threads, no messages sent, no clock: `Decisions` says what is to be done, the actor does it. Promises, for every seq:

1. *reads*: an intent whose reads have changed since its snapshot is a conflict, whatever its outcome was;
2. *writes*: deltas, models and invariants are resolved on the state as of seq - 1; what fails there fails for good,
   because serial execution would fail in the same way.

Runs end in seq order, but that one may overtake lower ones if each of them has declared what it may write, and that meets
nothing which the overtaker has read or written: then the state as of its place is known although they have not ended. A run
with a footprint executes when the lower ones have ended that may write the same.

A conflict makes the run execute again with the same seq, once everything has ended that it was fixed to wait for; from
the third attempt on it waits to be the head, so a run executes at most three times because of conflicts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from seqtor.actors.committer.aged import renewed
from seqtor.actors.committer.footprints import Footprints
from seqtor.actors.committer.history import Change, History
from seqtor.actors.committer.stalls import Claims, Readers, executing_below
from seqtor.actors.deferrals import decide_deferral
from seqtor.actors.invariants import require
from seqtor.actors.processes.wire import WorkerDied
from seqtor.actors.publications import Ahead, Changes, Publication, with_writer, without_writer
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.deriving import Resolution, Sources
from seqtor.messages.commits import CommitJudged, CommitRun, EndedRun, JudgeCommit, Released
from seqtor.messages.errors import Aborted, Rejected, RunCrashed
from seqtor.messages.refusals import DuplicateIntent, StaleAttempt, StaleEpoch
from seqtor.messages.runs import AttemptConflict, State
from seqtor.messages.stores import Commit, StoreAccess, Write

__all__ = ["CommitOrder", "Decisions"]

ATTEMPT_AT_HEAD = 3  # From this attempt on a run waits to be the head.
CRASHES_MAX = 3
FAILURES = frozenset({State.FAILED, State.DEADLINE})

Resolved = list[Resolution]


class Slot:
    """An un-ended run that the order remembers: its attempt, its waiting intent, its conflicts so far."""

    __slots__ = ("attempt", "blocked_by", "conflicts", "crashes", "intent")

    def __init__(self) -> None:
        self.attempt = 1
        self.intent: CommitRun | None = None
        self.conflicts: list[AttemptConflict] = []
        self.blocked_by: int | None = None
        self.crashes = 0


class Decisions:
    """What the actor has to do at the end of a batch: the outbox of the state machine."""

    __slots__ = ("begun", "held", "judge", "replaced", "restarts", "validate")

    def __init__(self) -> None:
        self.begun: list[int] = []  # Seqs of runs with a footprint that may execute for the first time.
        self.held: list[int] = []  # Seqs of those that may not, yet.
        self.restarts: list[tuple[Any, int, int]] = []  # (mailbox of the run, seq, attempt)
        self.replaced: list[tuple[int, int]] = []  # (seq, attempt): the run actor is stuck or gone
        self.judge: JudgeCommit | None = None
        self.validate: list[tuple[int, int, Any, Any, Commit]] = []  # (store, attempt, old state, new state, commit)


class CommitOrder:
    """The state of the committer."""

    def __init__(
        self,
        stores: Sequence[StoreRef[Any]],
        told: Publication,
        epoch: int,
        horizon: int,
        executing: dict[int, Any],
        store_seqs: Sequence[int] | None = None,
        retry: Callable[[Any, BaseException], Any] | None = None,
    ) -> None:
        """Begin behind `told`, the last publication that stands."""
        committed_through = told.seq
        self._stores = tuple(stores)
        self._specs = tuple(ref.spec for ref in stores)
        self._sources = Sources(stores)
        self._judged_stores = frozenset(ref.index for ref in stores if ref.spec.needs_judge) | self._sources.all
        self._by_key = tuple(ref.spec.by_key for ref in stores)
        self.states = list(told.states)  # As of next_seq - 1.
        self.ahead: Ahead = told.ahead  # Those that have overtaken `next_seq`.
        self._writers = told.writers  # What they have written.
        self._ahead_last = told.ahead_last  # The highest of them, while there are any.
        self._newest = list(told.newest) if told.ahead else self.states  # With what they have written.
        self.epoch = epoch
        self.next_seq = committed_through + 1
        self.ended_count = told.count
        self.store_seqs = [committed_through] * len(self.states) if store_seqs is None else list(store_seqs)
        self._retry = retry  # Given a submission and its error: the submission of the run that follows, or None.
        self._history = History(len(self.states), horizon, committed_through)
        for seq in sorted(told.ahead):
            for store, writes in told.ahead[seq]:
                self._history.note(seq, store, [write.key for write in writes], self.next_seq)
        self._footprints = Footprints()
        self._submissions: dict[int, Any] = {}  # Of the un-ended runs that have declared a footprint.
        self._blocked: dict[int, list[int]] = {}  # Un-ended seq -> intents that may not end before it.
        self._may_end: list[int] = []  # A heap of the seqs whose intents are to be looked at (again).
        self._slots: dict[int, Slot] = {}
        self._readers = Readers()
        self._claims = Claims()
        self._executing = executing
        self._stalled: dict[int, list[int]] = {}  # Un-ended seq -> runs that execute (again) when it has ended.
        self._awaiting: dict[int, int] = {}  # Stalled seq -> for how many it waits, if for more than one.
        self._at_head: set[int] = set()  # Stalled until they are the head.
        self._restart: dict[int, tuple[Any, bool]] = {}  # Stalled seq -> (mailbox, whether its actor must be replaced).
        self._judging: CommitRun | None = None
        self._judge_crashes = 0
        self._resolved: Resolved = []
        self._asked: set[int] = set()  # The stores that have yet to agree to the commit at the head.
        self.conflicts_in_flight = 0
        self.ended: list[EndedRun] = []
        self._changed: set[int] = set()
        self._written: dict[int, set[str]] = {}
        self._overtakers: list[tuple[int, dict[int, set[str]]]] = []  # What has overtaken since the last time.
        self._decisions: Decisions | None = None

    @property
    def pending(self) -> int:
        """How many intents wait for their turn."""
        return sum(1 for slot in self._slots.values() if slot.intent is not None)

    def in_flight(self, seq: int) -> tuple[tuple[AttemptConflict, ...], int | None]:
        """The conflicts so far and the seq that blocks an un-ended run."""
        slot = self._slots.get(seq)
        if slot is None:
            return (), None
        waits_for_turn = slot.intent is not None and self.next_seq < seq
        if (waits_for_turn and slot.blocked_by is None) or seq in self._at_head:
            return tuple(slot.conflicts), self.next_seq
        return tuple(slot.conflicts), slot.blocked_by

    def all_in_flight(self) -> tuple[tuple[int, tuple[AttemptConflict, ...], int | None], ...]:
        """The un-ended runs that have conflicts, or wait for their turn: seq, conflicts, and the seq that blocks each."""
        return tuple([(seq, *self.in_flight(seq)) for seq in self._slots])

    def waits(self, limit: int) -> tuple[tuple[int, int, str], ...]:
        """The lowest seqs that wait for another run: seq, the seq that they wait for, and what for."""
        found = []
        for seq in sorted(self._slots):
            slot = self._slots[seq]
            _, blocked_by = self.in_flight(seq)
            if blocked_by is None or blocked_by == seq:
                continue
            if slot.intent is not None:
                why = "end"
            elif seq in self._restart and self._restart[seq][0] is None:
                why = "begin"
            else:
                why = "execute again"
            found.append((seq, blocked_by, why))
            if len(found) == limit:
                break
        return tuple(found)

    def take_decisions(self) -> Decisions:
        """Hand over what is to be done since the last time."""
        decisions, self._decisions = self._decisions, None
        return decisions or Decisions()

    def publication(self, index: int) -> Publication:
        """What is visible now, with the keys that have changed since the last time."""
        written, self._written = self._written, {}
        states = tuple(self.states)
        if not self.ahead and not self._overtakers:
            return Publication(index, self.next_seq - 1, states, written)
        overtakers, self._overtakers = tuple(self._overtakers), []
        if not self.ahead:
            return Publication(index, self.next_seq - 1, states, written, overtakers=overtakers)
        return Publication(
            index, self.next_seq - 1, states, written, self.ahead, tuple(self._newest), overtakers, self._ahead_last,
            self._writers,
        )  # fmt: skip

    def overtaken(self) -> tuple[tuple[int, Any], ...]:
        """The un-ended runs below one that has ended, lowest seq first: seq and submission."""
        if not self.ahead:
            return ()
        last = self._ahead_last  # Who is below it and has not ended has declared what it writes.
        return tuple(sorted([each for each in self._submissions.items() if each[0] < last], key=itemgetter(0)))

    def take_ended(self) -> tuple[list[EndedRun], set[int]]:
        """Hand over the runs that ended since the last time, and the stores that changed."""
        ended, self.ended = self.ended, []
        changed, self._changed = self._changed, set()
        return ended, changed

    @property
    def has_decisions(self) -> bool:
        """Whether there is anything to do."""
        return self._decisions is not None

    @property
    def out(self) -> Decisions:
        """What is to be done so far."""
        if self._decisions is None:
            self._decisions = Decisions()
        return self._decisions

    # Intents -------------------------------------------------------------------------------------------------------

    def offer(self, intent: CommitRun) -> StaleEpoch | StaleAttempt | DuplicateIntent | None:
        """Take the intent of a finished attempt; returns the refusal of one that is not ours."""
        seq = intent.seq
        if intent.epoch != self.epoch:
            return StaleEpoch(seq=seq, epoch=intent.epoch, epoch_current=self.epoch)
        slot = self._slots.get(seq)
        expected = 1 if slot is None else slot.attempt
        if seq < self.next_seq or intent.attempt != expected or seq in self._restart or seq in self.ahead:
            current = None if self._has_ended(seq) else expected
            return StaleAttempt(seq=seq, attempt=intent.attempt, attempt_current=current)
        if (slot is not None and slot.intent is not None) or (self._judging is not None and self._judging.seq == seq):
            return DuplicateIntent(seq=seq, attempt=intent.attempt)
        self._executing.pop(seq, None)
        if intent.outcome is State.RUNNING:
            self._conflict(intent, self._stale(intent) or Change(-1, "*", None), finished=False)
        elif seq == self.next_seq and self._judging is None:
            change = self._stale(intent)
            if change is None:
                self._take_turn(intent)
            else:
                self._conflict(intent, change)
            self._advance()
        else:
            self._wait(intent)
        return None

    def offer_outside(
        self, intent: CommitRun, pinned: Publication
    ) -> StaleEpoch | StaleAttempt | DuplicateIntent | None:
        """As `offer`, of an attempt that executed outside of the order, however long ago it began."""
        if intent.snapshot_seq < self._history.floor:
            intent = renewed(intent, pinned, self._specs, self._newest, self.next_seq - 1, self.ahead)
        return self.offer(intent)

    def declare(self, submission: Any) -> None:
        """Take notice of a run that has a seq and a footprint; it begins when the lower ones have ended that it meets.

        Before its intent is offered; one that has finished outside of the order has begun. Twice: the second is ignored.
        """
        seq: int = submission.seq
        if self._has_ended(seq) or seq in self._footprints.declared:
            return
        for blocked in self._blocked.pop(seq, ()):  # They did not know.
            heapq.heappush(self._may_end, blocked)
        if submission.handler.by_completion:
            self._footprints.declare(seq, submission.footprint)
            self._submissions[seq] = submission
            self._advance()
            return
        awaited = self._footprints.met_by(seq, submission.footprint)
        if self._claims.by_seq:
            awaited.update(self._claims.below(seq, _as_accesses(submission.footprint)))
        self._footprints.declare(seq, submission.footprint)
        self._submissions[seq] = submission
        slot = self._slots.setdefault(seq, Slot())
        if awaited:
            self._restart[seq] = (None, False)
            self._stall(seq, slot, awaited)
            self.out.held.append(seq)
        else:
            self.out.begun.append(seq)

    def crashed(self, submission: Any, seq: int, attempt: int, error: BaseException) -> None:
        """The run actor of an attempt crashed: execute again with the same seq, or end the run as failed."""
        if self._has_ended(seq):
            return
        slot = self._slots.setdefault(seq, Slot())
        if slot.attempt != attempt or slot.intent is not None:
            return
        slot.crashes += 1
        if slot.crashes < CRASHES_MAX:
            self._executing.pop(seq, None)
            self.out.replaced.append((seq, attempt))
            return
        who = "its worker process died" if isinstance(error, WorkerDied) else "its run actor crashed"
        crash = RunCrashed(f"{who} {slot.crashes} times, at last with {type(error).__name__}: {error}")
        crash.__cause__ = error
        self.offer(self._ending(submission, seq, attempt, State.FAILED, crash))

    def abort(self, submission: Any, seq: int, error: Aborted) -> bool:
        """End an un-ended run as aborted, at its turn, wherever it is; False if it has ended. Twice: the first counts."""
        if self._has_ended(seq):
            return False
        slot = self._slots.setdefault(seq, Slot())
        if slot.intent is not None:
            if slot.intent.outcome is State.ABORTED:
                return True
            self._readers.remove(seq, slot.intent.accesses)
            slot.intent = None
        if self._judging is not None and self._judging.seq == seq:
            self._judging = None
            self._asked.clear()
            self._resolved = []
        self._forget_restart(seq)
        self._executing.pop(seq, None)
        self._claims.remove(seq)
        slot.blocked_by = None
        slot.intent = self._ending(submission, seq, slot.attempt, State.ABORTED, error)
        if self._footprints.declared:
            heapq.heappush(self._may_end, seq)
        self._advance()
        return True

    def _forget_restart(self, seq: int) -> None:
        """The run is not to execute or to be judged again, neither now nor when what it waits for has ended."""
        if self._restart.pop(seq, None) is not None:
            for waiting in self._stalled.values():
                if seq in waiting:
                    waiting.remove(seq)
            self._awaiting.pop(seq, None)
            self._at_head.discard(seq)
        out = self._decisions
        if out is not None:
            out.begun = [each for each in out.begun if each != seq]
            out.restarts = [each for each in out.restarts if each[1] != seq]
            out.replaced = [each for each in out.replaced if each[0] != seq]
            out.validate = [each for each in out.validate if each[4].seq != seq]
            if out.judge is not None and out.judge.seq == seq:
                out.judge = None

    def _ending(self, submission: Any, seq: int, attempt: int, outcome: State, error: BaseException) -> CommitRun:
        """An intent in place of the run's own: it has read nothing, so nothing makes it conflict."""
        return CommitRun(
            run=None, submission=submission, seq=seq, attempt=attempt, epoch=self.epoch, snapshot_seq=seq - 1,
            first_snapshot_seq=seq - 1, outcome=outcome, accesses=(), released=None, result=None, error=error,
            handler_s=0.0, deadline_s=0.0, seen=(),
        )  # fmt: skip

    def _wait(self, intent: CommitRun) -> None:
        change = self._stale(intent)
        if change is not None:
            self._conflict(intent, change)
            return
        slot = self._slots.get(intent.seq)
        if slot is None:
            slot = self._slots[intent.seq] = Slot()
        slot.intent = intent
        self._readers.add(intent.seq, intent.accesses)
        if intent.seq not in self._footprints.declared:
            self._claims.claim(intent.seq, _written_keys(intent.accesses))
        if self._footprints.declared:
            heapq.heappush(self._may_end, intent.seq)
            self._advance()

    def _advance(self) -> None:
        """Take the turns of all waiting intents that are next, and of those that may overtake."""
        while self._judging is None:
            slot = self._slots.get(self.next_seq)
            if slot is None or slot.intent is None:
                slot = self._overtaker() if self._may_end else None
                if slot is None:
                    return
            intent: CommitRun = slot.intent  # type: ignore[assignment]
            slot.intent = slot.blocked_by = None
            self._readers.remove(intent.seq, intent.accesses)
            # It was valid when it began to wait, and every commit since has been held against it.
            self._take_turn(intent)

    def _overtaker(self) -> Slot | None:
        """The next waiting intent that may end although lower runs have not; notes of the others what they wait for."""
        while self._may_end:
            seq = heapq.heappop(self._may_end)
            slot = self._slots.get(seq)
            if slot is None or slot.intent is None:
                continue  # It has ended, or executes again.
            blocker = self._blocker(slot.intent)
            if blocker is None:
                return slot
            slot.blocked_by = blocker
            self._blocked.setdefault(blocker, []).append(seq)
        return None

    def _stale(self, intent: CommitRun) -> Change | None:
        return self._history.stale(intent.accesses, intent.snapshot_seq, intent.seq, intent.seen)

    def _has_ended(self, seq: int) -> bool:
        return seq < self.next_seq or seq in self.ahead

    def _below(self, seq: int, store: int) -> Any:
        """A store as of seq - 1, as far as it matters to who writes it and may end at `seq`.

        Of one that overtakes that is the newest state: what it writes, no lower run may write, and no higher one has.
        """
        return (self.states if seq == self.next_seq else self._newest)[store]

    def _take_turn(self, intent: CommitRun) -> None:
        if intent.outcome is not State.COMMITTED:
            if intent.outcome is State.DEFERRED:
                intent = decide_deferral(intent)
            self._end(intent, intent.outcome, None, intent.error)
        elif self._judged_stores and any(a.writes and a.store in self._judged_stores for a in intent.accesses):
            self._judge(intent)
        else:
            self._resolve(intent)

    def _resolve(self, intent: CommitRun) -> None:
        resolved: Resolved = []
        validates = False
        states = self.states if intent.seq == self.next_seq else self._newest  # As `_below`.
        try:
            for access in intent.accesses:
                if access.writes:
                    spec = self._specs[access.store]
                    state, writes = spec.resolve(states[access.store], access.writes)
                    if writes:
                        resolved.append((access, state, writes))
                        validates = validates or spec.validates
        except Rejected as rejection:
            self._end(intent, State.REJECTED, None, rejection)
        except BaseException as failure:  # Whatever a store's fold raises ends this run and no actor.
            self._end(intent, State.FAILED, None, failure)
        else:
            if validates:
                self._judging = intent
                self._ask_stores(resolved)
            else:
                self._commit(intent, resolved)

    # Judging: what runs the user's code, off the core ----------------------------------------------------------------

    def _judge(self, intent: CommitRun) -> None:
        self._judging = intent
        self._judge_crashes = 0
        self._ask_judge(intent)

    def _ask_judge(self, intent: CommitRun) -> None:
        accesses = tuple(access for access in intent.accesses if access.writes)
        states = tuple(self._below(intent.seq, access.store) for access in accesses)
        needed = self._sources.needed([access.store for access in accesses])
        around = tuple([(store, self._below(intent.seq, store)) for store in needed])
        self.out.judge = JudgeCommit(
            seq=intent.seq, attempt=intent.attempt, trigger=intent.submission.handler.name, accesses=accesses,
            states=states, around=around, deadline_s=intent.deadline_s, epoch=self.epoch,
        )  # fmt: skip

    def judge_crashed(self, seq: int, attempt: int, error: BaseException) -> None:
        """The judge of the head crashed: judge again, or end the run as failed. Not ours if something else is judged."""
        intent = self._judging
        if intent is None or (intent.seq, intent.attempt) != (seq, attempt) or self._asked:
            return
        self._judge_crashes += 1
        if self._judge_crashes < CRASHES_MAX:
            self._ask_judge(intent)
            return
        crash = RunCrashed(
            f"its judge crashed {self._judge_crashes} times, at last with {type(error).__name__}: {error}"
        )
        crash.__cause__ = error
        self._judging = None
        self._end(intent, State.FAILED, None, crash)
        self._advance()

    def judged(self, answer: CommitJudged) -> None:
        """The judge has resolved the head's writes, or says how the run ends."""
        intent = self._judging
        if intent is None or (intent.seq, intent.attempt) != (answer.seq, answer.attempt) or self._asked:
            return
        if answer.outcome is not State.COMMITTED:
            self._judging = None
            self._end(intent, answer.outcome, None, answer.error)
            self._advance()
            return
        resolved = list(answer.resolved)
        if any(self._specs[access.store].validates for access, _, _ in resolved):
            self._ask_stores(resolved)
        else:
            self._judging = None
            self._commit(intent, resolved)
            self._advance()

    def _ask_stores(self, resolved: Resolved) -> None:
        self._resolved = resolved
        for access, state, writes in resolved:
            if self._specs[access.store].validates:
                self._asked.add(access.store)
                self.ask_store_again(access.store, state, access, writes)

    def ask_store_again(self, store: int, state: Any, access: StoreAccess, writes: Sequence[Write]) -> None:
        """Have the store validate the commit whose turn it is."""
        require(self._judging is not None, "stores are asked about a commit whose turn it is")
        intent: CommitRun = self._judging  # type: ignore[assignment]
        commit = Commit(intent.seq, tuple(access.keys), tuple(writes))
        self.out.validate.append((store, intent.attempt, self._below(intent.seq, store), state, commit))

    def validated(self, store: int, seq: int, attempt: int, error: BaseException | None) -> None:
        """A store has agreed to the head's commit, or refused it for good."""
        intent = self._judging
        if intent is None or (intent.seq, intent.attempt) != (seq, attempt) or store not in self._asked:
            return
        if self._decisions is not None:  # It was restarted, and to be asked once more, just when its answer came.
            self._decisions.validate = [each for each in self._decisions.validate if each[0] != store]
        if error is None:
            self._asked.discard(store)
            if self._asked:
                return
        self._asked.clear()
        self._judging = None
        if error is None:
            self._commit(intent, self._resolved)
        else:
            if self._decisions is not None:
                self._decisions.validate.clear()  # A store that was to be asked once more needs no asking any more.
            self._end(intent, State.REJECTED if isinstance(error, Rejected) else State.FAILED, None, error)
        self._resolved = []
        self._advance()

    def awaits(self, store: int) -> tuple[int, int] | None:
        """The seq and attempt of the commit at the head, if it waits for this store to agree."""
        intent = self._judging
        return None if intent is None or store not in self._asked else (intent.seq, intent.attempt)

    def awaited_validation(self, store: int, seq: int, attempt: int) -> bool:
        """Whether the head still waits for this store's answer; if so, it is asked once more."""
        intent = self._judging
        if intent is None or (intent.seq, intent.attempt) != (seq, attempt):
            return False
        for access, state, writes in self._resolved:
            if access.store == store:
                self.ask_store_again(store, state, access, writes)
                return True
        return False

    # The end of a run ------------------------------------------------------------------------------------------------

    def _commit(self, intent: CommitRun, resolved: Resolved) -> None:
        seq = intent.seq
        if seq != self.next_seq or self.ahead:
            self._commit_apart(intent, resolved)
            return
        keys_by_store: dict[int, Sequence[str]] = {}
        written = self._written
        for access, state, writes in resolved:
            store = access.store
            self.states[store] = state
            self.store_seqs[store] = seq
            keys_by_store[store] = keys = [write[0] for write in writes]
            self._history.note(seq, store, keys, seq)
            if store in written:
                written[store].update(keys)
            else:
                written[store] = set(keys)
                self._changed.add(store)
        changes = tuple([(access.store, tuple(writes)) for access, _, writes in resolved]) if resolved else ()
        self._end(intent, State.COMMITTED, intent.result, None, changes)
        if self._slots and keys_by_store:
            self._invalidate(seq, keys_by_store)

    def _end(
        self, intent: CommitRun, state: State, result: Any, error: BaseException | None, changes: Changes = ()
    ) -> None:
        seq, released = intent.seq, intent.released
        if seq != self.next_seq:
            require(self._may_overtake(intent), "runs end in seq order, or overtake", seq=seq, expected=self.next_seq)
        if error is not None and state in FAILURES and self._retry is not None:
            retry = self._retry(intent.submission, error)
            if retry is not None:
                state = State.RETRYING
                released = Released(calls=() if released is None else released.calls, retry=retry)
        slot = self._slots.pop(seq, None)
        conflicts: tuple[AttemptConflict, ...] = ()
        if slot is not None:
            conflicts = tuple(slot.conflicts)
            self.conflicts_in_flight -= len(conflicts)
            self._claims.remove(seq)
        # Past the named tuple's own constructor: one for every run, at half the price.
        ended = (
            intent.submission, seq, intent.attempt, state, result, error, conflicts, intent.handler_s,
            intent.snapshot_seq, intent.first_snapshot_seq, intent.accesses, changes, released,
        )  # fmt: skip
        self.ended.append(tuple.__new__(EndedRun, ended))
        self.ended_count += 1
        if seq != self.next_seq:
            self.ahead = self.ahead.set(seq, changes)
            self._writers = with_writer(self._writers, seq, changes)
            self._ahead_last = max(self._ahead_last, seq)
        elif self.ahead:
            self.next_seq = seq + 1
            self._catch_up()
        else:
            self.next_seq = seq + 1
        if self._footprints.declared:
            self._forget_footprint(seq)
        if self._stalled:
            for stalled in self._stalled.pop(seq, ()):
                self._await_one_less(stalled)
        if self._at_head and self.next_seq in self._at_head:
            self._at_head.remove(self.next_seq)
            self._execute_again(self.next_seq)

    # Overtaking ------------------------------------------------------------------------------------------------------

    def _may_overtake(self, intent: CommitRun) -> bool:
        return self._blocker(intent) is None

    def _blocker(self, intent: CommitRun) -> int | None:
        accesses = self._sources.widened(intent.accesses)
        return self._footprints.blocker(intent.seq, accesses, self._by_key, self.next_seq, self.ahead)

    def _commit_apart(self, intent: CommitRun, resolved: Resolved) -> None:
        """Commit a run that overtakes, or one that was overtaken: the states with and without the overtakers are two."""
        seq, states = intent.seq, self.states
        overtakes = seq != self.next_seq
        if self._newest is states:
            self._newest = list(states)
        newest = self._newest
        keys_by_store: dict[int, list[str]] = {}
        for access, state, writes in resolved:
            store = access.store
            if overtakes:
                newest[store] = state
            else:
                apart = newest[store] is not states[store]
                newest[store] = self._specs[store].fold(newest[store], writes) if apart else state
                states[store] = state
                self.store_seqs[store] = seq
                self._changed.add(store)
            written = [write.key for write in writes]
            keys_by_store[store] = written
            self._history.note(seq, store, written, self.next_seq)
        if overtakes:
            self._overtakers.append((seq, {store: set(keys) for store, keys in keys_by_store.items()}))
        else:
            for store, keys in keys_by_store.items():
                self._written.setdefault(store, set()).update(keys)
        changes = tuple([(access.store, tuple(writes)) for access, _, writes in resolved])
        self._end(intent, State.COMMITTED, intent.result, None, changes)
        if self._slots and keys_by_store:
            self._invalidate(seq, keys_by_store)

    def _catch_up(self) -> None:
        """The head has ended that was overtaken: what overtook it, and nothing that is left, is part of the order now."""
        ahead, states = self.ahead, self.states
        last = self.next_seq + len(ahead) - 1
        together = max(ahead) == last  # Then nothing is left, and the states with all of it are at hand.
        while self.next_seq in ahead:
            changes = ahead[self.next_seq]
            self._writers = without_writer(self._writers, self.next_seq, changes)
            for store, writes in changes:
                if not together:
                    states[store] = self._specs[store].fold(states[store], writes)
                self.store_seqs[store] = self.next_seq
                self._changed.add(store)
            ahead = ahead.delete(self.next_seq)
            self.next_seq += 1
        self.ahead = ahead
        if together:
            self.states = self._newest
        if not ahead:
            self._newest = self.states

    def _forget_footprint(self, seq: int) -> None:
        """A run has ended: whoever could not end before it is looked at again."""
        self._footprints.remove(seq)
        self._submissions.pop(seq, None)
        for blocked in self._blocked.pop(seq, ()):
            heapq.heappush(self._may_end, blocked)

    # Conflicts -------------------------------------------------------------------------------------------------------

    def _invalidate(self, seq: int, keys_by_store: Mapping[int, Sequence[str]]) -> None:
        """Tell waiting intents at once that what they read has changed."""
        for store, keys in keys_by_store.items():
            for key in keys:
                for reader in self._readers.of(store, key):
                    if reader < seq:
                        continue  # It was overtaken: it reads as of its own place.
                    slot = self._slots[reader]
                    intent = slot.intent
                    require(intent is not None, "who is listed as a reader waits", reader=reader, seq=seq)
                    slot.intent = None
                    self._readers.remove(reader, intent.accesses)  # type: ignore[union-attr]
                    self._conflict(intent, Change(store, key, seq))  # type: ignore[arg-type]

    def _conflict(self, intent: CommitRun, change: Change, *, finished: bool = True) -> None:
        """Note the conflict; the run executes again now, or when what it waits for has ended."""
        seq = intent.seq
        slot = self._slots.get(seq)
        if slot is None:
            slot = self._slots[seq] = Slot()
        store = self._stores[change.store].name if change.store >= 0 else "*"
        slot.conflicts.append(
            AttemptConflict(attempt=intent.attempt, store=store, key=change.key, writer_seq=change.writer_seq)
        )
        self.conflicts_in_flight += 1
        slot.attempt = intent.attempt + 1
        if seq not in self._footprints.declared:
            # An abandoned attempt has no write set: like an unfinished one it counts with all that it had read.
            self._claims.claim(seq, _written_keys(intent.accesses) if finished else _read_keys(intent.accesses))
        self._restart[seq] = (intent.run, intent.outcome is State.DEADLINE)
        if slot.attempt >= ATTEMPT_AT_HEAD and seq > self.next_seq:
            self._at_head.add(seq)
            return
        awaited = set() if slot.attempt >= ATTEMPT_AT_HEAD else self._awaited(seq, intent.accesses)
        if awaited:
            self._stall(seq, slot, awaited)
        else:
            self._execute_again(seq)

    def _awaited(self, seq: int, accesses: Sequence[StoreAccess]) -> set[int]:
        """What has to end before the run executes again, fixed now: who is expected to write what it has read."""
        awaited = self._claims.below(seq, accesses)
        if self._executing:
            awaited.update(executing_below(seq, accesses, self._executing))
        if self._footprints.declared:
            awaited.update(self._footprints.that_meet(seq, accesses))
        if self.ahead or self._footprints.declared:
            return {lower for lower in awaited if not self._has_ended(lower)}
        # Runs end in seq order, so the highest stands for all.
        highest = max(awaited, default=0)
        return {highest} if highest >= self.next_seq else set()

    def _stall(self, seq: int, slot: Slot, awaited: set[int]) -> None:
        slot.blocked_by = highest = max(awaited)
        require(self.next_seq <= min(awaited) and highest < seq, "waits point downwards", seq=seq, awaited=awaited)
        if len(awaited) > 1:
            self._awaiting[seq] = len(awaited)
        for lower in sorted(awaited):
            self._stalled.setdefault(lower, []).append(seq)

    def _await_one_less(self, seq: int) -> None:
        left = self._awaiting.pop(seq, 1) - 1
        if not left:
            self._execute_again(seq)
        elif left > 1:
            self._awaiting[seq] = left

    def _execute_again(self, seq: int) -> None:
        run, replace = self._restart.pop(seq)
        slot = self._slots[seq]
        slot.blocked_by = None
        if run is None:
            self.out.begun.append(seq)
        elif replace:
            self.out.replaced.append((seq, slot.attempt))
        else:
            self.out.restarts.append((run, seq, slot.attempt))


def _as_accesses(footprint: Any) -> list[StoreAccess]:
    """A footprint as if it had been read."""
    stores = {store for store, _ in footprint.keys} | footprint.stores
    return [
        StoreAccess(
            store, {key: None for each, key in footprint.keys if each == store}, (), store in footprint.stores, ()
        )
        for store in sorted(stores)
    ]


def _written_keys(accesses: Sequence[StoreAccess]) -> list[tuple[int, str]]:
    return list({(access.store, write[0]): None for access in accesses for write in access.writes})


def _read_keys(accesses: Sequence[StoreAccess]) -> list[tuple[int, str]]:
    return [(access.store, key) for access in accesses for key in access.keys]
