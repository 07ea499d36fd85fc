"""Replay: what ran comes to the same again, and what does not is named with seq, handler, expected and found."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import immutables
import pytest

import seqtor.replay.replaying
from seqtor import (
    Access,
    Bundle,
    Collection,
    Document,
    EffectContext,
    HandlerFailed,
    JournalCorrupted,
    NotRunning,
    Record,
    RegistrationError,
    Rejected,
    ReplayDiverged,
    SeqtorError,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
    UseTransaction,
    WouldDeadlock,
)
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.runs import SyncRun
from seqtor.replay.comparison import members
from tests.programs import WAIT_S, Account, Deposit, Gate, Transfer, open_bank, simulated, threaded

COUNT = itertools.count()


class Add(Trigger[Any]):
    """Does what the test registers for it."""

    amount: int = 1


def recorded_chain(system: Supervisor) -> str:
    with system._history() as (history, through):
        return (history.chain_before(through + 1) or b"").hex()


def run_all(system: Supervisor, triggers: list[Trigger[Any]]) -> None:
    """Hand in and wait; errors are outcomes like others."""
    for submission in system.submit_many(triggers):
        with contextlib.suppress(SeqtorError):
            submission.result(WAIT_S)


def adder(body: Callable[[Add, Transaction], Any], journal: Any = None, **options: Any) -> Supervisor:
    """A system whose handler of `Add` is `body`."""
    system = simulated(journal=journal)
    system.on(Add, **options)(body)
    return system


# What is executed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [None, MemoryBackend, "file"])
def test_what_ran_comes_to_the_same_again(journal: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "bank.db") if journal == "file" else journal and journal()
    system = Supervisor(place, settings={"threads": 3})
    open_bank(system, alice=100)
    triggers: list[Trigger[Any]] = [Transfer(source="alice", target="bob", amount=30) for _ in range(5)]
    with system:
        run_all(system, [*triggers, Transfer(source="nobody", target="bob", amount=1), *[Deposit()] * 20])
        report = system.verify()
        assert (report.first, report.last, report.executed, report.skipped) == (1, 26, 26, {})
        assert report.chain == recorded_chain(system)
        assert report.seconds > 0
        assert str(report).startswith("seq 1 to 26: 26 executed again as recorded, 0 skipped, chain ")
        assert system.replay(3, 7).executed == 5
        assert system.replay(3, 7).chain == system.replay(7, 7, workers=4).chain
    again = system.verify(workers=16, shuffle=7)
    assert (again.chain, again.executed) == (report.chain, 26)


def test_a_system_that_is_not_started_reads_its_journal_and_changes_nothing(tmp_path: Path) -> None:
    first = Supervisor(tmp_path / "bank.db")
    open_bank(first, alice=100)
    with first:
        run_all(first, [Deposit()] * 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if "owner" not in path.name}
    second = Supervisor(tmp_path / "bank.db")
    open_bank(second)
    assert second.verify().executed == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if "owner" not in path.name} == before
    with second:
        assert second.ask(Deposit(), timeout=WAIT_S) == 104
    assert second.verify().executed == 4


def test_a_system_in_memory_that_was_not_started_has_nothing_to_replay() -> None:
    with pytest.raises(NotRunning, match="keeps everything in memory and is not started"):
        Supervisor().verify()


def test_an_empty_journal_verifies() -> None:
    with simulated() as system:
        report = system.verify()
    assert (report.executed, str(report)) == (0, "no records from seq 1 on: nothing to execute again")


def test_async_handlers_are_executed_again_each_to_its_end() -> None:
    system = threaded()
    accounts = open_bank(system)
    left: list[Any] = []

    @system.on(Add)
    async def add(trigger: Add, tx: Transaction) -> int:
        await asyncio.sleep(0)
        tx[accounts].increment("alice", balance=trigger.amount)
        left.append(asyncio.ensure_future(asyncio.sleep(3600)))
        return trigger.amount

    with system:
        run_all(system, [Add(amount=amount) for amount in range(20)])
        assert system.verify(workers=4, shuffle=1).executed == 20
    assert all(task.cancelled() for task in left[-20:]), "what a handler left on the loop is cancelled"


def test_the_replay_of_a_simulated_system_waits_for_no_time_and_timers_fire_in_their_order() -> None:
    system = simulated()

    @system.on(Add, deadline=1e6)
    async def wait_for_days(trigger: Add, tx: Transaction) -> list[str]:
        woken: list[str] = []

        async def nap(name: str, days: float) -> None:
            await asyncio.sleep(days * 86_400)
            woken.append(name)

        await asyncio.gather(nap("last", 3), nap("first", 1), nap("second", 2))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 86_400)
            woken.append("never")
        return woken

    with system:
        assert system.ask(Add()) == ["first", "second", "last"]
        assert system.verify().executed == 1


def test_recorded_inputs_are_the_same_again() -> None:
    def inputs(trigger: Add, tx: Transaction) -> list[Any]:
        return [tx.seq, tx.attempt, tx.now.isoformat(), tx.random.random(), str(tx.uuid4())]

    with adder(inputs) as system:
        run_all(system, [Add()] * 5)
        assert system.verify(workers=3).executed == 5


class Slow(Trigger[None]):
    """Adds one, when the gate is open."""


@pytest.mark.parametrize("journal", [None, MemoryBackend])
def test_peek_and_changed_are_those_of_the_first_attempt(journal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Supervisor(journal and journal(), settings={"threads": 4})
    accounts = open_bank(system, alice=10)
    stock = system.store("stock", Ints.spec())
    slow, first = Gate(), Gate()

    @system.on(Slow)
    def slow_one(trigger: Slow, tx: Transaction) -> None:
        slow.pass_through()
        tx[accounts].increment("alice", balance=1)
        tx[stock].add("a", 1)

    @system.on(Add)
    def add(trigger: Add, tx: Transaction) -> list[Any]:
        peeked = tx.peek(accounts)["alice"].balance, tx.peek(stock).get("a")
        read = tx[accounts]["alice"].balance
        if tx.attempt == 1:
            first.pass_through()
        changed = tx.changed(accounts, "alice"), tx.changed(stock, "a"), tx.changed(stock, "b")
        return [peeked, read, changed, tx.attempt, tx.snapshot_seq]

    with system:
        run_all(system, [Deposit()] * 3)
        system.tell(Slow())
        slow.await_arrivals()
        late = system.submit(Add())
        first.await_arrivals()
        slow.open()
        first.open()
        assert late.result(WAIT_S) == [(13, 1), 14, (True, True, False), 2, 4]
        run_all(system, [Deposit()] * 5)
        report = system.verify(workers=2)
        assert report.executed == 10
        assert system.replay(5, 5).executed == 1
        # What the first attempt saw is not at hand any more: it is read from the journal.
        monkeypatch.setattr(seqtor.replay.replaying, "WINDOW", 1)
        monkeypatch.setattr(seqtor.replay.replaying, "LOOK_BACK", 0)
        assert system.verify(workers=2).chain == report.chain


def test_the_low_level_form_gives_the_seq_of_its_snapshot_again() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)

    @system.on(Add)
    def add(trigger: Add, tx: Transaction) -> Any:
        seq, book = tx.read(accounts)
        book["alice"] = Account(balance=book["alice"].balance + 1)
        return [tx.prepare_commit(accounts, seq, book)]

    @system.on(Look)
    def look(trigger: Look, tx: Transaction) -> int:
        return tx.read(accounts)[0]

    with system:
        run_all(system, [Add(), Look(), Add(), Look(), Deposit()])
        assert system.verify().executed == 5


def test_a_run_that_read_long_before_its_turn_says_so_again() -> None:
    system = threaded(4)
    accounts = open_bank(system)
    other = system.store("other", Collection(Account))
    slow, looked = Gate(), Gate()

    @system.on(Slow)
    def slow_one(trigger: Slow, tx: Transaction) -> None:
        slow.pass_through()
        tx[accounts].increment("alice", balance=1)

    @system.on(Look)
    def look(trigger: Look, tx: Transaction) -> int:
        seq, _ = tx.read(other)
        looked.pass_through()
        return seq

    with system:
        system.tell(Slow())
        slow.await_arrivals()
        late = system.submit(Look())
        looked.await_arrivals()
        slow.open()
        looked.open()
        assert (late.result(WAIT_S), late.seq) == (0, 2), "it read before seq 1 had ended"
        assert system.verify().executed == 2


class Look(Trigger[int]):
    """Says which seq it read after."""


def test_what_is_refused_inside_a_handler_is_refused_again(tmp_path: Path) -> None:
    def make() -> Supervisor:
        system = Supervisor(tmp_path / "j.db")

        @system.on(Add)
        def add(trigger: Add, tx: Transaction) -> str:
            for verb in (lambda: system.tell(Add()), system.verify, lambda: list(system.commits())):
                with contextlib.suppress(WouldDeadlock):
                    verb()
            raise AssertionError("one of them was not refused")

        return system

    system = make()
    with system, pytest.raises(HandlerFailed) as failed:
        system.ask(Add(), timeout=WAIT_S)
    assert isinstance(failed.value.__cause__, UseTransaction)
    assert make().verify().executed == 1


def test_self_executing_triggers_need_no_registration(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "j.db") as system:
        system.ask(Carried(), timeout=WAIT_S)
    assert Supervisor(tmp_path / "j.db").verify().executed == 1


class Carried(Trigger[int]):
    """Brings its own handler."""

    def execute(self, tx: Transaction) -> int:
        return 3


# Stores ---------------------------------------------------------------------------------------------------------------

IntMap = immutables.Map[str, int]


class IntsView:
    def __init__(self, access: Access[IntMap]) -> None:
        self._access = access

    def get(self, key: str) -> int:
        self._access.read(key)
        return self._access.state.get(key, 0)

    def add(self, key: str, amount: int) -> None:
        self._access.write(key, amount)


class Ints(StoreActor[IntMap, IntsView]):
    """Amounts by key; refuses 13, crashes at 7, and makes no checkpoint."""

    dispatcher: ClassVar[Literal["core", "dedicated"]] = "core"
    guards: ClassVar[bool] = False

    def recover(self, checkpoint: Any) -> IntMap:
        return immutables.Map({"a": 1})

    @staticmethod
    def fold(state: IntMap, writes: Any) -> IntMap:
        for write in writes:
            if write.op == 31:
                raise ValueError("fold")
            state = state.set(write.key, state.get(write.key, 0) + write.op)
        return state

    @staticmethod
    def view(access: Access[IntMap]) -> IntsView:
        return IntsView(access)


class GuardedInts(Ints):
    dispatcher = "dedicated"

    def validate(self, old: IntMap, new: IntMap, commit: Any) -> None:
        if 13 in new.values():
            raise Rejected("thirteen", key=commit.writes[0].key)
        if 7 in new.values():
            raise ValueError("seven")


def low(book: Any) -> bool:
    return sum(account.balance for account in book.values()) < 40


@pytest.mark.parametrize("journal", [None, MemoryBackend])
def test_whatever_a_store_does_to_a_commit_it_does_again(journal: Any) -> None:
    system = simulated(journal=journal and journal(), settings={"restart_intensity": 1_000})
    one, two = system.store("one", GuardedInts.spec()), system.store("two", GuardedInts.spec())
    guarded = system.store("guarded", Collection(Account, invariants=[low]))

    @system.on(Add)
    def add(trigger: Add, tx: Transaction) -> None:
        tx[one].add("x", trigger.amount)
        tx[two].add("y", trigger.amount)
        tx[guarded].increment("z", balance=trigger.amount)

    with system:
        run_all(system, [Add(amount=amount) for amount in (1, 12, 6, 31, 2, 38, 1)])
        states = [system.record(seq).state.value for seq in range(1, 8)]
        assert states == ["committed", "rejected", "failed", "failed", "committed", "rejected", "committed"]
        assert system.verify(workers=2).executed == 7
    if journal:
        assert system.verify(workers=3, shuffle=1).executed == 7


class Old(Record, version=1):
    name: str
    count: int = 0


class New(Record, version=2):
    title: str
    count: int = 0


def test_documents_are_followed_through_a_change_of_their_model() -> None:
    backend = MemoryBackend()
    first = simulated(journal=backend)
    sheet = first.store("sheet", Document(Old, initial=Old(name="a")))

    @first.on(Add)
    def add(trigger: Add, tx: Transaction) -> None:
        tx[sheet].update(count=tx[sheet].fields.count + trigger.amount)

    with first:
        run_all(first, [Add(), Add(amount=2)])
    second = simulated(journal=backend)
    new_sheet = second.store("sheet", Document(New, initial=New(title="none")))

    @second.upcast(New)
    def rename(record: dict[str, Any], version: int) -> dict[str, Any]:
        record["title"] = record.pop("name")
        return record

    @second.on(Add, version=2)
    def add_more(trigger: Add, tx: Transaction) -> str:
        sheet = tx[new_sheet]
        sheet.update(count=sheet.fields.count + 10 * trigger.amount, title=sheet.fields.title + "!")
        return sheet.fields.title

    with second:
        run_all(second, [Add(), Add()])
        report = second.verify()
        assert (report.executed, report.skipped) == (2, {"of another version": 2})
        assert [second.snapshot(seq)[new_sheet].value.count for seq in range(5)] == [0, 1, 3, 13, 23]
        assert second.snapshot()[new_sheet].value.title == "a!!"


# Records that are not executed ----------------------------------------------------------------------------------------


def test_records_of_another_version_are_skipped_and_counted() -> None:
    backend = MemoryBackend()
    with adder(lambda trigger, tx: trigger.amount, backend) as system:
        run_all(system, [Add()] * 3)
    with adder(lambda trigger, tx: -trigger.amount, backend, version=2) as system:
        run_all(system, [Add()] * 2)
        report = system.verify(workers=2)
    assert (report.executed, report.skipped) == (2, {"of another version": 3})
    assert report.chain == recorded_chain(system)
    assert "3 skipped (3 of another version)" in str(report)


@pytest.mark.parametrize("version", [0, -1, True, "1", None])
def test_a_version_is_a_positive_int(version: Any) -> None:
    with pytest.raises(RegistrationError, match="version of the handler of Add must be an int from 1"):
        Supervisor().on(Add, version=version)(lambda trigger, tx: None)


def test_time_outs_are_records_and_no_clock_is_asked() -> None:
    system = simulated()

    @system.on(Add, deadline=1)
    async def add(trigger: Add, tx: Transaction) -> None:
        await asyncio.sleep(3600 if trigger.amount else 0)

    with system:
        run_all(system, [Add(amount=1), Add(amount=0)])
        report = system.verify()
    assert (report.executed, report.skipped) == (1, {"deadline": 1})


def test_crashes_of_the_runtime_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run: SyncRun, attempt: int) -> Any:
        raise RuntimeError("a defect of the run actor")

    with adder(lambda trigger, tx: 1) as system:
        with monkeypatch.context() as patched:
            patched.setattr(SyncRun, "_open", fails)
            with pytest.raises(HandlerFailed, match="its run actor crashed 3 times, at last with RuntimeError"):
                system.ask(Add(), timeout=WAIT_S)
        run_all(system, [Add()])
        report = system.verify()
    assert (report.executed, report.skipped) == (1, {"crashed": 1})


# Divergence -----------------------------------------------------------------------------------------------------------


class Loud(Trigger[None]):
    """Submitted by a commit."""

    text: str


def unsteady(how: str, system: Supervisor, accounts: Any) -> Callable[[Add, Transaction], Any]:
    """A handler that does another thing each time, in the way that `how` says."""

    def handler(trigger: Add, tx: Transaction) -> Any:
        number = next(COUNT)
        book = tx[accounts]
        if how == "clock":
            return time.time()
        if how == "counter":
            return number
        if how == "write":
            book["alice"] = Account(balance=1000 + number)
        if how == "more writes":
            for name in range(number % 2 + 1):
                book[str(name)] = Account(balance=1)
        if how == "read":
            book.get(str(number))
        if how == "submit":
            tx.submit(Loud(text=str(number)))
        if how == "effect":
            tx.effect(system.shout, Loud(text=str(number)))  # type: ignore[attr-defined]
        if how == "raise":
            raise ValueError(f"number {number}")
        if how == "reject":
            raise Rejected("no", number=number)
        if how == "sometimes" and number % 2:
            raise ValueError("odd")
        if how == "call":
            return tx.call(ask_outside, number)
        return None

    return handler


def ask_outside(number: int) -> int:
    return number


DIVERGING = {
    "clock": ("result", r"\d+\.\d+", r"\d+\.\d+"),
    "counter": ("result", r"\d+", r"\d+"),
    "write": ("write", r'\["accounts","alice",\{"balance":\d+\}\]', r'\["accounts","alice",\{"balance":\d+\}\]'),
    "more writes": ("write", ".*", ".*"),
    "read": ("set of keys and ranges that were read", '"[0-9a-f]+"', '"[0-9a-f]+"'),
    "submit": ("submitted trigger", r'.*"text":"\d+".*', r'.*"text":"\d+".*'),
    "effect": ("effect", r'.*"text":"\d+".*', r'.*"text":"\d+".*'),
    "raise": ("error", r'.*"number \d+".*', r'.*"number \d+".*'),
    "reject": ("error", r'.*"details":\{"number":\d+\}.*', r'.*"details":\{"number":\d+\}.*'),
    "sometimes": ("state", r"committed|failed \(ValueError: odd\)", r"committed|failed \(ValueError: odd\)"),
}


@pytest.mark.parametrize("how", DIVERGING)
def test_a_handler_that_is_not_deterministic_is_named(how: str) -> None:
    system = simulated(journal=MemoryBackend())
    accounts = open_bank(system)

    @system.effect("shout")
    def shout(context: EffectContext, payload: Loud) -> None:
        """Carried out once, and not in replay."""

    system.shout = shout  # type: ignore[attr-defined]
    system.on(Loud)(lambda trigger, tx: None)
    system.on(Add)(unsteady(how, system, accounts))
    with system:
        run_all(system, [Deposit(), Add(), Deposit()])
        if how in ("more writes", "sometimes"):
            _make_parity_differ(system, how)
        with pytest.raises(ReplayDiverged) as diverged:
            system.verify()
    what, expected, found = DIVERGING[how]
    error = diverged.value
    assert (error.seq, error.handler, error.code) == (2, "Add", "replay_diverged")
    assert error.expected != error.found
    for text, pattern in ((error.expected, expected), (error.found, found)):
        assert re.fullmatch(pattern, text), text
    told = str(error)
    assert told.startswith(
        "seq 2: Add, handled by tests.unit.test_replay.unsteady.<locals>.handler, gave another " + what
    )
    assert "@system.on(Add, version=2)" in told
    assert "tx.now" in told


def _make_parity_differ(system: Supervisor, how: str) -> None:
    """Have the next number be odd if that of the run was even, and the other way round."""
    record = next(record for record in system.commits() if record.seq == 2)
    was_odd = record.error is not None if how == "sometimes" else len(record.writes) == 2
    while next(COUNT) % 2 != was_odd:
        pass


def test_the_order_of_a_set_diverges_in_a_process_with_another_hash_seed(tmp_path: Path) -> None:
    for body, diverges in (("list(names)", True), ("sorted(names)", False), ("frozenset(names)", False)):
        outcomes = {run_apart(tmp_path / f"{body}.db", body, seed) for seed in range(1, 5)}
        assert ("diverged" in outcomes) == diverges, (body, outcomes)


def run_apart(path: Path, body: str, seed: int) -> str:
    """Run a program in a process of its own, or verify what it ran, if it has run before."""
    program = f"""
