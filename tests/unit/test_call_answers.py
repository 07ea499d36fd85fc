"""What comes back of a call: answers as their annotations say, exceptions as they were raised."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import json
import math
import uuid
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    HandlerFailed,
    RecordedFailure,
    Rejected,
    current_call_id,
)
from seqtor.actors.answers import answered, failed, identify, value_of_call
from seqtor.actors.journal.decoding import error_of
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.records import RecordedCall
from tests.call_programs import (
    Act,
    Aliased,
    Pair,
    Place,
    Plain,
    Quote,
    Side,
    acting,
    acting_async,
    cause_of,
    plain,
)
from tests.ids import shown
from tests.programs import simulated, threaded

# Answers --------------------------------------------------------------------------------------------------------------

Anything = Any


def kept_and_back(annotation: Any, answer: Any) -> Any:
    """The answer as it is recorded and written, and as a handler gets it from there."""

    def function() -> Any: ...

    function.__annotations__["return"] = annotation
    call = identify(function, (), {})
    kept = answered("id", call, answer)
    written = RecordedCall.model_validate_json(kept.model_dump_json(exclude_defaults=True))
    assert written == kept
    return value_of_call(written, call)


@pytest.mark.parametrize(
    ("annotation", "answer"),
    [
        (None, None),
        (int, 5),
        (int, 2**100),
        (bool, True),
        (str, 'ä "quoted"\n'),
        (float, 0.1),
        (float, math.inf),
        (float, 5.0),
        (bytes, b"\xff\x00\xfe"),
        (dict[str, bytes], {"a": b"\xff"}),
        (list[Quote], [Quote(symbol="A", price=1.5, tags=frozenset({"x", "y"}))]),
        (Quote | None, None),
        (Quote | None, Quote(symbol="A")),
        (Place, Place(1, b"text")),
        (Pair, Pair(1, "x")),
        (Side, Side.SELL),
        (set[int], {1, 2, 3}),
        (tuple[int, str], (1, "x")),
        (dict[int, str], {1: "x"}),
        (datetime.datetime, datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)),
        (datetime.timedelta, datetime.timedelta(seconds=1.5)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (uuid.UUID, uuid.UUID(int=7)),
        (Path, Path("a/b")),
        (Aliased, Aliased(value=3)),
        (Anything, {"a": [1, 2.5, None, "x", True]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_answer_comes_back_as_what_the_function_is_annotated_to_return(annotation: Any, answer: Any) -> None:
    found = kept_and_back(annotation, answer)
    assert found == answer
    assert type(found) is type(answer)


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(kept_and_back(float, math.nan))


def test_an_answer_without_an_annotation_is_plain_json() -> None:
    assert kept_and_back(Any, Quote(symbol="A")) == {"symbol": "A", "price": 0.0, "tags": []}
    assert kept_and_back(Any, (1, {2})) == [1, [2]]
    assert kept_and_back("NoSuchName", Place(1)) == {"row": 1, "raw": ""}


def test_an_answer_is_made_to_fit_its_annotation_or_refused() -> None:
    assert kept_and_back(Quote, {"symbol": "A"}) == Quote(symbol="A")
    assert type(kept_and_back(float, 5)) is float
    with pytest.raises(
        TypeError, match="does not fit what the function is annotated to return: Input should be a valid in"
    ):
        kept_and_back(int, "five")


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("answer", [object(), {"a": plain}, iter([1]), deep(300), "\udc80", [1, "\ud800"]], ids=shown)
def test_an_answer_that_cannot_be_kept_is_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"returned a .* that cannot be serialised .* return plain values"):
        kept_and_back(Any, answer)


def test_an_answer_of_any_depth_that_is_taken_can_be_read_from_inside_its_record() -> None:
    taken = 0
    for levels in range(150, 260):
        with contextlib.suppress(TypeError):
            assert kept_and_back(Any, deep(levels)) == deep(levels)
            taken += 1
    assert taken > 20


def test_nobody_shares_an_answer() -> None:
    call = identify(plain, (), {})
    answer = {"list": [1]}
    kept = answered("id", call, answer)
    first = value_of_call(kept, call)
    first["list"].append(2)
    answer["list"].append(3)
    assert value_of_call(kept, call) == {"list": [1]}


# Exceptions -----------------------------------------------------------------------------------------------------------


class Odd(Exception):
    """Cannot be made again from what it keeps."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one}{two}")


class Silent(Exception):
    """Says nothing of itself."""

    def __str__(self) -> str:
        raise ValueError("no text")


def raised_again(error: Exception) -> BaseException:
    kept = failed("id", identify(plain, (), {}), error)
    written = RecordedCall.model_validate_json(kept.model_dump_json(exclude_defaults=True))
    assert written == kept
    assert written.error is not None
    return error_of(written.error)


def os_error(kind: type[OSError], *args: Any) -> OSError:
    return kind(*args)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("x"),
        TimeoutError(),
        Plain("a", 1),
        FileNotFoundError(2, "No such file", "a/b"),
        ConnectionRefusedError(111, "refused"),
        json.JSONDecodeError("bad", "{]", 1),
        Rejected("no", "sold_out", left=3),
    ],
    ids=repr,
)
def test_an_exception_is_made_again_with_its_class_arguments_and_text(error: Exception) -> None:
    found = raised_again(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)


@pytest.mark.parametrize("error", [Odd(1, 2), Silent(), ValueError("\udc80")], ids=["arguments", "text", "unicode"])
def test_an_exception_that_cannot_be_made_again_is_a_recorded_failure(error: Exception) -> None:
    found = raised_again(error)
    if type(error) is ValueError:
        assert (type(found), found.args) == (RecordedFailure, ("builtins.ValueError: \\udc80",))
    else:
        assert type(found) is RecordedFailure
        assert found.kind == f"{__name__}.{type(error).__name__}"


def refuses() -> None:
    raise Plain("told no")


@pytest.mark.parametrize("make", [simulated, threaded])
def test_the_attempt_that_made_the_call_sees_where_it_failed(make: Any) -> None:
    cause = cause_of(acting(make(), lambda tx: tx.call(refuses)))
    assert (type(cause), str(cause)) == (Plain, "told no")
    original = cause.__cause__
    assert type(original) is Plain
    assert original.__traceback__ is not None
    assert original.__traceback__.tb_frame.f_code is refuses.__code__


def test_a_rejection_by_the_function_rejects_the_run() -> None:
    def sold_out() -> None:
        raise Rejected("sold out", left=0)

    with acting(simulated(), lambda tx: tx.call(sold_out)) as system, pytest.raises(Rejected) as caught:
        system.ask(Act())
    assert (caught.value.message, caught.value.details) == ("sold out", {"left": 0})


class Abrupt(BaseException):
    """No Exception: nothing that a function answers."""


def test_what_is_no_exception_passes_and_is_not_recorded() -> None:
    made: list[str] = []

    def leaves() -> None:
        made.append(current_call_id())
        raise Abrupt

    async def leaves_async() -> None:
        await asyncio.sleep(0)
        leaves()

    for make in (acting, acting_async):
        backend = MemoryBackend()
        verb = "call" if make is acting else "acall"
        function: Any = leaves if make is acting else leaves_async
        with make(simulated(journal=backend), lambda tx, v=verb, f=function: getattr(tx, v)(f)) as system:  # type: ignore[misc]
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Act())
            assert type(caught.value.__cause__) is Abrupt
            assert system.verify().executed == 1
        backend.open(write=False)
        assert [row.body for row in backend.entries(1, 9) if row.kind == "call" and '"call"' in row.body] == []
    assert len(made) == 2
