"""`connect`: what a program in another process can do and see, and what it is told when that is nothing."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqtor import (
    Aborted,
    AlreadyResubmitted,
    DeadLetterRecord,
    HandlerFailed,
    KeyReused,
    NotRunning,
    OutcomeUnknown,
    Priority,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    UnknownTrigger,
    connect,
)
from seqtor.actors.futures import ReplyFuture
from seqtor.cli.app import app
from seqtor.control import Connection
from seqtor.control.place import Listening
from seqtor.control.values import from_answer
from tests.control_clients import framed
from tests.programs import WAIT_S, Deposit, Gate, Transfer, open_bank


class HoldUp(Trigger[None], name="control.hold-up"):
    """Waits at the gate."""


class FailOnce(Trigger[str], name="control.fail-once"):
    """Fails the first time."""


class WhenOpen(Trigger[datetime.date | None], name="control.when-open"):
    """Promises what JSON has no word for."""


class ModelOfOld(Trigger[str], name="control.versioned", version=2):
    """Its shape has changed."""


class Bank:
    """A bank with a journal, and a connection to it."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.gate = Gate()
        self.failures = 1
        self.system = Supervisor(journal, settings={"threads": 4})
        open_bank(self.system, alice=100)

        @self.system.on(HoldUp, deadline=60)
        def hold_up(trigger: HoldUp, tx: Transaction) -> None:
            self.gate.pass_through()

        @self.system.on(FailOnce)
        def fail_once(trigger: FailOnce, tx: Transaction) -> str:
            self.failures -= 1
            if self.failures >= 0:
                raise RuntimeError("not yet")
            return "done"

        @self.system.on(WhenOpen)
        def when_open(trigger: WhenOpen, tx: Transaction) -> datetime.date | None:
            return datetime.date(2026, 1, 2)

        @self.system.on(ModelOfOld)
        def versioned(trigger: ModelOfOld, tx: Transaction) -> str:
            return "new"

    def command(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, arguments, env={"SEQTOR_JOURNAL": str(self.journal)})
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    bank = Bank(tmp_path / "bank.db")
    with bank.system:
        yield bank
        bank.gate.open()


@pytest.fixture
def connection(bank: Bank) -> Iterator[Connection]:
    with connect(bank.journal, timeout=WAIT_S) as connection:
        yield connection


def test_a_connection_answers_as_the_facade_does(bank: Bank, connection: Connection) -> None:
    assert connection.ask(Deposit(amount=5), timeout=WAIT_S) == 105
    connection.tell(Deposit(amount=5), priority=Priority.HIGH)
    connection.ask(Transfer(source="alice", target="bob", amount=1), timeout=WAIT_S, priority=Priority.LOW)
    event = connection.emit("checked", {"by": "hand"}, idempotency_key="e")
    assert connection.emit("checked", {"by": "hand"}, idempotency_key="e") == event
    bank.system.snapshot(4)
    system = bank.system
    assert connection.stats() == system.stats()
    assert connection.conflicts() == system.conflicts()
    assert connection.tree()["core"] == system.tree()["core"]
    assert [run.seq for run in connection.runs(limit=2)] == [4, 3]
    assert [run.seq for run in connection.runs(trigger=Deposit, state=[State.COMMITTED, "rejected"])] == [2, 1]
    assert connection.record(3).id == system.record(3).id
    assert connection.record(4).id == event
    assert connection.state("accounts", 1) == {
        "seq": 1,
        "stores": {"accounts": {"alice": {"balance": 105}}},
        "unread": [],
    }
    assert [change["value"] for change in connection.history("accounts", "bob")] == [{"balance": 1}]
    assert connection.history("accounts", "nobody") == []


def test_a_result_is_what_the_trigger_promises_also_if_it_is_named(connection: Connection) -> None:
    assert connection.ask(WhenOpen(), timeout=WAIT_S) == datetime.date(2026, 1, 2)
    assert connection.ask("control.when-open", timeout=WAIT_S) == datetime.date(2026, 1, 2)
    [batched] = connection.submit_many([WhenOpen()])
    assert batched.result(WAIT_S) == datetime.date(2026, 1, 2)


