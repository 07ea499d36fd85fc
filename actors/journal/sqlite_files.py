"""The files of an SQLite journal, before SQLite has touched them.

Owns how a new database comes into being, and the judgement of what is found at a path. SQLite takes a file of zero bytes
for an empty database, and drops a log that does not fit without a word; so the files are looked at first. Promises: what
is no journal is refused and not changed; a new journal appears at its path whole or not at all, whenever the power fails.
Call only while the side file is held: closing a file drops all locks that SQLite has on it in this process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import uuid
from pathlib import Path

import apsw

from seqtor.actors.faults import fault
from seqtor.actors.filesystem import FileSystem, sync_folder
from seqtor.actors.journal.sqlite_errors import WHAT_TO_DO
from seqtor.actors.journal.sqlite_owner import Marks, owner_path
from seqtor.actors.journal.sqlite_rows import set_meta
from seqtor.messages.errors import JournalCorrupted

__all__ = ["APPLICATION_ID", "FORMAT", "TABLES", "create_database", "is_journal", "wal_path", "write_wal_again"]

APPLICATION_ID = 0x53657174  # "Seqt"
FORMAT = 1

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
WAL_HEADER = struct.Struct(">IIIIIIII")
FRAME_HEADER = struct.Struct(">IIIIII")

# STRICT: a wrong type is refused when it is written, and a flipped type bit is not read as something else.
SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY, digest BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE commits(seq INTEGER PRIMARY KEY, body TEXT NOT NULL, chain BLOB NOT NULL) STRICT;
CREATE TABLE entries(
    pos INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, body TEXT NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE keys(
    key TEXT PRIMARY KEY, run TEXT NOT NULL, payload_digest BLOB NOT NULL, seq INTEGER, digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_ended ON keys(seq) WHERE seq IS NOT NULL;
CREATE TABLE checkpoints(
    seq INTEGER PRIMARY KEY, entries_through INTEGER NOT NULL, chain BLOB NOT NULL, parts INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, attempt INTEGER NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE checkpoint_parts(
    attempt INTEGER NOT NULL, number INTEGER NOT NULL, section TEXT NOT NULL, digest BLOB NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (attempt, number)
) STRICT;
"""
TABLES = frozenset({"meta", "commits", "entries", "keys", "checkpoints", "checkpoint_parts"})


def wal_path(path: Path) -> Path:
    """SQLite's write-ahead log of a database."""
    return path.with_name(path.name + "-wal")


def create_database(files: FileSystem, path: Path, vfs: str | None) -> None:
    """Make an empty journal, complete before it gets its name."""
    new = path.with_name(path.name + "-new")
    for leftover in (new, new.with_name(new.name + "-journal"), wal_path(new)):
        with contextlib.suppress(FileNotFoundError):
            files.unlink(leftover)
    connection = apsw.Connection(str(new), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs)
    try:
        connection.pragma("locking_mode", "EXCLUSIVE")
        connection.pragma("synchronous", "FULL")
        connection.pragma("fullfsync", 1)
        connection.pragma("page_size", 4096)
        connection.execute("BEGIN")
        connection.pragma("application_id", APPLICATION_ID)
        connection.execute(SCHEMA)
        values: dict[str, int | str] = {"journal_id": uuid.uuid4().hex, "format": FORMAT, "epoch": 0}
        values |= {"commits_trimmed": 0, "entries_trimmed": 0}
        for name, value in values.items():
            set_meta(connection, name, value)
        connection.execute("COMMIT")
        connection.pragma("journal_mode", "WAL")
    finally:
        connection.close()
    files.replace(new, path)
    fault("journal.create.before_sync")
    sync_folder(files, path.parent)


def write_wal_again(files: FileSystem, path: Path) -> None:
    """Write what is in the log once more, and sync it, before anything is done on the strength of it.

    A sync that failed in the life before has left pages in the system's cache that read well, count as written, and are
    on no disk. Copied into the database from there, they would spoil it if the power failed on the way.
    """
    try:
        fd = files.open(wal_path(path), os.O_RDWR)
    except FileNotFoundError:
        return
    except PermissionError as error:
        advice = f"give this user write access to '{path}*' and the folder"
        raise PermissionError(errno.EACCES, f"the log '{wal_path(path)}' cannot be written: {advice}") from error
    try:
        offset = 0
        while piece := files.pread(fd, 1 << 20, offset):
            offset += files.pwrite(fd, piece, offset)
        files.fsync(fd)
    finally:
        files.close(fd)


