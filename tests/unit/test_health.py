"""Health over HTTP, asked by a real client: what is said when, and what clients cannot do."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from seqtor import RegistrationError, Supervisor
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.serving import HealthServer, address_of
from tests.programs import WAIT_S, Deposit, Gate, open_bank, threaded
from tests.unit.test_notify import Hang, hanging
from tests.unit.test_stop import Wait, with_gate


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, Any]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection(*server.address, timeout=WAIT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        assert response.getheader("Content-Type") == "application/json"
        assert response.getheader("Cache-Control") == "no-store"
        body = response.read()
    finally:
        connection.close()
    return response.status, json.loads(body) if body else None


@contextmanager
def served(system: Supervisor, **options: Any) -> Iterator[HealthServer]:
    with HealthServer(system, 0, **options) as server:
        yield server


# What is said ---------------------------------------------------------------------------------------------------------


def test_a_running_system_is_alive_and_ready() -> None:
    system = threaded()
    open_bank(system)
    with system, served(system) as server:
        system.ask(Deposit(), timeout=WAIT_S)
        figures = {"committed_through": 1, "durable_through": 1, "queued": 0, "in_flight": 0}
        expected = (200, {"ok": True, "life": "running", "reasons": [], **figures})
        assert get(server, "/health/live") == expected
        assert get(server, "/health/ready") == expected
        assert get(server, "/health/ready?verbose=1") == expected


def test_before_the_start_it_is_alive_and_not_ready_and_after_the_stop_neither() -> None:
    system = threaded()
    with served(system) as server:
        assert get(server, "/health/live") == (200, {"ok": True, "life": "not started", "reasons": []})
        status, body = get(server, "/health/ready")
        assert (status, body["reasons"]) == (503, ["the system has not started yet"])
        with system:
            assert get(server, "/health/ready")[0] == 200
        for path in ("/health/live", "/health/ready"):
            status, body = get(server, path)
            assert (status, body["life"]) == (503, "stopped")
            assert body["reasons"] == ["the system has stopped: it was told to stop"]


def test_a_system_that_drains_is_alive_and_not_ready() -> None:
    gate = Gate()
    system = with_gate(threaded(), gate)
    with served(system) as server:
        with system:
            system.tell(Wait())
            gate.await_arrivals()
            stopping = threading.Thread(target=system.stop)
            stopping.start()
            while get(server, "/health/ready")[1]["life"] == "running":
                pass
            status, body = get(server, "/health/ready")
            assert (status, body["life"], body["reasons"]) == (503, "stopping", ["the system is stopping"])
            assert get(server, "/health/live")[0] == 200
            gate.open()
            stopping.join(WAIT_S)
        assert get(server, "/health/live")[0] == 503


def test_a_core_that_hangs_is_neither_alive_nor_ready_and_the_answer_comes_all_the_same() -> None:
    gate = Gate()
    system = hanging(gate)
    with system, served(system, timeout=0.05) as server:
        submission = system.submit(Hang())
        gate.await_arrivals()
        for path in ("/health/live", "/health/ready"):
            status, body = get(server, path)
            assert status == 503
            assert body == {"ok": False, "life": "running", "reasons": ["the core has not answered within 0.05 s"]}
        gate.open()
        submission.result(WAIT_S)
        while get(server, "/health/live")[0] != 200:
            pass


def test_a_system_that_has_broken_down_is_dead_and_says_why(tmp_path: Path) -> None:
    system = Supervisor(Journal(tmp_path / "bank.db"))
    open_bank(system)
    with system, served(system) as server:
        Journal.failure = OSError(28, "No space left on device")
        try:
            system.tell(Deposit())
            assert system.wait(WAIT_S).broke_down
        finally:
            Journal.failure = None
        for path in ("/health/live", "/health/ready"):
            status, body = get(server, path)
            assert (status, body["life"]) == (503, "broken down")
            assert "No space left on device" in body["reasons"][0]


class Journal(SqliteBackend):
    """A journal whose disk is full, or slow, when a test says so."""

    failure: OSError | None = None
    gate: Gate | None = None

    def append(self, group: Group) -> None:
        if Journal.failure is not None:
            raise Journal.failure
        if Journal.gate is not None and group.commits:
            Journal.gate.pass_through()
        super().append(group)


class Hands:
    """A clock that a test moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def test_a_journal_that_does_not_keep_up_makes_the_system_unready_until_it_does(tmp_path: Path) -> None:
    clock = Hands()
    system = Supervisor(Journal(tmp_path / "bank.db"), settings={"threads": 2})
    open_bank(system)
    with system, served(system, clock=clock) as server:
        system.ask(Deposit(), timeout=WAIT_S)
        Journal.gate = gate = Gate()
        try:
            submission = system.submit(Deposit())
            gate.await_arrivals()
            status, body = get(server, "/health/ready")
            assert (status, body["committed_through"], body["durable_through"]) == (200, 2, 1)
            clock.now = 4.9
            assert get(server, "/health/ready")[0] == 200, "a moment is no reason"
            clock.now = 5.0
            status, body = get(server, "/health/ready")
            assert (status, body["ok"]) == (503, False)
            assert body["reasons"] == ["the journal does not keep up: seqs 2 to 2 wait for it since 5.0 s"]
            assert get(server, "/health/live")[0] == 200, "a restart would not help"
        finally:
            Journal.gate = None
            gate.open()
        submission.result(WAIT_S)
        assert get(server, "/health/ready")[0] == 200


