"""The simulated disk by itself: what is seen, what is durable, and what is left after a death or a power failure."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import apsw
import pytest

from seqtor import Collection, Record, Supervisor, Transaction, Trigger
from seqtor.actors.filesystem import EXCHANGE, NOREPLACE, file_system_at, read_file, sync_folder, write_all
from seqtor.testing import SimulatedDisk

PLACE = Path("/simulated")
SEEDS = range(40)


def write(path: Path, content: bytes, *, sync: bool = True, sync_name: bool = True) -> None:
    files = file_system_at(path)
    with files.opened(path, os.O_RDWR | os.O_CREAT) as fd:
        write_all(files, fd, content)
        if sync:
            files.fsync(fd)
    if sync_name:
        sync_folder(files, path.parent)


def after_power_failure(seed: int, *steps: object, lies: bool = False) -> dict[str, bytes]:
    """What is left when the power fails behind some steps."""
    with SimulatedDisk(PLACE, seed=seed, lies=lies) as disk:
        for step in steps:
            step()  # type: ignore[operator]
        disk.end(power_fails=True)
        disk.begin_again()
        return disk.contents()


def test_what_was_synced_with_its_name_is_there_whatever_the_seed() -> None:
    assert all(
        after_power_failure(seed, lambda: write(PLACE / "a", b"x" * 3000)) == {"a": b"x" * 3000} for seed in SEEDS
    )


def test_what_was_not_synced_is_there_or_not_or_in_sectors() -> None:
    old, new = b"o" * 4096, b"n" * 4096

    def write_both() -> None:
        write(PLACE / "a", old)
        write(PLACE / "a", new, sync=False)

    found = [after_power_failure(seed, write_both)["a"] for seed in range(200)]
    assert {len(content) for content in found} == {4096}
    assert {content[at : at + 512] for content in found for at in range(0, 4096, 512)} == {b"o" * 512, b"n" * 512}
    assert {old, new} < set(found), "all, nothing, and parts"


def test_a_sector_is_as_it_was_at_some_moment_and_never_as_it_was_at_none() -> None:
    def write_twice() -> None:
        write(PLACE / "a", b"0" * 512)
        files = file_system_at(PLACE / "a")
        with files.opened(PLACE / "a", os.O_RDWR) as fd:
            files.pwrite(fd, b"1" * 100, 0)
            files.pwrite(fd, b"2" * 100, 100)

    moments = {b"0" * 512, b"1" * 100 + b"0" * 412, b"1" * 100 + b"2" * 100 + b"0" * 312}
    assert {after_power_failure(seed, write_twice)["a"] for seed in range(100)} == moments


def test_a_name_is_durable_when_its_folder_is() -> None:
    found = [after_power_failure(seed, lambda: write(PLACE / "a", b"x", sync_name=False)) for seed in SEEDS]
    assert {len(each) for each in found} == {0, 1}
    assert all(each in ({}, {"a": b"x"}) for each in found)


def test_names_of_one_folder_are_lost_from_the_end_and_a_rename_is_done_or_not() -> None:
    def rename() -> None:
        files = file_system_at(PLACE)
        files.mkdir(PLACE / "one")
        files.mkdir(PLACE / "other")
        sync_folder(files, PLACE)
        write(PLACE / "one" / "a", b"a")
        write(PLACE / "other" / "b", b"b")
        assert files.rename(PLACE / "one" / "a", PLACE / "other" / "b", EXCHANGE)
        assert not files.rename(PLACE / "one" / "a", PLACE / "other" / "b", NOREPLACE)
        files.unlink(PLACE / "one" / "a")

    states = [{"one/a": b"a", "other/b": b"b"}, {"one/a": b"b", "other/b": b"a"}, {"other/b": b"a"}]
    found = [after_power_failure(seed, rename) for seed in range(100)]
    assert all(each in states for each in found)
    assert all(state in found for state in states)


def test_a_disk_that_lies_loses_what_it_said_was_durable() -> None:
    found = [after_power_failure(seed, lambda: write(PLACE / "a", b"x" * 3000), lies=True) for seed in SEEDS]
    assert any(each != {"a": b"x" * 3000} for each in found)


def test_a_death_of_the_program_loses_nothing_and_a_power_failure_later_what_it_had_not_synced() -> None:
    lost = 0
    for seed in SEEDS:
        with SimulatedDisk(PLACE, seed=seed) as disk:
            write(PLACE / "a", b"x", sync=False)
            disk.begin_again()
            assert disk.contents() == {"a": b"x"}
            disk.end(power_fails=True)
            disk.begin_again()
            lost += disk.contents() != {"a": b"x"}
    assert 0 < lost < len(SEEDS)


def test_what_is_left_of_an_earlier_life_harms_nobody_and_holds_no_lock() -> None:
    with SimulatedDisk(PLACE) as disk:
        ghost = file_system_at(PLACE)
        fd = ghost.open(PLACE / "a", os.O_RDWR | os.O_CREAT)
        ghost.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            ghost.flock(ghost.open(PLACE / "a", os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)
        disk.end_at(disk.steps + 1, power_fails=False)
        ghost.pwrite(fd, b"too late", 0)
        assert disk.has_ended
        disk.begin_again()
        ghost.unlink(PLACE / "a")
        assert disk.contents() == {"a": b""}
        now = file_system_at(PLACE)
        now.flock(now.open(PLACE / "a", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failed_sync_is_seen_by_all_and_on_no_disk() -> None:
    with SimulatedDisk(PLACE) as disk:
        write(PLACE / "a", b"old")
        with disk.failing("sync", code=errno.EIO, times=1), pytest.raises(OSError, match="Input/output"):
            write(PLACE / "a", b"new")
        write(PLACE / "a", b"", sync=True)
        assert read_file(file_system_at(PLACE), PLACE / "a") == b"new"
        disk.end(power_fails=True)
        disk.begin_again()
        assert disk.contents() == {"a": b"old"}


def test_a_full_disk_takes_nothing_more_and_errors_come_where_they_were_asked_for() -> None:
    with SimulatedDisk(PLACE, capacity_bytes=1000) as disk:
        write(PLACE / "a", b"x" * 900)
        with pytest.raises(OSError, match="No space"):
            write(PLACE / "b", b"x" * 200)
        write(PLACE / "a", b"y" * 900)
        with disk.failing("open", below="b", after=1):
            read_file(disk.files, PLACE / "a")
            read_file(disk.files, PLACE / "b")
            with pytest.raises(OSError, match="Input/output"):
                read_file(disk.files, PLACE / "b")
    assert disk.happened["write: ENOSPC"] == 1
    assert disk.happened["open: EIO"] == 1


def test_sqlite_is_on_it_and_told_of_its_errors() -> None:
    with SimulatedDisk(PLACE) as disk:
        connection = apsw.Connection(str(PLACE / "x.db"), vfs=disk.files.vfs)
        connection.pragma("locking_mode", "exclusive")
        connection.pragma("journal_mode", "wal")
        connection.execute("create table t(x)")
        with disk.failing("write", code=errno.ENOSPC), pytest.raises(apsw.FullError):
            connection.execute("insert into t values (1)")
        with disk.failing("sync"), pytest.raises(apsw.IOError):
            connection.execute("insert into t values (2)")
        connection.execute("insert into t values (3)")
        disk.end(power_fails=True)
        disk.begin_again()
        again = apsw.Connection(str(PLACE / "x.db"), vfs=disk.files.vfs)
        again.pragma("locking_mode", "exclusive")
        assert list(again.execute("select x from t")) == [(3,)]
        assert not Path(PLACE).exists(), "nothing of it is on the machine's disk"


def test_outside_of_the_block_paths_are_the_machine_s() -> None:
    with SimulatedDisk(PLACE):
        assert file_system_at(PLACE / "deep" / "a") is not file_system_at(Path("/elsewhere"))
    assert file_system_at(PLACE / "deep" / "a") is file_system_at(Path("/elsewhere"))
    with pytest.raises(ValueError, match="absolute"):
        SimulatedDisk("relative")


class Item(Record):
    """One."""

    count: int = 0


class Add(Trigger[int]):
    """Adds one."""


def test_a_system_finds_what_was_answered_after_a_power_failure_at_any_operation() -> None:
    """On real threads, too."""
    for step in range(1, 160, 7):
        with SimulatedDisk(PLACE, seed=step) as disk:
            answered = 0
            for life in range(2):
                system = Supervisor(PLACE / "journal.db", settings={"control": "off"})
                items = system.store("items", Collection(Item))

                @system.on(Add)
                def add(trigger: Add, tx: Transaction, items: Any = items) -> int:
                    tx[items].increment("a", count=1)
                    return tx[items]["a"].count

                if not life:
                    disk.end_at(step, power_fails=True)
                with system:
                    if life:
                        assert system.snapshot()[items].get("a", Item()).count >= answered
                    while not life and not disk.has_ended:
                        count = system.ask(Add(), timeout=30)
                        if not disk.has_ended:
                            answered = count
                disk.begin_again()
