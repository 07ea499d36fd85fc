"""Effects with a journal: after their commit is durable, and after the next start what had not ended."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from seqtor import (
    Collection,
    EffectContext,
    OutcomeUnknown,
    Record,
    RegistrationError,
    Retry,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.effect_programs import Acknowledged, Order, Outside, PlaceOrder, Tried, desk, raising, until
from tests.programs import WAIT_S, Gate


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log of the test, as records."""
    found: list[Any] = []
    sink = logger.add(lambda message: found.append(message.record), level="INFO")
    logger.enable("seqtor")
    yield found
    logger.remove(sink)
    logger.disable("seqtor")


class Held(SqliteBackend):
    """A real journal whose writing can be held up, or fails."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.may_write.set()
        self.waits = threading.Semaphore(0)
        self.fails: Callable[[Group], bool] = lambda group: False

    def append(self, group: Group) -> None:
        self.waits.release()
        assert self.may_write.wait(WAIT_S)
        if self.fails(group):
            raise OSError("the disk is gone")
        super().append(group)


def test_an_effect_waits_until_its_commit_is_durable(outside: Outside, tmp_path: Path) -> None:
    backend = Held(tmp_path / "desk.db")
    system, _ = desk(outside, Supervisor(backend))
    with system:
        backend.may_write.clear()
        submission = system.submit(Order())
        assert backend.waits.acquire(timeout=WAIT_S)
        until(lambda: system.stats().committed_through == 1)
        assert (outside.tries, submission.done) == ([], False)
        backend.may_write.set()
        outside.await_tries(1)


def test_an_effect_sees_its_commit_on_disk(outside: Outside, tmp_path: Path) -> None:
    found: dict[int, str] = {}

    def look(context: EffectContext, order: PlaceOrder) -> None:
        copy = tmp_path / f"copy-{context.seq}"
        copy.mkdir()
        for file in sorted(tmp_path.glob("desk.db*"), key=lambda file: "through" not in file.name):
            if file.suffix != ".db-control":  # A socket.
                shutil.copy(file, copy)
        backend = SqliteBackend(copy / "desk.db")
        backend.open(write=False)
        found[context.seq] = next(backend.commits(context.seq, context.seq)).body
        backend.close()

    outside.does = look
    system, _ = desk(outside, Supervisor(tmp_path / "desk.db"), Retry(1))
    with system:
        for number in range(3):
            system.ask(Order(article=f"article {number}"), timeout=WAIT_S)
            until(lambda number=number: system.stats().effects_through == number + 1)  # type: ignore[misc]
        assert system.dead_letters() == []
    assert [f"article {seq - 1}" in found[seq] for seq in (1, 2, 3)] == [True, True, True]


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What several systems, one after another, get as their journal."""
    return MemoryBackend() if request.param == "memory" else tmp_path / "desk.db"


def test_what_had_not_ended_is_carried_out_after_the_next_start_under_the_same_key(
    outside: Outside, journal: Any
) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, Supervisor(journal), Retry(5, backoff=3600))
    with system:
        system.ask(Order(count=2), timeout=WAIT_S)
        outside.await_tries(2)
    assert system.stats().effects_through == 0
    first = sorted(tried.key for tried in outside.tries)
    outside.tries.clear()
    outside.does = lambda context, order: Acknowledged(key=context.key, article=order.article)
    system, orders = desk(outside, Supervisor(journal))
    with system:
        until(lambda: system.stats().effects_through == system.stats().committed_through == 3)
    assert sorted(tried.key for tried in outside.tries) == first
    assert [tried.attempt for tried in outside.tries] == [1, 1], "tries are counted by each process"
    assert sorted(key for key in system.snapshot()[orders] if key != "bolt") == [f"ack {key}" for key in first]
    for _ in range(2):
        system, _ = desk(outside, Supervisor(journal))
        with system:
            assert system.stats().effects_through == 3
    assert len(outside.tries) == 2, "what has ended is over"


