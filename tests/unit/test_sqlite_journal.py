"""What can befall the files of an SQLite journal, and that it is never taken for an empty or a shorter one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from seqtor.actors.journal.contract import Backend, Group
from seqtor.actors.journal.sqlite import WAL_PAGES, SqliteBackend
from seqtor.actors.journal.sqlite_files import APPLICATION_ID
from seqtor.actors.journal.sqlite_rows import set_meta
from seqtor.messages.errors import JournalCorrupted, JournalLocked, NotRunning
from tests.contract.journal_backends import PARTS, checkpoint, commit, commits, content, entries, entry, key

Start = Callable[[str, Path], subprocess.Popen[str]]

OWNING = """
import sys, os
from seqtor.actors.journal.contract import CommitRow, Group
from seqtor.actors.journal.sqlite import SqliteBackend
backend = SqliteBackend(sys.argv[1])
opened = backend.open()
first = opened.commits_through + 1
backend.append(Group([CommitRow(seq, "{}", b"") for seq in range(first, first + 10)]))
"""
WAITING = "print('ready', flush=True)\nsys.stdin.read()\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
def processes() -> Iterator[Start]:
    """Start a process that owns a journal; it has appended ten commits when this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write_journal(path: Path, groups: int = 20, size: int = 5) -> None:
    """A journal that was closed in order."""
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups, size)
    backend.close()


def append(backend: Backend, groups: int = 20, size: int = 5, after: int = 0) -> None:
    """Groups of commits and entries of about 300 bytes."""
    for group in range(groups):
        first = after + group * size + 1
        numbers = range(first, first + size)
        backend.append(
            Group(
                [commit(number, f'{{"seq":{number},"text":"{"x" * 300}"}}') for number in numbers],
                [entry(number, f'{{"pos":{number},"text":"{"y" * 300}"}}') for number in numbers],
                [key(f"key-{number}", number) for number in numbers],
            )
        )


def crashed(path: Path, target: Path) -> Path:
    """The files of an open journal as a killed owner leaves them."""
    shutil.copytree(path.parent, target)
    return target / path.name


