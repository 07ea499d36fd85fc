"""Journals and servers for the tests of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.postgres import PostgresBackend
from tests.contract.journal_backends import commits, entries, key
from tests.services.postgres import PostgresServer, schema_url


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return schema_url(request.addfinalizer)


@pytest.fixture
def backend(url: str) -> Iterator[PostgresBackend]:
    """A new journal with three commits and two entries, open for writing."""
    backend = PostgresBackend(url)
    backend.open()
    backend.append(Group(commits(1, 3), entries(1, 2), [key("a")]))
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[PostgresServer]:
    """A server on this machine, for tests that touch its processes or what all its users share."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that this test may kill."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop()
