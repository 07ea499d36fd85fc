"""Stores that write outside: when, in which order, again after which failure, and what becomes of edits by others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    Access,
    Facts,
    OutsideEdit,
    RegistrationError,
    Rejected,
    State,
    StoreActor,
    StoreUnavailable,
    Supervisor,
    Transaction,
    Trigger,
    on_event,
)
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers, Write
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.stores import outside_cell
from tests.outside_programs import Box, Mirror, Put, put_in, with_mirror
from tests.programs import WAIT_S

SEEDS = range(5)


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture(params=[*SEEDS, "threads"])
def make(request: pytest.FixtureRequest) -> Callable[..., Supervisor]:
    """Makes systems, in many simulated orders and on real threads."""
    if request.param == "threads":
        return lambda journal=None, **settings: Supervisor(journal, settings={"threads": 2, **settings})
    return lambda journal=None, **settings: Supervisor(
        journal, settings=settings or None, dispatchers=lambda _: SimulatedDispatchers(request.param)
    )


@pytest.fixture(params=["memory", "journal"])
def journal(request: pytest.FixtureRequest) -> MemoryBackend | None:
    return MemoryBackend("test") if request.param == "journal" else None


def contents(system: Supervisor) -> dict[str, Any]:
    return system.snapshot()[system.stores["mirror"]].all()


# What is written ---------------------------------------------------------------------------------------------------------


def test_what_was_committed_is_outside_after_the_stop(make: Any, journal: Any, box: Box) -> None:
    system = make(journal)
    with_mirror(system, box)
    with system:
        for submission in system.submit_many([Put(key=f"k{n % 3}", value=n) for n in range(50)]):
            submission.result(WAIT_S)
        expected = contents(system)
    assert box.values == expected == {"k0": 48, "k1": 49, "k2": 47}
    assert [seq for call in box.calls for seq in call] == list(range(1, 51)), "each once, in order"
    assert (box.seq, box.closed) == (50, 1)


def test_what_queues_up_while_the_store_writes_is_one_group(tmp_path: Path, box: Box) -> None:
    """However it was told: each answer is a message of its own."""
    begun, gate = threading.Event(), threading.Event()

    def wait_for_the_gate() -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    box.before_ending = wait_for_the_gate
    system = Supervisor(tmp_path / "desk.db", settings={"threads": 2})
    with_mirror(system, box)
    with system:
        put_in(system, a=0)
        assert begun.wait(WAIT_S)
        for value in range(1, 21):
            put_in(system, a=value)
        gate.set()
    assert box.calls == [(1,), tuple(range(2, 22))]


def test_an_edit_is_adopted_once_while_the_store_is_behind(tmp_path: Path, box: Box) -> None:
    """Its run has ended, and what that has committed is not outside yet: the same version is no other edit."""
    gate = threading.Semaphore(0)

    def wait_for_the_gate() -> None:
        assert gate.acquire(timeout=WAIT_S)

    system = Supervisor(tmp_path / "desk.db", settings={"threads": 2})
    mirror = with_mirror(system, box)
    with pytest.MonkeyPatch.context() as patch, system:
        put_in(system, a=1)
        wait_for(system, lambda: box.values.get("a") == 1)
        patch.setattr(outside_cell, "GROUP_MAX", 1)
        box.before_ending = wait_for_the_gate
        put_in(system, b=1)  # It hangs at this one.
        box.values["a"] = "mine"
        for value in range(2, 6):
            put_in(system, a=value)
        gate.release(2)
        wait_for(system, lambda: bool(system.runs(trigger=OutsideEdit)))
        gate.release(10_000)
        wait_for(system, lambda: system.stats().persisted_through >= system.stats().current_seq - 1)
        assert [getattr(run.trigger, "content", None) for run in system.runs(trigger=OutsideEdit)] == ["mine"]
        assert system.snapshot()[mirror].get("a") == "mine"


def test_a_commit_that_does_not_touch_the_store_is_not_persisted(make: Any, journal: Any, box: Box) -> None:
    class Nothing(Trigger[None]): ...

    system = make(journal)
    with_mirror(system, box)
    system.on(Nothing)(lambda trigger, tx: None)
    with system:
        put_in(system, a=1)
        system.ask(Nothing(), timeout=WAIT_S)
        put_in(system, a=1)  # Changes nothing.
        put_in(system, a=2)
    assert [seq for call in box.calls for seq in call] == [1, 4]


def test_nothing_is_written_before_it_is_durable(make: Any, box: Box) -> None:
    written_at: list[int] = []

    class Slow(MemoryBackend):
        through = 0

        def append(self, group: Any) -> None:
            super().append(group)
            self.through = max([self.through, *(row.seq for row in group.commits)])

    backend = Slow("test")
    box.before_ending = lambda: written_at.append(backend.through - box.calls[-1][-1])
    system = make(backend)
    with_mirror(system, box)
    with system:
        for submission in system.submit_many([Put(key="a", value=n) for n in range(30)]):
            submission.result(WAIT_S)
    assert min(written_at) >= 0


def test_what_was_not_outside_at_the_stop_is_written_at_the_next_start(make: Any, box: Box) -> None:
    backend = MemoryBackend("test")
    box.wrong = [StoreUnavailable("away", retry_after=3600)] * 2
    first = make(backend)
    with_mirror(first, box)
    with first:
        put_in(first, a=1, b=2)
    assert (box.values, box.calls) == ({}, [])
    box.wrong.clear()
    second = make(backend)
    with_mirror(second, box)
    with second:
        assert (box.values, box.calls) == ({"a": 1, "b": 2}, [(1, 2)])


def test_what_is_outside_is_not_written_again(make: Any, box: Box) -> None:
    backend = MemoryBackend("test")
    for value in (1, 2):
        system = make(backend)
        with_mirror(system, box)
        with system:
            put_in(system, a=value)
    assert box.calls == [(1,), (2,)]


def test_a_crash_between_the_outside_and_its_mark_has_the_commits_come_again(make: Any, box: Box) -> None:
    """As a kill behind a database's commit: what was written is not known to be."""
    backend = MemoryBackend("test")
    first = make(backend)
    with_mirror(first, box)
    with first:
        put_in(first, a=1, b=2)
    box.seq = 1
    second = make(backend)
    with_mirror(second, box)
    with second:
        assert box.calls[-1] == (2,)
    assert box.values == {"a": 1, "b": 2}


