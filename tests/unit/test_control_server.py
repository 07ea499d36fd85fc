"""The server of the control socket: hostile, slow and mute clients harm nobody, and it goes with its system in order."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from seqtor import (
    Collection,
    NotRunning,
    OutcomeUnknown,
    Overloaded,
    Record,
    RecordedFailure,
    Supervisor,
    Transaction,
    Trigger,
    connect,
)
from seqtor.control.desk import ControlDesk
from seqtor.control.server import BREAKDOWNS_MAX
from seqtor.messages.control import ServeRequest
from tests.control_clients import Raw, framed, serving
from tests.programs import WAIT_S, Deposit, Gate, open_bank

READ = {"id": 1, "verb": "stats"}


class Wait(Trigger[str]):
    """Answers when the gate is open."""


class Large(Trigger[str]):
    """Answers with so many letters."""

    size: int


class Poison(Trigger[int]):
    """Ends whoever makes one."""

    deadly: int = 0

    def model_post_init(self, context: Any) -> None:
        if self.deadly:
            raise SystemExit("poisoned")


class Desk:
    """A system with what these tests run, and a gate for those that shall not end yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = Gate()
        self.system = Supervisor(settings={"threads": 4, "control": "off"})
        open_bank(self.system, alice=0)

        @self.system.on(Wait)
        def wait(trigger: Wait, tx: Transaction) -> str:
            self.gate.pass_through()
            return "over"

        @self.system.on(Large)
        def large(trigger: Large, tx: Transaction) -> str:
            return "x" * trigger.size

        @self.system.on(Poison)
        def poison(trigger: Poison, tx: Transaction) -> int:
            return 1

    def commits_on(self) -> None:
        """The system does its work, and a client that behaves is served."""
        before = self.system.ask(Deposit(), timeout=WAIT_S)
        with connect(self.path, timeout=WAIT_S) as connection:
            assert connection.ask(Deposit(), timeout=WAIT_S) == before + 1


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    before = set(threading.enumerate())
    desk = Desk(tmp_path / "control")
    with desk.system:
        yield desk
        desk.gate.open()
    assert not desk.path.exists()
    assert not {thread for thread in set(threading.enumerate()) - before if "control" in thread.name}


# Hostile clients -----------------------------------------------------------------------------------------------------


def test_rubbish_of_every_kind_harms_nobody(desk: Desk) -> None:
    chance = random.Random(7)
    starts = [b"", framed({"seqtor": 1}), framed({"seqtor": 1}) + framed(READ)]
    with serving(desk.system, desk.path, frame_s=1.0, hello_s=1.0):
        for _ in range(300):
            rubbish = chance.randbytes(chance.randrange(64))
            if chance.random() < 0.3:  # In a frame, so that it gets further.
                rubbish = struct.pack(">I", len(rubbish)) + rubbish
            client = Raw(desk.path, greet=False)
            try:
                client.send(chance.choice(starts) + rubbish)
                if chance.random() < 0.5:
                    client.socket.shutdown(socket.SHUT_WR)
                    client.read_to_the_end()
            except (BrokenPipeError, ConnectionResetError):
                pass  # It has thrown us out before we had finished.
            finally:
                client.close()
        desk.commits_on()


def test_two_hundred_half_open_clients_keep_nobody_out(desk: Desk) -> None:
    with serving(desk.system, desk.path, connections_max=50, hello_s=60.0):
        mute = [Raw(desk.path, greet=False) for _ in range(200)]
        for number, client in enumerate(mute):
            with contextlib.suppress(BrokenPipeError):  # One of those that had to go already.
                client.send(framed({"seqtor": 1})[: number % 8])
        desk.commits_on()
        assert threading.active_count() < 30, "there is no thread per client"
        with connect(desk.path) as patient:
            more = [Raw(desk.path, greet=False) for _ in range(100)]
            desk.commits_on()
            assert patient.stats().current_seq > 0, "who has said hello stays"
        for client in mute + more:
            client.close()


