"""Every journal backend passes the one suite, and one that breaks a promise does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from seqtor.actors.journal.contract import Backend, Group, KeyRow
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.testing import JournalContract
from tests.contract.journal_backends import BACKENDS, Reach


class TestOurBackends(JournalContract):
    """In memory, SQLite, PostgreSQL."""

    @pytest.fixture(params=BACKENDS)
    def reach(self, request: pytest.FixtureRequest) -> Reach:
        return BACKENDS[request.param](request)


def test_two_journals_have_different_ids(request: pytest.FixtureRequest) -> None:
    ids = set()
    for name, make in BACKENDS.items():
        if name in ("memory", "sqlite"):  # Others may have one place for all.
            backend = make(request)()
            ids.add(backend.open().journal_id)
            backend.close()
    assert len(ids) == 2


class Forgets(MemoryBackend):
    """Keeps no key."""

    def keys(self) -> Iterator[KeyRow]:
        return iter(())


class Halves(MemoryBackend):
    """Leaves a half of a group that fails."""

    def append(self, group: Group) -> None:
        super().append(group._replace(commits=group.commits[:1], entries=()))
        super().append(group._replace(commits=group.commits[1:], keys=()))


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (Forgets, "test_a_key_is_replaced_by_a_later_row_of_it"),
        (Halves, "test_of_a_group_that_fails_nothing_is_there"),
    ],
)
def test_the_suite_fails_for_a_backend_that_breaks_a_promise(kind: type[MemoryBackend], promise: str) -> None:
    backend: Backend = kind()
    backend.open()
    more: dict[str, Any] = {"wrong": "a gap in seq"} if "fails" in promise else {}
    with pytest.raises(AssertionError):
        getattr(JournalContract(), promise)(backend=backend, reach=lambda: backend, **more)
