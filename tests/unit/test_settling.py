"""What runs after the handler has returned but belongs to it: serialising the result, adopting intents.

Promises: it is part of the handler's time, so its deadline covers it, and nobody else waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer

from seqtor import Collection, DeadlineExceeded, Record, State, Supervisor, Transaction, Trigger
from seqtor.messages import CommitIntent

WAIT_S = 30


class Work(Trigger[Any]):
    pass


class Number(Record):
    n: int = 0


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_serialiser_that_hangs_holds_up_nobody_and_ends_at_the_deadline(released: threading.Event) -> None:
    entered = threading.Event()

    class Slow(BaseModel):
        n: int = 0

        @field_serializer("n")
        def hang(self, value: int) -> int:
            entered.set()
            released.wait(WAIT_S)
            return value

    system = Supervisor(settings={"threads": 2})

    @system.on(Work, deadline=0.2)
    def work(trigger: Work, tx: Transaction) -> Any:
        return Slow()

    with system:
        submission = system.submit(Work())
        assert entered.wait(WAIT_S)
        assert system.stats().in_flight == 1, "the core answers while the serialiser hangs"
        with pytest.raises(DeadlineExceeded):
            submission.result(WAIT_S)
        assert system.record(1).state is State.DEADLINE
        released.set()


def test_an_async_handler_that_blocks_its_thread_ends_at_the_deadline(released: threading.Event) -> None:
    system = Supervisor()

    class Quick(Trigger[int]):
        pass

    @system.on(Work, deadline=0.2)
    async def work(trigger: Work, tx: Transaction) -> None:
        released.wait(WAIT_S)

    @system.on(Quick)
    def quick(trigger: Quick, tx: Transaction) -> int:
        return 1

    with system:
        blocked, behind = system.submit(Work()), system.submit(Quick())
        with pytest.raises(DeadlineExceeded):
            blocked.result(WAIT_S)
        assert behind.result(WAIT_S) == 1, "what is behind it goes on"
        released.set()


def test_async_runs_that_return_intents_are_watched_no_longer_than_they_run() -> None:
    system = Supervisor()
    numbers = system.store("numbers", Collection(Number))

    @system.on(Work)
    async def work(trigger: Work, tx: Transaction) -> list[CommitIntent]:
        seq, content = tx.read(numbers)
        return [tx.prepare_commit(numbers, seq, {**content, "n": Number(n=len(content))})]

    with system:
        for submission in system.submit_many([Work() for _ in range(50)]):
            submission.result(WAIT_S)
        assert not system._running._path.coordinator._context.async_reads._wide  # type: ignore[union-attr]
