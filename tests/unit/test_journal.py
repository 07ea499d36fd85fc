"""A system with a journal: what it answers is durable, what it held comes back, and it says so when it cannot."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import apsw
import immutables
import pytest
from pydantic import BaseModel

from seqtor import (
    Collection,
    Document,
    HandlerFailed,
    JournalCorrupted,
    JournalLocked,
    KeyReused,
    NotRunning,
    OutcomeUnknown,
    Record,
    RegistrationError,
    Rejected,
    State,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.sequencer.actor import UNDURABLE_MAX
from seqtor.actors.sequencer.window import SYNC_MAX
from seqtor.actors.stores import Access, Checkpoint, StoreActor
from tests.programs import WAIT_S, Account, Deposit, Transfer, open_bank, simulated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


def bank(journal: Any, **balances: int) -> tuple[Supervisor, Any]:
    system = Supervisor(journal)
    return system, open_bank(system, **(balances or {"alice": 100, "bob": 0}))


class Gate(SqliteBackend):
    """A real journal whose writing can be held up, or fails."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.may_write.set()
        self.waits = threading.Event()
        self.error: Exception | None = None

    def append(self, group: Group) -> None:
        self.waits.set()
        assert self.may_write.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        super().append(group)


@pytest.fixture
def gate(path: Path) -> Gate:
    return Gate(path)


# What was answered is durable ----------------------------------------------------------------------------------------


def test_what_was_committed_is_there_after_a_restart(path: Path) -> None:
    for left in (95, 90, 85):
        system, accounts = bank(path)
        with system:
            assert system.ask(Transfer(source="alice", target="bob", amount=5), timeout=WAIT_S) == left
            assert system.snapshot()[accounts]["alice"] == Account(balance=left)
            assert system.stats().committed_through == (100 - left) // 5


def test_a_run_is_answered_only_when_its_group_is_on_disk(gate: Gate) -> None:
    system, accounts = bank(gate)
    with system:
        gate.may_write.clear()
        gate.waits.clear()
        submission = system.submit(Deposit(amount=5))
        assert gate.waits.wait(WAIT_S)
        assert not submission.done
        assert system.snapshot()[accounts]["alice"].balance == 100, "a snapshot shows what is durable"
        assert system.stats().durable_through == 0
        gate.may_write.set()
        assert submission.result(WAIT_S) == 105
        assert system.stats().durable_through == 1
        assert system.snapshot()[accounts]["alice"].balance == 105


def test_a_commit_is_visible_to_other_runs_before_it_is_durable(gate: Gate) -> None:
    system, _ = bank(gate)
    with system:
        gate.may_write.clear()
        first, second = system.submit(Deposit(amount=5)), system.submit(Deposit(amount=5))
        while system.stats().committed_through < 2:
            gate.waits.wait(WAIT_S)
        assert not first.done
        assert system.record(2).state is State.COMMITTED
        assert not system.record(2).durable
        gate.may_write.set()
        assert (first.result(WAIT_S), second.result(WAIT_S)) == (105, 110)
        assert system.record(2).durable


def test_runs_do_not_get_far_ahead_of_the_journal(gate: Gate) -> None:
    system, _ = bank(gate)
    with system:
        gate.may_write.clear()
        submissions = system.submit_many([Deposit(amount=1)] * 5_000)
        stats = system.stats()
        while stats.in_flight or stats.committed_through <= UNDURABLE_MAX:  # Until nothing moves any more.
            gate.waits.wait(WAIT_S)
            stats = system.stats()
        assert stats.committed_through <= UNDURABLE_MAX + SYNC_MAX
        assert stats.queued == 5_000 - stats.committed_through
        gate.may_write.set()
        assert [submission.result(WAIT_S) for submission in submissions[::1_000]] == [101, 1101, 2101, 3101, 4101]


