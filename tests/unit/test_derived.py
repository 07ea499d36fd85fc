"""Derived stores: what follows from what, in commits, after starts, and when their functions are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from seqtor import (
    Collection,
    CollectionView,
    Derived,
    DerivedUnreadable,
    Document,
    DocumentView,
    HandlerFailed,
    Record,
    RegistrationError,
    Rejected,
    SourceChange,
    StoreRef,
    Supervisor,
    Transaction,
    Trigger,
    on_event,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.derived import Reconciled, ReconcileDerived
from tests.programs import threaded


class Order(Record):
    amount: int
    open: bool = True


class Tariff(Record):
    factor: int = 1


class Totals(Record):
    """What the orders come to."""

    count: int = 0
    amount: int = 0
    largest: str = ""


class Put(Trigger[None]):
    key: str
    amount: int


class Drop(Trigger[None]):
    keys: tuple[str, ...]


class Refuse(Trigger[None]):
    """Writes, and is rejected."""


class SetFactor(Trigger[None]):
    factor: int


class Look(Trigger[int]):
    """Reads the amount."""


class Meddle(Trigger[None]):
    """Writes to what is derived."""


class Alarmed(Trigger[None]):
    """What reactions to alarms start."""

    code: str
    payload: str


def rebuilt(orders: Mapping[str, Order], tariff: DocumentView[Tariff]) -> Totals:
    factor = tariff.value.factor
    amounts = {key: order.amount * factor for key, order in orders.items()}
    largest = max(amounts, key=lambda key: (amounts[key], key), default="")
    return Totals(count=len(amounts), amount=sum(amounts.values()), largest=largest)


class Sum(Record):
    count: int = 0
    amount: int = 0


def summed(orders: Mapping[str, Order]) -> Sum:
    return Sum(count=len(orders), amount=sum(order.amount for order in orders.values()))


def folded(value: Sum, changes: Sequence[SourceChange]) -> Sum:
    count, amount = value.count, value.amount
    for change in changes:
        count += (change.new is not None) - (change.old is not None)
        amount += (change.new.amount if change.new else 0) - (change.old.amount if change.old else 0)
    return Sum(count=count, amount=amount)


class Shop:
    """Orders, a tariff, and what is derived from them: `totals` as a whole, `sums` by what changes."""

    def __init__(
        self,
        backend: MemoryBackend | None = None,
        *,
        seed: int | None = 3,
        rebuild: Callable[..., Totals] = rebuilt,
        fold: Callable[..., Sum] = folded,
        reconcile: float | None = None,
        guard: Callable[..., int] | None = None,
        **options: Any,
    ) -> None:
        made = SimulatedDispatchers(seed) if seed is not None else None
        self.system = system = Supervisor(backend, dispatchers=None if made is None else lambda _: made)
        self.dispatchers = made
        initial = {"first": Order(amount=5)}
        self.orders: StoreRef[CollectionView[Order]] = system.store("orders", Collection(Order, initial=initial))
        self.tariff: StoreRef[DocumentView[Tariff]] = system.store("tariff", Document(Tariff))
        self.totals = system.store(
            "totals", Derived(Totals, [self.orders, self.tariff], rebuild=rebuild, reconcile=reconcile)
        )
        self.sums = system.store(
            "sums", Derived(Sum, [self.orders], rebuild=summed, fold=fold, reconcile=reconcile, guard=guard)
        )
        self.alarms: list[tuple[str, Any]] = []
        orders, tariff = self.orders, self.tariff

        @system.on(Put)
        def put(trigger: Put, tx: Transaction) -> None:
            tx[orders][trigger.key] = Order(amount=trigger.amount)

        @system.on(Drop)
        def drop(trigger: Drop, tx: Transaction) -> None:
            for key in trigger.keys:
                del tx[orders][key]

        @system.on(Refuse)
        def refuse(trigger: Refuse, tx: Transaction) -> None:
            tx[orders]["never"] = Order(amount=1)
            raise Rejected("no")

        @system.on(SetFactor)
        def set_factor(trigger: SetFactor, tx: Transaction) -> None:
            tx[tariff].update(factor=trigger.factor)

        @system.on(Look)
        def look(trigger: Look, tx: Transaction) -> int:
            return tx[self.sums].fields.amount

        @system.on(Meddle)
        def meddle(trigger: Meddle, tx: Transaction) -> None:
            tx[self.sums].fields.amount = 3  # type: ignore[misc]

        @system.on(Alarmed)
        def alarmed(trigger: Alarmed, tx: Transaction) -> None:
            self.alarms.append((trigger.code, trigger.payload))

        for code in ("seqtor.drift", "seqtor.guard"):

            @system.when(on_event(code), name=code.removeprefix("seqtor."))
            def alarm(facts: Any) -> Alarmed:
                return Alarmed(code=facts.event.code, payload=repr(facts.event.payload))

    def ask(self, trigger: Trigger[Any]) -> Any:
        return self.system.ask(trigger)

    def derived(self, seq: int | None = None) -> tuple[Totals, Sum]:
        snapshot = self.system.snapshot(seq)
        return snapshot[self.totals].value, snapshot[self.sums].value

    def expected(self, seq: int | None = None) -> tuple[Totals, Sum]:
        snapshot = self.system.snapshot(seq)
        return rebuilt(snapshot[self.orders], snapshot[self.tariff]), summed(snapshot[self.orders])


@pytest.mark.parametrize("seed", [3, None])
def test_what_is_derived_follows_from_its_sources_after_every_seq(seed: int | None) -> None:
    shop = Shop(MemoryBackend(), seed=seed)
    with shop.system:
        assert shop.derived() == (Totals(count=1, amount=5, largest="first"), Sum(count=1, amount=5))
        for trigger in (
            Put(key="a", amount=7),
            SetFactor(factor=10),
            Put(key="a", amount=2),
            Drop(keys=("a", "first")),
        ):
            shop.ask(trigger)
            assert shop.derived() == shop.expected()
        with pytest.raises(Rejected):
            shop.ask(Refuse())
        assert shop.derived() == (Totals(), Sum())
        for seq in range(shop.system.stats().committed_through + 1):
            assert shop.derived(seq) == shop.expected(seq)
        assert shop.system.verify().executed


def test_its_writes_are_in_the_commit_of_its_source_and_only_those_that_change_it() -> None:
    shop = Shop(MemoryBackend())
    with shop.system:
        shop.ask(Put(key="a", amount=7))
        shop.ask(Put(key="a", amount=3))
        newest = next(iter(shop.system.commits(limit=1)))
        assert [tuple(write[:3]) for write in newest.writes] == [
            ("orders", "a", {"amount": 3, "open": True}),
            ("totals", "amount", 8),
            ("totals", "largest", "first"),
            ("sums", "amount", 8),
        ]


def test_a_start_brings_it_back_without_its_code() -> None:
    backend = MemoryBackend()
    shop = Shop(backend)
    with shop.system:
        shop.ask(Put(key="a", amount=7))
        before = shop.derived()

    def broken(*_: Any) -> Any:
        raise AssertionError("it is in the journal")

    again = Shop(backend, rebuild=broken, fold=broken)
    with again.system:
        assert again.derived() == before


def test_one_that_the_journal_does_not_know_is_computed_at_the_start() -> None:
    backend = MemoryBackend()
    system = Supervisor(backend, dispatchers=lambda _: SimulatedDispatchers(1))
    orders = system.store("orders", Collection(Order))
    system.store("tariff", Document(Tariff))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        tx[orders][trigger.key] = Order(amount=trigger.amount)

    with system:
        system.ask(Put(key="a", amount=7))
    shop = Shop(backend)
    with shop.system:
        assert shop.derived() == shop.expected() == (Totals(count=1, amount=7, largest="a"), Sum(count=1, amount=7))
        shop.ask(Put(key="b", amount=1))
        assert shop.derived() == shop.expected()
        with pytest.raises(DerivedUnreadable, match="not computed yet"):
            shop.derived(0)
    again = Shop(backend, seed=4)
    with again.system:
        assert again.derived() == again.expected()


def test_a_function_that_raises_makes_it_unreadable_and_fails_no_commit() -> None:
    backend = MemoryBackend()

    def failing(value: Sum, changes: Sequence[SourceChange]) -> Sum:
        if any(change.key == "bad" for change in changes):
            raise ValueError("no bad ones")
        return folded(value, changes)

    shop = Shop(backend, fold=failing)
    with shop.system:
        shop.ask(Put(key="bad", amount=7))
        assert "bad" in shop.system.snapshot()[shop.orders]
        with pytest.raises(DerivedUnreadable, match="ValueError: no bad ones"):
            _ = shop.system.snapshot()[shop.sums].value
        with pytest.raises(HandlerFailed, match="DerivedUnreadable"):
            shop.ask(Look())
        assert shop.system.snapshot()[shop.totals].value == Totals(count=2, amount=12, largest="bad")
    again = Shop(backend)
    with again.system:
        with pytest.raises(DerivedUnreadable, match="no bad ones"):
            again.derived()
        again.ask(Put(key="more", amount=1))
        found = again.ask(ReconcileDerived(derived="sums"))
        assert (found.outcome, found.fields) == ("healed", ("count", "amount"))
        assert again.derived() == again.expected()
        assert again.ask(Look()) == 13
        again.ask(Put(key="more", amount=2))
        assert again.derived() == again.expected()
        assert again.system.verify().executed, "what is derived may have another function by now"


def test_a_whole_one_is_readable_again_with_the_next_commit() -> None:
    def failing(orders: Any, tariff: Any) -> Totals:
        if "bad" in orders:
            raise ValueError("no bad ones")
        return rebuilt(orders, tariff)

    shop = Shop(rebuild=failing)
    with shop.system:
        shop.ask(Put(key="bad", amount=7))
        with pytest.raises(DerivedUnreadable):
            shop.derived()
        assert shop.ask(ReconcileDerived(derived="totals")).outcome == "unreadable"
        shop.ask(Drop(keys=("bad",)))
        assert shop.derived() == shop.expected()


def test_a_drift_is_mended_and_told_and_what_is_right_is_left_alone() -> None:
    def drifting(value: Sum, changes: Sequence[SourceChange]) -> Sum:
        good = folded(value, changes)
        return good.replace(amount=good.amount + 1) if any(change.key == "odd" for change in changes) else good

    shop = Shop(fold=drifting)
    with shop.system:
        assert shop.ask(ReconcileDerived(derived="sums")).outcome == "same"
        shop.ask(Put(key="odd", amount=1))
        assert shop.derived() != shop.expected()
        found = shop.ask(ReconcileDerived(derived="sums"))
        assert (found.outcome, found.fields) == ("healed", ("amount",))
        assert shop.derived() == shop.expected()
        assert shop.ask(ReconcileDerived(derived="sums")).outcome == "same"
        with pytest.raises(Rejected, match="no derived store 'orders'"):
            shop.ask(ReconcileDerived(derived="orders"))
    assert [code for code, _ in shop.alarms] == ["seqtor.drift"]


@pytest.mark.parametrize(("left", "outcome"), [(10, "same"), (9, "refused")])
def test_the_guard_refuses_when_more_than_half_is_gone(left: int, outcome: str) -> None:
    backend = MemoryBackend()
    shop = Shop(backend)
    with shop.system:
        for number in range(19):
            shop.ask(Put(key=f"{number:02}", amount=1))
        assert shop.ask(ReconcileDerived(derived="sums")).counted == 20
    shop = Shop(backend)
    with shop.system:
        shop.ask(Drop(keys=tuple(f"{number:02}" for number in range(20 - left))))
        found: Reconciled = shop.ask(ReconcileDerived(derived="sums"))
        assert (found.outcome, found.before, found.counted) == (outcome, 20, left)
        assert shop.ask(ReconcileDerived(derived="sums")).outcome == outcome, "until somebody says that it is right"
        assert shop.ask(ReconcileDerived(derived="sums", accept_loss=True)).outcome == "same"
        assert shop.ask(ReconcileDerived(derived="sums")).outcome == "same"
    assert [code for code, _ in shop.alarms] == ["seqtor.guard"] * (2 if outcome == "refused" else 0)


def test_ten_may_go_without_anybody_being_asked_and_the_program_says_what_counts() -> None:
    shop = Shop(guard=lambda orders: 2 * len(orders))
    with shop.system:
        for number in range(4):
            shop.ask(Put(key=str(number), amount=1))
        assert shop.ask(ReconcileDerived(derived="sums")).counted == 10
        shop.ask(Drop(keys=("0", "1", "2", "3", "first")))
        assert shop.ask(ReconcileDerived(derived="sums")).outcome == "same"


def test_it_is_reconciled_on_its_schedule() -> None:
    def drifting(value: Sum, changes: Sequence[SourceChange]) -> Sum:
        return value

    shop = Shop(fold=drifting, reconcile=900.0)
    with shop.system:
        shop.ask(Put(key="a", amount=1))
        assert shop.derived() != shop.expected()
        assert shop.dispatchers is not None
        shop.dispatchers.run_until(lambda: False, 901)
        assert shop.derived() == shop.expected()


def test_nobody_writes_it_and_its_functions_write_nothing() -> None:
    def writing(orders: Any, tariff: Any) -> Totals:
        orders["x"] = Order(amount=1)
        return Totals()

    shop = Shop(rebuild=writing)
    with shop.system:
        with pytest.raises(HandlerFailed, match="follows from its sources"):
            shop.ask(Meddle())
        with pytest.raises(DerivedUnreadable, match="read-only"):
            shop.derived()


def test_reads_of_what_is_derived_are_as_those_of_any_store() -> None:
    system = threaded()
    orders = system.store("orders", Collection(Order))
    sums = system.store("sums", Derived(Sum, [orders], rebuild=summed, fold=folded, reconcile=None))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        tx[orders][trigger.key] = Order(amount=tx[sums].fields.amount + trigger.amount)

    with system:
        for submission in system.submit_many([Put(key=f"{number:03}", amount=1) for number in range(30)]):
            submission.result(20)
        amounts = [order.amount for order in system.snapshot()[orders].values()]
        assert sorted(amounts) == [2**number for number in range(30)], "as one after the other"
        assert system.snapshot()[sums].value == summed(system.snapshot()[orders])


async def later(orders: Mapping[str, Order]) -> Sum:
    return summed(orders)


def test_what_is_asked_of_its_view_in_vain_says_what_to_write() -> None:
    system = Supervisor(dispatchers=lambda _: SimulatedDispatchers(1))
    orders = system.store("orders", Collection(Order))
    sums = system.store("sums", Derived(Sum, [orders], rebuild=summed, reconcile=None))
    with system:
        view: Any = system.snapshot()[sums]
        with pytest.raises(AttributeError, match=r"read view\.value\.count, or view\.fields\.count"):
            _ = view.count
        with pytest.raises(TypeError, match="one record, not a mapping"):
            _ = view["count"]
        with pytest.raises(TypeError, match="follows from its sources: write those"):
            view["count"] = 5
        assert not hasattr(view, "__len__")


def test_what_cannot_be_meant_is_refused_at_the_registration() -> None:
    system = Supervisor()
    orders = system.store("orders", Collection(Order))
    derived = system.store("sums", Derived(Sum, [orders], rebuild=summed))
    other = Supervisor().store("orders", Collection(Order))
    for make, said in (
        (lambda: Derived(Sum, orders, rebuild=summed), "takes a list of stores"),  # type: ignore[arg-type]
        (lambda: Derived(Sum, [], rebuild=summed), "at least one source"),
        (lambda: Derived(Sum, ["orders"], rebuild=summed), "what system.store"),  # type: ignore[list-item]
        (lambda: Derived(Sum, [derived], rebuild=summed), "derived itself"),
        (lambda: Derived(Sum, [orders, orders], rebuild=summed), "named twice"),
        (lambda: Derived(Sum, [orders], rebuild=3), "rebuild= takes a function"),  # type: ignore[arg-type]
        (lambda: Derived(dict, [orders], rebuild=summed), "pydantic models"),  # type: ignore[type-var]
        (
            lambda: Derived(Sum, [orders], rebuild=lambda one, other: Sum()),
            r"rebuild=: <lambda> is called with the views of orders \(missing a required argument: 'other'\)",
        ),
        (
            lambda: Derived(Sum, [orders], rebuild=summed, fold=summed),  # type: ignore[arg-type]
            "fold=: summed is called with the record so far and the changes",
        ),
        (lambda: Derived(Sum, [orders], rebuild=summed, guard=lambda: 3), "guard=: <lambda> is called with the views"),
        (lambda: Derived(Sum, [orders], rebuild=later), "not a coroutine function"),  # type: ignore[type-var]
        (
            lambda: system.store("x", Derived(Sum, [orders], rebuild=summed, reconcile=-1)),
            "store 'x': reconcile: every",
        ),
        (lambda: system.store("x", Derived(Sum, [other], rebuild=summed)), "belongs to another system"),
    ):
        with pytest.raises(RegistrationError, match=said):
            make()