def test_a_long_journal_is_read_in_pieces(make: Any, box: Box) -> None:
    backend = MemoryBackend("test")
    first = make(backend)
    with_mirror(first, box)
    with first:
        for submission in first.submit_many([Put(key="a", value=n) for n in range(1200)]):
            submission.result(WAIT_S)
    box.values, box.left, box.seq, box.calls = {}, {}, 0, []
    second = make(backend)
    with_mirror(second, box)
    with second:
        assert [seq for call in box.calls for seq in call] == list(range(1, 1201))
        assert len(box.calls) == 3
        put_in(second, a=5)
    assert box.values == {"a": 5}


def test_the_data_of_another_journal_are_written_anew(make: Any, box: Box) -> None:
    for _ in range(2):
        system = make(MemoryBackend("test"))
        with_mirror(system, box)
        with system:
            put_in(system, a=7)
    assert box.calls == [(1,), (1, 2)] or box.calls[0] == (1,)
    assert box.values == {"a": 7}


# Failures ----------------------------------------------------------------------------------------------------------------


def test_a_medium_that_is_away_holds_up_its_store_and_nobody_else(make: Any, journal: Any, box: Box) -> None:
    system = make(journal)
    mirror = with_mirror(system, box)
    with system:
        box.wrong = [StoreUnavailable("away", retry_after=0.05)] * 3
        put_in(system, a=1, b=2)
        assert system.snapshot()[mirror].all() == {"a": 1, "b": 2}
        wait_for(system, lambda: box.values == {"a": 1, "b": 2})
    assert box.built == 1, "a medium that is away is no crash"


@pytest.mark.parametrize("error", [StoreUnavailable("away", retry_after=0.05), OSError("full")])
def test_a_store_that_is_suspended_is_an_alarm_once_and_is_seen(
    make: Any, journal: Any, box: Box, error: Exception
) -> None:
    system = make(journal)
    with_mirror(system, box)
    alarms: list[Any] = []

    @system.when(on_event("seqtor.store_suspended") | on_event("seqtor.store_resumed"))
    def note(facts: Facts) -> None:
        alarms.append((facts.event.code, facts.event.payload))

    def standing() -> tuple[Any, ...]:
        stats = system.stats()
        return system.tree()["stores/mirror"].state, stats.stores_suspended

    with system:
        put_in(system, a=1)
        wait_for(system, lambda: box.values == {"a": 1} and standing() == ("running", ()))
        box.wrong = [error] * 1000
        put = system.submit(Put(key="a", value=2))
        put.result(WAIT_S)
        wait_for(system, lambda: len(box.wrong) < 995 and bool(alarms))
        assert standing() == ("suspended", ("mirror",))
        assert put.seq is not None
        assert system.stats().persisted_through < put.seq
        box.wrong.clear()
        wait_for(system, lambda: box.values == {"a": 2} and len(alarms) == 2)
        told = f"{type(error).__name__}: {error}"
        assert alarms == [
            ("seqtor.store_suspended", {"store": "mirror", "error": told, "waiting": 1}),
            ("seqtor.store_resumed", {"store": "mirror", "error": told}),
        ]
        wait_for(system, lambda: standing() == ("running", ()))
        assert system.stats().persisted_through >= put.seq


