"""The protocol page keeps its promises: every message is frozen, slotted, keyword-only, in the catalogue, explained."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from seqtor import messages
from seqtor.messages.catalogue import CATALOGUE
from seqtor.messages.immutability import mutable_in_type
from seqtor.messages.message import message

MODULES = [importlib.import_module(f"seqtor.messages.{each.name}") for each in pkgutil.iter_modules(messages.__path__)]
# What messages and answers are made of; sent by nobody on its own.
PARTS = {
    "AllOf", "AnyOf", "AttemptConflict", "Checkpoint", "Commit", "CommitIntent", "Condition", "ConflictReport",
    "DeadLetterRecord", "EffectFailureFact", "EndedRun", "EventFact", "EventRecord", "FailureFact", "HalfMetComposite",
    "HotKey", "Lineage", "Mutable", "Pair", "ReactionState", "Released", "ResultFact", "RunRecord", "ScheduleRecord",
    "SourceChange", "Stats", "StatusFact", "StoreAccess", "TickFact", "Wait", "Where", "Write",
}  # fmt: skip
CHANGEABLE = {
    "CommitJudged.resolved.keys": "the same read set",
    "CommitRun.accesses.keys": "the attempt's own read set, handed over at its end and written by nobody since",
    "EndedRun.accesses.keys": "the same read set",
    "JudgeCommit.accesses.keys": "the same read set",
    "StoreAccess.keys": "the same read set",
    "Stats.state_counts": "made for one caller, who may do with it as they like",
}
ids = dict(ids=lambda part: getattr(part, "__name__", str(part)))  # noqa: C408


def classes() -> Iterator[type]:
    for module in MODULES:
        for thing in vars(module).values():
            if isinstance(thing, type) and thing.__module__ == module.__name__ and not thing.__name__.startswith("_"):
                yield thing


def is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def fields_of(kind: Any) -> list[str]:
    return list(kind._fields) if is_named_tuple(kind) else [field.name for field in dataclasses.fields(kind)]


def build(kind: Any) -> tuple[Any, dict[str, object]]:
    """An instance whose fields are all different objects."""
    values = {name: object() for name in fields_of(kind)}
    return kind(**values), values


MESSAGES = sorted(CATALOGUE, key=lambda kind: kind.__name__)
VALUES = sorted((kind for kind in classes() if kind.__name__ in PARTS), key=lambda kind: kind.__name__)
DATACLASSES = [kind for kind in MESSAGES if not is_named_tuple(kind)]


# The catalogue -------------------------------------------------------------------------------------------------------


def test_every_message_is_in_the_catalogue_once() -> None:
    said = {kind for kind in classes() if (kind.__doc__ or "").startswith("From:")}
    made = {kind for kind in classes() if dataclasses.is_dataclass(kind)}
    assert said | made == set(CATALOGUE)
    assert len(set(CATALOGUE)) == len(CATALOGUE)


def test_every_class_of_the_protocol_is_a_message_a_part_of_one_or_an_error() -> None:
    known = {kind.__name__ for kind in CATALOGUE} | PARTS
    other = {
        kind.__name__
        for kind in classes()
        if not issubclass(kind, (BaseException, enum.Enum, BaseModel, type)) and kind.__name__ not in known
    }
    assert not other, "say From, To, Answer, Twice and add it to the catalogue, or to PARTS here"
    assert {kind.__name__ for kind in VALUES} == PARTS


@pytest.mark.parametrize("kind", MESSAGES, **ids)
def test_a_message_says_from_whom_to_whom_what_answers_it_and_what_holding_it_twice_does(kind: type) -> None:
    said = inspect.getdoc(kind) or ""
    places = [said.find(f"{word}:") for word in ("From", "To", "Answer", "Twice")]
    assert -1 not in places, f"{kind.__name__} must say From:, To:, Answer: and Twice:"
    assert places == sorted(places), "in this order"
    for word in ("From", "To", "Answer", "Twice"):
        assert re.search(rf"{word}: \S", said), f"{kind.__name__} says nothing about {word}"


@pytest.mark.parametrize("kind", VALUES, **ids)
def test_a_part_of_a_message_says_what_it_is(kind: type) -> None:
    said = inspect.getdoc(kind) or ""
    assert said.endswith((".", "`"))
    assert not said.startswith(kind.__name__ + "("), "a docstring of its own, not the one that Python makes"


@pytest.mark.parametrize("module", MODULES, **ids)
def test_a_module_exports_its_classes_and_the_package_exports_its_messages(module: ModuleType) -> None:
    assert {kind.__name__ for kind in CATALOGUE if kind.__module__ == module.__name__} <= set(module.__all__)
    for kind in CATALOGUE:
        assert kind.__name__ in messages.__all__
        assert getattr(messages, kind.__name__) is kind


# Shape ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*MESSAGES, *VALUES], **ids)
def test_a_message_holds_what_it_was_built_with(kind: type) -> None:
    made, values = build(kind)
    assert all(getattr(made, name) is value for name, value in values.items())
    assert repr(made).startswith(f"{kind.__name__}(") or is_named_tuple(kind)


@pytest.mark.parametrize("kind", [*MESSAGES, *VALUES], **ids)
def test_a_message_is_frozen(kind: type) -> None:
    made, values = build(kind)
    for name in values:
        with pytest.raises(AttributeError):
            setattr(made, name, None)
        with pytest.raises(AttributeError):
            delattr(made, name)
    assert all(getattr(made, name) is value for name, value in values.items())


@pytest.mark.parametrize("kind", [*MESSAGES, *VALUES], **ids)
def test_a_message_is_slotted(kind: type) -> None:
    made, _ = build(kind)
    assert not hasattr(made, "__dict__")
    with pytest.raises((AttributeError, TypeError)):
        made.no_such_field = 1


@pytest.mark.parametrize("kind", DATACLASSES, **ids)
def test_a_message_takes_its_fields_by_keyword_only(kind: type) -> None:
    parameters = list(inspect.signature(kind).parameters.values())
    assert [parameter.name for parameter in parameters] == fields_of(kind)
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)
    if parameters:
        with pytest.raises(TypeError):
            kind(*(None for _ in parameters))
    with pytest.raises(TypeError):
        kind(**dict.fromkeys(fields_of(kind)), no_such_field=None)


@pytest.mark.parametrize("kind", [kind for kind in DATACLASSES if fields_of(kind)], **ids)
def test_a_message_refuses_to_be_built_without_a_required_field(kind: type) -> None:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    assert required
    for name in required:
        with pytest.raises(TypeError, match=name):
            kind(**{other: None for other in fields_of(kind) if other != name})


@pytest.mark.parametrize("kind", DATACLASSES, **ids)
def test_defaults_are_immutable(kind: type) -> None:
    made = kind(
        **{
            field.name: None
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING
        }
    )
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        assert field.default_factory is dataclasses.MISSING, "the fast constructor knows no factories"
        if field.default is not dataclasses.MISSING:
            assert getattr(made, field.name) is field.default
            assert not isinstance(field.default, (list, dict, set))


def test_no_field_can_be_changed_in_place_as_far_as_its_type_tells() -> None:
    found: set[str] = set()
    for kind in [*MESSAGES, *VALUES]:
        for name, annotation in typing.get_type_hints(kind).items():
            if (mutable := mutable_in_type(annotation, f"{kind.__name__}.{name}")) is not None:
                found.add(mutable.path)
    assert found == set(CHANGEABLE)


def test_messages_are_told_apart_by_identity_and_parts_by_value() -> None:
    for kind in DATACLASSES:
        values = dict.fromkeys(fields_of(kind))
        assert kind(**values) != kind(**values) or not values
    for kind in VALUES:
        values = dict.fromkeys(fields_of(kind))
        assert kind(**values) == kind(**values)


def test_the_decorator_makes_any_class_a_message() -> None:
    @message
    class Probe:
        """From: a test. To: nobody."""

        first: int
        second: str = "two"

    made: Any = Probe
    assert (made(first=1).first, made(first=1).second, made(second="b", first=2).second) == (1, "two", "b")
    assert repr(made(first=1)) == f"{Probe.__qualname__}(first=1, second='two')"
    assert dataclasses.replace(made(first=1), second="x").second == "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        made(first=1).first = 2
    with pytest.raises(TypeError):
        made(1)