def test_accepted_means_that_it_is_executed_even_if_nobody_is_left(path: Path) -> None:
    handlers_may_run = threading.Event()
    system = Supervisor(path)
    counter = system.store("counter", Document(Account))

    @system.on(Deposit)
    def deposit(trigger: Deposit, tx: Transaction) -> int:
        assert handlers_may_run.wait(WAIT_S)
        tx[counter].increment(balance=trigger.amount)
        return trigger.amount

    system.start()
    submissions = [system.submit(Deposit(amount=1)) for _ in range(20)]
    for submission in submissions:
        submission.accepted().get(timeout=WAIT_S)
    threading.Thread(target=lambda: system.stop(grace=0.01)).start()
    for submission in submissions[10:]:
        with pytest.raises(NotRunning):
            submission.result(WAIT_S)
    handlers_may_run.set()
    system.stop()
    again = Supervisor(path)
    counter = again.store("counter", Document(Account))

    @again.on(Deposit)
    def deposit_again(trigger: Deposit, tx: Transaction) -> int:
        tx[counter].increment(balance=trigger.amount)
        return trigger.amount

    with again:
        again.ask(Deposit(amount=0))
    assert again.snapshot()[counter].value.balance == 20


async def _accepted(system: Supervisor) -> None:
    await system.submit(Deposit(amount=1)).accepted()


def test_accepted_can_be_awaited(path: Path) -> None:
    system, _ = bank(path)
    with system:
        asyncio.run(_accepted(system))


def test_accepted_in_memory_is_at_once() -> None:
    system, _ = bank(None)
    with system:
        assert system.submit(Deposit()).accepted().get(timeout=WAIT_S) is None


def test_accepted_triggers_run_in_the_order_of_their_submission(path: Path) -> None:
    ready = threading.Event()
    system, _ = bank(path)

    class Hold(Trigger[None]):
        pass

    @system.on(Hold)
    def hold(trigger: Hold, tx: Transaction) -> None:
        ready.set()
        threading.Event().wait(WAIT_S)

    # The handler above never returns by itself: the process would be killed here. What it leaves is what a kill leaves.
    system.start()
    system.submit(Hold())
    assert ready.wait(WAIT_S)
    amounts = list(range(1, 8))
    submissions = [system.submit(Deposit(account="new", amount=amount)) for amount in amounts]
    submissions[-1].accepted().get(timeout=WAIT_S)
    system.stop(grace=0.0)
    again, _ = bank(path)

    @again.on(Hold)
    def pass_by(trigger: Hold, tx: Transaction) -> None:
        """Not held this time."""

    with again:
        again.ask(Deposit(account="new", amount=0), timeout=WAIT_S)
        records = [again.record(seq) for seq in range(1, again.stats().committed_through + 1)]
    found = [
        record.trigger.amount for record in records if isinstance(record.trigger, Deposit) and record.trigger.amount
    ]
    assert found == amounts


# Keys ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, path: Path) -> Any:
    return path if request.param == "sqlite" else None


def test_a_key_is_executed_once_and_answered_to_all(journal: Any) -> None:
    system, accounts = bank(journal)
    with system:
        submissions = [system.submit(Deposit(amount=5), idempotency_key="k") for _ in range(10)]
        assert {submission.result(WAIT_S) for submission in submissions} == {105}
        assert system.snapshot()[accounts]["alice"].balance == 105
        assert system.stats().committed_through == 1


def test_a_key_is_executed_once_whoever_submits_it_at_the_same_time(journal: Any) -> None:
    system, accounts = bank(journal)
    together = threading.Barrier(8)
    answers: list[int] = []

    def submit() -> None:
        together.wait(WAIT_S)
        answers.extend(
            system.ask(Deposit(amount=1), idempotency_key=str(number), timeout=WAIT_S) for number in range(20)
        )

    with system:
        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert system.snapshot()[accounts]["alice"].balance == 120
    assert len(answers) == 160
    assert set(answers) == set(range(101, 121))


