"""Fault points: their names, what is armed, and what the runtime does when something goes wrong at them."""

from __future__ import annotations

import errno
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seqtor import Collection, Derived, EffectContext, Files, Record, Retry, Supervisor, Table, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.faults import POINTS, fault
from seqtor.messages import OutsideEdit
from seqtor.messages.errors import NotRunning, OutcomeUnknown
from seqtor.testing import faults
from tests.programs import WAIT_S

ROOT = Path(__file__).parents[2]
FULL = OSError(errno.ENOSPC, "no space left")


class Item(Record):
    """What the collection and the table keep."""

    count: int = 0


class Put(Trigger[int]):
    """Writes everywhere, and has an effect."""

    key: str = "a"


class Desk:
    """A system on a journal with all that has fault points, on a virtual clock."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.dispatchers = SimulatedDispatchers(seed)
        self.sent: list[tuple[str, int]] = []
        settings = {"retain": 1.0, "restart_intensity": 1000}
        self.system = system = Supervisor(
            folder / "journal.db", dispatchers=lambda _: self.dispatchers, settings=settings
        )
        items = system.store("items", Collection(Item))
        files = system.store("files", Files(folder / "files", look_every=None))
        rows = system.store("rows", Table(f"sqlite:///{folder}/rows.db", Item))
        system.store("count", Derived(Item, [items], rebuild=_counted, export=folder / "count.json"))

        @system.effect("send", retry=Retry(5, backoff=0.1, jitter=0))
        def send(context: EffectContext, key: str) -> None:
            self.sent.append((context.key, context.attempt))

        @system.on(Put)
        def put(trigger: Put, tx: Transaction) -> int:
            tx[items].increment(trigger.key, count=1)
            tx[files][trigger.key] = f"{tx.seq}"
            tx[rows][trigger.key] = Item(count=tx.seq)
            tx.effect(send, trigger.key)
            return tx.seq

    def settle(self) -> None:
        """Let everything happen, also what is tried again."""
        self.dispatchers.run_for(60.0)


def _counted(items: Any) -> Item:
    return Item(count=len(items))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are copied and checkpoints made every few commits."""
    monkeypatch.setattr("seqtor.actors.journal.sqlite.WAL_PAGES", 4)
    monkeypatch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", 300)
    monkeypatch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)


# The table of names ----------------------------------------------------------------------------------------------------


def test_every_point_of_the_runtime_is_in_the_table_and_the_other_way_round() -> None:
    found: Counter[str] = Counter()
    for path in (ROOT / "actors").rglob("*.py"):
        found.update(re.findall(r'\bfault\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    assert set(found) == set(POINTS)
    assert dict(faults.POINTS) == POINTS


def test_a_life_of_a_system_comes_by_every_point(tmp_path: Path) -> None:
    passed: Counter[str] = Counter()
    with faults.watching(lambda point: passed.update([point])):
        desk = Desk(tmp_path)
        with desk.system as system:
            for number in range(30):
                system.ask(Put(key=str(number % 3)), timeout=WAIT_S)
                desk.dispatchers.run_for(1.0)
    assert set(passed) == set(POINTS)
    fault("journal.append.before")
    assert passed["journal.append.before"] >= 30, "each group"
    assert sum(passed.values()) == sum(Counter(passed).values()), "nothing is counted behind the block"


def test_a_name_that_is_no_point_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"no fault point 'journal.append.before_sink'; did you mean 'journal.append.before_sync'"
    ):
        faults.at("journal.append.before_sink", raises=FULL).__enter__()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "say what is to happen"),
        ({"raises": FULL, "times": 0}, "times="),
        ({"raises": FULL, "after": -1}, "after="),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        faults.at("files.rename.before", **options).__enter__()


# What is armed ---------------------------------------------------------------------------------------------------------


def test_it_happens_as_often_as_was_said_behind_those_that_are_spared() -> None:
    happened = []
    with faults.at("files.rename.before", calls=lambda: happened.append(1), times=2, after=1) as armed:
        for _ in range(5):
            fault("files.rename.before")
            fault("files.rename.after")
        assert (armed.reached, armed.happened, len(happened)) == (5, 2, 2)
    fault("files.rename.before")
    assert len(happened) == 2