def require_corrupted(path: Path, *texts: str, write: bool = True) -> JournalCorrupted:
    """It is refused with these words, and its files stay as they are."""
    before = files(path.parent)
    with pytest.raises(JournalCorrupted) as raised:
        SqliteBackend(path).open(write=write)
    for text in (str(path), *texts):
        assert text in str(raised.value)
    after = files(path.parent)
    for each in (before, after):
        each.pop(f"{path.name}-owner", None)
    assert after == before
    return raised.value


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def flip(path: Path, offset: int, bit: int = 3) -> None:
    """One bit changes on the disk."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def owner_of(path: Path) -> Path:
    return path.with_name(path.name + "-owner")


# How it is kept --------------------------------------------------------------------------------------------------------


def test_every_group_is_synced_and_nobody_else_gets_in(path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    connection = backend._connection
    assert connection is not None
    found = {name: connection.pragma(name) for name in ("journal_mode", "synchronous", "locking_mode", "fullfsync")}
    assert found == {"journal_mode": "wal", "synchronous": 2, "locking_mode": "exclusive", "fullfsync": 1}
    assert connection.pragma("application_id") == APPLICATION_ID
    assert sorted(files(path.parent)) == ["journal.db", "journal.db-owner", "journal.db-wal"]
    backend.close()
    assert sorted(files(path.parent)) == ["journal.db", "journal.db-owner"]


def test_the_log_is_copied_into_the_database_now_and_then(path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    for seq in range(1, 4 * WAL_PAGES):
        backend.append(Group([commit(seq)]))
    assert wal_of(path).stat().st_size < 1.1 * WAL_PAGES * 4120
    assert len(content(backend).commits) == 4 * WAL_PAGES - 1
    backend.close()


def test_a_failure_to_copy_the_log_is_told_and_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtor.actors.journal.sqlite.WAL_PAGES", 1)
    backend = SqliteBackend(path)
    backend.open()
    backend.append(Group(commits(1, 1)))

    class Failing:
        def __init__(self, connection: apsw.Connection) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

        def wal_checkpoint(self) -> None:
            raise apsw.IOError("broken")

    backend._connection = Failing(backend._connection)  # type: ignore[assignment, arg-type]
    with pytest.raises(OSError, match="broken; look at the disk"):
        backend.append(Group(commits(2, 2)))
    with pytest.raises(NotRunning):
        backend.append(Group(commits(2, 2)))
    backend.close()
    again = SqliteBackend(path)
    assert again.open().commits_through == 1
    again.close()


def test_a_journal_may_be_a_link_a_relative_path_or_below_home(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_journal(path, groups=1)
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = SqliteBackend(link)
    assert first.open().commits_through == 5
    assert first.place == str(link)
    for name in ("journal.db", "~/journal.db", path):
        with pytest.raises(JournalLocked, match=f"pid {os.getpid()}"):
            SqliteBackend(name).open()
    first.close()
    second = SqliteBackend("journal.db")
    assert second.open().commits_through == 5
    second.close()


def test_text_that_is_no_text_fails_the_group(path: Path) -> None:
    for group in (Group([commit(2, "\udc80")]), Group(commits(2, 3), [entry(1, "\udc80")])):
        backend = SqliteBackend(path.with_name(f"{len(group.entries)}.db"))
        backend.open()
        backend.append(Group(commits(1, 1)))
        with pytest.raises(UnicodeEncodeError):
            backend.append(group)
        assert content(backend) == Group(tuple(commits(1, 1)), (), ())
        backend.close()


def test_large_rows_are_read_a_few_at_a_time(path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    backend.append(Group([commit(seq, "x" * 300_000) for seq in range(1, 13)]))
    rows, failure = backend._piece("SELECT seq, body FROM commits ORDER BY seq", ())
    assert failure is None
    assert len(rows) == 4
    assert [row.seq for row in backend.commits(1, 12)] == list(range(1, 13))
    backend.close()


# Who owns it -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [True, False])
def test_a_second_process_is_told_the_pid_of_the_first(path: Path, processes: Start, write: bool) -> None:
    process = processes(OWNING + WAITING, path)
    with pytest.raises(JournalLocked, match=rf"another process \(pid {process.pid}\)") as raised:
        SqliteBackend(path).open(write=write)
    assert str(path) in str(raised.value)
    assert "stop it" in str(raised.value)


@pytest.mark.parametrize("write", [True, False])
def test_a_second_opener_in_this_process_is_told_so(path: Path, write: bool) -> None:
    first = SqliteBackend(path)
    first.open()
    with pytest.raises(JournalLocked, match=rf"in this process \(pid {os.getpid()}\)"):
        SqliteBackend(path).open(write=write)
    first.append(Group(commits(1, 1)))
    first.close()


def test_kill_9_of_the_owner_frees_it(path: Path, processes: Start) -> None:
    for through in (10, 20):
        process = processes(OWNING + WAITING, path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader = SqliteBackend(path)
        assert reader.open(write=False).commits_through == through
        reader.close()
    backend = SqliteBackend(path)
    opened = backend.open()
    assert (opened.epoch, opened.commits_through) == (3, 20)
    assert [row.seq for row in backend.commits(1, 20)] == list(range(1, 21))
    backend.close()


def test_a_stopped_owner_keeps_it(path: Path, processes: Start) -> None:
    process = processes(OWNING + WAITING, path)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(JournalLocked, match=str(process.pid)):
        SqliteBackend(path).open()


def test_a_child_that_was_forked_does_not_keep_it(path: Path, processes: Start) -> None:
    forking = "if os.fork() == 0:\n    print('ready', flush=True)\nsys.stdin.read()\n"
    process = processes(OWNING + forking, path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    backend = SqliteBackend(path)
    assert backend.open().commits_through == 10
    backend.close()


def test_who_lost_the_owner_file_still_keeps_others_out(path: Path, processes: Start) -> None:
    processes(OWNING + WAITING, path)
    owner_of(path).unlink()
    with pytest.raises(JournalLocked, match="another program has the file open"):
        SqliteBackend(path).open()


def test_a_tool_that_reads_keeps_writers_out_and_other_readers_not(path: Path) -> None:
    write_journal(path)
    readers = [SqliteBackend(path), SqliteBackend(path)]
    for reader in readers:
        assert reader.open(write=False).commits_through == 100
    with pytest.raises(JournalLocked, match="read by a tool"):
        SqliteBackend(path).open()
    for reader in readers:
        assert len(content(reader).commits) == 100
        reader.close()
    backend = SqliteBackend(path)
    assert backend.open().epoch == 2
    backend.close()


def test_reading_changes_no_file(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend)
    held = content(backend)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    assert wal_of(left).exists()
    assert not wal_of(path).exists()
    for each in (path, left):
        before = files(each.parent)
        reader = SqliteBackend(each)
        reader.open(write=False)
        assert content(reader) == held
        reader.close()
        assert files(each.parent) == before


# What is no journal ----------------------------------------------------------------------------------------------------


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.touch()
    backend = SqliteBackend(path)
    assert backend.open().epoch == 1
    backend.append(Group(commits(1, 1)))
    backend.close()


def test_a_creation_that_was_interrupted_is_begun_again(path: Path) -> None:
    path.with_name("journal.db-new").write_bytes(b"half of it")
    path.with_name("journal.db-new-journal").write_bytes(b"half of it")
    owner_of(path).touch()
    backend = SqliteBackend(path)
    assert backend.open().epoch == 1
    backend.close()
    assert sorted(files(path.parent)) == ["journal.db", "journal.db-owner"]


@pytest.mark.parametrize("text", [b"x", b"# A README\n" * 300, b"\x89PNG\r\n\x1a\n" + bytes(5000), bytes(8192)])
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    require_corrupted(path, "no journal", f"{len(text)} bytes", "Choose another path")
    require_corrupted(path, write=False)
    assert files(path.parent) == {"journal.db": text}


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE commits(seq INTEGER PRIMARY KEY)")
    other.close()
    require_corrupted(path, "another program", f"{APPLICATION_ID:#x}", "found 0x0")
    assert list(files(path.parent)) == ["journal.db"]


def test_a_foreign_owner_file_is_refused_and_stays_as_it_is(path: Path) -> None:
    owner_of(path).write_bytes(b"somebody else's file")
    with pytest.raises(JournalCorrupted, match="move it away"):
        SqliteBackend(path).open()
    assert files(path.parent) == {"journal.db-owner": b"somebody else's file"}


@pytest.mark.parametrize("table", ["meta", "commits", "entries", "keys", "checkpoints", "checkpoint_parts"])
def test_a_missing_table_is_named(path: Path, table: str) -> None:
    write_journal(path)
    edit(path, f"DROP TABLE {table}")
    require_corrupted(path, "expected the tables", f"{table} missing", "seqtor journal verify")


def edit(path: Path, sql: str) -> None:
    """Change the database behind seqtor's back, and leave nothing beside it."""
    connection = apsw.Connection(str(path))
    connection.execute(sql)
    connection.close()


