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
from collections.abc import Callable, Generator, Iterator, Mapping
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
from seqtor.actors.deferrals import DEFERRALS_MAX
from seqtor.messages import RunDeferred, RunRecord, Stats
from tests.oracle import error_key
from tests.properties.language import (
    KEYS,
    Execution,
    Steps,
    Stores,
    contents_of,
    perform,
    programs,
    stores,
    written_stores,
)
from tests.seeds import scaled

__all__ = ["Case", "cases", "examples", "run_simulated", "run_threaded"]

WAIT_S = 60.0  # Reached only when something hangs.


def examples(count: int, *, shrink: bool = True) -> Callable[[Any], Any]:
    """Hypothesis settings; SEQTOR_EXAMPLES=50 multiplies the number of examples by 50."""
    phases = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink) if shrink else (Phase.explicit, Phase.generate)
    return settings(
        max_examples=scaled(count),
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


class SyncAgent(SyncProgram):
    """The same, with a seq when it is done."""


class AsyncAgent(AsyncProgram):
    """The same, with a seq when it is done."""


class DeclaredProgram(SyncProgram):
    """A program that declares what it may write."""


class AsyncDeclaredProgram(AsyncProgram):
    """The same on the loop."""


class DeclaredAgent(SyncProgram):
    """A program with a seq when it is done, which declares what it may write."""


class AsyncDeclaredAgent(AsyncProgram):
    """The same on the loop."""


# By whether it is an agent and whether it declares: the types for the pool and for the loop.
KINDS: dict[tuple[bool, bool], tuple[type[SyncProgram], type[AsyncProgram]]] = {
    (False, False): (SyncProgram, AsyncProgram),
    (False, True): (DeclaredProgram, AsyncDeclaredProgram),
    (True, False): (SyncAgent, AsyncAgent),
    (True, True): (DeclaredAgent, AsyncDeclaredAgent),
}


@dataclasses.dataclass(frozen=True)
class Submitted:
    """One trigger: its program, its kind of handler, its priority, and how long others run before the next comes.

    `by_completion`: it gets its seq when it is done. One that declares what it may write names no keys but `declares`.
    """

    steps: Steps
    is_async: bool
    by_completion: bool
    priority: Priority
    gap: int
    declares: tuple[str, ...] | None = None


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
    by_completion=st.sampled_from((False, False, True)),
    priority=st.sampled_from((Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, Priority.LOW, Priority.URGENT)),
    gap=st.sampled_from((0, 0, 0, 0, 1, 5, 30)),
    declares=st.none() | st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True).map(tuple),
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

        @system.on(SyncAgent, sequence="completion")
        @system.on(SyncProgram)
        def run_sync(trigger: SyncProgram, tx: Any) -> Any:
            self.note(trigger, tx)
            run = Execution(tx, self.refs, self.keys(trigger))
            for ticks in perform(self.steps(trigger), run):
                pause(ticks)
            return run.result

        @system.on(AsyncAgent, sequence="completion")
        @system.on(AsyncProgram)
        async def run_async(trigger: AsyncProgram, tx: Any) -> Any:
            self.note(trigger, tx)
            run = Execution(tx, self.refs, self.keys(trigger))
            pauses: Generator[int, None, bool] = perform(self.steps(trigger), run)
            interrupted: BaseException | None = None
            while True:
                try:  # What cancels the handler arrives inside the program.
                    ticks = next(pauses) if interrupted is None else pauses.throw(interrupted)
                except StopIteration:
                    return run.result
                interrupted = await rest(ticks * tick_s)

        system.on(DeclaredProgram, writes=self.footprint)(run_sync)
        system.on(DeclaredAgent, writes=self.footprint, sequence="completion")(run_sync)
        system.on(AsyncDeclaredProgram, writes=self.footprint)(run_async)
        system.on(AsyncDeclaredAgent, writes=self.footprint, sequence="completion")(run_async)
        self.oracle_handler = self._serially

    def footprint(self, trigger: Any) -> list[Any]:
        """What a program may write."""
        declared: list[Any] = []
        for store, by_key in written_stores(self.steps(trigger)).items():
            declared += [(self.refs[store], key) for key in self.keys(trigger)] if by_key else [self.refs[store]]
        return declared

    def keys(self, trigger: Any) -> tuple[str, ...]:
        return self.case.submitted[trigger.number].declares or KEYS

    def note(self, trigger: Any, tx: Any) -> None:
        """Count executions."""
        self.attempts[trigger.number] += 1
        assert (tx.seq is None) == self.case.submitted[trigger.number].by_completion

    def number_of(self, submission: Submission[Any]) -> int:
        trigger: Any = submission.trigger
        number: int = trigger.number
        return number

    def steps(self, trigger: Any) -> Steps:
        return self.case.submitted[trigger.number].steps

    def triggers(self) -> Iterator[tuple[Trigger[Any], Submitted]]:
        for i, each in enumerate(self.case.submitted):
            kinds = KINDS[each.by_completion, each.declares is not None]
            yield kinds[each.is_async](number=i), each

    def _serially(self, trigger: Any, tx: Any) -> Any:
        run = Execution(tx, self.refs, self.keys(trigger))
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
        system = Supervisor(dispatchers=lambda _: simulation, settings=NEVER)
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
        system = Supervisor(settings={"threads": case.threads, **NEVER})
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


NEVER = {"restart_intensity": 0}  # A crash of the core breaks the system down: it is not healed behind the test's back.


