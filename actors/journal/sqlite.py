"""A journal in an SQLite file.

Owns one connection, which writes and checkpoints. WAL with `synchronous=FULL`: a group is durable when its COMMIT
returns. `locking_mode=EXCLUSIVE`: no other connection, no shared memory. Promises the contract, and that whatever is on
disk is either read back as it was written or refused with the place. Must never go on after an error while writing: what
a failed fsync leaves in the system's cache looks durable and is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import apsw

from seqtor.actors.faults import fault
from seqtor.actors.filesystem import file_system_at
from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart, CommitRow, EntryRow, Group, KeyRow, Opened
from seqtor.actors.journal.groups import ends_after
from seqtor.actors.journal.reached import NOTHING_REACHED, Reached, next_expected
from seqtor.actors.journal.sqlite_errors import corrupted, meaning
from seqtor.actors.journal.sqlite_files import FORMAT, TABLES, create_database, is_journal, wal_path, write_wal_again
from seqtor.actors.journal.sqlite_owner import Owner
from seqtor.actors.journal.sqlite_rows import entry_digest, insert, part_digest, row_digest, set_meta, trim
from seqtor.messages.errors import JournalLocked, NotRunning

__all__ = ["SqliteBackend"]

# Pages in the log when they are copied into the database. Measured with rows of 500 bytes: more pages make single
# rows slower (the log grows into blocks that the file system has yet to allocate) and the pause longer (4 ms here, 27 ms
# with 4,000); fewer copy the same pages more often.
WAL_PAGES = 500
PIECE_ROWS = 256
PIECE_BYTES = 1 << 20

GAPS_AFTER = "gaps_after"  # In the table meta, while there are gaps.

INTO_COMMITS = "INSERT INTO commits"
INTO_ENTRIES = "INSERT INTO entries"
INTO_KEYS = "INSERT OR REPLACE INTO keys"


class SqliteBackend:
    """A backend over one SQLite file; `vfs` names a registered VFS, for fault injection."""

    def __init__(self, path: str | os.PathLike[str], *, vfs: str | None = None) -> None:
        self.place = os.fspath(path)
        self._path = Path(path)
        self._files = file_system_at(self._path.expanduser().absolute())
        self._vfs = vfs or self._files.vfs
        self._connection: apsw.Connection | None = None
        self._owner: Owner | None = None
        self._writes = False
        self._failure: BaseException | None = None
        self._journal_id = ""
        self._commits_trimmed = 0
        self._reached = NOTHING_REACHED
        self._entries_trimmed = self._entries_through = 0
        self._wal_pages = 0
        self._attempts = 0  # Of checkpoints: one that is made again keeps the finished one until it is finished.
        self._unfinished: dict[int, tuple[int, int]] = {}  # seq → attempt, parts so far

    @property
    def file(self) -> Path:
        """The database, under the name by which every process knows it."""
        return self._path

    # Opening and closing -----------------------------------------------------------------------------------------------

    def open(self, *, write: bool = True) -> Opened:
        if self._connection is not None:
            raise JournalLocked(f"journal '{self.place}' is open already, by this very object: close it first")
        # Links are followed: who comes through another name must meet the same side file.
        self._path = Path(self.place).expanduser().resolve()
        self._failure = None
        self._writes = False
        try:
            if write:
                self._open_to_write()
            else:
                self._open_to_read()
            return self._begin(write)
        except apsw.Error as error:
            self._abandon()
            raise meaning(self.place, error, "opening it") from error
        except BaseException:
            self._abandon()
            raise

    def _open_to_write(self) -> None:
        self._owner = Owner.take(self._path, self._files)
        try:
            if not is_journal(self._files, self._path, self._owner.marks):
                create_database(self._files, self._path, self._vfs)
        except BaseException:
            self._owner.discard()
            raise
        write_wal_again(self._files, self._path)
        self._connect(str(self._path), apsw.SQLITE_OPEN_READWRITE)

    def _open_to_read(self) -> None:
        """Read without leaving a trace: from the file alone, or together with the log that a crash has left."""
        self._owner = Owner.read(self._path, self._files)
        if not is_journal(self._files, self._path, self._owner.marks if self._owner is not None else None):
            raise FileNotFoundError(errno.ENOENT, f"there is no journal at '{self.place}': give the path of one")
        wal = wal_path(self._path)
        if not self._files.exists(wal) or not self._files.stat(wal).st_size:
            uri = f"file:{quote(str(self._path))}?immutable=1"
            self._connect(uri, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            return
        # SQLite reads a log only where it could lock and write; it writes nothing here.
        connection = self._connect(str(self._path), apsw.SQLITE_OPEN_READWRITE)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.pragma("query_only", 1)

    def _connect(self, name: str, flags: int) -> apsw.Connection:
        self._connection = connection = apsw.Connection(name, flags, self._vfs)
        connection.set_busy_timeout(0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        if flags & apsw.SQLITE_OPEN_READWRITE and connection.readonly("main"):
            raise PermissionError(
                errno.EACCES,
                f"journal '{self.place}' cannot be written: give this user write access to '{self._path}*' and the folder",
            )
        connection.pragma("locking_mode", "EXCLUSIVE")  # Before anything is read: then no shared memory is needed.
        connection.pragma("cell_size_check", 1)
        return connection

    def _begin(self, write: bool) -> Opened:
        """Check what was found, and with `write` begin a new epoch."""
        connection = self._open_connection()
        meta = self._read_meta(connection)
        self._journal_id = meta["journal_id"]
        gaps_after = meta.get(GAPS_AFTER)
        self._commits_trimmed, last = self._ends(connection, "commits", "seq", meta["commits_trimmed"], gaps_after)
        self._reached = self._found_reached(connection, last, gaps_after)
        self._entries_trimmed, self._entries_through = self._ends(connection, "entries", "pos", meta["entries_trimmed"])
        self._check_marks()
        infos = self._read_checkpoints(connection)
        if write:
            meta["epoch"] += 1
            self._prepare_to_write(connection, meta["epoch"])
        return Opened(
            journal_id=self._journal_id,
            epoch=meta["epoch"],
            commits_from=self._commits_trimmed + 1,
            commits_through=self._reached.through,
            entries_from=self._entries_trimmed + 1,
            entries_through=self._entries_through,
            checkpoints=infos,
            commits_last=last,
            gaps=tuple(sorted(self._reached.gaps)),
        )

    def _read_meta(self, connection: apsw.Connection) -> dict[str, Any]:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if missing := TABLES - tables:
            self._corrupted(f"expected the tables {_list(TABLES)}, {_list(missing)} missing")
        rows = connection.execute("SELECT name, value, digest FROM meta")
        meta: dict[Any, Any] = {name: value for name, value, digest in rows if row_digest((name, value)) == digest}
        expected = {"journal_id": str, "format": int, "epoch": int, "commits_trimmed": int, "entries_trimmed": int}
        for name, kind in expected.items():
            if type(meta.get(name)) is not kind:
                self._corrupted(f"expected an intact {name} in the table meta, found {meta.get(name)!r}")
        if meta["format"] != FORMAT:
            self._corrupted(f"expected format {FORMAT}, found {meta['format']}: open it with the version that wrote it")
        return meta

    def _ends(
        self, connection: apsw.Connection, table: str, column: str, trimmed: int, gaps_after: object = None
    ) -> tuple[int, int]:
        """How far rows were trimmed and how far they go; what is between is checked when it is read."""
        sql = f"SELECT (SELECT min({column}) FROM {table}), (SELECT max({column}) FROM {table})"
        ((first, last),) = connection.execute(sql)
        if first is None:
            return trimmed, trimmed
        if first != trimmed + 1 and gaps_after != trimmed:
            self._corrupted(f"expected the {table} to begin at {column} {trimmed + 1}, they begin at {first}", first)
        return trimmed, last

    def _found_reached(self, connection: apsw.Connection, last: int, through: object) -> Reached:
        """Which seqs are there: all (what is missing is found when they are read), unless gaps were noted after one."""
        if through is None:
            return Reached(last, last)
        if type(through) is not int or not self._commits_trimmed <= through < last:
            self._corrupted(f"expected the seq before the first gap in the table meta, found {through!r}")
        there = {seq for (seq,) in connection.execute("SELECT seq FROM commits WHERE seq > ?", (through,))}
        gaps = frozenset(range(through + 1, last + 1)) - there
        if through + 1 not in gaps:
            self._corrupted(f"expected the first gap after seq {through}, but seq {through + 1} is there", through + 1)
        return Reached(through, last, gaps)

    def _check_marks(self) -> None:
        owner = self._owner
        if owner is None or owner.marks is None or owner.marks.journal_id != self._journal_id:
            return
        for table, found, expected in (
            ("commits", self._reached.total, owner.marks.commits),
            ("entries", self._entries_through, owner.marks.entries),
        ):
            if found < expected:
                self._corrupted(
                    f"its {table} end at {found}, but {expected} were durable when '{owner.path}' was written: the end "
                    f"of '{wal_path(self._path)}' is damaged or was lost. To go on from {found} on purpose (after "
                    "restoring a backup, for example), delete the owner file",
                    found + 1,
                )

    def _prepare_to_write(self, connection: apsw.Connection, epoch: int) -> None:
        self._writes = True
        if connection.pragma("journal_mode", "WAL") != "wal":
            raise OSError(errno.EOPNOTSUPP, f"journal '{self.place}': its file system cannot hold a write-ahead log")
        connection.pragma("synchronous", "FULL")
        connection.pragma("fullfsync", 1)  # Elsewhere than on a Mac fsync means what it says.
        connection.pragma("cache_spill", 0)
        connection.pragma(
            "journal_size_limit", 4 * WAL_PAGES * 4096
        )  # A log that one large group has made shrinks again.
        connection.wal_autocheckpoint(0)
        connection.set_wal_hook(self._on_commit)
        connection.execute("BEGIN IMMEDIATE")
        set_meta(connection, "epoch", epoch)
        connection.execute("DELETE FROM checkpoint_parts WHERE attempt NOT IN (SELECT attempt FROM checkpoints)")
        connection.execute("COMMIT")
        ((self._attempts,),) = connection.execute("SELECT coalesce(max(attempt), 0) FROM checkpoints")
        self._unfinished.clear()
        self._mark()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        owner, self._owner = self._owner, None
        try:
            if connection is not None:
                wal = wal_path(self._path)
                if self._failure is not None and self._files.exists(wal) and self._files.stat(wal).st_size:
                    # Nothing may be copied out of a log that was perhaps not written, or is to be looked at.
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close()
        except apsw.Error as error:
            raise meaning(self.place, error, "closing it") from error
        finally:
            self._writes = False
            if owner is not None:
                owner.release()

    def _abandon(self) -> None:
        self._failure = self._failure or NotRunning("opening it failed")
        self.close()

    # Groups --------------------------------------------------------------------------------------------------------------

    def append(self, group: Group) -> None:
        with self._writing("appending a group") as connection:
            reached, entries_through = ends_after(group, self._reached, self._entries_through)
            gaps = reached.gaps or self._reached.gaps
            if len(group.commits) == 1 and not (group.entries or group.keys or gaps):
                fault("journal.append.before_sync")
                insert(connection, INTO_COMMITS, group.commits)  # A transaction by itself.
            else:
                connection.execute("BEGIN IMMEDIATE")
                insert(connection, INTO_COMMITS, group.commits)
                insert(connection, INTO_ENTRIES, [(*entry, entry_digest(*entry)) for entry in group.entries])
                self._write_keys(connection, group.keys)
                if gaps:
                    self._note_gaps(connection, reached)
                fault("journal.append.before_sync")
                connection.execute("COMMIT")
            self._reached, self._entries_through = reached, entries_through
            self._mark()  # After the commit: a mark never says more than is durable.

    def _write_keys(self, connection: apsw.Connection, keys: Sequence[KeyRow]) -> None:
        bound: list[tuple[Any, ...]] = []
        for row in keys:
            if row.run:
                bound.append((*row, row_digest(row)))
                continue
            insert(
                connection, INTO_KEYS, bound
            )  # In the order of the rows: a key may be deleted and bound in one group.
            bound.clear()
            connection.execute("DELETE FROM keys WHERE key = ?", (row.key,))
        insert(connection, INTO_KEYS, bound)

    def _note_gaps(self, connection: apsw.Connection, reached: Reached) -> None:
        """Note after which seq there are gaps, so that an opening need not count all rows to know that there are none."""
        if not reached.gaps:
            connection.execute("DELETE FROM meta WHERE name = ?", (GAPS_AFTER,))
        elif not self._reached.gaps or reached.through != self._reached.through:
            set_meta(connection, GAPS_AFTER, reached.through)

    def _mark(self) -> None:
        if self._owner is not None:
            self._owner.mark(self._journal_id, self._reached.total, self._entries_through)

    # Reading -------------------------------------------------------------------------------------------------------------

    def commits(self, first: int, last: int) -> Iterator[CommitRow]:
        sql = "SELECT seq, body, chain FROM commits WHERE seq BETWEEN ? AND ? ORDER BY seq"
        expected, last = first, min(last, self._reached.last)
        while (expected := max(expected, self._commits_trimmed + 1)) <= last:
            gaps = self._reached.gaps  # As they are now: they may be filled while the piece is being used.
            rows, failure = self._piece(sql, (expected, last))
            for seq, body, chain in rows:
                if seq != expected:
                    expected = next_expected(expected, seq, gaps)
                if seq != expected:
                    self._corrupted(f"seq {expected} is missing, the next one is {seq}", expected)
                if type(body) is not str or type(chain) is not bytes:
                    self._corrupted(f"seq {seq} is not text and a hash: {body!r:.40}, {chain!r:.40}", seq)
                yield CommitRow(seq, body, chain)
                expected += 1
            if not rows and failure is None and next_expected(expected, last + 1, gaps) > last:
                return
            self._check_piece(rows, failure, f"seq {expected}", expected)

    def entries(self, first: int, last: int) -> Iterator[EntryRow]:
        sql = "SELECT pos, kind, ref, body, digest FROM entries WHERE pos BETWEEN ? AND ? ORDER BY pos"
        expected, last = first, min(last, self._entries_through)
        while (expected := max(expected, self._entries_trimmed + 1)) <= last:
            rows, failure = self._piece(sql, (expected, last))
            for pos, kind, ref, body, digest in rows:
                if pos != expected:
                    self._corrupted(f"entry {expected} is missing, the next one is {pos}")
                if entry_digest(pos, kind, ref, body) != digest:
                    self._corrupted(f"entry {pos} ({kind} {ref}) is not what was written: its digest differs")
                yield EntryRow(pos, kind, ref, body)
                expected += 1
            self._check_piece(rows, failure, f"entry {expected}")

    def keys(self) -> Iterator[KeyRow]:
        sql = "SELECT key, run, payload_digest, seq, digest FROM keys"
        rows, failure = self._piece(f"{sql} ORDER BY key", ())
        while rows or failure:
            for *values, digest in rows:
                row = KeyRow(*values)
                if row_digest(row) != digest:
                    self._corrupted(f"an idempotency key is not what was written: {row!r:.200}")
                yield row
            if failure is not None:
                raise meaning(self.place, failure, "reading the idempotency keys") from failure
            rows, failure = self._piece(f"{sql} WHERE key > ? ORDER BY key", (rows[-1][0],))

    def _piece(self, sql: str, bindings: tuple[Any, ...]) -> tuple[list[tuple[Any, ...]], Exception | None]:
        """Some rows, and what went wrong behind them: a caller is to have all that is intact."""
        connection = self._open_connection()
        require(connection.get_autocommit(), "nothing is read in the middle of a failed group", place=self.place)
        rows: list[tuple[Any, ...]] = []
        size = 0
        cursor = connection.cursor()
        try:
            for row in cursor.execute(sql, bindings):
                rows.append(row)
                size += sum(len(value) for value in row if type(value) is str)
                if len(rows) == PIECE_ROWS or size >= PIECE_BYTES:
                    break
        except (apsw.Error, UnicodeDecodeError) as error:
            return rows, error
        finally:
            cursor.close(True)
        return rows, None

    def _check_piece(self, rows: list[Any], failure: Exception | None, where: str, seq: int | None = None) -> None:
        if failure is not None:
            raise meaning(self.place, failure, f"reading {where}", seq) from failure
        if not rows:
            self._corrupted(f"{where} is missing, and everything after it", seq)

    # Checkpoints and trimming --------------------------------------------------------------------------------------------

    def add_checkpoint_part(self, seq: int, number: int, part: CheckpointPart) -> None:
        with self._writing(f"keeping a part of the checkpoint at seq {seq}") as connection:
            if number == 0:
                self._attempts += 1
                self._unfinished[seq] = (self._attempts, 0)
            attempt, expected = self._unfinished.get(seq, (0, 0))
            require(number == expected, "parts of a checkpoint come in order", seq=seq, got=number, expected=expected)
            digest = part_digest(attempt, number, part.section, part.data)
            row = (attempt, number, part.section, digest, part.data)
            fault("journal.checkpoint.before_part")
            connection.execute("INSERT INTO checkpoint_parts VALUES (?, ?, ?, ?, ?)", row)
            self._unfinished[seq] = (attempt, number + 1)

    def finish_checkpoint(self, info: CheckpointInfo) -> None:
        with self._writing(f"finishing the checkpoint at seq {info.seq}") as connection:
            attempt, parts = self._unfinished.pop(info.seq, (0, 0))
            require(info.parts == parts, "a finished checkpoint has all parts", seq=info.seq, parts=parts)
            row = (info.seq, info.entries_through, info.chain, info.parts, info.size_bytes, attempt)
            sql = "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)"
            fault("journal.checkpoint.before_finish")
            connection.execute(sql, (*row, row_digest(row)))

    def checkpoint_parts(self, seq: int) -> Iterator[CheckpointPart]:
        found, failure = self._piece("SELECT attempt, parts FROM checkpoints WHERE seq = ?", (seq,))
        self._check_piece(found, failure, f"the checkpoint at seq {seq}", seq)
        ((attempt, parts),) = found
        sql = "SELECT section, data, digest FROM checkpoint_parts WHERE attempt = ? AND number = ?"
        for number in range(parts):
            where = f"part {number} of the checkpoint at seq {seq}"
            rows, failure = self._piece(sql, (attempt, number))
            self._check_piece(rows, failure, where, seq)
            ((section, data, digest),) = rows
            if type(data) is not bytes or part_digest(attempt, number, section, data) != digest:
                self._corrupted(f"{where} is not what was written: its digest differs", seq)
            yield CheckpointPart(section, data)

    def _read_checkpoints(self, connection: apsw.Connection) -> tuple[CheckpointInfo, ...]:
        sql = "SELECT seq, entries_through, chain, parts, size_bytes, attempt, digest FROM checkpoints ORDER BY seq"
        infos = []
        for *row, digest in connection.execute(sql):
            if row_digest(tuple(row)) != digest:
                self._corrupted(f"the checkpoint at seq {row[0]} is not what was written: its digest differs", row[0])
            infos.append(CheckpointInfo(*row[:5]))
        return tuple(infos)

    def trim(self, info: CheckpointInfo, limit: int) -> bool:
        with self._writing(f"trimming up to seq {info.seq}") as connection:
            through = (min(info.seq, self._reached.through), min(info.entries_through, self._entries_through))
            trimmed = (self._commits_trimmed, self._entries_trimmed)
            left = 0
            unfinished = [attempt for attempt, _ in self._unfinished.values()]
            fault("journal.trim.before")
            connection.execute("BEGIN IMMEDIATE")
            trimmed, left = trim(connection, info.seq, trimmed, through, unfinished, limit)
            connection.execute("COMMIT")
            self._commits_trimmed, self._entries_trimmed = trimmed
        return left > 0

    # Refusals ------------------------------------------------------------------------------------------------------------

    def _open_connection(self) -> apsw.Connection:
        require(self._connection is not None, "a journal is used while it is open", place=self.place)
        assert self._connection is not None
        return self._connection

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[apsw.Connection]:
        """Whatever goes wrong inside is final."""
        require(self._writes, "a journal is written while it is open for writing", place=self.place)
        if self._failure is not None:
            raise NotRunning(
                f"journal '{self.place}' takes nothing more, since a write failed: close it and open it again. What "
                f"failed: {self._failure}"
            ) from self._failure
        connection = self._open_connection()
        try:
            if self._wal_pages >= WAL_PAGES:
                # SQLite's own would do this at the end of a commit and keep its errors to itself. Here the group before
                # is answered first, and one that meets an error is not begun.
                fault("journal.copy.before")
                connection.wal_checkpoint()
                fault("journal.copy.after")
            yield connection
        except BaseException as error:
            self._failure = meaning(self.place, error, doing) if isinstance(error, apsw.Error) else error
            if not connection.get_autocommit():
                with contextlib.suppress(apsw.Error):  # Half a group must not be read; the error is reported.
                    connection.execute("ROLLBACK")
            if self._failure is error:
                raise
            raise self._failure from error

    def _on_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _corrupted(self, found: str, seq: int | None = None) -> NoReturn:
        raise corrupted(self.place, found, seq)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