def test_a_newer_format_is_refused(path: Path) -> None:
    write_journal(path)
    backend = SqliteBackend(path)
    backend.open()
    assert backend._connection is not None
    set_meta(backend._connection, "format", 2)
    backend.close()
    require_corrupted(path, "expected format 1, found 2", "the version that wrote it")


@pytest.mark.parametrize("name", ["journal_id", "format", "epoch", "commits_trimmed", "entries_trimmed"])
def test_a_changed_or_missing_value_of_the_journal_is_refused(path: Path, name: str) -> None:
    write_journal(path)
    for sql in (f"UPDATE meta SET value = 7 WHERE name = '{name}'", f"DELETE FROM meta WHERE name = '{name}'"):
        edit(path, sql)
        require_corrupted(path, f"expected an intact {name}")


# What was lost ---------------------------------------------------------------------------------------------------------


def test_a_missing_or_emptied_database_is_not_a_new_journal(path: Path) -> None:
    write_journal(path)
    for lose, word in ((path.unlink, "is missing"), (path.touch, "is empty")):
        lose()
        for write in (True, False):
            require_corrupted(path, word, "100 commits and 100 entries", "restore a backup", "delete", write=write)
    path.unlink()
    owner_of(path).unlink()
    backend = SqliteBackend(path)
    assert backend.open().commits_through == 0
    backend.close()


