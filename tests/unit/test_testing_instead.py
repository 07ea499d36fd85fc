"""What stands in for the outside of a system under test: calls, resources, effects, contents of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from seqtor import Collection, Document, EffectContext, NotRunning, Record, Supervisor, Transaction, Trigger
from seqtor.testing import SeqtorRun, run


class Account(Record):
    balance: int = 0


class Look(Trigger[int]):
    symbol: str


class LookSlowly(Trigger[int]):
    symbol: str


class Place(Trigger[str]):
    symbol: str


class Placed(Trigger[None]):
    ref: str


system = Supervisor()
accounts = system.store("accounts", Collection(Account))
sheet = system.store("sheet", Document(Account))
carried_out: list[str] = []


def price(symbol: str) -> int:
    raise AssertionError("the outside was called")


async def price_slowly(symbol: str) -> int:
    raise AssertionError("the outside was called")


@system.effect("place")
async def place(context: EffectContext, symbol: str) -> Placed:
    raise AssertionError("the outside was called")


@system.effect("tell")
def tell(context: EffectContext, symbol: str) -> None:
    carried_out.append(symbol)


@contextmanager
def opened() -> Iterator[str]:
    yield "the outside"


@asynccontextmanager
async def opened_slowly() -> AsyncIterator[str]:
    yield "the outside"


client = system.resource("client", opened)
slow_client = system.resource("slow client", opened_slowly)


@system.on(Look)
def look(trigger: Look, tx: Transaction) -> int:
    return tx.call(price, trigger.symbol)


@system.on(LookSlowly)
async def look_slowly(trigger: LookSlowly, tx: Transaction) -> int:
    return await tx.acall(price_slowly, trigger.symbol)


@system.on(Place)
async def on_place(trigger: Place, tx: Transaction) -> str:
    tx.effect(place, trigger.symbol)
    tx.effect(tell, trigger.symbol)
    return f"{tx.resource(client)}, {await tx.resource(slow_client)}"  # type: ignore[misc]


@system.on(Placed)
def placed(trigger: Placed, tx: Transaction) -> None:
    tx[accounts][trigger.ref] = Account(balance=1)


def test_calls_are_answered_by_the_test_and_recorded_as_answers() -> None:
    made: list[str] = []

    def instead(symbol: str) -> int:
        made.append(symbol)
        return len(symbol)

    with run(system, calls={price: 5, price_slowly: instead}) as desk:
        assert desk.ask(Look(symbol="ACME")) == 5
        assert desk.ask(LookSlowly(symbol="ACME")) == 4
        assert [call.value for record in desk.commits() for call in record.calls] == [4, 5]
        assert desk.verify().executed == 2
    assert made == ["ACME"], "replay gets what was recorded"


def test_resources_and_effects_are_given_by_the_test_and_the_rest_is_as_it_is(seqtor_run: SeqtorRun) -> None:
    carried_out.clear()
    keys: list[str] = []

    def instead(context: EffectContext, symbol: str) -> Placed:
        keys.append(context.key)
        return Placed(ref=symbol)

    with seqtor_run(system, resources={client: "given", slow_client: "also"}, effects={place: instead}) as desk:
        assert desk.ask(Place(symbol="ACME")) == "given, also"
        desk.settle()
        assert desk.snapshot()[accounts]["ACME"].balance == 1
    assert (len(keys), carried_out) == (1, ["ACME"])


def test_the_program_itself_keeps_its_own() -> None:
    with run(system, calls={price: 5}, effects={tell: lambda context, symbol: None}) as desk:
        desk.ask(Look(symbol="ACME"))
    assert system._effects.named("tell").function is tell
    with run(system) as desk, pytest.raises(Exception, match="the outside was called"):
        desk.ask(Look(symbol="ACME"))


def test_stores_begin_with_what_the_test_gives() -> None:
    with run(system, stores={accounts: {"alice": Account(balance=7)}, sheet: {"balance": 3}}) as desk:
        assert desk.snapshot()[accounts]["alice"].balance == 7
        assert desk.snapshot()[sheet].value.balance == 3
    with run(system) as desk:
        assert "alice" not in desk.snapshot()[accounts]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"calls": {"price": 5}}, r"calls= takes answers by the function .* got 'price'"),
        ({"resources": {"client": 5}}, r"resources= takes contents by the ResourceRef"),
        ({"stores": {"accounts": {}}}, r"stores= takes contents by the StoreRef that system.store\(\) returned"),
        (
            {"stores": {Supervisor().store("accounts", Collection(Account)): {}}},
            r"stores= takes contents by the StoreRef",
        ),
        ({"effects": {price: print}}, r"effects= takes functions by the one that @system.effect\(...\) registered"),
        ({"effects": {place: 5}}, r"effects= takes a function that carries out the effect instead, got 5"),
        ({"seed": "x"}, r"run\(system, seed\) takes an int as seed, .* got 'x'"),
        ({"seed": True}, r"run\(system, seed\) takes an int as seed"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(given: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        run(system, **given)


def test_outside_of_its_block_a_desk_says_what_to_do() -> None:
    desk = run(system)
    for use in (desk.settle, desk.stats, lambda: desk.submit(Look(symbol="A"))):
        with pytest.raises(NotRunning, match="has not been started: use it inside of its block"):
            use()
    with desk:
        pass
    with pytest.raises(NotRunning, match=r"has been stopped, and has settled: call settle\(\) inside of its block"):
        desk.settle()