def test_a_key_with_another_payload_is_refused(journal: Any) -> None:
    system, _ = bank(journal)
    with system:
        system.ask(Deposit(amount=5), idempotency_key="k", timeout=WAIT_S)
        with pytest.raises(KeyReused, match="the idempotency key 'k' was used for another trigger"):
            system.submit(Deposit(amount=6), idempotency_key="k")
        assert system.ask(Deposit(amount=6), idempotency_key="other", timeout=WAIT_S) == 111


@pytest.mark.parametrize("key", ["", 7, b"k"])
def test_a_key_is_a_text(key: Any) -> None:
    system, _ = bank(None)
    with system, pytest.raises(TypeError, match="an idempotency key is a non-empty string"):
        system.submit(Deposit(), idempotency_key=key)


class Answer(Record):
    """A result that is a model."""

    text: str
    parts: tuple[int, ...]


class Ask(Trigger[Answer]):
    """Answered with a model, an error or a rejection."""

    how: str = "answer"


def asking(path: Path) -> Supervisor:
    system = Supervisor(path)

    @system.on(Ask)
    def answer(trigger: Ask, tx: Transaction) -> Answer:
        if trigger.how == "reject":
            raise Rejected("not today", "closed", day=3)
        if trigger.how == "fail":
            raise LookupError("nothing found")
        return Answer(text="yes", parts=(1, 2))

    return system


def test_after_a_restart_a_key_gives_the_first_outcome(path: Path) -> None:
    with asking(path) as system:
        first = system.ask(Ask(), idempotency_key="a", timeout=WAIT_S)
        with pytest.raises(Rejected):
            system.ask(Ask(how="reject"), idempotency_key="r", timeout=WAIT_S)
        with pytest.raises(HandlerFailed):
            system.ask(Ask(how="fail"), idempotency_key="f", timeout=WAIT_S)
    with asking(path) as system:
        assert system.ask(Ask(), idempotency_key="a", timeout=WAIT_S) == first == Answer(text="yes", parts=(1, 2))
        with pytest.raises(Rejected, match="not today") as rejected:
            system.ask(Ask(how="reject"), idempotency_key="r", timeout=WAIT_S)
        assert (rejected.value.code, rejected.value.details) == ("closed", {"day": 3})
        with pytest.raises(HandlerFailed, match="LookupError: nothing found") as failed:
            system.ask(Ask(how="fail"), idempotency_key="f", timeout=WAIT_S)
        assert isinstance(failed.value.__cause__, LookupError)
        with pytest.raises(KeyReused):
            system.submit(Ask(how="fail"), idempotency_key="a")
        assert system.stats().committed_through == 3


# Released with the commit ------------------------------------------------------------------------------------------


class Start(Trigger[int]):
    """Submits what follows."""

    how: str = "commit"


class Follow(Trigger[None]):
    """What was submitted."""

    number: int


@pytest.mark.parametrize("where", ["memory", "sqlite"])
@pytest.mark.parametrize("how", ["commit", "reject", "raise"])
def test_what_a_handler_submits_runs_if_and_only_if_it_commits(how: str, where: str, path: Path) -> None:
    system = Supervisor(path if where == "sqlite" else None)
    seen = system.store("seen", Collection(Account))

    @system.on(Start)
    def start(trigger: Start, tx: Transaction) -> int:
        for number in range(3):
            tx.submit(Follow(number=number))
        if trigger.how == "reject":
            raise Rejected("no")
        if trigger.how == "raise":
            raise ValueError("no")
        return 3

    @system.on(Follow)
    def follow(trigger: Follow, tx: Transaction) -> None:
        tx[seen][str(trigger.number)] = Account(balance=trigger.number)

    with system:
        submission = system.submit(Start(how=how))
        if how == "commit":
            assert submission.result(WAIT_S) == 3
        else:
            with pytest.raises((Rejected, HandlerFailed)):
                submission.result(WAIT_S)
    assert list(system.snapshot()[seen]) == (["0", "1", "2"] if how == "commit" else [])


