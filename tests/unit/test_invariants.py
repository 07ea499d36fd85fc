"""Invariants of each key: what they see, what they cost, what is said of one that is broken, and who may overtake."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    Collection,
    Document,
    Files,
    Record,
    RegistrationError,
    Rejected,
    State,
    StoreRef,
    Supervisor,
    Table,
    Transaction,
    Trigger,
    each,
)
from seqtor.actors import SimulatedDispatchers, StoreSpec
from seqtor.actors.journal.memory import MemoryBackend
from tests.seeds import seeds


class Account(Record):
    balance: int = 0


class Act(Trigger[None]):
    """Does what the test says."""


class Put(Trigger[int]):
    """Adds to some accounts; reads all of them first, or declares what it writes."""

    amounts: tuple[tuple[str, int], ...]
    looks: bool = False
    slow: bool = False


class Declared(Put):
    """The same, with a footprint."""


@each
def never_below_zero(key: str, account: Account) -> bool:
    return account.balance >= 0


def acting(spec: StoreSpec[Any], act: Callable[[Any], object], journal: Any = None) -> tuple[Supervisor, StoreRef[Any]]:
    """A system whose trigger `Act` does something with a store."""
    system = Supervisor(journal, dispatchers=lambda _: SimulatedDispatchers(1))
    store = system.store("accounts", spec)

    @system.on(Act)
    def handle(trigger: Act, tx: Transaction) -> None:
        act(tx[store])

    return system, store


def test_what_breaks_one_is_never_committed_and_the_error_names_store_key_and_invariant() -> None:
    def act(view: Any) -> None:
        view["a"] = Account(balance=1)
        view["b"] = Account(balance=-1)

    system, accounts = acting(Collection(Account, invariants=[never_below_zero]), act)
    with system:
        with pytest.raises(Rejected) as caught:
            system.ask(Act())
        assert str(caught.value) == "invariant never_below_zero does not hold (store='accounts', key='b')"
        assert (caught.value.code, caught.value.details) == ("invariant", {"store": "accounts", "key": "b"})
        assert dict(system.snapshot()[accounts]) == {}
        assert system.record(1).state is State.REJECTED


def test_it_sees_what_a_commit_changes_and_nothing_else() -> None:
    seen: list[tuple[str, int]] = []

    def watch(key: str, account: Account) -> None:
        seen.append((key, account.balance))

    def act(view: Any) -> None:
        view["same"] = Account(balance=5)
        view["new"] = Account(balance=7)
        view.increment("more", balance=1)
        del view["gone"]

    initial = {key: Account(balance=5) for key in ("same", "more", "gone", "other")}
    system, _ = acting(Collection(Account, initial=initial, invariants=[each(watch)]), act)
    with system:
        assert seen == [("gone", 5), ("more", 5), ("other", 5), ("same", 5)], "at a start all of them"
        seen.clear()
        system.ask(Act())
    assert sorted(seen) == [("more", 6), ("new", 7)]


@pytest.mark.parametrize(
    ("invariant", "said"),
    [
        (lambda key, account: 1 / 0, "invariant <lambda> raised ZeroDivisionError: division by zero"),
        (lambda key, account: 1, "invariant <lambda> returned int: it must return a bool or raise"),
        (lambda key, account: len(account), "invariant <lambda> raised TypeError"),
    ],
)
def test_one_that_raises_or_does_not_answer_rejects_and_is_named(invariant: Any, said: str) -> None:
    system, _ = acting(Collection(Account, invariants=[each(invariant)]), lambda view: view.increment("a", balance=1))
    with system, pytest.raises(Rejected) as caught:
        system.ask(Act())
    assert str(caught.value).startswith(said)
    assert caught.value.details == {"store": "accounts", "key": "a"}


def test_what_it_is_given_of_a_mutable_model_is_a_copy() -> None:
    from pydantic import BaseModel

    class Cart(BaseModel):
        items: list[str] = []

    def vandal(key: str, cart: Cart) -> None:
        cart.items.append("x")

    system, carts = acting(
        Collection(Cart, invariants=[each(vandal)]), lambda view: view.__setitem__("a", Cart(items=["one"]))
    )
    with system:
        system.ask(Act())
        assert system.snapshot()[carts]["a"].items == ["one"]


def test_files_and_tables_have_them_too(tmp_path: Path) -> None:
    def short(key: str, content: str | bytes) -> bool:
        return len(content) < 3

    cases: list[tuple[StoreSpec[Any], Any]] = [
        (Files(tmp_path / "files", invariants=[each(short)]), "long"),
        (Table(f"sqlite:///{tmp_path / 'rows.db'}", Account, invariants=[never_below_zero]), Account(balance=-1)),
    ]
    for spec, value in cases:
        system, store = acting(spec, lambda view, value=value: view.__setitem__("a", value), MemoryBackend())  # type: ignore[misc]
        with system:
            with pytest.raises(Rejected, match=r"does not hold \(store='accounts', key='a'\)"):
                system.ask(Act())
            assert dict(system.snapshot()[store]) == {}


def test_an_edit_from_outside_that_breaks_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no")
    (tmp_path / "b").write_text("yes")
    system, files = acting(Files(tmp_path, invariants=[each(lambda key, text: text != "no")]), lambda view: None)
    with system:
        assert dict(system.snapshot()[files]) == {"b": "yes"}


async def later(accounts: Mapping[str, Account]) -> bool:
    return True


def test_what_cannot_be_meant_is_refused() -> None:
    for wrong in (5, never_below_zero, Account):
        with pytest.raises(RegistrationError, match=r"each\(\.\.\.\) takes a function"):
            each(wrong)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match=r"each\(\.\.\.\): <lambda> is called with a key and its value \("):
        each(lambda account: True)  # type: ignore[arg-type,misc]
    said = r"an invariant: <lambda> is called with the whole new state alone, or each\(f\) for one of each key \("
    with pytest.raises(RegistrationError, match=said):
        Collection(Account, invariants=[lambda key, account: True])  # type: ignore[list-item,misc]
    with pytest.raises(RegistrationError, match="not a coroutine function"):
        Collection(Account, invariants=[later])  # type: ignore[list-item]
    with pytest.raises(RegistrationError, match=r"write invariants=\[f\]"):
        Collection(Account, invariants=never_below_zero)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match=r"each\(never_below_zero\): a document has no keys"):
        Document(Account, invariants=[never_below_zero])  # type: ignore[list-item]


def test_a_store_that_breaks_a_new_one_does_not_start_and_says_where() -> None:
    journal = MemoryBackend()
    system, _ = acting(Collection(Account), lambda view: view.__setitem__("a", Account(balance=-1)), journal)
    with system:
        system.ask(Act())
    system, _ = acting(Collection(Account, invariants=[never_below_zero]), lambda view: None, journal)
    with pytest.raises(RegistrationError) as caught:
        system.start()
    assert "what the journal holds of it is not valid: invariant never_below_zero does not hold" in str(caught.value)
    assert "key='a'" in str(caught.value)


# Overtaking ----------------------------------------------------------------------------------------------------------


def desk(seed: int, invariants: list[Any]) -> tuple[Supervisor, StoreRef[Any]]:
    system = Supervisor(dispatchers=lambda _: SimulatedDispatchers(seed))
    accounts = system.store(
        "accounts", Collection(Account, initial={key: Account() for key in "abc"}, invariants=invariants)
    )

    async def put(trigger: Put, tx: Transaction) -> int:
        book = tx[accounts]
        total = sum(account.balance for account in book.values()) if trigger.looks else 0
        if trigger.slow:
            await asyncio.sleep(0.01)
        for key, amount in trigger.amounts:
            book.increment(key, balance=amount)
        return total

    system.on(Put)(put)
    system.on(Declared, writes=lambda trigger: [(accounts, key) for key, _ in trigger.amounts])(put)
    return system, accounts


def test_a_run_overtakes_where_only_its_own_keys_are_looked_at() -> None:
    ended = {}
    for name, invariants in (("each", [never_below_zero]), ("all", [lambda book: True])):
        system, _ = desk(1, invariants)
        order: list[str] = []
        with system:
            slow = system.submit(Declared(amounts=(("a", 1),), slow=True))
            quick = system.submit(Declared(amounts=(("b", 1),)))
            quick.result()
            order.append("overtook" if not slow.done else "waited")
            slow.result()
        ended[name] = order
    assert ended == {"each": ["overtook"], "all": ["waited"]}


@pytest.mark.parametrize("seed", seeds(40))
def test_whoever_overtakes_the_state_is_that_of_the_serial_order(seed: int) -> None:
    chance = random.Random(seed)
    system, accounts = desk(seed, [never_below_zero])
    with system:
        submissions = []
        for _ in range(30):
            kind = chance.choice([Declared, Declared, Declared, Put])
            amounts = tuple((key, chance.randrange(-3, 4)) for key in chance.sample("abc", chance.choice([1, 1, 2])))
            submissions.append(
                system.submit(kind(amounts=amounts, slow=chance.random() < 0.3, looks=chance.random() < 0.2))
            )
        model = dict.fromkeys("abc", 0)
        for submission in submissions:
            trigger: Any = submission.trigger
            new = {**model, **{key: model[key] + amount for key, amount in trigger.amounts}}
            broken = [key for key, amount in trigger.amounts if amount and new[key] < 0]
            if broken:
                with pytest.raises(Rejected) as caught:
                    submission.result()
                assert caught.value.details["key"] in broken
            else:
                assert submission.result() == (sum(model.values()) if trigger.looks else 0)
                model = new
            assert values_of(system.snapshot(submission.seq)[accounts]) == model
        system.verify()


def values_of(view: Mapping[str, Account]) -> dict[str, int]:
    return {key: account.balance for key, account in view.items()}
