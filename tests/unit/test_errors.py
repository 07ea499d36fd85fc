"""The errors of the public surface: one base, stable codes, and what each carries."""

from __future__ import annotations

import datetime
import inspect
from typing import Any

import pytest

import seqtor
from seqtor import HandlerFailed, Overloaded, Rejected, SeqtorError, StoreUnavailable

CODES = {
    "Aborted": "aborted",
    "Cancelled": "cancelled",
    "DeadlineExceeded": "deadline_exceeded",
    "HandlerFailed": "handler_failed",
    "NotRunning": "not_running",
    "OutcomeUnknown": "outcome_unknown",
    "Overloaded": "overloaded",
    "RegistrationError": "registration",
    "Rejected": "rejected",
    "SeqtorError": "seqtor",
    "StoreUnavailable": "store_unavailable",
    "UnknownTrigger": "unknown_trigger",
    "UseTransaction": "use_transaction",
    "WouldDeadlock": "would_deadlock",
}


def exported_errors() -> dict[str, type[BaseException]]:
    exported = {name: getattr(seqtor, name) for name in seqtor.__all__}
    return {name: kind for name, kind in exported.items() if inspect.isclass(kind) and issubclass(kind, BaseException)}


def test_every_exported_error_derives_from_one_base() -> None:
    assert all(issubclass(kind, SeqtorError) for kind in exported_errors().values())


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_codes_are_stable(name: str, code: str) -> None:
    assert getattr(seqtor, name).code == code


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in exported_errors().values()]  # type: ignore[attr-defined]
    assert len(codes) == len(set(codes))


def test_a_rejection_carries_details_for_programs_and_a_text_for_people() -> None:
    rejected = Rejected("insufficient funds", "funds", balance=3, limit=None)
    assert (rejected.message, rejected.code, rejected.details) == (
        "insufficient funds", "funds", {"balance": 3, "limit": None},
    )  # fmt: skip
    assert str(rejected) == "insufficient funds (balance=3, limit=None)"
    assert (str(Rejected()), Rejected("no").code, Rejected("no").details) == ("rejected", "rejected", {})


def test_a_copy_of_a_rejection_is_equal_in_all_but_its_traceback() -> None:
    class Short(Rejected):
        def __init__(self, missing: int) -> None:
            super().__init__(f"{missing} missing", "short", missing=missing)
            self.missing = missing

    original = Short(2)
    copy = original.copy()
    assert type(copy) is Short
    assert (copy.code, copy.details, str(copy), copy.args) == (
        "short",
        {"missing": 2},
        "2 missing (missing=2)",
        original.args,
    )
    assert isinstance(copy, Short)
    assert copy.missing == 2


def test_what_errors_carry() -> None:
    assert Overloaded("full", 1.5).retry_after == 1.5
    assert StoreUnavailable().retry_after == 1.0
    assert StoreUnavailable("away", datetime.timedelta(minutes=1)).retry_after == 60.0
    cause = ValueError("wrong")
    failed = HandlerFailed("Transfer", 7, 2, cause)
    assert (failed.trigger, failed.seq, failed.attempts, failed.__cause__) == ("Transfer", 7, 2, cause)
    assert str(failed) == "Transfer at seq 7 failed in attempt 2: ValueError: wrong; nothing was written"


@pytest.mark.parametrize("retry_after", [-1, float("nan"), float("inf"), datetime.timedelta(seconds=-1)])
def test_the_wait_for_a_store_is_a_duration(retry_after: Any) -> None:
    with pytest.raises(ValueError, match="retry_after must be seconds"):
        StoreUnavailable("away", retry_after)
