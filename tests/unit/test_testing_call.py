"""`seqtor.testing.call`: a handler on given stores, without actors."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from seqtor import (
    Access,
    Collection,
    CollectionView,
    Derived,
    Document,
    DocumentView,
    EffectContext,
    Files,
    FootprintViolation,
    Record,
    Rejected,
    StoreActor,
    StoreRef,
    Supervisor,
    Table,
    Transaction,
    Trigger,
)
from seqtor.messages.stores import Checkpoint, Write
from seqtor.testing import CallMade, NotGiven, call


class Account(Record):
    balance: int = 0


class Limits(Record):
    most: int = 100
    open: bool = True


class Transfer(Trigger[int]):
    source: str
    target: str
    amount: int


class Notice(Trigger[None]):
    text: str


class Log(StoreActor[tuple[str, ...], Any]):
    """A store of one's own."""

    def recover(self, checkpoint: Checkpoint | None) -> tuple[str, ...]:
        return ()

    @staticmethod
    def fold(state: tuple[str, ...], writes: Sequence[Write]) -> tuple[str, ...]:
        return (*state, *[str(write.op) for write in writes])

    @staticmethod
    def view(access: Access[tuple[str, ...]]) -> LogView:
        return LogView(access)


class LogView:
    def __init__(self, access: Access[tuple[str, ...]]) -> None:
        self._access = access

    def add(self, line: str) -> None:
        self._access.write("line", line)

    def lines(self) -> tuple[str, ...]:
        return self._access.state


def not_negative(state: Any) -> bool:
    return all(account.balance >= 0 for account in state.values())


system = Supervisor()
limits: StoreRef[DocumentView[Limits]] = system.store("limits", Document(Limits))
accounts: StoreRef[CollectionView[Account]] = system.store(
    "accounts", Collection(Account, initial={"alice": Account(balance=10)}, invariants=[not_negative])
)


def sum_of(book: CollectionView[Account]) -> Account:
    return Account(balance=sum(each.balance for each in book.values()))


total = system.store("total", Derived(Account, [accounts], rebuild=sum_of))
log = system.store("log", Log.spec())


@contextmanager
def opened() -> Iterator[str]:
    yield "opened"


@asynccontextmanager
async def opened_on_the_loop() -> AsyncIterator[str]:
    yield "opened"


client = system.resource("client", opened)
async_client = system.resource("async client", opened_on_the_loop)


@system.effect("mail")
def mail(context: EffectContext, text: str) -> None: ...


def fee(amount: int) -> int:
    raise AssertionError("nothing outside is called")


async def rate(currency: str) -> float:
    raise AssertionError("nothing outside is called")


@system.on(Transfer)
def transfer(trigger: Transfer, tx: Transaction) -> int:
    book = tx[accounts]
    source, target = book[trigger.source], book.get(trigger.target, Account())
    if trigger.amount > tx[limits].value.most:
        raise Rejected("above the limit", most=tx[limits].value.most)
    book[trigger.source] = source.replace(balance=source.balance - trigger.amount)
    book[trigger.target] = target.replace(balance=target.balance + trigger.amount)
    return book[trigger.source].balance


def asks(trigger: Trigger[Any], tx: Transaction) -> Any:
    return tx.call(fee, 5)


TRANSFER = Transfer(source="alice", target="bob", amount=4)
NOTICE = Notice(text="x")


def test_a_handler_is_called_on_the_content_that_is_given() -> None:
    result = call(transfer, TRANSFER, stores={accounts: {"alice": Account(balance=7)}})
    assert result.value == 3
    assert result.rejected is None
    assert result.writes == {accounts: {"alice": Account(balance=3), "bob": Account(balance=4)}}
    assert result.writes[limits] == {}
    with pytest.raises(
        KeyError, match="'nothing' is no store of the system that the handler writes to; its stores are"
    ):
        result.writes["nothing"]  # type: ignore[index]
    assert dict(result.snapshot[accounts]) == {"alice": Account(balance=3), "bob": Account(balance=4)}