def test_what_a_handler_submits_under_a_bound_key_does_not_run_again(journal: Any) -> None:
    system = Supervisor(journal)
    seen = system.store("seen", Document(Account))

    @system.on(Start)
    def start(trigger: Start, tx: Transaction) -> int:
        tx.submit(Follow(number=1), idempotency_key="once")
        return 1

    @system.on(Follow)
    def follow(trigger: Follow, tx: Transaction) -> None:
        tx[seen].increment(balance=1)

    with system:
        for _ in range(3):
            system.ask(Start(), timeout=WAIT_S)
    assert system.snapshot()[seen].value.balance == 1


def test_an_event_takes_a_seq_and_is_kept_with_its_payload(journal: Any) -> None:
    system = Supervisor(journal)

    @system.on(Start)
    def start(trigger: Start, tx: Transaction) -> int:
        tx.emit("started", {"how": trigger.how})
        return 1

    with system:
        system.emit("outside", [1, 2])
        system.ask(Start(), timeout=WAIT_S)
    triggers: list[Any] = [system.record(seq).trigger for seq in range(1, system.stats().committed_through + 1)]
    events = [(trigger.code, trigger.payload_json) for trigger in triggers if trigger.trigger_name == "seqtor.event"]
    assert events == [("outside", "[1,2]"), ("started", '{"how":"commit"}')]


@pytest.mark.parametrize(("code", "payload", "says"), [("", 1, "code"), (7, 1, "code"), ("a", object(), "serialised")])
def test_an_event_that_cannot_be_kept_is_refused(code: Any, payload: Any, says: str) -> None:
    system, _ = bank(None)
    with system, pytest.raises(TypeError, match=says):
        system.emit(code, payload)


# Time travel -------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_any_seq_shows_what_was_then(journal: Any) -> None:
    system, accounts = bank(journal)
    with system:
        for _ in range(30):
            system.ask(Deposit(amount=1), timeout=WAIT_S)
        found = [system.snapshot(seq)[accounts]["alice"].balance for seq in range(31)]
        assert found == list(range(100, 131))
        assert system.snapshot(7).seq == 7


def test_a_snapshot_of_a_seq_waits_until_it_is_durable(gate: Gate) -> None:
    system, accounts = bank(gate)
    with system:
        gate.may_write.clear()
        submission = system.submit(Deposit(amount=5))
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(system.snapshot(1)[accounts]["alice"].balance))
        reader.start()
        assert gate.waits.wait(WAIT_S)
        assert not found
        gate.may_write.set()
        reader.join(WAIT_S)
        assert found == [105]
        assert submission.result(WAIT_S) == 105


def test_time_travel_crosses_restarts_and_checkpoints(path: Path) -> None:
    for life in range(4):
        system, accounts = bank(path)
        with system:
            for _ in range(5):
                system.ask(Deposit(amount=1), timeout=WAIT_S)
            seqs = range(5 * (life + 1) + 1)
            assert [system.snapshot(seq)[accounts]["alice"].balance for seq in seqs] == [100 + seq for seq in seqs]


def test_the_initial_content_is_that_of_the_first_start(path: Path) -> None:
    system, accounts = bank(path, alice=1)
    with system:
        pass
    system, accounts = bank(path, alice=2, carol=3)
    with system:
        assert dict(system.snapshot()[accounts]) == {"alice": Account(balance=1)}


def test_a_store_that_is_new_starts_with_its_own_initial_content(path: Path) -> None:
    system, _ = bank(path)
    with system:
        system.ask(Deposit(amount=1), timeout=WAIT_S)
    system, _ = bank(path)
    more = system.store("more", Collection(Account, initial={"x": Account(balance=7)}))
    with system:
        assert system.snapshot()[more]["x"].balance == 7


# Custom stores -----------------------------------------------------------------------------------------------------


