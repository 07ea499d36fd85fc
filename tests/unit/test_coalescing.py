"""`coalesce=` and `merge=`: those that wait become one run, every submission gets its outcome, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pykka.messages import ProxyCall

from seqtor import (
    Bundle,
    Cancelled,
    Collection,
    DeadlineExceeded,
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
    current_transaction,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer.groups import Groups
from seqtor.edge import Edge
from seqtor.messages import AcceptTriggers, CommitRecord


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


class Wait(Trigger[None]):
    """The same, until the test says that it goes on."""


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
        self.go_on = asyncio.Event()
        self.executed: list[tuple[int, ...]] = []
        self.failing: set[int] = set()
        seen = self.seen = self.system.store("seen", Collection(Seen))

        @self.system.on(Hold)
        async def hold(trigger: Hold, tx: Transaction) -> None:
            await self.opened.wait()

        @self.system.on(Wait)
        async def wait(trigger: Wait, tx: Transaction) -> None:
            await self.go_on.wait()

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
    assert running.edge.accepted == running._path.sequencer.sequenced == 7
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
@pytest.mark.parametrize("merge", [joined, None])
def test_they_stay_one_when_the_core_crashes_while_their_retry_waits(merge: Any, journaled: bool) -> None:
    desk = Desk(backend_if(journaled), merge=merge, retry=Retry(3, backoff=10.0))
    desk.failing = {2}
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in (1, 2)]
    desk.open()
    desk.dispatchers.run_until(lambda: len(desk.records()) == 1, 5)
    running: Any = system._running
    crash = ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={})
    running._path.coordinator_ref.actor_inbox.put(crash)
    desk.dispatchers.run_to_rest()
    assert system.stats().restarts == 1
    assert not ours[0].cancel(), "it has had a seq"
    one = (2,) if merge is None else (1, 2)
    assert results(ours) == [one] * 2
    assert desk.executed == [one] * 2
    assert [record.state for record in desk.records()] == [State.RETRYING, State.COMMITTED]
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


@journals
@pytest.mark.parametrize("merge", [None, joined])
def test_one_that_is_taken_back_after_a_crash_in_which_they_became_one_never_runs(
    merge: Any, journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequencer crashes when they have become one that has no seq; then something urgent takes the place."""
    desk = Desk(backend_if(journaled), merge=merge)
    system = desk.start()
    parts = (1, 2, 13, 4)  # With `joined` they come apart: nothing is merged with 13.
    ours = [system.submit(Refresh(parts=(part,))) for part in parts]
    desk.dispatchers.run_to_rest()
    take = Groups.take

    def crash(self: Groups, lead: Any) -> Any:
        monkeypatch.setattr(Groups, "take", take)
        assert take(self, lead)[1] == len(ours)
        blocked.append(system.submit(Wait(), priority=Priority.URGENT))
        raise RuntimeError("crashed when they had become one")

    blocked: list[Submission[Any]] = []
    monkeypatch.setattr(Groups, "take", crash)
    desk.open()
    desk.dispatchers.run_until(lambda: bool(blocked) and blocked[0].state is State.RUNNING, 60)
    assert system.stats().restarts == 1
    assert [submission.seq for submission in ours] == [None] * 4
    assert ours[1].cancel()
    desk.go_on.set()
    expected = [(1,), (13,), (4,)] if merge is not None else [(4,)] * 3
    assert results([ours[0], ours[2], ours[3]]) == expected
    assert all(2 not in executed for executed in desk.executed)
    with pytest.raises(Cancelled):
        ours[1].result(0)
    desk.dispatchers.run_to_rest()
    stats = system.stats()
    assert (stats.queued, stats.state_counts[State.CANCELLED]) == (0, 1)
    running: Any = system._running
    sequencer = running._path.sequencer
    assert running.edge.accepted + sequencer.bypassed == sequencer.sequenced
    assert not running.intake.open
    system.verify()
    system.stop()


@pytest.mark.parametrize(
    "places",
    [
        [(Priority.LOW, 0.0), (Priority.NORMAL, 5.0), (Priority.HIGH, 0.0)],
        [(Priority.NORMAL, 5.0), (Priority.NORMAL, 1.0), (Priority.NORMAL, 0.0)],
    ],
)
def test_when_the_best_of_them_is_taken_back_they_stand_where_the_next_best_stood(
    places: list[tuple[Priority, float]],
) -> None:
    desk = Desk()
    system = desk.start()
    ours = [system.submit(Refresh(parts=(1,), event_time=time), priority=priority) for priority, time in places]
    low = system.submit(Refresh(name="", parts=(2,), event_time=0.5), priority=Priority.LOW)
    later = system.submit(Refresh(name="", parts=(3,), event_time=3.0), priority=places[0][0])
    assert ours[2].cancel()
    desk.open()
    results([*ours[:2], low, later])
    assert desk.executed[0] == (1,)
    system.stop()


