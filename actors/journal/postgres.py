"""The journal in PostgreSQL: one transaction per group, on one connection, fenced by the epoch in the table `lease`.

Owns the rows of one journal in one schema. Promises: a group is durable when `append` returns, by a commit that the server
has synced; whoever opened the journal later fences us, and then nothing of ours is written any more. The advisory lock is
a hint that tells a second opener at once who the owner is; it decides nothing. Must never connect again by itself: after a
lost connection only opening tells what is durable.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any, LiteralString

from seqtor.actors.faults import fault
from seqtor.actors.invariants import require
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart, CommitRow, EntryRow, Group, KeyRow, Opened
from seqtor.actors.journal.groups import ends_after
from seqtor.actors.journal.reached import NOTHING_REACHED, next_expected
from seqtor.messages.errors import JournalCorrupted, JournalLocked, NotRunning, RegistrationError

try:
    import psycopg
    from psycopg.types.numeric import Int4, Int8
except ImportError as missing:
    raise RegistrationError(
        f'a journal in PostgreSQL needs psycopg: pip install "seqtor[postgres]" ({missing})'
    ) from missing

from seqtor.actors.journal.postgres_owner import (
    Lease,
    begin_epoch,
    deposed,
    fence,
    find_lease,
    let_go,
    require_unowned,
    take_lock,
)
from seqtor.actors.journal.postgres_session import Connection, address_of, connect, is_inherited, reported, value
from seqtor.actors.journal.postgres_tables import Statements, as_bytes, as_text, create, found_rows, is_there

__all__ = ["PostgresBackend"]

STATEMENT_BYTES_MAX = 32 << 20  # A larger group takes several; the server's limit is 1 GiB.
PIECE_ROWS_MAX = 1000
PIECE_BYTES_MAX = 4 << 20

# One statement and one round trip: where the fence finds no row, the others have nothing to insert. Arrays in binary:
# measured in groups of 128, executemany reaches a third of it, COPY (three round trips) four fifths, text arrays a fifth.
APPEND: LiteralString = """
    WITH mine AS (
        UPDATE {s}.lease SET commits_through = %b, entries_through = %b WHERE epoch = %b RETURNING 1
    ), new_commits AS (
        INSERT INTO {s}.commits SELECT given.* FROM mine, unnest(%b::bigint[], %b::bytea[], %b::bytea[]) AS given
    ), new_entries AS (
        INSERT INTO {s}.entries
        SELECT given.* FROM mine, unnest(%b::bigint[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[]) AS given
    ), new_keys AS (
        INSERT INTO {s}.keys
        SELECT given.* FROM mine, unnest(%b::bytea[], %b::bytea[], %b::bytea[], %b::bigint[]) AS given
        ON CONFLICT (sha256(key)) DO UPDATE SET run = excluded.run, digest = excluded.digest, seq = excluded.seq
    ), old_keys AS (
        DELETE FROM {s}.keys AS kept USING mine, unnest(%b::bytea[]) AS given (key)
        WHERE sha256(kept.key) = sha256(given.key)
    )
    SELECT count(*) FROM mine
"""
COMMITS: LiteralString = """
    SELECT seq, body, chain FROM (
        SELECT *, sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS bytes_before
        FROM (SELECT * FROM {s}.commits WHERE seq BETWEEN %b AND %b ORDER BY seq LIMIT %b) AS found
    ) AS piece WHERE bytes_before < %b ORDER BY seq
"""
ENTRIES: LiteralString = """
    SELECT pos, kind, ref, body, digest FROM (
        SELECT *, sum(octet_length(body)) OVER (ORDER BY pos) - octet_length(body) AS bytes_before
        FROM (SELECT * FROM {s}.entries WHERE pos BETWEEN %b AND %b ORDER BY pos LIMIT %b) AS found
    ) AS piece WHERE bytes_before < %b ORDER BY pos
"""
KEYS: LiteralString = (
    "SELECT key, run, digest, seq, sha256(key) FROM {s}.keys WHERE sha256(key) > %b ORDER BY sha256(key) LIMIT %b"
)
ADD_PART: LiteralString = """
    WITH mine AS (SELECT 1 FROM {s}.lease WHERE epoch = %b FOR SHARE)
    INSERT INTO {s}.checkpoint_parts SELECT given.* FROM mine, (VALUES (%b, %b, %b, %b, %b)) AS given
"""
FINISH: LiteralString = """
    INSERT INTO {s}.checkpoints (seq, making, entries_through, chain, parts, size_bytes) VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (seq) DO UPDATE SET making = excluded.making, entries_through = excluded.entries_through,
        chain = excluded.chain, parts = excluded.parts, size_bytes = excluded.size_bytes
"""
DROP_PARTS: LiteralString = """
    DELETE FROM {s}.checkpoint_parts WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.checkpoint_parts
        WHERE making NOT IN (SELECT making FROM {s}.checkpoints) AND making <> ALL (%s) LIMIT %s
    ))
