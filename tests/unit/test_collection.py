"""`Collection`: a mapping whose reads are tracked per key and range, and whose iteration is in key order."""

from __future__ import annotations

import asyncio
import decimal
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from seqtor import Collection, HandlerFailed, Record, Rejected, Supervisor, Transaction, Trigger
from tests.programs import WAIT_S, Account, simulated, threaded

View = Any
Deed = Callable[[View], Any]


class Lower(Trigger[None]):
    """Has the lower seq and commits after the other has executed once."""


class Act(Trigger[Any]):
    """Does what the test says with the collection."""

    what: int = 0


class Stock(Record):
    """Several numbers."""

    units: int = Field(default=0, ge=0)
    price: decimal.Decimal = decimal.Decimal(0)
    name: str = ""


def with_collection(
    *deeds: Deed, system: Supervisor | None = None, spec: Any = None, **balances: int
) -> tuple[Any, Any]:
    """A system whose n-th act does the n-th deed with a collection of accounts."""
    system = system or simulated()
    initial = {name: Account(balance=balance) for name, balance in balances.items()}
    accounts = system.store("accounts", spec or Collection(Account, initial=initial))

    @system.on(Act)
    def act(trigger: Act, tx: Transaction) -> Any:
        return deeds[trigger.what](tx[accounts])

    return system, accounts


def balances_of(view: Mapping[str, Account]) -> dict[str, int]:
    return {key: account.balance for key, account in view.items()}


# A mapping --------------------------------------------------------------------------------------------------------


def test_it_is_a_mutable_mapping_with_all_that_this_means() -> None:
    def deed(book: View) -> None:
        assert isinstance(book, MutableMapping)
        assert (len(book), list(book), "a" in book, "x" in book, 3 in book) == (3, ["a", "b", "c"], True, False, False)
        assert (book["a"], book.get("x"), book.get("x", "none")) == (Account(balance=1), None, "none")
        assert list(book.keys()) == ["a", "b", "c"]
        assert [account.balance for account in book.values()] == [1, 2, 3]
        assert balances_of(book) == {"a": 1, "b": 2, "c": 3}
        assert list(reversed(list(book))) == ["c", "b", "a"]
        assert book == {"a": Account(balance=1), "b": Account(balance=2), "c": Account(balance=3)}
        with pytest.raises(KeyError, match="'x'"):
            book["x"]
        with pytest.raises(KeyError, match="'x'"):
            del book["x"]
        with pytest.raises(KeyError):
            book.pop("x")
        assert book.pop("a") == Account(balance=1)
        assert book.pop("a", None) is None
        assert book.setdefault("b", Account(balance=9)) == Account(balance=2)
        assert book.setdefault("d", Account(balance=4)) == Account(balance=4)
        book.update({"e": Account(balance=5)}, f=Account(balance=6))
        assert book.popitem() == ("b", Account(balance=2))
        assert balances_of(book) == {"c": 3, "d": 4, "e": 5, "f": 6}
        book["b"] = Account(balance=7)
        assert list(book) == ["b", "c", "d", "e", "f"]
        book.clear()
        assert (len(book), list(book)) == (0, [])
        with pytest.raises(KeyError):
            book.popitem()
        book["z"] = Account(balance=8)

    system, accounts = with_collection(deed, a=1, b=2, c=3)
    with system:
        system.ask(Act())
        assert balances_of(system.snapshot()[accounts]) == {"z": 8}


def test_every_prefix_of_own_writes_looks_like_a_dict() -> None:
    steps: list[tuple[str, int | None]] = [
        ("b", 5), ("x", 1), ("a", None), ("x", None), ("a", 7), ("c", None), ("m", 2), ("b", None), ("m", 3), ("", 4),
    ]  # fmt: skip

    def deed(book: View) -> None:
        model = {"a": 1, "b": 2, "c": 3}
        for key, balance in steps:
            if balance is None:
                del book[key]
                del model[key]
            else:
                book[key] = Account(balance=balance)
                model[key] = balance
            assert list(balances_of(book).items()) == sorted(model.items())
            assert (len(book), list(book)) == (len(model), sorted(model))
            for start, stop in ((None, None), ("a", "c"), ("b", None), (None, "b"), ("m", "a"), ("", "")):
                expected = [
                    (k, v) for k, v in sorted(model.items()) if (start or "") <= k and (stop is None or k < stop)
                ]
                assert [(k, v.balance) for k, v in book.scan(start=start, stop=stop)] == expected

    system, accounts = with_collection(deed, a=1, b=2, c=3)
    with system:
        system.ask(Act())
        assert balances_of(system.snapshot()[accounts]) == {"": 4, "a": 7, "m": 3}


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), 1.5])
def test_keys_are_strings(key: Any) -> None:
    uses: list[Deed] = [
        lambda book: book[key],
        lambda book: book.get(key),
        lambda book: book.__setitem__(key, Account()),
        lambda book: book.__delitem__(key),
        lambda book: book.increment(key, balance=1),
    ]
    system, _ = with_collection(*uses)
    with system:
        for what in range(len(uses)):
            with pytest.raises(HandlerFailed, match=r"a Collection's keys are strings, got .*: use str"):
                system.ask(Act(what=what))


