"""Threads that a handler does not leave: given up, counted, reported, and welcome when they come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from seqtor import Collection, DeadlineExceeded, HandlerFailed, Supervisor, Transaction, Trigger
from seqtor.actors import runs
from seqtor.actors.transactions import CURRENT
from tests.programs import WAIT_S, Account, Deposit, Gate, open_bank, threaded


class Hang(Trigger[str]):
    """Hangs until the test lets it go."""


class Lines:
    """Log lines of the pool, to be waited for."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, message: Any) -> None:
        with self._changed:
            self.lines.append(message.record)
            self._changed.notify_all()

    def await_line(self, part: str) -> Any:
        def found() -> Any:
            return next((line for line in self.lines if part in line["message"]), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, WAIT_S), self.lines
            return found()


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    logger.enable("seqtor")
    sink = logger.add(lines, level="INFO", filter=lambda record: record["extra"].get("actor") == "pool")
    yield lines
    logger.remove(sink)
    logger.disable("seqtor")


def hanging_system(gate: Gate) -> Supervisor:
    system = threaded(threads=2)
    open_bank(system)

    @system.on(Hang, deadline=0.05)
    def hang(trigger: Hang, tx: Transaction) -> str:
        gate.pass_through()
        return "late"

    return system


def test_a_stuck_thread_is_counted_and_reported_and_again_when_it_comes_back(lines: Lines) -> None:
    gate = Gate()
    with hanging_system(gate) as system:
        assert (system.stats().threads_replaced, system.stats().threads_stuck) == (0, 0)
        system.ask(Deposit(), timeout=WAIT_S)
        with pytest.raises(DeadlineExceeded):
            system.ask(Hang(), timeout=WAIT_S)
        assert (system.stats().threads_replaced, system.stats().threads_stuck) == (1, 1)
        stuck = lines.await_line("is stuck in Hang (seq 2)")
        assert stuck["level"].name == "WARNING"
        assert stuck["extra"] == {"seq": 2, "trigger": "Hang", "actor": "pool"}
        gate.open()
        back = lines.await_line("that was stuck in Hang (seq 2) has come back after")
        assert back["extra"] == {"seq": 2, "trigger": "Hang", "actor": "pool"}
        assert (system.stats().threads_replaced, system.stats().threads_stuck) == (1, 0)
        assert system.ask(Deposit(), timeout=WAIT_S) == 2
        assert len(lines.lines) == 2


def test_an_invariant_that_hangs_is_reported_under_its_run(lines: Lines) -> None:
    gate = Gate()
    system = threaded(threads=2)

    def slow(state: Any) -> bool:
        if state:
            gate.pass_through()
        return True

    accounts = system.store("accounts", Collection(Account, invariants=[slow]))

    @system.on(Hang, deadline=0.05)
    def write(trigger: Hang, tx: Transaction) -> str:
        tx[accounts]["x"] = Account(balance=1)
        return "written"

    with system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Hang(), timeout=WAIT_S)
        assert lines.await_line("is stuck in Hang (seq 1)")["extra"]["trigger"] == "Hang"
        gate.open()
        lines.await_line("has come back")


def test_the_deadline_of_a_run_whose_actor_crashed_takes_no_thread_that_does_other_work(
    monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    """The crashed actor never left its handler; its thread is not in it any more all the same."""
    gate, watched = Gate(), threading.Event()

    class Crashing:
        """What a run sets when it has entered its handler, outside of what it guards."""

        def set(self, transaction: Any) -> Any:
            if transaction.handler_name == "Hang":
                raise RuntimeError("a defect")
            return CURRENT.set(transaction)

        def reset(self, token: Any) -> None:
            CURRENT.reset(token)

    monkeypatch.setattr(runs, "CURRENT", Crashing())
    with hanging_system(gate) as system:
        with pytest.raises(HandlerFailed, match="its run actor crashed 3 times, at last with RuntimeError: a defect"):
            system.ask(Hang(), timeout=WAIT_S)
        dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]
        dispatchers.timers.call_after(0.1, watched.set)  # The watch of the deadline comes before it.
        assert watched.wait(WAIT_S)
        assert (system.stats().threads_replaced, system.stats().threads_stuck) == (0, 0)
        assert [system.ask(Deposit(), timeout=WAIT_S) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert lines.lines == []
