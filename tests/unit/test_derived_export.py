"""The JSON files of derived stores: whole, durable, and written anew whatever becomes of them."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    Collection,
    Derived,
    ReconcileDerived,
    Record,
    RegistrationError,
    Supervisor,
    Transaction,
    Trigger,
    on_event,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.stores import export
from seqtor.actors.stores.export import json_of_record, write_atomically
from seqtor.actors.stores.export_cell import ExportCell
from tests.programs import threaded
from tests.seeds import seeds
from tests.simulation.deaths import kill_at_any_line

FILES = ("actors/stores/export_cell.py",)


class Item(Record):
    amount: int


class Sum(Record):
    count: int = 0
    amount: int = 0


class Put(Trigger[None]):
    key: str
    amount: int


class Clear(Trigger[None]):
    """Deletes all."""


class Told(Trigger[None]):
    """What an alarm says."""

    why: str


def summed(items: Mapping[str, Item]) -> Sum:
    return Sum(count=len(items), amount=sum(item.amount for item in items.values()))


class Shelf:
    """Items, and their sum in two files."""

    def __init__(self, system: Supervisor, folder: Path) -> None:
        self.system = system
        self.folder = folder
        self.items = items = system.store("items", Collection(Item))
        self.sums = system.store("sums", Derived(Sum, [items], rebuild=summed, export=folder / "sums.json"))
        self.others = system.store("others", Derived(Sum, [items], rebuild=summed, export=folder / "others.json"))
        self.drifts: list[str] = []

        @system.on(Put)
        def put(trigger: Put, tx: Transaction) -> None:
            tx[items][trigger.key] = Item(amount=trigger.amount)

        @system.on(Clear)
        def clear(trigger: Clear, tx: Transaction) -> None:
            tx[items].clear()

        @system.on(Told)
        def told(trigger: Told, tx: Transaction) -> None:
            self.drifts.append(trigger.why)

        @system.when(on_event("seqtor.drift"))
        def tell(facts: Any) -> Told:
            return Told(why=facts.event.payload["why"])

    def expected(self) -> bytes:
        return json_of_record(summed(self.system.snapshot()[self.items]))

    def files(self) -> list[bytes | None]:
        paths = [self.folder / name for name in ("sums.json", "others.json")]
        return [path.read_bytes() if path.exists() else None for path in paths]

    def require_files(self) -> None:
        assert self.files() == [self.expected()] * 2
        assert sorted(path.name for path in self.folder.iterdir()) == ["others.json", "sums.json"], "nothing is left"


def simulated(folder: Path, seed: int = 1, backend: MemoryBackend | None = None) -> tuple[Shelf, SimulatedDispatchers]:
    dispatchers = SimulatedDispatchers(seed)
    settings = {"restart_intensity": 1_000_000}
    return Shelf(Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings), folder), dispatchers


@pytest.mark.parametrize("journaled", [False, True])
def test_the_file_says_what_is_durable_from_the_start_to_the_stop(tmp_path: Path, journaled: bool) -> None:
    folder, backend = tmp_path / "a" / "b", MemoryBackend() if journaled else None
    shelf, dispatchers = simulated(folder, backend=backend)
    with shelf.system:
        shelf.require_files()
        for number in range(5):
            shelf.system.ask(Put(key=str(number), amount=number))
            dispatchers.run_to_rest()
            shelf.require_files()
        last = shelf.expected()
        shelf.system.tell(Put(key="last", amount=9))
    assert shelf.files() == [json_of_record(Sum(count=6, amount=19))] * 2 != [last] * 2
    (folder / "sums.json").write_bytes(b"old")
    again, _ = simulated(folder, 2, backend)
    with again.system:
        again.require_files()
        assert again.drifts == [], "what was there before the start is nobody's fault"


def test_on_threads_and_on_a_disk(tmp_path: Path) -> None:
    system = threaded()
    shelf = Shelf(system, tmp_path)
    with system:
        for submission in system.submit_many([Put(key=str(number), amount=1) for number in range(300)]):
            submission.result(20)
    assert shelf.files() == [json_of_record(Sum(count=300, amount=300))] * 2


def damage(chance: random.Random, path: Path, old: bytes) -> None:
    content = path.read_bytes()
    kind = chance.choice(["delete", "truncate", "garble", "old", "empty"])
    if kind == "delete":
        path.unlink()
    elif kind == "truncate":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "garble":
        at = chance.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])
    else:
        path.write_bytes(old if kind == "old" else b"")


@pytest.mark.parametrize("seed", seeds(12))
def test_whatever_becomes_of_the_files_they_are_right_after_one_cycle(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    shelf, dispatchers = simulated(tmp_path, seed, MemoryBackend())
    with shelf.system as system:
        old = shelf.expected()
        for _ in range(10):
            for _ in range(chance.randrange(3)):
                system.ask(Put(key=chance.choice("abc"), amount=chance.randrange(100)))
            if chance.random() < 0.8:
                damage(chance, tmp_path / chance.choice(["sums.json", "others.json"]), old)
            if chance.random() < 0.5:
                system.tell(Put(key=chance.choice("abc"), amount=chance.randrange(100)))
            dispatchers.run_until(lambda: False, 901.0)
            shelf.require_files()


def test_what_was_done_to_a_file_is_told_once(tmp_path: Path) -> None:
    shelf, dispatchers = simulated(tmp_path)
    with shelf.system as system:
        (tmp_path / "sums.json").unlink()
        (tmp_path / "others.json").write_bytes(b"{}")
        for name in ("sums", "others", "sums", "others"):
            assert system.ask(ReconcileDerived(derived=name)).outcome == "same", "the store itself is as it was"
        dispatchers.run_to_rest()
        assert sorted(shelf.drifts) == ["the file was changed", "the file was gone"]
        shelf.require_files()


def test_what_the_guard_refuses_leaves_the_file_alone(tmp_path: Path) -> None:
    shelf, dispatchers = simulated(tmp_path)
    with shelf.system as system:
        for number in range(20):
            system.ask(Put(key=str(number), amount=1))
        assert system.ask(ReconcileDerived(derived="sums")).outcome == "same"
        for trigger in (Clear(), Put(key="a", amount=1)):
            system.ask(trigger)
        assert system.ask(ReconcileDerived(derived="sums")).outcome == "refused"
        dispatchers.run_to_rest()
        before = shelf.files()[0]
        system.ask(Put(key="b", amount=1))
        dispatchers.run_to_rest()
        assert shelf.files()[0] == before
        assert shelf.files()[1] == shelf.expected()
        system.ask(ReconcileDerived(derived="sums", accept_loss=True))
        dispatchers.run_to_rest()
        shelf.require_files()


def test_a_folder_that_cannot_be_written_holds_up_nobody_and_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.write_text("in the way")
    shelf, dispatchers = simulated(folder)
    with shelf.system as system:
        for number in range(3):
            system.ask(Put(key=str(number), amount=1))
        dispatchers.run_until(lambda: False, 100.0)
        folder.unlink()
        dispatchers.run_until(lambda: False, 31.0)
        shelf.require_files()


def test_a_file_that_cannot_be_written_is_an_alarm_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[Any] = []
    shelf = Shelf(Supervisor(dispatchers=lambda _: SimulatedDispatchers(1)), tmp_path)

    @shelf.system.when(on_event("seqtor.store_suspended") | on_event("seqtor.store_resumed"))
    def note(facts: Any) -> None:
        alarms.append((facts.event.code.rpartition("_")[2], facts.event.payload["store"]))

    with shelf.system as system:
        with monkeypatch.context() as full:

            def refuse(path: Path, content: bytes, files: Any) -> None:
                raise OSError(errno.ENOSPC, "full")

            full.setattr(export, "write_atomically", refuse)
            for amount in range(3):
                system.submit(Put(key="a", amount=amount), delay=5).result()
            assert sorted(alarms) == [("suspended", "others"), ("suspended", "sums")]
            assert system.stats().stores_suspended == ("sums", "others")
            assert system.tree()["stores/sums"].state == "suspended"
        system.submit(Put(key="b", amount=1), delay=60).result()
        system.submit(Put(key="c", amount=1), delay=5).result()
        assert sorted(alarms[2:]) == [("resumed", "others"), ("resumed", "sums")]
        assert system.stats().stores_suspended == ()


def test_a_writing_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_actor_of_a_file_that_is_killed_at_any_line_brings_it_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(number: int, dispatchers: SimulatedDispatchers, kill: Callable[[], None]) -> None:
        folder = tmp_path / str(number)
        backend = MemoryBackend() if number % 2 else None
        settings = {"restart_intensity": 1_000_000}
        shelf = Shelf(Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings), folder)
        with shelf.system as system:
            kill()
            for count in range(4):
                system.ask(Put(key=str(count), amount=count))
            dispatchers.run_until(lambda: False, 60.0)
            assert shelf.files() == [shelf.expected()] * 2

    assert kill_at_any_line(monkeypatch, ExportCell, FILES, None, play, worlds=16) > 10


def test_two_stores_cannot_have_one_file(tmp_path: Path) -> None:
    system = Supervisor()
    items = system.store("items", Collection(Item))
    system.store("one", Derived(Sum, [items], rebuild=summed, export=tmp_path / "x.json"))
    with pytest.raises(RegistrationError, match=r"x\.json is the file of the store 'one' already"):
        system.store("two", Derived(Sum, [items], rebuild=summed, export=str(tmp_path / "x.json")))
