"""What a handler gets: one attempt with consistent reads, recorded inputs, and writes that commit together."""

from __future__ import annotations

import asyncio
import datetime
import random
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    Access,
    Collection,
    CommitIntent,
    Document,
    HandlerFailed,
    Record,
    RegistrationError,
    Rejected,
    SeqtorError,
    State,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
)
from tests.programs import WAIT_S, Account, Accounts, Deposit, Gate, Transfer, open_bank, simulated, threaded


class Act(Trigger[Any]):
    """Does what the test says."""

    what: int = 0


class Lower(Trigger[None]):
    """Has the lower seq, changes alice's balance, and commits only after the others have executed once."""


class Board(Record):
    """A document."""

    title: str = "new"
    count: int = 0


def acting(system: Supervisor, *acts: Callable[[Transaction], Any]) -> Supervisor:
    @system.on(Act)
    def act(trigger: Act, tx: Transaction) -> Any:
        return acts[trigger.what](tx)

    return system


def behind_a_lower_run(system: Supervisor, accounts: Accounts, act: Callable[[Transaction], Any]) -> Any:
    """Run `act` at seq 2 in two attempts: seq 1 sets alice's balance to 7 after the first one. Returns the result."""

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=7)

    acting(system, act)
    with system:
        system.tell(Lower())
        result = system.ask(Act())
        assert system.record(2).attempts == 2
        return result


# Recorded inputs --------------------------------------------------------------------------------------------------


def test_seq_and_attempt_say_which_execution_it_is() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    seen: list[tuple[int, int, str]] = []

    def act(tx: Transaction) -> int:
        seen.append((tx.seq, tx.attempt, repr(tx)))
        return tx[accounts]["alice"].balance

    assert behind_a_lower_run(system, accounts, act) == 7
    assert seen == [
        (2, 1, "<Transaction seq=2 attempt=1 live>"),
        (2, 2, "<Transaction seq=2 attempt=2 live>"),
    ]


def inputs(tx: Transaction) -> tuple[Any, ...]:
    return tx.now, tx.random.random(), tx.random.randrange(1000), tx.uuid4(), tx.uuid4(), tx.scheduled_for


def test_now_random_and_uuid4_are_the_same_in_every_attempt() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    seen: list[tuple[Any, ...]] = []

    def act(tx: Transaction) -> None:
        if tx.attempt == 1:
            seen.append(inputs(tx))
            tx[accounts]["alice"]
        else:
            tx[accounts]["alice"]
            seen.append(inputs(tx))

    behind_a_lower_run(system, accounts, act)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_what_one_input_is_asked_for_does_not_change_the_others() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    seen: list[tuple[Any, ...]] = []

    def act(tx: Transaction) -> None:
        balance = tx[accounts]["alice"].balance
        if balance:
            tx.uuid4()
            tx.uuid4()
        seen.append((tx.random.random(), tx.random.gauss(0, 1)))

    behind_a_lower_run(system, accounts, act)
    assert seen[0] == seen[1]


def test_runs_differ_in_their_random_and_ids() -> None:
    system = acting(simulated(), lambda tx: (tx.random.random(), str(tx.uuid4())))
    with system:
        results = [submission.result() for submission in system.submit_many([Act()] * 50)]
    assert len({number for number, _ in results}) == 50
    assert len({identity for _, identity in results}) == 50


def test_random_is_a_random_and_ids_are_version_4() -> None:
    def act(tx: Transaction) -> None:
        assert isinstance(tx.random, random.Random)
        assert tx.random is tx.random
        identity = tx.uuid4()
        assert isinstance(identity, uuid.UUID)
        assert (identity.version, identity.variant) == (4, uuid.RFC_4122)
        assert tx.scheduled_for is None

    with acting(simulated(), act) as system:
        system.ask(Act())


