"""Sync handlers in simulation: who goes between their operations, how long they stay, and that no thread is left."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from seqtor import Collection, DeadlineExceeded, Record, State, StoreRef, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers import handler_threads
from seqtor.actors.dispatchers.handler_threads import HandlerStands
from seqtor.testing import run
from tests.programs import WAIT_S

SEEDS = 30


class Number(Record):
    """A counter."""

    n: int = 0


class Add(Trigger[int]):
    """Reads a key and writes it."""

    key: str


class Nap(Trigger[str]):
    """Sleeps for so long in virtual time."""

    duration_s: float


class Desk:
    """A system in which handlers note where they are."""

    def __init__(self, **options: Any) -> None:
        self.dispatchers = SimulatedDispatchers(**options)
        self.system = system = Supervisor(dispatchers=lambda _: self.dispatchers)
        self.numbers: StoreRef[Any] = system.store("numbers", Collection(Number))
        self.log: list[str] = []
        self.inside: list[int] = []
        self.threads: set[int] = set()

        @system.on(Add)
        def add(trigger: Add, tx: Transaction) -> int:
            self.threads.add(threading.get_ident())
            self.log.append(f"{trigger.key} reads")
            n = tx[self.numbers].get(trigger.key, Number()).n + 1
            self.log.append(f"{trigger.key} writes")
            tx[self.numbers][trigger.key] = Number(n=n)
            self.log.append(f"{trigger.key} returns")
            return n

        @system.on(Nap, deadline=10.0)
        def nap(trigger: Nap, tx: Transaction) -> str:
            self.inside.append(tx.seq)
            try:
                self.dispatchers.sleep(trigger.duration_s)
            finally:
                self.inside.remove(tx.seq)
            tx[self.numbers]["naps"] = Number(n=1)
            return f"woken at {self.dispatchers.clock.monotonic():g}"


def is_serial(log: Sequence[str]) -> bool:
    """Whether each handler that began went on to its end."""
    return all(list(log[i : i + 3]) == [f"{log[i].split()[0]} {what}" for what in ("reads", "writes", "returns")]
               for i in range(0, len(log), 3))  # fmt: skip


# Turns ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interleaving", "is_one_step"), [(0.0, True), (0.3, False), (1.0, False)])
def test_others_go_between_the_operations_of_a_handler_unless_it_is_one_step(
    interleaving: float, is_one_step: bool
) -> None:
    orders = set()
    for seed in range(SEEDS):
        desk = Desk(seed=seed, interleaving=interleaving)
        with desk.system:
            for each in desk.system.submit_many([Add(key=key) for key in "abc"]):
                assert each.result() == 1
        orders.add(tuple(desk.log))
    assert all(map(is_serial, orders)) == is_one_step
    assert len(orders) > 1


def test_all_orders_of_two_handlers_with_three_places_are_found() -> None:
    orders = set()
    for seed in range(300):
        desk = Desk(seed=seed)
        with desk.system:
            for each in desk.system.submit_many([Add(key=key) for key in "ab"]):
                each.result()
        orders.add(tuple(desk.log))
    assert len(orders) == 20, "six places, of which three are the first one's"


def test_one_thread_runs_at_a_time_and_threads_are_used_again() -> None:
    desk = Desk(seed=4, threads=3)
    with desk.system:
        for each in desk.system.submit_many([Add(key=str(number % 5)) for number in range(100)]):
            each.result()
    assert desk.dispatchers.handlers._started == len(desk.threads) == 3
    assert threading.get_ident() not in desk.threads


def test_a_run_whose_reads_have_changed_is_abandoned_between_two_operations() -> None:
    attempts: list[int] = []
    for seed in range(SEEDS):
        desk = Desk(seed=seed)
        begun: list[tuple[int, int]] = []

        class Pair(Trigger[int]):
            """Reads a key, and writes another one."""

        @desk.system.on(Pair)
        def pair(trigger: Pair, tx: Transaction, desk: Desk = desk, begun: Any = begun) -> int:
            n = tx[desk.numbers].get("a", Number()).n
            begun.append((tx.seq, tx.attempt))
            tx[desk.numbers]["b"] = Number(n=n)  # Not reached by an attempt that has read what is no longer so.
            attempts.append(tx.attempt)
            return n

        with desk.system:
            added, paired = desk.system.submit_many([Add(key="a"), Pair()])
            assert (added.result(), paired.result()) == (1, 1)
        if begun[0] == (2, 1) and len(begun) == 2 and len(attempts) and attempts[-1] == 2:
            attempts.append(0)
    assert 0 in attempts


# Time ----------------------------------------------------------------------------------------------------------------


def test_a_handler_that_sleeps_lets_others_go_on_and_time_pass() -> None:
    desk = Desk(seed=1)
    with desk.system:
        nap, add = desk.system.submit_many([Nap(duration_s=3.0), Add(key="a")])
        assert nap.result() == "woken at 3"
        assert add.result() == 1
    assert desk.dispatchers.clock.monotonic() == 3.0


@pytest.mark.parametrize("duration_s", [30.0, math.inf])
def test_a_handler_that_stays_past_its_deadline_is_counted_as_stuck_and_its_slot_is_replaced(duration_s: float) -> None:
    desk = Desk(seed=1, threads=2)
    with desk.system as system:
        naps = system.submit_many([Nap(duration_s=duration_s)] * 2)
        for each in naps:
            with pytest.raises(DeadlineExceeded):
                each.result()
        assert desk.dispatchers.clock.monotonic() == pytest.approx(20.0, abs=10.0)
        stats = system.stats()
        assert (stats.threads_replaced, stats.threads_stuck) == (2, 2)
        assert system.ask(Add(key="a")) == 1, "others have slots"
        if duration_s == 30.0:
            desk.dispatchers.run_for(60.0)
            assert (system.stats().threads_replaced, system.stats().threads_stuck) == (2, 0)
            assert desk.inside == []
        assert "naps" not in system.snapshot()[desk.numbers], "what comes late is not written"


def test_no_more_handlers_are_in_flight_than_there_are_slots_and_the_last_is_kept_for_the_head() -> None:
    most = set[int]()
    for seed in range(SEEDS):
        desk = Desk(seed=seed, threads=3)
        with desk.system as system:
            naps = [system.submit(Nap(duration_s=1.0 + number / 10)) for number in range(8)]
            in_flight = 0
            while not all(each.done for each in naps):
                head = system._running._path.order.next_seq  # type: ignore[union-attr]
                desk.dispatchers.step()
                if len(desk.inside) > in_flight and len(desk.inside) == 3:
                    assert head in desk.inside, "the last slot is the head's"
                in_flight = len(desk.inside)
                most.add(in_flight)
    assert max(most) == 3


def test_the_abort_of_a_run_frees_the_slot_of_its_handler() -> None:
    desk = Desk(seed=2, threads=1)
    with desk.system as system:
        nap = system.submit(Nap(duration_s=math.inf))
        while not desk.inside:
            desk.dispatchers.step()
        system.abort(1, "it hangs")
        assert system.ask(Add(key="a")) == 1
        assert (system.record(1).state, system.stats().threads_stuck) == (State.ABORTED, 1)
        assert nap.done


def test_only_plain_handlers_sleep() -> None:
    with pytest.raises(RuntimeError, match="only a sync handler sleeps"):
        SimulatedDispatchers(seed=1).sleep(1.0)


def test_the_clock_of_a_test_blocks_a_handler() -> None:
    system = Supervisor()
    clocks: list[Any] = []

    @system.on(Nap, deadline=5.0)
    def nap(trigger: Nap, tx: Transaction) -> str:
        clocks[-1].sleep(trigger.duration_s)
        return "woken"

    with run(system) as desk:
        clocks.append(desk.clock)
        assert desk.ask(Nap(duration_s=4.0)) == "woken"
        with pytest.raises(DeadlineExceeded):
            desk.ask(Nap(duration_s=math.inf))
        with pytest.raises(RuntimeError, match="only a sync handler sleeps"):
            desk.clock.sleep(1.0)
        assert desk.verify().executed == 1, "executed again from its record, it waits for nothing"


# Ends ----------------------------------------------------------------------------------------------------------------


def test_a_process_that_dies_leaves_no_thread_and_nothing_is_sent_by_what_was_in_flight() -> None:
    desk = Desk(seed=5, threads=3)
    system = desk.system.start()
    desk.system.submit_many([Nap(duration_s=math.inf)] * 2)
    while len(desk.inside) < 2:
        desk.dispatchers.step()
    threads = list(desk.dispatchers.handlers.in_flight.values())
    assert len(threads) == 2
    assert desk.dispatchers.drop() == []
    assert not any(each.is_alive() for each in threads)
    assert desk.inside == [], "what handlers have to do at their end, they do"
    running: Any = system._running
    assert not len(running._path.committer_ref.actor_inbox), "nothing is sent"


def test_a_handler_that_does_not_leave_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_threads, "END_S", 0.05)
    desk = Desk(seed=5)
    let_go = threading.Event()

    class Stay(Trigger[None]):
        """Does not leave when it is told to."""

    @desk.system.on(Stay)
    def stay(trigger: Stay, tx: Transaction) -> None:
        try:
            desk.dispatchers.sleep(math.inf)
        finally:
            let_go.wait()

    desk.system.start()
    desk.system.submit(Stay())
    desk.dispatchers.run_to_rest()
    (thread,) = desk.dispatchers.handlers.in_flight.values()
    assert desk.dispatchers.drop() == [thread.name]
    let_go.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_a_simulation_that_is_dropped_ends_its_idle_threads() -> None:
    desk = Desk(seed=5)
    with desk.system:
        desk.system.ask(Add(key="a"))
        (thread,) = desk.dispatchers.handlers._idle
        desk.dispatchers.stop = lambda timeout_s: []  # type: ignore[method-assign]
    dropped = weakref.ref(desk.dispatchers.handlers)
    del desk
    gc.collect()
    assert dropped() is None
    thread.join(5.0)
    assert not thread.is_alive()


def guarded_by(desk: Desk, lock: threading.Lock) -> type[Trigger[None]]:
    """Register a handler that holds a lock over an operation."""

    class Guarded(Trigger[None]):
        """Waits for a lock."""

    @desk.system.on(Guarded)
    def guarded(trigger: Guarded, tx: Transaction) -> None:
        with lock:
            tx[desk.numbers].get("a")

    return Guarded


def test_a_handler_that_waits_for_another_ones_lock_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_threads, "REAL_WAIT_S", 0.05)
    told: list[str] = []
    for seed in range(8):
        desk, lock = Desk(seed=seed), threading.Lock()
        guarded = guarded_by(desk, lock)
        desk.system.start()
        desk.system.submit_many([guarded(), guarded()])
        try:
            desk.dispatchers.run_to_rest()
        except HandlerStands as error:
            told.append(str(error))
            lock.release()  # Whose holder stands at an operation: the other one goes on to its end.
            assert desk.dispatchers.handlers._conductors.wait(WAIT_S)
        desk.dispatchers.drop()
    assert told
    assert all("Guarded()" in each and "interleaving=0" in each for each in told)


def test_one_step_handlers_may_hold_locks() -> None:
    for seed in range(8):
        desk = Desk(seed=seed, interleaving=0.0)
        guarded = guarded_by(desk, threading.Lock())
        with desk.system:
            for each in desk.system.submit_many([guarded(), guarded()]):
                each.result()


def test_what_goes_wrong_on_a_handlers_thread_is_raised_where_it_is_driven(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(seed=1)

    class Broken(BaseException):
        pass

    def broken(*_: Any) -> None:
        raise Broken

    desk.system.start()
    desk.system.submit(Add(key="a"))
    monkeypatch.setattr("seqtor.actors.runs.SyncRun.deliver", broken)
    with pytest.raises(Broken):
        desk.dispatchers.run_to_rest()
    assert desk.dispatchers.drop() == []
