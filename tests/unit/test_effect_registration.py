"""Which functions can be effects, and what is refused before the start."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from seqtor import (
    Bundle,
    EffectContext,
    Record,
    RegistrationError,
    Retry,
    Transaction,
)
from tests.effect_programs import Order, Outside, PlaceOrder
from tests.programs import WAIT_S, simulated, threaded


@pytest.fixture
def outside() -> Outside:
    return Outside()


def good(context: EffectContext, order: PlaceOrder) -> None:
    """A function that will do."""


def other(context: EffectContext, order: PlaceOrder) -> None:
    """Another one."""


def no_annotation(context: EffectContext, order) -> None:  # type: ignore[no-untyped-def]
    """Says nothing about its payload."""


def unresolved(context: EffectContext, order: NoSuchThing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Names a type that is nowhere."""


def generates(context: EffectContext, order: PlaceOrder) -> Iterator[None]:
    yield None


async def generates_async(context: EffectContext, order: PlaceOrder) -> AsyncIterator[None]:
    yield None


def takes_callable(context: EffectContext, order: Callable[[], int]) -> None: ...


def takes_lock(context: EffectContext, order: threading.Thread) -> None: ...


@pytest.mark.parametrize(
    ("name", "function", "says"),
    [
        ("", good, "an effect's name is a non-empty string, got ''"),
        (3, good, "an effect's name is a non-empty string, got 3"),
        ("taken", good, r"there is an effect called 'taken' already \(other\): give good another name"),
        ("again", other, "other carries out the effect 'taken' already: one function, one effect"),
        ("x", "good", "the effect 'x' must be a function, got 'good'"),
        ("x", lambda: None, r"takes \(\), but it is called with \(context, payload\): def <lambda>\(context"),
        ("x", lambda context: None, r"called with \(context, payload\)"),
        ("x", lambda context, *, order: None, r"called with \(context, payload\)"),
        ("x", lambda context, order: None, "does not say the type of its payload"),
        ("x", lambda *both: None, "does not say the type of its payload"),
        ("x", no_annotation, "the effect 'x': no_annotation does not say the type of its payload"),
        ("x", unresolved, "the annotation 'NoSuchThing' of the payload of unresolved cannot be resolved"),
        ("x", generates, "generates is a generator: return instead of yielding"),
        ("x", generates_async, "generates_async is a generator"),
        ("x", takes_callable, "a payload of type .*Callable.* cannot be kept as JSON"),
        ("x", takes_lock, "a payload of type <class 'threading.Thread'> cannot be kept as JSON"),
    ],
)
def test_what_cannot_be_an_effect_is_refused(name: Any, function: Any, says: str) -> None:
    for registry in (simulated(), Bundle()):
        registry.effect("taken")(other)
        with pytest.raises(RegistrationError, match=says):
            registry.effect(name)(function)


def test_a_policy_must_be_a_retry() -> None:
    with pytest.raises(RegistrationError, match=r"retry= takes a Retry, such as Retry\(5\), got 5"):
        simulated().effect("x", retry=5)(good)  # type: ignore[arg-type]


def test_effects_are_registered_before_the_start() -> None:
    system, bundle = simulated(), Bundle()
    bundle.effect("x")(good)
    decorator = system.effect("y")
    with system:
        for register in (lambda: system.effect("x"), lambda: decorator(good), lambda: system.include(bundle)):
            with pytest.raises(RegistrationError, match=r"effect\(\) comes before the start"):
                register()


def test_the_decorator_returns_the_function_unchanged() -> None:
    assert simulated().effect("x")(good) is good
    assert Bundle().effect("x")(good) is good


def test_types_of_the_place_where_the_function_is_defined_are_found(outside: Outside) -> None:
    class Local(Record):
        n: int

    system = simulated()

    @system.effect("x")
    def carry_out(context: EffectContext, local: Local) -> None:
        outside(context, local)

    system.on(Order)(lambda trigger, tx: tx.effect(carry_out, Local(n=3)))
    with system:
        system.ask(Order())
    assert outside.tries[0].payload == Local(n=3)


class Callables:
    """Functions that are no plain functions."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside

    def method(self, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)

    async def async_method(self, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)

    def __call__(self, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)

    def with_more(self, more: int, context: EffectContext, order: PlaceOrder) -> None:
        self.outside(context, order)


def test_methods_partials_and_instances_are_functions_too(outside: Outside) -> None:
    system, made = simulated(), Callables(outside)
    partial = functools.partial(made.with_more, 3)

    @functools.wraps(good)
    def wrapped(*arguments: Any) -> None:
        outside(*arguments)

    functions: list[Any] = [made.method, made.async_method, made, partial, wrapped]
    for number, function in enumerate(functions):
        system.effect(str(number))(function)
    given = [made.method, made.async_method, made, partial, wrapped]  # A bound method is another object every time.

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> None:
        for number, function in enumerate(given):
            tx.effect(function, PlaceOrder(count=number))

    with system:
        system.ask(Order())
    assert sorted(tried.payload.count for tried in outside.tries) == [0, 1, 2, 3, 4]


def test_the_effects_of_a_bundle_are_those_of_every_system_that_includes_it(outside: Outside) -> None:
    bundle = Bundle()

    @bundle.effect("x", retry=Retry(1))
    def carry_out(context: EffectContext, order: PlaceOrder) -> None:
        outside(context, order)

    @bundle.on(Order)
    def order(trigger: Order, tx: Transaction) -> None:
        tx.effect(carry_out, PlaceOrder())

    for system in (simulated(), threaded()):
        system.include(bundle)
        with system:
            system.ask(Order(), timeout=WAIT_S)
        with pytest.raises(RegistrationError):
            system.include(bundle)
    assert len(outside.tries) == 2
    twice = simulated()
    twice.effect("x")(good)
    with pytest.raises(RegistrationError, match="there is an effect called 'x' already"):
        twice.include(bundle)


def test_a_context_can_be_made_for_a_test() -> None:
    context = EffectContext(key="k", seq=3)
    assert (context.key, context.seq, context.attempt) == ("k", 3, 1)
    assert repr(context) == "<EffectContext k attempt=1>"
    ref = simulated().resource("client", contextlib.nullcontext)
    with pytest.raises(LookupError, match="no resource 'client'"):
        context.resource(ref)
    assert EffectContext(key="k", seq=3, find=lambda ref: ref.name).resource(ref) == "client"  # type: ignore[comparison-overlap]
