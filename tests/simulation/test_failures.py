"""What goes wrong in one run stops no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from seqtor import Collection, DeadlineExceeded, HandlerFailed, Record, State, Supervisor, Transaction, Trigger
from seqtor.actors.transactions import AttemptState
from seqtor.actors.transactions import Transaction as RunningTransaction
from tests.programs import WAIT_S, threaded
from tests.simulation.worlds import World, everywhere

DEADLINE_S = 0.05


class Number(Record):
    """A counter."""

    n: int = 0


class Step(Trigger[int]):
    """Adds one; one of them goes wrong."""

    number: int


class Release:
    """What a hanging handler hangs on; set at the end of the test."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def hang(self) -> None:
        assert self.event.wait(WAIT_S), "the test has not ended"


@pytest.fixture
def release() -> Iterator[Release]:
    release = Release()
    yield release
    release.event.set()


def eight_commit(system: Supervisor, numbers: Any, release: Release | None, error: type[Exception]) -> None:
    """Nine triggers, the seventh of which goes wrong."""
    with system:
        submissions = system.submit_many([Step(number=i) for i in range(1, 10)])
        results: dict[int | None, Any] = {}
        for submission in submissions:
            try:
                result: Any = submission.result(WAIT_S)
            except (HandlerFailed, DeadlineExceeded) as failure:
                result = type(failure)
            results[submission.seq] = result
        assert results == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: error, 8: 7, 9: 8}
        assert system.snapshot()[numbers]["x"].n == 8
        ended = State.FAILED if error is HandlerFailed else State.DEADLINE
        stats = system.stats()
        assert stats.state_counts == {State.COMMITTED: 8, ended: 1}
        assert stats.committed_through == 9
        record = system.record(7)
        assert record.state is ended
        assert record.error
        if release is not None:
            release.event.set()


@everywhere
def test_a_handler_that_raises_at_seq_7_leaves_8_commits(world: World) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number))

    @system.on(Step)
    def step(trigger: Step, tx: Transaction) -> int:
        if trigger.number == 7:
            raise ValueError("seven")
        n = tx[numbers].get("x", Number()).n + 1
        tx[numbers]["x"] = Number(n=n)
        return n

    eight_commit(system, numbers, None, HandlerFailed)


@everywhere
@pytest.mark.parametrize("reads_first", [False, True])
def test_an_async_handler_that_hangs_at_seq_7_leaves_8_commits(world: World, reads_first: bool) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number))

    @system.on(Step, deadline=DEADLINE_S)
    async def step(trigger: Step, tx: Transaction) -> int:
        if trigger.number == 7 and not reads_first:
            await asyncio.Event().wait()
        n = tx[numbers].get("x", Number()).n + 1
        if trigger.number == 7:
            await asyncio.Event().wait()
        tx[numbers]["x"] = Number(n=n)
        return n

    eight_commit(system, numbers, None, DeadlineExceeded)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("reads_first", [False, True])
def test_a_handler_that_hangs_at_seq_7_leaves_8_commits(threads: int, reads_first: bool, release: Release) -> None:
    system = threaded(threads)
    numbers = system.store("numbers", Collection(Number))

    @system.on(Step, deadline=DEADLINE_S)
    def step(trigger: Step, tx: Transaction) -> int:
        if trigger.number == 7 and not reads_first:
            release.hang()
        n = tx[numbers].get("x", Number()).n + 1
        if trigger.number == 7:
            release.hang()
        tx[numbers]["x"] = Number(n=n)
        return n

    eight_commit(system, numbers, release, DeadlineExceeded)


def test_more_hanging_handlers_than_threads_stop_nobody(release: Release) -> None:
    system = threaded(2)
    numbers = system.store("numbers", Collection(Number))

    @system.on(Step, deadline=DEADLINE_S)
    def step(trigger: Step, tx: Transaction) -> int:
        if trigger.number % 2:
            release.hang()
        n = tx[numbers].get("x", Number()).n + 1
        tx[numbers]["x"] = Number(n=n)
        return n

    with system:
        submissions = system.submit_many([Step(number=i) for i in range(12)])
        for i, submission in enumerate(submissions):
            if i % 2:
                with pytest.raises(DeadlineExceeded):
                    submission.result(WAIT_S)
            else:
                assert submission.result(WAIT_S) == i // 2 + 1
        release.event.set()


# Attempts that are over and do not leave ------------------------------------------------------------------------------


class Lower(Trigger[None]):
    """Changes what the higher run has read."""


class Higher(Trigger[int]):
    """Reads it before."""


def test_a_handler_that_swallows_its_abandonment_and_hangs_is_executed_again(release: Release) -> None:
    system = threaded(4)
    numbers = system.store("numbers", Collection(Number))
    has_read, has_committed = threading.Event(), threading.Event()

    @system.on(Lower)
    def lower(trigger: Lower, tx: Transaction) -> None:
        assert has_read.wait(WAIT_S)
        tx[numbers]["x"] = Number(n=1)

    @system.on(Higher, deadline=DEADLINE_S * 4)
    def higher(trigger: Higher, tx: Transaction) -> int:
        n = tx[numbers].get("x", Number()).n
        if tx.attempt == 1:
            has_read.set()
            assert has_committed.wait(WAIT_S)
            try:
                tx[numbers].get("y")
            except BaseException:
                release.hang()
        return n

    with system:
        first, second = system.submit_many([Lower(), Higher()])
        first.result(WAIT_S)
        has_committed.set()
        assert second.result(WAIT_S) == 1
        assert system.record(2).attempts == 2
        release.event.set()


@everywhere
def test_an_async_handler_that_swallows_its_cancellation_and_hangs_is_executed_again(world: World) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number))
    has_read = asyncio.Event()

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await has_read.wait()
        tx[numbers]["x"] = Number(n=1)

    @system.on(Higher, deadline=DEADLINE_S * 4)
    async def higher(trigger: Higher, tx: Transaction) -> int:
        n = tx[numbers].get("x", Number()).n
        has_read.set()
        while not n:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(tx.attempt)
        return n

    swallowed: list[int] = []
    with system:
        first, second = system.submit_many([Lower(), Higher()])
        first.result(WAIT_S)
        assert second.result(WAIT_S) == 1
        assert swallowed == [1]
        assert system.record(2).attempts == 2


def test_a_handler_that_returns_while_its_deadline_passes_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch has just ended the attempt when the handler returns and lets the transaction forget its run."""
    system = threaded(2)
    passing, returned = threading.Event(), threading.Event()
    forget = RunningTransaction.forget

    class Passing:
        """The state of an attempt, that tells when it becomes expired and waits there for the handler's return."""

        def __get__(self, tx: Any, owner: Any = None) -> Any:
            return self if tx is None else state.__get__(tx, owner)

        def __set__(self, tx: Any, value: AttemptState) -> None:
            state.__set__(tx, value)
            if value is AttemptState.EXPIRED:
                passing.set()
                assert returned.wait(WAIT_S)

    def forget_and_tell(tx: RunningTransaction) -> None:
        forget(tx)
        returned.set()

    state: Any = RunningTransaction.__dict__["state"]
    monkeypatch.setattr(RunningTransaction, "state", Passing())
    monkeypatch.setattr(RunningTransaction, "forget", forget_and_tell)

    @system.on(Higher, deadline=DEADLINE_S)
    def higher(trigger: Higher, tx: Transaction) -> int:
        assert passing.wait(WAIT_S)
        return 1

    with system:
        submission = system.submit(Higher())
        with pytest.raises(DeadlineExceeded):
            submission.result(WAIT_S)
        assert system.record(1).state is State.DEADLINE
