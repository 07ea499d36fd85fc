"""What `connect` gives for one trigger: when it runs, whether it runs at all, what it tells, and the wait for its end."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqtor import Cancelled, OutcomeUnknown, Overloaded, State, Submission, Supervisor, Transaction, Trigger, connect
from seqtor.cli.app import app
from seqtor.control import Connection, RemoteSubmission
from tests.control_clients import Raw, serving
from tests.programs import WAIT_S, Deposit, Gate, open_bank

HOUR_S = 3600.0


class Report(Trigger[str], name="control.report"):
    """Tells some values, waits at the gate, tells one more."""

    values: tuple[str, ...] = ()
    last: str = "last"


class Bank:
    """A bank with a journal, and an agent that reports."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.gate = Gate()
        self.system = Supervisor(journal, settings={"threads": 4})
        open_bank(self.system, alice=100)

        @self.system.on(Report, deadline=60)
        def report(trigger: Report, tx: Transaction) -> str:
            for value in trigger.values:
                tx.progress({"said": value})
            self.gate.pass_through()
            tx.progress(trigger.last)
            return "reported"

    @property
    def open(self) -> list[Submission[Any]]:
        """What was accepted and has not ended."""
        running = self.system._running
        assert running is not None
        return list(running.intake.open)

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


@contextmanager
def served(bank: Bank, path: Path, **limits: int) -> Iterator[Connection]:
    """A connection to a server with limits of the test's own."""
    with serving(bank.system, path, **limits), connect(path, timeout=WAIT_S) as connection:
        yield connection


def in_an_hour() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)


# When it runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hand_in",
    [
        lambda connection, **when: connection.submit(Deposit(), **when),
        lambda connection, **when: connection.submit("Deposit", {"amount": 1}, idempotency_key="later", **when),
        lambda connection, **when: connection.submit_many([Deposit()], **when),
        lambda connection, **when: connection.tell(Deposit(), **when),
    ],
    ids=["submit", "submit under a key", "submit_many", "tell"],
)
def test_what_is_delayed_is_accepted_at_once_and_waits_for_its_time(
    bank: Bank, connection: Connection, hand_in: Callable[..., Any]
) -> None:
    moment = in_an_hour()
    hand_in(connection, at=moment)
    [submission] = bank.open
    assert submission.due == moment.timestamp()
    assert submission.cancel()
    hand_in(connection, delay=datetime.timedelta(hours=1))
    [submission] = bank.open
    assert submission.due == submission.submitted_at + HOUR_S
    assert connection.stats().delayed == 1
    assert submission.cancel()


def test_a_moment_that_has_passed_is_now(connection: Connection) -> None:
    long_ago = datetime.datetime(1955, 1, 1, tzinfo=datetime.UTC)
    assert connection.submit(Deposit(amount=5), at=long_ago).result(WAIT_S) == 105
    assert connection.submit(Deposit(amount=5), delay=0).result(WAIT_S) == 110


@pytest.mark.parametrize(
    ("when", "error", "says"),
    [
        ({"delay": -1}, ValueError, "delay must be 0 seconds or more"),
        ({"delay": "soon"}, TypeError, "delay is seconds"),
        ({"at": datetime.datetime(2026, 1, 1)}, ValueError, "has no time zone"),  # noqa: DTZ001
        ({"at": 5}, TypeError, "at is a moment, an aware datetime"),
        ({"delay": 1, "at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}, TypeError, "give one of them"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused_as_the_facade_refuses_it(
    connection: Connection, when: dict[str, Any], error: type[Exception], says: str
) -> None:
    for hand_in in (
        connection.submit,
        connection.tell,
        lambda trigger, **when: connection.submit_many([trigger], **when),
    ):
        with pytest.raises(error, match=says):
            hand_in(Deposit(), **when)
    assert connection.stats().queued == connection.stats().delayed == 0


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({"delay": -1}, "submit.delay: Input should be greater than or equal to 0"),
        ({"delay": "1"}, "submit.delay: Input should be a valid number"),
        ({"at": 1e300}, "submit.at: Input should be less than or equal to 253402300799"),
        ({"delay": 1, "at": 1}, "give one of them"),
    ],
)
def test_a_time_that_another_program_sends_is_looked_at_too(bank: Bank, when: dict[str, Any], says: str) -> None:
    with Raw(bank.system.control) as raw:
        answer = raw.ask(verb="submit", triggers=[{"type": "Deposit"}], **when)
    assert says in answer["error"]["message"]


def test_the_command_line_hands_in_for_later(bank: Bank) -> None:
    run = bank.command("submit", "Deposit", "--delay", "3600", "--no-wait").strip()
    [submission] = bank.open
    assert (submission.id, submission.due) == (run, submission.submitted_at + HOUR_S)
    assert submission.cancel()
    bank.command("submit", "Deposit", "--at", "2999-01-01T01:00+01:00", "--no-wait")
    [submission] = bank.open
    assert submission.due == datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert submission.cancel()
    assert bank.command("submit", "Deposit", "--at", "1999-01-01T01:00Z").strip() == "101"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--at", "tomorrow"], "--at is a moment, such as 2026-03-01T18:30+01:00"),
        (["--at", "2026-03-01T18:30"], "--at is a moment with its offset from UTC"),
        (["--delay", "1", "--at", "2026-03-01T18:30Z"], "give one of them"),
        (["--delay=-1"], "delay must be 0 seconds or more"),
    ],
)
def test_the_command_line_says_which_times_it_takes(bank: Bank, options: list[str], says: str) -> None:
    assert says in bank.command("submit", "Deposit", *options, code=2)


