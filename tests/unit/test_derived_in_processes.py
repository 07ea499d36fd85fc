"""Derived stores that handlers in worker processes read: the same as in threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqtor import DerivedUnreadable, HandlerFailed, Supervisor
from tests import derived_programs as desk
from tests.process_programs import Doors

WAIT_S = 60.0


@pytest.fixture(scope="module")
def system() -> Iterator[Supervisor]:
    with desk.system as running:
        yield running


def test_a_handler_in_a_process_reads_what_is_derived(system: Supervisor) -> None:
    system.ask(desk.Add(key="a", amount=1), timeout=WAIT_S)
    expected = {"count": 1, "amount": 1, "peeked": 1, "changed": False, "attempt": 1}
    assert system.ask(desk.Look(), timeout=WAIT_S) == expected
    system.ask(desk.Add(key="a", amount=7), timeout=WAIT_S)
    assert system.ask(desk.Look(one_field=True), timeout=WAIT_S) == {
        "amount": 7, "peeked": 7, "changed": False, "attempt": 1,
    }  # fmt: skip


def test_what_commits_behind_it_is_not_seen(system: Supervisor, tmp_path: Path) -> None:
    system.ask(desk.Add(key="a", amount=1), timeout=WAIT_S)
    doors = Doors(tmp_path)
    first = system.submit(desk.Look(folder=str(tmp_path), one_field=True))
    doors.await_arrival()
    other = system.submit(desk.Add(key="a", amount=5))
    doors.open()
    assert first.result(WAIT_S) == {"amount": 1}
    other.result(WAIT_S)


def test_a_commit_that_was_lower_is_seen_in_another_attempt(system: Supervisor, tmp_path: Path) -> None:
    system.ask(desk.Add(key="a", amount=1), timeout=WAIT_S)
    doors = Doors(tmp_path)
    gate = desk.hold(system)
    second = system.submit(desk.Look(folder=str(tmp_path)))
    doors.await_arrival()
    gate.set()
    doors.open()
    assert second.result(WAIT_S) == {"count": 1, "amount": 100, "peeked": 1, "changed": True, "attempt": 2}


def test_one_that_is_unreadable_says_so_there_too(system: Supervisor) -> None:
    system.ask(desk.Add(key="a", amount=-1), timeout=WAIT_S)
    with pytest.raises(HandlerFailed) as caught:
        system.ask(desk.Look(), timeout=WAIT_S)
    assert isinstance(caught.value.__cause__, DerivedUnreadable)
    assert "ValueError: below zero" in str(caught.value)
    system.ask(desk.Add(key="a", amount=1), timeout=WAIT_S)
    assert system.ask(desk.Look(), timeout=WAIT_S)["amount"] == 1


def test_nobody_writes_it_from_there(system: Supervisor) -> None:
    with pytest.raises(HandlerFailed, match="a derived store follows from its sources: write those"):
        system.ask(desk.Meddle(), timeout=WAIT_S)
    assert "b" not in system.snapshot()[desk.items]
