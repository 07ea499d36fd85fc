"""What counts as immutable: never anything that a handler could change in place."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from seqtor import Collection, Record, Supervisor, Transaction, Trigger
from seqtor.actors.stores.model_kind import ModelKind
from seqtor.messages.immutability import has_user_validation, mutable_in_type, mutable_in_value, needs_value_check
from tests.stages import PATIENCE_S

T = TypeVar("T")
Cents = NewType("Cents", int)
Names = NewType("Names", list[str])


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Point(NamedTuple):
    x: int
    y: int


class Path(NamedTuple):
    points: list[Point]


@dataclasses.dataclass(frozen=True)
class Frozen:
    amount: int
    parts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class FrozenOutside:
    parts: list[int]


@dataclasses.dataclass
class Thawed:
    amount: int


@pydantic_dataclass(frozen=True)
class Validated:
    amount: int


class Money(Record):
    amount: decimal.Decimal
    currency: Literal["EUR", "USD"] = "EUR"


class Order(Record):
    kinds: ClassVar[list[str]] = []
    id: uuid.UUID
    at: datetime.datetime
    lines: tuple[Money, ...]
    side: Side | None = None
    tags: frozenset[str] = frozenset()
    where: Point = Point(0, 0)
    parent: Optional[Order] = None  # noqa: UP045
    page: HttpUrl | None = None


class Tagged(Record):
    tags: list[str] = Field(default_factory=list)


class Nested(Record):
    tagged: Tagged = Tagged()


class Box(Record, Generic[T]):
    inside: T


class MutableModel(BaseModel):
    amount: int = 0


class FrozenModel(BaseModel, frozen=True):
    amount: int = 0


class Open(Record):
    model_config = ConfigDict(extra="allow")


class Secretive(Record):
    amount: int = 0
    _cache: list[int] = PrivateAttr(default_factory=list)


class Lazy(Record):
    amount: int = 0

    @functools.cached_property
    def parts(self) -> list[int]:
        return [self.amount]


class Options(TypedDict):
    depth: int


class Name(str):  # noqa: SLOT000  # Its instances take attributes.
    pass


IMMUTABLE_TYPES = [
    int, str, bytes, bool, float, complex, None, datetime.datetime, datetime.timedelta, decimal.Decimal, uuid.UUID,
    pathlib.PurePosixPath, Side, Point, Frozen, Validated, Money, Order, FrozenModel, Box[int], AnyUrl, HttpUrl,
    tuple[int, ...], tuple[int, str], tuple[()], frozenset[int], int | None,
    Optional[str], Union[int, str],  # noqa: UP007, UP045  # As older programs write them.
    Literal["a", 1], Annotated[int, Field(gt=0)], PositiveInt, tuple[frozenset[Point], Money | None], ClassVar[int],
]  # fmt: skip

MUTABLE_TYPES = [
    (list[int], "value", "tuple[X, ...]"),
    (list, "value", "tuple[X, ...]"),
    (Sequence[int], "value", "tuple[X, ...]"),
    (set[int], "value", "frozenset[X]"),
    (AbstractSet[int], "value", "frozenset[X]"),
    (dict[str, int], "value", "nested Record"),
    (Mapping[str, int], "value", "nested Record"),
    (MutableMapping[str, int], "value", "nested Record"),
    (OrderedDict[str, int], "value", "an immutable type"),
    (Options, "value", "an immutable type"),
    (bytearray, "value", "bytes"),
    (tuple[int, list[int]], "value", "tuple[X, ...]"),
    (int | list[int], "value", "tuple[X, ...]"),
    (Annotated[list[int], Field(min_length=1)], "value", "tuple[X, ...]"),
    (Path, "value.points", "tuple[X, ...]"),
    (FrozenOutside, "value.parts", "tuple[X, ...]"),
    (Thawed, "value", "frozen=True"),
    (Tagged, "value.tags", "tuple[X, ...]"),
    (Nested, "value.tagged.tags", "tuple[X, ...]"),
    (tuple[Nested, ...], "value.tagged.tags", "tuple[X, ...]"),
    (Box[list[int]], "value.inside", "tuple[X, ...]"),
    (MutableModel, "value", "frozen=True"),
    (Open, "value", 'extra="forbid"'),
    (Secretive, "value._cache", "a field"),
]  # fmt: skip

UNKNOWN_TYPES = [Any, object, T, Cents, Names, Name, Callable[[], int], Iterable[int], deque[int], tuple, frozenset,
                 "int", type[int], Box, Lazy, tuple[Any, ...], int | Any]  # fmt: skip


@pytest.mark.parametrize("annotation", IMMUTABLE_TYPES, ids=str)
def test_types_that_cannot_be_changed_in_place_are_immutable(annotation: Any) -> None:
    assert mutable_in_type(annotation) is None
    assert not needs_value_check(annotation)


@pytest.mark.parametrize(("annotation", "path", "advice"), MUTABLE_TYPES, ids=str)
def test_types_that_can_be_changed_in_place_are_found_with_what_to_use_instead(
    annotation: Any, path: str, advice: str
) -> None:
    found = mutable_in_type(annotation)
    assert found is not None
    assert found.path == path
    assert advice in found.advice
    assert str(found).startswith(f"{path} is ")
    assert "which can be changed in place: use" in str(found)


@pytest.mark.parametrize("annotation", UNKNOWN_TYPES, ids=str)
def test_of_types_that_say_too_little_only_the_value_can_tell(annotation: Any) -> None:
    assert mutable_in_type(annotation) is None
    assert needs_value_check(annotation)


VALUES = [
    1, "a", b"a", None, True, 1.5, datetime.datetime.now(datetime.UTC), datetime.UTC, Side.BUY, Point(1, 2), (),
    (1, (2, 3)), frozenset({1}), Frozen(1), Validated(1), Money(amount=decimal.Decimal(1)), int, HttpUrl("https://example.org"),
    Box(inside=(1, 2)), FrozenModel(),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_that_cannot_be_changed_in_place_are_immutable(value: Any) -> None:
    assert mutable_in_value(value) is None


def used(secretive: Secretive) -> Secretive:
    secretive._cache.append(1)
    return secretive


def read(lazy: Lazy) -> Lazy:
    assert lazy.parts
    return lazy


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1], "value"),
        ({"a": 1}, "value"),
        ({1}, "value"),
        (bytearray(b"a"), "value"),
        (deque([1]), "value"),
        ((1, [2]), "value[1]"),
        ((1, (2, {})), "value[1][1]"),
        (Path([]), "value[0]"),
        (Thawed(1), "value"),
        (FrozenOutside([1]), "value.parts"),
        (MutableModel(), "value"),
        (Tagged(tags=["a"]), "value.tags"),
        (Nested(tagged=Tagged(tags=["a"])), "value.tagged.tags"),
        (Box(inside=[1]), "value.inside"),
        (Open(tags=[1]), "value.tags"),  # type: ignore[call-arg]
        (used(Secretive()), "value._cache"),
        (read(Lazy()), "value.parts"),
        (Name("a"), "value"),
        (object(), "value"),
        (iter([1]), "value"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_the_first_part_of_a_value_that_can_be_changed_is_named(value: Any, path: str) -> None:
    found = mutable_in_value(value)
    assert found is not None
    assert found.path == path
    assert found.advice


ATOMS = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.decimals() | st.dates() | st.uuids()
IMMUTABLE = st.recursive(
    ATOMS, lambda inner: st.lists(inner).map(tuple) | st.builds(Box, inside=inner) | st.builds(Frozen, st.just(1))
)
MUTABLE = st.just([]) | st.just({}) | st.builds(set) | st.builds(bytearray) | st.builds(Thawed, st.just(1))


@given(IMMUTABLE)
def test_whatever_is_built_of_immutable_parts_is_immutable(value: Any) -> None:
    assert mutable_in_value(value) is None


@given(st.lists(IMMUTABLE), MUTABLE, st.lists(IMMUTABLE), st.integers(0, 3))
def test_one_mutable_part_at_any_depth_is_found(before: list[Any], part: Any, after: list[Any], depth: int) -> None:
    value = part
    for _ in range(depth):
        value = (*before, Box(inside=value), *after)
    assert mutable_in_value(value) is not None


# Code of the user's that validation would run ------------------------------------------------------------------------


class Checked(Record):
    amount: int

    @field_validator("amount")
    @classmethod
    def check(cls, value: int) -> int:
        return value


class CheckedAsAWhole(Record):
    amount: int

    @model_validator(mode="after")
    def check(self) -> CheckedAsAWhole:
        return self


class CheckedByAnnotation(Record):
    amount: Annotated[int, AfterValidator(abs)]


class Started(Record):
    amount: int = 0

    def model_post_init(self, context: Any, /) -> None:
        pass


class Holder(Record):
    held: tuple[Checked, ...] = ()


class Bounded(Record):
    amount: Annotated[int, Field(gt=0, le=10)] = 1
    name: Annotated[str, Field(pattern="^a")] = "a"
    side: Side = Side.BUY
    rest: tuple[Money, ...] = ()


@pytest.mark.parametrize("model", [Checked, CheckedAsAWhole, CheckedByAnnotation, Started, Holder])
def test_validators_of_the_users_are_found(model: type[BaseModel]) -> None:
    assert has_user_validation(model)


@pytest.mark.parametrize("model", [Money, Bounded, Tagged, FrozenModel, Box[int]])
def test_pydantics_own_checks_are_no_code_of_the_users(model: type[BaseModel]) -> None:
    assert not has_user_validation(model)


# What depends on it --------------------------------------------------------------------------------------------------


class Change(Trigger[int]):
    pass


@pytest.mark.parametrize(
    ("model", "value", "change"),
    [
        (Tagged, Tagged(tags=["a"]), lambda record: record.tags.append("b")),
        (Nested, Nested(tagged=Tagged(tags=["a"])), lambda record: record.tagged.tags.append("b")),
        (Open, Open(tags=["a"]), lambda record: record.tags.append("b")),  # type: ignore[call-arg]
        (Secretive, Secretive(), lambda record: record._cache.append(1)),
        (Lazy, Lazy(amount=1), lambda record: record.parts.append(2)),
        (MutableModel, MutableModel(), lambda record: setattr(record, "amount", 5)),
    ],
    ids=lambda part: getattr(part, "__name__", type(part).__name__),
)
def test_a_handler_that_changes_what_it_read_changes_nothing_for_anyone(
    model: type[BaseModel], value: BaseModel, change: Callable[[Any], None]
) -> None:
    system = Supervisor()
    store = system.store("things", Collection(model, initial={"one": value}))
    seen: list[str] = []

    @system.on(Change)
    def handle(trigger: Change, tx: Transaction) -> int:
        record: Any = tx[store]["one"]
        parts = record.parts if isinstance(record, Lazy) else None
        seen.append(f"{record!r} {record.__pydantic_private__} {parts}")
        change(record)
        return 0

    with system:
        before = repr(system.snapshot()[store]["one"])
        for _ in range(2):
            system.ask(Change(), timeout=PATIENCE_S)
        assert repr(system.snapshot()[store]["one"]) == before
    assert seen[0] == seen[1]


def test_replace_keeps_every_field_whatever_was_read_before() -> None:
    assert read(Lazy(amount=1)).replace(amount=2).parts == [2]
    changed: Any = Open(a=1, b=2).replace(b=3)  # type: ignore[call-arg]
    assert (changed.a, changed.b) == (1, 3)
    order = Order(id=uuid.UUID(int=1), at=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), lines=())
    assert order.replace(side="buy").side is Side.BUY
    assert order.replace().replace(side=None) == order


def test_records_that_were_read_are_equal_to_those_that_were_not() -> None:
    class Add(Trigger[int]):
        pass

    system = Supervisor()
    store = system.store("things", Collection(Lazy, initial={"one": Lazy(amount=1)}))

    @system.on(Add)
    def add(trigger: Add, tx: Transaction) -> int:
        tx[store]["one"] = read(tx[store]["one"].replace(amount=10))
        return 0

    @system.on(Change)
    def increment(trigger: Change, tx: Transaction) -> int:
        tx[store].increment("one", amount=1)
        return 0

    with system:
        for trigger in (Add(), Change(), Add(), Change()):
            system.ask(trigger, timeout=PATIENCE_S)
        assert system.snapshot()[store]["one"].amount == 11
    kind = ModelKind(Lazy, ())
    assert kind.same(read(Lazy(amount=1)), Lazy(amount=1))
    assert not kind.same(read(Lazy(amount=1)), Lazy(amount=2))
