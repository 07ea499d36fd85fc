"""Owners of a PostgreSQL journal in other processes, and what an administrator of the server can do to it."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.actors.journal.postgres_session import address_of
from tests.contract.journal_backends import content

__all__ = ["PATIENCE_S", "Owner", "connection_of", "execute", "is_waiting", "owner_of", "reopened", "shown"]

PATIENCE_S = 30.0
OWNER = """
import os, sys
from seqtor.actors.journal.contract import CommitRow, Group
from seqtor.actors.journal.postgres import PostgresBackend

def attempt(action):
    try:
        print("done", action(), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)

backend = PostgresBackend(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    if word == "open":
        attempt(lambda: backend.open().epoch)
    elif word == "fork":
        child = os.fork()
        if child == 0:
            backend.close()
            print("child", flush=True)
            os.read(0, 1)
            os._exit(0)
    else:
        seq = int(numbers[0])
        attempt(lambda: backend.append(Group([CommitRow(seq, "{}", b"")])))
"""


class Owner:
    """Another process with a backend."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


@contextmanager
def owner_of(url: str) -> Iterator[Owner]:
    owner = Owner(url)
    try:
        yield owner
    finally:
        owner.process.kill()
        owner.process.communicate(timeout=PATIENCE_S)


def execute(url: str, statement: str, *values: Any) -> Any:
    """Run a statement in the schema of a journal, as its administrator could."""
    address = address_of(url)
    with psycopg.connect(autocommit=True, **address.options) as connection:
        connection.execute(f"SET search_path = {address.schema}".encode())
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else None


def reopened(url: str) -> Any:
    """What the journal holds, seen by who opens it next."""
    backend = PostgresBackend(url)
    opened = backend.open()
    try:
        return opened, content(backend)
    finally:
        backend.close()


def is_waiting(url: str, backend_pid: int) -> bool:
    found = execute(url, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", backend_pid)
    return found == [(True,)]


def connection_of(backend: PostgresBackend) -> psycopg.Connection[Any]:
    assert backend._connection is not None
    return backend._connection


def shown(error: BaseException | None) -> str:
    assert error is not None
    return "".join(traceback.format_exception(error)) + repr(error)