import sys
from seqtor import Collection, Record, ReplayDiverged, Supervisor, Trigger

class Tags(Record):
    names: frozenset[str] = frozenset()

class Tag(Trigger[object]):
    pass

system = Supervisor({str(path)!r})
tags = system.store("tags", Collection(Tags))

@system.on(Tag)
def tag(trigger, tx):
    names = {{"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}}
    tx[tags]["all"] = Tags(names=frozenset(names))
    return {body}

if {not path.exists()}:
    with system:
        system.ask(Tag(), timeout=20)
    print("ran")
else:
    try:
        system.verify(workers=2)
        print("same")
    except ReplayDiverged as diverged:
        assert diverged.seq == 1 and diverged.handler == "Tag"
        print("diverged")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("workers", "shuffle"), [(1, None), (1, 5), (16, None), (16, 5)])
def test_the_first_divergence_is_the_one_of_the_lowest_seq(workers: int, shuffle: int | None) -> None:
    offset = [0]
    with adder(lambda trigger, tx: trigger.amount + (offset[0] if trigger.amount >= 30 else 0)) as system:
        run_all(system, [Add(amount=amount) for amount in range(60)])
        offset[0] = 1000
        with pytest.raises(ReplayDiverged) as diverged:
            system.verify(workers=workers, shuffle=shuffle)
        assert (diverged.value.seq, diverged.value.expected, diverged.value.found) == (31, "30", "1030")
        assert system.replay(1, 30, workers=workers, shuffle=shuffle).executed == 30


def test_a_divergence_before_something_else_that_is_wrong_is_what_is_told() -> None:
    backend = MemoryBackend()
    with adder(lambda trigger, tx: 1, backend) as system:
        run_all(system, [Add()] * 4)
    backend._commits[2] = backend._commits[2]._replace(
        body=backend._commits[2].body.replace('"result":1', '"result":2')
    )
    with pytest.raises(ReplayDiverged, match="seq 1: "):
        adder(lambda trigger, tx: 2, backend).verify()
    with pytest.raises(JournalCorrupted) as corrupted:
        adder(lambda trigger, tx: 1, backend).verify()
    assert corrupted.value.seq == 3


def test_a_trigger_that_is_not_registered_any_more_is_named() -> None:
    backend = MemoryBackend()
    with adder(lambda trigger, tx: 1, backend) as system:
        run_all(system, [Add()])
    with pytest.raises(RegistrationError, match="the journal holds runs of the trigger 'Add', for which the program"):
        Supervisor(backend).verify()


def test_a_store_that_is_not_registered_any_more_is_named() -> None:
    backend = MemoryBackend()
    system = simulated(journal=backend)
    open_bank(system)
    with system:
        run_all(system, [Deposit()])
    other = Supervisor(backend)
    other.on(Deposit)(lambda trigger, tx: 1)
    with pytest.raises(RegistrationError, match="wrote to store 'accounts', which the program no longer registers"):
        other.verify()


def test_an_error_of_the_main_script_is_the_same_in_the_module() -> None:
    from seqtor.replay.comparison import same_error

    kept = {"type": "bank.Broke", "message": "m", "code": None}
    assert same_error(kept, {**kept, "type": "app.bank.Broke"})
    assert not same_error(kept, {**kept, "type": "app.otherbank.Broke"})
    assert not same_error(kept, {**kept, "message": "n"})


# Calls, effects, resources ----------------------------------------------------------------------------------------------


def test_recorded_calls_are_not_made_again_and_effects_not_carried_out(tmp_path: Path) -> None:
    calls: list[int] = []
    effects: list[str] = []

    def ask(number: int) -> int:
        calls.append(number)
        return 10 * number

    def make() -> Supervisor:
        system = Supervisor(tmp_path / "j.db")

        @system.effect("shout")
        def shout(context: EffectContext, payload: Loud) -> None:
            effects.append(payload.text)

        @system.on(Add)
        def add(trigger: Add, tx: Transaction) -> int:
            tx.effect(shout, Loud(text=str(trigger.amount)))
            return tx.call(ask, trigger.amount) + tx.call(ask, trigger.amount + 1)

        return system

    with make() as system:
        run_all(system, [Add(amount=1), Add(amount=5)])
        assert system.verify(workers=2).executed == 2
    assert make().verify(shuffle=1).executed == 2
    assert sorted(calls) == [1, 2, 5, 6]
    assert sorted(effects) == ["1", "5"]


@pytest.mark.parametrize("swallows", [False, True])
def test_a_call_that_is_not_recorded_diverges_whatever_the_handler_makes_of_it(swallows: bool) -> None:
    asked: list[int] = []

    def add(trigger: Add, tx: Transaction) -> int:
        number = len(asked)
        asked.append(number)
        try:
            tx.call(ask_outside, number)
        except ReplayDiverged:
            if not swallows:
                raise
        return 1

    with adder(add) as system:
        run_all(system, [Add()])
        with pytest.raises(
            ReplayDiverged, match=r"seq 1: Add called .*ask_outside in a way that is not recorded"
        ) as diverged:
            system.verify()
    assert (diverged.value.seq, diverged.value.handler) == (1, "Add")


def test_resources_are_opened_for_the_replay_and_closed_after_it() -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def client() -> Iterator[str]:
        log.append("open client")
        yield "client"
        log.append("close client")

    @contextlib.asynccontextmanager
    async def stream() -> AsyncIterator[str]:
        log.append("open stream")
        yield "stream"
        log.append("close stream")

    system = threaded()
    plain, fast = system.resource("client", client), system.resource("stream", stream)

    @system.on(Add)
    def add(trigger: Add, tx: Transaction) -> str:
        return tx.resource(plain)

    @system.on(Loud)
    async def loud(trigger: Loud, tx: Transaction) -> str:
        return tx.resource(plain) + await tx.resource(fast)

    with system:
        run_all(system, [Add(), Loud(text="a"), Add()])
        log.clear()
        system.replay(1, 1)
        assert log == ["open client", "close client"]
        log.clear()
        assert system.verify().executed == 3
        assert log == ["open client", "open stream", "close stream", "close client"]


# How it is called -------------------------------------------------------------------------------------------------------


def test_a_range_that_is_not_there_is_refused() -> None:
    with adder(lambda trigger, tx: 1) as system:
        run_all(system, [Add()] * 3)
        with pytest.raises(LookupError, match="there is no record of seq 4 yet: the journal ends at seq 3"):
            system.replay(1, 4)
        with pytest.raises(LookupError, match="the record of seq 0 is not kept: the history of memory begins at seq 1"):
            system.replay(0, 2)
        wrong: Any
        for wrong in (True, "1", 1.0, -1, None):
            with pytest.raises(TypeError, match=r"a range of seqs \(ints from 1\), got first="):
                system.replay(wrong, 2)
        for wrong in (0, True, "2", None):
            with pytest.raises(TypeError, match="workers is a count"):
                system.verify(workers=wrong)


def test_progress_is_told_window_by_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqtor.replay.replaying, "WINDOW", 4)
    told: list[tuple[int, int]] = []
    with adder(lambda trigger, tx: 1) as system:
        run_all(system, [Add()] * 10)
        system.verify(progress=lambda done, of: told.append((done, of)))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_replay_runs_beside_the_system_that_it_is_asked_of() -> None:
    system = threaded()
    open_bank(system, alice=0)
    with system:
        run_all(system, [Deposit()] * 50)
        later = system.submit_many([Deposit()] * 50)
        report = system.verify(workers=2)
        assert report.executed == report.last >= 50
        assert later[-1].result(WAIT_S) == 100


def test_the_members_of_a_record_are_taken_as_they_are_written() -> None:
    body = '{"a":"x\\"}","b":[1,{"c":"é"}],"d":1e400,"e":null,"f":"\\ud800"}'
    assert members(body) == {"a": '"x\\"}"', "b": '[1,{"c":"é"}]', "d": "1e400", "e": "null", "f": '"\\ud800"'}
    assert json.loads("{" + ",".join(f'"{name}":{text}' for name, text in members(body).items()) + "}") == json.loads(
        body
    )
    assert members("{}") == {}


def test_the_version_of_a_handler_comes_with_its_bundle_and_goes_into_the_record() -> None:
    bundle = Bundle()
    bundle.on(Add, version=3)(lambda trigger, tx: trigger.amount)
    system = simulated()
    system.include(bundle)
    with system:
        run_all(system, [Add()])
        assert [record.handler_version for record in system.commits()] == [3]
        assert system.verify().executed == 1
    with pytest.raises(RegistrationError, match="version of the handler of Add"):
        Bundle().on(Add, version=0)(lambda trigger, tx: None)