def test_a_dead_letter_is_tried_again_and_not_twice(bank: Bank, connection: Connection) -> None:
    with pytest.raises(HandlerFailed) as failed:
        connection.ask(FailOnce(), timeout=WAIT_S)
    assert isinstance(failed.value.__cause__, RuntimeError)
    [letter] = connection.dead_letters()
    assert letter == bank.system.dead_letters()[0]
    assert connection.resubmit(letter).result(WAIT_S) == "done"
    with pytest.raises(AlreadyResubmitted):
        connection.resubmit(letter.id)
    with pytest.raises(LookupError):
        connection.resubmit("nothing")
    listed = bank.command("dead-letters")
    assert "control.fail-once" in listed
    assert "  1 try  " in listed
    assert listed.rstrip().endswith(f"  resubmitted as {connection.dead_letters()[0].resubmitted_as}")
    assert json.loads(bank.command("dead-letters", "--json"))["dead_letters"][0]["id"] == letter.id
    assert letter.id in bank.command("runs", "resubmit", letter.id, code=2)


def test_a_dead_letter_is_tried_again_from_the_command_line(bank: Bank, connection: Connection) -> None:
    with pytest.raises(HandlerFailed):
        connection.ask(FailOnce(), timeout=WAIT_S)
    told = json.loads(bank.command("runs", "resubmit", connection.dead_letters()[0].id, "--json"))
    assert bank.system.snapshot(2).seq == 2
    assert connection.record(2).id == told["run"]


@pytest.mark.parametrize("by_command", [False, True], ids=["connection", "command"])
def test_an_operator_ends_a_run(bank: Bank, connection: Connection, by_command: bool) -> None:
    submission = connection.submit(HoldUp())
    bank.gate.await_arrivals()
    if by_command:
        assert bank.command("runs", "abort", "1", "--reason", "stuck") == "seq 1 ends as aborted: stuck\n"
    else:
        connection.abort(1, "stuck")
    with pytest.raises(Aborted, match="stuck"):
        submission.result(WAIT_S)
    assert (submission.seq, submission.state) == (1, State.ABORTED)
    with pytest.raises(LookupError):
        connection.abort(1, "again")
    with pytest.raises(LookupError):
        connection.abort(99, "too early")
    assert bank.command("runs", "abort", "1", code=2)


def test_the_tree_shows_who_serves_the_socket(bank: Bank, connection: Connection) -> None:
    assert [child.name for child in connection.tree()["control"].children] == ["intake", "queries"]
    assert "control" in bank.command("tree")
    assert json.loads(bank.command("tree", "--json"))["state"] == "running"
    bank.command("stats")
    bank.command("conflicts")


def test_a_key_means_once_here_too(connection: Connection) -> None:
    first = connection.submit(Deposit(amount=5), idempotency_key="k")
    again = connection.submit("Deposit", {"amount": 5}, idempotency_key="k")
    assert (first.result(WAIT_S), again.result(WAIT_S), first.id == again.id) == (105, 105, True)
    with pytest.raises(KeyReused):
        connection.submit(Deposit(amount=6), idempotency_key="k")