def test_blocks_can_be_nested_and_the_outer_one_comes_first() -> None:
    order: list[str] = []
    with (
        faults.at("files.sync.before", calls=lambda: order.append("outer"), times=None),
        faults.at("files.sync.before", calls=lambda: order.append("inner"), raises=FULL),
    ):
        with pytest.raises(OSError, match="no space"):
            fault("files.sync.before")
        fault("files.sync.before")
    assert order == ["outer", "inner", "outer"]


def test_a_fault_that_never_happened_fails_the_test_and_says_what_was_passed() -> None:
    def pass_points() -> None:
        with faults.at("files.sync.before", raises=FULL, after=1):
            for point in ("files.sync.after", "files.sync.before", "files.sync.after"):
                fault(point)

    with pytest.raises(faults.NotReached) as caught:
        pass_points()
    assert str(caught.value) == (
        "nothing happened at files.sync.before: it was reached 1 times, of which 1 were to be spared. Reached meanwhile: "
        "files.sync.after (2), files.sync.before (1)"
    )


def test_a_test_that_fails_by_itself_is_not_told_of_a_fault_that_did_not_happen() -> None:
    with pytest.raises(ZeroDivisionError), faults.at("files.sync.before", raises=FULL):
        print(1 / 0)


# What the runtime does ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["journal.append.before", "journal.append.after"])
def test_a_crash_of_the_journal_s_actor_is_mended_and_everything_runs_once(tmp_path: Path, point: str) -> None:
    desk = Desk(tmp_path)
    with desk.system as system:
        with faults.at(point, raises=RuntimeError("injected")):
            results = [submission.result(WAIT_S) for submission in system.submit_many([Put()] * 3)]
        desk.settle()
        assert results == sorted(set(results))
        assert system.snapshot()[system.stores["items"]]["a"].count == 3
        assert system.stats().restarts == 1
        assert [attempt for _, attempt in desk.sent] == [1, 1, 1]


@pytest.mark.parametrize(
    "point", ["journal.append.before_sync", "journal.copy.before", "journal.checkpoint.before_part"]
)
def test_an_error_of_the_medium_ends_the_commit_path_and_loses_nothing_that_was_answered(
    tmp_path: Path, point: str
) -> None:
    desk, answered = Desk(tmp_path), 0

    def ask_on() -> None:
        nonlocal answered
        for _ in range(20):
            desk.system.ask(Put(), timeout=WAIT_S)
            answered += 1
            desk.dispatchers.run_for(1.0)

    broken = pytest.raises((OutcomeUnknown, NotRunning), match="no space left")
    with desk.system, faults.at(point, raises=FULL), broken:
        ask_on()
    again = Desk(tmp_path)
    with again.system as system:
        assert system.snapshot()[system.stores["items"]].get("a", Item()).count >= answered
        assert system.ask(Put(), timeout=WAIT_S) > answered, "it goes on"


OUTSIDE = [each for each in POINTS if each.startswith(("files.", "table.", "export.", "outside."))]


@pytest.mark.parametrize("point", OUTSIDE)
def test_what_goes_wrong_outside_holds_up_nobody_and_is_made_good(tmp_path: Path, point: str) -> None:
    desk = Desk(tmp_path)
    with desk.system as system, faults.at(point, raises=OSError(errno.EIO, "injected"), times=2):
        seqs = {str(number): system.ask(Put(key=str(number)), timeout=WAIT_S) for number in range(3)}
        desk.settle()
        system.stop()  # Some points are passed at the end only.
    again = Desk(tmp_path)
    with again.system as system:
        again.settle()
        written = {each.name: int(each.read_text()) for each in (tmp_path / "files").iterdir() if each.is_file()}
        assert written == seqs
        assert Item.model_validate_json((tmp_path / "count.json").read_text()).count == 3
        assert {key: row.count for key, row in system.snapshot()[system.stores["rows"]].items()} == seqs
        assert not list(system.runs(trigger=OutsideEdit)), "nobody else has written"


@pytest.mark.parametrize("point", ["effects.try.before", "effects.try.after"])
def test_an_effect_that_is_interrupted_is_tried_again_under_its_key(tmp_path: Path, point: str) -> None:
    desk = Desk(tmp_path)
    with desk.system as system:
        with faults.at(point, raises=ConnectionError("injected")):
            system.ask(Put(), timeout=WAIT_S)
            desk.settle()
        was_done = point.endswith("after")
        assert [attempt for _, attempt in desk.sent] == ([1, 2] if was_done else [2])
        assert len({key for key, _ in desk.sent}) == 1
        assert system.stats().effects_through == system.stats().committed_through