def test_a_store_that_is_not_given_is_as_at_its_first_start() -> None:
    assert call(transfer, TRANSFER).value == 6
    assert call(transfer, TRANSFER, stores={limits: Limits(most=50)}).value == 6


def test_the_system_is_not_started_and_a_second_call_begins_anew() -> None:
    assert [call(transfer, TRANSFER).value for _ in range(2)] == [6, 6]
    assert repr(system) == "<Supervisor 'seqtor' not started>"


def test_a_document_is_given_whole_or_by_field() -> None:
    for given in (Limits(most=3), {"most": 3}):
        result = call(transfer, TRANSFER, stores={limits: given})
        assert str(result.rejected) == "above the limit (most=3)"
        assert result.rejected is not None
        assert result.rejected.details == {"most": 3}


def test_what_is_rejected_has_written_and_released_nothing() -> None:
    def handler(trigger: Notice, tx: Transaction) -> int:
        tx[accounts]["alice"] = Account(balance=1)
        tx.effect(mail, "hello")
        tx.submit(TRANSFER)
        raise Rejected("no")

    result = call(handler, NOTICE)
    assert (result.writes, result.effects, result.submitted, result.emitted) == ({}, [], [], [])
    assert result.writes[accounts] == {}
    assert result.snapshot[accounts]["alice"].balance == 10
    with pytest.raises(AssertionError, match=r"the handler was rejected: no; look at result\.rejected") as failed:
        _ = result.value
    assert failed.value.__cause__ is result.rejected


def test_a_broken_invariant_is_a_rejection() -> None:
    result = call(transfer, Transfer(source="alice", target="bob", amount=50))
    assert str(result.rejected) == "invariant not_negative does not hold (store='accounts')"
    assert result.writes == {}


def test_a_write_that_changes_nothing_is_no_write_and_increments_are_added() -> None:
    def handler(trigger: Notice, tx: Transaction) -> None:
        tx[accounts]["alice"] = Account(balance=10)
        tx[accounts].increment("bob", balance=2)
        tx[accounts].increment("bob", balance=3)

    assert call(handler, NOTICE).writes == {accounts: {"bob": Account(balance=5)}}


def test_a_deleted_key_is_none_and_a_document_is_told_by_field() -> None:
    def handler(trigger: Notice, tx: Transaction) -> None:
        del tx[accounts]["alice"]
        tx[limits].update(most=7)

    assert call(handler, NOTICE).writes == {accounts: {"alice": None}, limits: {"most": 7}}


def test_a_store_of_ones_own_is_given_by_its_state_and_told_by_its_writes() -> None:
    def handler(trigger: Notice, tx: Transaction) -> tuple[str, ...]:
        tx[log].add("b")
        tx[log].add("c")
        lines: tuple[str, ...] = tx[log].lines()
        return lines

    result = call(handler, NOTICE, stores={log: ("a",)})
    assert result.value == ("a", "b", "c")
    assert result.writes[log] == [("line", "b"), ("line", "c")]


def test_what_would_be_released_is_told() -> None:
    def handler(trigger: Notice, tx: Transaction) -> None:
        tx.effect(mail, "hello")
        tx.submit(TRANSFER)
        tx.emit("sent", {"to": "bob"})

    result = call(handler, NOTICE)
    assert result.effects == [(mail, "hello")]
    assert result.submitted == [TRANSFER]
    assert result.emitted == [("sent", {"to": "bob"})]


def test_an_effect_with_a_payload_that_will_not_do_is_refused_as_in_a_system() -> None:
    def wrong_payload(trigger: Notice, tx: Transaction) -> None:
        tx.effect(mail, 5)  # type: ignore[arg-type]

    def not_registered(trigger: Notice, tx: Transaction) -> None:
        tx.effect(lambda context, payload: None, 5)

    with pytest.raises(TypeError, match="the payload of the effect 'mail' is not what mail takes"):
        call(wrong_payload, NOTICE)
    with pytest.raises(Exception, match="is not registered as an effect of this system"):
        call(not_registered, NOTICE)


