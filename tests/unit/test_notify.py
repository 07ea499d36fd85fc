"""What systemd is told: by a real datagram socket as its own, at a path or abstract; and when it is told nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqtor import Collection, Record, StoreActor, Supervisor, Transaction, Trigger
from seqtor.messages.errors import NotRunning
from seqtor.serving import Notifier, Probe, Watchdog
from tests.programs import WAIT_S, Gate, open_bank, threaded


class Systemd:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(WAIT_S)
        self.socket.bind(address)

    def hear(self) -> list[str]:
        """The next message, line by line."""
        return self.socket.recv(65536).decode().splitlines()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Systemd, str]]:
    name = f"{tmp_path}/notify" if request.param == "path" else f"@seqtor-test-{os.getpid()}-{id(request)}"
    made = Systemd(name.replace("@", "\0"))
    yield made, name
    made.socket.close()


def test_a_message_arrives_as_lines(systemd: tuple[Systemd, str]) -> None:
    end, name = systemd
    assert Notifier({"NOTIFY_SOCKET": name}).tell("READY=1", "STATUS=seq 3\nand more")
    assert end.hear() == ["READY=1", "STATUS=seq 3 and more"]


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "x"}]
)
def test_without_a_socket_that_can_be_used_nobody_is_told(environ: dict[str, str]) -> None:
    assert not Notifier(environ).tell("READY=1")


def test_a_socket_that_is_gone_or_full_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtor.serving.notify.SEND_S", 0.01)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not notifier.tell("READY=1")
    end = Systemd(str(tmp_path / "gone"))
    try:
        told = 0
        while notifier.tell("WATCHDOG=1"):  # Nobody reads it.
            told += 1
            assert told < 100_000
        assert told > 0
        assert end.hear() == ["WATCHDOG=1"]
        assert notifier.tell("READY=1"), "there is room again"
    finally:
        end.socket.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_the_watchdog_is_for_this_process_or_there_is_none(environ: dict[str, str], expected: float | None) -> None:
    assert Notifier(environ).watchdog_s == expected


# The watchdog ---------------------------------------------------------------------------------------------------------


def test_the_watchdog_beats_while_the_system_lives(tmp_path: Path) -> None:
    end = Systemd(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"})
    system = threaded()
    open_bank(system)
    try:
        with system, Watchdog(notifier, Probe(system)):
            for _ in range(5):
                assert end.hear() == ["WATCHDOG=1", "STATUS=seq 0, 0 queued, 0 in flight"]
    finally:
        end.socket.close()


def test_without_watchdogsec_there_is_no_thread() -> None:
    threads = threading.active_count()
    with Watchdog(Notifier({}), Probe(Supervisor())):
        assert threading.active_count() == threads


class Hang(Trigger[None]):
    """Hangs the core."""


class Hanging(StoreActor[int, Any]):
    """Breaks its promise never to block on the core."""

    dispatcher = "core"

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def recover(self, checkpoint: object) -> int:
        return 0

    def validate(self, old: int, new: int, commit: object) -> None:
        self.gate.pass_through()

    @staticmethod
    def fold(state: int, writes: Any) -> int:
        return state + len(writes)

    @staticmethod
    def view(access: Any) -> Any:
        return access


def hanging(gate: Gate) -> Supervisor:
    """A system whose core hangs at the gate."""
    system = threaded()
    hanging = system.store("hanging", Hanging.spec(gate))

    @system.on(Hang)
    def hang(trigger: Hang, tx: Transaction) -> None:
        tx[hanging].write("a", 1)

    return system


def test_a_core_that_hangs_lets_the_watchdog_expire(tmp_path: Path) -> None:
    end = Systemd(str(tmp_path / "notify"))
    gate = Gate()
    system = hanging(gate)
    watchdog = Watchdog(Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}), Probe(system))
    try:
        with system:
            assert watchdog.beat(WAIT_S)
            assert end.hear()[0] == "WATCHDOG=1"
            submission = system.submit(Hang())
            gate.await_arrivals()
            assert not watchdog.beat(0.02)
            assert not watchdog.beat(0.02)
            gate.open()
            submission.result(WAIT_S)
            assert watchdog.beat(WAIT_S)
            assert end.hear()[0] == "WATCHDOG=1", "nothing was sent while it hung"
    finally:
        end.socket.close()


# The question ---------------------------------------------------------------------------------------------------------


def test_however_many_ask_a_core_that_hangs_there_is_one_question() -> None:
    gate = Gate()
    system = hanging(gate)
    with system:
        probe = Probe(system)
        submission = system.submit(Hang())
        gate.await_arrivals()
        threads = threading.active_count()
        for _ in range(50):
            with pytest.raises(TimeoutError, match=r"the core has not answered within 0.001 s"):
                probe.ask(0.001)
        assert threading.active_count() == threads + 1
        gate.open()
        submission.result(WAIT_S)
        assert probe.ask(WAIT_S).committed_through in (0, 1), "the question that waited"
        assert probe.ask(WAIT_S).committed_through == 1


def test_who_asks_a_system_that_is_not_there_is_told_so() -> None:
    with pytest.raises(NotRunning, match="is not started"):
        Probe(Supervisor()).ask(WAIT_S)


class Item(Record):
    """For a system with something in it."""


def test_a_probe_of_a_stopped_system_gets_its_last_figures() -> None:
    system = Supervisor()
    system.store("items", Collection(Item))
    with system:
        pass
    assert Probe(system).ask(WAIT_S).committed_through == 0
