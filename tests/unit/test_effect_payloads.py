"""What an effect is told: payloads that come back as they were, and those that are refused."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from seqtor import (
    EffectContext,
    HandlerFailed,
    Record,
    RegistrationError,
    Transaction,
    Trigger,
)
from tests.effect_programs import Order, Outside, PlaceOrder, desk
from tests.ids import shown
from tests.programs import simulated


@pytest.fixture
def outside() -> Outside:
    return Outside()


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Plain(BaseModel):
    names: list[str] = []
    alias: int = Field(default=1, alias="anAlias")


class Larger(PlaceOrder):
    more: int = 0


class Holder(Record):
    order: Annotated[PlaceOrder, "what it really is"]
    anything: Any = None


PAYLOADS: list[tuple[Any, Any]] = [
    (int, 3),
    (float, float("inf")),
    (str, "text"),
    (bytes, b"\x00\xff"),
    (None, None),
    (datetime.datetime, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
    (uuid.UUID, uuid.UUID(int=7)),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (tuple[PlaceOrder, ...], (PlaceOrder(), PlaceOrder(count=4))),
    (list[PlaceOrder], [PlaceOrder()]),
    (dict[str, PlaceOrder], {"a": PlaceOrder(count=9)}),
    (PlaceOrder | None, PlaceOrder(article="x")),
    (Point, Point(1, 2.5)),
    (Plain, Plain(names=["a"], anAlias=4)),
    (Annotated[int, Field(gt=0)], 5),
    (Order, Order(article="a trigger as payload")),
    (Any, {"json": [1, None]}),
]


@pytest.mark.parametrize(("annotation", "payload"), PAYLOADS, ids=repr)
def test_a_payload_comes_back_as_what_the_annotation_says(annotation: Any, payload: Any, outside: Outside) -> None:
    system = simulated()

    def carry_out(context: EffectContext, given: Any) -> None:
        outside(context, given)

    carry_out.__annotations__["given"] = annotation
    effect = system.effect("x")(carry_out)
    system.on(Order)(lambda trigger, tx: tx.effect(effect, payload))
    with system:
        system.ask(Order())
    (tried,) = outside.tries
    assert tried.payload == payload
    assert type(tried.payload) is type(payload)
    assert tried.payload is not payload or payload is None or isinstance(payload, (int, str))


WRONG: list[tuple[Any, Any, str]] = [
    (PlaceOrder, {"article": "x"}, "the payload of the effect 'x' must be a PlaceOrder, got {'article': 'x'}"),
    (PlaceOrder, None, "must be a PlaceOrder, got None"),
    (PlaceOrder, Larger(more=3), "must be a PlaceOrder, got Larger"),
    (int, "3", "the payload of the effect 'x' is not what carry_out takes: Input should be a valid integer"),
    (int, None, "is not what carry_out takes"),
    (list[int], [1, "2"], "is not what carry_out takes: 1: Input should be a valid integer"),
    (Annotated[int, Field(gt=0)], 0, "is not what carry_out takes: Input should be greater than 0"),
    (Point, (1, 2), "is not what carry_out takes"),
    (Any, (1, 2), "would come back from the journal as [1, 2], it is (1, 2)"),
    (Holder, Holder(order=Larger(more=3)), "would come back from the journal as Holder(order=PlaceOrder("),
    (Any, object(), "cannot be kept as JSON"),
    (Any, {"f": print}, "cannot be kept as JSON"),
    (str, "\udc80", "cannot be kept as JSON"),
    (float | None, float("nan"), None),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("annotation", "payload", "says"), WRONG, ids=shown)
def test_a_payload_that_will_not_do_fails_the_handler_at_once(
    annotation: Any, payload: Any, says: str | None, outside: Outside
) -> None:
    system = simulated()

    def carry_out(context: EffectContext, given: Any) -> None:
        outside(context, given)

    carry_out.__annotations__["given"] = annotation
    effect = system.effect("x")(carry_out)
    system.on(Order)(lambda trigger, tx: tx.effect(effect, payload))
    with system:
        if says is None:
            system.ask(Order())
            return
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Order())
        assert type(caught.value.__cause__) is TypeError
        assert says in str(caught.value.__cause__)
    assert outside.tries == []


def test_a_payload_is_as_it_was_when_it_was_handed_in(outside: Outside) -> None:
    system = simulated()

    @system.effect("x")
    def carry_out(context: EffectContext, given: list[int]) -> None:
        outside(context, given)

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> None:
        numbers = [1]
        tx.effect(carry_out, numbers)
        numbers.append(2)

    with system:
        system.ask(Order())
    assert [tried.payload for tried in outside.tries] == [[1]]


def test_an_unknown_function_is_named_with_the_nearest_one() -> None:
    system = simulated()

    @system.effect("exchange.place")
    def place_order(context: EffectContext, order: PlaceOrder) -> None: ...

    def place_ordr(context: EffectContext, order: PlaceOrder) -> None: ...

    acts: list[Callable[[Transaction], None]] = [
        lambda tx: tx.effect(place_ordr, PlaceOrder()),
        lambda tx: tx.effect("exchange.place", PlaceOrder()),
        lambda tx: tx.effect(print, PlaceOrder()),
    ]
    system.on(Order)(lambda trigger, tx: acts[trigger.count](tx))
    texts = []
    with system:
        for number in range(3):
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Order(count=number))
            assert type(caught.value.__cause__) is RegistrationError
            texts.append(str(caught.value.__cause__))
    assert texts[0].startswith(
        "place_ordr is not registered as an effect of this system: decorate it with @system.effect"
    )
    assert texts[0].endswith("; did you mean 'place_order'?")
    assert texts[1].startswith("tx.effect() takes the function that @system.effect(...) registered")
    assert texts[2].startswith("print is not registered as an effect of this system")


def test_an_effect_after_the_handler_has_returned_is_refused() -> None:
    system, _ = desk(Outside(), simulated())
    kept: list[Transaction] = []
    system.effect("x")(note := lambda_with_types())
    system.on(Acknowledge)(lambda trigger, tx: kept.append(tx))
    with system:
        system.ask(Acknowledge())
        with pytest.raises(Exception, match="has ended: use tx only inside its handler"):
            kept[0].effect(note, 3)


class Acknowledge(Trigger[None]):
    """Another trigger."""


def lambda_with_types() -> Any:
    def note(context: EffectContext, number: int) -> None: ...

    return note