@pytest.mark.parametrize("answer", [7, lambda amount: amount + 2], ids=["value", "function"])
def test_calls_are_answered_by_value_or_by_a_function(answer: Any) -> None:
    result = call(asks, NOTICE, calls={fee: answer})
    assert result.value == 7
    assert result.calls == [CallMade(fee, (5,), {})]


def test_an_answer_is_what_its_json_says_as_the_function_is_annotated() -> None:
    with pytest.raises(TypeError, match=r"returned a str that cannot be serialised|does not fit what the function"):
        call(asks, NOTICE, calls={fee: "seven"})


@pytest.mark.parametrize("raised", [ConnectionError("down"), ConnectionError])
def test_an_answer_may_be_an_exception(raised: Any) -> None:
    def handler(trigger: Notice, tx: Transaction) -> str:
        try:
            return str(tx.call(fee, 5))
        except ConnectionError as error:
            return f"failed: {error}"

    assert call(handler, NOTICE, calls={fee: raised}).value.startswith("failed: ")
    with pytest.raises(ConnectionError):
        call(asks, NOTICE, calls={fee: raised})


def test_a_coroutine_function_is_called_and_its_calls_are_answered() -> None:
    async def handler(trigger: Notice, tx: Transaction) -> list[float]:
        await asyncio.sleep(0)
        return list(await asyncio.gather(tx.acall(rate, "EUR"), tx.acall(rate, "USD")))

    async def answer(currency: str) -> float:
        await asyncio.sleep(0)
        return {"EUR": 1.5, "USD": 2.0}[currency]

    assert call(handler, NOTICE, calls={rate: answer}).value == [1.5, 2.0]
    assert call(handler, NOTICE, calls={rate: 3.0}).value == [3.0, 3.0]


async def called_on_a_loop(handler: Callable[[Any, Transaction], Any]) -> Any:
    return call(handler, NOTICE, calls={rate: 3.0}).value


def test_it_works_where_an_event_loop_runs() -> None:
    async def handler(trigger: Notice, tx: Transaction) -> float:
        return await tx.acall(rate, "EUR")

    assert asyncio.run(called_on_a_loop(handler)) == 3.0


def test_a_called_function_gets_no_transaction() -> None:
    def handler(trigger: Notice, tx: Transaction) -> Any:
        return tx.call(fee, 1)

    kept: list[Transaction] = []

    def answer(amount: int) -> int:
        return len(kept[0][accounts])

    def outer(trigger: Notice, tx: Transaction) -> Any:
        kept.append(tx)
        return handler(trigger, tx)

    with pytest.raises(Exception, match=r"used inside a function that tx\.call or tx\.acall calls"):
        call(outer, NOTICE, calls={fee: answer})


def test_a_call_that_is_not_given_says_how_to_give_it() -> None:
    with pytest.raises(NotGiven) as failed:
        call(asks, NOTICE)
    assert str(failed.value) == (
        "the handler calls fee(5), and the test gives no answer for it (given: none): pass calls={fee: ...} with the "
        "answer, an exception, or a function that is called instead"
    )


def test_a_call_that_is_not_given_is_told_even_if_the_handler_swallows_it() -> None:
    def handler(trigger: Notice, tx: Transaction) -> int:
        try:
            return int(tx.call(fee, 5))
        except BaseException:
            return 0

    with pytest.raises(NotGiven, match=r"given: .*\.rate"):
        call(handler, NOTICE, calls={rate: 5})


def test_resources_are_given_by_reference() -> None:
    def handler(trigger: Notice, tx: Transaction) -> str:
        return str(tx.resource(client))

    async def on_the_loop(trigger: Notice, tx: Transaction) -> str:
        return str(await tx.resource(async_client))

    assert call(handler, NOTICE, resources={client: "stand-in"}).value == "stand-in"
    assert call(on_the_loop, NOTICE, resources={async_client: "stand-in"}).value == "stand-in"
    with pytest.raises(NotGiven, match=r"uses the resource 'client', and the test does not give it: pass resources="):
        call(handler, NOTICE)