class Log(StoreActor[immutables.Map[str, Any], "LogView"]):
    """Keeps JSON and bytes by key; `keeps` says whether it makes checkpoints."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps

    def recover(self, checkpoint: Checkpoint | None) -> immutables.Map[str, Any]:
        if checkpoint is None:
            return immutables.Map({"first": 1})
        return immutables.Map(json.loads(checkpoint.data))

    def checkpoint(self, state: immutables.Map[str, Any]) -> bytes | None:
        if not self.keeps:
            return None
        return json.dumps(dict(state)).encode()

    @staticmethod
    def fold(state: immutables.Map[str, Any], writes: Any) -> immutables.Map[str, Any]:
        for key, op in writes:
            state = state.set(key, op)
        return state

    @staticmethod
    def view(access: Access[immutables.Map[str, Any]]) -> LogView:
        return LogView(access)


class LogView:
    """Reads everything, writes one key."""

    def __init__(self, access: Access[Any]) -> None:
        self.access = access

    def put(self, key: str, op: Any) -> None:
        self.access.write(key, op)

    def all(self) -> dict[str, Any]:
        return dict(self.access.state)


class Put(Trigger[None]):
    """Write into the log."""

    key: str
    kind: str


OPS: dict[str, Any] = {
    "int": 7,
    "bytes": b"\x00\xff",
    "nested": {"a": [1, b"x", None], "$b": {"$bytes": "no"}, "": 1.5},
    "text": "\ud800 and \x00",
}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_store_of_ones_own_comes_back_with_and_without_checkpoints(keeps: bool, path: Path) -> None:
    kinds = ["int"] if keeps else list(OPS)
    found: dict[str, Any] = {}
    for life in range(3):
        system = Supervisor(path)
        log = system.store("log", Log.spec(keeps))

        @system.on(Put)
        def put(trigger: Put, tx: Transaction, log: Any = log) -> None:
            tx[log].put(trigger.key, OPS[trigger.kind])

        with system:
            for kind in kinds:
                system.ask(Put(key=f"{kind}{life}", kind=kind), timeout=WAIT_S)
            found = system.snapshot()[log].all()
    expected = {f"{kind}{life}": OPS[kind] for kind in kinds for life in range(3)} | {"first": 1}
    assert found == expected


# Trouble -----------------------------------------------------------------------------------------------------------


def test_a_journal_that_fails_answers_everyone_and_takes_no_more(gate: Gate) -> None:
    system, accounts = bank(gate)
    system.start()
    assert system.ask(Deposit(amount=1), timeout=WAIT_S) == 101
    gate.error = OSError(28, "No space left on device")
    waiting = [system.submit(Deposit(amount=1)) for _ in range(5)]
    accepted = waiting[-1].accepted()
    for submission in waiting:
        with pytest.raises(OutcomeUnknown, match="No space left on device"):
            submission.result(WAIT_S)
    with pytest.raises(OutcomeUnknown):
        accepted.get(timeout=WAIT_S)
    with pytest.raises(NotRunning, match="No space left on device"):
        system.submit(Deposit(amount=1))
    with pytest.raises(OutcomeUnknown):
        system.snapshot(2)
    assert system.snapshot()[accounts]["alice"].balance == 101
    system.stop()
    again, accounts = bank(Path(gate.place))
    with again:
        assert again.snapshot()[accounts]["alice"].balance >= 101
        assert again.record(1).state is State.COMMITTED


def test_two_systems_on_one_journal_are_one_too_many(path: Path) -> None:
    system, _ = bank(path)
    with system:
        second, _ = bank(path)
        with pytest.raises(JournalLocked, match="process"):
            second.start()
        assert system.ask(Deposit(amount=1), timeout=WAIT_S) == 101


def test_stores_and_triggers_that_the_program_no_longer_knows_are_named(path: Path) -> None:
    system, _ = bank(path)
    with system:
        system.ask(Deposit(amount=1), timeout=WAIT_S)
    with pytest.raises(RegistrationError, match="store 'accounts', which the program no longer registers"):
        Supervisor(path).start()


def test_a_journal_that_was_changed_is_refused_with_the_place(path: Path) -> None:
    system, _ = bank(path)
    system.start()
    for _ in range(5):
        system.ask(Deposit(amount=1), timeout=WAIT_S)
    running = system._running
    assert running is not None
    assert running.journal is not None
    running.journal.checkpoints = None  # No checkpoint at this stop: the tail is read at the next start.
    system.stop()
    database = apsw.Connection(str(path))
    database.execute("UPDATE commits SET body = replace(body, '\"balance\":103', '\"balance\":999') WHERE seq = 3")
    database.close()
    again, _ = bank(path)
    with pytest.raises(JournalCorrupted, match="seq 3") as corrupted:
        again.start()
    assert corrupted.value.seq == 3


# Schema change -----------------------------------------------------------------------------------------------------


def test_a_model_that_changed_reads_old_records_through_its_upcast(path: Path) -> None:
    class Note(Record):
        title: str
        text: str

    class Write1(Trigger[None], name="write"):
        title: str

    def first() -> None:
        system = Supervisor(path)
        notes = system.store("notes", Collection(Note))
        settings = system.store("settings", Document(Note, initial=Note(title="t", text="x")))

        @system.on(Write1)
        def write(trigger: Write1, tx: Transaction) -> None:
            tx[notes][trigger.title] = Note(title=trigger.title, text="hello")
            tx[settings].update(title=trigger.title)

        system.start()
        for title in ("a", "b"):
            system.ask(Write1(title=title), timeout=WAIT_S)
        assert system._running is not None
        system._running.journal.checkpoints = None  # type: ignore[union-attr]
        system.stop()

    first()

    class Renamed(Record):
        heading: str
        text: str
        stars: int

    def second(upcast: bool) -> dict[str, Any]:
        system = Supervisor(path)
        notes = system.store("notes", Collection(Renamed))
        settings = system.store("settings", Document(Renamed, initial=Renamed(heading="", text="", stars=0)))
        if upcast:

            @system.upcast(Renamed)
            def from_note(old: dict[str, Any], version: int) -> dict[str, Any]:
                assert version == 1
                return {"heading": old["title"], "text": old["text"], "stars": 0}

        with system:
            found = {key: note.heading for key, note in system.snapshot()[notes].items()}
            return found | {"settings": system.snapshot()[settings].value.heading}

    with pytest.raises(RegistrationError, match=r"field 'heading'.*system\.upcast\(Renamed\)"):
        second(upcast=False)
    assert second(upcast=True) == {"a": "a", "b": "b", "settings": "b"}
    assert second(upcast=False) == {"a": "a", "b": "b", "settings": "b"}, "the checkpoint holds them in the new form"


def test_an_accepted_trigger_that_changed_is_read_through_its_upcast(path: Path) -> None:
    backend = MemoryBackend()
    held = threading.Event()

    class Old(Trigger[None], name="work"):
        size: int

    system = Supervisor(backend)

    @system.on(Old)
    def hold(trigger: Old, tx: Transaction) -> None:
        held.wait(WAIT_S)

    system.start()
    system.submit(Old(size=7)).accepted().get(timeout=WAIT_S)
    system.stop(grace=0.0)
    held.set()

    class New(Trigger[None], name="work", version=2):
        width: int

    seen: list[int] = []
    again = Supervisor(backend)

    @again.on(New)
    def work(trigger: New, tx: Transaction) -> None:
        seen.append(trigger.width)

    @again.upcast(New)
    def from_old(old: dict[str, Any], version: int) -> dict[str, Any]:
        assert version == 1
        return {"width": old["size"]}

    with again:
        pass
    assert seen == [7]


def test_an_accepted_trigger_with_an_execute_of_its_own_needs_no_registration_after_a_restart_either() -> None:
    backend = MemoryBackend()
    held = threading.Event()
    done: list[int] = []

    class OnItsOwn(Trigger[None]):
        number: int

        def execute(self, tx: Transaction) -> None:
            if not done:
                held.wait(WAIT_S)
            done.append(self.number)

    system = Supervisor(backend)
    system.start()
    system.submit(OnItsOwn(number=7)).accepted().get(timeout=WAIT_S)
    system.stop(grace=0.0)
    done.append(0)
    held.set()
    with Supervisor(backend):
        pass
    assert done[-1] == 7


def test_an_upcast_is_registered_once_and_for_a_model() -> None:
    system = Supervisor()
    system.upcast(Account)(lambda old, version: old)
    with pytest.raises(RegistrationError, match="Account has an upcast already"):
        system.upcast(Account)(lambda old, version: old)
    with pytest.raises(RegistrationError, match="takes a stored model or a trigger type"):
        system.upcast(int)  # type: ignore[type-var]


# What JSON cannot tell apart -------------------------------------------------------------------------------------------


class Loose(Trigger[None]):
    """Holds anything."""

    held: Any


class LooseModel(BaseModel):
    """Mutable, with fields that JSON may change."""

    held: Any = None
    data: bytes = b""


@pytest.mark.parametrize("held", [(1, 2), b"x", float("inf"), 3 + 4j])
def test_a_trigger_that_would_come_back_as_another_is_refused_with_a_journal(held: Any, path: Path) -> None:
    system = Supervisor(path)

    @system.on(Loose)
    def take(trigger: Loose, tx: Transaction) -> None:
        """Nothing to do."""

    with system:
        with pytest.raises(TypeError, match=r"the journal (would give|cannot keep) Loose"):
            system.submit(Loose(held=held))
        system.ask(Loose(held="plain"), timeout=WAIT_S)


def test_a_value_that_the_journal_cannot_keep_fails_its_run_and_nothing_else(path: Path) -> None:
    system = Supervisor(path)
    document = system.store("document", Document(LooseModel))
    collection = system.store("collection", Collection(LooseModel))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        value = {"bytes": b"\xff\xfe", "tuple": (1, 2), "object": object(), "plain": 1}[trigger.kind]
        if trigger.key == "document":
            tx[document].update(held=value)
        elif trigger.kind == "bytes":
            tx[collection]["x"] = LooseModel(data=b"\xff\xfe")
        else:
            tx[collection]["x"] = LooseModel(held=value)

    with system:
        for key in ("document", "collection"):
            for kind in ("bytes", "tuple", "object"):
                with pytest.raises(HandlerFailed, match=r"the journal (would give|cannot keep)"):
                    system.ask(Put(key=key, kind=kind), timeout=WAIT_S)
            system.ask(Put(key=key, kind="plain"), timeout=WAIT_S)
        assert system.snapshot()[document].value.held == 1
        assert system.snapshot()[collection]["x"].held == 1


# Simulated ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_system_with_a_journal_runs_simulated(seed: int) -> None:
    backend = MemoryBackend()
    total = 0
    for life in range(3):
        system = simulated(seed * 10 + life, journal=backend)
        accounts = open_bank(system, alice=0)
        with system:
            for submission in [system.submit(Deposit(amount=amount)) for amount in range(1, 6)]:
                submission.result(WAIT_S)
            total += 15
            assert system.snapshot()[accounts]["alice"].balance == total


# A fast journal ----------------------------------------------------------------------------------------------------


def test_an_answer_comes_even_if_the_journal_is_faster_than_the_coordinator() -> None:
    system = Supervisor(MemoryBackend())
    open_bank(system, alice=0)
    with system:
        running: Any = system._running
        journal, tell = running.journal.ref._actor_weakref(), running._path.committer.journal

        def tell_and_wait(message: Any) -> None:
            tell(message)
            while journal.durable_through < message.runs[-1].seq:
                pass

        running._path.committer.journal = tell_and_wait
        assert [system.ask(Deposit(), timeout=WAIT_S) for _ in range(3)] == [1, 2, 3]