def test_a_client_too_many_is_turned_away_when_all_others_are_honest(desk: Desk) -> None:
    with serving(desk.system, desk.path, connections_max=3):
        clients = [Raw(desk.path) for _ in range(3)]
        with pytest.raises((NotRunning, ConnectionError)):
            connect(desk.path)
        assert all(client.ask(**READ)["value"]["queued"] == 0 for client in clients)
        clients.pop().close()
        for _ in range(1000):  # Until the server has heard of it.
            try:
                connect(desk.path).close()
                break
            except NotRunning:
                continue
        else:
            pytest.fail("nobody is let in any more")
        for client in clients:
            client.close()


def test_a_client_that_says_nothing_is_disconnected(desk: Desk) -> None:
    with serving(desk.system, desk.path, hello_s=0.05):
        with Raw(desk.path, greet=False) as mute:
            assert mute.read() is None
        with Raw(desk.path, greet=False) as half:
            half.send(framed({"seqtor": 1})[:-1])
            assert half.read() is None


def test_a_client_that_does_not_finish_a_frame_is_disconnected_and_one_that_only_waits_is_not(desk: Desk) -> None:
    with serving(desk.system, desk.path, frame_s=0.05), Raw(desk.path) as idle:
        for part in (1, 3, 4, 10):
            with Raw(desk.path) as slow:
                slow.send(framed(READ)[:part])
                assert slow.read() is None
        assert idle.ask(**READ)["value"]["queued"] == 0


def test_a_request_in_pieces_is_a_request(desk: Desk) -> None:
    with serving(desk.system, desk.path), Raw(desk.path) as client:
        for byte in framed(READ):
            client.send(bytes([byte]))
        assert client.read()["value"]["queued"] == 0


def test_a_frame_that_is_too_long_ends_the_connection_before_it_is_sent(desk: Desk) -> None:
    with serving(desk.system, desk.path, frame_bytes_max=1000):
        with Raw(desk.path) as client:
            client.send(struct.pack(">I", 1001))
            assert "1001 bytes, allowed are 1000" in client.read()["error"]["message"]
            assert client.read() is None
        with Raw(desk.path, greet=False) as client:
            client.send(struct.pack(">I", 100_000))
            assert "allowed are 4096" in client.read()["error"]["message"]
            assert client.read() is None


def test_another_version_of_the_protocol_is_told_so(desk: Desk) -> None:
    with serving(desk.system, desk.path), Raw(desk.path, greet=False) as client:
        client.send(framed({"seqtor": 2}))
        assert "version 2 of the protocol, spoken here is 1" in client.read()["error"]["message"]
        assert client.read() is None


def test_a_request_that_cannot_be_understood_is_answered_and_the_next_one_served(desk: Desk) -> None:
    with serving(desk.system, desk.path), Raw(desk.path) as client:
        assert "expected tags" in client.ask(verb="explode")["error"]["message"]
        assert client.ask(verb="record", seq="x")["id"] == 1
        assert client.ask(**READ)["value"]["queued"] == 0


def test_a_client_that_does_not_read_is_disconnected_and_what_it_asked_for_is_forgotten(desk: Desk) -> None:
    with serving(desk.system, desk.path, read_s=0.1) as server, Raw(desk.path) as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        trigger = {"type": "Large", "payload": {"size": 2_000_000}}
        for number in range(4):
            deaf.send(framed({"id": number, "verb": "submit", "triggers": [trigger]}))
        desk.commits_on()
        gone = threading.Event()

        def look() -> None:
            if not server._connected:
                gone.set()
            else:
                server._loop.call_later(0.01, look)

        server._loop.call_soon_threadsafe(look)
        assert gone.wait(WAIT_S), "it does not read, and must go"
        assert server.unsent_bytes == 0
        desk.commits_on()