def test_time_random_and_ids_are_the_same_in_every_call() -> None:
    def handler(trigger: Notice, tx: Transaction) -> list[str]:
        return [str(tx.now), str(tx.scheduled_for), str(tx.random.random()), str(tx.uuid4())]

    assert call(handler, NOTICE).value == call(handler, NOTICE).value
    moment = datetime.datetime(2026, 1, 31, 9, tzinfo=datetime.UTC)
    result = call(handler, NOTICE, now=moment, scheduled_for=moment)
    assert result.value[:2] == ["2026-01-31 09:00:00+00:00"] * 2
    with pytest.raises(ValueError, match="take aware datetimes"):
        call(handler, NOTICE, now=datetime.datetime(2026, 1, 31))  # noqa: DTZ001


def test_the_seq_and_the_attempt_are_as_given() -> None:
    def handler(trigger: Notice, tx: Transaction) -> tuple[int | None, int]:
        return tx.seq, tx.attempt

    assert call(handler, NOTICE, seq=7, attempt=2).value == (7, 2)
    assert call(handler, NOTICE, sequence="completion").value == (None, 1)


@pytest.mark.parametrize("sequence", ["arrival", "completion"])
def test_what_the_first_attempt_read_may_differ(sequence: Any) -> None:
    def handler(trigger: Notice, tx: Transaction) -> tuple[int, bool, bool, bool]:
        before = tx.peek(accounts)["alice"].balance
        tx.peek(log)
        changed = tx.changed(accounts, "alice"), tx.changed(limits, "most"), tx.changed(log, "line")
        return (before, *changed)

    given = {accounts: {"alice": Account(balance=8)}}
    assert call(handler, NOTICE, stores=given, sequence=sequence).value == (8, False, False, False)
    before = {accounts: {"alice": Account(balance=9)}, log: ("a",)}
    result = call(handler, NOTICE, stores=given, peek=before, sequence=sequence)
    assert result.value == (9, True, False, True)


def test_an_exception_of_the_handler_is_raised_with_its_traceback() -> None:
    def handler(trigger: Notice, tx: Transaction) -> None:
        raise KeyError(trigger.text)

    with pytest.raises(KeyError) as failed:
        call(handler, NOTICE)
    assert failed.traceback[-1].name == "handler"


def test_content_that_does_not_fit_its_store_is_refused() -> None:
    with pytest.raises(TypeError, match=r"stores= for 'accounts': the store keeps Account, got Limits"):
        call(transfer, TRANSFER, stores={accounts: {"alice": Limits()}})
    with pytest.raises(TypeError, match=r"stores= for 'limits': Limits has no field 'least'; it has most, open"):
        call(transfer, TRANSFER, stores={limits: {"least": 1}})
    with pytest.raises(ValueError, match=r"'accounts' is no content that the store could have: invariant not_negative"):
        call(transfer, TRANSFER, stores={accounts: {"alice": Account(balance=-1)}})
    with pytest.raises(
        TypeError, match=r"stores= takes contents by the StoreRef that system.store\(\) returned, got 'x'"
    ):
        call(transfer, TRANSFER, stores={accounts: {}, "x": {}})  # type: ignore[dict-item]


def test_what_is_derived_follows_from_what_is_given() -> None:
    def handler(trigger: Notice, tx: Transaction) -> int:
        tx[accounts]["bob"] = Account(balance=5)
        return tx[total].value.balance

    result = call(handler, NOTICE, stores={accounts: {"alice": Account(balance=3)}})
    assert result.value == 3
    assert result.writes == {accounts: {"bob": Account(balance=5)}}
    assert result.snapshot[total].value == Account(balance=8)
    with pytest.raises(
        TypeError, match="stores= for 'total': it is derived from accounts, so give the content of these"
    ):
        call(handler, NOTICE, stores={total: Account()})