def test_a_trigger_is_handed_in_when_it_is_durably_accepted_and_not_before(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable = ReplyFuture()
    monkeypatch.setattr(Submission, "accepted", lambda submission: durable)
    with connect(bank.journal, timeout=0.1) as connection:
        for hand_in in (connection.submit, connection.tell, lambda trigger: connection.emit("x")):
            with pytest.raises(TimeoutError, match="has not said within"):
                hand_in(Deposit())
        durable.set_exception((OutcomeUnknown, OutcomeUnknown("the disk is full"), None))
        with pytest.raises(OutcomeUnknown, match="the disk is full"):
            connection.submit(Deposit())


def test_a_time_out_leaves_the_run_running(bank: Bank, connection: Connection) -> None:
    submission = connection.submit(HoldUp())
    bank.gate.await_arrivals()
    with pytest.raises(TimeoutError, match=r"\(run .+\) has not ended within 0.01 s; it goes on"):
        submission.result(0.01)
    assert not submission.done
    assert "accepted" in repr(submission)
    bank.gate.open()
    assert submission.result(WAIT_S) is None
    assert submission.done


def test_what_the_system_does_not_answer_in_time_is_a_time_out(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    def stuck(*_: Any, **__: Any) -> None:
        gate.pass_through()
        raise LookupError

    monkeypatch.setattr(bank.system, "record", stuck)
    monkeypatch.setattr(bank.system, "submit_many", stuck)
    with connect(bank.journal, timeout=0.2) as connection:
        with pytest.raises(TimeoutError, match=r"has not answered record within 0.2 s"):
            connection.record(1)
        with pytest.raises(TimeoutError, match=r"may still do so: with an idempotency key"):
            connection.submit(Deposit())
        gate.open()


@pytest.mark.parametrize(
    ("submit", "error", "says"),
    [
        (lambda c: c.submit("Deposit", {"amount": "much"}), ValueError, "amount: Input should be a valid integer"),
        (lambda c: c.submit("Depositt"), UnknownTrigger, "did you mean 'Deposit'"),
        (lambda c: c.submit(5), TypeError, "or the name of one, got 5"),
        (lambda c: c.submit("Deposit", "5"), TypeError, "the fields of Deposit are a mapping, .* got '5'"),
        (lambda c: c.submit(Deposit(), {"amount": 1}), TypeError, "has its fields already"),
        (lambda c: c.submit(Deposit(), idempotency_key=""), TypeError, "non-empty string"),
        (lambda c: c.submit_many(Deposit()), TypeError, "takes an iterable"),
        (lambda c: c.submit("Deposit", {"account": "x" * 2**22}), ValueError, "hand it in in smaller parts"),
        (lambda c: c.ask(Deposit(), timeout=-1), Exception, "timeout must be seconds"),
        (lambda c: c.emit(""), TypeError, "non-empty string"),
        (lambda c: c.runs(state="ended"), TypeError, "state is one of"),
        (lambda c: c.runs(limit=None), ValueError, "limit=None: at most 100,000 come"),
        (lambda c: c.dead_letters(limit=100_001), ValueError, "at most 100,000 come"),
        (lambda c: c.state("acounts"), LookupError, "did you mean 'accounts'"),
        (lambda c: c.state(seq=99), LookupError, "there is no seq 99 yet"),
        (lambda c: c.history("acounts", "alice"), LookupError, "did you mean 'accounts'"),
        (lambda c: c.abort(1, ""), TypeError, "takes the reason"),
    ],
)
def test_what_is_refused_says_why_and_leaves_the_connection_usable(
    connection: Connection, submit: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        submit(connection)
    assert connection.stats().current_seq == 0


def test_a_trigger_of_another_shape_is_refused(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.ask(ModelOfOld(), timeout=WAIT_S) == "new"
    assert connection.ask("control.versioned", timeout=WAIT_S) == "new"
    old = {"type": "control.versioned", "version": 1, "payload": {}}
    monkeypatch.setattr("seqtor.control.client.sent_trigger", lambda trigger: old)
    with pytest.raises(ValueError, match="was sent in version 1, and the system that runs has version 2"):
        connection.submit(ModelOfOld())


def test_a_closed_connection_says_so_and_a_forgotten_one_leaves_nothing_behind(bank: Bank) -> None:
    before = set(threading.enumerate())
    connection = connect(bank.journal)
    connection.close()
    connection.close()
    assert "closed" in repr(connection)
    with pytest.raises(NotRunning, match="was closed here"):
        connection.stats()
    forgotten = connect(bank.journal)
    [thread] = set(threading.enumerate()) - before
    submission = forgotten.submit(HoldUp())
    bank.gate.await_arrivals()
    del forgotten
    gc.collect()
    bank.gate.open()
    assert submission.result(WAIT_S) is None, "who waits keeps the connection"
    del submission
    gc.collect()
    thread.join(WAIT_S)
    assert set(threading.enumerate()) <= before


@contextlib.contextmanager
def speaking(path: Path, *words: bytes) -> Iterator[None]:
    """Something else that listens there: says its words, each after it has been sent something, and waits to be left."""
    listening = Listening(path, owned=False)

    def speak() -> None:
        client, _ = listening.socket.accept()
        with client, contextlib.suppress(ConnectionError):  # Left before all was read.
            for word in words:
                client.recv(4096)
                client.sendall(word)
            while client.recv(4096):
                pass

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield
    finally:
        thread.join(WAIT_S)
        listening.withdraw()
        listening.socket.close()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of 1213486160 bytes"),
        (framed({"seqtor": 2}), "speaks version 2 of the protocol, spoken here is 1"),
        (framed(["seqtor"]), "expected a hello"),
        (framed({"seqtor": "1"}), "seqtor: Input should be a valid integer"),
    ],
)
def test_what_is_no_system_of_this_version_is_not_talked_to(tmp_path: Path, word: bytes, says: str) -> None:
    with (
        speaking(tmp_path / "s", word),
        pytest.raises(NotRunning, match=f"is no seqtor system of this version.*{says}"),
    ):
        connect(tmp_path / "s", timeout=WAIT_S)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (b"\0\0\0\x05hello", "expected an answer"),
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (framed({"id": 1, "state": "odd"}), "expected an answer"),
        (framed({"id": None, "error": {"type": "x", "known": "", "message": "go"}}), "has ended the connection: go"),
    ],
)
def test_an_answer_that_is_none_ends_the_connection_with_its_reason(tmp_path: Path, word: bytes, says: str) -> None:
    with (
        speaking(tmp_path / "s", framed({"seqtor": 1}), word),
        connect(tmp_path / "s", timeout=WAIT_S) as connection,
        pytest.raises(NotRunning, match=says),
    ):
        connection.stats()