@pytest.mark.parametrize("make", [simulated, threaded])
def test_now_is_aware_utc_the_moment_of_the_seq_and_never_decreases(make: Any) -> None:
    seen: list[tuple[int, datetime.datetime]] = []

    def act(tx: Transaction) -> None:
        assert tx.now.tzinfo is datetime.UTC
        seen.append((tx.seq, tx.now))

    system = acting(make(), act)
    with system:
        for submission in system.submit_many([Act()] * 100):
            submission.result(WAIT_S)
        for seq, now in seen:
            assert now.timestamp() == pytest.approx(system.record(seq).sequenced_at)
    moments = [now for _, now in sorted(seen)]
    assert moments == sorted(moments)


def test_now_does_not_go_back_when_the_machine_s_clock_does() -> None:
    from seqtor.actors import SimulatedDispatchers
    from seqtor.actors.clock import VirtualClock

    class ClockThatJumps(VirtualClock):
        offset_s = 0.0

        def time(self) -> float:
            return super().time() + self.offset_s

    dispatchers = SimulatedDispatchers(0)
    clock = dispatchers.clock = ClockThatJumps()
    system = acting(Supervisor(dispatchers=lambda settings: dispatchers), lambda tx: tx.now)
    with system:
        before = system.ask(Act())
        clock.offset_s = -3600
        after = system.ask(Act())
        clock.offset_s = 60
        later = system.ask(Act())
    assert before == after < later


# Stores -----------------------------------------------------------------------------------------------------------


def test_own_writes_are_seen_and_others_see_them_after_the_commit() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)

    def act(tx: Transaction) -> None:
        assert tx[accounts] is tx[accounts]
        tx[accounts]["alice"] = Account(balance=2)
        tx[accounts]["bob"] = Account(balance=3)
        assert (tx[accounts]["alice"].balance, tx[accounts]["bob"].balance, len(tx[accounts])) == (2, 3, 2)
        del tx[accounts]["alice"]
        assert "alice" not in tx[accounts]
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=1)}

    with acting(system, act):
        system.ask(Act())
        assert dict(system.snapshot()[accounts]) == {"bob": Account(balance=3)}


@pytest.mark.parametrize("use_own_first", [False, True])
def test_a_store_of_another_system_is_refused(use_own_first: bool) -> None:
    system, other = simulated(), simulated()
    own, foreign = open_bank(system, alice=1), open_bank(other, alice=2)
    extra = other.store("extra", Collection(Account))

    def act(tx: Transaction) -> list[str]:
        heard = []
        if use_own_first:
            tx[own]["alice"]
        uses: list[Callable[[], object]] = [
            lambda: tx[foreign],
            lambda: tx[extra],
            lambda: tx.peek(foreign),
            lambda: tx.changed(foreign, "alice"),
            lambda: tx.read(foreign),
            lambda: tx.prepare_commit(foreign, tx.snapshot_seq, {}),
        ]
        for use in uses:
            with pytest.raises(RegistrationError) as caught:
                use()
            heard.append(str(caught.value))
        return heard

    with acting(system, act):
        heard = system.ask(Act())
    assert set(heard) == {
        "the store 'accounts' belongs to another system",
        "the store 'extra' belongs to another system",
    }


@pytest.mark.parametrize("given", ["accounts", None, 0, Account])
def test_what_is_no_store_ref_is_told_apart(given: Any) -> None:
    system = simulated()
    open_bank(system)
    acting(system, lambda tx: tx[given], lambda tx: tx.peek(given))
    with system:
        for what in (0, 1):
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Act(what=what))
            assert isinstance(caught.value.__cause__, TypeError)
            assert "index with the StoreRef that system.store() returned, got" in str(caught.value.__cause__)
            assert "stores: accounts" in str(caught.value.__cause__)


