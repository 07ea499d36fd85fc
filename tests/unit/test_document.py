"""`Document`: one model whose fields are read and written one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seqtor import Document, DocumentView, HandlerFailed, Record, Rejected, Supervisor, Transaction, Trigger
from tests.programs import WAIT_S, Account, simulated, threaded

View = DocumentView[Any]
Deed = Callable[[Any], Any]


class Lower(Trigger[None]):
    """Has the lower seq and commits after the other has executed once."""


class Act(Trigger[Any]):
    """Does what the test says with the document."""

    what: int = 0


class Paper(Record):
    """An immutable document."""

    title: str = "new"
    pages: int = Field(default=0, ge=0)
    tags: tuple[str, ...] = ()


class Board(BaseModel):
    """A document that can be changed in place."""

    title: str = "new"
    names: list[str] = []
    owner: dict[str, list[int]] = {}


def with_document(*deeds: Deed, system: Supervisor | None = None, spec: Any = None) -> tuple[Supervisor, Any]:
    """A system whose n-th act does the n-th deed with a document."""
    system = system or simulated()
    paper = system.store("paper", spec or Document(Paper))

    @system.on(Act)
    def act(trigger: Act, tx: Transaction) -> Any:
        return deeds[trigger.what](tx[paper])

    return system, paper


def test_a_document_starts_as_its_model_or_as_what_it_is_given() -> None:
    system = simulated()
    empty = system.store("empty", Document(Paper))
    given = system.store("given", Document(Paper, initial=Paper(title="given", pages=3)))
    with system:
        snapshot = system.snapshot()
        assert snapshot[empty].value == Paper()
        assert snapshot[given].value == Paper(title="given", pages=3)
        assert repr(snapshot[given]) == "<DocumentView of Paper>"


def test_own_writes_are_seen_field_by_field_and_as_a_whole() -> None:
    def deed(view: Any) -> None:
        view.update(title="a")
        assert (view.fields.title, view.fields.pages, view.value) == ("a", 0, Paper(title="a"))
        view.increment(pages=2)
        view.increment(pages=3)
        assert (view.fields.pages, view.value) == (5, Paper(title="a", pages=5))
        view.update(title="b", tags=("x",))
        assert view.value == Paper(title="b", pages=5, tags=("x",))
        view.set(Paper(title="c"))
        assert view.value == Paper(title="c")
        view.increment(pages=1)
        assert (view.fields.pages, view.value) == (1, Paper(title="c", pages=1))
        view.update(pages=7)
        assert view.value == Paper(title="c", pages=7)

    system, paper = with_document(deed)
    with system:
        system.ask(Act())
        assert system.snapshot()[paper].value == Paper(title="c", pages=7)
        assert (system.snapshot()[paper].fields.title, system.snapshot()[paper].fields.pages) == ("c", 7)


@pytest.mark.parametrize(
    "use",
    [
        lambda view: view.update(titel="x"),
        lambda view: view.increment(titel=1),
        lambda view: view.update(title="kept", titel="x"),
    ],
)
def test_an_unknown_field_is_refused_with_the_known_ones(use: Deed) -> None:
    system, paper = with_document(use)
    with system:
        with pytest.raises(HandlerFailed, match="Paper has no field 'titel'; it has title, pages, tags") as caught:
            system.ask(Act())
        assert isinstance(caught.value.__cause__, TypeError)
        assert system.snapshot()[paper].value == Paper()


def test_a_field_that_is_not_there_is_an_attribute_error() -> None:
    def deed(view: Any) -> Any:
        with pytest.raises(AttributeError, match="Paper has no field 'titel'; it has title, pages, tags"):
            view.fields.titel  # noqa: B018
        assert not hasattr(view.fields, "titel")

    system, _ = with_document(deed)
    with system:
        system.ask(Act())


def test_a_field_is_set_with_update_and_not_by_assignment() -> None:
    def deed(view: Any) -> Any:
        view.fields.title = "x"

    for spec in (Document(Paper), Document(Board)):
        system, paper = with_document(deed, spec=spec)
        with system:
            with pytest.raises(
                HandlerFailed, match=r"AttributeError: fields are read here: write view.update\(title=\.\.\.\)"
            ):
                system.ask(Act())
            assert system.snapshot()[paper].fields.title == "new"


@pytest.mark.parametrize(
    "use",
    [lambda view: view.update(pages="many"), lambda view: view.update(pages=-1), lambda view: view.update(title=3)],
)
def test_a_value_that_does_not_fit_is_refused_where_it_is_written(use: Deed) -> None:
    def deed(view: Any) -> str:
        with pytest.raises(ValidationError):
            use(view)
        return "went on"

    system, paper = with_document(deed)
    with system:
        assert system.ask(Act()) == "went on"
        assert system.snapshot()[paper].value == Paper()
        assert "at seq 0" in repr(paper)


def test_an_update_writes_all_of_its_fields_or_none() -> None:
    def deed(view: Any) -> None:
        with pytest.raises(ValidationError):
            view.update(title="x", pages="many")

    system, paper = with_document(deed)
    with system:
        system.ask(Act())
        assert system.snapshot()[paper].value == Paper()


def test_values_are_validated_and_kept_as_the_model_would() -> None:
    system, paper = with_document(lambda view: view.update(pages="12", tags=["a", "b"]))
    with system:
        system.ask(Act())
        assert system.snapshot()[paper].value == Paper(pages=12, tags=("a", "b"))


@pytest.mark.parametrize("value", [None, {"title": "x"}, Account(), Paper])
def test_a_document_is_set_to_an_instance_of_its_model(value: Any) -> None:
    system, _ = with_document(lambda view: view.set(value))
    with system, pytest.raises(HandlerFailed, match="the store keeps Paper, got"):
        system.ask(Act())


def test_a_field_may_have_the_name_of_a_method() -> None:
    class Odd(Record):
        update: int = 1
        value: str = "a"

    def deed(view: Any) -> tuple[int, str]:
        view.update(update=view.fields.update + 1, value="b")
        return view.fields.update, view.fields.value

    system, odd = with_document(deed, spec=Document(Odd))
    with system:
        assert system.ask(Act()) == (2, "b")
        assert system.snapshot()[odd].value == Odd(update=2, value="b")


def test_a_field_with_an_alias_goes_by_its_name() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(frozen=True)
        class_name: str = Field(default="a", alias="class")

    def deed(view: Any) -> str:
        view.update(class_name="b")
        return str(view.fields.class_name)

    system, aliased = with_document(deed, spec=Document(Aliased))
    with system:
        assert system.ask(Act()) == "b"
        assert system.snapshot()[aliased].value.class_name == "b"


# What counts as a read --------------------------------------------------------------------------------------------


def attempts(lower_deed: Deed, deed: Deed) -> tuple[int, Paper]:
    """How often `deed` is executed when `lower_deed`, at the seq before it, commits after its first execution."""
    system, paper = with_document(lambda view: (deed(view), None)[1], spec=Document(Paper, initial=Paper(pages=1)))

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        lower_deed(tx[paper])

    with system:
        system.tell(Lower())
        system.ask(Act())
        return system.record(2).attempts, system.snapshot()[paper].value


def retitle(title: str = "other") -> Deed:
    return lambda view: view.update(title=title)


def grow(pages: int = 10) -> Deed:
    return lambda view: view.increment(pages=pages)


@pytest.mark.parametrize(
    ("lower_deed", "deed"),
    [
        (retitle(), lambda view: view.fields.title),
        (retitle(), lambda view: view.value),
        (grow(), lambda view: view.value),
        (grow(), lambda view: view.fields.pages),
        (grow(), lambda view: (view.increment(pages=1), view.fields.pages)),
        (lambda view: view.set(Paper(title="set")), lambda view: view.fields.title),
        (retitle(), lambda view: (view.update(pages=5), view.value)),
    ],
)
def test_a_field_that_was_read_and_has_changed_is_a_conflict(lower_deed: Deed, deed: Deed) -> None:
    assert attempts(lower_deed, deed)[0] == 2


@pytest.mark.parametrize(
    ("lower_deed", "deed"),
    [
        (grow(), lambda view: view.fields.title),
        (retitle(), lambda view: view.fields.pages),
        (retitle("new"), lambda view: view.fields.title),
        (grow(0), lambda view: view.value),
        (lambda view: view.set(Paper(title="new", pages=2)), lambda view: view.fields.title),
        (retitle(), retitle("mine")),
        (grow(), grow(20)),
        (retitle(), lambda view: (view.update(title="mine"), view.fields.title)),
        (retitle(), lambda view: view.set(Paper(title="mine"))),
    ],
)
def test_attempts_that_touch_different_fields_never_conflict(lower_deed: Deed, deed: Deed) -> None:
    assert attempts(lower_deed, deed)[0] == 1


@pytest.mark.parametrize(
    ("lower_deed", "deed", "expected"),
    [
        (retitle(), grow(), Paper(title="other", pages=11)),
        (grow(), grow(20), Paper(pages=31)),
        (retitle(), retitle("mine"), Paper(title="mine", pages=1)),
        (lambda view: view.update(tags=("x",)), retitle("mine"), Paper(title="mine", pages=1, tags=("x",))),
        (grow(), lambda view: view.update(pages=5), Paper(pages=5)),
        (lambda view: view.update(pages=100), grow(), Paper(pages=110)),
        (retitle(), lambda view: view.set(Paper(title="set", pages=3)), Paper(title="set", pages=3)),
    ],
)
def test_field_writes_act_on_the_state_as_of_the_seq_before(lower_deed: Deed, deed: Deed, expected: Paper) -> None:
    assert attempts(lower_deed, deed) == (1, expected)


@pytest.mark.parametrize("make", [simulated, threaded])
def test_two_hundred_increments_are_executed_two_hundred_times(make: Any) -> None:
    system, paper = with_document(grow(1), system=make())
    with system:
        for submission in system.submit_many([Act()] * 200):
            submission.result(WAIT_S)
        assert system.snapshot()[paper].fields.pages == 200
        assert system.conflicts().executions == 200


def test_an_increment_below_the_bound_fails_its_run_at_the_commit() -> None:
    system, paper = with_document(grow(-6), spec=Document(Paper, initial=Paper(pages=10)))
    with system:
        first, second = system.submit_many([Act(), Act()])
        first.result()
        with pytest.raises(HandlerFailed) as caught:
            second.result()
        assert isinstance(caught.value.__cause__, ValidationError)
        assert system.record(2).attempts == 1
        assert system.snapshot()[paper].fields.pages == 4


# Nobody changes what others see -----------------------------------------------------------------------------------


def test_a_handler_that_changes_what_it_read_changes_nothing_for_anyone() -> None:
    def vandal(view: Any) -> None:
        for _ in range(2):
            assert view.value.names == view.fields.names == ["one"]
            assert view.fields.owner == {"a": [1]}
            value = view.value
            value.names.append("two")
            value.title = "changed"
            value.owner["a"].append(2)
            view.fields.names.append("three")
            view.fields.owner["b"] = [3]
        assert view.value == Board(names=["one"], owner={"a": [1]})

    initial = Board(names=["one"], owner={"a": [1]})
    system, board = with_document(vandal, spec=Document(Board, initial=initial))
    initial.names.append("zero")
    with system:
        before = system.snapshot()
        system.ask(Act())
        for snapshot in (before, system.snapshot()):
            assert snapshot[board].value == Board(names=["one"], owner={"a": [1]})
        assert "at seq 0" in repr(board)


def test_what_was_written_is_as_it_was_when_it_was_written() -> None:
    def deed(view: Any) -> None:
        names = ["one"]
        view.update(names=names)
        names.append("two")
        view.fields.names.append("three")
        assert view.fields.names == view.value.names == ["one"]
        whole = Board(title="whole", names=["four"])
        view.set(whole)
        whole.names.append("five")
        view.fields.names.append("six")

    system, board = with_document(deed, spec=Document(Board))
    with system:
        system.ask(Act())
        assert system.snapshot()[board].value == Board(title="whole", names=["four"])


def test_a_private_copy_is_changed_and_set_back() -> None:
    def deed(view: Any) -> None:
        value = view.value
        value.names.append("one")
        view.set(value)

    system, board = with_document(deed, spec=Document(Board))
    with system:
        for submission in system.submit_many([Act()] * 20):
            submission.result()
        assert system.snapshot()[board].value.names == ["one"] * 20


# Invariants and the model's own validators ------------------------------------------------------------------------


class Range(Record):
    """A model whose fields must fit together."""

    low: int = 0
    high: int = 10

    @model_validator(mode="after")
    def is_ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"{self.low} is above {self.high}")
        return self


def test_the_whole_model_is_validated_on_the_state_as_of_the_seq_before() -> None:
    system, limits = with_document(
        lambda view: view.update(low=8), lambda view: view.update(high=5), spec=Document(Range)
    )
    with system:
        first, second = system.submit(Act(what=0)), system.submit(Act(what=1))
        first.result()
        with pytest.raises(HandlerFailed, match="8 is above 5"):
            second.result()
        assert system.record(2).attempts == 1
        assert system.snapshot()[limits].value == Range(low=8)


def test_fields_may_be_changed_together_through_states_that_do_not_fit() -> None:
    def deed(view: Any) -> None:
        view.update(low=20)
        view.update(high=30)

    system, limits = with_document(deed, spec=Document(Range))
    with system:
        system.ask(Act())
        assert system.snapshot()[limits].value == Range(low=20, high=30)


def pages_are_few(paper: Paper) -> bool:
    return paper.pages <= 10


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_model_that_breaks_an_invariant_is_never_committed(make: Any) -> None:
    system, paper = with_document(grow(6), system=make(), spec=Document(Paper, invariants=[pages_are_few]))
    with system:
        first, second = system.submit_many([Act(), Act()])
        first.result(WAIT_S)
        with pytest.raises(Rejected, match="invariant pages_are_few does not hold"):
            second.result(WAIT_S)
        assert system.record(2).attempts == 1
        assert system.snapshot()[paper].fields.pages == 6


def test_an_invariant_cannot_change_the_document() -> None:
    def vandal(board: Board) -> bool:
        board.names.append("x")
        board.title = "vandal"
        return True

    system, board = with_document(lambda view: view.update(names=["one"]), spec=Document(Board, invariants=[vandal]))
    with system:
        system.ask(Act())
        assert system.snapshot()[board].value == Board(names=["one"])