def test_a_store_that_writes_but_cannot_look_stays_suspended(make: Any, journal: Any, box: Box) -> None:
    """What works is not what had failed: else it would be an alarm for each commit."""

    class Blind(Mirror):
        look_every_s = 0.01

        def look(self) -> None:
            super().look()
            if box.looks > 1:
                raise StoreUnavailable("too dark", retry_after=0.01)

    system = make(journal)
    with_mirror(system, box, Blind)
    alarms: list[Any] = []

    @system.when(on_event("seqtor.store_suspended") | on_event("seqtor.store_resumed"))
    def note(facts: Facts) -> None:
        alarms.append(facts.event.code)

    with system:
        wait_for(system, lambda: bool(alarms))
        for value in range(5):
            put_in(system, a=value)
            wait_for(system, lambda: box.values == contents(system))
        looks = box.looks
        wait_for(system, lambda: box.looks > looks + 2)
        assert alarms == ["seqtor.store_suspended"]
        assert system.stats().stores_suspended == ("mirror",)


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("a bug"), Rejected("too late")])
def test_a_persist_that_fails_has_the_store_rebuilt_and_the_commits_come_again(
    make: Any, journal: Any, box: Box, error: Exception
) -> None:
    system = make(journal)
    with_mirror(system, box)
    with system:
        box.wrong = [error] * 4
        put_in(system, a=1, b=2)
        wait_for(system, lambda: box.values == {"a": 1, "b": 2})
        assert set(system.stats().state_counts) == {State.COMMITTED}
        assert (box.built, box.seq) == (5, 2)


def test_a_store_that_crashes_for_good_is_restarted_and_goes_on(make: Any, journal: Any, box: Box) -> None:
    system = make(journal)
    with_mirror(system, box)
    with system:
        box.wrong = [SystemExit(3)]
        put_in(system, a=1)
        wait_for(system, lambda: box.values == {"a": 1})
        put_in(system, b=2)
    assert box.values == {"a": 1, "b": 2}


def test_a_medium_that_is_away_at_the_start_does_not_hold_it_up(make: Any, journal: Any, box: Box) -> None:
    box.wrong_at_open = [StoreUnavailable("away", retry_after=0.05)] * 2
    system = make(journal)
    with_mirror(system, box)
    with system:
        put_in(system, a=1)
        wait_for(system, lambda: box.values == {"a": 1})


@pytest.mark.parametrize("error", [OSError("no such disk"), PermissionError("not yours")])
def test_what_cannot_be_opened_refuses_the_start_and_is_named(make: Any, journal: Any, box: Box, error: Any) -> None:
    box.wrong_at_open = [error]
    system = make(journal)
    with_mirror(system, box)
    with pytest.raises(RegistrationError, match=f"store 'mirror' could not begin: {type(error).__name__}") as caught:
        system.start()
    assert caught.value.__cause__ is error


def test_an_outside_that_is_ahead_of_its_journal_refuses_the_start(make: Any, box: Box) -> None:
    backend = MemoryBackend("test")
    first = make(backend)
    with_mirror(first, box)
    with first:
        put_in(first, a=1)
    box.seq = 9
    second = make(backend)
    with_mirror(second, box)
    with pytest.raises(RegistrationError, match="up to seq 9, and the journal knows seqs up to 1"):
        second.start()


def wait_for(system: Supervisor, done: Callable[[], bool]) -> None:
    """Have time pass until it is so."""
    for _ in range(10_000):
        if done():
            return
        with contextlib.suppress(TimeoutError):
            system.submit(Put(key="tick", value=None), delay=0.01).result(WAIT_S)
    raise AssertionError("what the test waits for has not happened")


# Edits from outside ------------------------------------------------------------------------------------------------------


def test_what_is_found_at_the_first_start_is_adopted_as_commits(make: Any, journal: Any, box: Box) -> None:
    box.values = {"a": 1, "b": {"$x": [1, 2]}, "c": b"\xff"}
    system = make(journal)
    with_mirror(system, box)
    with system:
        assert contents(system) == {"a": 1, "b": {"$x": [1, 2]}, "c": b"\xff"}
        assert system.stats().current_seq == 3
        assert {run.trigger.key for run in system.runs(trigger=OutsideEdit)} == {"a", "b", "c"}
        put_in(system, a=2)
    assert box.values == {"a": 2, "b": {"$x": [1, 2]}, "c": b"\xff"}


