"""What the coordinator knows of runs, as users ask for it: records, figures, conflicts.

Owns the way from submissions and the ledger to answers. Promises: nothing here changes what happens; an answer is of one
moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from seqtor.actors.ledger import Ledger
from seqtor.actors.retrying import retry_id
from seqtor.actors.runs import RunContext
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import EndedRun
from seqtor.messages.errors import Rejected
from seqtor.messages.runs import (
    AttemptConflict,
    ConflictReport,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    HotKey,
    Pair,
    RunRecord,
    State,
    Stats,
    Wait,
)

__all__ = ["RunRecords", "retried_as"]

HOT_KEYS_MAX = 10_000


class RunRecords:
    """The answers to queries of runs."""

    def __init__(
        self, context: RunContext, ledger: Ledger, outside: Mapping[Submission[Any], float], *, answers_at_once: bool
    ) -> None:
        """`outside`: the completion runs under way, with the time at which each got its seq, or 0.

        `answers_at_once`: nothing is kept in a journal, so what has ended is as durable as it gets.
        """
        self._context = context
        self._ledger = ledger
        self._known = ledger.runs
        self._outside = outside
        self._answers_at_once = answers_at_once

    def answer(
        self, query: GetStats | GetRecord | GetRuns | GetConflicts, ended_through: int, answered_through: int
    ) -> Any:
        """The answer of a query to which the others have added what they know.

        `ended_through` is the last seq below which all have ended, `answered_through` the last whose record is durable.
        """
        if isinstance(query, GetStats):
            return self._stats(query, ended_through)
        if isinstance(query, GetConflicts):
            return self._conflict_report(query)
        if isinstance(query, GetRuns):
            return self._records(query, answered_through)
        submission = self._known.get(query.seq)
        if submission is None:
            return None
        return self._record(query.seq, query.conflicts, query.blocked_by, submission, answered_through)

    def count_conflicts(self, submission: Submission[Any], ended: EndedRun) -> None:
        """Count what an ended run has met, by key and by the pair of handlers."""
        ledger = self._ledger
        for conflict in ended.conflicts:
            ledger.hot_keys[conflict.store, conflict.key] += 1
            writer = self._known.get(conflict.writer_seq or 0)
            ledger.pairs[submission.handler.name, writer.handler.name if writer else "?"] += 1
        if len(ledger.hot_keys) > HOT_KEYS_MAX:
            ledger.hot_keys = Counter(dict(ledger.hot_keys.most_common(HOT_KEYS_MAX // 2)))

    def _records(self, query: GetRuns, answered_through: int) -> tuple[RunRecord, ...]:
        known = self._known
        before = next(reversed(known), 0) + 1 if query.before is None else query.before
        in_flight = {seq: (conflicts, blocked_by) for seq, conflicts, blocked_by in query.in_flight}
        found = []
        for seq in range(before - 1, before - 1 - query.count, -1):
            if seq in known:
                conflicts, blocked_by = in_flight.get(seq, ((), None))
                found.append(self._record(seq, conflicts, blocked_by, known[seq], answered_through))
        return tuple(found)

    def _record(
        self,
        seq: int,
        conflicts: tuple[AttemptConflict, ...],
        blocked_by: int | None,
        submission: Submission[Any],
        answered_through: int,
    ) -> RunRecord:
        run, origin = submission.run, submission.origin
        retry = None if origin is None else origin.retry
        error = None if run is not None else submission.error
        return RunRecord(
            seq=seq,
            id=submission.id,
            trigger=submission.trigger,
            state=submission.ended_as or submission.state,
            attempts=submission.attempts if run is None else max(1, run.attempt),
            error=None if error is None else _text(error),
            conflicts=submission.conflicts if run is None else conflicts,
            blocked_by=None if run is None else blocked_by,
            caused_by=submission.caused_by,
            causes=self._ledger.causes.get(seq, ()),
            durable=submission.done or (submission.ended_as is State.RETRYING and seq <= answered_through),
            submitted_at=submission.submitted_at,
            sequenced_at=submission.sequenced_at,
            committed_at=submission.ended_at if run is None else None,
            handler_s=submission.handler_s if run is None else 0.0,
            retry_of=None if retry is None else retry.of,
            retried_as=retried_as(submission),
            run_number=1 if retry is None else retry.run_number,
            resubmits=None if origin is None else origin.resubmits,
        )

    def _stats(self, message: GetStats, ended_through: int) -> Stats:
        in_flight = max(0, message.current_seq - self._ledger.counted.ended)
        counted = self._ledger.counted
        counts = {state: count for state, count in counted.states.items() if count}
        waiting_room = self._ledger.waiting_room
        if message.queued or waiting_room.delayed:
            counts[State.QUEUED] = message.queued + waiting_room.delayed
        if in_flight + message.outside:
            counts[State.RUNNING] = in_flight + message.outside
        head = self._known.get(ended_through + 1)
        durable_through = message.committed_through if self._answers_at_once else self._ledger.durable_through
        return Stats(
            current_seq=message.current_seq,
            next_commit_seq=message.committed_through + 1,
            committed_through=message.committed_through,
            durable_through=durable_through,
            effects_through=min(durable_through, min(self._ledger.open_effects, default=durable_through + 1) - 1),
            queued=message.queued,
            in_flight=in_flight,
            pending_commits=message.pending_commits,
            head_age=None if not in_flight or head is None else max(0.0, message.now - self._numbered_at(head)),
            state_counts=counts,
            conflicts=counted.conflicts + message.conflicts_in_flight,
            restarts=message.restarts,
            retries_waiting=waiting_room.retries,
            delayed=waiting_room.delayed,
            threads_replaced=sum(place.replaced for place in self._places_of_threads),
            threads_stuck=sum(place.stuck for place in self._places_of_threads),
            processes_replaced=0 if self._context.crew is None else self._context.crew.replaced,
            outside=message.outside,
        )

    @property
    def _places_of_threads(self) -> tuple[Any, ...]:
        context = self._context
        return tuple(dict.fromkeys(place for place in (context.pool, context.outside) if place is not None))

    def _numbered_at(self, submission: Submission[Any]) -> float:
        return self._outside.get(submission) or submission.sequenced_at

    def _conflict_report(self, query: GetConflicts) -> ConflictReport:
        counted = self._ledger.counted
        return ConflictReport(
            conflicts=counted.conflicts,
            executions=counted.executions,
            wasted_executions=counted.wasted,
            hottest_keys=tuple(HotKey(*place, count) for place, count in self._ledger.hot_keys.most_common(10)),
            pairs=tuple(Pair(*pair, count) for pair, count in self._ledger.pairs.most_common(10)),
            waits=tuple(
                Wait(seq, self._name_at(seq), to, blocker, self._name_at(blocker)) for seq, blocker, to in query.waits
            ),
        )

    def _name_at(self, seq: int) -> str:
        return self._known[seq].handler.name if seq in self._known else "?"


def retried_as(submission: Submission[Any]) -> str | None:
    """The id of the run that follows one that is tried again, or None."""
    if submission.ended_as is not State.RETRYING:
        return None
    retry = None if submission.origin is None else submission.origin.retry
    return retry_id(submission.id, 2 if retry is None else retry.run_number + 1)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, Rejected) else f"{type(error).__name__}: {error}"
