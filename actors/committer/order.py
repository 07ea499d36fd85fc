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
from seqtor.actors.committer.decisions import Decisions
from seqtor.actors.committer.footprints import Footprints
from seqtor.actors.committer.history import Change, History
from seqtor.actors.committer.reruns import Reruns
from seqtor.actors.committer.stalls import Claims, Readers, executing_below
from seqtor.actors.committer.states import States
from seqtor.actors.committer.turn import CRASHES_MAX, Turn, Verdict
from seqtor.actors.deferrals import decide_deferral
from seqtor.actors.invariants import require
from seqtor.actors.processes.wire import WorkerDied
from seqtor.actors.publications import Changes, Publication
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.deriving import Resolution, Sources
from seqtor.messages.commits import CommitJudged, CommitRun, EndedRun, Released
from seqtor.messages.errors import Aborted, Rejected, RunCrashed
from seqtor.messages.refusals import DuplicateIntent, StaleAttempt, StaleEpoch
from seqtor.messages.runs import AttemptConflict, State
from seqtor.messages.stores import StoreAccess

__all__ = ["CommitOrder"]

ATTEMPT_AT_HEAD = 3  # From this attempt on a run waits to be the head.
FAILURES = frozenset({State.FAILED, State.DEADLINE})


class Slot:
    """An un-ended run that the order remembers: its attempt, its waiting intent, its conflicts so far."""

    __slots__ = ("attempt", "blocked_by", "conflicts", "crashes", "intent")

    def __init__(self) -> None:
        self.attempt = 1
        self.intent: CommitRun | None = None
        self.conflicts: list[AttemptConflict] = []
        self.blocked_by: int | None = None
        self.crashes = 0