@pytest.mark.parametrize("value", [None, 3, {"balance": 3}, Stock(), Account])
def test_values_are_of_the_model(value: Any) -> None:
    system, _ = with_collection(lambda book: book.__setitem__("a", value))
    with system, pytest.raises(HandlerFailed, match="the store keeps Account, got"):
        system.ask(Act())


# Order ------------------------------------------------------------------------------------------------------------


def test_a_scan_is_in_key_order_between_its_bounds() -> None:
    def deed(book: View) -> None:
        assert [key for key, _ in book.scan()] == sorted(keys)
        assert [key for key, _ in book.scan(prefix="b")] == ["b", "ba", "bz", "b\U0010ffff"]
        assert [key for key, _ in book.scan(prefix="")] == sorted(keys)
        assert [key for key, _ in book.scan(start="b", stop="c")] == ["b", "ba", "bz", "b\U0010ffff"]
        assert [key for key, _ in book.scan(start="ba")] == [
            "ba",
            "bz",
            "b\U0010ffff",
            "c",
            "é",
            "\U0010ffff",
            "\U0010ffffa",
        ]
        assert [key for key, _ in book.scan(stop="b")] == ["", "A", "a"]
        assert [key for key, _ in book.scan(prefix="\U0010ffff")] == ["\U0010ffff", "\U0010ffffa"]
        assert list(book.scan(prefix="zz")) == list(book.scan(start="c", stop="b")) == []
        for wrong in ({"prefix": "a", "start": "b"}, {"prefix": "a", "stop": "b"}):
            with pytest.raises(TypeError, match="scan takes a prefix, or start and stop, not both"):
                book.scan(**wrong)

    keys = ["", "a", "A", "b", "ba", "bz", "b\U0010ffff", "c", "é", "\U0010ffff", "\U0010ffffa"]
    initial = {key: Account() for key in reversed(keys)}
    system, _ = with_collection(deed, spec=Collection(Account, initial=initial))
    with system:
        system.ask(Act())


def test_a_view_may_be_changed_while_it_is_scanned() -> None:
    def deed(book: View) -> list[str]:
        seen = []
        for key, _ in book.scan():
            seen.append(key)
            book.pop("c", None)
            book[key + key] = Account()
        return seen

    system, accounts = with_collection(deed, a=1, b=2, c=3, d=4)
    with system:
        assert system.ask(Act()) == ["a", "b", "d"]
        assert list(system.snapshot()[accounts]) == ["a", "aa", "b", "bb", "d", "dd"]


PROGRAM = """
from seqtor import Collection, Record, Supervisor, Transaction, Trigger

class Account(Record):
    balance: int = 0

class Shuffle(Trigger[list[str]]):
    pass

system = Supervisor()
accounts = system.store("accounts", Collection(Account, initial={f"k{n * 7919 % 1000}": Account() for n in range(300)}))

@system.on(Shuffle)
def shuffle(trigger: Shuffle, tx: Transaction) -> list[str]:
    book = tx[accounts]
    for n in range(100):
        book[f"own{n * 31 % 100}"] = Account(balance=n)
    return [*book, *(key for key, _ in book.scan(prefix="own1"))]

with system:
    print("\\n".join(system.ask(Shuffle())))
    print("\\n".join(system.snapshot()[accounts]))
"""


