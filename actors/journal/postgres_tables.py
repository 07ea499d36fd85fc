"""The tables of a PostgreSQL journal: made at once or not at all, and recognised.

Owns their definition, numbered by FORMAT, and the check that what was durable is there. Promises: two processes that
create at the same time make one journal; what is no intact journal is refused, never taken for an empty one.

Rows are kept as bytes, because a text column refuses what users may have in their keys and names: NUL, lone surrogates,
letters that the database's encoding lacks. `SELECT convert_from(body, 'UTF8')::jsonb FROM seqtor.commits` reads them. A
key may be longer than an index takes, so its hash is indexed.
"""

from __future__ import annotations

import itertools
import uuid
import zlib
from typing import Any, LiteralString

from psycopg import sql

from seqtor.actors.journal.contract import CheckpointInfo
from seqtor.actors.journal.postgres_session import Connection
from seqtor.actors.journal.reached import Reached
from seqtor.messages.errors import JournalCorrupted

__all__ = ["FORMAT", "LOCK_CLASS", "Statements", "as_bytes", "as_text", "create", "found_rows", "is_there"]

FORMAT = 1
LOCK_CLASS = 0x53455154  # "SEQT": what our advisory locks have in common.

TABLES = ("lease", "commits", "entries", "keys", "checkpoints", "checkpoint_parts")
CREATE: LiteralString = """
    CREATE TABLE {s}.lease (
        the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
        format integer NOT NULL,
        journal_id text NOT NULL,
        epoch bigint NOT NULL,
        owner_pid integer,
        owner_host text,
        owner_backend_pid integer,
        owned_since timestamptz,
        commits_from bigint NOT NULL DEFAULT 1,
        commits_through bigint NOT NULL DEFAULT 0,
        entries_from bigint NOT NULL DEFAULT 1,
        entries_through bigint NOT NULL DEFAULT 0
    );
    CREATE TABLE {s}.commits (seq bigint PRIMARY KEY, body bytea NOT NULL, chain bytea NOT NULL);
    CREATE TABLE {s}.entries (
        pos bigint PRIMARY KEY, kind bytea NOT NULL, ref bytea NOT NULL, body bytea NOT NULL, digest bytea NOT NULL
    );
    CREATE TABLE {s}.keys (key bytea NOT NULL, run bytea NOT NULL, digest bytea NOT NULL, seq bigint);
    CREATE UNIQUE INDEX keys_key ON {s}.keys (sha256(key));
    CREATE INDEX keys_seq ON {s}.keys (seq) WHERE seq IS NOT NULL;
    CREATE TABLE {s}.checkpoints (
        seq bigint PRIMARY KEY,
        making text NOT NULL,
        entries_through bigint NOT NULL,
        chain bytea NOT NULL,
        parts integer NOT NULL,
        size_bytes bigint NOT NULL
    );
    CREATE TABLE {s}.checkpoint_parts (
        making text, number integer, section bytea NOT NULL, data bytea NOT NULL, digest bytea NOT NULL,
        PRIMARY KEY (making, number)
    );
"""
CHECKPOINTS: LiteralString = "SELECT seq, entries_through, chain, parts, size_bytes FROM {s}.checkpoints ORDER BY seq"
COMMITS_FOUND: LiteralString = (
    "SELECT min(seq), max(seq), (SELECT count(*) FROM {s}.commits WHERE seq > %s) FROM {s}.commits"
)
ENTRIES_FOUND: LiteralString = (
    "SELECT min(pos), max(pos), (SELECT count(*) FROM {s}.entries WHERE pos > %s) FROM {s}.entries"
)


class Statements:
    """Puts the schema's name into a statement, in the place of `{s}`; each is put together once. `place` is for messages."""

    def __init__(self, schema: str, place: str) -> None:
        self.schema = schema
        self.place = place
        self._made: dict[str, bytes] = {}

    def __call__(self, template: LiteralString) -> bytes:
        made = self._made.get(template)
        if made is None:
            made = self._made[template] = sql.SQL(template).format(s=sql.Identifier(self.schema)).as_bytes(None)
        return made


def as_bytes(text: str) -> bytes:
    """Any string as bytes, each as its own."""
    return text.encode("utf-8", "surrogatepass")


def as_text(data: bytes) -> str:
    """The string that `as_bytes` got."""
    return data.decode("utf-8", "surrogatepass")