# Whether it runs -----------------------------------------------------------------------------------------------------


def test_what_is_cancelled_never_runs_and_its_key_is_free(bank: Bank, connection: Connection) -> None:
    first, second = connection.submit_many([Deposit(), Deposit(amount=2)], delay=HOUR_S)
    keyed = connection.submit(Deposit(), idempotency_key="k", delay=HOUR_S)
    assert second.cancel()
    with pytest.raises(Cancelled):
        second.result(WAIT_S)
    assert (second.state, second.seq) == (State.CANCELLED, None)
    assert second.cancel(), "as the facade says of one that was"
    assert keyed.cancel()
    assert connection.ask(Deposit(amount=7), idempotency_key="k", timeout=WAIT_S) == 107
    assert bank.open == [bank.open[0]]
    assert bank.open[0].id == first.id
    assert first.cancel()


def test_what_has_a_seq_cannot_be_cancelled(bank: Bank, connection: Connection) -> None:
    running = connection.submit(Report())
    bank.gate.await_arrivals()
    assert not running.cancel()
    bank.gate.open()
    assert running.result(WAIT_S) == "reported"
    assert not running.cancel()


def test_a_cancel_that_comes_behind_the_end_is_told_so(bank: Bank) -> None:
    with Raw(bank.system.control) as raw:
        assert raw.ask(verb="submit", triggers=[{"type": "Deposit"}])["accepted"]
        assert raw.read()["result"] == 101
        assert not raw.ask(verb="cancel", of=1, index=0)["value"]
        assert raw.ask(verb="cancel", of=99) == {"id": 1, "value": None}


def test_one_client_cannot_cancel_what_another_has_handed_in(bank: Bank, connection: Connection) -> None:
    connection.submit(Deposit(), delay=HOUR_S)
    with Raw(bank.system.control) as other:
        for number in range(20):
            assert other.ask(verb="cancel", of=number)["value"] is None
    [submission] = bank.open
    assert submission.cancel()