def test_the_registered_stores_are_found_by_name() -> None:
    system = simulated()
    accounts = open_bank(system)
    board = system.store("board", Document(Board))
    assert dict(system.stores) == {"accounts": accounts, "board": board}
    assert (accounts.name, repr(accounts)) == ("accounts", "<StoreRef 'accounts' (CollectionStore) at seq 0>")
    with pytest.raises(TypeError):
        system.stores["other"] = accounts  # type: ignore[index]
    with pytest.raises(KeyError):
        system.stores["other"]


# Peek and changed -------------------------------------------------------------------------------------------------


def test_peek_is_the_first_attempt_s_snapshot_in_every_attempt_and_is_not_tracked() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0, bob=0)
    seen: list[tuple[int, int]] = []

    def act(tx: Transaction) -> None:
        seen.append((tx.peek(accounts)["alice"].balance, tx[accounts]["alice"].balance))

    behind_a_lower_run(system, accounts, act)
    assert seen == [(0, 0), (0, 7)]


@pytest.mark.parametrize("seed", range(10))
def test_peeking_never_conflicts(seed: int) -> None:
    system = simulated(seed)
    accounts = open_bank(system, alice=0)
    acting(system, lambda tx: (len(tx.peek(accounts)), [*tx.peek(accounts)], tx.peek(accounts).get("alice")))
    with system:
        for _ in range(20):
            system.tell(Deposit())
            system.tell(Act())
        system.ask(Deposit())
        peeked = [system.record(seq) for seq in range(1, 42) if isinstance(system.record(seq).trigger, Act)]
        assert [record.attempts for record in peeked] == [1] * 20


def test_peek_is_read_only_and_does_not_show_own_writes() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)
    board = system.store("board", Document(Board))

    def act(tx: Transaction) -> None:
        tx[accounts]["alice"] = Account(balance=2)
        assert tx.peek(accounts)["alice"].balance == 1
        with pytest.raises(TypeError, match="read-only"):
            tx.peek(accounts)["alice"] = Account(balance=3)
        with pytest.raises(TypeError, match="read-only"):
            tx.peek(board).update(title="x")

    with acting(system, act):
        system.ask(Act())


def test_changed_tells_whether_a_key_differs_from_peek() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0, bob=0)
    seen: list[tuple[bool, ...]] = []

    def act(tx: Transaction) -> None:
        tx[accounts]["carl"] = Account(balance=1)
        seen.append(tuple(tx.changed(accounts, key) for key in ("alice", "bob", "carl", "dora")))

    behind_a_lower_run(system, accounts, act)
    assert seen == [(False, False, False, False), (True, False, False, False)]


def test_changed_is_a_tracked_read() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    assert behind_a_lower_run(system, accounts, lambda tx: tx.changed(accounts, "alice")) is True


def test_a_key_that_changed_back_has_not_changed() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0, bob=0)
    seen: list[tuple[int, bool]] = []

    class Back(Trigger[None]): ...

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=7)

    @system.on(Back)
    async def back(trigger: Back, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=0)

    def act(tx: Transaction) -> None:
        seen.append((tx.attempt, tx.changed(accounts, "alice")))

    acting(system, act)
    with system:
        system.tell(Lower())
        system.tell(Back())
        system.ask(Act())
    assert seen[0] == (1, False)
    assert seen[-1][1] is False
    assert len(seen) > 1


class Numbers(StoreActor[dict[str, int], Any]):
    """A user's own store: its states are dictionaries that are replaced, never changed."""

    dispatcher = "core"

    def recover(self, checkpoint: Any) -> dict[str, int]:
        return {}

    @staticmethod
    def fold(state: dict[str, int], writes: Any) -> dict[str, int]:
        return {**state, **dict(writes)}

    @staticmethod
    def view(access: Access[dict[str, int]]) -> NumbersView:
        return NumbersView(access)


class NumbersView:
    def __init__(self, access: Access[dict[str, int]]) -> None:
        self._access = access

    def get(self, key: str) -> int:
        self._access.read(key)
        return self._access.state.get(key, 0)

    def set(self, key: str, value: int) -> None:
        self._access.write(key, value)