def is_there(connection: Connection, within: Statements) -> bool:
    """Whether the schema holds a journal. Raises JournalCorrupted for a part of one."""
    rows = connection.execute(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p')",
        (within.schema, list(TABLES)),
    ).fetchall()
    found = {name for (name,) in rows}
    if found and found != set(TABLES):
        missing = ", ".join(sorted(set(TABLES) - found))
        raise JournalCorrupted(
            f"journal {within.place}: the schema {within.schema} has a table {min(found)}, but of the tables of a journal "
            f"{missing} are missing. Restore it from a backup, or name another schema in the URL (?schema=NAME)"
        )
    return bool(found)


def create(connection: Connection, within: Statements) -> None:
    """Make an empty journal unless there is one."""
    with connection.transaction():
        # Who creates the same schema at this moment goes first, and then it is there.
        connection.execute(
            "SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, zlib.crc32(within.schema.encode()) - (1 << 31))
        )
        if is_there(connection, within):
            return
        # IF NOT EXISTS would ask for the right to create schemas even where there is one.
        if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (within.schema,)).fetchone() is None:
            connection.execute(within("CREATE SCHEMA {s}"))
        connection.execute(within(CREATE))
        connection.execute(
            within("INSERT INTO {s}.lease (format, journal_id, epoch) VALUES (%s, %s, 0)"), (FORMAT, uuid.uuid4().hex)
        )


def found_rows(
    connection: Connection, within: Statements, commits: tuple[int, int], entries: tuple[int, int]
) -> tuple[tuple[CheckpointInfo, ...], Reached]:
    """The finished checkpoints, oldest first, and which seqs are there.

    `commits` are the oldest seq that is not trimmed and how many there are in all, `entries` the first and last position.
    Raises JournalCorrupted if rows that were durable are not there. Those after the newest checkpoint are counted, which
    costs no more than recovery, that reads them; those before it are checked when they are read.
    """
    found = tuple(CheckpointInfo(*row) for row in connection.execute(within(CHECKPOINTS), binary=True))
    newest = found[-1] if found else CheckpointInfo(0, 0, b"", 0, 0)
    if newest.seq > commits[1] or newest.entries_through > entries[1]:
        raise JournalCorrupted(
            f"journal {within.place}: it ends at seq {commits[1]}, before its checkpoint at seq {newest.seq}",
            newest.seq,
        )
    row = connection.execute(within(COMMITS_FOUND), (newest.seq,)).fetchone()
    reached = _reached(connection, within, row, newest.seq, commits)
    # Where the oldest one is a gap, the rows begin behind it; a gap has no row to be missing.
    first = next(seq for seq in itertools.count(commits[0]) if seq not in reached.gaps)
    _require_rows(row, (first, reached.last, newest.seq), commits, f"journal {within.place}: commits", reached.gaps)
    row = connection.execute(within(ENTRIES_FOUND), (newest.entries_through,)).fetchone()
    _require_rows(row, (*entries, newest.entries_through), entries, f"journal {within.place}: entries")
    return found, reached


def _reached(connection: Connection, within: Statements, row: Any, after: int, commits: tuple[int, int]) -> Reached:
    """Which seqs are there: rows that go further than their number have gaps, all of them behind the newest checkpoint."""
    last = row[1]
    if last is None or last <= commits[1]:
        return Reached(commits[1], commits[1])
    statement = within("SELECT seq FROM {s}.commits WHERE seq > %s")
    there = {seq for (seq,) in connection.execute(statement, (after,), binary=True)}
    gaps = frozenset(range(after + 1, last + 1)) - there
    return Reached(min(gaps, default=last + 1) - 1, last, gaps)


def _require_rows(
    found: Any, expected: tuple[int, int, int], written: tuple[int, int], what: str, gaps: frozenset[int] = frozenset()
) -> None:
    first, last, after = expected
    ends = (first, last) if last >= first else (None, None)
    count = last - max(written[0] - 1, after) - len(gaps)
    if found != (*ends, count) or last - len(gaps) != written[1]:
        raise JournalCorrupted(
            f"{what} {written[0]} to {written[1]} were written; found are {found[0]} to {found[1]}, and after {after} "
            f"{found[2]} of {written[1] - max(written[0] - 1, after)}. Restore the schema from a backup"
        )