# What clients cannot do -----------------------------------------------------------------------------------------------


def test_other_paths_methods_and_protocols_are_told_so() -> None:
    system = threaded()
    with system, served(system) as server:
        assert get(server, "/")[0] == 404
        assert get(server, "/health")[0] == 404
        assert get(server, "/health/live", "POST")[0] == 405
        assert get(server, "/health/live", "HEAD") == (200, None)
        assert said(server, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert said(server, b"GET /health/live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert said(server, b"GET /" + b"a" * 100_000).startswith(b"HTTP/1.1 400 ")
        assert said(server, bytes(range(256)) * 8 + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert get(server, "/health/live")[0] == 200


def said(server: HealthServer, request: bytes) -> bytes:
    """What comes back until the server closes."""
    with socket.create_connection(server.address, timeout=WAIT_S) as client:
        answer = b""
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                answer += piece
        except ConnectionError:  # It was closed on us, without reading all that.
            pass
        return answer


def test_two_hundred_clients_that_say_nothing_keep_nobody_from_asking() -> None:
    system = threaded()
    open_bank(system)
    with system, served(system) as server, ExitStack() as stack:
        threads = threading.active_count()
        for count in range(200):
            client = stack.enter_context(socket.create_connection(server.address, timeout=WAIT_S))
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: "[: count % 40])
            if count % 20 == 0:
                assert get(server, "/health/ready")[0] == 200
        assert get(server, "/health/live")[0] == 200
        assert threading.active_count() == threads
        system.ask(Deposit(), timeout=WAIT_S)


def test_a_client_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtor.serving.health.REQUEST_S", 0.02)
    system = threaded()
    options = {"timeout": 0.01}
    with (
        system,
        served(system, **options) as server,
        socket.create_connection(server.address, timeout=WAIT_S) as client,
    ):
        with suppress(ConnectionResetError):
            client.sendall(b"GET /health/li")
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_the_server_leaves_no_thread_and_no_socket() -> None:
    threads = threading.active_count()
    system = Supervisor()
    with served(system) as server:
        address = server.address
        idle = socket.create_connection(address, timeout=WAIT_S)
    assert threading.active_count() == threads
    with idle, pytest.raises(OSError):  # noqa: PT011
        socket.create_connection(address, timeout=WAIT_S).close()


def test_a_port_that_is_taken_is_told_at_the_start() -> None:
    with served(Supervisor()) as server, pytest.raises(OSError, match="address already in use"):  # noqa: SIM117
        with HealthServer(Supervisor(), server.address[1]):
            pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9000", ("::1", 9000)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_is_a_port_or_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert address_of(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "80:x", "70000", "-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RegistrationError, match=r"the address for health is \[HOST:\]PORT"):
        address_of(text)