@contextmanager
def horizon(seqs: int | None) -> Iterator[None]:
    """Let the committer remember the writes of so many seqs only."""
    if seqs is None:
        yield
        return

    def small(stores: Any, told: Any, epoch: int, horizon: int, *others: Any) -> CommitOrder:
        return CommitOrder(stores, told, epoch, seqs, *others)

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
    by_seq = {submission.seq: submission for submission in submissions}
    assert len(by_seq) == len(submissions), "every seq exactly once"
    kept = sorted(desk.system.commits(limit=10_000), key=lambda record: record.seq)
    assert [record.seq for record in kept] == list(range(1, len(kept) + 1)), "without gaps"
    deferred = {record.seq for record in kept if record.state is State.DEFERRED}
    assert by_seq.keys() | deferred == {record.seq for record in kept}
    oracle = desk.case.stores.oracle()
    for record in kept:
        if record.seq in deferred:
            oracle.skip(State.DEFERRED)
        elif gave_up(by_seq[record.seq]):
            oracle.skip(State.FAILED)
        else:
            submission = by_seq[record.seq]
            by_completion = desk.case.submitted[desk.number_of(submission)].by_completion
            oracle.run(
                desk.oracle_handler,
                submission.trigger,
                first_snapshot=record.first_snapshot,
                by_completion=by_completion,
            )
    check_publications(desk, first, oracle, len(kept))
    records = [desk.system.record(record.seq) for record in kept]
    for record, expected in zip(records, oracle.outcomes, strict=True):
        assert record is not None
        submission = by_seq.get(record.seq)
        if submission is None:
            check_record(record, State.DEFERRED, RunDeferred("deferred"))
            continue
        state, result, error = outcome_of(submission)
        where = f"seq {submission.seq}, {desk.steps(submission.trigger)}"
        if gave_up(submission):
            assert len([each for each in records if each.id == submission.id]) == DEFERRALS_MAX + 1
        else:
            found = (expected.state, expected.result, error_key(expected.error))
            assert (state, result, error_key(error)) == found, where
        check_record(record, state, error)
        attempts = sum(each.attempts for each in records if each.id == submission.id)
        number = desk.number_of(submission)
        assert desk.attempts[number] == attempts, "every attempt executed the handler once"
    check_stats(desk, records)
    too_often = sum(gave_up(submission) for submission in submissions)
    assert desk.system.verify().skipped.get("deferred", 0) == len(deferred) + too_often


def gave_up(submission: Submission[Any]) -> bool:
    """Whether an agent was deferred too often, which depends on the schedule."""
    _, _, error = outcome_of(submission)
    return type(error) is RunDeferred


def outcome_of(submission: Submission[Any]) -> tuple[State, Any, BaseException | None]:
    """How a run ended, as its caller sees it."""
    try:
        return State.COMMITTED, submission.result(0), None
    except Rejected as rejection:
        return State.REJECTED, None, rejection
    except HandlerFailed as failure:
        return State.FAILED, None, failure.__cause__


def check_publications(desk: Any, publication: Any, oracle: Any, last_seq: int) -> None:
    """At every publication the state is the oracle's, and the keys that changed were announced."""
    refs = tuple(desk.refs.values())
    before = contents_of(Snapshot(publication.seq, publication.states, refs), desk.refs)
    assert before == oracle.initial
    seq = index = count = 0
    early: dict[str, set[str]] = {}  # What was announced before its turn.
    while publication.next is not None:
        publication = publication.next
        assert publication.index == index + 1, "the index of publications rises by one"
        assert seq <= publication.seq <= last_seq, "seqs do not fall"
        assert publication.count > count, "every publication makes more runs visible"
        index, seq, count = publication.index, publication.seq, publication.count
        after = contents_of(Snapshot(publication.seq, publication.states, refs), desk.refs)
        assert after == oracle.contents_after(seq), f"the state after seq {seq}"
        for _, writes in publication.overtakers:
            for store, keys in writes.items():
                early.setdefault(refs[store].name, set()).update(keys)
        announced = {name: set(keys) for name, keys in early.items()}
        for store, keys in publication.writes.items():
            announced.setdefault(refs[store].name, set()).update(keys)
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


def check_record(record: RunRecord, state: State, error: BaseException | None) -> None:
    """The record tells the same story as the submission, and conflicts cost at most three executions."""
    assert record.state is state
    assert (record.error is None) == (error is None) == (state is State.COMMITTED)
    assert record.attempts <= 3, f"{record.attempts} attempts at seq {record.seq}: {record.conflicts}"
    assert [conflict.attempt for conflict in record.conflicts] == list(range(1, record.attempts))
    assert all(conflict.writer_seq is None or conflict.writer_seq < record.seq for conflict in record.conflicts)
    assert record.durable
    assert record.blocked_by is None
    assert record.committed_at is not None
    assert record.submitted_at <= record.sequenced_at <= record.committed_at


def check_stats(desk: Any, records: list[RunRecord], others: Mapping[State, int] | None = None) -> None:
    """The figures add up to the records, and to how those ended that have none of their own."""
    stats: Stats = desk.system.stats()
    count = len(records)
    assert stats.current_seq == stats.committed_through == stats.durable_through == stats.next_commit_seq - 1 == count
    assert (stats.queued, stats.in_flight, stats.pending_commits, stats.head_age) == (0, 0, 0, None)
    states = collections.Counter(record.state for record in records)
    assert stats.state_counts == dict(states + collections.Counter(others or {}))
    conflicts = sum(len(record.conflicts) for record in records)
    assert stats.conflicts == conflicts
    assert stats.restarts == desk_restarts(desk, records)
    report = desk.system.conflicts()
    assert report.conflicts == conflicts
    assert report.executions == sum(record.attempts for record in records)
    assert report.wasted_executions == conflicts


def desk_restarts(desk: Any, records: list[RunRecord]) -> int:
    """A store that crashes on a commit is offered it three times."""
    return 3 * sum(1 for record in records if record.error == "Boom: validate")