def test_iteration_is_in_key_order_whatever_the_hash_seed() -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "4242")
    ]
    outputs = [run.communicate(timeout=60)[0].splitlines() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert outputs[0] == outputs[1] == outputs[2]
    keys = sorted({f"k{n * 7919 % 1000}" for n in range(300)} | {f"own{n}" for n in range(100)})
    assert outputs[0] == [*keys, *sorted(key for key in keys if key.startswith("own1")), *keys]


# What counts as a read --------------------------------------------------------------------------------------------


def attempts(lower_deed: Deed, deed: Deed, make: Any = simulated) -> tuple[int, dict[str, int]]:
    """How often `deed` is executed when `lower_deed`, at the seq before it, commits after its first execution."""
    system, accounts = with_collection(deed, system=make(), alice=1, bob=2, carl=3)

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        lower_deed(tx[accounts])

    with system:
        system.tell(Lower())
        system.ask(Act())
        return system.record(2).attempts, balances_of(system.snapshot()[accounts])


def put(key: str, balance: int = 50) -> Deed:
    return lambda book: book.__setitem__(key, Account(balance=balance))


def delete(key: str) -> Deed:
    return lambda book: book.__delitem__(key)


def add(key: str, balance: int = 10) -> Deed:
    return lambda book: book.increment(key, balance=balance)


CONFLICTS: list[tuple[str, Deed, Deed]] = [
    ("a key and its change", put("alice"), lambda book: book["alice"]),
    ("a key and its increment", add("alice"), lambda book: book["alice"]),
    ("a key and its end", delete("alice"), lambda book: book.get("alice")),
    ("an absent key and its appearance", put("zoe"), lambda book: book.get("zoe")),
    ("`in` and its appearance", put("zoe"), lambda book: "zoe" in book),
    ("`in` and its end", delete("bob"), lambda book: "bob" in book),
    ("len and a new key", put("zoe"), len),
    ("len and a deleted key", delete("bob"), len),
    ("iteration and a new key", put("zoe"), list),
    ("iteration and an increment that makes a key", add("zoe"), list),
    ("values and a change", put("bob"), lambda book: sum(account.balance for account in book.values())),
    ("a scan and a change in it", put("bob"), lambda book: list(book.scan(prefix="b"))),
    ("a scan and a new key in it", put("b"), lambda book: list(book.scan(prefix="b"))),
    ("a scan and a deleted key in it", delete("bob"), lambda book: list(book.scan(start="b", stop="c"))),
    ("an empty scan and a new key in it", put("x1"), lambda book: list(book.scan(prefix="x"))),
    ("an open scan and a new key behind it", put("zoe"), lambda book: list(book.scan(start="d"))),
    ("deleting a key and its change", put("alice"), delete("alice")),
    ("setdefault and a change", put("alice"), lambda book: book.setdefault("alice", Account())),
    ("a read after an own increment and a change", put("alice"), lambda book: (add("alice")(book), book["alice"])),
    ("a scan with own writes and a new key", put("zoe"), lambda book: (put("yan")(book), list(book.scan(start="y")))),
]
NO_CONFLICTS: list[tuple[str, Deed, Deed]] = [
    ("a key and another's change", put("bob"), lambda book: book["alice"]),
    ("an absent key and another's appearance", put("yan"), lambda book: book.get("zoe")),
    ("a scan and a change beside it", put("carl"), lambda book: list(book.scan(prefix="b"))),
    ("a scan and a new key at its end", put("c"), lambda book: list(book.scan(start="b", stop="c"))),
    ("a blind write and a change of it", put("alice"), put("alice", 60)),
    ("an increment and an increment", add("alice"), add("alice", 20)),
    ("an increment and a change", put("alice"), add("alice", 20)),
    ("an increment and the end of its key", delete("alice"), add("alice", 20)),
    ("a key and a write that changes nothing", put("alice", 1), lambda book: book["alice"]),
    ("a key and an increment by nothing", add("alice", 0), lambda book: book["alice"]),
    ("len and a key that came and went", lambda book: (put("zoe")(book), delete("zoe")(book)), len),
    ("an own write that was read again", put("alice"), lambda book: (put("alice", 60)(book), book["alice"])),
    ("a scan that was not begun", put("bob"), lambda book: None),
]


@pytest.mark.parametrize(("lower_deed", "deed"), [case[1:] for case in CONFLICTS], ids=[case[0] for case in CONFLICTS])
def test_what_was_read_and_has_changed_is_a_conflict(lower_deed: Deed, deed: Deed) -> None:
    assert attempts(lower_deed, lambda book: (deed(book), None)[1])[0] == 2


@pytest.mark.parametrize(
    ("lower_deed", "deed"), [case[1:] for case in NO_CONFLICTS], ids=[case[0] for case in NO_CONFLICTS]
)
def test_what_was_not_read_is_no_conflict(lower_deed: Deed, deed: Deed) -> None:
    assert attempts(lower_deed, lambda book: (deed(book), None)[1])[0] == 1


@pytest.mark.parametrize(
    ("lower_deed", "deed", "alice"),
    [
        (add("alice", 10), add("alice", 20), 31),
        (put("alice", 50), add("alice", 20), 70),
        (delete("alice"), add("alice", 20), 20),
        (put("alice", 50), put("alice", 60), 60),
        (put("alice", 50), lambda book: (put("alice", 60)(book), add("alice", 5)(book)), 65),
        (put("alice", 50), lambda book: (add("alice", 5)(book), put("alice", 60)(book)), 60),
        (put("alice", 50), lambda book: (add("alice", 5)(book), add("alice", 6)(book)), 61),
    ],
)
def test_blind_writes_act_on_the_state_as_of_the_seq_before(lower_deed: Deed, deed: Deed, alice: int) -> None:
    executed, balances = attempts(lower_deed, lambda book: (deed(book), None)[1])
    assert (executed, balances["alice"]) == (1, alice)


# Increments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [simulated, threaded])
def test_increments_add_up_and_never_conflict_with_each_other(make: Any) -> None:
    system, accounts = with_collection(add("alice", 1), system=make())
    with system:
        for submission in system.submit_many([Act()] * 200):
            submission.result(WAIT_S)
        assert system.snapshot()[accounts]["alice"].balance == 200
        assert system.conflicts().executions == 200
        assert system.stats().conflicts == 0


def test_an_increment_starts_from_the_model_s_defaults() -> None:
    class Scored(Record):
        points: int = 100
        hits: float = 0.5

    system, accounts = with_collection(lambda book: book.increment("new", points=5), spec=Collection(Scored))
    with system:
        system.ask(Act())
        assert system.snapshot()[accounts]["new"] == Scored(points=105, hits=0.5)


def test_an_increment_of_a_model_without_defaults_needs_the_key() -> None:
    class Named(Record):
        name: str
        points: int

    spec = Collection(Named, initial={"there": Named(name="x", points=1)})
    system, accounts = with_collection(
        lambda book: book.increment("there", points=5), lambda book: book.increment("absent", points=5), spec=spec
    )
    with system:
        system.ask(Act(what=0))
        with pytest.raises(HandlerFailed) as caught:
            system.ask(Act(what=1))
        assert isinstance(caught.value.__cause__, ValidationError)
        assert dict(system.snapshot()[accounts]) == {"there": Named(name="x", points=6)}


def test_several_fields_are_incremented_at_once_and_other_numbers_too() -> None:
    spec = Collection(Stock, initial={"a": Stock(units=1, price=decimal.Decimal("0.10"), name="gold")})

    def deed(book: View) -> None:
        book.increment("a", units=2, price=decimal.Decimal("0.20"))
        book.increment("a", units=-1)
        assert book["a"] == Stock(units=2, price=decimal.Decimal("0.30"), name="gold")

    system, accounts = with_collection(deed, spec=spec)
    with system:
        system.ask(Act())
        assert system.snapshot()[accounts]["a"] == Stock(units=2, price=decimal.Decimal("0.30"), name="gold")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"unit": 1}, "Stock has no field 'unit'; it has units, price, name"),
        ({"units": "1"}, "increment units='1': an amount must be a number"),
        ({"units": None}, "an amount must be a number"),
        ({"units": True}, "an amount must be a number"),
        ({"units": (1,)}, "an amount must be a number"),
        ({"units": [1]}, "an amount must be a number"),
    ],
)
def test_an_increment_of_what_cannot_be_incremented_is_refused_at_once(fields: Any, expected: str) -> None:
    system, _ = with_collection(lambda book: book.increment("a", **fields), spec=Collection(Stock))
    with system, pytest.raises(HandlerFailed, match=expected) as caught:
        system.ask(Act())
    assert isinstance(caught.value.__cause__, TypeError)


