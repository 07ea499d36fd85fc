"""`Files` on a simulated disk: what is left after failures, deaths and power failures at chosen points."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seqtor import Files, OutsideEdit, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.stores.folder import Folder, Version, digest_of
from seqtor.testing import SimulatedDisk, faults
from tests.programs import WAIT_S

SEEDS = range(6)
BROKEN = OSError(errno.EIO, "injected")


class Save(Trigger[int]):
    """Writes files, or deletes them; without any it has nothing to do with them."""

    keys: tuple[str, ...] = ()
    content: str | None = None


def life(disk: SimulatedDisk, act: Callable[[Any], None] = lambda system: None, **settings: Any) -> dict[str, str]:
    """A start, something that is done, and a stop; what the store says at the end, and the folder must say, too."""
    dispatchers = SimulatedDispatchers(disk.lives)
    dispatchers.clock.advance_to(1000.0 * disk.lives)
    system = Supervisor("/simulated/journal.db", dispatchers=lambda _: dispatchers, settings=settings)
    files = system.store("files", Files("/simulated/files", look_every=None))

    @system.on(Save)
    def save(trigger: Save, tx: Transaction) -> int:
        for key in trigger.keys:
            if trigger.content is None:
                tx[files].pop(key, None)
            else:
                tx[files][key] = trigger.content
        return tx.seq

    with system:
        act(system)
        found = {key: str(content) for key, content in system.snapshot()[files].items()}
        assert not list(system.runs(trigger=OutsideEdit)), "nobody else has written"
    return found


def folder(disk: SimulatedDisk) -> dict[str, str]:
    return {key: each.decode() for key, each in disk.contents("files").items() if not key.startswith(".seqtor")}


def ask(system: Any, *keys: str, content: str | None) -> None:
    system.ask(Save(keys=keys, content=content), timeout=WAIT_S)


@pytest.fixture(params=SEEDS)
def disk(request: pytest.FixtureRequest) -> Iterator[SimulatedDisk]:
    with SimulatedDisk(seed=request.param) as disk:
        yield disk


@pytest.mark.parametrize("content", ["new", None])
@pytest.mark.parametrize("point", ["files.rename.before", "files.rename.after"])
def test_a_group_that_was_written_in_part_before_a_stop_and_a_power_failure_is_no_edit(
    disk: SimulatedDisk, point: str, content: str | None
) -> None:
    life(disk, lambda system: ask(system, "a", "deep/b", "c", content="old"))
    disk.begin_again()
    with faults.at(point, raises=BROKEN, after=1, times=None):
        life(disk, lambda system: ask(system, "a", "deep/b", "c", content=content))
    disk.end(power_fails=True)
    disk.begin_again()
    expected = {} if content is None else dict.fromkeys(("a", "deep/b", "c"), content)
    assert life(disk) == folder(disk) == expected


def test_a_folder_that_was_made_before_a_death_is_made_durable_by_the_next_life(disk: SimulatedDisk) -> None:
    with faults.at("files.sync.before", calls=lambda: disk.end(power_fails=False)):
        life(disk, lambda system: ask(system, "deep/er/a", content="x"))
    disk.begin_again()
    assert life(disk) == {"deep/er/a": "x"}
    disk.end(power_fails=True)
    disk.begin_again()
    assert life(disk) == folder(disk) == {"deep/er/a": "x"}


def test_a_version_that_was_replaced_does_not_come_back_after_a_power_failure(disk: SimulatedDisk) -> None:
    def act(system: Any) -> None:
        for number in range(5):
            ask(system, "a", content=str(number))

    with faults.at("files.settle.after", calls=lambda: disk.end(power_fails=True), after=1):
        life(disk, act)
    disk.begin_again()
    assert life(disk) == folder(disk) == {"a": "4"}


def test_what_the_manifest_says_is_there_after_a_power_failure_also_if_a_group_was_left_in_the_middle(
    disk: SimulatedDisk,
) -> None:
    version = Version(1, digest_of(b"x"), b"x")
    written = Folder(Path("/simulated/files"), 0)
    written.open("journal")
    written.plan({"deep/a": version.digest, "b": version.digest}, 0)
    written.put("deep/a", version, written.prepare({"deep/a": version})["deep/a"])
    written.settle(0)
    disk.end(power_fails=True)
    disk.begin_again()
    found = Folder(Path("/simulated/files"), 0)
    found.open("journal")
    assert {key: left.digest for key, left in found.left.items()} == {"deep/a": version.digest}
    assert found.read("deep/a") == b"x"
    found.close()
    written.close()


@pytest.mark.parametrize("power_fails", [True, False])
def test_a_trimmed_journal_has_what_a_folder_lacks_after_a_death(
    disk: SimulatedDisk, power_fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest says less than was written: it is written before the next group, and not after each."""
    monkeypatch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", 300)
    monkeypatch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)
    trimmed: list[int] = []

    def act(system: Any) -> None:
        driver = system._running._dispatchers
        for number in range(6):
            ask(system, "a", content=str(number))
            driver.run_for(2.0)
        for _ in range(6):
            ask(system, content=None)
            driver.run_for(2.0)
        trimmed.append(system._running.journal.actor.kept_from)
        disk.end(power_fails=power_fails)

    life(disk, act, retain=1.0)
    assert trimmed[0] > 1
    disk.begin_again()
    assert life(disk, lambda system: ask(system, "a", content="new"), retain=1.0) == {"a": "new"}
    assert folder(disk) == {"a": "new"}


def test_who_has_not_been_written_to_for_long_notes_its_seq_so_that_the_journal_can_be_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seqtor.actors.stores.outside.NOTE_EVERY", 10)
    monkeypatch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", 300)
    monkeypatch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)

    def act(system: Any) -> None:
        ask(system, "a", content="x")
        for _ in range(40):
            ask(system, content=None)
            system._running._dispatchers.run_for(2.0)
        assert system._running.journal.actor.kept_from > 20

    with SimulatedDisk() as disk:
        assert life(disk, act, retain=1.0) == folder(disk) == {"a": "x"}


def test_a_checkpoint_that_was_not_made_is_made_when_the_journal_has_grown_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing new was durable when the journal asked for it; or a store could not give its state."""
    monkeypatch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", 300)
    monkeypatch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)
    broken = [True]
    checkpoint_of = Files.checkpoint_of

    def failing(self: Files, state: Any) -> bytes:
        if broken[0] and state.entries:
            broken[0] = False
            raise RuntimeError("not now")
        return checkpoint_of(self, state)

    monkeypatch.setattr(Files, "checkpoint_of", failing)

    def act(system: Any) -> None:
        for number in range(20):
            ask(system, "a", content=str(number))
            system._running._dispatchers.run_for(1.0)
        assert not broken[0]
        assert system._running.journal.actor.checkpoints[-1].seq > 10

    with SimulatedDisk() as disk:
        life(disk, act)