class CommitOrder:
    """Which runs have ended, which intents wait for their turn, and which runs for another execution."""

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
        self._stores = tuple(stores)
        self._specs = specs = tuple(ref.spec for ref in stores)
        self._sources = Sources(stores)
        self._judged_stores = frozenset(ref.index for ref in stores if ref.spec.needs_judge) | self._sources.all
        self._by_key = tuple(ref.spec.by_key for ref in stores)
        self._states = States(specs, told, store_seqs)
        self.epoch = epoch
        self.ended_count = told.count
        self._retry = retry  # Given a submission and its error: the submission of the run that follows, or None.
        self._history = History(len(specs), horizon, told.seq)
        for seq in sorted(told.ahead):
            for store, writes in told.ahead[seq]:
                self._history.note(seq, store, [write.key for write in writes], told.seq + 1)
        self._footprints = Footprints()
        self._submissions: dict[int, Any] = {}  # Of the un-ended runs that have declared a footprint.
        self._blocked: dict[int, list[int]] = {}  # Un-ended seq -> intents that may not end before it.
        self._may_end: list[int] = []  # A heap of the seqs whose intents are to be looked at (again).
        self._slots: dict[int, Slot] = {}
        self._readers = Readers()
        self._claims = Claims()
        self._executing = executing
        self._reruns = Reruns()
        self._turn = Turn(self._states, specs, self._sources, epoch, lambda: self.out)
        self.conflicts_in_flight = 0
        self.ended: list[EndedRun] = []
        self._decisions: Decisions | None = None

    @property
    def pending(self) -> int:
        """How many intents wait for their turn."""
        return sum(1 for slot in self._slots.values() if slot.intent is not None)

    @property
    def next_seq(self) -> int:
        """The lowest seq that has not ended."""
        return self._states.next_seq

    @property
    def states(self) -> list[Any]:
        """Of every store, as of `next_seq - 1`."""
        return self._states.states

    @property
    def store_seqs(self) -> list[int]:
        """Which seq below `next_seq` has written each store last."""
        return self._states.seqs

    def in_flight(self, seq: int) -> tuple[tuple[AttemptConflict, ...], int | None]:
        """The conflicts so far and the seq that blocks an un-ended run."""
        slot = self._slots.get(seq)
        if slot is None:
            return (), None
        head = self._states.next_seq
        waits_for_turn = slot.intent is not None and head < seq
        if (waits_for_turn and slot.blocked_by is None) or self._reruns.waits_to_be_head(seq):
            return tuple(slot.conflicts), head
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
            elif self._reruns.is_yet_to_begin(seq):
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
        return self._states.publication(index)

    def overtaken(self) -> tuple[tuple[int, Any], ...]:
        """The un-ended runs below one that has ended, lowest seq first: seq and submission."""
        if not self._states.ahead:
            return ()
        last = self._states.ahead_last  # Who is below it and has not ended has declared what it writes.
        return tuple(sorted([each for each in self._submissions.items() if each[0] < last], key=itemgetter(0)))

    def take_ended(self) -> tuple[list[EndedRun], set[int]]:
        """Hand over the runs that ended since the last time, and the stores that changed."""
        ended, self.ended = self.ended, []
        return ended, self._states.take_changed()

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
        states, asked_about = self._states, self._turn.intent
        if seq < states.next_seq or intent.attempt != expected or seq in self._reruns.runs or seq in states.ahead:
            current = None if states.has_ended(seq) else expected
            return StaleAttempt(seq=seq, attempt=intent.attempt, attempt_current=current)
        if (slot is not None and slot.intent is not None) or (asked_about is not None and asked_about.seq == seq):
            return DuplicateIntent(seq=seq, attempt=intent.attempt)
        self._executing.pop(seq, None)
        if intent.outcome is State.RUNNING:
            self._conflict(intent, self._stale(intent) or Change(-1, "*", None), finished=False)
        elif seq == states.next_seq and asked_about is None:
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
            states = self._states
            intent = renewed(intent, pinned, self._specs, states.newest, states.next_seq - 1, states.ahead)
        return self.offer(intent)

    def declare(self, submission: Any) -> None:
        """Take notice of a run that has a seq and a footprint; it begins when the lower ones have ended that it meets.

        Before its intent is offered; one that has finished outside of the order has begun. Twice: the second is ignored.
        """
        seq: int = submission.seq
        if self._states.has_ended(seq) or seq in self._footprints.declared:
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
            self._reruns.add(seq, None)
            self._stall(seq, slot, awaited)
            self.out.held.append(seq)
        else:
            self.out.begun.append(seq)

    def crashed(self, submission: Any, seq: int, attempt: int, error: BaseException) -> None:
        """The run actor of an attempt crashed: execute again with the same seq, or end the run as failed."""
        if self._states.has_ended(seq):
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
        if self._states.has_ended(seq):
            return False
        slot = self._slots.setdefault(seq, Slot())
        if slot.intent is not None:
            if slot.intent.outcome is State.ABORTED:
                return True
            self._readers.remove(seq, slot.intent.accesses)
            slot.intent = None
        self._turn.drop(seq)
        self._reruns.forget(seq)
        if self._decisions is not None:
            self._decisions.forget(seq)
        self._executing.pop(seq, None)
        self._claims.remove(seq)
        slot.blocked_by = None
        slot.intent = self._ending(submission, seq, slot.attempt, State.ABORTED, error)
        if self._footprints.declared:
            heapq.heappush(self._may_end, seq)
        self._advance()
        return True

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
        while self._turn.intent is None:
            slot = self._slots.get(self._states.next_seq)
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

    def _take_turn(self, intent: CommitRun) -> None:
        if intent.outcome is not State.COMMITTED:
            if intent.outcome is State.DEFERRED:
                intent = decide_deferral(intent)
            self._end(intent, intent.outcome, None, intent.error)
        elif self._judged_stores and any(a.writes and a.store in self._judged_stores for a in intent.accesses):
            self._turn.judge(intent)
        else:
            self._resolve(intent)

    def _resolve(self, intent: CommitRun) -> None:
        resolved: list[Resolution] = []
        validates = False
        states = self._states.as_of(intent.seq)
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
                self._turn.ask_stores(intent, resolved)
            else:
                self._commit(intent, resolved)

    def judge_crashed(self, seq: int, attempt: int, error: BaseException) -> None:
        """The judge of the commit whose turn it is crashed."""
        self._apply(self._turn.judge_crashed(seq, attempt, error))

    def judged(self, answer: CommitJudged) -> None:
        """The judge has resolved the writes of the commit whose turn it is, or says how the run ends."""
        self._apply(self._turn.judged(answer))

    def validated(self, store: int, seq: int, attempt: int, error: BaseException | None) -> None:
        """A store has agreed to the commit whose turn it is, or refused it for good."""
        self._apply(self._turn.validated(store, seq, attempt, error))

    def ask_store_again(self, store: int, seq: int, attempt: int) -> None:
        """A store may have lost the question about a commit: it is asked once more, if its answer is still waited for."""
        self._turn.ask_store_again(store, seq, attempt)

    def awaits(self, store: int) -> tuple[int, int] | None:
        """The seq and attempt of the commit that waits for this store to agree, if one does."""
        return self._turn.awaits(store)

    def _apply(self, verdict: Verdict | None) -> None:
        if verdict is not None:
            if verdict.state is State.COMMITTED:
                self._commit(verdict.intent, verdict.resolved)
            else:
                self._end(verdict.intent, verdict.state, None, verdict.error)
            self._advance()

    # The end of a run ------------------------------------------------------------------------------------------------

    def _commit(self, intent: CommitRun, resolved: Sequence[Resolution]) -> None:
        seq, states = intent.seq, self._states
        written = states.commit(seq, resolved)
        for store, keys in written.items():
            self._history.note(seq, store, keys, states.next_seq)
        changes = tuple([(access.store, tuple(writes)) for access, _, writes in resolved]) if resolved else ()
        self._end(intent, State.COMMITTED, intent.result, None, changes)
        if self._slots and written:
            self._invalidate(seq, written)

    def _end(
        self, intent: CommitRun, state: State, result: Any, error: BaseException | None, changes: Changes = ()
    ) -> None:
        seq, released, states = intent.seq, intent.released, self._states
        if seq != states.next_seq:
            may_overtake = self._blocker(intent) is None
            require(may_overtake, "runs end in seq order, or overtake", seq=seq, expected=states.next_seq)
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
        states.end(seq, changes)
        if self._footprints.declared:
            self._forget_footprint(seq)
        if self._reruns.runs:
            for freed in self._reruns.freed(seq, states.next_seq):
                self._execute_again(freed)

    # Overtaking ------------------------------------------------------------------------------------------------------

    def _blocker(self, intent: CommitRun) -> int | None:
        accesses = self._sources.widened(intent.accesses)
        return self._footprints.blocker(intent.seq, accesses, self._by_key, self._states.next_seq, self._states.ahead)

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
        self._reruns.add(seq, intent.run, replace=intent.outcome is State.DEADLINE)
        if slot.attempt >= ATTEMPT_AT_HEAD and seq > self._states.next_seq:
            self._reruns.wait_to_be_head(seq)
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
        if self._states.ahead or self._footprints.declared:
            return {lower for lower in awaited if not self._states.has_ended(lower)}
        # Runs end in seq order, so the highest stands for all.
        highest = max(awaited, default=0)
        return {highest} if highest >= self._states.next_seq else set()

    def _stall(self, seq: int, slot: Slot, awaited: set[int]) -> None:
        slot.blocked_by = max(awaited)
        require(self._states.next_seq <= min(awaited), "who is waited for has not ended", seq=seq, awaited=awaited)
        self._reruns.wait_for(seq, awaited)

    def _execute_again(self, seq: int) -> None:
        run, replace = self._reruns.take(seq)
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