def test_a_missing_database_with_its_log_left_is_not_a_new_journal(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    left.unlink()
    owner_of(left).unlink()
    require_corrupted(left, "is missing", "journal.db-wal", "put the database back")


@pytest.mark.parametrize("part", ["one byte", "half a page", "a page", "half", "all but a page", "all but the header"])
def test_a_truncated_database_is_refused(path: Path, part: str) -> None:
    write_journal(path)
    size = path.stat().st_size
    kept = {
        "one byte": size - 1,
        "half a page": size - 2048,
        "a page": size - 4096,
        "half": size // 2,
        "all but a page": 4096,
        "all but the header": 100,
    }
    os.truncate(path, kept[part])
    for write in (True, False):
        require_corrupted(path, "truncated", f"{kept[part]} bytes", "seqtor journal verify", write=write)


def test_a_database_that_is_truncated_beside_its_log_is_refused(path: Path, tmp_path: Path) -> None:
    write_journal(path)
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=2, after=100)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    os.truncate(left, left.stat().st_size // 2)
    require_corrupted(left, "truncated")


def test_a_copy_of_the_log_that_was_interrupted_goes_on(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend)
    held = content(backend)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    # Closing has copied the log: of what it wrote the first page and a few others have reached the disk.
    whole = path.read_bytes()
    kept = bytearray(left.read_bytes())
    kept[:4096] = whole[:4096]
    left.write_bytes(kept)
    assert len(kept) < len(whole)
    for write in (False, True):
        again = SqliteBackend(left)
        again.open(write=write)
        assert content(again) == held
        again.close()


def test_a_missing_log_is_told_with_the_place(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=3)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    wal_of(left).unlink()
    for write in (True, False):
        error = require_corrupted(left, "commits end at 0, but 15 were durable", "journal.db-wal", write=write)
        assert error.seq == 1


def test_a_truncated_log_is_told_with_the_place(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=3)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    size = wal_of(left).stat().st_size
    for kept in (size - 1, size - 5000, size // 2, 40, 31):
        os.truncate(wal_of(left), kept)
        error = require_corrupted(left, "but 15 were durable")
        assert error.seq in (1, 6, 11)


def test_a_flipped_bit_in_the_middle_of_the_log_is_told_with_the_place(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    ends = []
    for group in range(8):
        append(backend, groups=1, after=group * 5)
        ends.append(wal_of(path).stat().st_size)
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    rng = random.Random(8)
    for _ in range(60):
        offset = rng.randrange(ends[0], ends[-1])
        place = 5 * sum(end <= offset for end in ends) + 1
        flip(wal_of(left), offset)
        error = require_corrupted(left, f"commits end at {place - 1}, but 40 were durable")
        assert error.seq == place
        flip(wal_of(left), offset)
    again = SqliteBackend(left)
    assert again.open().commits_through == 40
    again.close()


def test_marks_protect_entries_too(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    backend.append(Group(entries=entries(1, 7)))
    left = crashed(path, tmp_path / "crashed")
    backend.close()
    wal_of(left).unlink()
    require_corrupted(left, "entries end at 0, but 7 were durable")


def test_marks_that_are_torn_or_of_another_journal_count_for_nothing(path: Path, tmp_path: Path) -> None:
    write_journal(path)
    other = tmp_path / "other" / "journal.db"
    other.parent.mkdir()
    write_journal(other, groups=1)
    intact = owner_of(path).read_bytes()
    for marks in (owner_of(other).read_bytes(), intact.replace(b"100", b"900"), bytes(512), intact[:90], b""):
        owner_of(path).write_bytes(marks)
        backend = SqliteBackend(path)
        assert backend.open().commits_through == 100
        backend.close()
        assert b"00100 0" in owner_of(path).read_bytes()


def test_a_backup_goes_on_from_where_it_is_once_the_owner_file_is_deleted(path: Path, tmp_path: Path) -> None:
    write_journal(path, groups=2)
    shutil.copy(path, tmp_path / "backup.db")
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=1, after=10)
    backend.close()
    shutil.copy(tmp_path / "backup.db", path)
    require_corrupted(path, "commits end at 10, but 15 were durable", "delete the owner file")
    owner_of(path).unlink()
    assert backend.open().commits_through == 10
    append(backend, groups=1, after=10)
    backend.close()


def test_a_gap_is_told_with_the_place_after_all_that_is_before_it(path: Path) -> None:
    write_journal(path)
    edit(path, "DELETE FROM commits WHERE seq = 50; DELETE FROM entries WHERE pos = 60")
    backend = SqliteBackend(path)
    backend.open()
    read = []
    with pytest.raises(JournalCorrupted, match="seq 50 is missing, the next one is 51") as raised:
        read.extend(row.seq for row in backend.commits(1, 100))
    assert raised.value.seq == 50
    with pytest.raises(JournalCorrupted, match="entry 60 is missing"):
        list(backend.entries(1, 100))
    assert [row.seq for row in backend.commits(51, 100)] == list(range(51, 101))
    backend.close()


def test_rows_that_are_missing_from_either_end_are_told(path: Path) -> None:
    write_journal(path)
    edit(path, "DELETE FROM commits WHERE seq < 3")
    assert require_corrupted(path, "commits to begin at seq 1, they begin at 3").seq == 3
    edit(path, "DELETE FROM commits WHERE seq > 90 OR seq < 3; INSERT INTO commits VALUES (1, '', x''), (2, '', x'')")
    assert require_corrupted(path, "commits end at 90, but 100 were durable").seq == 91


def test_an_entry_a_key_or_a_part_that_was_changed_is_told(path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=1)
    checkpoint(backend, 5, [])
    backend.close()
    edit(path, "UPDATE entries SET body = replace(body, 'y', 'z') WHERE pos = 4")
    edit(path, "UPDATE keys SET run = 'run-2' WHERE key = 'key-3'")
    backend.open()
    with pytest.raises(JournalCorrupted, match=r"entry 4 \(accepted run-4\) is not what was written"):
        list(backend.entries(1, 5))
    assert len(list(backend.entries(5, 5))) == 1
    with pytest.raises(JournalCorrupted, match="key-3"):
        list(backend.keys())
    backend.close()
    edit(path, "UPDATE checkpoints SET entries_through = 1")
    require_corrupted(path, "the checkpoint at seq 5 is not what was written")


def test_a_part_of_a_checkpoint_that_is_missing_or_was_changed_is_told(path: Path) -> None:
    for sql, words in (
        ("UPDATE checkpoint_parts SET data = zeroblob(9) WHERE number = 1", "part 1 of the checkpoint at seq 5 is not"),
        ("DELETE FROM checkpoint_parts WHERE number = 2", "part 2 of the checkpoint at seq 5 is missing"),
    ):
        path.unlink(missing_ok=True)
        owner_of(path).unlink(missing_ok=True)
        backend = SqliteBackend(path)
        backend.open()
        append(backend, groups=1)
        checkpoint(backend, 5, PARTS)
        backend.close()
        edit(path, sql)
        backend.open()
        with pytest.raises(JournalCorrupted, match=words):
            list(backend.checkpoint_parts(5))
        backend.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_in_the_database_is_told_or_is_in_a_record_that_has_a_chain(path: Path, seed: int) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=40)
    backend.close()
    backend.open(write=False)
    held = content(backend)
    backend.close()
    whole = path.read_bytes()
    rng = random.Random(seed)
    told = 0
    for _ in range(60):
        offset = rng.randrange(len(whole))
        flip(path, offset, rng.randrange(8))
        commit_rows = []
        try:
            backend.open(write=False)
            for row in backend.commits(1, 200):
                commit_rows.append(row)  # noqa: PERF402 - what was read before the damage counts
            assert tuple(backend.entries(1, 200)) == held.entries
            assert tuple(sorted(backend.keys())) == held.keys
            assert len(commit_rows) == 200
        except JournalCorrupted as error:
            told += str(path) in str(error)
        finally:
            backend.close()
        for row, expected in zip(commit_rows, held.commits, strict=False):
            assert row.seq == expected.seq
        path.write_bytes(whole)
    assert told > 15


def test_a_damaged_page_is_told_with_the_place_after_all_that_is_before_it(path: Path) -> None:
    write_journal(path, groups=100)
    connection = apsw.Connection(str(path))
    pages = connection.execute("SELECT pageno FROM dbstat WHERE name = 'commits' AND pagetype = 'leaf'").get
    connection.close()
    page = pages[len(pages) // 2]
    flip(path, (page - 1) * 4096)
    backend = SqliteBackend(path)
    backend.open()
    read = []
    with pytest.raises(JournalCorrupted, match="seq") as raised:
        read.extend(row.seq for row in backend.commits(1, 500))
    assert raised.value.seq == len(read) + 1
    assert read == list(range(1, len(read) + 1))
    assert len(read) > 100
    assert "seqtor journal export" in str(raised.value)
    backend.close()


# What the operating system refuses -------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "journal.db"
    with pytest.raises(FileNotFoundError, match=r"folder '.*missing' does not exist: create it first"):
        SqliteBackend(path).open()
    with pytest.raises(FileNotFoundError, match="there is no journal at"):
        SqliteBackend(path).open(write=False)
    assert not path.parent.exists()


def test_reading_creates_nothing(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no journal at"):
        SqliteBackend(path).open(write=False)
    assert files(path.parent) == {}
    path.touch()
    with pytest.raises(FileNotFoundError, match="there is no journal at"):
        SqliteBackend(path).open(write=False)
    assert files(path.parent) == {"journal.db": b""}


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="give the path of a file"):
        SqliteBackend(tmp_path / "folder").open()


def test_a_device_a_pipe_and_a_socket_are_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device"):
        for write in (True, False):
            with pytest.raises(OSError, match="give the path of a file"):
                SqliteBackend(tmp_path / name).open(write=write)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["device", "pipe"]


def test_a_full_disk_is_told_and_loses_nothing(path: Path) -> None:
    backend = SqliteBackend(path)
    backend.open()
    append(backend, groups=3)
    assert backend._connection is not None
    backend._connection.pragma("max_page_count", 30)
    done = 3
    with pytest.raises(OSError, match="make room") as raised:  # noqa: PT012 - the groups before it are counted
        while True:
            append(backend, groups=1, after=done * 5)
            done += 1
    assert "appending a group" in str(raised.value)
    assert done > 3
    held = content(backend)
    assert len(held.commits) == len(held.entries) == len(held.keys) == done * 5
    with pytest.raises(NotRunning, match="make room"):
        backend.append(Group(commits(done * 5 + 1, done * 5 + 1)))
    backend.close()
    again = SqliteBackend(path)
    opened = again.open()
    assert (opened.commits_through, opened.entries_through) == (done * 5, done * 5)
    assert content(again) == held
    append(again, groups=1, after=done * 5)
    again.close()


UNPRIVILEGED = """
import os, sys
from seqtor.actors.journal.sqlite import SqliteBackend
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    opened = SqliteBackend(sys.argv[1]).open(write=sys.argv[2] == "write")
except OSError as error:
    print(type(error).__name__, error)
else:
    print(opened.commits_through)
"""


@pytest.mark.parametrize("closed", [True, False])
def test_what_may_not_be_written_is_told_with_what_to_change(closed: bool) -> None:
    def attempt(how: str) -> str:
        command = [sys.executable, "-c", UNPRIVILEGED, path, how]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "journal.db"
        backend = SqliteBackend(path)
        backend.open()
        append(backend, groups=2)
        if closed:
            backend.close()
        else:
            left = crashed(path, Path(name) / "crashed")
            backend.close()
            path = left
        for each in path.parent.iterdir():
            each.chmod(0o444)
        try:
            for folder in {path.parent, Path(name)}:
                folder.chmod(0o555)
            refused = attempt("write")
            assert refused.startswith("PermissionError")
            assert "give this user write access to the folder" in refused
            read = attempt("read")
            if closed:
                assert read == "10"
            else:
                assert read.startswith("PermissionError")
                assert "write access" in read
            path.parent.chmod(0o777)
            owner_of(path).chmod(0o666)
            refused = attempt("write")
            assert refused.startswith("PermissionError")
            assert f"give this user write access to '{path}*'" in refused
            path.chmod(0o000)
            refused = attempt("write")
            assert refused.startswith("PermissionError")
            assert "cannot be read" in refused
        finally:
            for folder in {path.parent, Path(name)}:
                folder.chmod(0o700)
