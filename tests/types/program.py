"""A program as a user writes it, with what the type checkers must infer. Read by them, never executed."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, assert_type

from pydantic import BaseModel

from seqtor import (
    Access,
    Bundle,
    Collection,
    CollectionView,
    CommitIntent,
    ConflictReport,
    DeadLetterRecord,
    Document,
    DocumentView,
    EffectContext,
    EventFact,
    Facts,
    FailureFact,
    Priority,
    Record,
    Rejected,
    ResourceRef,
    Retry,
    RunRecord,
    ScheduleRecord,
    ScheduleRef,
    Settings,
    Snapshot,
    State,
    Stats,
    StoreActor,
    StoreRef,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
    current_transaction,
    on_event,
    on_failure,
    on_result,
    on_status,
)
from seqtor.actors import Checkpoint, Commit, StoreSpec, Write
from seqtor.testing import CallResult, call, run


class Account(Record):
    """An immutable pydantic model kept in a store."""

    balance: int = 0
    owner: str | None = None


class Board(BaseModel):
    """A mutable pydantic model kept in a document."""

    title: str = ""
    names: list[str] = []


class Transfer(Trigger[int]):
    """An immutable pydantic message; its result is an int."""

    source: str
    target: str
    amount: int


class Note(Trigger):
    """A trigger that promises nothing about its result."""

    text: str
    priority = Priority.HIGH

    @property
    def event_time(self) -> datetime.datetime:
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Count(Trigger[list[str]]):
    """Carries its own work."""

    prefix: str = ""

    async def execute(self, tx: Transaction) -> list[str]:
        return [key for key, _ in tx[accounts].scan(prefix=self.prefix)]


# A user's own store -----------------------------------------------------------------------------------------------


class LedgerView:
    """What `tx[ledger]` returns."""

    def __init__(self, access: Access[dict[str, int]]) -> None:
        self._access = access

    def total(self) -> int:
        return sum(self._access.state.values())


class Ledger(StoreActor[dict[str, int], LedgerView]):
    """Integers by key."""

    dispatcher = "core"

    def __init__(self, limit: int = 9) -> None:
        self._limit = limit

    def recover(self, checkpoint: Checkpoint | None) -> dict[str, int]:
        return {}

    def validate(self, old: dict[str, int], new: dict[str, int], commit: Commit) -> None:
        if len(new) > self._limit:
            raise Rejected("full", limit=self._limit)

    @staticmethod
    def fold(state: dict[str, int], writes: Sequence[Write]) -> dict[str, int]:
        return {**state, **{write.key: write.op for write in writes}}

    @staticmethod
    def view(access: Access[dict[str, int]]) -> LedgerView:
        return LedgerView(access)


# Registration -----------------------------------------------------------------------------------------------------

system = Supervisor(settings={"max_queued": 100})
assert_type(
    Supervisor(settings=Settings(deadline=datetime.timedelta(minutes=1), max_queued=3)).settings.deadline, float
)

accounts = system.store("accounts", Collection(Account, initial={"alice": Account(balance=100)}))
board = system.store("board", Document(Board, invariants=[lambda board: len(board.names) < 10]))
ledger = system.store("ledger", Ledger.spec(limit=9))
assert_type(accounts, StoreRef[CollectionView[Account]])
assert_type(board, StoreRef[DocumentView[Board]])
assert_type(Ledger.spec(limit=9), StoreSpec[LedgerView])
assert_type(ledger, StoreRef[LedgerView])
assert_type(system.stores["accounts"], StoreRef[Any])


@system.on(Transfer, priority=Priority.URGENT, deadline=datetime.timedelta(seconds=5))
def transfer(trigger: Transfer, tx: Transaction) -> int:
    book = tx[accounts]
    assert_type(book, CollectionView[Account])
    assert_type(book["alice"], Account)
    assert_type(tx[accounts]["alice"].balance, int)
    assert_type(book.get("alice"), Account | None)
    assert_type(book.get("alice", Account()), Account)
    assert_type(book.get("alice", 3), Account | int)
    assert_type(book.pop("alice"), Account)
    assert_type(book.setdefault("alice", Account()), Account)
    assert_type(list(book), list[str])
    assert_type(list(book.items()), list[tuple[str, Account]])
    assert_type(list(book.values()), list[Account])
    assert_type(book.scan(prefix="a"), Iterator[tuple[str, Account]])
    assert_type(len(book), int)
    assert_type("alice" in book, bool)
    assert_type(book["alice"].replace(balance=3), Account)
    book["bob"] = Account(balance=1)
    book.increment("bob", balance=5)
    del book["bob"]

    assert_type(tx[board].value, Board)
    assert_type(tx[board].fields.title, str)
    assert_type(tx[board].fields.names, list[str])
    tx[board].update(title="x")
    tx[board].set(Board(title="x"))

    assert_type(tx[ledger], LedgerView)
    assert_type(tx[ledger].total(), int)
    assert_type(tx.peek(accounts)["alice"], Account)
    assert_type(tx.peek(board).fields.title, str)
    assert_type(tx.changed(accounts, "alice"), bool)
    assert_type(tx.read(accounts), tuple[int, Any])
    assert_type(tx.prepare_commit(accounts, 3, {}), CommitIntent)
    assert_type(tx.now, datetime.datetime)
    assert_type(tx.scheduled_for, datetime.datetime | None)
    assert_type(tx.random.random(), float)
    assert_type(tx.uuid4().hex, str)
    assert_type(tx.attempt, int)
    assert_type(current_transaction(), Transaction)
    if book["alice"].balance < trigger.amount:
        raise Rejected("insufficient funds", "poor", balance=book["alice"].balance)
    return book["alice"].balance


# The decorator returns the function as it was: it can be called and tested like any other.
assert_type(transfer, Callable[[Transfer, Transaction], int])

bundle = Bundle()


@bundle.on(Note)
async def note(trigger: Note, tx: Transaction) -> str:
    return trigger.text


assert_type(bundle.schedule(Note(text="x"), cron="*/5 * * * *", name="often"), str)
system.include(bundle)


# Schedules --------------------------------------------------------------------------------------------------------

NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)
nightly = system.schedule(
    Transfer(source="alice", target="bob", amount=1), cron="30 2 * * mon-fri", timezone="Europe/Berlin", name="nightly",
    misfire="all", catch_up_max=5, overlap="queue", jitter=datetime.timedelta(seconds=20), grace=5, priority=Priority.LOW,
)  # fmt: skip
assert_type(nightly, ScheduleRef)
assert_type(system.schedule(Note(text="x"), every=datetime.timedelta(minutes=1), start=NOON, end=NOON), ScheduleRef)
assert_type(system.schedule(Count(), at=NOON), ScheduleRef)
assert_type(nightly.next(3), list[datetime.datetime])
assert_type(nightly.last, datetime.datetime | None)
assert_type(nightly.fire(), str)
assert_type(system.schedule_named("nightly"), ScheduleRef)
assert_type(system.schedules(limit=3), list[ScheduleRecord])
assert_type(system.schedules()[0].missed[0].why, str)


# Effects and resources ----------------------------------------------------------------------------------------------


class Client:
    """What is opened once."""

    def place(self, source: str, client_id: str) -> str:
        return f"{client_id} {source}"


@contextmanager
def open_client() -> Iterator[Client]:
    yield Client()


@asynccontextmanager
async def open_async_client() -> AsyncIterator[Client]:
    yield Client()


client = system.resource("client", open_client)
async_client = system.resource("async client", open_async_client)
assert_type(client, ResourceRef[Client])
assert_type(async_client, ResourceRef[Awaitable[Client]])


@system.effect("exchange.place", retry=Retry(5, backoff=datetime.timedelta(seconds=1), jitter=0.1, on=(OSError,)))
def place(context: EffectContext, order: Transfer) -> Trigger | None:
    assert_type(context.key, str)
    assert_type(context.seq, int)
    assert_type(context.attempt, int)
    assert_type(context.resource(client), Client)
    return Note(text=context.resource(client).place(order.source, client_id=context.key))


@system.effect("exchange.notify")
async def notify(context: EffectContext, text: str) -> Note | None:
    assert_type(await context.resource(async_client), Client)
    return None


@system.effect("exchange.log")
def log(context: EffectContext, order: Account | None) -> None:
    return None


@bundle.effect("desk.ring", retry=Retry(1))
def ring(context: EffectContext, times: int) -> Note:
    return Note(text="")


kept: Callable[[EffectContext, Transfer], Trigger | None] = place  # As it was: it can be called and tested.


class Release(Trigger[None]):
    """Releases effects."""


@system.on(Release)
async def release(trigger: Release, tx: Transaction) -> None:
    tx.effect(place, Transfer(source="alice", target="bob", amount=1))
    tx.effect(notify, "text")
    tx.effect(log, None)
    tx.effect(log, Account())
    tx.effect(ring, 3)
    assert_type(tx.resource(client), Client)
    assert_type(await tx.resource(async_client), Client)


def quote(symbol: str, *, limit: int = 0) -> Account:
    return Account(balance=len(current_call_id()))


async def quote_later(symbol: str) -> list[Account]:
    return []


class Ask(Trigger[None]):
    """Asks the outside."""


@system.on(Ask)
async def ask(trigger: Ask, tx: Transaction) -> None:
    assert_type(tx.call(quote, "A", limit=3), Account)
    assert_type(tx.call(client_of(tx).place, "A", client_id="1"), str)
    assert_type(await tx.acall(quote_later, "A"), list[Account])
    one, two = await asyncio.gather(tx.acall(quote_later, "A"), tx.acall(quote_later, symbol="B"))
    assert_type(one, list[Account])
    assert_type(two, list[Account])


def client_of(tx: Transaction) -> Client:
    return tx.resource(client)


# Use --------------------------------------------------------------------------------------------------------------


def test_handlers() -> None:
    result = call(transfer, Transfer(source="alice", target="bob", amount=3), stores={accounts: {}}, writes=[accounts])
    assert_type(result, CallResult[int])
    assert_type(result.value, int)
    assert_type(call(note, Note(text="x")).value, str)
    assert_type(call(note, Note(text="x"), seq=3, attempt=2).rejected, Rejected | None)
    with run(system, seed=3, calls={quote: Account()}, stores={accounts: {}}) as desk:
        assert_type(desk.ask(Transfer(source="alice", target="bob", amount=3)), int)


def use() -> None:
    moved = Transfer(source="alice", target="bob", amount=5)
    with system as entered:
        assert_type(entered, Supervisor)
        assert_type(system.ask(moved, timeout=5), int)
        assert_type(system.ask(Count(prefix="a")), list[str])
        assert_type(system.ask(Note(text="x")), Any)
        submission = system.submit(moved, priority=Priority.LOW)
        _ = assert_type(submission, Submission[int])
        assert_type(submission.result(3), int)
        assert_type(submission.seq, int | None)
        assert_type(submission.state, State)
        assert_type(submission.id, str)
        assert_type(system.submit_many([moved, moved]), list[Submission[int]])
        system.tell(moved)
        snapshot = system.snapshot()
        assert_type(snapshot, Snapshot)
        assert_type(snapshot.seq, int)
        assert_type(snapshot[accounts]["alice"], Account)
        assert_type(snapshot[board].fields.title, str)
        assert_type(snapshot[ledger].total(), int)
        assert_type(system.stats(), Stats)
        assert_type(system.stats().state_counts[State.COMMITTED], int)
        assert_type(system.record(1), RunRecord)
        assert_type(system.record(1).error, str | None)
        assert_type(system.stats().effects_through, int)
        assert_type(system.conflicts(), ConflictReport)
        assert_type(system.dead_letters(limit=3), list[DeadLetterRecord])
        assert_type(system.dead_letters()[0].error, str)
        assert_type(system.dead_letters()[0].resubmitted_as, str | None)
        assert_type(system.resubmit(system.dead_letters()[0]), Submission[Any])
        assert_type(system.record(1).retried_as, str | None)
        system.abort(1, "not wanted")
    assert_type(Supervisor().start(), Supervisor)
    system.stop(grace=datetime.timedelta(seconds=1))


async def use_async() -> AsyncIterator[int]:
    async with system as entered:
        assert_type(entered, Supervisor)
        submission = system.submit(Transfer(source="alice", target="bob", amount=5))
        assert_type(await submission, int)
        assert_type(await system.submit(Count()), list[str])
        yield await submission


opened = on_event("opened", where={"kind": "news"})
transferred = on_result(Transfer, where=lambda balance: balance > 3, trigger=lambda trigger: trigger is not None)
refused = on_status(Transfer, [State.REJECTED, "failed"])
broken = on_failure(Transfer, OSError, where={"amount": 5})


@system.when(opened | broken, name="either", priority=Priority.LOW, retry=Retry(2, backoff=0))
@system.when((opened & transferred).correlate(lambda fact: fact.id).within(datetime.timedelta(minutes=5)))
def react(facts: Facts) -> list[Transfer]:
    assert_type(facts[opened], EventFact)
    assert_type(facts[transferred].result, int)
    assert_type(facts[refused].trigger, Transfer)
    assert_type(facts[broken].trigger.amount, int)
    assert_type(facts.get(broken), FailureFact[Transfer] | None)
    assert_type(facts[broken].message, str)
    assert_type(facts.event.payload, Any)
    assert_type(facts.all[0].time, datetime.datetime)
    return []


assert_type(system.events(code="opened", matched=True)[0].started, tuple[str, ...])
assert_type(system.reactions()[0].name, str)
