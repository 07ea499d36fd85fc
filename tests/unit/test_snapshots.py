"""`system.snapshot()`: consistent, immutable, read-only, and free for everyone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import BaseModel

from seqtor import (
    Collection,
    Document,
    Record,
    RegistrationError,
    Snapshot,
    Transaction,
    Trigger,
)
from tests.programs import WAIT_S, Account, Deposit, Transfer, open_bank, simulated, threaded


class Board(Record):
    """A document."""

    title: str = "new"
    count: int = 0


class Tags(BaseModel):
    """A model that can be changed in place."""

    names: list[str] = []


def test_the_first_snapshot_is_the_initial_content_at_seq_0() -> None:
    system = simulated()
    accounts = open_bank(system, alice=3)
    with system:
        snapshot = system.snapshot()
        assert isinstance(snapshot, Snapshot)
        assert snapshot.seq == 0
        assert repr(snapshot) == "<Snapshot at seq 0>"
        assert dict(snapshot[accounts]) == {"alice": Account(balance=3)}


def test_a_snapshot_stays_as_it_is_while_the_system_goes_on() -> None:
    system = simulated()
    accounts = open_bank(system)
    board = system.store("board", Document(Board))

    class Count(Trigger[None]): ...

    @system.on(Count)
    def count(trigger: Count, tx: Transaction) -> None:
        tx[board].increment(count=1)

    with system:
        system.ask(Deposit())
        system.ask(Count())
        old = system.snapshot()
        system.ask(Deposit())
        system.ask(Count())
        new = system.snapshot()
        for snapshot, seq in ((old, 2), (new, 4)):
            assert snapshot.seq == seq
            assert snapshot[accounts]["alice"].balance == seq // 2
            assert snapshot[board].fields.count == snapshot[board].value.count == seq // 2


def test_all_stores_of_a_snapshot_are_as_of_one_seq() -> None:
    system = threaded()
    left = system.store("left", Collection(Account, initial={"a": Account()}))
    right = system.store("right", Document(Board))

    class Both(Trigger[None]):
        """Changes both stores by one."""

    @system.on(Both)
    def both(trigger: Both, tx: Transaction) -> None:
        tx[left]["a"] = Account(balance=tx[left]["a"].balance + 1)
        tx[right].update(count=tx[right].fields.count + 1)

    with system:
        submissions = system.submit_many([Both()] * 300)
        while not submissions[-1].done:
            snapshot = system.snapshot()
            assert snapshot[left]["a"].balance == snapshot[right].fields.count == snapshot.seq
        submissions[-1].result(WAIT_S)
        assert system.snapshot().seq == 300


def test_once_a_result_is_there_the_snapshot_has_it() -> None:
    system = threaded()
    accounts = open_bank(system)
    with system:
        for n in range(1, 101):
            assert system.ask(Deposit(), timeout=WAIT_S) == n
            snapshot = system.snapshot()
            assert (snapshot.seq, snapshot[accounts]["alice"].balance) == (n, n)


def test_seqs_of_snapshots_never_fall() -> None:
    system = threaded()
    open_bank(system)
    stop = threading.Event()
    seqs: list[list[int]] = [[], []]

    def watch(mine: list[int]) -> None:
        while not stop.is_set():
            mine.append(system.snapshot().seq)

    with system:
        watchers = [threading.Thread(target=watch, args=(mine,)) for mine in seqs]
        for watcher in watchers:
            watcher.start()
        for submission in system.submit_many([Deposit(account=str(n % 5)) for n in range(300)]):
            submission.result(WAIT_S)
        stop.set()
        for watcher in watchers:
            watcher.join(WAIT_S)
    for mine in seqs:
        assert mine == sorted(mine)


def test_a_collection_in_a_snapshot_is_read_only() -> None:
    system = simulated()
    accounts = open_bank(system, alice=3)
    with system:
        book: Any = system.snapshot()[accounts]
        attempts: list[Any] = [
            lambda: book.__setitem__("bob", Account()),
            lambda: book.__delitem__("alice"),
            lambda: book.update(alice=Account(balance=9)),
            lambda: book.pop("alice"),
            book.clear,
            lambda: book.setdefault("bob", Account()),
            lambda: book.increment("alice", balance=1),
            lambda: book.increment("bob", balance=1),
        ]
        for attempt in attempts:
            with pytest.raises(TypeError, match="a snapshot is read-only: submit a trigger whose handler writes"):
                attempt()
            assert dict(book) == {"alice": Account(balance=3)}, "the refused write is not seen either"
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=3)}


def test_a_document_in_a_snapshot_is_read_only() -> None:
    system = simulated()
    board = system.store("board", Document(Board))
    with system:
        view = system.snapshot()[board]
        attempts: list[Any] = [
            lambda: view.update(title="x"),
            lambda: view.set(Board(title="x")),
            lambda: view.increment(count=1),
        ]
        for attempt in attempts:
            with pytest.raises(TypeError, match="a snapshot is read-only"):
                attempt()
            assert view.value == Board()
            assert (view.fields.title, view.fields.count) == ("new", 0)


def test_what_a_snapshot_hands_out_of_a_mutable_model_is_private() -> None:
    system = simulated()
    tags = system.store("tags", Collection(Tags, initial={"a": Tags(names=["x"])}))
    board = system.store("board", Document(Tags, initial=Tags(names=["x"])))
    with system:
        snapshot = system.snapshot()
        snapshot[tags]["a"].names.append("y")
        dict(snapshot[tags])["a"].names.append("y")
        next(iter(snapshot[tags].values())).names.append("y")
        next(snapshot[tags].scan())[1].names.append("y")
        snapshot[board].value.names.append("y")
        snapshot[board].fields.names.append("y")
        assert snapshot[tags]["a"].names == ["x"]
        assert snapshot[board].value.names == snapshot[board].fields.names == ["x"]
        assert system.snapshot()[tags]["a"].names == ["x"]


def test_a_snapshot_knows_only_the_stores_of_its_system() -> None:
    system, other = simulated(), simulated()
    open_bank(system)
    foreign = open_bank(other)
    wrong: Any
    with system:
        snapshot = system.snapshot()
        with pytest.raises(RegistrationError, match="the store 'accounts' belongs to another system"):
            snapshot[foreign]
        for wrong in ("accounts", None, 0, Account):
            with pytest.raises(
                TypeError, match=r"index with the StoreRef that system.store\(\) returned, got .*: accounts"
            ):
                snapshot[wrong]


def test_a_snapshot_outlives_the_system() -> None:
    system = threaded()
    accounts = open_bank(system)
    with system:
        system.ask(Deposit(), timeout=WAIT_S)
        snapshot = system.snapshot()
    assert snapshot[accounts]["alice"].balance == system.snapshot()[accounts]["alice"].balance == 1


def test_a_collection_is_read_in_key_order() -> None:
    system = simulated()
    accounts = open_bank(system, zoe=1, alice=2, bob=3)
    with system:
        system.ask(Transfer(source="bob", target="carl", amount=1))
        book = system.snapshot()[accounts]
        assert list(book) == ["alice", "bob", "carl", "zoe"]
        assert [key for key, _ in book.scan(start="b", stop="d")] == ["bob", "carl"]
        assert [account.balance for account in book.values()] == [2, 2, 1, 1]
        assert (len(book), "bob" in book, "dora" in book, book.get("dora")) == (4, True, False, None)
