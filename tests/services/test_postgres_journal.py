"""What is special to a journal in PostgreSQL: owners in several processes, and a server that can die.

What every backend promises is in tests/contract.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from seqtor.actors.journal import postgres, postgres_session
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart, CommitRow, EntryRow, Group, KeyRow
from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.actors.journal.postgres_owner import let_go
from seqtor.messages.errors import JournalLocked, NotLeader, NotRunning, RegistrationError
from tests.contract.journal_backends import checkpoint, commits, content, entries, key
from tests.services.postgres import PostgresServer, until, with_option
from tests.services.postgres_owners import PATIENCE_S, connection_of, execute, is_waiting, owner_of, reopened, shown

# Owners ----------------------------------------------------------------------------------------------------------------

INFO = CheckpointInfo(3, 2, b"", 1, 2)
WRITES: dict[str, Callable[[PostgresBackend], Any]] = {
    "append": lambda owner: owner.append(Group(commits(4, 4), entries(3, 3), [key("b")])),
    "append nothing": lambda owner: owner.append(Group()),
    "delete a key": lambda owner: owner.append(Group(keys=[key("a", run="")])),
    "checkpoint part": lambda owner: owner.add_checkpoint_part(3, 1, CheckpointPart("open", b"{}")),
    "finish checkpoint": lambda owner: owner.finish_checkpoint(INFO),
    "trim": lambda owner: owner.trim(INFO, 100),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_owner_that_was_deposed_without_noticing_writes_nothing_any_more(
    backend: PostgresBackend, url: str, write: str
) -> None:
    if write == "trim":
        checkpoint(backend, 3, [CheckpointPart("open", b"{}")], entries_through=2)
    else:
        backend.add_checkpoint_part(3, 0, CheckpointPart("open", b"{}"))
    let_go(connection_of(backend))  # The lock is only a hint: whatever takes it away, the epoch decides.
    heir = PostgresBackend(url)
    assert heir.open().epoch == 2
    heir.append(Group(commits(4, 5)))
    before = content(heir)
    with pytest.raises(NotLeader, match=rf"process {os.getpid()} on .* \(epoch 2, ours is 1\): nothing was written"):
        WRITES[write](backend)
    with pytest.raises(NotRunning, match="close it and open it again"):
        backend.append(Group(commits(6, 6)))
    assert content(heir) == before
    heir.append(Group(commits(6, 6)))
    heir.close()
    opened, held = reopened(url)
    assert (opened.commits_from, opened.commits_through, opened.entries_through) == (1, 6, 2)
    assert held == before._replace(commits=(*before.commits, *commits(6, 6)))
    assert [each.seq for each in opened.checkpoints] == ([3] if write == "trim" else [])


def test_an_append_that_waits_for_a_new_owner_is_refused(backend: PostgresBackend, url: str) -> None:
    address = postgres_session.address_of(url)
    with ThreadPoolExecutor() as pool, psycopg.connect(**address.options) as heir:
        heir.execute(f"UPDATE {address.schema}.lease SET epoch = epoch + 1".encode())
        late = pool.submit(backend.append, Group(commits(4, 4)))
        until(lambda: is_waiting(url, connection_of(backend).info.backend_pid), "the append waits for the lease")
        heir.commit()
        assert isinstance(late.exception(PATIENCE_S), NotLeader)
    backend.close()
    assert reopened(url)[0].commits_through == 3


def test_a_second_opener_learns_at_once_whose_the_journal_is(url: str) -> None:
    with owner_of(url) as owner:
        assert owner.ask("open") == "done 1"
        for write in (True, False):
            with pytest.raises(JournalLocked) as raised:
                PostgresBackend(url).open(write=write)
            assert f"process {owner.process.pid} on {socket.gethostname()} (PostgreSQL backend " in str(raised.value)
        assert owner.ask("append 1") == "done None"


def test_the_journal_is_free_as_soon_as_it_is_closed(
    backend: PostgresBackend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connection_of(backend)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "close", lambda: None)  # A server that has not yet noticed that it was closed.
        backend.close()
        assert reopened(url)[0].epoch == 2
    connection.close()


def test_an_owner_that_was_killed_leaves_the_journal_free_and_whole(url: str) -> None:
    with owner_of(url) as owner:
        assert owner.ask("open") == "done 1"
        assert owner.ask("append 1") == "done None"
        owner.kill()
        opened, held = reopened(url)
    assert (opened.epoch, opened.commits_through, len(held.commits)) == (2, 1, 1)


def test_who_opens_after_a_killed_owner_waits_until_the_server_has_noticed(shared_server: PostgresServer) -> None:
    url = with_option(shared_server.url, "schema=unnoticed")
    with owner_of(url) as owner, ThreadPoolExecutor() as pool:
        assert owner.ask("open") == "done 1"
        ((backend_pid,),) = execute(url, "SELECT owner_backend_pid FROM lease")
        os.kill(backend_pid, signal.SIGSTOP)
        try:
            owner.kill()
            heir = PostgresBackend(url)
            opening = pool.submit(heir.open)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            until(lambda: execute(url, waiting) == [(1,)] or opening.done(), "the opener waits for the lock")
        finally:
            os.kill(backend_pid, signal.SIGCONT)
        assert opening.result(PATIENCE_S).epoch == 2
        heir.close()


def test_a_stopped_owner_keeps_the_journal_until_its_session_is_ended_and_then_writes_nothing(url: str) -> None:
    with owner_of(url) as owner:
        assert owner.ask("open") == "done 1"
        owner.process.send_signal(signal.SIGSTOP)
        with pytest.raises(JournalLocked, match="PostgreSQL backend") as raised:
            PostgresBackend(url).open()
        message = str(raised.value)
        execute(url, message[message.index("SELECT pg_terminate_backend") : message.index(" ends it at once")])
        ended = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        pid = int(message.partition("terminate_backend(")[2].partition(")")[0])
        until(lambda: execute(url, ended, pid) == [(0,)], "the session of the stopped owner has ended")
        heir = PostgresBackend(url)
        assert heir.open().epoch == 2
        heir.append(Group(commits(1, 1)))
        owner.process.send_signal(signal.SIGCONT)
        assert owner.ask("append 1").startswith("ConnectionError")
        assert owner.ask("append 1").startswith("NotRunning")
        assert content(heir).commits == tuple(commits(1, 1))
        heir.close()


def test_a_child_of_the_owner_does_not_keep_the_journal(url: str) -> None:
    with owner_of(url) as owner:
        assert owner.ask("open") == "done 1"
        assert owner.ask("fork") == "child"
        assert owner.ask("append 1") == "done None"  # That the child has closed what it inherited does not matter here.
        owner.kill()
        assert reopened(url)[0].epoch == 2


def test_processes_that_create_at_the_same_moment_make_one_journal(shared_server: PostgresServer) -> None:
    url = with_option(shared_server.url, "schema=at_once")
    with owner_of(url) as one, owner_of(url) as other, psycopg.connect(shared_server.url) as blocker:
        # Nobody can create while this is held; both have found that there is no journal when it is let go.
        blocker.execute("LOCK TABLE pg_catalog.pg_namespace IN SHARE MODE")
        one.tell("open")
        other.tell("open")
        waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
        until(lambda: execute(shared_server.url, waiting) == [(2,)], "both creators wait")
        blocker.rollback()
        answers = sorted([one.answer(), other.answer()])
        assert answers[0].startswith("JournalLocked")
        assert answers[1] == "done 1"
    opened, _ = reopened(url)
    assert (opened.epoch, opened.commits_through) == (2, 0)


# The server ------------------------------------------------------------------------------------------------------------


def test_of_a_server_that_is_killed_everything_that_was_appended_comes_back(server: PostgresServer) -> None:
    backend = PostgresBackend(server.url)
    backend.open()
    appended = [0]

    def append_on() -> None:
        while True:
            first = appended[0] + 1
            backend.append(Group(commits(first, first + 49), entries(first, first + 49)))
            appended[0] += 50

    with ThreadPoolExecutor() as pool:
        appending = pool.submit(append_on)
        until(lambda: appended[0] >= 1000, "groups are appended")
        server.kill()
        error = appending.exception(PATIENCE_S)
    assert isinstance(error, ConnectionError)
    assert backend.place in str(error)
    assert server.password not in shown(error)
    for use in (lambda: list(backend.commits(1, 1)), lambda: list(backend.keys())):
        with pytest.raises(ConnectionError, match="The connection is lost"):
            use()
    with pytest.raises(NotRunning, match="close it and open it again"):
        backend.append(Group())
    backend.close()
    with pytest.raises(ConnectionError, match="Check that the server runs"):
        PostgresBackend(server.url).open()
    server.start()
    opened, held = reopened(server.url)
    assert opened.epoch == 2
    # The last group is whole or not there, whatever its owner was told.
    assert opened.commits_through - appended[0] in (0, 50)
    assert held.commits == tuple(commits(1, opened.commits_through))
    assert held.entries == tuple(entries(1, opened.commits_through))


@pytest.mark.parametrize("default", ["off", "local", "remote_write", "on", "remote_apply"])
def test_commits_are_synchronous_whatever_the_default_is(url: str, default: str) -> None:
    settings = (
        f"-c synchronous_commit={default} -c default_transaction_isolation=serializable -c statement_timeout=60000"
    )
    hindered = with_option(url, f"options={settings.replace(' ', '%20').replace('=', '%3D')}")
    backend = PostgresBackend(hindered)
    backend.open()
    found = connection_of(backend).execute(
        "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation'),"
        " current_setting('statement_timeout')"
    )
    assert found.fetchone() == ("remote_apply" if default == "remote_apply" else "on", "read committed", "0")
    backend.append(Group(commits(1, 1)))
    backend.close()


def test_a_user_without_rights_learns_what_is_missing(shared_server: PostgresServer) -> None:
    execute(shared_server.url, "CREATE ROLE guest LOGIN PASSWORD 'guest'")
    url = shared_server.url.replace(f"postgres:{shared_server.password}", "guest:guest")
    for schema in ("seqtor_of_guest", "seqtor_of_postgres"):
        if schema == "seqtor_of_postgres":
            reopened(with_option(shared_server.url, f"schema={schema}"))
        with pytest.raises(RegistrationError, match=r"permission denied for .*Grant the user what is missing"):
            PostgresBackend(with_option(url, f"schema={schema}")).open()
    execute(shared_server.url, "CREATE SCHEMA seqtor_of_guest AUTHORIZATION guest")
    assert reopened(with_option(url, "schema=seqtor_of_guest"))[0].epoch == 1


# Rows ------------------------------------------------------------------------------------------------------------------


def test_keys_refs_and_sections_may_be_any_string(backend: PostgresBackend, url: str) -> None:
    names = ["\0", "a\0b", "\ud83d\ude42", "\U0001f642", "\udcff", "\\x00", "", "ß", secrets.token_hex(50_000)]
    keys = [KeyRow(name, f"run {number}", b"", None) for number, name in enumerate(names)]
    found = [EntryRow(number, name, name, json.dumps(name)) for number, name in enumerate(names, 3)]
    parts = [CheckpointPart(name, name.encode("utf-8", "surrogatepass")) for name in names]
    backend.append(Group(entries=found, keys=keys))
    checkpoint(backend, 3, parts)
    backend.close()
    again = PostgresBackend(url)
    again.open()
    assert sorted(again.keys()) == sorted([*keys, key("a")])
    assert list(again.entries(3, 99)) == found
    assert list(again.checkpoint_parts(3)) == parts
    again.append(Group(keys=[KeyRow(name, "", b"", None) for name in names]))
    assert list(again.keys()) == [key("a")]
    again.close()


@pytest.mark.parametrize("bodies", [["{}"] * 7, ["x" * 30, "{}", "x" * 30], ["x" * 30]])
def test_a_group_of_several_statements_is_one_group(
    backend: PostgresBackend, url: str, bodies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_BYTES_MAX", 5)
    monkeypatch.setattr(postgres, "PIECE_BYTES_MAX", 5)
    rows = [CommitRow(seq, body, b"") for seq, body in enumerate(bodies, 4)]
    found = [EntryRow(pos, "call", "run", body) for pos, body in enumerate(bodies, 3)]
    backend.append(Group(rows, found, [key("b")]))
    assert content(backend) == Group((*commits(1, 3), *rows), (*entries(1, 2), *found), (key("a"), key("b")))
    before = content(backend)
    last = 3 + len(bodies)
    with pytest.raises(UnicodeEncodeError):
        backend.append(Group([CommitRow(last + 1, "{  }", b""), CommitRow(last + 2, "\udc80  ", b"")]))
    backend.close()
    opened, held = reopened(url)
    assert opened.commits_through == last
    assert held == before
