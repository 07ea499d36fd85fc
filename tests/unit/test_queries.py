"""Queries of what was: the same answers from the coordinator, which forgets, and from the journal, which does not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

import seqtor.actors.journal.history
import seqtor.queries
from seqtor import (
    CommitRecord,
    HandlerFailed,
    JournalCorrupted,
    NotRunning,
    Rejected,
    RunRecord,
    SeqtorError,
    State,
    Supervisor,
    Transaction,
    Trigger,
    WouldDeadlock,
)
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages import UnregisteredTrigger
from tests.programs import WAIT_S, Deposit, Gate, open_bank, simulated


class Odd(Trigger[int]):
    """Commits, is rejected, or fails; a seventh submits another."""

    number: int


class Child(Trigger[None]):
    """What an `Odd` submits."""


def odd_bank(journal: Any = None, **settings: Any) -> Supervisor:
    system = simulated(journal=journal, settings=settings)
    open_bank(system)

    @system.on(Odd)
    def odd(trigger: Odd, tx: Transaction) -> int:
        if trigger.number % 3 == 1:
            raise Rejected("not this one", number=trigger.number)
        if trigger.number % 3 == 2:
            raise ValueError(f"wrong: {trigger.number}")
        if trigger.number == 6:
            tx.submit(Child())
            tx.emit("six")
        return trigger.number

    system.on(Child)(lambda trigger, tx: None)
    return system


def run(system: Supervisor, count: int) -> None:
    for number in range(count):
        with contextlib.suppress(Rejected, HandlerFailed):
            system.ask(Odd(number=number), timeout=WAIT_S)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few runs are several pieces."""
    monkeypatch.setattr(seqtor.queries, "PIECE", 4)
    monkeypatch.setattr(seqtor.inspection, "PIECE", 4)
    monkeypatch.setattr(seqtor.actors.journal.history, "PIECE", 3)


# Commits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [None, MemoryBackend])
def test_commits_come_newest_first_or_from_where_one_has_stopped(journal: Any) -> None:
    with odd_bank(journal and journal()) as system:
        assert list(system.commits()) == []
        run(system, 10)
        last = system.stats().committed_through
        assert last == 12
        assert [record.seq for record in system.commits()] == list(range(12, 0, -1))
        assert [record.seq for record in system.commits(after=9)] == [12, 11, 10]
        assert [record.seq for record in system.commits(limit=2)] == [12, 11]
        assert [record.seq for record in system.commits(after=7, limit=2, oldest_first=True)] == [8, 9]
        assert [record.seq for record in system.commits(oldest_first=True)] == list(range(1, 13))
        assert list(system.commits(after=12)) == list(system.commits(after=99)) == list(system.commits(limit=0)) == []
        record = next(system.commits(after=0, limit=1, oldest_first=True))
        assert isinstance(record, CommitRecord)
        assert (record.state, record.trigger.type, record.result) == (State.COMMITTED, "Odd", 0)


def test_commits_are_read_without_a_start_and_after_the_stop(tmp_path: Path) -> None:
    with odd_bank(tmp_path / "j.db") as system:
        run(system, 5)
    assert [record.seq for record in system.commits()] == [5, 4, 3, 2, 1]
    assert [record.seq for record in odd_bank(tmp_path / "j.db").commits(after=3)] == [5, 4]
    with pytest.raises(NotRunning, match="keeps everything in memory"):
        next(odd_bank().commits())


def test_a_flipped_bit_in_an_older_record_is_found_when_it_is_used() -> None:
    backend = MemoryBackend()
    with odd_bank(backend) as system:
        run(system, 10)
        body = backend._commits[4].body
        backend._commits[4] = backend._commits[4]._replace(
            body=body.replace("wrong: 4", "wrong: 5").replace("not", "nor")
        )
        assert [record.seq for record in system.commits(after=9)] == [12, 11, 10]
        with pytest.raises(
            JournalCorrupted, match="the record of seq 5, or the one before it, is not what was written"
        ):
            list(system.commits())
        with pytest.raises(JournalCorrupted) as corrupted:
            system.snapshot(8)
        assert corrupted.value.seq == 5


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", None, True])
def test_commits_refuses_what_is_no_seq(wrong: Any) -> None:
    with simulated() as system:
        with pytest.raises(TypeError, match="takes the seq after which to begin"):
            system.commits(after=wrong)
        if wrong is not None:
            with pytest.raises(TypeError, match="limit is a count"):
                system.commits(limit=wrong)
            with pytest.raises(TypeError, match="limit is a count"):
                system.runs(limit=wrong)


# Records and runs --------------------------------------------------------------------------------------------------------


