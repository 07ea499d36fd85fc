"""What is left in an SQLite journal that is too damaged to be opened.

Owns a way to its rows past all checks of the whole: of the file's length, of the tables, of how far the journal reached.
Promises: nothing is changed; rows come in seq order up to the first that cannot be read. Who takes them holds each against
the hash chain, which tells what was written from what was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import apsw

from seqtor.actors.journal.contract import CommitRow
from seqtor.actors.journal.sqlite_files import wal_path
from seqtor.actors.journal.sqlite_owner import Owner
from seqtor.messages.errors import JournalCorrupted

__all__ = ["salvaged_commits"]


def salvaged_commits(place: str) -> Iterator[CommitRow]:
    """The commits that can be read, from the oldest on. Raises JournalLocked, or FileNotFoundError if there is no file."""
    path = Path(place).expanduser().resolve()
    path.stat()
    owner = None
    with suppress(JournalCorrupted):  # What is damaged may be the owner file.
        owner = Owner.read(path)
    try:
        # With the log first: it holds the newest rows. If it is what is damaged, the database without it.
        for with_log in (True, False):
            seq = 0
            for row in _commits(path, with_log=with_log):
                yield row
                seq = row.seq
            if seq:
                return
    finally:
        if owner is not None:
            owner.release()


def _commits(path: Path, *, with_log: bool) -> Iterator[CommitRow]:
    try:
        with closing(_connection(path, with_log=with_log)) as connection:
            for seq, body, chain in connection.execute("SELECT seq, body, chain FROM commits ORDER BY seq"):
                if type(body) is not str or type(chain) is not bytes:
                    return
                yield CommitRow(seq, body, chain)
    except (apsw.Error, UnicodeDecodeError):
        return


def _connection(path: Path, *, with_log: bool) -> apsw.Connection:
    if with_log and wal_path(path).exists():
        connection = apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.pragma("locking_mode", "EXCLUSIVE")
        connection.pragma("query_only", 1)
    else:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags)
    connection.pragma("writable_schema", 1)  # A file that is shorter than it says is read as far as it goes.
    return connection
