"""Where triggers come in: accepted in order, all of a call or none.

Owns the lock under which triggers are accepted, how many were, which idempotency keys are bound, and the queue's bounds.
Promises: what was accepted is open until it is answered, and is told the journal before the sequencer; a key binds one
trigger; what the system hands in itself passes the bounds. Called from any thread; waits for nothing but its lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from seqtor.actors.coalescing import key_of
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.handlers import Handler, Handlers
from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import Backend, KeyRow
from seqtor.actors.journal.decoding import answer_adapter, outcome_of
from seqtor.actors.journal.keys import BoundKeys
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.not_before import NotBefore
from seqtor.actors.outbox import Prepare
from seqtor.actors.submissions import Intake, Origin, Submission
from seqtor.batches import Batch, PreparedTrigger
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import AlreadyResubmitted, NotRunning, OutcomeUnknown, Overloaded
from seqtor.messages.journal import AppendIntake, ReadJournal
from seqtor.messages.runs import AcceptTriggers, State, TriggersDelayed
from seqtor.messages.schedules import ScheduleTicked
from seqtor.messages.triggers import Priority, Trigger
from seqtor.settings import Settings

if TYPE_CHECKING:
    from seqtor.commit_path import CommitPath
    from seqtor.journaling import Journaling

__all__ = ["Edge"]

# Of max_queued, LOW may fill all but a quarter; HIGH a twentieth more than it, URGENT a tenth. Who is refused first when the
# system is overloaded is who can wait; nothing that was accepted is given up for others.
LOW_PART, HIGH_PART, URGENT_PART = 4, 20, 10
STOPPED = "the system is stopped or stopping: submit while it runs (with system: ...)"


class Edge:
    """What accepts the triggers of one running system, from `open` until `close`."""

    def __init__(self, settings: Settings, handlers: Handlers, dispatchers: Dispatchers, prepare: Prepare) -> None:
        self._settings = settings
        self._dispatchers = dispatchers
        self._prepare = prepare
        self._declares = any(handler.footprint is not None for handler in handlers)
        self._coalesces = any(handler.coalesce is not None for handler in handlers)
        self._lock = threading.RLock()
        self._accepting = False
        self._closed = False
        self._arrivals = 0
        self._last_event_time = 0.0
        self.accepted = 0  # Of these, how many were queued at once, and how many are to wait for their time.
        self.delayed = 0
        self.low_max = settings.max_queued - settings.max_queued // LOW_PART
        self.why_closed = STOPPED
        self.note: Callable[[Submission[Any]], None] = lambda _: None  # Told of what schedules have started.
        self.intake: Intake
        self.inbox: Mailbox  # The sequencer's.
        self._journal: Journaling | None = None
        self._keys: BoundKeys
        self._path: CommitPath

    # Life ------------------------------------------------------------------------------------------------------------

    def wire(self, path: CommitPath, journal: Journaling | None, keys: BoundKeys) -> None:
        """Tell it who gets what it accepts; before anything is accepted."""
        self._path = path
        self._journal = journal
        self._keys = keys

    def open(self) -> None:
        """Accept triggers from now on."""
        self._started_at = self._dispatchers.clock.monotonic()
        self._accepting = True

    def close(self) -> bool:
        """Accept nothing more, for the stop; False if that was said before."""
        with self._lock:
            self._accepting = False
            is_first, self._closed = not self._closed, True
            return is_first

    def break_down(self, why: str) -> None:
        """Accept nothing more, because of what crashed; takes no lock, whoever holds it."""
        self._accepting = False
        self.why_closed = f"the system takes no more work: {why}"

    def rebuild(self) -> None:
        """Have the core rebuilt; no trigger is taken meanwhile."""
        with self._lock:
            self._path.rebuild(self.accepted, self.delayed)

    def take_over(self, left: OpenRuns) -> list[Submission[Any]]:
        """Of what had not ended, the runs that were overtaken, by their seqs: they are open, and keep their keys."""
        bound = sorted(
            [each for each in left.submissions.values() if each.seq is not None], key=lambda each: each.seq or 0
        )
        for each in bound:
            self.intake.open[each] = None
            if each.key is not None:
                self._keys.bind(each)
        return bound

    def go_on(self, left: OpenRuns) -> None:
        """Queue what was accepted by an earlier process and has not ended."""
        room = self._path.ledger.waiting_room
        waiting = room.hold_back(self.bind_released(tuple(left.submissions.values())))
        self.delayed = room.from_edge
        room.count_left(self.delayed)
        if waiting:
            self.inbox.put(AcceptTriggers(submissions=waiting, bypasses=True))

    # Triggers --------------------------------------------------------------------------------------------------------

    def submit(
        self,
        triggers: Batch | Sequence[PreparedTrigger],
        key: str | None = None,
        resubmits: str | None = None,
        not_before: NotBefore | None = None,
    ) -> list[Submission[Any]]:
        """Accept triggers in order: all of them, or none (`Overloaded`, `NotRunning`)."""
        clock = self._dispatchers.clock
        # Here, on the submitter's thread: what the program declares is its code.
        declared = [
            handler.footprint and handler.footprint(trigger) for trigger, handler, *_ in triggers if self._declares
        ]
        keys = None
        if self._coalesces and resubmits is None:  # The user's code is not called under the lock.
            keys = [key_of(trigger, handler, key) for trigger, handler, _, _ in triggers]
        with self._lock:
            if not self._accepting:
                raise NotRunning(self.why_closed)
            now = clock.time()
            due = None if not_before is None else not_before.due(now)
            if due is not None:
                self._require_room_to_wait(len(triggers))
            else:
                sequencer = self._path.sequencer
                queued = self.accepted + sequencer.bypassed - sequencer.sequenced
                if queued + len(triggers) > self.low_max:
                    self._require_room(queued, triggers)
            # Without an event time of its own a trigger's event is its submission: first in, first out.
            event_time = self._last_event_time = max(self._last_event_time, now)
            if due is not None:
                event_time = due  # Else it would go before all that was submitted while it waited.
            arrival = self._arrivals
            intake = self.intake
            submissions = []
            plain = key is None and resubmits is None and due is None
            origin = None if plain else Origin(key=key, resubmits=resubmits, due=due)
            for trigger, handler, priority, own_time in triggers:
                arrival += 1
                moment = event_time if own_time is None else own_time
                submissions.append(Submission(intake, arrival, trigger, handler, priority, moment, now, origin))
            if self._declares:
                for submission, footprint in zip(submissions, declared, strict=True):
                    submission.footprint = footprint
            self._arrivals = arrival
            accepted = tuple(submissions)
            for each, coalesce in zip(accepted, keys or (), strict=False):
                if coalesce is not None:
                    each.origin = (origin or Origin())._replace(coalesce=coalesce)
            self.intake.open.update(dict.fromkeys(accepted))
            if self._journal is not None:
                self._journal.ref.actor_inbox.put(AppendIntake(submissions=accepted))
            if due is None:
                self.accepted += len(accepted)
                self.inbox.put(AcceptTriggers(submissions=accepted))
            else:
                self.delayed += len(accepted)
                self._path.coordinator_ref.actor_inbox.put(TriggersDelayed(submissions=accepted))
        return submissions

    def submit_past_the_bound(self, triggers: Sequence[PreparedTrigger], id_prefix: str = "") -> list[Submission[Any]]:
        """Accept triggers of the system itself, however many wait. Raises NotRunning."""
        with self._lock:
            if not self._accepting:
                raise NotRunning(self.why_closed)
            now = self._dispatchers.clock.time()
            self._last_event_time = max(self._last_event_time, now)
            found: list[Submission[Any]] = []
            for trigger, handler, priority, _ in triggers:
                self._arrivals += 1
                number, at = self._arrivals, self._last_event_time
                origin = Origin(f"{id_prefix}{self.intake.id_prefix}-{number}") if id_prefix else None
                found.append(Submission(self.intake, number, trigger, handler, priority, at, now, origin))
            accepted = tuple(found)
            self.intake.open.update(dict.fromkeys(accepted))
            if self._journal is not None:
                self._journal.ref.actor_inbox.put(AppendIntake(submissions=accepted))
            self.inbox.put(AcceptTriggers(submissions=accepted, bypasses=True))
        return found

    def submit_tick(self, tick: ScheduleTicked) -> Submission[int]:
        """Accept a tick of a schedule. Raises NotRunning."""
        return self.submit_past_the_bound([self._prepare(tick, None)])[0]

    def submit_once(
        self,
        prepared: tuple[Trigger[Any], Handler, int, float | None],
        key: str | None,
        not_before: NotBefore | None = None,
    ) -> Submission[Any]:
        """Accept a trigger under a key, or find the one that was. Raises KeyReused for another payload, too."""
        assert key is not None
        with self._lock:  # Reentrant: no other submission may bind the key between the look and the acceptance.
            bound = self._keys.find(key, prepared[0])
            if bound is None:
                submission = self.submit([prepared], key, not_before=not_before)[0]
                self._keys.bind(submission)
                return submission
        return bound if isinstance(bound, Submission) else self._ended_under(bound, prepared)

    def _ended_under(self, row: KeyRow, prepared: tuple[Trigger[Any], Handler, int, float | None]) -> Submission[Any]:
        """A submission that is answered with the outcome of an earlier process's run."""
        trigger, handler, priority, _ = prepared
        now = self._dispatchers.clock.time()
        earlier: Submission[Any] = Submission(
            self.intake, 0, trigger, handler, priority, now, now, Origin(row.run, row.key)
        )
        earlier.seq = row.seq
        self.intake.looked_up[earlier] = (
            None  # Not open: it has run, and a restart must not take it for one that has not.
        )
        require(row.seq is not None and self._journal is not None, "a run that has not ended is known", run=row.run)

        def answer(backend: Backend) -> None:
            try:
                found = commit_record(next(iter(backend.commits(row.seq, row.seq))), backend.place)  # type: ignore[arg-type]
                earlier.settle(*outcome_of(found, answer_adapter(handler.function)))
            except Exception as error:  # Compacted just now, or damaged; who waits must be told all the same.
                text = f"the outcome of run {row.run} (seq {row.seq}), under the key {row.key!r}, cannot be read: {error!r}"
                earlier.settle(State.ABORTED, lambda: OutcomeUnknown(text))
            to_wake: list[Callable[[], None]] = []
            earlier.answer(to_wake)
            self.intake.looked_up.pop(earlier, None)
            for wake in to_wake:
                wake()

        journal: Any = self._journal  # There is one, or no outcome would be known from it.
        journal.ref.actor_inbox.tell(ReadJournal(read=answer, reply_to=ReplyFuture()))
        return earlier

    def resubmit(
        self, prepared: tuple[Trigger[Any], Handler, int, float | None], letter: DeadLetterRecord
    ) -> Submission[Any]:
        """Accept the other try of a dead letter. Raises AlreadyResubmitted, and what `submit` raises."""
        dead = self._path.ledger.dead_letters
        with self._lock:  # Reentrant: nobody else may resubmit it between the look and the acceptance.
            run = dead.resubmission_of(letter.place)
            if run is not None:
                raise AlreadyResubmitted(
                    f"the dead letter {letter.id} ({letter.name}) was submitted again already, as run {run}: look at that "
                    "run; if it was given up too, it has a dead letter of its own"
                )
            submission = self.submit([prepared], resubmits=letter.place)[0]
            dead.mark(letter.place, submission.id)
        return submission

    def bind_released(self, submissions: tuple[Submission[Any], ...]) -> tuple[Submission[Any], ...]:
        """Of what a commit submitted, what may run: not what came under a key that is bound already.

        Nor what this was asked about before; a coordinator that is restarted may do so.
        """
        known = self.intake.open
        with self._lock:
            news = [each for each in submissions if each.seq is None and each not in known]
            bound = [each for each in news if each.key is None or self._keys.bind(each)]
            known.update(dict.fromkeys(bound))
            for each in bound:
                if each.origin is not None and each.origin.scheduled is not None:
                    self.note(each)
            return tuple(bound)

    def split(self, submission: Submission[Any]) -> None:
        """Let those run by themselves with whom it could not be merged. Twice: the second finds nobody."""
        with self._lock:  # A core that is rebuilt meanwhile finds them open, or is told of them.
            others = submission.split()
            if others:
                self.inbox.put(AcceptTriggers(submissions=others, bypasses=True))

    # Keys and durability ---------------------------------------------------------------------------------------------

    def free_key(self, submission: Submission[Any]) -> None:
        """Let the key of a trigger go that will never run."""
        with self._lock:
            self._keys.free(submission)

    def forget_keys(self, through: int) -> None:
        """Forget the keys of runs up to a seq, which are not kept any more."""
        with self._lock:
            self._keys.forget(through)

    def flush(self, submission: Submission[Any], future: ReplyFuture) -> None:
        """Answer when the submission is durably accepted."""
        if self._journal is None:
            future.set(None)
        elif self.intake.gone is not None:
            error = self.intake.gone()
            future.set_exception((type(error), error, None))
        else:
            self._journal.flush(submission, future)

    # Bounds ----------------------------------------------------------------------------------------------------------

    def _require_room(self, queued: int, triggers: Batch | Sequence[PreparedTrigger]) -> None:
        """Raise Overloaded if so many more do not fit into what the least urgent of them may fill."""
        max_queued, more = self._settings.max_queued, len(triggers)
        lowest = max((priority for _, _, priority, _ in triggers), default=Priority.URGENT)
        limits = {
            Priority.URGENT: max_queued + max_queued // URGENT_PART,
            Priority.HIGH: max_queued + max_queued // HIGH_PART,
            Priority.NORMAL: max_queued,
            Priority.LOW: self.low_max,
        }
        limit = limits[Priority(lowest)]
        if queued + more <= limit:
            return
        clock, left = self._dispatchers.clock, self._path.sequencer.sequenced
        now = clock.monotonic()
        elapsed_s = max(now - self._started_at, 0.001)
        pace = self._path.pace.per_second(now, left) or (self._path.ledger.told.through + 1) / elapsed_s
        retry_after = min(60.0, max(0.01, min(queued + more - limit, limit) / pace))
        share = "" if limit == max_queued else f" ({Priority(lowest).name} may fill {limit})"
        raise Overloaded(
            f"{queued} triggers wait for a seq and max_queued is {max_queued}{share}, so {more} more were not taken: submit "
            f"again in about {retry_after:.2f} s, or raise max_queued",
            retry_after,
        )

    def _require_room_to_wait(self, more: int) -> None:
        """Raise Overloaded if too many wait for their time. They may wait for long, so they do not count as queued."""
        room, limit = self._path.ledger.waiting_room, self._settings.max_delayed
        waiting = self.delayed - room.left
        if waiting + more > limit:
            retry_after = min(60.0, max(0.01, room.next_s))
            raise Overloaded(
                f"{waiting} triggers wait for their time and max_delayed is {limit}, so {more} more were not taken: submit "
                f"again in {retry_after:.2f} s at the earliest, or raise max_delayed",
                retry_after,
            )
