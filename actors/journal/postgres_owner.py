"""Who owns a PostgreSQL journal: the epoch in the table `lease`, and a lock that tells a second opener at once.

Owns the lease row and the advisory lock. Only the epoch decides: whoever writes holds it against the lease in the same
transaction. The lock ends with its session and is no more than a hint, so that two programs do not depose each other in
turn. Promises: of two owners the one that came later wins, and the other learns it at its next write.
"""

from __future__ import annotations

import os
import socket
from typing import LiteralString, NamedTuple

from psycopg import errors

from seqtor.actors.journal.postgres_session import Connection, value
from seqtor.actors.journal.postgres_tables import FORMAT, LOCK_CLASS, Statements
from seqtor.messages.errors import JournalCorrupted, JournalLocked, NotLeader

__all__ = ["Lease", "begin_epoch", "deposed", "fence", "find_lease", "let_go", "require_unowned", "take_lock"]

DEAD_OWNER_WAIT = "5s"

LEASE: LiteralString = """
    SELECT journal_id, epoch, owner_pid, owner_host, owner_backend_pid, to_char(owned_since, 'YYYY-MM-DD HH24:MI:SS TZ'),
           commits_from, commits_through, entries_from, entries_through
    FROM {s}.lease
"""
OWN: LiteralString = (
    "UPDATE {s}.lease SET epoch = epoch + 1, owner_pid = %s, owner_host = %s, owner_backend_pid = pg_backend_pid(),"
    " owned_since = now()"
)


class Lease(NamedTuple):
    """The one row that says whose the journal is, and where it begins and ends.

    `commits` is how many there are, those that are trimmed included. It is the column `commits_through`, and the last seq as
    long as there are no gaps.
    """

    journal_id: str
    epoch: int
    owner_pid: int | None
    owner_host: str | None
    owner_backend_pid: int | None
    owned_since: str | None
    commits_from: int
    commits: int
    entries_from: int
    entries_through: int

    @property
    def owner(self) -> str:
        return f"process {self.owner_pid} on {self.owner_host}"

    @property
    def owner_is_dead(self) -> bool:
        """Whether the owner ran on this machine and is certainly gone."""
        if self.owner_pid is None or self.owner_host != socket.gethostname() or os.name != "posix":
            return False
        try:
            os.kill(self.owner_pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def find_lease(connection: Connection, within: Statements) -> Lease:
    """Read the lease. Raises JournalCorrupted for a format that is not ours."""
    found = connection.execute(within("SELECT format FROM {s}.lease")).fetchone()
    if found is None:
        raise JournalCorrupted(
            f"journal {within.place}: the row of the table lease is missing. Restore the schema from a backup"
        )
    if found[0] != FORMAT:
        raise JournalCorrupted(
            f"journal {within.place}: it has format {found[0]}, this version reads {FORMAT}: use the version that wrote it"
        )
    row = connection.execute(within(LEASE)).fetchone()
    assert row is not None
    return Lease(*row)


def take_lock(connection: Connection, within: Statements) -> None:
    """Take the lock, for as long as the session lives. Raises JournalLocked with the owner's pid and host."""
    key = _lock_key(connection, within)
    if value(connection.execute("SELECT pg_try_advisory_lock(%s)", (key,))):
        return
    lease = find_lease(connection, within)
    holder = _holder(connection, key)
    if holder is None or (lease.owner_is_dead and lease.owner_backend_pid == holder):
        # It was just let go, or its session ends as soon as the server sees that nobody is there any more.
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", (DEAD_OWNER_WAIT,))
                connection.execute("SELECT pg_advisory_lock(%s)", (key,))
        except errors.LockNotAvailable:
            lease, holder = find_lease(connection, within), _holder(connection, key)
        else:
            return
    raise _locked(within, lease, holder)


def require_unowned(connection: Connection, within: Statements, lease: Lease) -> None:
    """Raise JournalLocked if anybody has the journal open for writing; takes no lock that could keep a writer away."""
    holder = _holder(connection, _lock_key(connection, within))
    if holder is not None:
        raise _locked(within, lease, holder)


def let_go(connection: Connection) -> None:
    """Let the lock go at once: the server would do it too, some time after the connection has gone."""
    connection.execute("SELECT pg_advisory_unlock_all()")


def begin_epoch(connection: Connection, within: Statements) -> Lease:
    """Become the owner, within the caller's transaction; returns the lease as it was found, with the new epoch.

    An append of an owner that is no longer one, but does not know it, is waited for, and counts.
    """
    connection.execute(within("SELECT 1 FROM {s}.lease FOR UPDATE"))
    lease = find_lease(connection, within)
    connection.execute(within(OWN), (os.getpid(), socket.gethostname()))
    return lease._replace(epoch=lease.epoch + 1)


def fence(connection: Connection, within: Statements, epoch: int) -> None:
    """Hold the lease until the caller's transaction ends. Raises NotLeader if it has a newer epoch."""
    statement = within("SELECT 1 FROM {s}.lease WHERE epoch = %s FOR UPDATE")
    if connection.execute(statement, (epoch,)).fetchone() is None:
        raise deposed(connection, within, epoch)


def deposed(connection: Connection, within: Statements, epoch: int) -> NotLeader:
    """The error that says who leads instead of `epoch`."""
    lease = find_lease(connection, within)
    return NotLeader(
        f"journal {within.place} is led by {lease.owner} since {lease.owned_since} (epoch {lease.epoch}, ours is {epoch}): "
        "nothing was written. Stop this process, or let it stand by"
    )


def _lock_key(connection: Connection, within: Statements) -> int:
    """The number of this journal's lock: the table's oid, so that a schema that is made anew has another."""
    oid = value(
        connection.execute(
            "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = 'lease'",
            (within.schema,),
        )
    )
    return LOCK_CLASS << 32 | int(oid)


def _holder(connection: Connection, key: int) -> int | None:
    """The server process that holds the lock."""
    found: int | None = value(
        connection.execute(
            "SELECT min(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
            " AND (l.classid::bigint << 32 | l.objid::bigint) = %s",
            (key,),
        )
    )
    return found


def _locked(within: Statements, lease: Lease, holder: int | None) -> JournalLocked:
    owner = lease.owner if lease.owner_backend_pid == holder else "a process that is opening it at this moment"
    return JournalLocked(
        f"journal {within.place} is open in {owner} (PostgreSQL backend {holder}): stop that process first. If its machine "
        f"is gone, the server notices within a minute; SELECT pg_terminate_backend({holder}) ends it at once"
    )
