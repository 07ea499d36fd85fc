"""`Bundle` and `include`: registrations of another module."""

from __future__ import annotations

from typing import Any

import pytest

from seqtor import Bundle, Priority, RegistrationError, Supervisor, Transaction, Trigger
from tests.programs import WAIT_S, simulated, threaded

bundle = Bundle()


class Greet(Trigger[str]):
    """Asks for a greeting."""

    name: str


class GreetLater(Trigger[str]):
    """Asks for a greeting from a coroutine."""

    name: str


@bundle.on(Greet)
def greet(trigger: Greet, tx: Transaction) -> str:
    return f"hello {trigger.name}"


@bundle.on(GreetLater, priority=Priority.HIGH, deadline=3)
async def greet_later(trigger: GreetLater, tx: Transaction) -> str:
    return f"hello {trigger.name}"


def test_the_decorator_of_a_bundle_returns_the_function_unchanged() -> None:
    assert greet(Greet(name="ann"), None) == "hello ann"  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [simulated, threaded])
def test_what_is_included_is_as_if_it_had_been_registered(make: Any) -> None:
    system: Supervisor = make()
    system.include(bundle)
    with system:
        assert system.ask(Greet(name="ann"), timeout=WAIT_S) == "hello ann"
        assert system.ask(GreetLater(name="bob"), timeout=WAIT_S) == "hello bob"


def test_a_bundle_may_be_included_in_many_systems_but_once_in_each() -> None:
    first, second = simulated(), simulated()
    first.include(bundle)
    second.include(bundle)
    with pytest.raises(RegistrationError, match="Greet has the handler greet already"):
        first.include(bundle)
    with first, second:
        assert first.ask(Greet(name="ann")) == second.ask(Greet(name="ann")) == "hello ann"


def test_what_a_bundle_shares_with_the_system_is_refused() -> None:
    system = simulated()
    system.on(Greet)(lambda trigger, tx: "mine")
    with pytest.raises(RegistrationError, match=r"Greet has the handler .*<lambda> already, so greet cannot"):
        system.include(bundle)


@pytest.mark.parametrize("given", [None, Bundle, [bundle], greet])
def test_only_a_bundle_can_be_included(given: Any) -> None:
    with pytest.raises(RegistrationError, match=r"include\(\) takes a Bundle, got"):
        simulated().include(given)


def test_an_empty_bundle_adds_nothing() -> None:
    system = simulated()
    system.include(Bundle())
    with system:
        assert system.stats().current_seq == 0