def test_an_answer_that_is_too_long_is_an_error_in_its_place(desk: Desk) -> None:
    with serving(desk.system, desk.path, answer_bytes_max=1000), connect(desk.path) as connection:
        with pytest.raises(ValueError, match="allowed are 1000: ask for less of it"):
            connection.ask("Large", {"size": 2000}, timeout=WAIT_S)
        assert connection.ask("Large", {"size": 10}, timeout=WAIT_S) == "x" * 10
    with (
        serving(desk.system, desk.path, unsent_bytes_max=1000),
        connect(desk.path) as connection,
        pytest.raises(Overloaded, match="bytes wait to be read"),
    ):
        connection.ask("Large", {"size": 2000}, timeout=WAIT_S)


def test_a_connection_with_too_much_under_way_is_told_to_wait(desk: Desk) -> None:
    with serving(desk.system, desk.path, requests_max=3), connect(desk.path) as connection:
        waiting = [connection.submit(Wait()) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 requests and outcomes of this connection are under way, allowed are 3"):
            connection.submit(Wait())
        with pytest.raises(ValueError, match="4 triggers in one batch, allowed are 3"):
            connection.submit_many([Wait()] * 4)
        with connect(desk.path) as another:
            assert another.stats().queued + another.stats().in_flight == 3, "others are served"
        desk.gate.open()
        assert [submission.result(WAIT_S) for submission in waiting] == ["over"] * 3
        assert connection.ask(Wait(), timeout=WAIT_S) == "over"


# Crashes -------------------------------------------------------------------------------------------------------------


def test_what_would_end_a_process_is_an_answer(desk: Desk) -> None:
    with serving(desk.system, desk.path) as server, connect(desk.path) as connection:
        intake = server._intake
        for _ in range(3):
            with pytest.raises(RecordedFailure, match="SystemExit: poisoned"):
                connection.submit("Poison", {"deadly": 1})
            assert connection.ask("Poison", timeout=WAIT_S) == 1
        assert server._intake is intake, "nothing crashed"


def test_a_desk_that_crashes_is_replaced_and_who_asked_it_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(actor: Any, message: Any) -> None:
        raise RuntimeError("the desk is broken")

    with serving(desk.system, desk.path), connect(desk.path) as connection:
        serve = ControlDesk._methods[ServeRequest]
        for _ in range(5):
            monkeypatch.setitem(ControlDesk._methods, ServeRequest, crash)
            with pytest.raises((RuntimeError, RecordedFailure, Overloaded), match=r"the desk is broken|ask again"):
                connection.submit(Deposit())
            monkeypatch.setitem(ControlDesk._methods, ServeRequest, serve)
            for _ in range(1000):
                try:
                    connection.ask(Deposit(), timeout=WAIT_S)
                    break
                except Overloaded:
                    continue
        assert connection.ask(Deposit(), timeout=WAIT_S) == 6


def test_a_query_that_takes_long_delays_nothing_that_is_handed_in(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    def stuck(seq: int) -> None:
        gate.pass_through()
        raise LookupError(f"nothing of {seq}")

    with serving(desk.system, desk.path), Raw(desk.path) as client:
        monkeypatch.setattr(desk.system, "record", stuck)
        client.send(framed({"id": 1, "verb": "record", "seq": 1}))
        gate.await_arrivals()
        with connect(desk.path) as connection:
            assert connection.ask(Deposit(), timeout=WAIT_S) == 1
        gate.open()
        assert client.read()["error"]["message"] == "nothing of 1"


# Stopping ------------------------------------------------------------------------------------------------------------


def test_the_stop_lets_who_waits_have_the_answer_and_nobody_new_come_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "control")
    system = Supervisor(tmp_path / "bank.db", settings={"threads": 4})
    store = system.store("gates", Collection(Record))

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> str:
        desk.gate.pass_through()
        return f"{len(tx[store])} over"

    system.start()
    connection = connect(tmp_path / "bank.db", timeout=WAIT_S)
    submission = connection.submit(Wait())
    desk.gate.await_arrivals()
    stopping = threading.Thread(target=system.stop)
    stopping.start()
    for _ in range(10_000):
        try:
            connect(tmp_path / "bank.db", timeout=WAIT_S).close()
        except (NotRunning, TimeoutError):
            break
    else:
        pytest.fail("the door is still open")
    taken = [submission]

    def hand_in_until_it_is_refused() -> None:
        while True:  # The door is closed first.
            taken.append(connection.submit(Wait()))

    with pytest.raises(NotRunning, match="stopped or stopping"):
        hand_in_until_it_is_refused()
    desk.gate.open()
    assert [each.result(WAIT_S) for each in taken] == ["0 over"] * len(taken)
    stopping.join()
    with pytest.raises(NotRunning, match="the file does not exist"):
        connection.stats()
    connection.close()


def test_the_stop_waits_for_a_client_to_read_its_last_answer(desk: Desk) -> None:
    with serving(desk.system, desk.path) as server, Raw(desk.path) as slow:
        trigger = {"type": "Large", "payload": {"size": 5_000_000}}
        slow.send(framed({"id": 1, "verb": "submit", "triggers": [trigger]}))
        assert slow.read()["accepted"]
        server.close_door()
        stopping = threading.Thread(target=server.stop, args=(WAIT_S,))
        stopping.start()
        stopping.join(0.2)
        assert stopping.is_alive(), "the answer is not read yet"
        assert len(slow.read()["result"]) == 5_000_000
        assert slow.read() is None
        stopping.join(WAIT_S)
        assert not stopping.is_alive()


def test_what_has_not_ended_within_the_grace_is_answered_as_the_facade_answers_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "control")
    with serving(desk.system.start(), desk.path), connect(desk.path) as connection:
        submission = connection.submit(Wait())
        desk.gate.await_arrivals()
        desk.system.stop(0)
        with pytest.raises(NotRunning, match="was stopped before this run had ended"):
            submission.result(WAIT_S)
        desk.gate.open()


