"""The rows of a table whose state a store keeps, and others may change: through SQLAlchemy, one transaction for a group.

Owns the SQL: the columns (one for the key, one for each field, the version and a digest of what the store left), the
bookkeeping row (the journal's id and the seq, in the table `seqtor_stores`), and what of the database is "away". Promises:
a group of rows and the seq that it brings the table to are there together, or neither; a row that the store did not leave
as it is stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from seqtor.actors.faults import fault
from seqtor.messages.errors import RegistrationError, SeqtorError, StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["JSON_TEXT", "OWN_COLUMNS", "Found", "Rows", "TableTaken", "kind_of_column"]

VERSION, DIGEST = "seqtor_version", "seqtor_digest"
OLD = "seqtor_key"  # In statements: the key of the row that is changed.
OWN_COLUMNS = (VERSION, DIGEST, OLD)
BOOKS = "seqtor_stores"
KEYS_MAX = 500  # In one query.
RETRY_S = 1.0
PING_AFTER_S = 1.0
JSON_TEXT = "json"
NATIVE: dict[Any, str] = {int: "int", float: "float", str: "str", bool: "bool", bytes: "bytes"}
INT_MAX = 2**63 - 1


class TableTaken(SeqtorError):
    """Another process has written the table for this store since it was opened."""

    code = "table_taken"


class Found(NamedTuple):
    """A row: its values by column, whether they are what the store left there, and at which version."""

    values: dict[str, Any]
    is_ours: bool
    version: int


def kind_of_column(annotation: Any) -> str:
    """How a field is kept: as a number, a text, a truth value, bytes; everything else as JSON text."""
    return NATIVE.get(annotation, JSON_TEXT)


def require_column(kind: str, name: str, value: Any) -> None:
    """Raise ValueError for a value that a database would not take, or not give back."""
    if kind == "int" and abs(value) > INT_MAX:
        raise ValueError(f"{name}={value!r} does not fit into a column: it has 64 bits")
    if kind == "float" and not math.isfinite(value):
        raise ValueError(f"{name}={value!r} does not fit into a column of every database")
    if kind in ("str", JSON_TEXT) and "\0" in value:
        raise ValueError(f"{name} has a NUL in it, which PostgreSQL does not take")
    if kind == "str":
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} is not valid Unicode") from None


class Rows:
    """One table of one database. Used by one thread."""

    def __init__(self, url: str, table: str, key: str, columns: Mapping[str, str]) -> None:
        try:
            import sqlalchemy
            import sqlalchemy.exc
        except ImportError:
            raise RegistrationError("Table needs SQLAlchemy: pip install 'seqtor[table]'") from None
        self._sql = sqlalchemy
        self._errors = sqlalchemy.exc
        if url.startswith(("postgresql://", "postgres://")):
            url = f"postgresql+psycopg://{url.partition('://')[2]}"
        try:
            self._url = sqlalchemy.make_url(url)
        except sqlalchemy.exc.ArgumentError as error:
            raise RegistrationError(f"Table takes the URL of a database, such as sqlite:///desk.db: {error}") from None
        self._engine: Engine | None = None
        self._update_all: Any = None  # The statement that updates many rows at once, where the database has one.
        kinds: dict[str, Any] = {
            "int": sqlalchemy.BigInteger(), "float": sqlalchemy.Double(), "bool": sqlalchemy.Boolean(),
            "bytes": sqlalchemy.LargeBinary(),
        }  # fmt: skip
        self._key = key
        self._names = tuple(columns)
        metadata = sqlalchemy.MetaData()
        # Compared by its bytes, as keys are everywhere else.
        self.table = sqlalchemy.Table(
            table, metadata,
            sqlalchemy.Column(key, sqlalchemy.Text(), primary_key=True),
            *[sqlalchemy.Column(name, kinds.get(kind, sqlalchemy.Text())) for name, kind in columns.items()],
            sqlalchemy.Column(VERSION, sqlalchemy.BigInteger()),
            sqlalchemy.Column(DIGEST, sqlalchemy.Text()),
        )  # fmt: skip
        self._books = sqlalchemy.Table(
            BOOKS, metadata,
            sqlalchemy.Column("name", sqlalchemy.Text(), primary_key=True),
            sqlalchemy.Column("journal", sqlalchemy.Text(), nullable=False),
            sqlalchemy.Column("seq", sqlalchemy.BigInteger(), nullable=False),
        )  # fmt: skip
        self._seq = 0
        self._journal_id = ""

    @property
    def place(self) -> str:
        """Where the table is, without the password."""
        return f"{self._url.render_as_string()}, table {self.table.name}"

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None for one in memory, or on a server."""
        path = self._url.database
        if self._url.get_backend_name() != "sqlite" or not path or path == ":memory:":
            return None
        if path.startswith("file:"):  # A URI, as SQLite takes it.
            path = unquote(path[len("file:") :].partition("?")[0])
        return Path(path)

    # Life ------------------------------------------------------------------------------------------------------------

    def open(self, journal_id: str) -> int:
        """Make what is missing of the table; returns the seq that it has, 0 for another journal's.

        Raises StoreUnavailable, RegistrationError for a table of another shape.
        """
        sql, table, books = self._sql, self.table, self._books
        with self._begun() as connection:
            table.metadata.create_all(connection)
            self._add_columns(connection)
            row = connection.execute(sql.select(books.c.journal, books.c.seq).where(books.c.name == table.name)).first()
            if row is None or row.journal != journal_id:
                connection.execute(sql.delete(books).where(books.c.name == table.name))
                connection.execute(sql.insert(books).values(name=table.name, journal=journal_id, seq=0))
                connection.execute(sql.update(table).values({DIGEST: None}))  # What is there was left by nobody.
                seq = 0
            else:
                seq = row.seq
        self._journal_id, self._seq = journal_id, seq
        return seq

    def _add_columns(self, connection: Connection) -> None:
        table = self.table
        found = {each["name"]: each for each in self._sql.inspect(connection).get_columns(table.name)}
        missing = [each.name for each in table.columns if each.name not in found and each.name not in (VERSION, DIGEST)]
        if missing:
            raise RegistrationError(f"{self.place}: there is no column {', '.join(missing)}; it has {', '.join(found)}")
        quote = connection.dialect.identifier_preparer.quote
        for name, kind in ((VERSION, "BIGINT"), (DIGEST, "TEXT")):
            if name not in found:
                connection.execute(self._sql.text(f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote(name)} {kind}"))

    def close(self) -> None:
        """Let go of the database."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        """A transaction. Raises StoreUnavailable if the database is away."""
        errors = self._errors
        try:
            engine = self._engine
            if engine is None:
                engine = self._engine = _make_engine(self._sql, self._url)
                if engine.dialect.name == "postgresql":
                    self._update_all = _update_all(self._sql, self.table, self._key)
            with engine.begin() as connection:
                yield connection
        except (errors.OperationalError, errors.InterfaceError) as error:
            raise StoreUnavailable(f"{self.place}: {error.orig or error}", retry_after=RETRY_S) from error
        except errors.DBAPIError as error:
            if error.connection_invalidated:
                raise StoreUnavailable(f"{self.place}: {error.orig or error}", retry_after=RETRY_S) from error
            raise

    # Rows ------------------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Found]:
        """All rows by key."""
        with self._begun() as connection:
            return self._select(connection, None)

    def write(
        self, versions: Mapping[str, tuple[int, Mapping[str, Any] | None]], seq: int,
        may_replace: Callable[[str, Found | None], bool],
    ) -> set[str]:  # fmt: skip
        """Write rows (None: delete) and the seq that the table has then, in one transaction.

        What is not as the store left it is written only if `may_replace`; returns the keys that were not. Raises
        StoreUnavailable, TableTaken.
        """
        sql, table = self._sql, self.table
        kept: set[str] = set()
        fault("table.write.before")
        with self._begun() as connection:
            self._note(connection, seq)
            found = self._select(connection, list(versions))
            new: list[dict[str, Any]] = []
            changed: list[dict[str, Any]] = []
            gone: list[dict[str, Any]] = []
            for key, (version, values) in versions.items():
                there = found.get(key)
                if not (there is not None and there.is_ours) and not may_replace(key, there):
                    kept.add(key)
                elif values is None:
                    gone.append({OLD: key})
                else:
                    row = {**values, VERSION: version, DIGEST: _digest(values)}
                    (new if there is None else changed).append({**row, OLD: key})
            by_key = table.c[self._key] == sql.bindparam(OLD)
            if gone:
                connection.execute(sql.delete(table).where(by_key), gone)
            if changed and self._update_all is not None:
                names = changed[0]
                connection.execute(self._update_all, {f"all_{name}": [row[name] for row in changed] for name in names})
            elif changed:
                connection.execute(sql.update(table).where(by_key), changed)
            if new:
                connection.execute(sql.insert(table), [{self._key: row.pop(OLD), **row} for row in new])
            fault("table.write.before_commit")
        fault("table.write.after")
        self._seq = seq
        return kept

    def _note(self, connection: Connection, seq: int) -> None:
        """Note the seq; who has opened the table since for the same store has made this one an old one."""
        sql, books = self._sql, self._books
        mine = (books.c.name == self.table.name) & (books.c.journal == self._journal_id) & (books.c.seq == self._seq)
        if connection.execute(sql.update(books).where(mine).values(seq=seq)).rowcount != 1:
            raise TableTaken(
                f"{self.place} is not at seq {self._seq} of this journal any more: another process writes it, or it was "
                "restored from a backup"
            )

    def _select(self, connection: Connection, keys: Sequence[str] | None) -> dict[str, Found]:
        sql, table = self._sql, self.table
        queries = [sql.select(table)]
        if keys is not None and self._update_all is not None:
            some = sql.any_(sql.literal(keys, sql.ARRAY(sql.Text())))  # One text of the query for any number of keys.
            queries = [sql.select(table).where(table.c[self._key] == some).with_for_update()]
        elif keys is not None:
            pieces = [keys[start : start + KEYS_MAX] for start in range(0, len(keys), KEYS_MAX)]
            queries = [sql.select(table).where(table.c[self._key].in_(piece)).with_for_update() for piece in pieces]
        found = {}
        for query in queries:
            rows = map(tuple[Any, ...], connection.execute(query))
            for key, *held, version, digest in rows:  # As the columns of the table are declared.
                values = dict(zip(self._names, map(_plain, held), strict=True))
                found[key] = Found(values, digest == _digest(values), -1 if version is None else version)
        return found


def _update_all(sql: Any, table: Any, key: str) -> Any:
    """One statement for all rows of a group, which come as an array for each column: many times as fast as one for each."""
    types = {OLD: sql.Text(), **{column.name: column.type for column in table.columns if column.name != key}}
    arrays = [sql.bindparam(f"all_{name}", type_=sql.ARRAY(kind)) for name, kind in types.items()]
    rows = sql.func.unnest(*arrays).table_valued(*[sql.column(name, kind) for name, kind in types.items()], name="rows")
    rows = rows.render_derived()
    values = {name: rows.c[name] for name in types if name != OLD}
    return sql.update(table).where(table.c[key] == rows.c[OLD]).values(values)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def _digest(values: Mapping[str, Any]) -> str:
    """What a row is told apart by that somebody else has changed."""
    described = json.dumps(
        [[name, value.hex() if isinstance(value, bytes) else value] for name, value in values.items()]
    )
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def _make_engine(sql: Any, url: Any) -> Any:
    engine = sql.create_engine(url)
    used_s = [time.monotonic()]

    def look_if_it_is_there(connection: Any, *_: Any) -> None:
        now_s = time.monotonic()
        if now_s - used_s[0] > PING_AFTER_S:  # It may have been cut off: then another one is made.
            try:
                alive = engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise sql.exc.DisconnectionError from error
            if not alive:
                raise sql.exc.DisconnectionError
        used_s[0] = now_s

    sql.event.listen(engine, "checkout", look_if_it_is_there)
    if engine.dialect.name == "sqlite":

        def be_durable(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # Else the driver begins transactions when it likes.
            connection.execute("pragma synchronous=full")

        def begin(connection: Any) -> None:
            connection.exec_driver_sql("begin immediate")  # Nobody else writes between our look and our write.

        sql.event.listen(engine, "connect", be_durable)
        sql.event.listen(engine, "begin", begin)
    elif engine.dialect.name == "postgresql":

        def be_synchronous(connection: Any, _: Any) -> None:
            connection.execute("set session synchronous_commit = on")  # The server's default may be off.
            connection.commit()

        sql.event.listen(engine, "connect", be_synchronous)
    return engine
