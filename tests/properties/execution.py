"""Runs a case (stores, programs, when they are submitted) on a real system and holds it against the serial oracle.

Only watches: the chain of publications from the start to the end is what became visible, and at each of them the state
must be the oracle's.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import seqtor.commit_path
from seqtor import (
    HandlerFailed,
    Priority,
    Rejected,
    Snapshot,
    State,
    Submission,
    Supervisor,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.committer import CommitOrder
from seqtor.messages import RunRecord, Stats
from tests.oracle import error_key
from tests.properties.language import Execution, Steps, Stores, contents_of, perform, programs, stores

__all__ = ["Case", "cases", "examples", "run_simulated", "run_threaded"]

WAIT_S = 60.0  # Reached only when something hangs.


def examples(count: int, *, shrink: bool = True) -> Callable[[Any], Any]:
    """Hypothesis settings; SEQTOR_EXAMPLES=50 multiplies the number of examples by 50."""
    phases = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink) if shrink else (Phase.explicit, Phase.generate)
    return settings(
        max_examples=int(count * float(os.environ.get("SEQTOR_EXAMPLES", "1"))),
        deadline=None,
        phases=phases,
        print_blob=shrink,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


class SyncProgram(Trigger[Any]):
    """A program that runs on the pool."""

    number: int


class AsyncProgram(Trigger[Any]):
    """A program that runs on the loop and gives way at its pauses."""

    number: int


@dataclasses.dataclass(frozen=True)
class Submitted:
    """One trigger: its program, its kind of handler, its priority, and how long others run before the next comes."""

    steps: Steps
    is_async: bool
    priority: Priority
    gap: int


@dataclasses.dataclass(frozen=True)
class Case:
    """Everything that is random about one execution, but for the scheduling."""

    stores: Stores
    submitted: tuple[Submitted, ...]
    threads: int
    horizon: int | None  # How many seqs of writes are remembered; None for the real number.


submitted = st.builds(
    Submitted,
    steps=programs,
    is_async=st.booleans(),
    priority=st.sampled_from((Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, Priority.LOW, Priority.URGENT)),
    gap=st.sampled_from((0, 0, 0, 0, 1, 5, 30)),
)
cases: st.SearchStrategy[Case] = st.builds(
    Case,
    stores=stores,
    submitted=st.lists(submitted, min_size=2, max_size=16).map(tuple),
    threads=st.integers(2, 6),
    horizon=st.sampled_from((None, None, None, 3, 1)),
)


class Desk:
    """A case in a system."""

    def __init__(self, case: Case, system: Supervisor, pause: Callable[[int], None], tick_s: float) -> None:
        self.case = case
        self.system = system
        self.refs = case.stores.register(system)
        self.attempts: collections.Counter[int] = collections.Counter()

        @system.on(SyncProgram)
        def run_sync(trigger: SyncProgram, tx: Any) -> Any:
            self.note(tx)
            run = Execution(tx, self.refs)
            for ticks in perform(self.steps(trigger), run):
                pause(ticks)
            return run.result

        @system.on(AsyncProgram)
        async def run_async(trigger: AsyncProgram, tx: Any) -> Any:
            self.note(tx)
            run = Execution(tx, self.refs)
            pauses: Generator[int, None, bool] = perform(self.steps(trigger), run)
            interrupted: BaseException | None = None
            while True:
                try:  # What cancels the handler arrives inside the program.
                    ticks = next(pauses) if interrupted is None else pauses.throw(interrupted)
                except StopIteration:
                    return run.result
                interrupted = await rest(ticks * tick_s)

        self.handlers: dict[type, Any] = {SyncProgram: run_sync, AsyncProgram: run_async}
        self.oracle_handler = self._serially

    def note(self, tx: Any) -> None:
        """Count executions by seq."""
        self.attempts[tx.seq] += 1

    def steps(self, trigger: Any) -> Steps:
        return self.case.submitted[trigger.number].steps

    def triggers(self) -> Iterator[tuple[Trigger[Any], Submitted]]:
        for i, each in enumerate(self.case.submitted):
            yield AsyncProgram(number=i) if each.is_async else SyncProgram(number=i), each

    def _serially(self, trigger: Any, tx: Any) -> Any:
        run = Execution(tx, self.refs)
        for _ in perform(self.steps(trigger), run):
            pass
        return run.result


async def rest(delay_s: float) -> BaseException | None:
    """Wait; returns what interrupted it, if anything did."""
    try:
        await asyncio.sleep(delay_s)
    except asyncio.CancelledError as cancelled:
        return cancelled
    return None


def run_simulated(case: Case, seed: int) -> None:
    """Execute on one thread in the order that the seed chooses, and compare."""
    simulation = SimulatedDispatchers(seed, threads=case.threads)
    with horizon(case.horizon):
        system = Supervisor(dispatchers=lambda _: simulation, settings=OFTEN)
        desk = Desk(case, system, pause=lambda ticks: None, tick_s=0.001)
        with system:
            first = system._running._path.board.newest  # type: ignore[union-attr]
            submissions = []
            for trigger, each in desk.triggers():
                submissions.append(system.submit(trigger, priority=each.priority))
                for _ in range(each.gap):
                    simulation.step()
            wait_for(submissions)
            check(desk, submissions, first)


def run_threaded(case: Case) -> None:
    """Execute on real threads, switching as often as the interpreter can, and compare."""
    with horizon(case.horizon), switching_often():
        system = Supervisor(settings={"threads": case.threads, **OFTEN})
        desk = Desk(case, system, pause=lambda ticks: os.sched_yield() if ticks else None, tick_s=0.0)
        with system:
            first = system._running._path.board.newest  # type: ignore[union-attr]
            submissions = []
            for trigger, each in desk.triggers():
                submissions.append(system.submit(trigger, priority=each.priority))
                for _ in range(each.gap):
                    os.sched_yield()
            wait_for(submissions)
            check(desk, submissions, first)


OFTEN = {"restart_intensity": 1_000_000}  # Stores that crash are part of the programs.


@contextmanager
def horizon(seqs: int | None) -> Iterator[None]:
    """Let the committer remember the writes of so many seqs only."""
    if seqs is None:
        yield
        return

    def small(stores: Any, states: Any, epoch: int, horizon: int, *others: Any) -> CommitOrder:
        return CommitOrder(stores, states, epoch, seqs, *others)

    with mock.patch.object(seqtor.commit_path, "CommitOrder", small):
        yield


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads be switched every few bytecodes instead of every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def wait_for(submissions: list[Submission[Any]]) -> None:
    """Wait until every run has ended."""
    for submission in submissions:
        with suppress(Rejected, HandlerFailed):
            submission.result(WAIT_S)


# Comparing ---------------------------------------------------------------------------------------------------------


def check(desk: Desk, submissions: list[Submission[Any]], first: Any) -> None:
    """Hold everything that can be seen of an execution against the serial oracle."""
    ordered = sorted(submissions, key=lambda submission: submission.seq or 0)
    assert [submission.seq for submission in ordered] == list(range(1, len(ordered) + 1)), "every seq exactly once"
    oracle = desk.case.stores.oracle()
    for submission in ordered:
        oracle.run(desk.oracle_handler, submission.trigger)
    check_publications(desk, first, oracle, len(ordered))
    records = [desk.system.record(submission.seq or 0) for submission in ordered]
    for submission, record, expected in zip(ordered, records, oracle.outcomes, strict=True):
        state, result, error = outcome_of(submission)
        where = f"seq {submission.seq}, {desk.steps(submission.trigger)}"
        assert (state, result, error_key(error)) == (expected.state, expected.result, error_key(expected.error)), where
        check_record(desk, record, state, error)
    check_stats(desk, records)


def outcome_of(submission: Submission[Any]) -> tuple[State, Any, BaseException | None]:
    """How a run ended, as its caller sees it."""
    try:
        return State.COMMITTED, submission.result(0), None
    except Rejected as rejection:
        return State.REJECTED, None, rejection
    except HandlerFailed as failure:
        return State.FAILED, None, failure.__cause__


def check_publications(desk: Desk, publication: Any, oracle: Any, last_seq: int) -> None:
    """At every publication the state is the oracle's, and the keys that changed were announced."""
    refs = tuple(desk.refs.values())
    before = contents_of(Snapshot(publication.seq, publication.states, refs), desk.refs)
    assert before == oracle.initial
    seq = index = 0
    while publication.next is not None:
        publication = publication.next
        assert publication.index == index + 1, "the index of publications rises by one"
        assert seq < publication.seq <= last_seq, "every publication makes later seqs visible"
        index, seq = publication.index, publication.seq
        after = contents_of(Snapshot(publication.seq, publication.states, refs), desk.refs)
        assert after == oracle.contents_after(seq), f"the state after seq {seq}"
        announced = {refs[store].name: set(keys) for store, keys in publication.writes.items()}
        for name in desk.refs:
            changed = changed_keys(before[name], after[name])
            assert changed <= announced.get(name, set()), f"changed without notice in {name} at seq {seq}"
        before = after
    assert seq == last_seq, "everything that ended is visible"
    assert contents_of(desk.system.snapshot(), desk.refs) == oracle.contents_after(last_seq)