def test_a_run_looks_the_same_from_the_coordinator_and_from_the_journal() -> None:
    with odd_bank(MemoryBackend()) as system:
        run(system, 9)
        fresh = system.runs()
        records = [system.record(seq) for seq in range(11, 0, -1)]
        assert fresh == records
        assert fresh[4].caused_by == ()
        (child,) = system.runs(trigger=Child)
        assert child.caused_by == (system.record(7).id,)
        assert system.record(7).causes == (child.id, system.runs(trigger="seqtor.event")[0].id)
        backend = system._make_backend()
    with odd_bank(backend) as system:
        assert system.runs() == fresh
        assert [system.record(seq) for seq in range(11, 0, -1)] == fresh
        run(system, 3)
        assert [found.seq for found in system.runs(limit=5)] == [14, 13, 12, 11, 10]
    assert [system.record(seq) for seq in range(11, 0, -1)] == fresh, "after the stop, too"
    assert system.runs()[3:] == fresh


def test_what_the_coordinator_forgets_the_journal_tells() -> None:
    with odd_bank(MemoryBackend(), records_max=3) as system:
        run(system, 10)
        assert system.record(1).trigger == Odd(number=0)
        assert [found.seq for found in system.runs()] == list(range(12, 0, -1))
        assert {found.state for found in system.runs(state="failed")} == {State.FAILED}
    with odd_bank(records_max=3) as system:
        run(system, 10)
        with pytest.raises(
            LookupError, match=r"there is no record of seq 1: .* older than the 3 records that are kept"
        ):
            system.record(1)
        assert [found.seq for found in system.runs()] == [12, 11, 10]


@pytest.mark.parametrize("journal", [None, MemoryBackend])
def test_runs_are_filtered_by_state_and_trigger(journal: Any) -> None:
    backend = journal and journal()
    with odd_bank(backend) as system:
        run(system, 9)
        system.ask(Deposit(), timeout=WAIT_S)

        def seqs(**filters: Any) -> list[int]:
            return [found.seq for found in system.runs(**filters)]

        assert seqs(state=State.REJECTED) == seqs(state="rejected") == [10, 5, 2]
        assert seqs(state=["rejected", State.FAILED]) == [11, 10, 6, 5, 3, 2]
        assert seqs(trigger=Deposit) == seqs(trigger="Deposit") == [12]
        assert seqs(trigger=Odd, state="committed", limit=2) == [7, 4]
        assert seqs(trigger="Nothing") == seqs(limit=0) == seqs(state=[]) == []
        wrong: Any
        for wrong in ("done", 3, ["committed", "nope"]):
            with pytest.raises(TypeError, match=r"state is one of queued, running, .*, or several of them, got"):
                system.runs(state=wrong)
        for wrong in (3, Deposit(), dict):
            with pytest.raises(TypeError, match="trigger is a Trigger subclass or the name of one, got"):
                system.runs(trigger=wrong)


def test_runs_that_have_not_ended_are_among_them() -> None:
    system = Supervisor(settings={"threads": 2})
    gate = Gate()

    @system.on(Child)
    def wait(trigger: Child, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        system.tell(Child())
        gate.await_arrivals()
        (found,) = system.runs()
        assert (found.seq, found.state, found.committed_at) == (1, State.RUNNING, None)
        assert system.runs(state="running") == [found]
        gate.open()


def test_runs_of_triggers_that_are_not_registered_any_more_can_be_looked_at() -> None:
    backend = MemoryBackend()
    with odd_bank(backend) as system:
        run(system, 2)
    other = simulated(journal=backend)
    open_bank(other)
    with other:
        (second, first) = other.runs()
        assert first.trigger == UnregisteredTrigger(type="Odd", version=1, payload_json='{"number":0}')
        assert second.error == "not this one (number=1)"
        assert other.runs(trigger="Odd") == [second, first]


def test_an_error_is_told_as_it_was_when_its_class_is_gone() -> None:
    backend = MemoryBackend()
    system = simulated(journal=backend)

    class GoneError(Exception):
        """Known to this function alone."""

    @system.on(Odd)
    def odd(trigger: Odd, tx: Transaction) -> None:
        raise GoneError("away")

    with system:
        with contextlib.suppress(SeqtorError):
            system.ask(Odd(number=1), timeout=WAIT_S)
        told = system.record(1).error
    with odd_bank(backend) as again:
        assert again.record(1).error == told == "GoneError: away"


def test_queries_of_the_past_are_refused_inside_a_handler() -> None:
    system = simulated()
    refused: list[str] = []

    @system.on(Odd)
    def odd(trigger: Odd, tx: Transaction) -> None:
        for verb in (system.runs, system.commits, system.verify, system.replay):
            with pytest.raises(WouldDeadlock, match=f"system.{verb.__name__}.. inside the handler of Odd"):
                verb()
            refused.append(verb.__name__)

    with system:
        system.ask(Odd(number=0), timeout=WAIT_S)
    assert refused == ["runs", "commits", "verify", "replay"]


def test_a_system_that_was_never_started_knows_no_runs() -> None:
    with pytest.raises(NotRunning):
        odd_bank().runs()
    with pytest.raises(NotRunning):
        odd_bank(MemoryBackend()).record(1)


def test_records_are_what_they_say() -> None:
    with odd_bank(MemoryBackend()) as system:
        run(system, 1)
        record = system.record(1)
    assert isinstance(record, RunRecord)
    assert record.retry_count == 0
