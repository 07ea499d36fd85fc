"""Where a PostgreSQL journal is, and a session there that keeps what is promised, whatever the server's defaults are.

Owns the URL and the settings of the session. Promises: a password is never shown; what commits in the session is on disk
when the commit returns, as far as the server has a say; a peer that vanished without a word is noticed by both sides.
Must never try again: a lost connection is the caller's to decide. The session must be the server's own: a pooler that gives
each transaction another one takes the settings and the lock away.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

import psycopg
from loguru import logger
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from seqtor.messages.errors import JournalCorrupted, RegistrationError

__all__ = ["Address", "Connection", "address_of", "connect", "is_inherited", "reported", "value"]

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

SCHEMA_DEFAULT = "seqtor"
SERVER_VERSION_MIN = 130000

# An "@" that is not the one before the host belongs to a password that is not percent-encoded: libpq would cut it in two
# and show a part of it in its message.
_URL = re.compile(r"postgres(?:ql)?://(?:[^@:/?]*(?P<password>:[^@/?]*)?@)?[^@/?]*(?:/[^@?]*)?(?:\?(?P<query>[^@]*))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")  # libpq would show the whole of what it is in.
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_SECRETS = ("password", "sslpassword", "oauth_client_secret")

_DEFAULTS = {
    "fallback_application_name": "seqtor",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
# Those that a server does not know are left out.
_SETTINGS = {
    "search_path": "pg_catalog",
    "default_transaction_isolation": "read committed",  # The fence waits for who is before us, and then looks again.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",  # A journal that has nothing to write must not lose its lock.
    # The server holds the lock of an owner whose machine is gone until it notices: half a minute, not two hours.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
# What a table that we made and own alone cannot answer.
_DAMAGE = (errors.DataCorrupted, errors.IndexCorrupted, errors.UndefinedTable, errors.UndefinedColumn)


class Address(NamedTuple):
    """A server, a database and a schema. `shown` is the URL as the user wrote it, without passwords."""

    shown: str
    schema: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"  # `options` holds the password.


def address_of(url: str) -> Address:
    """Take a URL apart, as libpq does; `schema` is our own parameter. Nothing is connected.

    Raises RegistrationError for what is none; its text holds nothing of a password.
    """
    parts = _URL.fullmatch(url)
    if parts is None or _BAD_PERCENT.search(url):
        raise RegistrationError(
            "the URL of the journal is not valid (it is not shown: it may hold a password). Expected "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME, where '@', '/', '?' and '%' in names, passwords "
            "and values are percent-encoded as %40, %2F, %3F and %25"
        )
    schema = SCHEMA_DEFAULT
    kept: list[str] = []
    shown: list[str] = []
    for option in (parts["query"] or "").split("&"):
        name, equals, value = option.partition("=")
        if unquote(name) == "schema":
            schema = unquote(value)
        elif option:
            kept.append(option)
        shown.append(f"{name}=***" if equals and unquote(name) in _SECRETS else option)
    end = parts.start("query") - 1 if parts["query"] is not None else len(url)
    place = url[:end]
    if parts["password"]:
        place = f"{url[: parts.start('password')]}:***{url[parts.end('password') : end]}"
    if parts["query"]:
        place += f"?{'&'.join(shown)}"
    if not _SCHEMA.fullmatch(schema):
        raise RegistrationError(
            f"journal {place}: schema {schema!r} is not valid: use 1 to 63 of a-z, 0-9 and _, not a digit first, not pg_"
        )
    try:
        options = conninfo_to_dict(f"{url[:end]}?{'&'.join(kept)}" if kept else url[:end])
    except psycopg.ProgrammingError as error:
        raise RegistrationError(f"journal {place}: the URL is not valid: {_one_line(error)}") from None
    return Address(place, schema, {**_DEFAULTS, **options, "client_encoding": "UTF8"})


def connect(address: Address, *, write: bool) -> Connection:
    """Open a session. Raises ConnectionError that says where and what to check, RegistrationError for a wrong server."""
    try:
        connection = psycopg.connect(autocommit=True, **address.options)
    except psycopg.Error as error:
        # Not chained: frames and objects of psycopg hold the password.
        raise ConnectionError(
            f"journal {address.shown}: cannot connect: {_one_line(error)}. Check that the server runs and is reached at "
            "this host and port, that the database exists, and the user and password"
        ) from None
    try:
        with reported(connection, address.shown, "was opened"):
            _require_fit(connection, address, write)
    except BaseException:
        connection.close()
        raise
    _connections.add(connection)
    return connection


@contextmanager
def reported(connection: Connection, place: str, when: str) -> Iterator[None]:
    """Raise what an error of the server means to a user."""
    try:
        yield
    except psycopg.Error as error:
        told = f"journal {place}: {_one_line(error)}, while it {when}"
        if isinstance(error, _DAMAGE):
            raise JournalCorrupted(f"{told}. Look at the server's log, and restore the schema from a backup") from error
        if isinstance(error, errors.InsufficientPrivilege):
            raise RegistrationError(f"{told}. Grant the user what is missing, or connect as another one") from error
        if connection.closed:
            raise ConnectionError(
                f"{told}. The connection is lost; see that the server runs, then open the journal again: only that tells "
                "what is durable"
            ) from error
        raise


def _require_fit(connection: Connection, address: Address, write: bool) -> None:
    if connection.info.server_version < SERVER_VERSION_MIN:
        raise RegistrationError(
            f"journal {address.shown}: the server is PostgreSQL {connection.info.server_version / 10000:g}, "
            f"seqtor needs {SERVER_VERSION_MIN // 10000} or newer"
        )
    settings = _SETTINGS | {"default_transaction_read_only": "off" if write else "on"}
    connection.execute(
        "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS wanted(name, value)"
        " JOIN pg_settings USING (name)",
        (list(settings), list(settings.values())),
    )
    # `remote_apply` waits for more than `on`: who has set it keeps it.
    found = connection.execute(
        "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
        " WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false), pg_is_in_recovery(), current_setting('fsync')"
    ).fetchone()
    assert found is not None
    _, standby, fsync = found
    if write and standby:
        raise ConnectionError(
            f"journal {address.shown}: the server is a standby and takes no writes; connect to the primary, or name all "
            "hosts and add target_session_attrs=read-write"
        )
    if write and fsync != "on":
        logger.warning(
            "journal {}: the server runs with fsync = off; a power cut can lose what is durable", address.shown
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def value(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Any:
    """The one value that a query gives."""
    row = cursor.fetchone()
    assert row is not None
    return row[0]


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
_inherited: list[Connection] = []


def is_inherited(connection: Connection) -> bool:
    """Whether the connection is that of the process from which this one was forked."""
    return connection in _inherited


def _let_go_in_child() -> None:
    """After a fork: the connection is the parent's, and must end with it; a child that held it open would keep the lock."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for connection in tuple(_connections):
        if not connection.closed:
            os.dup2(nothing, connection.fileno(), inheritable=False)
            _inherited.append(connection)  # Never finished here: that would tell the server to end the session.
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
