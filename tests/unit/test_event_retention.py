"""How long events are kept: `retain=` by age, the newest in any case; what reactions wait for is never given up."""

from __future__ import annotations

from typing import Any

from seqtor import Collection, Facts, Record, Supervisor, Transaction, Trigger, on_event
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.journal import CheckpointDue

DAY_S = 86_400.0


class Pair(Record):
    """How often a pair was met."""

    count: int = 0


class Met(Trigger[None]):
    """Both parts of a pair have happened."""

    key: str


class Office:
    """A system that keeps ten days of history, in virtual time."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.dispatchers = SimulatedDispatchers(3)
        self.system = Supervisor(backend, dispatchers=lambda _: self.dispatchers, settings={"retain": 10 * DAY_S})
        self.pairs = pairs = self.system.store("pairs", Collection(Pair))
        left, right = on_event("left"), on_event("right")

        @self.system.on(Met)
        def met(trigger: Met, tx: Transaction) -> None:
            tx[pairs].increment(trigger.key, count=1)

        @self.system.when((left & right).correlate(lambda fact: fact.payload))
        def both(facts: Facts) -> Met:
            return Met(key=str(facts[left].payload))

    def emit(self, code: str, payload: str) -> None:
        self.system.emit(code, payload)
        self.dispatchers.run_to_rest()

    def days(self, count: float) -> None:
        """Let so much time pass, then have a checkpoint made, and what is too old let go."""
        clock = self.dispatchers.clock
        clock.advance_to(clock.monotonic() + count * DAY_S)
        self.emit("tick", "")
        running: Any = self.system._running
        running.journal.checkpointer_ref.tell(CheckpointDue())
        self.dispatchers.run_to_rest()

    def kept(self) -> list[str]:
        return [str(event.payload) for event in reversed(self.system.events()) if event.code != "tick"]


def test_events_older_than_retain_are_let_go_and_what_waits_for_its_other_half_is_not() -> None:
    backend = MemoryBackend()
    office = Office(backend)
    with office.system:
        office.emit("left", "early")
        office.emit("left", "done")
        office.emit("right", "done")
        office.days(0)
        office.days(20)
        office.emit("left", "late")
        office.days(20)
        office.emit("left", "last")
        office.days(11)
        assert office.kept() == ["last"], "by age, and the newest is there"
        (state,) = office.system.reactions()
        assert [half.key for half in state.half_met] == ['"last"', '"late"', '"early"'], "the newest first"
        office.emit("right", "early")
        assert office.system.snapshot()[office.pairs]["early"].count == 1
    after = Office(backend)
    with after.system:
        assert len(after.system.reactions()[0].half_met) == 2
        after.emit("right", "late")
        after.emit("right", "done")
        found = {key: pair.count for key, pair in after.system.snapshot()[after.pairs].items()}
        assert found == {"early": 1, "done": 1, "late": 1}, "each once, however old its other half"