def test_files_and_rows_are_given_and_told_by_key(tmp_path: Path) -> None:
    program = Supervisor()
    files = program.store("files", Files(tmp_path / "files"))
    rows = program.store("rows", Table(f"sqlite:///{tmp_path}/rows.db", Account))

    def handler(trigger: Notice, tx: Transaction) -> object:
        tx[files]["b.txt"] = "new"
        tx[rows]["x"] = Account(balance=len(tx[rows]))
        return tx[files]["a.txt"]

    result = call(handler, NOTICE, stores={files: {"a.txt": "given"}, rows: {"y": Account()}})
    assert result.value == "given"
    assert result.writes == {files: {"b.txt": "new"}, rows: {"x": Account(balance=1)}}
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_system_is_refused() -> None:
    other = Supervisor().store("accounts", Collection(Account))
    with pytest.raises(Exception, match="the store 'accounts' belongs to another system"):
        call(transfer, TRANSFER, stores={other: {}})


def test_a_handler_with_a_wrong_signature_is_refused() -> None:
    def handler(trigger: Notice) -> None: ...

    with pytest.raises(Exception, match=r"it is called with \(trigger, tx\)"):
        call(cast("Any", handler), NOTICE)


def test_a_trigger_that_carries_its_own_handler_is_called_through_its_class() -> None:
    class Deposit(Trigger[int]):
        amount: int

        def execute(self, tx: Transaction) -> int:
            tx[accounts].increment("alice", balance=self.amount)
            return self.amount

    execute: Callable[[Deposit, Transaction], int] = Deposit.execute
    result = call(execute, Deposit(amount=3))
    assert (result.value, result.writes[accounts]) == (3, {"alice": Account(balance=13)})


def test_the_result_says_what_it_is() -> None:
    assert repr(call(transfer, Transfer(source="alice", target="bob", amount=0))).startswith(
        "<CallResult 10, writes {'acc"
    )
    assert repr(call(transfer, Transfer(source="alice", target="bob", amount=101))) == (
        "<CallResult rejected: above the limit (most=100)>"
    )


# What cannot be called -----------------------------------------------------------------------------------------------


class Put(Trigger[None]):
    key: str


class Other(Trigger[None]):
    pass


footprints = Supervisor()
left = footprints.store("left", Collection(Account))
right = footprints.store("right", Collection(Account))


def put(trigger: Put, tx: Transaction) -> None:
    tx[left][trigger.key] = Account(balance=1)


@pytest.mark.parametrize("writes", [[left], lambda put: [(left, put.key)], lambda put: [left, (right, "x")]])
def test_what_is_in_the_footprint_may_be_written(writes: Any) -> None:
    assert call(put, Put(key="a"), writes=writes).writes[left] == {"a": Account(balance=1)}


@pytest.mark.parametrize("writes", [[right], [], lambda put: [(left, "b")], lambda put: []])
def test_what_is_not_in_the_footprint_ends_the_call(writes: Any) -> None:
    with pytest.raises(FootprintViolation, match="left"):
        call(put, Put(key="a"), writes=writes)


@pytest.mark.parametrize(
    ("trigger", "options", "error", "text"),
    [
        (Put, {}, TypeError, r"takes a trigger, got the class Put: make one, Put\(...\)"),
        (Other(), {}, TypeError, r"put takes a Put, got Other\(\): call it with a trigger of its own type"),
        ("put", {}, TypeError, "takes a trigger, an instance of a Trigger subclass, got 'put'"),
        (Put(key="a"), {"attempt": 0}, ValueError, "takes attempt= from 1, an int, got 0"),
        (Put(key="a"), {"seq": "1"}, ValueError, "takes seq= from 1, an int, got '1'"),
        (Put(key="a"), {"calls": {"quote": 5}}, TypeError, "calls= takes answers by the function .* got 'quote'"),
        (Put(key="a"), {"writes": "left"}, Exception, "writes= of the handler of Put"),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(
    trigger: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call(put, trigger, **options)


def test_a_handler_that_does_not_say_what_it_takes_takes_any_trigger() -> None:
    def anything(trigger: Any, tx: Transaction) -> int:
        return 3

    def unknown(trigger: NotThere, tx: Transaction) -> int:  # type: ignore[name-defined]  # noqa: F821
        return 4

    assert call(anything, Other()).value == 3
    assert call(unknown, Other()).value == 4