def test_one_that_comes_when_all_others_were_taken_back_runs() -> None:
    desk = Desk()
    system = desk.start()
    assert system.submit(Refresh(parts=(1,)), priority=Priority.HIGH).cancel()
    again = system.submit(Refresh(parts=(2,)))
    desk.open()
    assert again.result(60) == (2,)
    system.stop()


def test_those_that_are_retried_under_a_key_of_their_own_run_by_themselves() -> None:
    desk = Desk(retry=Retry(2))
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,)), idempotency_key=f"{number}") for number in range(3)]
    desk.open()
    assert results(ours) == [(0,), (1,), (2,)]
    system.stop()


class Loose(Trigger[Any]):
    """Says too little of what it holds."""

    held: Any = None


@pytest.mark.parametrize("merged", [["changes"], (1, 2)], ids=["mutable", "not as it comes back from the journal"])
def test_a_merge_to_what_could_not_be_handed_in_is_one_that_raises(merged: Any) -> None:
    dispatchers = SimulatedDispatchers(5)
    system = Supervisor(dispatchers=lambda _: dispatchers)

    @system.on(Loose, coalesce=lambda trigger: "one", merge=lambda old, new: Loose(held=merged))
    def handle(trigger: Loose, tx: Transaction) -> Any:
        return trigger.held

    with system:
        assert results(system.submit_many([Loose(held=1), Loose(held=2)])) == [1, 2]


@journals
def test_a_merge_that_returns_past_the_deadline_makes_nothing_one(journaled: bool) -> None:
    """The newest ends past its deadline, and the others run each by itself."""
    late: list[Any] = []

    def merge(old: Refresh, new: Refresh) -> Refresh:
        if not late:
            late.append(current_transaction())
            late[0].expire()
        return joined(old, new)

    desk = Desk(backend_if(journaled), merge=merge)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(number,))) for number in (1, 2, 3)]
    desk.open()
    assert results(ours[:2]) == [(1,), (2,)]
    with pytest.raises(DeadlineExceeded):
        ours[2].result(60)
    assert all(record.coalesced == [] for record in desk.records())
    assert system.stats().state_counts == {State.COMMITTED: 3, State.DEADLINE: 1}
    system.stop()


def test_nobody_is_in_a_group_that_it_has_not_joined() -> None:
    groups, desk = Groups(), Desk()
    system = desk.start()
    first, other = (system.submit(Refresh(), delay=60) for _ in range(2))
    groups.join(first)
    assert groups.of(first) is not None
    assert groups.of(other) is None
    desk.open()
    system.stop()


@journals
def test_one_that_is_taken_back_on_its_way_to_the_queue_never_runs(
    journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not merged, and the thread that sends the others back to the queue is interrupted."""
    under_way: list[Submission[Any]] = []
    monkeypatch.setattr(Edge, "split", lambda self, submission: under_way.extend(submission.split()))
    desk = Desk(backend_if(journaled), merge=joined)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(part,))) for part in (1, 2, 13)]
    desk.open()
    assert ours[2].result(60) == (13,)
    assert under_way == ours[:2]
    assert ours[0].cancel()
    running: Any = system._running
    running.edge.inbox.put(AcceptTriggers(submissions=tuple(under_way), bypasses=True))
    assert ours[1].result(60) == (2,)
    assert sorted(desk.executed) == [(2,), (13,)]
    stats = system.stats()
    assert (stats.queued, stats.restarts) == (0, 0)
    assert stats.state_counts == {State.COMMITTED: 3, State.CANCELLED: 1}
    sequencer = running._path.sequencer
    assert running.edge.accepted + sequencer.bypassed == sequencer.sequenced
    assert not running.intake.open
    system.stop()


@journals
def test_one_that_was_on_its_way_to_the_queue_when_the_core_crashed_can_be_taken_back(
    journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Edge, "split", lambda self, submission: submission.split())
    desk = Desk(backend_if(journaled), merge=joined)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(part,))) for part in (1, 2, 13)]
    wait = system.submit(Wait(), priority=Priority.LOW)
    desk.open()
    assert ours[2].result(60) == (13,)
    desk.dispatchers.run_until(lambda: wait.state is State.RUNNING, 60)
    running: Any = system._running
    crash = ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={})
    running._path.sequencer_ref.actor_inbox.put(crash)
    desk.dispatchers.run_to_rest()
    assert (system.stats().restarts, system.stats().queued) == (1, 2)
    assert ours[0].cancel()
    desk.go_on.set()
    assert ours[1].result(60) == (2,)
    wait.result(60)
    assert sorted(desk.executed) == [(2,), (13,)]
    assert system.stats().state_counts == {State.COMMITTED: 4, State.CANCELLED: 1}
    system.stop()


def test_what_several_are_merged_to_stays() -> None:
    desk = Desk(merge=joined)
    system = desk.start()
    ours = [system.submit(Refresh(parts=(part,))) for part in (1, 2)]
    desk.open()
    assert results(ours) == [(1, 2)] * 2
    ours[1].become(Refresh(parts=(3,)))
    assert ours[1].split() == ()
    assert ours[1].trigger == Refresh(parts=(1, 2))
    system.stop()
