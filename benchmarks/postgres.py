"""A schema in PostgreSQL for W2pg and TABLEpg: in the server that SEQTOR_TEST_POSTGRES_URL names, else in one of its own.

Borrows the server of the tests and makes it durable: theirs does not sync, because tests kill processes, not machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from tests.services import postgres

__all__ = ["journal_url"]

DURABLE = {"fsync": "on", "synchronous_commit": "on", "wal_writer_delay": "200ms", "shared_buffers": "128MB"}


@contextmanager
def journal_url() -> Iterator[str]:
    """The URL of a journal in a schema of its own, which goes in the end.

    Raises AssertionError for a server that does not sync what it commits: its figure would be one of memory.
    """
    postgres.SETTINGS.update(DURABLE)  # Read when the server is started, at the first call.
    with psycopg.connect(postgres.base_url()) as connection:
        for setting in ("fsync", "full_page_writes"):
            found = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
            if found != ("on",):
                raise AssertionError(
                    f"W2pg and TABLEpg need a server that is durable, this one has {setting}={found}: turn it on"
                )
    with ExitStack() as at_the_end:
        yield postgres.schema_url(at_the_end.callback)