"""
DROP_CHECKPOINTS: LiteralString = (
    "DELETE FROM {s}.checkpoints WHERE seq IN (SELECT seq FROM {s}.checkpoints WHERE seq < %s ORDER BY seq LIMIT %s)"
)
DROP_KEYS: LiteralString = (
    "DELETE FROM {s}.keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.keys WHERE seq <= %s ORDER BY seq LIMIT %s))"
)


class PostgresBackend:
    """A journal in one schema of a PostgreSQL database, at a URL as libpq takes it, with `schema=NAME` (`seqtor`)."""

    def __init__(self, url: str) -> None:
        self._address = address_of(url)
        self.place = self._address.shown
        self._within = Statements(self._address.schema, self.place)
        self._connection: Connection | None = None
        self._writes = False
        self._failure: BaseException | None = None
        self._epoch = 0
        self._commits_from = self._entries_from = 1
        self._reached = NOTHING_REACHED
        self._entries_through = 0
        self._making: dict[int, tuple[str, int]] = {}  # seq → a name for this making of its checkpoint, parts so far

    # Opening and closing ---------------------------------------------------------------------------------------------

    def open(self, *, write: bool = True) -> Opened:
        if self._connection is not None:
            raise JournalLocked(f"journal {self.place} is open already, in this process: close it first")
        connection = connect(self._address, write=write)
        try:
            with reported(connection, self.place, "was opened"):
                opened = self._own(connection) if write else self._look(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._writes, self._failure = connection, write, None
        self._epoch = opened.epoch
        self._commits_from, self._reached = opened.commits_from, opened.reached
        self._entries_from, self._entries_through = opened.entries_from, opened.entries_through
        self._making.clear()
        return opened

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._writes = False
        if connection is None or is_inherited(connection):
            return
        with suppress(psycopg.Error):  # Where the connection is lost, the lock is too.
            let_go(connection)
        connection.close()

    def _own(self, connection: Connection) -> Opened:
        create(connection, self._within)
        take_lock(connection, self._within)
        with connection.transaction():
            opened = self._found(connection, begin_epoch(connection, self._within))
            connection.execute(self._within(DROP_PARTS), ([], None))
        return opened

    def _look(self, connection: Connection) -> Opened:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # All that is found is of one moment.
        if not is_there(connection, self._within):
            raise FileNotFoundError(f"journal {self.place}: there is none in the schema {self._within.schema}")
        with connection.transaction():
            lease = find_lease(connection, self._within)
            require_unowned(connection, self._within, lease)
            return self._found(connection, lease)

    def _found(self, connection: Connection, lease: Lease) -> Opened:
        commits = lease.commits_from, lease.commits
        entries = lease.entries_from, lease.entries_through
        finished, reached = found_rows(connection, self._within, commits, entries)
        return Opened(
            lease.journal_id, lease.epoch, lease.commits_from, reached.through, *entries, finished, reached.last,
            tuple(sorted(reached.gaps)),
        )  # fmt: skip

    # Appending -------------------------------------------------------------------------------------------------------

    def append(self, group: Group) -> None:
        connection = self._writable()
        try:
            reached, entries_through = ends_after(group, self._reached, self._entries_through)
            with reported(connection, self.place, "was appended to"):
                pieces = list(_pieces(group, self._reached.total, self._entries_through))
                fault("journal.append.before_sync")
                if len(pieces) == 1:
                    self._append(connection, *pieces[0])
                else:
                    with connection.transaction():
                        for piece in pieces:
                            self._append(connection, *piece)
        except BaseException as error:
            self._failure = error
            raise
        self._reached, self._entries_through = reached, entries_through

    def _append(self, connection: Connection, group: Group, commits: int, entries_through: int) -> None:
        keys = {row.key: row for row in group.keys}  # The last row of a key counts; a statement may touch it only once.
        bound = [row for row in keys.values() if row.run]
        texts = [(as_bytes(row.kind), as_bytes(row.ref), row.body.encode()) for row in group.entries]
        written = connection.execute(
            self._within(APPEND),
            (
                *(Int8(commits), Int8(entries_through), Int8(self._epoch)),
                [Int8(row.seq) for row in group.commits],
                [row.body.encode() for row in group.commits],
                [row.chain for row in group.commits],
                [Int8(row.pos) for row in group.entries],
                [kind for kind, _, _ in texts],
                [ref for _, ref, _ in texts],
                [body for _, _, body in texts],
                [_entry_digest(row.pos, *text) for row, text in zip(group.entries, texts, strict=True)],
                [as_bytes(row.key) for row in bound],
                [as_bytes(row.run) for row in bound],
                [row.digest for row in bound],
                [None if row.seq is None else Int8(row.seq) for row in bound],
                [as_bytes(row.key) for row in keys.values() if not row.run],
            ),
            prepare=True,
        )
        if not value(written):
            raise deposed(connection, self._within, self._epoch)

    # Reading ---------------------------------------------------------------------------------------------------------

    def commits(self, first: int, last: int) -> Iterator[CommitRow]:
        for seq, body, chain in self._rows(COMMITS, "commits", first, last):
            yield CommitRow(seq, self._decoded(body, seq), chain)

    def entries(self, first: int, last: int) -> Iterator[EntryRow]:
        for pos, kind, ref, body, digest in self._rows(ENTRIES, "entries", first, last):
            if _entry_digest(pos, kind, ref, body) != digest:
                raise JournalCorrupted(f"journal {self.place}: entry {pos} ({kind!r} {ref!r}) is not what was written")
            yield EntryRow(pos, as_text(kind), as_text(ref), body.decode())

    def _decoded(self, body: bytes, seq: int) -> str:
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise JournalCorrupted(f"journal {self.place}: the record of seq {seq} is no text: {error}", seq) from error

    def _rows(self, statement: LiteralString, what: str, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        """Rows first..last as far as they were written, a query for each piece: others may use the connection between."""
        expected = max(first, self._bounds(what)[0])
        while expected <= (end := min(last, self._bounds(what)[1])):
            connection = self._readable()
            gaps = self._reached.gaps if what == "commits" else ()  # As they are now: later ones may be filled.
            expected = next_expected(expected, end + 1, gaps)
            if expected > end:
                return
            with reported(connection, self.place, "was read"):
                limits = (Int8(expected), Int8(last), Int8(PIECE_ROWS_MAX), Int8(PIECE_BYTES_MAX))
                rows = connection.execute(self._within(statement), limits, binary=True).fetchall()
                if not rows or rows[0][0] != expected:
                    lease = find_lease(connection, self._within)
                    self._commits_from, self._entries_from = lease.commits_from, lease.entries_from
            for row in rows:
                if row[0] != expected and (expected := next_expected(expected, row[0], gaps)) != row[0]:
                    break
                yield row
                expected += 1
            else:
                if rows:
                    continue
            oldest = self._bounds(what)[0]
            if expected >= oldest:
                raise JournalCorrupted(
                    f"journal {self.place}: row {expected} of {what} was written and is missing. Restore it from a backup",
                    expected if what == "commits" else None,
                )
            expected = oldest  # Trimmed while it was being read.

    def keys(self) -> Iterator[KeyRow]:
        after = b""
        while True:
            connection = self._readable()
            with reported(connection, self.place, "was read"):
                rows = connection.execute(self._within(KEYS), (after, PIECE_ROWS_MAX), binary=True).fetchall()
            for key, run, digest, seq, _ in rows:
                yield KeyRow(as_text(key), as_text(run), digest, seq)
            if len(rows) < PIECE_ROWS_MAX:
                return
            after = rows[-1][-1]

    # Checkpoints and trimming ----------------------------------------------------------------------------------------

    def add_checkpoint_part(self, seq: int, number: int, part: CheckpointPart) -> None:
        connection = self._writable()
        if number == 0:
            # A checkpoint that is made again must not touch the finished one of the same seq before it is finished too.
            self._making[seq] = uuid.uuid4().hex, 0
        making, parts = self._making.get(seq, ("", 0))
        require(number == parts, "the parts of a checkpoint come in order", seq=seq, got=number, expected=parts)
        section = as_bytes(part.section)
        digest = _part_digest(making, number, section, part.data)
        with self._failing(connection, "was given a checkpoint"):
            fault("journal.checkpoint.before_part")
            values = (Int8(self._epoch), making, Int4(number), section, part.data, digest)
            if connection.execute(self._within(ADD_PART), values).rowcount == 0:
                raise deposed(connection, self._within, self._epoch)
        self._making[seq] = making, parts + 1

    def finish_checkpoint(self, info: CheckpointInfo) -> None:
        connection = self._writable()
        making, parts = self._making.get(info.seq, ("", 0))
        require(parts == info.parts, "a finished checkpoint has all its parts", expected=info.parts, found=parts)
        with self._failing(connection, "was given a checkpoint"), connection.transaction():
            fence(connection, self._within, self._epoch)
            fault("journal.checkpoint.before_finish")
            values = (info.seq, making, info.entries_through, info.chain, info.parts, info.size_bytes)
            connection.execute(self._within(FINISH), values)
            connection.execute(self._within(DROP_PARTS), (self._made_now(), None))
        del self._making[info.seq]

    def _made_now(self) -> list[str]:
        return [making for making, _ in self._making.values()]

    def checkpoint_parts(self, seq: int) -> Iterator[CheckpointPart]:
        connection = self._readable()
        with reported(connection, self.place, "was read"):
            statement = self._within("SELECT making, parts FROM {s}.checkpoints WHERE seq = %s")
            found = connection.execute(statement, (seq,)).fetchone()
        if found is None:
            raise JournalCorrupted(f"journal {self.place}: it has no finished checkpoint at seq {seq}", seq)
        making, parts = found
        statement = self._within(
            "SELECT section, data, digest FROM {s}.checkpoint_parts WHERE making = %b AND number = %b"
        )
        for number in range(parts):
            connection = self._readable()
            with reported(connection, self.place, "was read"):
                row = connection.execute(statement, (making, Int4(number)), binary=True).fetchone()
            if row is None or _part_digest(making, number, row[0], row[1]) != row[2]:
                raise JournalCorrupted(
                    f"journal {self.place}: part {number} of the checkpoint at seq {seq} is "
                    f"{'missing' if row is None else 'not what was written'}. Restore it from a backup",
                    seq,
                )
            yield CheckpointPart(as_text(row[0]), row[1])

    def trim(self, info: CheckpointInfo, limit: int) -> bool:
        connection = self._writable()
        with self._failing(connection, "was trimmed"), connection.transaction():
            fault("journal.trim.before")
            fence(connection, self._within, self._epoch)
            statement = self._within("SELECT count(*) FROM {s}.checkpoints WHERE seq = %s")
            finished = value(connection.execute(statement, (info.seq,)))
            require(finished, "what is trimmed is in a finished checkpoint", seq=info.seq)
            left = limit - connection.execute(self._within(DROP_CHECKPOINTS), (info.seq, limit)).rowcount
            # A part is as large as a thousand rows, so that few of them make a long transaction.
            parts_max = -(-left // 100)
            parts = connection.execute(self._within(DROP_PARTS), (self._made_now(), parts_max)).rowcount
            commits_from = max(self._commits_from, min(info.seq + 1, self._commits_from + left))
            left -= commits_from - self._commits_from
            entries_from = max(self._entries_from, min(info.entries_through + 1, self._entries_from + left))
            left -= entries_from - self._entries_from
            connection.execute(self._within("DELETE FROM {s}.commits WHERE seq < %s"), (commits_from,))
            connection.execute(self._within("DELETE FROM {s}.entries WHERE pos < %s"), (entries_from,))
            statement = self._within("UPDATE {s}.lease SET commits_from = %s, entries_from = %s")
            connection.execute(statement, (commits_from, entries_from))
            keys = connection.execute(self._within(DROP_KEYS), (info.seq, left)).rowcount
        self._commits_from, self._entries_from = commits_from, entries_from
        return left > keys and parts < parts_max

    # Refusals --------------------------------------------------------------------------------------------------------

    def _bounds(self, what: str) -> tuple[int, int]:
        if what == "commits":
            return self._commits_from, self._reached.last
        return self._entries_from, self._entries_through

    def _readable(self) -> Connection:
        require(self._connection is not None, "a journal is used while it is open", place=self.place)
        assert self._connection is not None
        return self._connection

    def _writable(self) -> Connection:
        require(self._writes, "a journal is written while it is open for writing", place=self.place)
        if self._failure is not None:
            raise NotRunning(
                f"journal {self.place} takes nothing more, a write failed ({self._failure!r}): close it and open it again"
            ) from self._failure
        return self._readable()

    @contextmanager
    def _failing(self, connection: Connection, when: str) -> Iterator[None]:
        """Nothing is written after an error: what the transaction did is unknown, or somebody else leads."""
        try:
            with reported(connection, self.place, when):
                yield
        except BaseException as error:
            self._failure = error
            raise


def _pieces(group: Group, commits_before: int, entries_through: int) -> Iterator[tuple[Group, int, int]]:
    """The group in statements of bounded size, each with how many commits there are, and where the entries end, after it."""
    size = 0
    commits: list[CommitRow] = []
    entries: list[EntryRow] = []
    rows: tuple[CommitRow | EntryRow, ...] = (*group.commits, *group.entries)
    for row in rows:
        if size + len(row.body) > STATEMENT_BYTES_MAX and size:
            commits_before, entries_through = commits_before + len(commits), entries_through + len(entries)
            yield Group(commits, entries), commits_before, entries_through
            size, commits, entries = 0, [], []
        size += len(row.body)
        if isinstance(row, CommitRow):
            commits.append(row)
        else:
            entries.append(row)
    yield Group(commits, entries, group.keys), commits_before + len(commits), entries_through + len(entries)


def _entry_digest(pos: int, kind: bytes, ref: bytes, body: bytes) -> bytes:
    """Of all that the row holds; with the lengths in it, no two rows give the same bytes."""
    return blake2b(b"%d %d %d %b%b%b" % (pos, len(kind), len(ref), kind, ref, body), digest_size=16).digest()


def _part_digest(making: str, number: int, section: bytes, data: bytes) -> bytes:
    digest = blake2b(f"{making} {number} {len(section)} ".encode() + section, digest_size=16)
    digest.update(data)
    return digest.digest()