def test_changed_works_for_documents_and_custom_stores() -> None:
    system = simulated()
    board = system.store("board", Document(Board))
    numbers = system.store("numbers", Numbers.spec())
    seen: list[tuple[bool, ...]] = []

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[board].update(title="changed")
        tx[numbers].set("a", 1)

    def act(tx: Transaction) -> None:
        seen.append(
            (tx.changed(board, "title"), tx.changed(board, "count"), tx.changed(numbers, "a"), tx.changed(numbers, "b"))
        )

    acting(system, act)
    with system:
        system.tell(Lower())
        system.ask(Act())
    assert seen == [(False, False, False, False), (True, False, True, False)]


# The low-level form -----------------------------------------------------------------------------------------------


def test_read_gives_the_seq_and_a_private_copy() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)
    board = system.store("board", Document(Board))
    numbers = system.store("numbers", Numbers.spec())

    def act(tx: Transaction) -> None:
        seq, values = tx.read(accounts)
        assert (seq, values) == (tx.snapshot_seq, {"alice": Account(balance=1)})
        values["alice"] = Account(balance=99)
        values["bob"] = Account()
        assert tx.read(accounts) == (seq, {"alice": Account(balance=1)})
        assert tx.read(board) == (seq, Board())
        _, state = tx.read(numbers)
        state["x"] = 1
        assert tx.read(numbers) == (seq, {})

    with acting(system, act):
        system.ask(Act())
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=1)}


def set_to(store: Any, value: Any) -> Callable[[Transaction], Any]:
    def act(tx: Transaction) -> list[CommitIntent]:
        seq, _ = tx.read(store)
        return [tx.prepare_commit(store, seq, value)]

    return act


def test_a_list_of_commit_intents_commits_exactly_those() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1, bob=2)
    board = system.store("board", Document(Board))

    def act(tx: Transaction) -> list[CommitIntent]:
        seq, values = tx.read(accounts)
        values["carl"] = values.pop("alice")
        _, document = tx.read(board)
        return [
            tx.prepare_commit(accounts, seq, values),
            tx.prepare_commit(board, seq, document.replace(title="changed", count=len(values))),
        ]

    with acting(system, act):
        assert system.ask(Act()) is None
        snapshot = system.snapshot()
        assert {key: value.balance for key, value in snapshot[accounts].items()} == {"bob": 2, "carl": 1}
        assert snapshot[board].value == Board(title="changed", count=2)


@pytest.mark.parametrize("shape", [lambda intent: intent, lambda intent: (intent,), lambda intent: [intent]])
def test_one_intent_may_be_returned_as_it_is(shape: Any) -> None:
    system = simulated()
    accounts = open_bank(system)
    with acting(system, lambda tx: shape(tx.prepare_commit(accounts, tx.snapshot_seq, {"a": Account(balance=5)}))):
        assert system.ask(Act()) is None
        assert dict(system.snapshot()[accounts]) == {"a": Account(balance=5)}


@pytest.mark.parametrize("make", [simulated, threaded])
def test_fifty_parallel_increments_in_the_low_level_form_give_fifty(make: Any) -> None:
    system = make()
    accounts = open_bank(system, alice=0)

    def act(tx: Transaction) -> list[CommitIntent]:
        seq, values = tx.read(accounts)
        values["alice"] = Account(balance=values["alice"].balance + 1)
        return [tx.prepare_commit(accounts, seq, values)]

    with acting(system, act):
        for submission in system.submit_many([Act()] * 50):
            submission.result(WAIT_S)
        assert system.snapshot()[accounts]["alice"].balance == 50
        assert system.stats().state_counts == {State.COMMITTED: 50}


