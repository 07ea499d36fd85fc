"""A whole system whose journal is a PostgreSQL server: the same promises as on a file."""

from __future__ import annotations

import pytest

from seqtor import JournalLocked, KeyReused, OutcomeUnknown, Supervisor
from tests.programs import WAIT_S, Account, Accounts, Deposit, Transfer, open_bank
from tests.services.postgres import PostgresServer


def bank(url: str) -> tuple[Supervisor, Accounts]:
    system = Supervisor(url)
    return system, open_bank(system, alice=100, bob=0)


def test_what_was_committed_is_there_after_a_restart_with_its_keys_and_its_history(url: str) -> None:
    for life, left in enumerate((95, 90, 85), 1):
        system, accounts = bank(url)
        with system:
            assert system.ask(Transfer(source="alice", target="bob", amount=5), timeout=WAIT_S) == left
            assert system.ask(Deposit(amount=0), idempotency_key="once", timeout=WAIT_S) == 95
            with pytest.raises(KeyReused):
                system.submit(Deposit(amount=1), idempotency_key="once")
            assert system.snapshot(1)[accounts]["alice"] == Account(balance=95)
            assert system.stats().durable_through == life + 1
            assert system.verify().executed == life + 1


def test_a_burst_is_answered_in_order_and_comes_back(url: str) -> None:
    system, accounts = bank(url)
    with system:
        submissions = system.submit_many([Deposit(amount=1) for _ in range(500)])
        assert [submission.result(WAIT_S) for submission in submissions] == list(range(101, 601))
    system, accounts = bank(url)
    with system:
        assert system.snapshot()[accounts]["alice"].balance == 600


def test_two_systems_on_one_journal_are_one_too_many(url: str) -> None:
    system, _ = bank(url)
    with system:
        second, _ = bank(url)
        with pytest.raises(JournalLocked, match="is open in process"):
            second.start()
        assert system.ask(Deposit(amount=1), timeout=WAIT_S) == 101


def test_a_server_that_dies_leaves_nobody_waiting_and_loses_nothing(server: PostgresServer) -> None:
    system, accounts = bank(server.url)
    system.start()
    assert system.ask(Deposit(amount=1), timeout=WAIT_S) == 101
    server.kill()
    with pytest.raises(OutcomeUnknown):
        system.ask(Deposit(amount=1), timeout=WAIT_S)
    system.stop()
    server.start()
    again, accounts = bank(server.url)
    with again:
        assert again.snapshot()[accounts]["alice"].balance in (101, 102)
        assert again.ask(Deposit(amount=1), timeout=WAIT_S) in (102, 103)
