"""`seqtor check` of a system whose journal is a PostgreSQL server."""

from __future__ import annotations

import pytest

from seqtor import Supervisor
from seqtor.cli.check import Checkup
from tests.programs import WAIT_S, Deposit, open_bank


def looked_at(url: str, *, known: bool = True) -> Checkup:
    """What a look at the journal finds."""
    system = Supervisor(url)
    if known:
        open_bank(system, alice=100)
    checkup = Checkup()
    checkup.look_at_journal(system)
    return checkup


def test_a_journal_is_looked_at_before_it_is_there_while_it_is_owned_and_afterwards(url: str) -> None:
    fresh = looked_at(url)
    assert (fresh.errors, fresh.warnings) == ([], [])
    system = Supervisor(url)
    open_bank(system, alice=100)
    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        owned = looked_at(url)
        assert not owned.errors
        assert [each.message for each in owned.warnings if "was not looked at: " in each.message]
        system.ask(Deposit(), timeout=WAIT_S)
    kept = looked_at(url)
    assert (kept.errors, kept.warnings) == ([], [])
    (unknown,) = looked_at(url, known=False).errors
    assert "store 'accounts', which the program no longer registers" in unknown.message


def test_a_server_that_does_not_answer_is_an_error() -> None:
    (error,) = looked_at("postgresql://127.0.0.1:1/none?connect_timeout=1").errors
    assert "127.0.0.1" in error.message


@pytest.mark.parametrize("url", ["postgresql://[::1/none"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    assert len(looked_at(url).errors) == 1