def test_an_increment_that_leaves_the_model_s_bounds_fails_its_run_at_the_commit() -> None:
    system, accounts = with_collection(
        lambda book: book.increment("a", units=-6), spec=Collection(Stock, initial={"a": Stock(units=10)})
    )
    with system:
        first, second = system.submit_many([Act(), Act()])
        first.result()
        with pytest.raises(HandlerFailed) as caught:
            second.result()
        assert isinstance(caught.value.__cause__, ValidationError)
        assert system.record(2).attempts == 1, "what fails on the state of the seq before fails for good"
        assert system.snapshot()[accounts]["a"].units == 4


# Nobody changes what others see -----------------------------------------------------------------------------------


class Cart(BaseModel):
    """A model that can be changed in place."""

    items: list[str] = []
    nested: dict[str, list[int]] = {}


class HasList(Record):
    """A frozen record with a list in it."""

    items: list[str] = []  # noqa: RUF012


class HasAny(Record):
    """A frozen record that may hold anything."""

    items: Any = None


class Open(Record):
    """A frozen record with further fields."""

    model_config = ConfigDict(extra="allow")


class Private(Record):
    """A frozen record with a private part."""

    name: str = ""
    _items: list[str] = PrivateAttr(default_factory=lambda: ["one"])

    @property
    def items(self) -> list[str]:
        return self._items