def is_journal(files: FileSystem, path: Path, marks: Marks | None) -> bool:
    """Tell whether there is a journal, or nothing yet. Raises JournalCorrupted for anything else."""
    try:
        status = files.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, f"journal '{path}' is a folder: give the path of a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, f"journal '{path}' is a device, a pipe or a socket: give the path of a file")
        with files.opened(path, os.O_RDONLY) as fd:
            size = files.fstat(fd).st_size
            header = files.pread(fd, HEADER_BYTES, 0)
    except FileNotFoundError:
        size, header = 0, b""
    except PermissionError as error:
        raise OSError(error.errno, f"journal '{path}' cannot be read ({error.strerror})") from error
    if size == 0:
        _require_nothing_left(files, path, marks)
        return False
    if header[: len(MAGIC)] != MAGIC:
        raise JournalCorrupted(
            f"'{path}' is no journal: expected an SQLite database of seqtor, found {size} bytes that begin with "
            f"{header[:16]!r}. Choose another path, or restore a backup if it was one"
        )
    if size < HEADER_BYTES:
        raise JournalCorrupted(f"journal '{path}' is truncated: {size} bytes are left of it; {WHAT_TO_DO}")
    found = int.from_bytes(header[68:72], "big")
    if found != APPLICATION_ID:
        raise JournalCorrupted(
            f"'{path}' is a database of another program: expected the application id {APPLICATION_ID:#x} of seqtor, found "
            f"{found:#x}. Choose another path"
        )
    _require_whole(files, path, size, header)
    return True


def _require_nothing_left(files: FileSystem, path: Path, marks: Marks | None) -> None:
    """Nothing at the path is a new journal only if nothing says that there was one."""
    state = "is empty" if files.exists(path) else "is missing"
    if marks is not None:
        raise JournalCorrupted(
            f"journal '{path}' {state}, but '{owner_path(path)}' says that journal {marks.journal_id} was there with "
            f"{marks.commits} commits and {marks.entries} entries: restore a backup; to begin a "
            "new journal on purpose, delete that file too"
        )
    for left in (wal_path(path), path.with_name(path.name + "-journal")):
        if files.exists(left) and files.stat(left).st_size:
            raise JournalCorrupted(
                f"journal '{path}' {state}, but a log of it is left, '{left}': put the database back beside it, or restore "
                "a backup; to begin a new journal on purpose, delete that file too"
            )


def _require_whole(files: FileSystem, path: Path, size: int, header: bytes) -> None:
    """Every page that the database counts must be in it, or in the log that has yet to be copied into it."""
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    pages = int.from_bytes(header[28:32], "big")
    whole = size // page_size if page_size else 0
    if whole >= pages:
        return
    missing = set(range(whole + 1, pages + 1)) if pages - whole < 1 << 20 else None
    if missing is None or missing - _pages_in_wal(files, wal_path(path), page_size):
        raise JournalCorrupted(
            f"journal '{path}' is truncated: expected {pages} pages of {page_size} bytes, found {size} bytes; {WHAT_TO_DO}"
        )


def _pages_in_wal(files: FileSystem, path: Path, page_size: int) -> set[int]:
    """Numbers of the pages in the current generation of a log."""
    found: set[int] = set()
    if not files.exists(path):
        return found
    with files.opened(path, os.O_RDONLY) as fd:
        header = files.pread(fd, WAL_HEADER.size, 0)
        if len(header) < WAL_HEADER.size:
            return found
        salts, at = WAL_HEADER.unpack(header)[4:6], WAL_HEADER.size
        while len(frame := files.pread(fd, FRAME_HEADER.size, at)) == FRAME_HEADER.size:
            number, _, *frame_salts = FRAME_HEADER.unpack(frame)[:4]
            if tuple(frame_salts) != salts:
                break
            found.add(number)
            at += FRAME_HEADER.size + page_size
    return found