def test_of_two_intents_of_which_the_second_is_invalid_neither_applies() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)
    others = system.store("others", Collection(Account, invariants=[lambda book: "bad" not in book]))

    def with_second(value: Any) -> Callable[[Transaction], Any]:
        def act(tx: Transaction) -> list[CommitIntent]:
            seq = tx.snapshot_seq
            return [tx.prepare_commit(accounts, seq, {}), tx.prepare_commit(others, seq, value)]

        return act

    acting(
        system, with_second({"x": 3}), with_second([1]), with_second({1: Account()}), with_second({"bad": Account()})
    )
    with system:
        for what in (0, 1, 2):
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Act(what=what))
            assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(Rejected, match="does not hold"):
            system.ask(Act(what=3))
        snapshot = system.snapshot()
        assert (dict(snapshot[accounts]), dict(snapshot[others])) == ({"alice": Account(balance=1)}, {})


def test_an_intent_for_another_seq_is_refused() -> None:
    system = simulated()
    accounts = open_bank(system)
    acting(system, lambda tx: [tx.prepare_commit(accounts, tx.snapshot_seq + 1, {})])
    with system, pytest.raises(HandlerFailed) as caught:
        system.ask(Act())
    assert isinstance(caught.value.__cause__, ValueError)
    assert "this attempt reads the state after seq 0; pass the seq that tx.read(accounts) returned" in str(
        caught.value.__cause__
    )


def test_an_intent_of_an_earlier_attempt_is_refused() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    kept: list[CommitIntent] = []

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=7)

    def act(tx: Transaction) -> list[CommitIntent]:
        seq, _ = tx.read(accounts)
        if not kept:
            kept.append(tx.prepare_commit(accounts, seq, {"alice": Account(balance=1)}))
        return kept

    acting(system, act)
    with system:
        system.tell(Lower())
        with pytest.raises(HandlerFailed, match="was prepared at seq 0, and this attempt reads the state after seq 1"):
            system.ask(Act())
        assert system.snapshot()[accounts]["alice"].balance == 7


def test_the_two_forms_cannot_be_mixed() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)

    def writes_too(tx: Transaction) -> list[CommitIntent]:
        tx[accounts]["bob"] = Account()
        return [tx.prepare_commit(accounts, tx.snapshot_seq, {})]

    def twice(tx: Transaction) -> list[CommitIntent]:
        return [tx.prepare_commit(accounts, tx.snapshot_seq, {})] * 2

    def with_a_result(tx: Transaction) -> list[Any]:
        return [tx.prepare_commit(accounts, tx.snapshot_seq, {}), 3]

    acting(system, writes_too, twice, with_a_result)
    with system:
        for what, expected in enumerate(("use one of the two forms", "two CommitIntents for one store", "nothing but")):
            with pytest.raises(HandlerFailed, match=expected):
                system.ask(Act(what=what))
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=1)}


def test_an_empty_list_is_a_result() -> None:
    with acting(simulated(), lambda tx: []) as system:
        assert system.ask(Act()) == []


def test_a_custom_store_has_no_form_for_whole_values() -> None:
    system = simulated()
    numbers = system.store("numbers", Numbers.spec())
    acting(system, set_to(numbers, {"a": 1}))
    with system, pytest.raises(HandlerFailed, match="Numbers has no form for whole values: write through"):
        system.ask(Act())


def test_an_intent_that_changes_nothing_is_no_write() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)
    acting(system, set_to(accounts, {"alice": Account(balance=1)}))
    with system:
        system.ask(Act())
        assert "at seq 0" in repr(accounts)


# After the end, and after the reads have changed ------------------------------------------------------------------