def test_an_edit_is_not_overwritten_before_it_is_in_the_order(make: Any, journal: Any, box: Box) -> None:
    system = make(journal)
    mirror = with_mirror(system, box)
    with system:
        put_in(system, a=1)
        wait_for(system, lambda: box.values.get("a") == 1)
        box.edit("a", "mine")
        put_in(system, a=2)
        wait_for(system, lambda: system.snapshot()[mirror].get("a") == "mine")
        (edit,) = system.runs(trigger=OutsideEdit)
        assert (edit.trigger.store, edit.trigger.key, edit.trigger.content) == ("mirror", "a", "mine")
        put_in(system, a=3)
    assert box.values["a"] == 3


def test_what_was_deleted_or_edited_while_nothing_ran_is_adopted_at_the_start(make: Any, box: Box) -> None:
    backend = MemoryBackend("test")
    first = make(backend)
    with_mirror(first, box)
    with first:
        put_in(first, a=1, b=2, c=3)
    box.edit("a", None)
    box.edit("b", "mine")
    second = make(backend)
    with_mirror(second, box)
    with second:
        assert contents(second) == {"b": "mine", "c": 3}
        assert second.snapshot(3)[second.stores["mirror"]].all() == {"a": 1, "b": 2, "c": 3}, "the old ones are kept"


def test_a_program_may_decide_itself_about_edits(make: Any, journal: Any, box: Box) -> None:
    system = make(journal)
    mirror = with_mirror(system, box)

    @system.on(OutsideEdit)
    def refuse(trigger: OutsideEdit, tx: Transaction) -> None:
        if trigger.content == "bad":
            raise Rejected("not this one")
        tx[mirror].put(trigger.key, f"seen {trigger.content}")

    with system:
        put_in(system, a=1, b=1)
        wait_for(system, lambda: box.values.get("b") == 1)
        box.edit("a", "bad")
        box.edit("b", "good")
        put_in(system, a=2, b=2)
        wait_for(system, lambda: system.snapshot()[mirror].get("b") == "seen good")
        put_in(system, c=1)
        wait_for(system, lambda: box.values == {"a": 2, "b": "seen good", "c": 1})
        assert {run.state for run in system.runs(trigger=OutsideEdit)} == {State.REJECTED, State.COMMITTED}


def test_a_store_looks_for_edits_as_often_as_it_says(make: Any, journal: Any, box: Box) -> None:
    class Looking(Mirror):
        look_every_s = 0.02

    system = make(journal)
    mirror = with_mirror(system, box, Looking)
    with system:
        put_in(system, a=1)
        wait_for(system, lambda: box.values.get("a") == 1)
        box.edit("b", "mine")
        wait_for(system, lambda: system.snapshot()[mirror].get("b") == "mine")
        looks = box.looks
        wait_for(system, lambda: box.looks > looks + 3)
        assert len(system.runs(trigger=OutsideEdit)) == 1, "an edit that was adopted is none any more"


# Registration ------------------------------------------------------------------------------------------------------------


class Bare(StoreActor[Any, Any]):
    """The least that a store is."""

    def recover(self, checkpoint: Checkpoint | None) -> Any:
        return {}

    @staticmethod
    def fold(state: Any, writes: Sequence[Write]) -> Any:
        return state

    @staticmethod
    def view(access: Access[Any]) -> Any:
        return access


class OnlyPersists(Bare):
    def persist(self, commits: Sequence[Commit]) -> None: ...


class OnlyPersisted(Bare):
    def persisted(self) -> int:
        return 0


class OnTheCore(Mirror):
    dispatcher = "core"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (OnlyPersists, "must define both persist and persisted"),
        (OnlyPersisted, "must define both persist and persisted"),
        (OnTheCore, "cannot be on the core"),
    ],
)
def test_a_store_that_cannot_write_outside_in_order_is_refused(kind: type[StoreActor[Any, Any]], why: str) -> None:
    with pytest.raises(RegistrationError, match=why):
        kind.spec()


@pytest.mark.parametrize("answer", [-1, "3", 1.5, True])
def test_a_seq_that_is_none_is_refused(make: Any, box: Box, answer: Any) -> None:
    class Odd(Mirror):
        def persisted(self) -> Any:
            return answer

    system = make()
    with_mirror(system, box, Odd)
    with pytest.raises(RegistrationError, match="persisted returned"):
        system.start()


def test_a_store_that_has_nothing_outside_is_never_persisted(make: Any, journal: Any, box: Box) -> None:
    class Nowhere(Mirror):
        def persisted(self) -> None:  # type: ignore[override]
            return None

    system = make(journal)
    with_mirror(system, box, Nowhere)
    with system:
        put_in(system, a=1)
        assert contents(system) == {"a": 1}
    assert box.calls == []
