"""The rows of an SQLite journal: how they are written, their digests, and which of them may go.

Owns how many are written at once, what is hashed, so that writing and reading agree, and the order in which rows are
deleted. A digest finds damage,
not malice: eight bytes are enough.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import apsw

from seqtor.actors.invariants import require

__all__ = ["entry_digest", "insert", "part_digest", "row_digest", "set_meta", "trim"]

ROWS_MAX = 128
TRIM_PARTS = 16  # Parts of a checkpoint are up to 1 MiB, so a few of them make a long transaction.


def entry_digest(pos: int, kind: str, ref: str, body: str) -> bytes:
    """The digest of an entry; takes whatever a damaged row holds."""
    return blake2b(f"{pos}\0{kind}\0{ref}\0{body}".encode(), digest_size=8).digest()


def part_digest(attempt: int, number: int, section: str, data: bytes) -> bytes:
    """The digest of a part in its place."""
    digest = blake2b(f"{attempt}\0{number}\0{section}\0".encode(), digest_size=8)
    digest.update(data)
    return digest.digest()


def row_digest(row: tuple[Any, ...]) -> bytes:
    """The digest of a row of few and short values."""
    return blake2b(repr(tuple(row)).encode(), digest_size=8).digest()


def insert(connection: apsw.Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows in order, many with one statement: `into` is all that comes before VALUES.

    SQLite lets go of the GIL in every statement, and where other threads compute it can take 5 ms to get it back. The
    sizes are powers of two, so that there are few different statements and all of them stay prepared.
    """
    start, end = 0, len(rows)
    while start < end:
        size = min(ROWS_MAX, 1 << (end - start).bit_length() - 1)
        values = [value for row in rows[start : start + size] for value in row]
        connection.execute(_insert_statement(into, len(rows[0]), size), values)
        start += size


@functools.cache
def _insert_statement(into: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([row] * rows)}"


def set_meta(connection: apsw.Connection, name: str, value: int | str) -> None:
    """Write one value of the table meta."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, row_digest((name, value))))


def trim(
    connection: apsw.Connection,
    seq: int,
    trimmed: tuple[int, int],
    through: tuple[int, int],
    unfinished: Sequence[int],
    limit: int,
) -> tuple[tuple[int, int], int]:
    """Delete up to `limit` rows, in the caller's transaction; return how far commits and entries are trimmed, and what is
    left of the limit.

    Older checkpoints go first: they need the commits behind them. Parts of attempts that are under way stay.
    """
    ((kept,),) = connection.execute("SELECT count(*) FROM checkpoints WHERE seq = ?", (seq,))
    require(kept, "what is trimmed is in a finished checkpoint", seq=seq)
    left = limit - _delete(connection, "checkpoints", "seq", f"seq < {seq}", "seq", limit)
    orphaned = (
        "attempt NOT IN (SELECT attempt FROM checkpoints) AND "
        f"attempt NOT IN ({', '.join(map(str, unfinished))}) "
    )  # fmt: skip
    parts = _delete(connection, "checkpoint_parts", "rowid", orphaned, "rowid", min(left, TRIM_PARTS))
    left = 0 if parts == TRIM_PARTS else left - parts  # More of them may be waiting.
    reached = []
    for table, column, after, last in (
        ("commits", "seq", trimmed[0], through[0]),
        ("entries", "pos", trimmed[1], through[1]),
    ):
        end = max(after, min(last, after + left))
        if end > after:
            connection.execute(f"DELETE FROM {table} WHERE {column} <= ?", (end,))
            set_meta(connection, f"{table}_trimmed", end)
            left -= end - after
        reached.append(end)
    left -= _delete(connection, "keys", "key", f"seq <= {seq}", "seq", left)
    return (reached[0], reached[1]), left


def _delete(connection: apsw.Connection, table: str, key: str, where: str, order: str, limit: int) -> int:
    chosen = f"SELECT {key} FROM {table} WHERE {where} ORDER BY {order} LIMIT ?"
    connection.execute(f"DELETE FROM {table} WHERE {key} IN ({chosen})", (limit,))
    return connection.changes()