USES: dict[str, Callable[[Transaction, Any, Any], Any]] = {
    "tx[store]": lambda tx, store, view: tx[store],
    "peek": lambda tx, store, view: tx.peek(store),
    "changed": lambda tx, store, view: tx.changed(store, "alice"),
    "read": lambda tx, store, view: tx.read(store),
    "prepare_commit": lambda tx, store, view: tx.prepare_commit(store, 0, {}),
    "now": lambda tx, store, view: tx.now,
    "random": lambda tx, store, view: tx.random,
    "uuid4": lambda tx, store, view: tx.uuid4(),
    "get": lambda tx, store, view: view.get("alice"),
    "get own": lambda tx, store, view: view["own"],
    "set": lambda tx, store, view: view.__setitem__("alice", Account()),
    "delete": lambda tx, store, view: view.__delitem__("alice"),
    "increment": lambda tx, store, view: view.increment("alice", balance=1),
    "len": lambda tx, store, view: len(view),
    "iterate": lambda tx, store, view: list(view),
    "scan": lambda tx, store, view: list(view.scan(prefix="a")),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("ending", [lambda: None, lambda: 1 / 0])
def test_a_transaction_used_after_its_handler_has_ended_says_so(use: str, ending: Callable[[], Any]) -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)
    kept: list[Any] = []

    def act(tx: Transaction) -> None:
        view = tx[accounts]
        view["own"] = Account()
        kept.extend((tx, view, tx.random, tx.uuid4(), tx.now))
        ending()

    acting(system, act)
    with system:
        system.tell(Act())
        system.ask(Deposit())
        with pytest.raises(SeqtorError) as caught:
            USES[use](kept[0], accounts, kept[1])
        assert str(caught.value) == "the transaction of seq 1, attempt 1 has ended: use tx only inside its handler"
        assert (kept[0].seq, kept[0].attempt, repr(kept[0])) == (1, 1, "<Transaction seq=1 attempt=1 ended>")
        assert system.snapshot()[accounts]["alice"].balance == 2


def test_a_document_view_used_after_its_handler_has_ended_says_so() -> None:
    system = simulated()
    board = system.store("board", Document(Board))
    kept: list[Any] = []

    def act(tx: Transaction) -> None:
        kept.append(tx[board])
        tx[board].update(title="own")

    acting(system, act)
    uses: list[Callable[[Any], Any]] = [
        lambda view: view.value,
        lambda view: view.fields.title,
        lambda view: view.fields.count,
        lambda view: view.update(title="late"),
        lambda view: view.set(Board()),
        lambda view: view.increment(count=1),
    ]
    with system:
        system.ask(Act())
        for use in uses:
            with pytest.raises(SeqtorError, match="has ended: use tx only inside its handler"):
                use(kept[0])
        assert system.snapshot()[board].value == Board(title="own")


def test_a_sync_attempt_whose_reads_have_changed_is_left_at_its_next_operation() -> None:
    gate = Gate()
    has_read = threading.Event()
    system = threaded(threads=4)
    accounts = open_bank(system, alice=0)
    reached: list[tuple[str, int]] = []

    @system.on(Lower)
    def lower(trigger: Lower, tx: Transaction) -> None:
        tx[accounts]["alice"] = Account(balance=7)
        assert has_read.wait(WAIT_S)

    def act(tx: Transaction) -> int:
        balance = tx[accounts]["alice"].balance
        has_read.set()
        if balance == 0:
            gate.pass_through()
        reached.append(("before", tx.attempt))
        try:
            len(tx[accounts])
        except Exception:
            reached.append(("taken for a failure", tx.attempt))
        reached.append(("after", tx.attempt))
        return balance

    acting(system, act)
    with system:
        low = system.submit(Lower())
        submission = system.submit(Act())
        low.result(WAIT_S)
        gate.open()
        assert submission.result(WAIT_S) == 7
    assert reached == [("before", 1), ("before", 2), ("after", 2)]