def test_dead_letters_outlive_the_process(outside: Outside, journal: Any) -> None:
    outside.does = raising(ValueError("wrong"))
    system, _ = desk(outside, Supervisor(journal), Retry(1))
    with system:
        system.ask(Order(article="nut"), timeout=WAIT_S)
        until(lambda: system.stats().effects_through == 1)
        letters = system.dead_letters()
    for _ in range(2):
        system, _ = desk(outside, Supervisor(journal))
        with system:
            assert system.dead_letters() == letters
            assert letters[0].name == "exchange.place"
    without = Supervisor(journal)
    without.store("orders", Collection(PlaceOrder))
    without.on(Order)(lambda trigger, tx: 0)
    with without:
        assert without.dead_letters() == letters
    assert len(outside.tries) == 1


def test_effects_that_the_program_no_longer_registers_are_named_at_the_start(outside: Outside, journal: Any) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, Supervisor(journal), Retry(5, backoff=3600))
    with system:
        system.ask(Order(), timeout=WAIT_S)
    without = Supervisor(journal)
    without.store("orders", Collection(PlaceOrder))
    with pytest.raises(RegistrationError, match=r"holds work of effect 'exchange\.place', which the program no longer"):
        without.start()


class Changed(Record, version=2):
    """What `PlaceOrder` has become."""

    name: str
    count: int


@pytest.mark.parametrize("has_upcast", [True, False])
def test_a_payload_that_changed_goes_through_its_upcast(has_upcast: bool, outside: Outside, journal: Any) -> None:
    outside.does = raising(ConnectionError("away"))
    system, _ = desk(outside, Supervisor(journal), Retry(5, backoff=3600))
    with system:
        system.ask(Order(article="nut"), timeout=WAIT_S)
        outside.await_tries(1)
    outside.tries.clear()
    changed = Supervisor(journal)
    changed.store("orders", Collection(PlaceOrder))

    @changed.effect("exchange.place")
    def place(context: EffectContext, order: Changed) -> None:
        outside.tries.append(Tried(context.key, context.seq, context.attempt, order))

    if not has_upcast:
        with pytest.raises(
            RegistrationError, match=r"the effect 'exchange.place' of seq 1: the record .*@system.upcast"
        ):
            changed.start()
        return

    @changed.upcast(Changed)
    def upcast(record: dict[str, Any], version: int) -> dict[str, Any]:
        return {"name": record["article"], "count": record["count"]}

    with changed:
        until(lambda: changed.stats().effects_through == 1)
    assert [tried.payload for tried in outside.tries] == [Changed(name="nut", count=0)]


def test_a_plain_payload_that_changed_is_refused_at_the_start(journal: Any, outside: Outside) -> None:
    def make(annotation: Any) -> Supervisor:
        system = Supervisor(journal)

        def count(context: EffectContext, number: Any) -> None:
            outside(context, number)

        count.__annotations__["number"] = annotation
        effect = system.effect("count", retry=Retry(5, backoff=3600))(count)
        system.on(Order)(lambda trigger, tx: tx.effect(effect, "many"))
        return system

    outside.does = raising(ConnectionError("away"))
    with make(str) as system:
        system.ask(Order(), timeout=WAIT_S)
    with pytest.raises(RegistrationError, match="'count' of seq 1: the payload does not fit the annotation of count"):
        make(int).start()
    with make(str):
        pass


def test_checkpoints_keep_what_has_not_ended_and_what_was_given_up(outside: Outside, journal: Any) -> None:
    """Many starts: each takes a checkpoint at its stop, and the commits before it are not read again."""
    errors = {"nut": ValueError("wrong"), "bolt": ConnectionError("away")}

    def fail(context: EffectContext, order: PlaceOrder) -> None:
        if order.article in errors:
            raise errors[order.article]

    outside.does = fail
    policy = Retry(5, backoff=3600, on=(OSError,))
    for round_number in range(1, 4):
        system, _ = desk(outside, Supervisor(journal), policy)
        with system:
            for article in ("nut", "bolt", "washer"):
                system.ask(Order(article=article), timeout=WAIT_S)
            until(lambda system=system: system._running._effects._actor._active == 0)  # type: ignore[misc]
            until(lambda system=system, n=round_number: len(system.dead_letters()) == n)  # type: ignore[misc]
            assert system.stats().effects_through == 1
        running: Any = system._running
        assert running.journal.checkpoints.last_seq == round_number * 3
    outside.tries.clear()
    outside.does = lambda context, order: None
    system, _ = desk(outside, Supervisor(journal), policy)
    with system:
        until(lambda: system.stats().effects_through == 9)
        assert [letter.seq for letter in system.dead_letters()] == [7, 4, 1]
    assert sorted(tried.seq for tried in outside.tries) == [2, 5, 8]


