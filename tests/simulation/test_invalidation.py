"""Push invalidation: a run learns at once that what it has read has changed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from seqtor import Collection, Record, State, Transaction, Trigger
from seqtor.actors.async_reads import AsyncReads
from seqtor.actors.publications import Board, Publication
from tests.programs import WAIT_S, threaded
from tests.simulation.worlds import World, everywhere, wait_for

FOREVER_S = 1e6


class Number(Record):
    """A counter."""

    n: int = 0


class Lower(Trigger[None]):
    """Changes something."""


class Higher(Trigger[int]):
    """Has read it, and waits."""

    way: str = "key"


WAYS: dict[str, Any] = {
    "key": lambda view: view.get("x"),
    "absent key": lambda view: view.get("new"),
    "scan": lambda view: list(view.scan(prefix="n")),
    "len": len,
}


@everywhere
@pytest.mark.parametrize("way", WAYS)
def test_an_async_handler_is_cancelled_when_what_it_read_changes(world: World, way: str) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number, initial={"x": Number()}))
    has_read = asyncio.Event()
    cancelled: list[int] = []

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await has_read.wait()
        tx[numbers]["x"] = Number(n=1)
        tx[numbers]["new"] = Number(n=2)

    @system.on(Higher, deadline=FOREVER_S)
    async def higher(trigger: Higher, tx: Transaction) -> int:
        WAYS[trigger.way](tx[numbers])
        has_read.set()
        if tx.attempt == 1:
            try:
                await asyncio.sleep(FOREVER_S)
            except asyncio.CancelledError:
                cancelled.append(tx.attempt)
                raise
        return tx[numbers]["x"].n

    with system:
        first, second = system.submit_many([Lower(), Higher(way=way)])
        assert wait_for([first, second]) == [State.COMMITTED] * 2
        assert second.result(0) == 1
        assert cancelled == [1]
        assert system.record(2).attempts == 2


@everywhere
def test_an_async_handler_is_left_alone_when_something_else_changes(world: World) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number, initial={"x": Number()}))
    has_read, has_committed = asyncio.Event(), asyncio.Event()

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await has_read.wait()
        tx[numbers]["y"] = Number(n=1)

    @system.on(Higher)
    async def higher(trigger: Higher, tx: Transaction) -> int:
        n = tx[numbers]["x"].n
        has_read.set()
        await has_committed.wait()
        return n

    with system:
        first, second = system.submit_many([Lower(), Higher()])
        first.result(WAIT_S)
        if system._running is not None and system._running.intake.driver is not None:
            has_committed.set()
        else:
            system._running._dispatchers.loop.call(has_committed.set)  # type: ignore[union-attr, attr-defined]
        assert second.result(WAIT_S) == 0
        assert system.record(2).attempts == 1


def test_a_sync_handler_leaves_at_its_next_operation_when_what_it_read_has_changed() -> None:
    system = threaded(4)
    numbers = system.store("numbers", Collection(Number, initial={"x": Number()}))
    has_read, has_committed = threading.Event(), threading.Event()
    reached: list[int] = []

    @system.on(Lower)
    def lower(trigger: Lower, tx: Transaction) -> None:
        assert has_read.wait(WAIT_S)
        tx[numbers]["x"] = Number(n=1)

    @system.on(Higher)
    def higher(trigger: Higher, tx: Transaction) -> int:
        n = tx[numbers]["x"].n
        has_read.set()
        assert has_committed.wait(WAIT_S)
        try:
            tx[numbers].get("y")
        except Exception:  # Must not catch it: handlers swallow what they like of what is theirs.
            reached.append(-1)
        reached.append(tx.attempt)
        return n

    with system:
        first, second = system.submit_many([Lower(), Higher()])
        first.result(WAIT_S)
        has_committed.set()
        assert second.result(WAIT_S) == 1
        assert reached == [2]


def test_a_sync_handler_that_first_reads_what_has_changed_since_its_snapshot_leaves() -> None:
    system = threaded(4)
    numbers = system.store("numbers", Collection(Number, initial={"x": Number(), "y": Number()}))
    has_read, has_committed = threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    @system.on(Lower)
    def lower(trigger: Lower, tx: Transaction) -> None:
        assert has_read.wait(WAIT_S)
        tx[numbers]["x"] = Number(n=1)

    @system.on(Higher)
    def higher(trigger: Higher, tx: Transaction) -> int:
        tx[numbers].get("y")
        has_read.set()
        assert has_committed.wait(WAIT_S)
        tx[numbers].get("y")  # Finds the publication; it does not concern what was read so far.
        seen.append((tx.attempt, tx[numbers]["x"].n))
        return tx[numbers]["x"].n

    with system:
        first, second = system.submit_many([Lower(), Higher()])
        first.result(WAIT_S)
        has_committed.set()
        assert second.result(WAIT_S) == 1
        assert seen == [(2, 1)]


class FakeAttempt:
    """As much of a transaction as the watch knows."""

    snapshot_index = 0

    def __init__(self, seq: int, key: str, log: list[int]) -> None:
        self.seq = self.rank = seq
        self.key = key
        self.log = log

    def keys_read(self) -> list[tuple[int, str]]:
        return [(0, self.key)]

    def meets(self, writes: Any) -> bool:
        return self.key in writes.get(0, ())

    def invalidate(self) -> None:
        self.log.append(self.seq)


def test_the_watch_survives_that_its_last_reader_leaves_while_it_looks() -> None:
    """The committer moves the watch on by itself while nobody reads, and the loop may be looking just then."""
    published: list[Any] = []

    class Link:
        """A publication; when the loop first looks for its successor, the committer publishes once more."""

        def __init__(self, index: int, writes: Any) -> None:
            self.index = index
            self.writes = writes
            self.overtakers = ()
            self.successor: Link | None = None

        @property
        def next(self) -> Link | None:
            if published:
                watch.published(published.pop())
            return self.successor

    scheduled: list[Any] = []
    links = [Link(index, {0: {"xyz"[index % 3]}}) for index in range(4)]
    links[0].successor, links[1].successor = links[1], links[2]
    first: Any = links[0]
    watch = AsyncReads(first, scheduled.append)
    log: list[int] = []
    reader = FakeAttempt(1, "x", log)
    watch.add(0, "x", reader)
    watch.published(links[1])  # type: ignore[arg-type]
    watch.discard(reader)
    published.append(links[2])
    scheduled.pop()()
    watch.add(0, "x", reader)
    links[2].successor = links[3]
    watch.published(links[3])  # type: ignore[arg-type]
    scheduled.pop()()
    assert log == [1]


def test_attempts_are_invalidated_in_seq_order_whatever_the_order_of_the_keys() -> None:
    board = Board(Publication(0, 0, (None,), {}), 1)
    scheduled: list[Any] = []
    watch = AsyncReads(board.newest, scheduled.append)
    log: list[int] = []
    for seq in (5, 3, 9, 1, 7):
        watch.add(0, f"key{seq}", FakeAttempt(seq, f"key{seq}", log))
    watch.add(0, None, FakeAttempt(4, "key9", log))
    watch.published(board.publish(Publication(1, 1, (None,), {0: [f"key{seq}" for seq in (9, 7, 5, 3, 1)]})))
    scheduled[0]()
    assert log == [1, 3, 4, 5, 7, 9]