@pytest.mark.parametrize("seed", range(10))
def test_an_async_attempt_whose_reads_have_changed_is_cancelled_at_once(seed: int) -> None:
    from seqtor.actors import SimulatedDispatchers

    dispatchers = SimulatedDispatchers(seed)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    accounts = open_bank(system, alice=0)

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=7)

    @system.on(Act, deadline=10_000)
    async def act(trigger: Act, tx: Transaction) -> int:
        balance = tx[accounts]["alice"].balance
        if balance == 0:
            await asyncio.sleep(5_000)
        return balance

    with system:
        system.tell(Lower())
        submission = system.submit(Act())
        assert submission.result() == 7
        assert dispatchers.clock.monotonic() < 100
        assert system.record(2).attempts == 2


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_handler_that_swallows_everything_is_executed_again_all_the_same(make: Any) -> None:
    system = make()
    accounts = open_bank(system, alice=0)

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(0.01)
        tx[accounts]["alice"] = Account(balance=7)

    @system.on(Act)
    async def act(trigger: Act, tx: Transaction) -> int:
        balance = tx[accounts]["alice"].balance
        try:
            await asyncio.sleep(0.1 if balance == 0 else 0)
        except BaseException:
            return -1
        return balance

    with system:
        system.tell(Lower())
        assert system.ask(Act(), timeout=WAIT_S) == 7


def test_the_transaction_of_an_abandoned_attempt_fails_the_attempt_that_uses_it() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    kept: list[Transaction] = []

    @system.on(Lower)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(1)
        tx[accounts]["alice"] = Account(balance=7)

    @system.on(Act)
    async def act(trigger: Act, tx: Transaction) -> int:
        kept.append(tx)
        balance = tx[accounts]["alice"].balance
        await asyncio.sleep(5 if balance == 0 else 0)
        return kept[0][accounts]["alice"].balance

    with system:
        system.tell(Lower())
        with pytest.raises(HandlerFailed, match="has ended: use tx only inside its handler"):
            system.ask(Act())
        assert system.record(2).attempts == 2


def test_the_transaction_of_a_run_that_expired_fails_the_run_that_uses_it() -> None:
    system = simulated()
    accounts = open_bank(system, alice=0)
    kept: list[Transaction] = []

    @system.on(Lower, deadline=1)
    async def lower(trigger: Lower, tx: Transaction) -> None:
        kept.append(tx)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(kept) == 2:
                    raise
                kept.append(tx)

    acting(system, lambda tx: kept[0][accounts]["alice"].balance)
    with system:
        with pytest.raises(SeqtorError):
            system.ask(Lower())
        with pytest.raises(HandlerFailed, match="the handler used the transaction of another attempt"):
            system.ask(Act())
        assert system.record(2).attempts == 1


def test_writes_of_an_attempt_that_failed_or_was_rejected_are_not_seen() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)

    def fail(tx: Transaction) -> None:
        tx[accounts].clear()
        raise ValueError("wrong")

    def reject(tx: Transaction) -> None:
        tx[accounts]["alice"] = Account(balance=9)
        raise Rejected("no")

    acting(system, fail, reject)
    with system:
        for what in (0, 1):
            with pytest.raises(SeqtorError):
                system.ask(Act(what=what))
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=1)}
        assert "at seq 0" in repr(accounts)


def test_reads_one_store_and_writes_another_while_the_first_changes_is_executed_again() -> None:
    for seed in range(30):
        system = simulated(seed)
        accounts = open_bank(system, alice=10, bob=10)
        total = system.store("total", Document(Board))

        class Value(Trigger[int]):
            """Adds up one store into another."""

        def value(trigger: Value, tx: Transaction) -> int:
            count = sum(account.balance for account in tx[accounts].values())  # noqa: B023
            tx[total].update(count=count)  # noqa: B023
            return count

        system.on(Value)(value)
        with system:
            for n in range(10):
                system.tell(Deposit(account="carl", amount=n))
                valued = system.submit(Value())
                system.tell(Transfer(source="alice", target="bob", amount=1))
                assert valued.result() == 20 + n * (n + 1) // 2
                assert system.snapshot()[total].fields.count == 20 + n * (n + 1) // 2