@pytest.mark.parametrize(
    "value",
    [Cart(items=["one"]), HasList(items=["one"]), HasAny(items=["one"]), Open(items=["one"]), Private()],  # type: ignore[call-arg]
    ids=lambda value: type(value).__name__,
)
def test_a_handler_that_changes_what_it_read_changes_nothing_for_anyone(value: Any) -> None:
    heard: list[list[str]] = []
    ways: list[Deed] = [
        lambda book: book["a"],
        lambda book: book.get("a"),
        lambda book: dict(book)["a"],
        lambda book: next(iter(book.values())),
        lambda book: next(book.scan())[1],
        lambda book: book.setdefault("a", type(value)()),
    ]

    def vandal(book: View) -> None:
        for way in ways:
            heard.append(list(way(book).items))
            way(book).items.append("two")
            heard.append(list(way(book).items))

    spec = Collection(type(value), initial={"a": value})
    value.items.append("zero")
    system, carts = with_collection(vandal, lambda book: None, spec=spec)
    with system:
        before = system.snapshot()
        system.ask(Act(what=0))
        assert heard == [["one"]] * 12
        for snapshot in (before, system.snapshot()):
            assert snapshot[carts]["a"].items == ["one"]
        assert "at seq 0" in repr(carts)


def test_what_was_written_is_as_it_was_when_it_was_written() -> None:
    def deed(carts: View) -> None:
        cart = Cart(items=["one"])
        carts["a"] = cart
        cart.items.append("two")
        assert carts["a"].items == ["one"]
        carts["a"].items.append("three")
        carts["b"] = carts["a"]
        taken = carts["b"]
        taken.items.append("four")
        carts["b"] = taken
        taken.items.append("five")

    system, carts = with_collection(deed, spec=Collection(Cart))
    with system:
        system.ask(Act())
        snapshot = system.snapshot()[carts]
        assert (snapshot["a"].items, snapshot["b"].items) == (["one"], ["one", "four"])


def test_an_immutable_record_is_shared_and_not_copied() -> None:
    original = Account(balance=1)
    system, accounts = with_collection(
        lambda book: book["a"] is original, spec=Collection(Account, initial={"a": original})
    )
    with system:
        assert system.ask(Act()) is True
        assert system.snapshot()[accounts]["a"] is original


def test_a_subclass_that_can_be_changed_in_place_is_refused_where_its_base_is_kept() -> None:
    class Tagged(Account):
        tags: list[str] = []  # noqa: RUF012

    class Named(Account):
        name: str = "x"

    system, accounts = with_collection(
        lambda book: book.__setitem__("a", Tagged()), lambda book: book.__setitem__("a", Named(balance=1))
    )
    with system:
        with pytest.raises(HandlerFailed, match=r"the store keeps Account, and Tagged.tags is a list"):
            system.ask(Act(what=0))
        system.ask(Act(what=1))
        assert system.snapshot()[accounts]["a"] == Named(balance=1)


# Invariants -------------------------------------------------------------------------------------------------------


