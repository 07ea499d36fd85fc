"""The journal backends that the one suite is run on; the rows to fill them with are the suite's.

A backend is added with one line in `BACKENDS`: a function that takes pytest's request (for its fixtures) and returns how
the journal of this test is reached. Each call of that gives a backend as another program would make it; the one in
memory has nothing to reach it by but the object.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.testing.journals.rows import (
    PARTS,
    Reach,
    checkpoint,
    commit,
    commits,
    content,
    entries,
    entry,
    key,
    reopened,
)
from tests.services.postgres import schema_url

__all__ = [
    "BACKENDS",
    "PARTS",
    "Reach",
    "checkpoint",
    "commit",
    "commits",
    "content",
    "entries",
    "entry",
    "key",
    "reopened",
]


def memory(request: pytest.FixtureRequest) -> Reach:
    """The one object."""
    backend = MemoryBackend()
    return lambda: backend


def sqlite(request: pytest.FixtureRequest) -> Reach:
    """A file."""
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda: SqliteBackend(folder / "journal.db")


def postgres(request: pytest.FixtureRequest) -> Reach:
    """A schema of a real server."""
    url = schema_url(request.addfinalizer)
    return lambda: PostgresBackend(url)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Reach]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": postgres,
}