def test_the_server_goes_without_a_word_about_mute_clients(desk: Desk) -> None:
    said: list[str] = []
    logger.enable("seqtor")
    sink = logger.add(said.append, level="INFO")
    try:
        with serving(desk.system, desk.path):
            clients = [Raw(desk.path, greet=number % 2 == 0) for number in range(10)]
            with connect(desk.path) as connection:
                submission = connection.submit(Wait())
                desk.gate.await_arrivals()
                desk.gate.open()
                assert submission.result(WAIT_S) == "over"
        assert all(client.read() is None for client in clients)
        for client in clients:
            client.close()
    finally:
        logger.remove(sink)
        logger.disable("seqtor")
    assert said == []


def test_a_server_that_is_interrupted_goes_on_and_one_that_is_again_and_again_is_closed(desk: Desk) -> None:
    def fail() -> None:
        raise SystemExit("broken")

    with serving(desk.system, desk.path) as server:
        connection = connect(desk.path)
        server._loop.call_soon_threadsafe(fail)
        assert connection.ask(Deposit(), timeout=WAIT_S) == 1
        waiting = connection.submit(Wait())
        for _ in range(BREAKDOWNS_MAX - 1):
            server._loop.call_soon_threadsafe(fail)
        server._thread.join(WAIT_S)
        assert not server._thread.is_alive()
        assert not desk.path.exists()
        with pytest.raises(OutcomeUnknown):
            waiting.result(WAIT_S)
        with pytest.raises(NotRunning):
            connection.stats()
        desk.gate.open()
        assert desk.system.ask(Deposit(), timeout=WAIT_S) == 2
        connection.close()


def test_a_lost_server_is_an_unknown_outcome_for_who_waits(desk: Desk) -> None:
    with serving(desk.system, desk.path) as server, connect(desk.path) as connection:
        keyed = connection.submit(Wait(), idempotency_key="k")
        bare = connection.submit(Wait())
        server._loop.call_soon_threadsafe(lambda: [each.drop() for each in list(server._connected)])
        with pytest.raises(OutcomeUnknown, match="submit it again under the key 'k'"):
            keyed.result(WAIT_S)
        with pytest.raises(OutcomeUnknown, match="It was accepted, so it is executed"):
            bare.result(WAIT_S)
        again = connection.submit(Wait(), idempotency_key="k")
        assert again.id == keyed.id
        desk.gate.open()
        assert again.result(WAIT_S) == "over"
