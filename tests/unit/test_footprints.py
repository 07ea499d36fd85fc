"""Declared footprints: who overtakes, who waits, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    Collection,
    CollectionView,
    FootprintViolation,
    HandlerFailed,
    NotRunning,
    Record,
    RegistrationError,
    State,
    StoreRef,
    Supervisor,
    Transaction,
    Trigger,
)
from tests.programs import WAIT_S, Gate, threaded


class Number(Record):
    n: int = 0


class Slow(Trigger[int]):
    key: str


class Add(Trigger[int]):
    key: str


class Sum(Trigger[int]):
    """Reads everything, declares nothing."""


class Plain(Trigger[int]):
    """Writes a key without having declared it."""

    key: str


Numbers = StoreRef[CollectionView[Number]]


class Desk:
    """Numbers, a handler that waits at a gate, and some that do not."""

    def __init__(self, system: Supervisor, **options: Any) -> None:
        self.system = system
        self.gate = Gate()
        numbers = self.numbers = system.store("numbers", Collection(Number, **options))

        def add(key: str, amount: int, tx: Transaction) -> int:
            n = tx[numbers].get(key, Number()).n + amount
            tx[numbers][key] = Number(n=n)
            return n

        @system.on(Slow, writes=lambda trigger: [(numbers, trigger.key)])
        def slow(trigger: Slow, tx: Transaction) -> int:
            self.gate.pass_through()
            return add(trigger.key, 100 + sum(value.n for value in tx[numbers].values()), tx)

        @system.on(Add, writes=lambda trigger: [(numbers, trigger.key)])
        def on_add(trigger: Add, tx: Transaction) -> int:
            return add(trigger.key, 1, tx)

        @system.on(Sum)
        def on_sum(trigger: Sum, tx: Transaction) -> int:
            return sum(value.n for value in tx[numbers].values())

        @system.on(Plain)
        def on_plain(trigger: Plain, tx: Transaction) -> int:
            return add(trigger.key, 1, tx)

    def hold_up(self, key: str = "slow") -> Any:
        """Submit a slow run; returns when its handler has begun."""
        submission = self.system.submit(Slow(key=key))
        self.gate.await_arrivals()
        return submission


# Who overtakes -------------------------------------------------------------------------------------------------------


def test_who_touches_nothing_of_a_slow_footprint_ends_before_it_and_is_not_seen_by_it() -> None:
    desk = Desk(threaded(4))
    with desk.system as system:
        slow = desk.hold_up()
        added = system.submit_many([Add(key="a"), Add(key="b"), Add(key="a")])
        assert [submission.result(WAIT_S) for submission in added] == [1, 1, 2]
        stats = system.stats()
        assert (stats.committed_through, stats.in_flight, stats.current_seq) == (0, 1, 4)
        assert dict(system.snapshot()[desk.numbers].items()) == {}, "what everybody sees is what is contiguous"
        desk.gate.open()
        assert slow.result(WAIT_S) == 100, "it reads as of its own place, where nothing was added yet"
        assert {key: value.n for key, value in system.snapshot(4)[desk.numbers].items()} == {
            "a": 2,
            "b": 1,
            "slow": 100,
        }
        assert system.stats().committed_through == 4


def test_who_reads_what_a_slow_run_may_write_waits_for_it_and_the_record_and_the_report_say_so() -> None:
    desk = Desk(threaded(4))
    with desk.system as system:
        slow = desk.hold_up()
        reader, writer = system.submit(Sum()), system.submit(Add(key="slow"))
        while reader.seq is None or writer.seq is None or len(system.conflicts().waits) < 2:
            pass
        assert (system.record(reader.seq).blocked_by, system.record(writer.seq).blocked_by) == (slow.seq, slow.seq)
        assert [(wait.trigger, wait.to, wait.blocker) for wait in system.conflicts().waits] == [
            ("Sum", "end", "Slow"),
            ("Add", "begin", "Slow"),
        ]
        assert "seq 3 (Add) waits for seq 1 (Slow) to begin" in str(system.conflicts())
        desk.gate.open()
        assert (reader.result(WAIT_S), writer.result(WAIT_S)) == (100, 101)
        assert system.record(writer.seq).attempts == 1, "it did not execute before it could see what it adds to"


def test_one_run_without_a_footprint_holds_up_all_behind_it() -> None:
    system = threaded(4)
    desk = Desk(system)
    other = Gate()

    class Undeclared(Trigger[None]):
        pass

    @system.on(Undeclared)
    def undeclared(trigger: Undeclared, tx: Transaction) -> None:
        other.pass_through()

    with system:
        holder = system.submit(Undeclared())
        other.await_arrivals()
        adding = system.submit(Add(key="a"))
        while system.stats().pending_commits < 1:
            pass
        assert adding.state is State.RUNNING
        assert system.record(2).blocked_by == holder.seq
        other.open()
        assert adding.result(WAIT_S) == 1
    desk.gate.open()


def test_of_a_store_with_invariants_the_whole_is_declared_whatever_key_was_named() -> None:
    desk = Desk(threaded(4), invariants=[lambda state: len(state) < 9])
    with desk.system as system:
        slow = desk.hold_up()
        adding = system.submit(Add(key="a"))
        while not system.conflicts().waits:
            pass
        desk.gate.open()
        assert (slow.result(WAIT_S), adding.result(WAIT_S)) == (100, 1)


def test_on_a_hot_key_every_run_executes_once() -> None:
    desk = Desk(threaded(4))
    with desk.system as system:
        results = [submission.result(WAIT_S) for submission in system.submit_many([Add(key="hot")] * 200)]
        assert results == list(range(1, 201))
        report = system.conflicts()
        assert (report.executions, report.conflicts) == (200, 0)


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_write_outside_of_the_footprint_ends_the_run_and_writes_nothing() -> None:
    system = threaded(2)
    numbers: Numbers = system.store("numbers", Collection(Number))

    @system.on(Add, writes=lambda trigger: [(numbers, trigger.key)])
    def add(trigger: Add, tx: Transaction) -> int:
        tx[numbers][trigger.key] = Number(n=1)
        tx[numbers]["count"] = Number(n=1)
        return 1

    with system:
        submission = system.submit(Add(key="a"))
        with pytest.raises(
            FootprintViolation, match=r"Add writes numbers\['count'\], which its writes= does not declare"
        ):
            submission.result(WAIT_S)
        assert submission.state is State.FAILED
        assert not system.snapshot()[numbers]
        assert [letter.name for letter in system.dead_letters()] == ["Add"]


def test_the_violation_is_what_the_key_gets_after_a_restart(tmp_path: Path) -> None:
    def run() -> None:
        system = Supervisor(tmp_path / "desk.db", settings={"control": "off"})
        numbers: Numbers = system.store("numbers", Collection(Number))

        @system.on(Add, writes=[])
        def add(trigger: Add, tx: Transaction) -> int:
            tx[numbers][trigger.key] = Number(n=1)
            return 1

        with system, pytest.raises(FootprintViolation):
            system.submit(Add(key="a"), idempotency_key="once").result(WAIT_S)

    run()
    run()


@pytest.mark.parametrize(
    ("writes", "message"),
    [
        (lambda numbers, other: "numbers", "takes a list of stores, or a function of the trigger"),
        (lambda numbers, other: numbers, "takes a list of stores, or a function of the trigger"),
        (lambda numbers, other: 5, "takes a list of stores, or a function of the trigger"),
        (lambda numbers, other: ["numbers"], "a list names stores; for keys pass a function of the trigger"),
        (lambda numbers, other: [(numbers, "a")], "a list names stores; for keys pass a function of the trigger"),
        (lambda numbers, other: [other], "names the store 'other', which belongs to another system"),
    ],
)
def test_a_writes_that_will_not_do_is_refused_at_registration(writes: Callable[[Any, Any], Any], message: str) -> None:
    system = Supervisor()
    numbers: Numbers = system.store("numbers", Collection(Number))
    other = Supervisor().store("other", Collection(Number))
    with pytest.raises(RegistrationError, match=message):
        system.on(Add, writes=writes(numbers, other))(lambda trigger, tx: 1)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (lambda numbers: 1 / 0, "writes= of the handler of Add raised ZeroDivisionError"),
        (lambda numbers: [(numbers, 5)], r"a store or a pair \(store, key\) with a str as key"),
        (lambda numbers: ["numbers"], r"a store or a pair \(store, key\) with a str as key"),
        (
            lambda numbers: None,
            r"Add returned None for Add\(.*: it returns a list of .* and \[\] if nothing is written",
        ),
        (
            lambda numbers: numbers,
            r"Add returned <StoreRef 'numbers' .*: it returns a list of stores and pairs, such as",
        ),
        (lambda numbers: (numbers, "a"), r"Add returned \(<StoreRef .*, 'a'\) for .*: it returns a list"),
        (lambda numbers: {numbers: "a"}, r"Add returned {<StoreRef .*: it returns a list"),
        (lambda numbers: "numbers", "Add returned 'numbers' for .*: it returns a list"),
        (lambda numbers: (number / 0 for number in [1]), "writes= of the handler of Add raised ZeroDivisionError"),
    ],
)
def test_a_function_that_will_not_do_is_refused_where_the_trigger_is_handed_in(
    declared: Callable[[Any], Any], message: str
) -> None:
    system = threaded(2)
    numbers: Numbers = system.store("numbers", Collection(Number))
    system.on(Add, writes=lambda trigger: declared(numbers))(lambda trigger, tx: 1)

    @system.on(Plain)
    def plain(trigger: Plain, tx: Transaction) -> int:
        tx.submit(Add(key="a"))
        return 1

    with system:
        with pytest.raises(TypeError, match=message):
            system.submit(Add(key="a"))
        with pytest.raises(HandlerFailed, match="writes= of the handler of Add"):
            system.ask(Plain(key="a"), timeout=WAIT_S)
        assert system.stats().queued == 0


# Restarts ------------------------------------------------------------------------------------------------------------


def test_after_a_restart_what_was_overtaken_executes_again_under_its_seq_as_of_its_own_place(tmp_path: Path) -> None:
    desk = Desk(Supervisor(tmp_path / "desk.db", settings={"control": "off"}))
    with desk.system as system:
        slow = desk.hold_up()
        ahead = [system.submit(Add(key=key)) for key in "aba"]
        assert [each.result(WAIT_S) for each in ahead] == [1, 1, 2]
        seqs = [each.seq for each in ahead]
        stopping = threading.Thread(target=lambda: system.stop(0))
        stopping.start()
        with pytest.raises(NotRunning):
            slow.result(WAIT_S)
        desk.gate.open()
        stopping.join(WAIT_S)
    again = Desk(Supervisor(tmp_path / "desk.db", settings={"control": "off"}))
    again.gate.open()
    with again.system as system:
        assert system.ask(Sum(), timeout=WAIT_S) == 103
        record = system.record(1)
        assert (record.trigger, record.state) == (Slow(key="slow"), State.COMMITTED)
        assert [system.record(seq).trigger for seq in seqs] == [Add(key="a"), Add(key="b"), Add(key="a")]
        values = {key: value.n for key, value in system.snapshot()[again.numbers].items()}
        assert values == {"a": 2, "b": 1, "slow": 100}, "it does not see what had overtaken it"
        assert system.verify().executed == 5
