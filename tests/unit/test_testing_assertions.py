"""`assert_committed`, `assert_fired` and `force_conflict`: above all what they say when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    Collection,
    EffectContext,
    Facts,
    Record,
    Rejected,
    Retry,
    State,
    Supervisor,
    Transaction,
    Trigger,
    on_cron,
    on_effect_failure,
    on_event,
    on_failure,
    on_result,
    on_status,
)
from seqtor.testing import SystemUnderTest, assert_committed, assert_fired, force_conflict, run


class Count(Record):
    n: int = 0


class Add(Trigger[int]):
    by: int = 1
    key: str = "x"


class Undo(Trigger[None]): ...


class Blind(Trigger[None]): ...


class Declared(Trigger[None]): ...


class Slow(Trigger[None]): ...


class Mail(Trigger[None]): ...


system = Supervisor()
counts = system.store("counts", Collection(Count))
executed: list[Trigger[Any]] = []


@system.on(Add)
def add(trigger: Add, tx: Transaction) -> int:
    executed.append(trigger)
    if trigger.by > 10:
        raise Rejected("too much")
    if trigger.by < 0:
        raise ValueError("negative")
    n = tx[counts].get(trigger.key, Count()).n + trigger.by
    tx[counts][trigger.key] = Count(n=n)
    return n


@system.on(Undo)
def undo(trigger: Undo, tx: Transaction) -> None: ...


@system.on(Blind)
def blind(trigger: Blind, tx: Transaction) -> None:
    tx[counts].increment("x", n=1)


@system.on(Declared, writes=[counts])
def declared(trigger: Declared, tx: Transaction) -> None:
    tx[counts]["x"] = Count(n=len(tx[counts]))


@system.on(Slow, deadline=1000)
async def slow(trigger: Slow, tx: Transaction) -> None:
    await asyncio.sleep(10)
    tx[counts]["slow"] = Count(n=len(tx[counts]))


@system.on(Mail)
def send(trigger: Mail, tx: Transaction) -> None:
    tx.effect(mail, 1)


@system.effect("mail", retry=Retry(2, backoff=10, jitter=0))
def mail(context: EffectContext, n: int) -> None:
    raise ConnectionError("down")


def starts_undo(condition: Any, name: str, of: Callable[[Facts], Any] = lambda facts: Undo()) -> None:
    @system.when(condition, name=name)
    def reaction(facts: Facts) -> Any:
        return of(facts)


def fails(facts: Facts) -> Any:
    raise RuntimeError("boom")


def is_large(result: int) -> bool:
    return result > 100


@system.when(on_event("go"))
def started(facts: Facts) -> Trigger[Any]:
    return Undo()


starts_undo(on_event("price", {"symbol": "X", "venue": 1}), "price")
starts_undo(on_event("prise"), "misspelt")
starts_undo(on_event("level", 5), "equal")
starts_undo(on_event("filtered", lambda payload: payload["missing"]), "raising filter")
starts_undo(on_failure(Add, KeyError), "failure")
starts_undo(on_result(Add, where=is_large), "result")
starts_undo(on_status(Add, "failed", where={"by": 5}), "status")
starts_undo((on_event("a") & on_event("b")).correlate(lambda fact: fact.payload["order"]), "both")
starts_undo(on_event("none"), "nothing to run", lambda facts: None)
starts_undo(on_event("boom"), "raising function", fails)
starts_undo(on_cron("0 9 * * *"), "morning")
starts_undo(on_effect_failure(mail), "effect")


@pytest.fixture
def desk() -> Any:
    executed.clear()
    with run(system) as desk:
        yield desk


def not_committed(desk: SystemUnderTest, *arguments: Any, **fields: Any) -> list[str]:
    with pytest.raises(AssertionError) as failed:
        assert_committed(desk, *arguments, **fields)
    return str(failed.value).splitlines()


def not_fired(desk: SystemUnderTest, reaction: Any, times: int | None = None) -> list[str]:
    desk.settle()
    with pytest.raises(AssertionError) as failed:
        assert_fired(desk, reaction, times=times)
    head, waits_for, *near = str(failed.value).splitlines()
    if times is None:
        assert head == f"the reaction {reaction!r} has not fired"
    assert waits_for.startswith(f"{reaction!r} waits for: ")
    return near


def add_three(desk: SystemUnderTest) -> None:
    """seq 2 commits, 3 is rejected, 4 fails; 1 is the registration of a schedule."""
    for by in (3, 11, -1):
        desk.submit(Add(by=by))
        desk.settle()


# Committed -----------------------------------------------------------------------------------------------------------


def test_a_run_that_has_committed_is_found_by_trigger_type_or_fields(desk: SystemUnderTest) -> None:
    desk.ask(Add(by=2))
    desk.ask(Add(by=3))
    assert assert_committed(desk, Add).trigger == Add(by=3)
    assert assert_committed(desk, Add(by=2), times=1).trigger == Add(by=2)
    assert assert_committed(desk, Add, by=2).state is State.COMMITTED
    assert_committed(desk, Add, key="x", times=2)


def test_what_has_not_committed_is_told_with_the_nearest_first(desk: SystemUnderTest) -> None:
    add_three(desk)
    assert not_committed(desk, Add, by=3, key="y") == [
        "no run of Add(by=3, key='y') committed",
        "nearest:",
        "  seq 2 committed: key is 'x', not 'y'",
        "  seq 4 failed (ValueError: negative): by is -1, not 3; key is 'x', not 'y'",
        "  seq 3 rejected (too much): by is 11, not 3; key is 'x', not 'y'",
    ]
    assert not_committed(desk, Add(by=11))[1:3] == ["nearest:", "  seq 3 rejected (too much): Add(by=11, key='x')"]


def test_the_nearest_are_few(desk: SystemUnderTest) -> None:
    desk.submit_many([Add()] * 8)
    desk.settle()
    lines = not_committed(desk, Add, by=2)
    assert len(lines) == 8
    assert lines[-1] == "  and 3 more"


def test_another_number_than_expected_is_told(desk: SystemUnderTest) -> None:
    desk.ask(Add())
    assert not_committed(desk, Add, times=2)[0] == "1 run of Add() committed, expected 2"


def test_what_has_not_ended_is_told(desk: SystemUnderTest) -> None:
    desk.submit(Add(by=2))
    assert not_committed(desk, Add(by=2))[-1] == (
        "not ended yet: Add(by=2, key='x'); settle() first, or clock.advance(...) for what waits for its time"
    )


def test_what_was_handed_in_instead_is_told(desk: SystemUnderTest) -> None:
    desk.ask(Add())
    desk.emit("a", {"order": 1})
    assert not_committed(desk, Undo) == ["no run of Undo() committed", "no Undo was handed in; what was: Add (1)"]


def test_what_cannot_be_asked_for_is_refused(desk: SystemUnderTest) -> None:
    with pytest.raises(TypeError, match=r"Add has no field 'bye'; did you mean 'by'\?; it has by, key"):
        assert_committed(desk, Add, bye=1)
    with pytest.raises(TypeError, match="takes a trigger or a trigger type, got 'Add'"):
        assert_committed(desk, "Add")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give a trigger or fields, not both"):
        assert_committed(desk, Add(), by=1)
    with pytest.raises(ValueError, match="times is how many have committed, from 1, got 0"):
        assert_committed(desk, Add, times=0)


def test_a_system_on_threads_can_be_asked_too() -> None:
    program = Supervisor()
    program.on(Add)(lambda trigger, tx: trigger.by)
    with program:
        program.ask(Add())
        assert_committed(program, Add, by=1)


# Fired ---------------------------------------------------------------------------------------------------------------


def test_a_reaction_that_has_fired_is_found_by_function_or_name(desk: SystemUnderTest) -> None:
    desk.emit("go")
    desk.emit("go")
    desk.settle()
    assert_fired(desk, started)
    assert_fired(desk, "started", times=2)
    assert_fired(desk, "price", times=0)
    with pytest.raises(AssertionError, match=r"^the reaction 'started' has started 2 runs, expected 1\n"):
        assert_fired(desk, started, times=1)


def test_what_has_fired_too_often_is_told_with_what_it_has_fired_for(desk: SystemUnderTest) -> None:
    desk.emit("go", "first")
    desk.emit("go", "second")
    desk.emit("price", {"symbol": "Y"})
    near = not_fired(desk, "started", times=0)
    assert near[0] == "what it has fired for:"
    assert [line.partition(", and started the run ")[0] for line in near[1:]] == [
        "  seq 3: event 'go' 'second'",
        "  seq 2: event 'go' 'first'",
    ]
    assert all(", and started the run " in line for line in near[1:])


def test_items_that_are_not_as_asked_are_told(desk: SystemUnderTest) -> None:
    desk.emit("price", {"symbol": "X"})
    desk.emit("price", {"symbol": "Y", "venue": 1})
    assert not_fired(desk, "price") == [
        "nearest:",
        "  seq 3: event 'price' {'symbol': 'Y', 'venue': 1}: symbol is 'Y', and where= asks for 'X'",
        "  seq 2: event 'price' {'symbol': 'X'}: venue is missing, and where= asks for 1",
    ]


def test_a_value_that_is_not_as_asked_is_told(desk: SystemUnderTest) -> None:
    desk.emit("level", 4)
    assert not_fired(desk, "equal")[1:] == ["  seq 2: event 'level' 4: the payload is 4, and where= asks for 5"]


def test_a_filter_that_says_no_is_told(desk: SystemUnderTest) -> None:
    desk.ask(Add())
    assert not_fired(desk, "result")[1:] == [
        "  seq 2: Add(by=1, key='x') came to 1: where=is_large returned False for the result 1"
    ]


def test_a_filter_that_raises_is_told(desk: SystemUnderTest) -> None:
    desk.emit("filtered", {})
    assert not_fired(desk, "raising filter") == [
        "  its function, or a filter, has failed once for seq 2: event 'filtered' {}: KeyError: 'missing'",
        "nearest:",
        "  seq 2: event 'filtered' {}: its filter raised KeyError: 'missing'",
    ]


def test_a_run_that_ended_otherwise_is_told_with_the_condition_that_tells_of_it(desk: SystemUnderTest) -> None:
    add_three(desk)
    assert not_fired(desk, "failure") == [
        "nearest:",
        "  seq 4: Add(by=-1, key='x') failed with ValueError: negative: it waits for KeyError",
        "  seq 3: Add(by=11, key='x') ended as rejected: that is no failure; use on_status(Add, 'rejected')",
        "  seq 2: Add(by=3, key='x') ended as committed: that is no failure; use on_status(Add, 'committed')",
    ]
    assert not_fired(desk, "result")[2:] == [
        "  seq 4: Add(by=-1, key='x') ended as failed: so it has no result; use on_status(Add, 'failed')",
        "  seq 3: Add(by=11, key='x') ended as rejected: so it has no result; use on_status(Add, 'rejected')",
    ]
    assert not_fired(desk, "status") == [
        "nearest:",
        "  seq 4: Add(by=-1, key='x') ended as failed: by is -1, and where= asks for 5",
        "  seq 3: Add(by=11, key='x') ended as rejected: it waits for failed",
        "  seq 2: Add(by=3, key='x') ended as committed: it waits for failed",
    ]


def test_a_composite_that_is_half_met_is_told(desk: SystemUnderTest) -> None:
    desk.emit("a", {"order": 7})
    assert not_fired(desk, "both") == [
        "  half met since 22:13:20, under the key 7: has seq 2: event 'a' {'order': 7}; waits for event b"
    ]


def test_a_function_that_returned_nothing_is_told(desk: SystemUnderTest) -> None:
    desk.emit("none", 1)
    assert not_fired(desk, "nothing to run") == [
        "  seq 2: event 'none' 1 has met it, and its function returned nothing to run"
    ]


def test_a_function_that_raised_is_told(desk: SystemUnderTest) -> None:
    desk.emit("boom")
    assert not_fired(desk, "raising function") == [
        "  its function, or a filter, has failed once for seq 2: event 'boom' None: RuntimeError: boom"
    ]


def test_a_code_that_is_nearly_the_same_is_told(desk: SystemUnderTest) -> None:
    desk.emit("price", {})
    desk.emit("go")
    assert not_fired(desk, "misspelt") == ["  there was no event prise (did you mean 'price'?); events were: go, price"]


def test_a_slot_that_is_to_come_is_told_and_comes(desk: SystemUnderTest) -> None:
    (line,) = not_fired(desk, "morning")
    assert line.startswith("  there was no tick of seqtor.cron 0 9 * * *: the next one is 2023-11-15 09:00:00 UTC; ")
    assert line.endswith("clock.advance(...) lets it come")
    desk.clock.advance(hours=11)
    assert_fired(desk, "morning", times=1)


def test_an_effect_that_has_tries_left_is_told(desk: SystemUnderTest) -> None:
    desk.ask(Mail())
    assert not_fired(desk, "effect") == ["  there was no failure of the effect mail: no try of it was its last"]
    desk.clock.advance(10)
    assert_fired(desk, "effect")


def test_what_is_not_matched_yet_is_told(desk: SystemUnderTest) -> None:
    go = desk.submit(Add(by=-1))
    desk.settle()
    assert go.seq == 2
    reactor = desk._require_running().reactions.ref.actor_inbox
    with desk.dispatchers.holding(reactor):
        desk.emit("go")
        desk.dispatchers.run_to_rest()
        with pytest.raises(AssertionError, match=r"seq 3: event 'go' None is not matched yet: settle\(\) first"):
            assert_fired(desk, started)


def test_a_reaction_that_is_not_there_is_refused(desk: SystemUnderTest) -> None:
    with pytest.raises(LookupError, match=r"there is no reaction 'startet'; did you mean 'started'\?; registered with"):
        assert_fired(desk, "startet")
    with pytest.raises(LookupError, match="there is no reaction 'add'"):
        assert_fired(desk, add)


# Conflicts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_runs_that_execute_on_the_same_state_conflict(seed: int) -> None:
    executed.clear()
    with run(system, seed) as desk:
        first, second, other = force_conflict(desk, Add(by=2), Add(by=3), Add(by=4, key="z"))
        assert [first.attempts, second.attempts, other.attempts] == [1, 2, 1]
        assert [(each.store, each.key, each.writer_seq) for each in second.conflicts] == [("counts", "x", first.seq)]
        assert desk.snapshot()[counts]["x"].n == 5
        assert len(executed) == 4


def test_a_single_run_is_executed_again(desk: SystemUnderTest) -> None:
    (record,) = force_conflict(desk, Add(by=2))
    assert (record.attempts, record.state) == (2, State.COMMITTED)
    assert executed == [Add(by=2)] * 2
    assert desk.snapshot()[counts]["x"].n == 2
    (record,) = force_conflict(desk, Add(by=11))
    assert (record.attempts, record.state) == (2, State.REJECTED)


def test_a_handler_that_needs_time_conflicts_too(desk: SystemUnderTest) -> None:
    add, slow = force_conflict(desk, Add(), Slow())
    assert (add.attempts, slow.attempts) == (1, 2)


def test_runs_that_do_not_conflict_are_told_with_what_they_read_and_wrote(desk: SystemUnderTest) -> None:
    with pytest.raises(AssertionError) as failed:
        force_conflict(desk, Add(by=2), Add(by=3, key="z"), Blind())
    assert str(failed.value).splitlines() == [
        "there was no conflict",
        "  seq 2: Add(by=2, key='x') has read counts['x'] and written counts['x']",
        "  seq 3: Add(by=3, key='z') has read counts['z'] and written counts['z']",
        "  seq 4: Blind() has read nothing and written counts['x']",
        "a run conflicts if it has read what one before it writes; increments do not read",
    ]
    with pytest.raises(AssertionError, match=r"seq 6: Undo\(\) has read nothing and written nothing"):
        force_conflict(desk, Slow(), Undo())


def test_a_run_that_waits_before_it_executes_is_told(desk: SystemUnderTest) -> None:
    with pytest.raises(
        AssertionError, match=r"Declared\(\) was not executed beside the others: it declares what it writes"
    ):
        force_conflict(desk, Declared(), Declared())


def test_what_cannot_conflict_is_refused(desk: SystemUnderTest) -> None:
    with pytest.raises(TypeError, match="takes the triggers that are to conflict"):
        force_conflict(desk)
    with pytest.raises(TypeError, match=r"takes what seqtor_run\(system\) returned"):
        force_conflict(system, Add())  # type: ignore[arg-type]