def total_is_covered(book: Mapping[str, Account]) -> bool:
    return sum(account.balance for account in book.values()) >= 0


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_state_that_breaks_an_invariant_is_never_committed(make: Any) -> None:
    spec = Collection(Account, initial={"a": Account(balance=100)}, invariants=[total_is_covered])
    system, accounts = with_collection(lambda book: book.increment("a", balance=-60), system=make(), spec=spec)
    with system:
        first, second = system.submit_many([Act(), Act()])
        first.result(WAIT_S)
        with pytest.raises(Rejected, match="invariant total_is_covered does not hold") as caught:
            second.result(WAIT_S)
        assert caught.value.code == "invariant"
        assert system.record(2).attempts == 1, "nothing is retried"
        assert system.snapshot()[accounts]["a"].balance == 40


def test_an_invariant_sees_the_whole_new_state_in_key_order() -> None:
    seen: list[list[tuple[str, int]]] = []

    def watch(book: Mapping[str, Account]) -> bool:
        assert isinstance(book, Mapping)
        assert (len(book), "zz" in book, book.get("zz")) == (len(list(book)), False, None)
        seen.append([(key, account.balance) for key, account in book.items()])
        return True

    spec = Collection(Account, initial={"b": Account(balance=2), "a": Account(balance=1)}, invariants=[watch])
    system, _ = with_collection(lambda book: (book.increment("c", balance=3), book.pop("b"))[0], spec=spec)
    with system:
        system.ask(Act())
    assert seen == [[("a", 1), ("b", 2)], [("a", 1), ("c", 3)]]


def raises(book: Any) -> bool:
    if book:
        raise LookupError("nothing there")
    return True


def answers_one(book: Any) -> Any:
    return 1 if book else True


def rejects(book: Any) -> bool:
    if book:
        raise Rejected("closed", "closed", day="sunday")
    return True


@pytest.mark.parametrize(
    ("invariant", "expected", "code"),
    [
        (raises, "invariant raises raised LookupError: nothing there", "invariant"),
        (answers_one, "invariant answers_one returned int: it must return a bool or raise", "invariant"),
        (rejects, r"closed \(day='sunday'\)", "closed"),
        (lambda book: not book, "invariant <lambda> does not hold", "invariant"),
    ],
)
def test_an_invariant_that_raises_or_does_not_answer_rejects(invariant: Any, expected: str, code: str) -> None:
    system, accounts = with_collection(put("a"), spec=Collection(Account, invariants=[lambda book: True, invariant]))
    with system:
        with pytest.raises(Rejected, match=expected) as caught:
            system.ask(Act())
        assert caught.value.code == code
        assert dict(system.snapshot()[accounts]) == {}


def test_an_invariant_that_returns_nothing_has_not_objected() -> None:
    system, accounts = with_collection(put("a"), spec=Collection(Account, invariants=[lambda book: None]))
    with system:
        system.ask(Act())
        assert list(system.snapshot()[accounts]) == ["a"]


def test_an_invariant_cannot_change_the_state() -> None:
    def vandal(carts: Mapping[str, Cart]) -> bool:
        for cart in carts.values():
            cart.items.append("x")
        return True

    system, carts = with_collection(
        lambda view: view.__setitem__("a", Cart(items=["one"])), spec=Collection(Cart, invariants=[vandal])
    )
    with system:
        system.ask(Act())
        assert system.snapshot()[carts]["a"].items == ["one"]


def test_invariants_do_not_run_when_nothing_changes_or_another_store_does() -> None:
    calls: list[int] = []
    spec = Collection(Account, initial={"a": Account(balance=1)}, invariants=[lambda book: calls.append(1)])
    system, _ = with_collection(put("a", 1), lambda book: book["a"].balance, spec=spec)
    with system:
        system.ask(Act(what=0))
        system.ask(Act(what=1))
    assert calls == [1], "once, for the initial content"


def test_the_model_s_own_validators_run_off_the_core_and_are_final() -> None:
    class Even(Record):
        number: int = 0

        @field_validator("number")
        @classmethod
        def is_even(cls, number: int) -> int:
            if number % 2:
                raise ValueError("odd")
            return number

    system, numbers = with_collection(lambda view: view.increment("a", number=1), spec=Collection(Even))
    with system:
        with pytest.raises(HandlerFailed, match="odd"):
            system.ask(Act())
        assert dict(system.snapshot()[numbers]) == {}


def test_a_large_collection_is_cleared_in_one_run() -> None:
    spec = Collection(Account, initial={f"k{n:05}": Account() for n in range(10_000)})
    system, accounts = with_collection(lambda book: book.clear(), spec=spec)
    with system:
        system.ask(Act())
        assert len(system.snapshot()[accounts]) == 0
