"""Exceptions cross between processes as themselves: class, text, arguments, cause; whatever pickle makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, model_validator

from seqtor import Overloaded, RecordedFailure, Rejected
from seqtor.actors.journal.encoding import error_record
from seqtor.actors.processes.wire import packed, unpacked
from tests.process_programs import Awkward


class Bounded(BaseModel):
    n: int = Field(le=10)

    @model_validator(mode="after")
    def refuse_three(self) -> Bounded:
        """A text of the program's own."""
        if self.n == 3:
            raise ValueError("three")
        return self


class Silent(Exception):
    """Neither its text nor its arguments can be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Sealed(Exception):
    """A class of which, once it is closed, no further one can be derived."""

    closed = False

    def __init_subclass__(cls) -> None:
        if cls.closed:
            raise TypeError("no more of it")


class Holding(Exception):
    """Holds what pickle does not take, as an argument and as an attribute."""

    def __init__(self, held: Any) -> None:
        super().__init__("held", held)
        self.held = held
        self.number = 3


def raised(make: Any) -> BaseException:
    try:
        made = make()
        raise made
    except BaseException as error:
        return error


def crossed(error: BaseException) -> BaseException:
    return unpacked(packed(error))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("bad", 3),
        lambda: KeyError("k"),
        lambda: OSError(2, "no such file", "name"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        lambda: SystemExit(3),
        lambda: Rejected("no", code="full", left=3),
        lambda: Overloaded("later", 2.5),
        lambda: Awkward(7, hint="a hint"),
        lambda: Bounded(n=11),
        lambda: Bounded(n=3),
        lambda: Bounded.model_validate_json("{"),
        lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    ],
)
def test_it_is_the_same_and_the_journal_keeps_the_same_of_it(make: Any) -> None:
    error = raised(make)
    again = crossed(error)
    assert (type(again), str(again), repr(again.args)) == (type(error), str(error), repr(error.args))
    assert error_record(again) == error_record(error)
    for name in ("code", "hint", "details", "retry_after", "errno", "filename"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_causes_and_contexts_cross_and_the_traceback_is_a_note_where_it_is_wanted() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as outer:
        kept = packed(outer)
    again = unpacked(kept, noted=True)
    assert repr(again.__cause__) == "KeyError('inner')"
    assert again.__suppress_context__
    assert "test_packed_errors.py" in again.__notes__[0]
    assert not hasattr(unpacked(kept), "__notes__")


def test_what_pickle_does_not_take_is_left_out() -> None:
    again: Any = crossed(Holding(lambda: 1))
    assert type(again) is Holding
    assert (again.number, hasattr(again, "held"), again.args[0]) == (3, False, "held")


def test_a_class_that_cannot_be_imported_has_one_of_its_name_that_stands_for_it() -> None:
    class Local(Awkward):
        pass

    error = raised(lambda: Local(7, hint="a hint"))
    again: Any = crossed(error)
    assert isinstance(again, Awkward)
    assert (type(again).__qualname__, type(again).__module__) == (Local.__qualname__, Local.__module__)
    assert (again.args, again.code, again.hint) == (("7: a hint",), 7, "a hint")
    assert type(crossed(error)) is type(again)
    assert error_record(again) == error_record(error)


def test_a_class_for_which_none_can_stand_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Sealed):
        pass

    monkeypatch.setattr(Sealed, "closed", True)
    again = crossed(Local("here"))
    assert isinstance(again, RecordedFailure)
    assert (again.kind.rpartition(".")[2], again.message) == ("Local", "here")
    kept = error_record(again)
    assert (kept.type, kept.message) == (error_record(Local("here")).type, "here")


def test_an_exception_without_a_text_crosses_all_the_same() -> None:
    assert isinstance(crossed(Silent("x")), Silent)


def test_a_chain_without_an_end_is_cut() -> None:
    first: BaseException = ValueError("0")
    for number in range(1, 100):
        following = ValueError(str(number))
        following.__cause__ = first
        first = following
    depth, each = 0, crossed(first)
    while each.__cause__ is not None:
        depth, each = depth + 1, each.__cause__
    assert 0 < depth < 20