def test_an_answer_that_nobody_waits_for_any_more_is_let_go(tmp_path: Path) -> None:
    error = {"type": "builtins.LookupError", "known": "LookupError", "message": "no"}
    late = framed({"id": 99, "value": 1}) + framed({"id": 1, "error": error})
    with (
        speaking(tmp_path / "s", framed({"seqtor": 1}), late),
        connect(tmp_path / "s", timeout=WAIT_S) as connection,
        pytest.raises(LookupError, match="no"),
    ):
        connection.record(1)


def test_the_program_may_name_the_socket_for_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'import seqtor\nsystem = seqtor.Supervisor(settings={"control": "elsewhere"})\n'
    (tmp_path / "control_named.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with Supervisor(settings={"control": str(tmp_path / "elsewhere")}):
        for arguments in (["--system", "control_named:system"], ["--journal", "elsewhere"]):
            done = CliRunner().invoke(app, ["stats", "--json", *arguments])
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["current_seq"] == 0
    done = CliRunner().invoke(app, ["stats", "--system", "control_named:system"])
    assert (done.exit_code, done.stderr.partition(":")[2].split(": ")[0]) == (3, " no system listens at 'elsewhere'")


def test_the_socket_of_a_stopped_system_is_named_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "bank.db").touch()
    done = CliRunner().invoke(app, ["stats", "--journal", str(tmp_path / "bank.db")])
    assert done.exit_code == 3
    assert f"no system listens at '{tmp_path / 'bank.db'}-control': the file does not exist" in done.stderr


def test_a_dead_letter_that_looks_like_a_trigger_is_none(bank: Bank) -> None:
    payload = {"type": "Deposit", "version": 1, "payload": {"amount": 1}}
    value = {
        "id": "x",
        "kind": "effect",
        "seq": 1,
        "name": "n",
        "payload": payload,
        "error": "e",
        "attempts": 1,
        "time": 1.0,
    }
    assert from_answer(DeadLetterRecord, value).payload == payload


def test_a_history_that_is_too_long_is_refused(
    bank: Bank, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqtor.control.desk.ROWS_MAX", 3)
    for _ in range(2):
        connection.ask(Deposit(), timeout=WAIT_S)
    assert len(connection.history("accounts", "alice")) == 3
    connection.ask(Deposit(), timeout=WAIT_S)
    with pytest.raises(ValueError, match="has more than 3 changes"):
        connection.history("accounts", "alice")
