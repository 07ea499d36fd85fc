"""`coalesce=` and `merge=`: those that wait become one run, every submission gets its outcome, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from seqtor import (
    Bundle,
    Collection,
    HandlerFailed,
    Priority,
    Record,
    RegistrationError,
    Retry,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages import CommitRecord


class Seen(Record):
    """What was executed for a name."""

    parts: tuple[int, ...] = ()


class Refresh(Trigger[tuple[int, ...]]):
    """Becomes one with others of its name."""

    name: str = "a"
    parts: tuple[int, ...] = ()
    event_time: float | None = None


class Hold(Trigger[None]):
    """Holds the only place for coroutines until the test opens it."""


def joined(old: Refresh, new: Refresh) -> Refresh:
    if 13 in new.parts:
        raise ValueError("thirteen")
    return Refresh(name=new.name, parts=old.parts + new.parts, event_time=new.event_time)


class Desk:
    """A system in which all that is submitted waits, until `open()`."""

    def __init__(
        self, backend: MemoryBackend | None = None, *, merge: Any = None, retry: Retry | None = None, seed: int = 5
    ) -> None:
        self.dispatchers = SimulatedDispatchers(seed)
        self.system = Supervisor(
            backend, dispatchers=lambda _: self.dispatchers, settings={"max_in_flight": 1, "max_queued": 50}
        )
        self.opened = asyncio.Event()
        self.executed: list[tuple[int, ...]] = []
        self.failing: set[int] = set()
        seen = self.seen = self.system.store("seen", Collection(Seen))

        @self.system.on(Hold)
        async def hold(trigger: Hold, tx: Transaction) -> None:
            await self.opened.wait()

        @self.system.on(Refresh, coalesce=lambda trigger: trigger.name or None, merge=merge, retry=retry)
        async def refresh(trigger: Refresh, tx: Transaction) -> tuple[int, ...]:
            """Adds what it is given."""
            self.executed.append(trigger.parts)
            if self.failing & set(trigger.parts):
                self.failing.clear()
                raise LookupError("not now")
            before = tx[seen].get(trigger.name, Seen()).parts
            tx[seen][trigger.name] = Seen(parts=before + trigger.parts)
            return trigger.parts

    def start(self) -> Supervisor:
        self.system.start()
        self.system.submit(Hold(), priority=Priority.URGENT)
        self.dispatchers.run_to_rest()
        return self.system

    def open(self) -> None:
        self.opened.set()

    def records(self) -> list[CommitRecord]:
        return [record for record in self.system.commits(oldest_first=True) if record.trigger.type == "Refresh"]


def results(submissions: list[Submission[Any]]) -> list[Any]:
    return [submission.result(60) for submission in submissions]


journals = pytest.mark.parametrize("journaled", [False, True])


def backend_if(journaled: bool) -> MemoryBackend | None:
    return MemoryBackend() if journaled else None


@journals
def test_those_that_wait_under_a_key_become_one_run_of_the_newest(journaled: bool) -> None:
    desk = Desk(backend_if(journaled))
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in range(4)]
    others = [system.submit(Refresh(name="b", parts=(7,))), system.submit(Refresh(name="", parts=(8,)))]
    assert system.stats().queued == 6
    desk.open()
    assert results(ours) == [(3,)] * 4
    assert results(others) == [(7,), (8,)]
    assert desk.executed == [(3,), (7,), (8,)]
    assert [submission.seq for submission in ours] == [2] * 4
    assert not ours[0].cancel()
    (record, *_) = desk.records()
    assert record.run == ours[3].id
    assert record.coalesced == [submission.id for submission in ours[:3]]
    stats = system.stats()
    assert stats.state_counts == {State.COMMITTED: 4, State.COALESCED: 3}
    assert stats.queued == 0
    system.verify()
    running: Any = system._running
    assert running._accepted == running._path.sequencer.sequenced == 7
    assert not running.intake.open
    system.stop()


def test_the_newest_is_that_with_the_latest_event_then_the_last_to_come() -> None:
    desk = Desk()
    system = desk.start()
    ours = [
        system.submit(Refresh(parts=(number,), event_time=time)) for number, time in enumerate([5.0, 9.0, 9.0, 1.0])
    ]
    desk.open()
    assert results(ours) == [(2,)] * 4
    system.stop()


def test_they_stand_where_the_best_of_them_stood() -> None:
    desk = Desk()
    system = desk.start()
    first = system.submit(Refresh(name="first", parts=(1,)))
    ours = [system.submit(Refresh(parts=(number,))) for number in range(2)]
    between = system.submit(Refresh(name="between", parts=(2,)))
    low = system.submit(Refresh(name="low", parts=(3,)), priority=Priority.LOW)
    late = system.submit(Refresh(parts=(9,)), priority=Priority.LOW)
    urgent = system.submit(Refresh(name="low", parts=(4,)), priority=Priority.HIGH)
    desk.open()
    assert results([*ours, late]) == [(9,)] * 3
    results([first, between, low, urgent])
    assert desk.executed == [(4,), (1,), (9,), (2,)]
    assert [record.priority for record in desk.records()] == [Priority.HIGH] + [Priority.NORMAL] * 3
    system.stop()


@journals
def test_merge_makes_one_of_all_in_the_order_of_their_events(journaled: bool) -> None:
    desk = Desk(backend_if(journaled), merge=joined)
    system = desk.start()
    ours = [
        system.submit(Refresh(parts=(number,), event_time=time), idempotency_key=f"{number}")
        for number, time in enumerate([3.0, 1.0, 2.0])
    ]
    desk.open()
    assert results(ours) == [(1, 2, 0)] * 3
    assert desk.executed == [(1, 2, 0)]
    (record,) = desk.records()
    assert record.trigger.payload["parts"] == [1, 2, 0]  # type: ignore[index, call-overload]
    assert record.run == ours[0].id
    for number, time in enumerate([3.0, 1.0, 2.0]):
        again = system.submit(Refresh(parts=(number,), event_time=time), idempotency_key=f"{number}")
        assert again.result(60) == (1, 2, 0)
    assert desk.executed == [(1, 2, 0)]
    system.verify()
    system.stop()


@journals
def test_a_merge_that_raises_loses_nothing_each_runs_by_itself(journaled: bool) -> None:
    desk = Desk(backend_if(journaled), merge=joined)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in (1, 13, 2)]
    desk.open()
    assert results(ours) == [(1,), (13,), (2,)]
    assert sorted(desk.executed) == [(1,), (2,), (13,)]
    assert all(record.coalesced == [] for record in desk.records())
    assert system.stats().state_counts == {State.COMMITTED: 4}
    system.verify()
    system.stop()


@journals
def test_a_merge_that_returns_something_else_is_one_that_raises(journaled: bool) -> None:
    desk = Desk(backend_if(journaled), merge=lambda old, new: None)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in (1, 2)]
    desk.open()
    assert results(ours) == [(1,), (2,)]
    system.stop()


@journals
def test_all_get_the_outcome_of_the_last_retry(journaled: bool) -> None:
    desk = Desk(backend_if(journaled), merge=joined, retry=Retry(3, backoff=0.01))
    desk.failing = {2}
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in (1, 2, 3)]
    desk.open()
    assert results(ours) == [(1, 2, 3)] * 3
    assert desk.executed == [(1, 2, 3)] * 2
    assert [record.state for record in desk.records()] == [State.RETRYING, State.COMMITTED]
    assert [len(record.coalesced) for record in desk.records()] == [2, 0]
    assert system.stats().state_counts[State.COALESCED] == 2
    system.stop()


@journals
def test_all_get_the_error(journaled: bool) -> None:
    desk = Desk(backend_if(journaled))
    desk.failing = {2}
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in (1, 2)]
    desk.open()
    for submission in ours:
        with pytest.raises(HandlerFailed):
            submission.result(60)
    system.stop()


def test_one_of_them_is_taken_back_and_the_others_go_on() -> None:
    for index in range(3):
        desk = Desk(merge=joined)
        system = desk.start()
        ours = [system.submit(Refresh(parts=(number,))) for number in range(3)]
        first = system.submit(Refresh(parts=(3,)), priority=Priority.HIGH)
        assert ours[index].cancel()
        assert first.cancel()
        desk.open()
        left = tuple(number for number in range(3) if number != index)
        assert [submission.result(60) for number, submission in enumerate(ours) if number != index] == [left] * 2
        assert system.stats().queued == 0
        system.stop()


@pytest.mark.parametrize("merge", [None, joined])
def test_after_a_death_those_that_had_not_ended_become_one_again(merge: Any) -> None:
    backend = MemoryBackend()
    desk = Desk(backend, merge=merge)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,)), idempotency_key=f"{number}") for number in range(3)]
    ours[-1].accepted().get()
    backend.close()  # The process dies here.
    again = Desk(backend, merge=merge)
    again.open()
    with again.system as system:
        expected = (0, 1, 2) if merge else (2,)
        for number in range(3):
            assert system.submit(Refresh(parts=(number,)), idempotency_key=f"{number}").result(60) == expected
        assert again.executed == [expected]
    third = Desk(backend, merge=merge)
    with third.system as system:
        for number in range(3):
            assert system.submit(Refresh(parts=(number,)), idempotency_key=f"{number}").result(60) == expected
        assert third.executed == []
        assert not system._running.intake.open  # type: ignore[union-attr]


def test_what_a_handler_submits_becomes_one_too() -> None:
    desk = Desk(MemoryBackend(), merge=joined)

    @desk.system.on(Plan)
    def plan(trigger: Plan, tx: Transaction) -> None:
        for number in range(3):
            tx.submit(Refresh(parts=(number,)))

    desk.open()
    system = desk.start()
    system.ask(Plan())
    desk.dispatchers.run_to_rest()
    assert desk.executed == [(0, 1, 2)]
    system.verify()
    system.stop()


class Plan(Trigger[None]):
    """Submits several."""


def test_those_that_wait_count_in_the_queue_until_they_are_one() -> None:
    desk = Desk()
    system = desk.start()
    for number in range(49):
        system.tell(Refresh(parts=(number,)))
    assert system.stats().queued == 49
    desk.open()
    assert system.ask(Hold()) is None
    assert system.stats().queued == 0
    system.stop()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"coalesce": 3}, "coalesce= of the handler of Refresh is a plain function"),
        ({"coalesce": lambda: "x"}, r"coalesce= of the handler of Refresh is called with \(trigger\)"),
        ({"merge": joined}, "merge= of the handler of Refresh needs coalesce="),
        ({"coalesce": str, "merge": lambda one: one}, r"is called with \(old, new\)"),
        ({"coalesce": str, "sequence": "completion"}, "does not go with coalesce="),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], text: str) -> None:
    for place in (Supervisor(), Bundle()):
        with pytest.raises(RegistrationError, match=text):
            place.on(Refresh, **options)(_handle)


def test_merge_and_writes_are_refused_together() -> None:
    system = Supervisor()
    store = system.store("seen", Collection(Seen))
    with pytest.raises(RegistrationError, match="has merge= and writes=, which do not go together"):
        system.on(Refresh, coalesce=str, merge=joined, writes=[store])(_handle)


async def _handle(trigger: Refresh, tx: Transaction) -> tuple[int, ...]:
    return ()


def test_a_key_that_is_none_is_refused_where_the_trigger_is_handed_in() -> None:
    system = Supervisor(dispatchers=lambda _: SimulatedDispatchers(1))
    system.on(Refresh, coalesce=lambda trigger: 1 / trigger.parts[0] if trigger.parts else 5)(_handle)  # type: ignore[arg-type, return-value]
    with system:
        with pytest.raises(
            TypeError, match=r"returns a str, or None for a trigger that runs by itself; .* it returned 5"
        ):
            system.submit(Refresh())
        with pytest.raises(ZeroDivisionError):
            system.submit_many([Refresh(parts=(0,))])
        assert system.stats().queued == 0