def test_a_cancel_without_an_answer_is_an_unknown_outcome_or_a_time_out(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(bank.journal, timeout=0.1) as connection:
        delayed = connection.submit(Deposit(), delay=HOUR_S)
        monkeypatch.setattr(Submission, "cancel", lambda _: bank.gate.pass_through())
        with pytest.raises(TimeoutError, match=r"has not said within 0\.1 s whether Deposit \(run .+\) was cancelled"):
            delayed.cancel()
    with pytest.raises(OutcomeUnknown, match="the connection was closed"):
        delayed.result(WAIT_S)
    assert not delayed.cancel()
    monkeypatch.undo()
    bank.gate.open()
    [submission] = bank.open
    assert submission.cancel()


# The wait for its end ------------------------------------------------------------------------------------------------


def test_remote_submissions_are_awaited_side_by_side(bank: Bank, connection: Connection) -> None:
    async def wait() -> list[Any]:
        held, *others = connection.submit_many([Report(), *[Deposit() for _ in range(20)]])
        awaited = asyncio.ensure_future(_awaited(held))
        others_awaited = [asyncio.ensure_future(_awaited(other)) for other in others]
        await asyncio.to_thread(bank.gate.await_arrivals)
        assert not any(each.done() for each in [awaited, *others_awaited])
        bank.gate.open()
        return await asyncio.gather(awaited, *others_awaited)

    assert asyncio.run(wait()) == ["reported", *range(101, 121)]


def test_an_await_that_is_cancelled_leaves_the_run_and_an_error_is_raised_there(
    bank: Bank, connection: Connection
) -> None:
    async def wait() -> None:
        held = connection.submit(Report())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await held
        bank.gate.open()
        assert await held == "reported"
        assert await held == "reported", "it has ended already"
        delayed = connection.submit(Deposit(), delay=HOUR_S)
        awaited = asyncio.ensure_future(_awaited(delayed))
        await asyncio.to_thread(delayed.cancel)
        with pytest.raises(Cancelled):
            await awaited

    asyncio.run(wait())


def test_what_submit_has_returned_is_accepted(connection: Connection) -> None:
    async def wait() -> None:
        submission = connection.submit(Deposit())
        await submission.accepted()
        submission.accepted().get(timeout=0)

    asyncio.run(wait())


# What it tells -------------------------------------------------------------------------------------------------------


def test_progress_comes_while_the_run_goes_on_and_ends_with_it(bank: Bank, connection: Connection) -> None:
    async def listen() -> tuple[list[Any], list[Any]]:
        submission = connection.submit(Report(values=("begun", "half")))
        await asyncio.to_thread(bank.gate.await_arrivals)
        told = submission.progress()
        late = [await anext(told)]
        bank.gate.open()
        return late, [value async for value in told]

    assert asyncio.run(listen()) == ([{"said": "half"}], ["last"])


def test_who_listens_to_what_has_ended_or_is_lost_hears_nothing(bank: Bank, connection: Connection) -> None:
    async def listen(submission: RemoteSubmission[Any]) -> list[Any]:
        return [value async for value in submission.progress()]

    ended = connection.submit(Deposit())
    ended.result(WAIT_S)
    assert asyncio.run(listen(ended)) == []

    async def lose() -> None:
        submission = connection.submit(Report(values=("begun",)))
        await asyncio.to_thread(bank.gate.await_arrivals)
        told = submission.progress()
        assert await anext(told) == {"said": "begun"}
        next_one = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        connection.close()
        with pytest.raises(StopAsyncIteration):
            await next_one
        assert await listen(submission) == []

    asyncio.run(lose())


def test_a_client_that_goes_is_told_nothing_more(bank: Bank) -> None:
    with Raw(bank.system.control) as raw:
        raw.ask(verb="submit", triggers=[{"type": "control.report", "payload": {"values": ["begun"]}}])
        assert raw.ask(id=2, verb="progress", of=1)["progress"] == [{"said": "begun"}]
        [submission] = bank.open
        assert len(submission._progress_of_all._listeners) == 1
    with connect(bank.journal, timeout=WAIT_S) as connection:
        while (
            submission._progress_of_all._listeners
        ):  # Until the server has seen it; each turn is an answer of its loop.
            connection.stats()
    bank.gate.open()


def test_a_value_that_cannot_be_sent_ends_the_listening_with_its_reason(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.db")
    with bank.system, served(bank, tmp_path / "control", answer_bytes_max=2000) as connection:
        submission = connection.submit(Report(values=("x" * 3000,)))
        bank.gate.await_arrivals()

        async def listen() -> None:
            told = submission.progress()
            with pytest.raises(ValueError, match="allowed are 2000"):
                await anext(told)
            with pytest.raises(StopAsyncIteration):
                await anext(told)

        asyncio.run(listen())
        with Raw(connection.path) as raw:
            raw.ask(verb="submit", triggers=[{"type": "control.report", "payload": {"values": ["x" * 3000]}}])
            bank.gate.await_arrivals()
            assert "allowed are 2000" in raw.ask(id=2, verb="progress", of=1)["error"]["message"]
            bank.gate.open()
            assert raw.read()["result"] == "reported", "nothing more is told"
        assert submission.result(WAIT_S) == "reported"


def test_more_listeners_than_a_connection_may_have_are_refused(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.db")
    with bank.system, served(bank, tmp_path / "control", requests_max=2) as connection:
        submission = connection.submit(Report(values=("begun",)))
        bank.gate.await_arrivals()

        async def listen() -> None:
            first, second = submission.progress(), submission.progress()
            assert await anext(first) == {"said": "begun"}
            with pytest.raises(Overloaded, match="are under way, allowed are 2"):
                await anext(second)
            bank.gate.open()
            assert [value async for value in first] == ["last"]

        asyncio.run(listen())


# What was ------------------------------------------------------------------------------------------------------------


def test_the_records_of_commits_come_as_the_facade_gives_them(bank: Bank, connection: Connection) -> None:
    bank.gate.open()
    for amount in (1, 2, 3):
        connection.ask(Deposit(amount=amount), timeout=WAIT_S)
    connection.ask(Report(), timeout=WAIT_S)
    system = bank.system
    assert connection.commits() == list(system.commits())
    assert [record.seq for record in connection.commits(1, 2)] == [4, 3]
    assert [record.seq for record in connection.commits(1, 2, oldest_first=True)] == [2, 3]
    with pytest.raises(ValueError, match="at most 100,000 come through the control socket"):
        connection.commits(limit=None)
    with pytest.raises(TypeError, match="commits\\(\\) takes the seq after which to begin"):
        connection.commits(-1)
    assert json.loads(connection.commits()[0].model_dump_json())["result"] == "reported"


async def _awaited(submission: RemoteSubmission[Any]) -> Any:
    return await submission
