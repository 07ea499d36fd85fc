"""Handlers for worker processes that could not be found there are refused, and the refusal says what to change."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest

from seqtor import Bundle, RegistrationError, Supervisor, Transaction, Trigger
from seqtor.actors.processes.importable import FunctionName
from seqtor.actors.registering import collected


class Price(Trigger[int]):
    symbol: str = "ACME"


class Other(Trigger[int]):
    symbol: str = "ACME"


def price(trigger: Price, tx: Transaction) -> int:
    return 1


async def price_async(trigger: Price, tx: Transaction) -> int:
    return 1


class Callable:
    def __call__(self, trigger: Price, tx: Transaction) -> int:
        return 1

    def method(self, trigger: Price, tx: Transaction) -> int:
        return 1

    @staticmethod
    def static(trigger: Price, tx: Transaction) -> int:
        return os.getpid()


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(trigger: Any, tx: Any) -> Any:
        return function(trigger, tx)

    return wrapper


def register(function: Any, trigger_type: Any = Price, executor: Any = "process") -> Supervisor:
    system = Supervisor()
    system.on(trigger_type, executor=executor)(function)
    return system


def refusal(function: Any, trigger_type: Any = Price, executor: Any = "process") -> str:
    with pytest.raises(RegistrationError) as caught:
        register(function, trigger_type, executor)
    return str(caught.value)


def test_ray_is_not_there_yet() -> None:
    assert refusal(price, executor="ray").startswith('executor="ray" of the handler of Price is not there yet')


@pytest.mark.parametrize("executor", ["processes", None, 1, ["thread"]])
def test_an_unknown_executor_is_refused(executor: Any) -> None:
    text = refusal(price, executor=executor)
    assert text == f'executor of the handler of Price must be "thread" or "process", got {executor!r}'


def test_a_coroutine_function_is_refused() -> None:
    assert "is a coroutine function" in refusal(price_async)


def test_a_lambda_is_refused() -> None:
    assert "is a lambda, and a worker process imports handlers by their names" in refusal(lambda trigger, tx: 1)


def test_a_nested_function_is_refused() -> None:
    def nested(trigger: Price, tx: Transaction) -> int:
        return 1

    assert "defined inside of a function, so a worker process cannot import it" in refusal(nested)


@pytest.mark.parametrize("function", [Callable(), functools.partial(price)], ids=["an object", "a partial"])
def test_what_has_no_name_is_refused(function: Any) -> None:
    assert "has no name by which a worker process could import it" in refusal(function)


def test_a_trigger_type_that_is_defined_in_a_function_is_refused() -> None:
    class Local(Trigger[int]):
        pass

    assert "the trigger type" in refusal(price, Local)


def test_a_bundle_refuses_the_same() -> None:
    with pytest.raises(RegistrationError, match="is a lambda"):
        Bundle().on(Price, executor="process")(lambda trigger, tx: 1)


def test_a_bundle_carries_the_option_over() -> None:
    bundle = Bundle()
    bundle.on(Price, executor="process")(Callable.static)
    system = Supervisor(settings={"processes": 1})
    system.include(bundle)
    with system:
        assert system.ask(Price(), timeout=60) != os.getpid()


def test_what_is_only_looked_at_is_collected() -> None:
    with collected() as findings:
        register(lambda trigger, tx: 1)
    assert [finding.file for finding in findings] == [__file__]


@pytest.mark.parametrize("function", [decorated(price), Callable().method], ids=["a decorator above", "a bound method"])
def test_a_name_that_leads_to_something_else_is_refused_at_the_start(function: Any) -> None:
    system = register(function)
    with pytest.raises(RegistrationError, match=r"leads to .*: give each such handler a name of its own"):
        system.start()


def test_a_function_is_found_by_the_path_of_its_name() -> None:
    name = FunctionName.of(Callable.static)
    assert name.path == "Callable.static"
    assert name.find() is Callable.static


def test_handlers_on_threads_may_be_anything() -> None:
    assert list(register(lambda trigger, tx: 1, executor="thread")._handlers)
