"""Messages that come twice, where their text says that the second does no harm."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from seqtor import Collection, Facts, Record, Retry, Supervisor, Transaction, Trigger, on_result, on_status
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.sequencer import Sequencer
from seqtor.messages.commits import BeginRuns
from seqtor.messages.journal import RunsDurable
from seqtor.messages.runs import RunsEnded
from seqtor.messages.schedules import LookAtSchedules
from seqtor.messages.stores import StoreDue
from tests.outside_programs import Box, Mirror, with_mirror


class Number(Record):
    n: int = 0


class Add(Trigger[int]):
    """Adds one, slowly if it says so."""

    slow: bool = False


class Child(Trigger[int]):
    """What a run submits."""


def make(dispatchers: SimulatedDispatchers) -> Supervisor:
    system = Supervisor(MemoryBackend(), dispatchers=lambda _: dispatchers, settings={"restart_intensity": 0})
    numbers = system.store("numbers", Collection(Number))

    @system.on(Add, writes=[numbers])
    async def add(trigger: Add, tx: Transaction) -> int:
        if trigger.slow:
            await asyncio.sleep(1)
        n = tx[numbers].get("n", Number()).n + 1
        tx[numbers]["n"] = Number(n=n)
        return n

    return system


def test_looking_at_the_schedules_twice_sets_no_second_timer() -> None:
    dispatchers = SimulatedDispatchers(1)
    system = make(dispatchers)
    system.schedule(Add(), every=3_600, name="hourly")
    with system:
        running: Any = system._running

        def timers() -> int:
            return sum(timer.callback is not None for _, _, timer in dispatchers._heap)

        dispatchers.run_for(15)
        before = timers()
        for _ in range(5):
            running.schedules.ref.actor_inbox.tell(LookAtSchedules())
        dispatchers.run_for(100)
        assert timers() == before


def test_looking_for_edits_twice_sets_no_second_timer() -> None:
    class Looking(Mirror):
        look_every_s = 10.0

    dispatchers, box = SimulatedDispatchers(1), Box()
    system = make(dispatchers)
    with_mirror(system, box, Looking)
    with system:
        running: Any = system._running
        [cell] = [ref for ref in running._cell_refs if StoreDue in ref.actor_class.receives]
        dispatchers.run_for(15)
        before = box.looks
        for _ in range(5):
            cell.actor_inbox.tell(StoreDue(incarnation=cell._actor_weakref()._incarnation, looks=True))
        dispatchers.run_for(100)
        assert box.looks - before == 5 + 10


def test_what_has_ended_or_is_durable_is_not_undone_when_it_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    for kind in (RunsEnded, RunsDurable):

        def noting(sequencer: Any, message: Any, method: Any = Sequencer._methods[kind]) -> None:
            told.append(message)
            method(sequencer, message)

        monkeypatch.setitem(Sequencer._methods, kind, noting)
    dispatchers = SimulatedDispatchers(1)
    with make(dispatchers) as system:
        running: Any = system._running
        assert [each.result() for each in system.submit_many([Add()] * 3)] == [1, 2, 3]
        dispatchers.run_to_rest()
        assert {type(each) for each in told} == {RunsEnded, RunsDurable}
        sequencer = running._path.sequencer
        counts = sequencer._durable_count, sequencer._ended_count
        for each in tuple(told):
            running._path.sequencer_ref.actor_inbox.tell(each)
        dispatchers.run_to_rest()
        assert (sequencer._durable_count, sequencer._ended_count) == counts
        assert system.ask(Add()) == 4


def test_a_run_that_is_told_to_begin_twice_executes_once() -> None:
    again = 0
    for seed in range(20):
        dispatchers = SimulatedDispatchers(seed)
        with make(dispatchers) as system:
            running: Any = system._running
            inbox = running._path.coordinator_ref.actor_inbox
            put, coordinator = type(inbox).put, running._path.coordinator
            first, second = system.submit_many([Add(slow=True), Add()])
            while second.run is None or not second.run.begun:
                assert dispatchers.step()
            again += not second.run.attempt
            put(inbox, BeginRuns(seqs=(second.seq or 0,)))
            assert (first.result(), second.result()) == (1, 2)
            put(inbox, BeginRuns(seqs=(1, 2)))  # They have ended.
            dispatchers.run_to_rest()
            assert coordinator is running._path.coordinator
    assert again > 5, "the second comes before it has executed"


class Fails(Trigger[None]):
    """Fails once, then submits a child."""


def test_what_a_retry_has_submitted_is_another_run_than_what_it_retries() -> None:
    dispatchers = SimulatedDispatchers(1)
    system = Supervisor(MemoryBackend(), dispatchers=lambda _: dispatchers)
    reacted: list[list[str]] = []

    @system.on(Fails, retry=Retry(2, backoff=0))
    def fails(trigger: Fails, tx: Transaction) -> None:
        if "~" not in tx.submission.id:
            raise ValueError("the first time")
        tx.submit(Child())

    @system.on(Child)
    def child(trigger: Child, tx: Transaction) -> int:
        return 1

    @system.when(on_status(Fails, "committed") & on_result(Child))
    def both(facts: Facts) -> None:
        reacted.append([fact.id for fact in facts.all])

    with system:
        system.ask(Fails())
        dispatchers.run_for(1)
    assert reacted == [], "a run and its child are two runs"
