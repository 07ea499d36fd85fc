"""What one run sees of another: nothing but its commit, and never a state that serial execution would not give."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import immutables
import pytest

from seqtor import (
    Access,
    Collection,
    Document,
    Record,
    Rejected,
    State,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.messages import Checkpoint, CommitIntent, Write
from tests.programs import WAIT_S, Deposit, open_bank, simulated, threaded
from tests.simulation.worlds import World, everywhere, outcome_of, wait_for


class Number(Record):
    """A counter."""

    n: int = 0


class Count(Trigger[int]):
    """Reads a counter, gives way, writes it."""

    is_async: bool = False


class First(Trigger[Any]):
    """The run with the lower seq."""


class Second(Trigger[Any]):
    """The run with the higher seq."""


@everywhere
def test_fifty_parallel_increments_by_reading_and_writing_give_fifty(world: World) -> None:
    system = world()
    accounts = open_bank(system, alice=0)
    with system:
        submissions = system.submit_many([Deposit() for _ in range(50)])
        wait_for(submissions)
        results = {submission.seq: outcome_of(submission) for submission in submissions}
        assert results == {seq: (State.COMMITTED, seq) for seq in range(1, 51)}
        assert system.snapshot()[accounts]["alice"].balance == 50
        assert system.stats().state_counts == {State.COMMITTED: 50}


@everywhere
def test_fifty_async_increments_that_give_way_in_the_middle_give_fifty(world: World) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number))

    @system.on(Count)
    async def count(trigger: Count, tx: Transaction) -> int:
        n = tx[numbers].get("x", Number()).n
        await asyncio.sleep(0)
        tx[numbers]["x"] = Number(n=n + 1)
        return n + 1

    with system:
        submissions = system.submit_many([Count() for _ in range(50)])
        wait_for(submissions)
        results = {submission.seq: outcome_of(submission) for submission in submissions}
        assert results == {seq: (State.COMMITTED, seq) for seq in range(1, 51)}
        assert system.snapshot()[numbers]["x"].n == 50
        assert max(system.record(seq).attempts for seq in range(1, 51)) <= 3


# Two runs whose operations interleave as the test wants: the second reads before the first commits --------------------


class Meeting:
    """Lets the first run commit only after the second one's first attempt has read."""

    def __init__(self, world: World, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> None:
        self.system = world()
        self.first = first
        self.second = second
        self.attempts = 0

    def hold(self) -> list[tuple[State, Any]]:
        """Run both; returns how they ended."""
        system = self.system
        has_read = asyncio.Event()

        @system.on(First)
        async def run_first(trigger: First, tx: Transaction) -> Any:
            await has_read.wait()
            return self.first(tx)

        @system.on(Second)
        async def run_second(trigger: Second, tx: Transaction) -> Any:
            self.attempts += 1
            try:
                return self.second(tx)
            finally:
                has_read.set()

        with system:
            submissions = [system.submit(First()), system.submit(Second())]
            outcomes = [outcome_of(submission) for submission in submissions]
            assert [submission.seq for submission in submissions] == [1, 2]
            self.contents = {name: system.snapshot()[ref] for name, ref in system.stores.items()}
            self.record = system.record(2)
        return outcomes


@everywhere
def test_a_run_that_reads_one_store_and_writes_another_is_executed_again_when_the_first_changes(world: World) -> None:
    def write(tx: Transaction) -> None:
        tx[prices]["x"] = Number(n=7)

    def value(tx: Transaction) -> int:
        n = tx[prices].get("x", Number()).n
        tx[portfolio]["x"] = Number(n=n * 10)
        return n

    meeting = Meeting(world, write, value)
    prices = meeting.system.store("prices", Collection(Number))
    portfolio = meeting.system.store("portfolio", Collection(Number))
    assert meeting.hold() == [(State.COMMITTED, None), (State.COMMITTED, 7)]
    assert meeting.contents["portfolio"]["x"].n == 70
    assert meeting.attempts == meeting.record.attempts == 2
    (conflict,) = meeting.record.conflicts
    assert (conflict.attempt, conflict.store, conflict.key, conflict.writer_seq) == (1, "prices", "x", 1)


READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda view: view.get("b"),
    "index": lambda view: view["b"],
    "in": lambda view: "b" in view,
    "pop": lambda view: view.pop("b", None),
    "delete": lambda view: view.__delitem__("b"),
    "setdefault": lambda view: view.setdefault("b", Number(n=1)),
    "len": len,
    "bool": bool,
    "iter": lambda view: next(iter(view), None),
    "keys": lambda view: view.keys() & {"b"},
    "values": lambda view: list(view.values()),
    "items": lambda view: list(view.items()),
    "equality": lambda view: view == {},
    "scan": lambda view: list(view.scan()),
    "scan prefix": lambda view: list(view.scan(prefix="b")),
    "scan from": lambda view: list(view.scan(start="b")),
    "scan to": lambda view: list(view.scan(stop="ba")),
    "scan from to": lambda view: list(view.scan(start="ab", stop="bb")),
    "popitem": lambda view: view.popitem(),
    "clear": lambda view: view.clear(),
    "incremented by itself": lambda view: (view.increment("b", n=1), view["b"]),
}
CHANGES: dict[str, tuple[dict[str, Number], Callable[[Any], Any]]] = {
    "appears": ({}, lambda view: view.__setitem__("b", Number(n=5))),
    "appears by increment": ({}, lambda view: view.increment("b", n=5)),
    "changes": ({"b": Number(n=1)}, lambda view: view.__setitem__("b", Number(n=5))),
    "disappears": ({"b": Number(n=1)}, lambda view: view.__delitem__("b")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_every_way_to_read_a_key_notices_that_it(read: str, change: str) -> None:
    initial, write = CHANGES[change]

    def look(tx: Transaction) -> Any:
        try:
            READS[read](tx[numbers])
        finally:
            tx[marks]["x"] = Number(n=tx.attempt)

    meeting = Meeting(lambda: simulated(1), lambda tx: write(tx[numbers]), look)
    numbers = meeting.system.store("numbers", Collection(Number, initial=initial))
    marks = meeting.system.store("marks", Collection(Number))
    meeting.hold()
    assert meeting.attempts == 2


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_every_way_to_read_a_key_is_checked_when_the_intent_comes_after_it(read: str, change: str) -> None:
    initial, write = CHANGES[change]
    system = threaded(4)
    numbers = system.store("numbers", Collection(Number, initial=initial))
    attempts = late_attempts(system, lambda tx: write(tx[numbers]), lambda tx: READS[read](tx[numbers]))
    assert attempts == 2


def late_attempts(system: Supervisor, write: Callable[[Any], Any], read: Callable[[Any], Any]) -> int:
    """How often a run executes that reads, and does nothing more until a lower run has committed."""
    has_read, has_committed = threading.Event(), threading.Event()
    attempts: list[int] = []

    @system.on(First)
    def run_first(trigger: First, tx: Transaction) -> None:
        assert has_read.wait(WAIT_S)
        write(tx)

    @system.on(Second)
    def run_second(trigger: Second, tx: Transaction) -> None:
        attempts.append(tx.attempt)
        try:
            read(tx)
        finally:
            has_read.set()
            assert has_committed.wait(WAIT_S)

    with system:
        first, second = system.submit_many([First(), Second()])
        first.result(WAIT_S)
        has_committed.set()
        wait_for([second])
    assert attempts == list(range(1, len(attempts) + 1))
    return len(attempts)


NOT_READS: dict[str, Callable[[Any], Any]] = {
    "another key": lambda view: view.get("c"),
    "a prefix beside it": lambda view: list(view.scan(prefix="a")),
    "a range before it": lambda view: list(view.scan(stop="b")),
    "a range after it": lambda view: list(view.scan(start="b0")),
    "a blind write": lambda view: view.__setitem__("b", Number(n=9)),
    "an increment": lambda view: view.increment("b", n=1),
    "its own value": lambda view: (view.__setitem__("b", Number(n=9)), view["b"]),
}


@pytest.mark.parametrize("read", NOT_READS)
def test_a_run_that_did_not_read_the_key_is_not_executed_again_for(read: str) -> None:
    meeting = Meeting(
        lambda: simulated(1),
        lambda tx: tx[numbers].__setitem__("b", Number(n=5)),
        lambda tx: NOT_READS[read](tx[numbers]) and None,
    )
    numbers = meeting.system.store("numbers", Collection(Number, initial={"b": Number(n=1)}))
    meeting.hold()
    assert meeting.attempts == 1


class NumbersView:
    """Ints by key, with every way for a view to say what it reads."""

    def __init__(self, access: Access[immutables.Map[str, int]]) -> None:
        self.access = access

    def named(self, key: str) -> int:
        self.access.read(key)
        return self.access.state.get(key, 0)

    def versioned(self, key: str) -> int:
        self.access.read(key, version=0)
        return self.access.state.get(key, 0)

    def ranged(self, start: str | None, stop: str | None) -> int:
        self.access.read_range(start, stop)
        return sum(self.access.state.values())

    def whole(self) -> int:
        return sum(self.access.state.values())

    def add(self, key: str, amount: int) -> None:
        self.access.write(key, amount)


class NumberStore(StoreActor[immutables.Map[str, int], NumbersView]):
    """A user's own store."""

    dispatcher = "core"

    def recover(self, checkpoint: Checkpoint | None) -> immutables.Map[str, int]:
        return immutables.Map()

    @staticmethod
    def fold(state: immutables.Map[str, int], writes: Sequence[Write]) -> immutables.Map[str, int]:
        for key, op in writes:
            state = state.set(key, state.get(key, 0) + op)
        return state

    @staticmethod
    def view(access: Access[immutables.Map[str, int]]) -> NumbersView:
        return NumbersView(access)


CUSTOM_READS: dict[str, tuple[Callable[[NumbersView], Any], int]] = {
    "the key": (lambda view: view.named("b"), 2),
    "the key at a version": (lambda view: view.versioned("b"), 2),
    "a range": (lambda view: view.ranged("a", "c"), 2),
    "everything": (lambda view: view.whole(), 2),
    "everything after writing": (lambda view: (view.add("c", 1), view.whole()), 2),
    "another key": (lambda view: view.named("a"), 1),
    "another range": (lambda view: view.ranged("c", None), 1),
    "nothing": (lambda view: view.add("b", 1), 1),
}


@pytest.mark.parametrize("read", CUSTOM_READS)
def test_what_a_custom_store_says_that_it_read_is_tracked_if_it_is(read: str) -> None:
    look, executions = CUSTOM_READS[read]
    meeting = Meeting(lambda: simulated(1), lambda tx: tx[store].add("b", 1), lambda tx: look(tx[store]) and None)
    store = meeting.system.store("store", NumberStore.spec())
    meeting.hold()
    assert meeting.attempts == executions
    system = threaded(4)
    late = system.store("store", NumberStore.spec())
    assert late_attempts(system, lambda tx: tx[late].add("b", 1), lambda tx: look(tx[late])) == executions


class Pair(Record):
    """A document of two fields."""

    a: int = 0
    b: int = 0


DOCUMENT_READS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "the field": (lambda view: view.fields.a, 2),
    "the whole": (lambda view: view.value, 2),
    "the other field": (lambda view: view.fields.b, 1),
    "nothing, writing it": (lambda view: view.update(a=5), 1),
    "nothing, adding to it": (lambda view: view.increment(a=5), 1),
    "the field after adding to it": (lambda view: (view.increment(a=5), view.fields.a), 2),
}


@pytest.mark.parametrize("read", DOCUMENT_READS)
def test_a_document_is_tracked_per_field_when_a_run_reads(read: str) -> None:
    look, executions = DOCUMENT_READS[read]
    meeting = Meeting(lambda: simulated(1), lambda tx: tx[pair].update(a=3), lambda tx: look(tx[pair]) and None)
    pair = meeting.system.store("pair", Document(Pair))
    meeting.hold()
    assert meeting.attempts == executions
    system = threaded(4)
    late = system.store("pair", Document(Pair))
    assert late_attempts(system, lambda tx: tx[late].update(a=3), lambda tx: look(tx[late])) == executions


NO_CHANGES: dict[str, Callable[[Any], Any]] = {
    "sets what is there": lambda view: view.__setitem__("b", Number(n=1)),
    "sets something and then what is there": lambda view: (
        view.__setitem__("b", Number(n=4)),
        view.__setitem__("b", Number(n=1)),
    ),
    "adds and takes away": lambda view: (view.increment("b", n=4), view.increment("b", n=-4)),
    "adds nothing": lambda view: view.increment("b", n=0),
    "deletes and sets again": lambda view: view.__setitem__("b", view.pop("b")),
    "sets and deletes another key": lambda view: (view.__setitem__("a", Number()), view.__delitem__("a")),
}


@pytest.mark.parametrize("change", NO_CHANGES)
def test_nobody_is_executed_again_for_a_run_that(change: str) -> None:
    meeting = Meeting(
        lambda: simulated(1), lambda tx: NO_CHANGES[change](tx[numbers]) and None, lambda tx: len(tx[numbers])
    )
    numbers = meeting.system.store("numbers", Collection(Number, initial={"b": Number(n=1)}))
    assert meeting.hold()[1] == (State.COMMITTED, 1)
    assert meeting.attempts == 1
    assert {key: value.n for key, value in meeting.contents["numbers"].items()} == {"b": 1}


def test_a_write_that_changed_nothing_in_the_snapshot_counts_against_the_state_before_its_turn() -> None:
    def write_back(tx: Transaction) -> None:
        tx[numbers]["b"] = Number(n=1)  # What is there in the snapshot, but not any more at its turn.

    meeting = Meeting(lambda: simulated(1), lambda tx: tx[numbers].__setitem__("b", Number(n=5)), write_back)
    numbers = meeting.system.store("numbers", Collection(Number, initial={"b": Number(n=1)}))
    meeting.hold()
    assert meeting.attempts == 1
    assert meeting.contents["numbers"]["b"].n == 1


# Write skew --------------------------------------------------------------------------------------------------------


class Leave(Trigger[None]):
    """A doctor leaves, if somebody else stays."""

    name: str


@everywhere
def test_write_skew_is_prevented(world: World) -> None:
    system = world()
    on_call = system.store("on_call", Collection(Number, initial={"ann": Number(), "bob": Number()}))
    together = asyncio.Barrier(2)

    @system.on(Leave)
    async def leave(trigger: Leave, tx: Transaction) -> None:
        others = [name for name in tx[on_call] if name != trigger.name]
        if tx.attempt == 1:
            await together.wait()  # Both have seen the other one.
        if not others:
            raise Rejected("somebody must stay")
        del tx[on_call][trigger.name]

    with system:
        submissions = system.submit_many([Leave(name="ann"), Leave(name="bob")])
        assert wait_for(submissions) == [State.COMMITTED, State.REJECTED]
        assert list(system.snapshot()[on_call]) == ["bob"]


def test_write_skew_is_prevented_between_handlers_on_threads() -> None:
    system = threaded(4)
    on_call = system.store("on_call", Collection(Number, initial={"ann": Number(), "bob": Number()}))
    together = threading.Barrier(2, timeout=WAIT_S)

    @system.on(Leave)
    def leave(trigger: Leave, tx: Transaction) -> None:
        view = tx[on_call]
        other = {"ann": "bob", "bob": "ann"}[trigger.name]
        stays = other in view
        if tx.attempt == 1:
            together.wait()
        if not stays:
            raise Rejected("somebody must stay")
        del view[trigger.name]

    with system:
        submissions = system.submit_many([Leave(name="ann"), Leave(name="bob")])
        assert wait_for(submissions) == [State.COMMITTED, State.REJECTED]
        assert list(system.snapshot()[on_call]) == ["bob"]


# Failures from stale snapshots -------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("error", [Rejected("not yet"), ValueError("not yet"), KeyError("x"), SystemExit(1)], ids=repr)
def test_a_failure_from_a_stale_snapshot_is_executed_again_and_not_reported(world: World, error: BaseException) -> None:
    def check(tx: Transaction) -> str:
        if "x" not in tx[numbers]:
            raise error
        return "fine"

    meeting = Meeting(world, lambda tx: tx[numbers].__setitem__("x", Number()), check)
    numbers = meeting.system.store("numbers", Collection(Number))
    assert meeting.hold() == [(State.COMMITTED, None), (State.COMMITTED, "fine")]
    assert meeting.attempts == 2
    assert meeting.record.error is None


@everywhere
def test_a_result_that_cannot_be_serialised_from_a_stale_snapshot_is_executed_again(world: World) -> None:
    def check(tx: Transaction) -> Any:
        return "fine" if "x" in tx[numbers] else object()

    meeting = Meeting(world, lambda tx: tx[numbers].__setitem__("x", Number()), check)
    numbers = meeting.system.store("numbers", Collection(Number))
    assert meeting.hold() == [(State.COMMITTED, None), (State.COMMITTED, "fine")]


@everywhere
def test_an_invariant_is_judged_on_the_state_before_the_turn_and_not_on_the_snapshot(world: World) -> None:
    def spend(tx: Transaction) -> None:
        tx[numbers].increment("x", n=-5)  # Below zero in the snapshot, not at its turn.

    meeting = Meeting(world, lambda tx: tx[numbers].increment("x", n=5), spend)
    numbers = meeting.system.store(
        "numbers", Collection(Number, invariants=[lambda state: all(value.n >= 0 for value in state.values())])
    )
    assert meeting.hold() == [(State.COMMITTED, None), (State.COMMITTED, None)]
    assert meeting.attempts == 1


# Increments --------------------------------------------------------------------------------------------------------


@everywhere
def test_increments_never_conflict_with_each_other(world: World) -> None:
    system = world()
    numbers = system.store("numbers", Collection(Number))
    pair = system.store("pair", Document(Pair))

    @system.on(Count)
    async def count(trigger: Count, tx: Transaction) -> None:
        tx[numbers].increment("x", n=2)
        await asyncio.sleep(0)
        tx[pair].increment(a=1)

    with system:
        wait_for(system.submit_many([Count() for _ in range(40)]))
        assert system.stats().conflicts == 0
        assert system.snapshot()[numbers]["x"].n == 80
        assert system.snapshot()[pair].value == Pair(a=40)


# The low-level form ------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("mistake", ["no number", "a broken invariant"])
def test_of_two_intents_of_one_run_neither_applies_if_the_second_is_invalid(world: World, mistake: str) -> None:
    system = world()
    left = system.store("left", Collection(Number, initial={"x": Number(n=1)}))
    right = system.store(
        "right", Collection(Number, initial={"x": Number(n=1)}, invariants=[lambda state: state["x"].n < 10])
    )

    @system.on(First)
    def both(trigger: First, tx: Transaction) -> list[CommitIntent]:
        seq, numbers = tx.read(left)
        numbers["x"] = Number(n=2)
        broken: Any = {"x": Number(n=10)} if mistake == "a broken invariant" else {"x": "no number"}
        return [tx.prepare_commit(left, seq, numbers), tx.prepare_commit(right, seq, broken)]

    with system:
        (state,) = wait_for([system.submit(First())])
        assert state is (State.REJECTED if mistake == "a broken invariant" else State.FAILED)
        snapshot = system.snapshot()
        assert snapshot[left]["x"].n == snapshot[right]["x"].n == 1


@everywhere
def test_two_valid_intents_of_one_run_apply_together(world: World) -> None:
    system = world()
    left = system.store("left", Collection(Number, initial={"x": Number(n=1), "y": Number()}))
    pair = system.store("pair", Document(Pair))

    @system.on(First)
    def both(trigger: First, tx: Transaction) -> list[CommitIntent]:
        seq, numbers = tx.read(left)
        numbers["z"] = numbers.pop("x")
        return [tx.prepare_commit(left, seq, numbers), tx.prepare_commit(pair, seq, Pair(a=1, b=2))]

    with system:
        assert wait_for([system.submit(First())]) == [State.COMMITTED]
        snapshot = system.snapshot()
        assert dict(snapshot[left].items()) == {"y": Number(), "z": Number(n=1)}
        assert snapshot[pair].value == Pair(a=1, b=2)


@everywhere
def test_an_intent_replaces_the_whole_store_even_if_the_handler_has_not_read_it(world: World) -> None:
    def replace(tx: Transaction) -> list[CommitIntent]:
        seq, _ = tx.read(pair)
        return [tx.prepare_commit(numbers, seq, {"b": Number(n=2)})]

    meeting = Meeting(world, lambda tx: tx[numbers].__setitem__("a", Number(n=1)), replace)
    numbers = meeting.system.store("numbers", Collection(Number))
    pair = meeting.system.store("pair", Document(Pair))
    assert meeting.hold() == [(State.COMMITTED, None), (State.COMMITTED, None)]
    assert dict(meeting.contents["numbers"].items()) == {"b": Number(n=2)}


# One run's own writes ----------------------------------------------------------------------------------------------


def once(handler: Callable[[Any], Any], **stores: Any) -> tuple[tuple[State, Any], dict[str, Any]]:
    """Run one handler on fresh stores; returns how it ended and what it left."""
    system = simulated(1)
    refs = {name: system.store(name, spec) for name, spec in stores.items()}
    system.on(First)(lambda trigger, tx: handler({name: tx[ref] for name, ref in refs.items()}))
    with system:
        outcome = outcome_of(system.submit(First()))
        return outcome, {name: system.snapshot()[ref] for name, ref in refs.items()}


def test_a_scan_leaves_out_what_is_deleted_before_its_turn() -> None:
    def prune(views: dict[str, Any]) -> list[str]:
        book, seen = views["book"], []
        book["c"] = Number()
        for key, _ in book.scan():
            seen.append(key)
            for other in ("b", "c"):
                book.pop(other, None)
        return seen

    outcome, left = once(prune, book=Collection(Number, initial={"a": Number(), "b": Number()}))
    assert outcome == (State.COMMITTED, ["a"])
    assert list(left["book"]) == ["a"]


def test_what_a_value_was_on_the_way_is_not_validated() -> None:
    from pydantic import Field

    class Bounded(Record):
        n: int = Field(default=0, ge=0, le=10)

    def detour(views: dict[str, Any]) -> None:
        views["book"].increment("x", n=-5)
        views["book"].increment("x", n=8)
        views["book"].increment("y", n=99)
        views["book"]["y"] = Bounded(n=1)
        views["page"].increment(n=-5)
        views["page"].increment(n=8)

    outcome, left = once(detour, book=Collection(Bounded), page=Document(Bounded))
    assert outcome == (State.COMMITTED, None)
    assert {key: value.n for key, value in left["book"].items()} == {"x": 3, "y": 1}
    assert left["page"].value.n == 3


def test_an_update_of_a_document_sets_all_fields_or_none() -> None:
    def update(views: dict[str, Any]) -> int:
        try:
            views["pair"].update(a=1, b="no number")
        except ValueError:
            return int(views["pair"].fields.a)
        return -1

    outcome, left = once(update, pair=Document(Pair))
    assert outcome == (State.COMMITTED, 0)
    assert left["pair"].value == Pair()


def test_a_field_that_the_model_derives_follows_the_runs_own_writes() -> None:
    from pydantic import BaseModel, model_validator

    class Order(BaseModel):
        price: int = 2
        count: int = 3
        total: int = 0

        @model_validator(mode="after")
        def derive(self) -> Order:
            self.total = self.price * self.count
            return self

    def buy(views: dict[str, Any]) -> list[int]:
        order = views["order"]
        order.update(count=5)
        return [order.fields.total, order.fields.price, order.value.total]

    outcome, left = once(buy, order=Document(Order))
    assert outcome == (State.COMMITTED, [10, 2, 10])
    assert left["order"].value.total == 10


# Recorded inputs ---------------------------------------------------------------------------------------------------


@everywhere
def test_time_and_chance_are_the_same_in_every_attempt(world: World) -> None:
    drawn: list[Any] = []

    def draw(tx: Transaction) -> int:
        drawn.append((tx.seq, tx.now, tx.random.random(), tx.uuid4(), tx.random.random(), len(list(tx.peek(numbers)))))
        return len(tx[numbers])

    meeting = Meeting(world, lambda tx: tx[numbers].__setitem__("x", Number()), draw)
    numbers = meeting.system.store("numbers", Collection(Number))
    assert meeting.hold()[1] == (State.COMMITTED, 1)
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


@everywhere
def test_now_never_decreases_along_the_order(world: World) -> None:
    system = world()

    @system.on(Count)
    def tell_time(trigger: Count, tx: Transaction) -> float:
        return tx.now.timestamp()

    with system:
        submissions = system.submit_many([Count() for _ in range(30)])
        wait_for(submissions)
        times = [submission.result(0) for submission in sorted(submissions, key=lambda each: each.seq or 0)]
    assert times == sorted(times)