def changed_keys(before: Any, after: Any) -> set[str]:
    """The keys (or fields) that differ between two contents."""
    old, new = dict(before), dict(after)
    return {key for key in old.keys() | new.keys() if (key in old, old.get(key)) != (key in new, new.get(key))}


def check_record(desk: Desk, record: RunRecord, state: State, error: BaseException | None) -> None:
    """The record tells the same story as the submission, and conflicts cost at most three executions."""
    assert record.state is state
    assert (record.error is None) == (error is None) == (state is State.COMMITTED)
    assert record.attempts <= 3, f"{record.attempts} attempts at seq {record.seq}: {record.conflicts}"
    assert [conflict.attempt for conflict in record.conflicts] == list(range(1, record.attempts))
    assert all(conflict.writer_seq is None or conflict.writer_seq < record.seq for conflict in record.conflicts)
    assert record.durable
    assert record.blocked_by is None
    assert desk.attempts[record.seq] == record.attempts, "every attempt executed the handler once"
    assert record.committed_at is not None
    assert record.submitted_at <= record.sequenced_at <= record.committed_at


def check_stats(desk: Desk, records: list[RunRecord]) -> None:
    """The figures add up to the records."""
    stats: Stats = desk.system.stats()
    count = len(records)
    assert stats.current_seq == stats.committed_through == stats.durable_through == stats.next_commit_seq - 1 == count
    assert (stats.queued, stats.in_flight, stats.pending_commits, stats.head_age) == (0, 0, 0, None)
    assert stats.state_counts == dict(collections.Counter(record.state for record in records))
    conflicts = sum(len(record.conflicts) for record in records)
    assert stats.conflicts == conflicts
    assert stats.restarts == desk_restarts(desk, records)
    report = desk.system.conflicts()
    assert report.conflicts == conflicts
    assert report.executions == sum(record.attempts for record in records)
    assert report.wasted_executions == conflicts


def desk_restarts(desk: Desk, records: list[RunRecord]) -> int:
    """A store that crashes on a commit is offered it three times."""
    return 3 * sum(1 for record in records if record.error == "Boom: validate")
