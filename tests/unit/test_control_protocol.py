"""Frames, requests, answers and errors of the control socket: whatever comes in, only what fits gets through."""

from __future__ import annotations

import contextlib
import datetime
import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import seqtor
from seqtor import Rejected, Trigger
from seqtor.control import protocol
from seqtor.control.failures import remade, remote_error
from seqtor.control.protocol import (
    Answer,
    ProtocolError,
    RemoteError,
    answer_of,
    frame,
    frame_length,
    hello_of,
    request_of,
)
from seqtor.control.values import as_json, from_answer, result_adapter, sent_trigger, trigger_of
from seqtor.messages.errors import HandlerFailed, JournalCorrupted, RecordedFailure, ReplayDiverged, StoreUnavailable
from seqtor.messages.runs import AttemptConflict, ConflictReport, HotKey, Pair, RunRecord, State, Stats
from seqtor.messages.triggers import UnregisteredTrigger
from tests.programs import Deposit

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Moved(Trigger[int], name="control.moved"):
    """A trigger that no other test has."""

    amount: int = 0


class PoorTooLong(Rejected):
    """A rejection of the program's own."""


class OwnFailure(Exception):
    """What a handler may raise; it cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


# Frames and requests -------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@example(b"{" * 100_000)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"id": 1, "verb": "submit", "triggers": [{"type": "D", "payload": ' + b"[" * 150 + b"]" * 150 + b"}]}")
@example(b"\xff\xfe")
@example(b'"\\ud800"')
@example(b"1e999999")
@example(b"")
def test_any_bytes_are_a_request_or_are_refused(body: bytes) -> None:
    for read in (request_of, hello_of, answer_of):
        with contextlib.suppress(ProtocolError):  # Everything else is a failure of this test.
            read(body)


@given(
    st.dictionaries(
        st.sampled_from(["id", "verb", "triggers", "wait", "seq", "key", "limit", "state", "store", "code"])
        | st.text(),
        json_values | st.sampled_from(["submit", "runs", "record", "stats", "history", "emit"]),
    )
)
def test_any_object_is_a_request_or_says_what_is_wrong_with_it(value: dict[str, Any]) -> None:
    found = request_of(json.dumps(value).encode())
    if isinstance(found, tuple):
        number, wrong = found
        assert number is None or number == value["id"]
        assert wrong


@given(json_values)
def test_a_frame_holds_what_was_put_into_it(value: Any) -> None:
    made = frame(value)
    assert frame_length(made[:4], 2**20) == len(made) - 4
    assert json.loads(made[4:]) == value


def test_a_frame_that_is_longer_than_allowed_is_refused_before_it_is_read() -> None:
    assert frame_length(struct.pack(">I", 100), 100) == 100
    with pytest.raises(ProtocolError, match="101 bytes, allowed are 100"):
        frame_length(struct.pack(">I", 101), 100)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"id": 1, "verb": "stats", "more": 1}, "more: Extra inputs"),
        ({"id": 1, "verb": "record", "seq": "1"}, "seq: Input should be a valid integer"),
        ({"id": 1, "verb": "submit", "triggers": [], "priority": 9}, "priority: Input should be less than"),
        ({"id": 1, "verb": "explode"}, "does not match any of the expected tags"),
        ({"id": 1}, "verb"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_request_is_said(request_: dict[str, Any], says: str) -> None:
    found = request_of(json.dumps(request_).encode())
    assert isinstance(found, tuple)
    assert found[0] == 1
    assert says in found[1]


def test_what_a_later_version_adds_to_an_answer_is_ignored() -> None:
    assert answer_of(b'{"id": 1, "value": 2, "new": 3}') == Answer(id=1, value=2)
    assert hello_of(b'{"seqtor": 1, "new": 3}') == protocol.PROTOCOL


# Errors --------------------------------------------------------------------------------------------------------------


def sent(error: BaseException) -> BaseException:
    """The error as it comes out at the other end."""
    return remade(RemoteError.model_validate_json(remote_error(error).model_dump_json()))


@pytest.mark.parametrize(
    "error",
    [
        seqtor.NotRunning("the system is stopped"),
        seqtor.Overloaded("100 wait", 0.5),
        seqtor.KeyReused("another payload"),
        seqtor.UnknownTrigger("no Depsit"),
        seqtor.RegistrationError("no"),
        seqtor.DeadlineExceeded("too long"),
        seqtor.OutcomeUnknown("who knows"),
        seqtor.Aborted("by an operator"),
        JournalCorrupted("seq 7 is torn", seq=7, store="accounts"),
        StoreUnavailable("away", 2.5),
        ReplayDiverged("another result", 7, "deposit", 1, 2),
        Rejected("too little", balance=5, of="alice"),
        Rejected("too little", "own.code", balance=5),
        PoorTooLong("for years", years=3),
        LookupError("no seq 99"),
        KeyError("no seq 99"),
        ValueError("amount: no"),
        TypeError("got 3"),
        TimeoutError("5 s"),
    ],
    ids=repr,
)
def test_an_error_comes_out_as_it_went_in(error: BaseException) -> None:
    found = sent(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert {**vars(found), "code": None} == {**vars(error), "code": None}
    assert getattr(found, "code", None) == getattr(error, "code", None)


def test_the_cause_of_a_failure_comes_with_it() -> None:
    found = sent(HandlerFailed("Deposit", 7, 2, ZeroDivisionError("division by zero")))
    assert isinstance(found, HandlerFailed)
    assert (found.trigger, found.seq, found.attempts) == ("Deposit", 7, 2)
    assert "Deposit at seq 7 failed in attempt 2" in str(found)
    assert isinstance(found.__cause__, ZeroDivisionError)


def test_an_error_that_cannot_be_made_again_is_named() -> None:
    found = sent(OwnFailure(1, 2))
    assert isinstance(found, RecordedFailure)
    assert found.kind.endswith(".OwnFailure")
    assert found.message == "1 and 2"


def test_an_error_of_a_class_that_is_not_known_here_is_the_nearest_that_is() -> None:
    unknown = remote_error(PoorTooLong("for years", years=3)).model_copy(update={"type": "elsewhere.PoorTooLong"})
    found = remade(unknown)
    assert type(found) is Rejected
    assert (found.message, found.details, found.code) == ("for years", {"years": 3}, "rejected")
    strange = remote_error(KeyError("x")).model_copy(update={"type": "elsewhere.Missing"})
    assert type(remade(strange)) is LookupError


# Values --------------------------------------------------------------------------------------------------------------


def test_records_come_out_as_they_went_in() -> None:
    run = RunRecord(
        seq=7, id="a-1-7", trigger=Moved(amount=5), state=State.REJECTED, attempts=2,
        error="no", conflicts=(AttemptConflict(1, "accounts", "alice", 6), AttemptConflict(2, "accounts", "", None)),
        blocked_by=None, caused_by=("a-1-6",), causes=(), durable=True, submitted_at=1.5, sequenced_at=2.5,
        committed_at=None, handler_s=0.25,
    )  # fmt: skip
    stats = Stats(
        current_seq=1, next_commit_seq=2, committed_through=1, durable_through=1, effects_through=1, queued=0, in_flight=0,
        pending_commits=0, head_age=None, state_counts={State.COMMITTED: 1}, conflicts=0, restarts=0,
    )  # fmt: skip
    report = ConflictReport(2, 5, 1, (HotKey("accounts", "alice", 2),), (Pair("Deposit", "Deposit", 2),))
    for value in (run, stats, report):
        kind: Any = type(value)
        assert from_answer(kind, json.loads(json.dumps(as_json(value)))) == value


def test_a_record_of_another_version_is_understood_as_far_as_it_goes() -> None:
    assert from_answer(HotKey, {"store": "s", "key": "k", "conflicts": 1, "new": 2}) == HotKey("s", "k", 1)


def test_a_trigger_whose_class_is_not_imported_here_is_shown_as_it_was_sent() -> None:
    found = trigger_of({"type": "Nobody", "version": 3, "payload": {"a": 1}})
    assert found == UnregisteredTrigger(type="Nobody", version=3, payload_json='{"a":1}')
    misfit = trigger_of({"type": "control.moved", "version": 1, "payload": {"amount": "much"}})
    assert isinstance(misfit, UnregisteredTrigger)
    assert trigger_of(sent_trigger(Moved(amount=5))) == Moved(amount=5)
    assert sent_trigger(found) == {"type": "Nobody", "version": 3, "payload": {"a": 1}}


class When(Trigger[datetime.datetime | None]):
    """Promises what JSON has no word for."""


class Longer(When):
    """Promises the same."""


class Silent(Trigger):
    """Promises nothing."""


class Own(Trigger):
    """Says it in its own method."""

    def execute(self, tx: Any) -> frozenset[int]:
        return frozenset({1})


@pytest.mark.parametrize(
    ("kind", "kept", "expected"),
    [
        (When, "2026-01-02T03:04:05Z", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
        (When, None, None),
        (Longer, "2026-01-02T03:04:05Z", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
        (Silent, [1], [1]),
        (Own, [1], frozenset({1})),
        (Deposit, 5, 5),
        (None, {"a": 1}, {"a": 1}),
    ],
)
def test_a_result_is_of_the_type_that_the_trigger_promises(kind: Any, kept: Any, expected: Any) -> None:
    assert result_adapter(kind).validate_json(json.dumps(kept)) == expected


def test_what_a_trigger_promises_changes_nothing_else_about_it() -> None:
    assert When.__mro__[1] is Trigger
    promise: Any = Trigger[int]
    other: Any = Trigger[str]
    assert isinstance(Deposit(), promise)
    assert issubclass(Deposit, promise)
    assert Deposit.result_type() is int
    assert promise == Trigger[int]
    assert promise != other
