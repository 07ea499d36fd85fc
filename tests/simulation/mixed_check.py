"""Holds an execution of a case that mixes everything against the serial oracle.

Only watches. What is a recorded input (who was cancelled, who became one with whom, on real clocks also who was too slow) is
taken from the records, and it is judged whether it may be so.
"""

from __future__ import annotations

import collections
import functools
from typing import Any

from seqtor import CommitRecord, DeadlineExceeded, HandlerFailed, Rejected, State, Submission
from seqtor.actors.deferrals import DEFERRALS_MAX
from seqtor.actors.rates import BURST_S
from seqtor.messages import RunDeferred
from tests.oracle import SerialOracle, error_key
from tests.properties.execution import check_publications, check_record, check_stats
from tests.simulation.mixed_kinds import Kind, Mixed, joined

__all__ = ["MixCheck", "outcome_of"]

EARLY_MAX_S = 0.001  # A wait is measured by the clock that is never set, a moment by the other one.


class MixCheck:
    """Holds everything that can be seen of an execution against the serial oracle."""

    def __init__(self, desk: Any, submissions: list[Submission[Any]], cancelled: set[int], *, virtual: bool) -> None:
        self.desk = desk
        self.mix = desk.mix
        self.submissions = submissions
        self.cancelled = cancelled
        self.virtual = virtual
        self.by_id = {submission.id: submission for submission in submissions}
        self.records = sorted(desk.system.commits(limit=10_000), key=lambda record: record.seq)
        self.happened: collections.Counter[str] = collections.Counter()

    def check(self, first: Any) -> collections.Counter[str]:
        """Everything; returns what has happened."""
        self._one_outcome_each()
        oracle = self.mix.stores.oracle()
        for record in self.records:
            self._judge(record, oracle)
        check_publications(self.desk, first, oracle, len(self.records))
        for record in self.records:
            self._compare(record, oracle)
        self._executions()
        self._times()
        self._figures()
        return self.happened

    def members(self, record: CommitRecord) -> list[Submission[Any]]:
        """Those that a record is the outcome of, the one that went on for all last."""
        return [self.by_id[run] for run in (*record.coalesced, record.run)]

    def _one_outcome_each(self) -> None:
        records = self.records
        assert [record.seq for record in records] == list(range(1, len(records) + 1)), "without gaps"
        ended: dict[str, int] = {}
        for record in records:
            for submission in self.members(record):
                if record.state is State.DEFERRED:
                    assert not record.coalesced, "an agent goes on alone"
                    self.happened["deferred"] += 1
                else:
                    assert submission.id not in ended, "a trigger has two outcomes"
                    ended[submission.id] = record.seq
        for number, submission in enumerate(self.submissions):
            if number in self.cancelled:
                assert submission.state is State.CANCELLED
                assert submission.seq is None
                assert submission.id not in ended, "cancelled, and run all the same"
            else:
                assert submission.state is not State.CANCELLED
                assert submission.seq == ended[submission.id], "every trigger exactly one outcome"
        self.happened["cancelled"] += len(self.cancelled)

    def executed(self, record: CommitRecord) -> Mixed:
        """What the seq has executed: the newest trigger, or what it was merged to with the others."""
        *others, newest = self.members(record)
        event_times = [submission.event_time for submission in (*others, newest)]
        assert event_times == sorted(event_times), "the newest goes on for all"
        self.happened["coalesced"] += len(others)
        expected: Any = newest.given
        found: Mixed = type(expected).model_validate(record.trigger.payload)
        if others and self.mix.handed[self.number(newest)].kind.merges:
            expected = functools.reduce(joined, [each.given for each in (*others, newest)])
            self.happened["merged"] += 1
        assert found == expected, "what was executed is what those that are one make together"
        return found

    def _judge(self, record: CommitRecord, oracle: SerialOracle) -> None:
        trigger, submission = self.executed(record), self.by_id[record.run]
        kind = self.mix.handed[trigger.number].kind
        about: Any = {"first_snapshot": record.first_snapshot, "by_completion": kind.by_completion}
        self.happened[f"{kind.place} {record.state.value}"] += 1
        if record.state is State.DEFERRED:
            oracle.skip(State.DEFERRED)
        elif self._gave_up(submission):
            oracle.skip(State.FAILED)
        elif record.state is State.DEADLINE and not self.virtual:
            # Whoever hangs ends so; on a busy machine others may, too, if their deadline is short.
            assert kind.timed
            hangs = oracle.expire(self.desk.serially, trigger, **about)
            self.happened["hung" if hangs else "slow"] += 1
        else:
            oracle.run(self.desk.serially, trigger, **about)

    def _gave_up(self, submission: Submission[Any]) -> bool:
        """Whether an agent was deferred too often, which depends on the schedule."""
        return submission.state is State.FAILED and type(outcome_of(submission)[2]) is RunDeferred

    def _compare(self, record: CommitRecord, oracle: SerialOracle) -> None:
        expected = oracle.outcomes[record.seq - 1]
        run_record = self.desk.system.record(record.seq)
        if record.state is State.DEFERRED:
            check_record(run_record, State.DEFERRED, RunDeferred("deferred"))
            return
        for submission in self.members(record):
            state, result, error = outcome_of(submission)
            where = f"seq {record.seq}, {self.mix.handed[self.number(submission)]}"
            if self._gave_up(submission):
                deferred = [each for each in self.records if each.run == record.run]
                assert len(deferred) == DEFERRALS_MAX + 1
            elif state is State.DEADLINE:
                assert expected.state is State.DEADLINE, where
            else:
                due = (expected.state, expected.result, error_key(expected.error))
                found = (state, result, error_key(error))
                assert found == due, f"{where}: {found} instead of {due}"
            check_record(run_record, state, error)

    def number(self, submission: Submission[Any]) -> int:
        given: Any = submission.given
        number: int = given.number
        return number

    def _executions(self) -> None:
        attempts: collections.Counter[int] = collections.Counter()
        for record in self.records:
            attempts[self.number(self.by_id[record.run])] += record.attempt
        for number, count in attempts.items():
            kind = self.mix.handed[number].kind
            if kind.place == "process":
                continue  # Who counts is in another process.
            if kind.timed and not self.virtual:  # It may have passed its deadline before its first line.
                assert self.desk.executions[number] <= count, "no attempt executes the handler twice"
            else:
                assert self.desk.executions[number] == count, "every attempt executed the handler once"

    def _times(self) -> None:
        rated: dict[Kind, dict[str, float]] = {}  # When each run began, by its id.
        for record in self.records:
            submission = self.by_id[record.run]
            for member in self.members(record):
                delay_s = self.mix.handed[self.number(member)].delay or 0
                early_s = member.submitted_at + delay_s - record.sequenced_at
                assert early_s < EARLY_MAX_S, "nobody runs before its time"
                self.happened["delayed"] += bool(delay_s)
            kind = self.mix.handed[self.number(submission)].kind
            if kind.rated:
                rated.setdefault(kind, {})[record.run] = record.sequenced_at
        tokens_max = max(1.0, self.mix.rate * BURST_S)
        for began in rated.values():
            times = sorted(began.values())
            self.happened["rated"] += len(times)
            for i, start in enumerate(times):
                for j in range(i, len(times)):
                    took = tokens_max + self.mix.rate * (times[j] - start)
                    assert not self.virtual or j - i + 1 <= took + 1e-3, "no more begin than the rate says"

    def _figures(self) -> None:
        others = collections.Counter(
            {
                State.COALESCED: sum(len(record.coalesced) for record in self.records),
                State.CANCELLED: len(self.cancelled),
            }
        )
        system = self.desk.system
        records = [system.record(record.seq) for record in self.records]
        check_stats(self.desk, records, +others)
        stats = system.stats()
        assert (stats.delayed, stats.outside, stats.retries_waiting) == (0, 0, 0)
        skipped = system.verify().skipped
        for state in (State.DEFERRED, State.DEADLINE):
            too_often = sum(self._gave_up(each) for each in self.submissions) if state is State.DEFERRED else 0
            assert skipped.get(state.value, 0) == sum(each.state is state for each in self.records) + too_often


def outcome_of(submission: Submission[Any]) -> tuple[State, Any, BaseException | None]:
    """How a run ended, as its caller sees it."""
    try:
        return State.COMMITTED, submission.result(0), None
    except Rejected as rejection:
        return State.REJECTED, None, rejection
    except DeadlineExceeded as expired:
        return State.DEADLINE, None, expired
    except HandlerFailed as failure:
        return State.FAILED, None, failure.__cause__