class Wait(Trigger[None]):
    """Stands still, and declares what it writes: others overtake it."""


@pytest.mark.parametrize("error", [None, ValueError("wrong")], ids=["ends", "is given up"])
def test_an_effect_of_who_has_overtaken_ends_once_although_later_checkpoints_lie_below(
    error: Exception | None, outside: Outside
) -> None:
    """The process dies, the next one stops and takes a checkpoint below the gap: the end of the effect lies before that."""
    outside.does = raising(error) if error is not None else lambda context, order: None
    backend = MemoryBackend()
    for life in range(3):
        dispatchers = SimulatedDispatchers(life)
        fresh = Supervisor(backend, dispatchers=lambda _, given=dispatchers: given, settings={"stop_grace": 0})  # type: ignore[misc]
        system, _ = desk(outside, fresh, Retry(1))
        others = system.store("others", Collection(PlaceOrder))

        @system.on(Wait, writes=[others])
        async def wait(trigger: Wait, tx: Transaction) -> None:
            await asyncio.Event().wait()

        system.start()
        if not life:
            system.ask(Order(article="bolt", count=0))
            system.submit(Wait())
            assert system.ask(Order(article="bolt")) == 3
        dispatchers.run_to_rest()
        assert len(system.dead_letters()) == (0 if error is None else 1)
        if life:
            system.stop()
        else:
            dispatchers.drop()
            backend.close()
    assert [tried.seq for tried in outside.tries] == [3]


@pytest.mark.parametrize("what", ["commit", "effect"])
def test_a_journal_that_fails_stops_the_effects_and_nothing_hangs(
    what: str, outside: Outside, tmp_path: Path, lines: list[Any]
) -> None:
    backend = Held(tmp_path / "desk.db")
    system, _ = desk(outside, Supervisor(backend))
    outside.does = lambda context, order: Acknowledged(key=context.key, article=order.article)
    system.start()
    system.ask(Order(), timeout=WAIT_S)
    until(lambda: system.stats().effects_through == 2)
    tries = len(outside.tries)
    if what == "commit":
        backend.fails = lambda group: bool(group.commits)
    else:
        backend.fails = lambda group: any(entry.kind == "effect" for entry in group.entries)
    submission = system.submit(Order(count=5))
    with contextlib.suppress(OutcomeUnknown):
        submission.result(WAIT_S)
    until(lambda: system._running._broken is not None)  # type: ignore[union-attr]
    assert system.stats().effects_through <= 3
    assert system.dead_letters() == []
    system.stop()
    if what == "commit":
        assert len(outside.tries) == tries, "what is not durable is not carried out"
    assert any("the system stops taking work" in line["message"] for line in lines)
    outside.tries.clear()
    again, orders = desk(outside, Supervisor(tmp_path / "desk.db"))
    with again:
        pass
    assert again.stats().effects_through == again.stats().committed_through
    acknowledged = [key for key in again.snapshot()[orders] if key != "bolt"]
    assert len(acknowledged) == again.stats().committed_through // 2 if what == "commit" else 6


def test_a_trigger_that_was_accepted_when_everything_stopped_runs_after_the_next_start(
    outside: Outside, tmp_path: Path
) -> None:
    gate = Gate()

    def hold(context: EffectContext, order: PlaceOrder) -> Any:
        gate.pass_through()
        return Acknowledged(key=context.key, article=order.article)

    outside.does = hold
    system, _ = desk(outside, Supervisor(tmp_path / "desk.db"))
    system.start()
    system.ask(Order(), timeout=WAIT_S)
    gate.await_arrivals()
    actor: Any = system._running._effects._actor  # type: ignore[union-attr]
    system._running._effects.hold()  # type: ignore[union-attr]
    until(lambda: actor._holding)
    gate.open()
    until(lambda: not actor._open, "the end of the effect")
    assert system.stats().current_seq == 1, "nothing begins any more"
    system.stop()
    outside.tries.clear()
    again, orders = desk(outside, Supervisor(tmp_path / "desk.db"))
    with again:
        until(lambda: again.stats().committed_through == 2)
        assert len(again.snapshot(seq=2)[orders]) == 2
    assert outside.tries == []
