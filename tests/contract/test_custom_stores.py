"""What a user's own store may raise and where, and what becomes of the run, the store and everybody else."""

from __future__ import annotations

import datetime
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import pytest
from loguru import logger

from seqtor import (
    Access,
    Collection,
    HandlerFailed,
    NotRunning,
    OutcomeUnknown,
    RegistrationError,
    Rejected,
    Restart,
    State,
    StoreActor,
    StoreUnavailable,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers, Write
from tests.ids import shown
from tests.programs import WAIT_S, Account, Deposit, open_bank, simulated, threaded

Values = dict[str, Any]
DISPATCHERS = ("core", "dedicated")
MAKERS = (simulated, threaded)


class Put(Trigger[None]):
    """Writes one key of the store; with `deposit`, an account too."""

    key: str = "a"
    value: Any = 1
    deposit: bool = False


class Script:
    """What a scripted store does when it is called, and what it was called with."""

    def __init__(self) -> None:
        self.built = 0
        self.recovered = 0
        self.closed = 0
        self.validated: list[tuple[int, Values, Values, Commit]] = []
        self.threads: set[str] = set()
        self.on_init: list[BaseException | None] = []
        self.on_recover: list[BaseException | None] = []
        self.on_validate: list[BaseException | None] = []
        self.on_close: BaseException | None = None
        self.fold: Callable[[Values, Sequence[Write]], Values] = lambda state, writes: {**state, **dict(writes)}


SCRIPTS: list[Script] = []


def play(steps: list[BaseException | None]) -> None:
    """Raise the next step, or go on if it is None or there are no more."""
    step = steps.pop(0) if steps else None
    if step is not None:
        raise step


class Scripted(StoreActor[Values, "ScriptedView"]):
    """Does what its script says."""

    def __init__(self, script: Script) -> None:
        script.built += 1
        script.threads.add(threading.current_thread().name)
        play(script.on_init)
        self._script = script

    def recover(self, checkpoint: Checkpoint | None) -> Values:
        assert checkpoint is None
        self._script.recovered += 1
        self._script.threads.add(threading.current_thread().name)
        play(self._script.on_recover)
        return {"a": 0}

    def validate(self, old: Values, new: Values, commit: Commit) -> None:
        self._script.validated.append((commit.seq, old, new, commit))
        self._script.threads.add(threading.current_thread().name)
        play(self._script.on_validate)

    def close(self) -> None:
        self._script.closed += 1
        if self._script.on_close is not None:
            raise self._script.on_close

    @staticmethod
    def fold(state: Values, writes: Sequence[Write]) -> Values:
        return SCRIPTS[-1].fold(state, writes)

    @staticmethod
    def view(access: Access[Values]) -> ScriptedView:
        return ScriptedView(access)


class ScriptedView:
    """Reads and writes by key."""

    def __init__(self, access: Access[Values]) -> None:
        self.access = access

    def get(self, key: str) -> Any:
        self.access.read(key)
        return self.access.state.get(key)

    def put(self, key: Any, op: Any) -> None:
        self.access.write(key, op)


class ScriptedOnCore(Scripted):
    """The same on the core."""

    dispatcher: ClassVar[Literal["core", "dedicated"]] = "core"


class Theatre:
    """A system with a scripted store and a bank."""

    def __init__(self, system: Supervisor, dispatcher: str) -> None:
        self.script = Script()
        SCRIPTS.append(self.script)
        self.system = system
        store_class = ScriptedOnCore if dispatcher == "core" else Scripted
        self.store = system.store("scripted", store_class.spec(self.script), restart=Restart(intensity=100))
        self.accounts = open_bank(system)

        @system.on(Put)
        def put(trigger: Put, tx: Transaction) -> None:
            tx[self.store].put(trigger.key, trigger.value)
            if trigger.deposit:
                tx[self.accounts]["put"] = Account(balance=1)

    @property
    def content(self) -> Values:
        state: Values = self.system.snapshot()[self.store].access.state
        return state

    def put(self, value: Any = 1, key: str = "a", *, deposit: bool = False) -> None:
        self.system.ask(Put(key=key, value=value, deposit=deposit), timeout=WAIT_S)


@pytest.fixture(params=[(make, dispatcher) for make in MAKERS for dispatcher in DISPATCHERS], ids=shown)
def theatre(request: pytest.FixtureRequest) -> Iterator[Theatre]:
    """A theatre that has not been opened, on each kind of dispatcher."""
    make, dispatcher = request.param
    theatre = Theatre(make(), dispatcher)
    yield theatre
    theatre.system.stop()


# Recover ----------------------------------------------------------------------------------------------------------


def test_a_store_is_built_and_recovered_once_and_closed_once_at_the_stop(theatre: Theatre) -> None:
    assert theatre.script.built == 0, "the registration builds nothing"
    with theatre.system:
        theatre.put(1)
        theatre.put(2)
        assert (theatre.script.built, theatre.script.recovered, theatre.script.closed) == (1, 1, 0)
        assert theatre.content == {"a": 2}
    theatre.system.stop()
    assert (theatre.script.built, theatre.script.recovered, theatre.script.closed) == (1, 1, 1)


@pytest.mark.parametrize("where", ["on_init", "on_recover"])
@pytest.mark.parametrize("error", [OSError("no such disk"), SystemExit(3), Rejected("no")])
def test_a_store_that_cannot_recover_stops_the_start_and_is_named(
    theatre: Theatre, where: str, error: BaseException
) -> None:
    getattr(theatre.script, where).append(error)
    with pytest.raises(
        RegistrationError, match=f"store 'scripted' could not recover: {type(error).__name__}"
    ) as caught:
        theatre.system.start()
    assert caught.value.__cause__ is error
    with pytest.raises(NotRunning):
        theatre.system.submit(Deposit())


@pytest.mark.parametrize("seed", range(8))
def test_stores_that_recover_after_another_could_not_change_nothing(seed: int) -> None:
    theatre = Theatre(Supervisor(dispatchers=lambda _: SimulatedDispatchers(seed)), "core")
    theatre.script.on_recover.append(OSError("no such disk"))
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.record["message"]), level="ERROR")
    logger.enable("seqtor")
    try:
        with pytest.raises(RegistrationError, match="store 'scripted' could not recover"):
            theatre.system.start()
    finally:
        logger.disable("seqtor")
        logger.remove(sink)
    assert not [line for line in lines if "Root" in line]


def test_a_start_that_failed_can_be_tried_again(theatre: Theatre) -> None:
    theatre.script.on_recover.append(OSError("no such disk"))
    with pytest.raises(RegistrationError):
        theatre.system.start()
    with theatre.system:
        theatre.put(1)
        assert theatre.content == {"a": 1}


def test_a_store_whose_medium_is_away_is_waited_for_at_the_start(theatre: Theatre) -> None:
    theatre.script.on_recover += [StoreUnavailable("away", retry_after=0.01), StoreUnavailable(retry_after=0.0)]
    with theatre.system:
        assert theatre.script.recovered == 3
        theatre.put(1)
        assert theatre.content == {"a": 1}


def test_the_wait_for_a_medium_is_as_long_as_the_store_says() -> None:
    dispatchers = SimulatedDispatchers(0)
    theatre = Theatre(Supervisor(dispatchers=lambda settings: dispatchers), "dedicated")
    theatre.script.on_recover += [
        StoreUnavailable(retry_after=30),
        StoreUnavailable("", datetime.timedelta(seconds=70)),
    ]
    with theatre.system:
        assert dispatchers.clock.monotonic() == pytest.approx(100)
        theatre.script.on_validate += [StoreUnavailable(retry_after=11), StoreUnavailable(retry_after=22)]
        theatre.system.ask(Put())
        assert dispatchers.clock.monotonic() == pytest.approx(133)


def test_a_store_on_its_own_thread_is_called_there_and_nowhere_else() -> None:
    theatre = Theatre(Supervisor(name="desk", settings={"threads": 2}), "dedicated")
    folding: set[str] = set()

    def fold(state: Values, writes: Sequence[Write]) -> Values:
        folding.add(threading.current_thread().name)
        return {**state, **dict(writes)}

    theatre.script.fold = fold
    theatre.script.on_validate.append(OSError("rebuild"))
    with theatre.system:
        theatre.put(1)
    assert theatre.script.threads == {"desk-store-scripted"}
    assert folding
    assert all("-pool-" in name for name in folding), "a dedicated store's folds run off its thread and off the core"


# Validate ---------------------------------------------------------------------------------------------------------


def test_validate_sees_the_old_state_the_new_one_and_the_commit(theatre: Theatre) -> None:
    class Add(Trigger[None]): ...

    @theatre.system.on(Add)
    def add(trigger: Add, tx: Transaction) -> None:
        view = tx[theatre.store]
        view.put("a", view.get("a") + 1)
        view.put("b", [1, {"x": None}])

    with theatre.system:
        for _ in range(2):
            theatre.system.ask(Add(), timeout=WAIT_S)
        theatre.system.ask(Deposit(), timeout=WAIT_S)
    written = [Write("a", 1), Write("b", [1, {"x": None}])]
    after = {"a": 1, "b": [1, {"x": None}]}
    assert theatre.script.validated[0] == (1, {"a": 0}, after, Commit(1, ("a",), tuple(written)))
    assert theatre.script.validated[1][:3] == (2, after, {**after, "a": 2})
    assert len(theatre.script.validated) == 2, "a commit that does not write here is not asked about"


def test_a_write_that_changes_nothing_is_not_asked_about(theatre: Theatre) -> None:
    theatre.script.fold = lambda state, writes: state if dict(writes) == state else {**state, **dict(writes)}
    with theatre.system:
        theatre.put(0)
        assert theatre.script.validated == []
        assert "at seq 0" in repr(theatre.store)


def test_a_commit_that_validate_rejects_writes_nothing_anywhere(theatre: Theatre) -> None:
    theatre.script.on_validate.append(Rejected("full", "full", limit=1))
    with theatre.system:
        with pytest.raises(Rejected, match=r"full \(limit=1\)") as caught:
            theatre.put(5, deposit=True)
        assert (caught.value.code, caught.value.details) == ("full", {"limit": 1})
        assert theatre.content == {"a": 0}
        assert dict(theatre.system.snapshot()[theatre.accounts]) == {}
        record = theatre.system.record(1)
        assert (record.state, record.attempts, record.error) == (State.REJECTED, 1, "full (limit=1)")
        theatre.put(6, deposit=True)
        assert theatre.content == {"a": 6}
        assert theatre.script.built == 1, "a rejection is no crash"
        assert theatre.system.stats().restarts == 0


def test_a_commit_waits_while_the_medium_is_away_and_then_commits(theatre: Theatre) -> None:
    theatre.script.on_validate += [StoreUnavailable("away", retry_after=0.01), StoreUnavailable(retry_after=0)]
    with theatre.system:
        theatre.put(5)
        assert theatre.content == {"a": 5}
        assert [seq for seq, *_ in theatre.script.validated] == [1, 1, 1]
        assert theatre.script.built == 1, "a medium that is away is no crash"
        assert theatre.system.stats().restarts == 0
        assert theatre.system.record(1).attempts == 1


@pytest.mark.parametrize("error", [OSError("disk"), SystemExit(3), KeyboardInterrupt()])
def test_a_store_that_crashes_once_is_rebuilt_and_the_commit_offered_again(
    theatre: Theatre, error: BaseException
) -> None:
    theatre.script.on_validate.append(error)
    with theatre.system:
        theatre.put(5, deposit=True)
        assert theatre.content == {"a": 5}
        assert [seq for seq, *_ in theatre.script.validated] == [1, 1]
        assert theatre.script.validated[0] == theatre.script.validated[1]
        assert (theatre.script.built, theatre.script.recovered) == (2, 2)
        assert theatre.system.stats().restarts == 1
        theatre.put(6)
        assert theatre.content == {"a": 6}
    assert theatre.script.closed == 1, "only at the ordered stop"


@pytest.mark.parametrize("error", [OSError("disk"), SystemExit(3)])
def test_the_third_crash_on_one_commit_ends_its_run_as_failed(theatre: Theatre, error: BaseException) -> None:
    theatre.script.on_validate += [error, error, error]
    with theatre.system:
        with pytest.raises(HandlerFailed) as caught:
            theatre.put(5, deposit=True)
        assert caught.value.__cause__ is error
        assert theatre.content == {"a": 0}
        assert dict(theatre.system.snapshot()[theatre.accounts]) == {}
        assert [seq for seq, *_ in theatre.script.validated] == [1, 1, 1]
        record = theatre.system.record(1)
        assert (record.state, record.attempts) == (State.FAILED, 1)
        assert (record.error or "").startswith(type(error).__name__)
        while theatre.system.stats().restarts < 3:  # The run ends before the store is restarted once more.
            pass
        theatre.put(6)
        assert theatre.content == {"a": 6}


def test_crashes_are_counted_for_each_commit_by_itself(theatre: Theatre) -> None:
    for _ in range(4):
        theatre.script.on_validate += [OSError("one"), OSError("two"), None]
    with theatre.system:
        for value in range(1, 5):
            theatre.put(value)
            assert theatre.content == {"a": value}
        assert theatre.system.stats().restarts == 8


def test_a_rebuild_that_fails_counts_as_a_restart_and_one_that_must_wait_does_not(theatre: Theatre) -> None:
    with theatre.system:
        theatre.script.on_validate.append(OSError("crash"))
        theatre.script.on_recover += [StoreUnavailable(retry_after=0.01), OSError("still broken")]
        theatre.put(5)
        assert theatre.content == {"a": 5}
        assert theatre.system.stats().restarts == 2
        theatre.script.on_validate.append(OSError("crash"))
        theatre.script.on_recover += [OSError("broken"), OSError("broken")]
        theatre.put(6)
        assert theatre.content == {"a": 6}
        assert theatre.system.stats().restarts == 5


def test_a_store_that_crashes_more_often_than_its_window_allows_stops_the_system(theatre: Theatre) -> None:
    theatre.script.on_validate += [OSError("disk")] * 200
    with theatre.system:
        first, *_, last = theatre.system.submit_many([Put()] * 40)
        with pytest.raises(HandlerFailed, match="disk"):
            first.result(WAIT_S)
        with pytest.raises(OutcomeUnknown, match="StoreCell crashed: OSError: disk"):
            last.result(WAIT_S)
        with pytest.raises(NotRunning, match="the system takes no more work: StoreCell crashed: OSError: disk"):
            theatre.system.submit(Put())


def test_the_other_stores_go_on_when_one_crashes_all_the_time(theatre: Theatre) -> None:
    theatre.script.on_validate += [OSError("disk")] * 100
    with theatre.system:
        puts = theatre.system.submit_many([Put()] * 10)
        deposits = theatre.system.submit_many([Deposit()] * 10)
        assert [deposit.result(WAIT_S) for deposit in deposits] == list(range(1, 11))
        assert [put.state for put in puts] == [State.FAILED] * 10
        assert theatre.system.stats().state_counts == {State.FAILED: 10, State.COMMITTED: 10}


@pytest.mark.parametrize("first", [None, OSError("disk"), StoreUnavailable(retry_after=0.01)])
@pytest.mark.parametrize("make", [*[functools.partial(simulated, seed) for seed in range(20)], threaded])
def test_a_commit_needs_the_agreement_of_all_its_stores(make: Any, first: BaseException | None) -> None:
    system = make()
    one, two = Theatre(system, "dedicated"), Script()
    second = system.store("second", Scripted.spec(two))

    class Both(Trigger[None]): ...

    @system.on(Both)
    def both(trigger: Both, tx: Transaction) -> None:
        tx[one.store].put("a", 5)
        tx[second].put("a", 5)

    one.script.on_validate.append(first)
    two.on_validate.append(Rejected("not here"))
    with system:
        with pytest.raises(Rejected, match="not here"):
            system.ask(Both(), timeout=WAIT_S)
        assert one.content == system.snapshot()[second].access.state == {"a": 0}
        system.ask(Both(), timeout=WAIT_S)
        assert one.content == system.snapshot()[second].access.state == {"a": 5}


def test_a_stop_while_the_medium_is_away_answers_everyone() -> None:
    theatre = Theatre(threaded(threads=2), "dedicated")
    asked = threading.Event()

    class Away(StoreUnavailable):
        def __init__(self) -> None:
            super().__init__("away", retry_after=3600)
            asked.set()

    class Raise(list[Any]):
        def pop(self, index: Any = -1) -> BaseException:
            return Away()

        def __bool__(self) -> bool:
            return True

    theatre.script.on_validate = Raise()
    theatre.system.start()
    put = theatre.system.submit(Put())
    behind = theatre.system.submit(Deposit())
    assert asked.wait(WAIT_S)
    theatre.system.stop(grace=0.01)
    for submission in (put, behind):
        with pytest.raises(NotRunning, match="nothing of it was written"):
            submission.result(0)
    assert theatre.content == {"a": 0}


def test_a_close_that_raises_does_not_keep_the_system_from_stopping(theatre: Theatre) -> None:
    theatre.script.on_close = OSError("cannot close")
    with theatre.system:
        theatre.put(5)
    assert theatre.script.closed == 1
    assert theatre.content == {"a": 5}


# Fold and view ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_a_fold_that_raises_at_the_commit_fails_its_run_and_no_other(theatre: Theatre, error: BaseException) -> None:
    def fold(state: Values, writes: Sequence[Write]) -> Values:
        if dict(writes).get("a") == "bad":
            raise error
        return {**state, **dict(writes)}

    theatre.script.fold = fold
    with theatre.system:
        with pytest.raises(HandlerFailed) as caught:
            theatre.put("bad", deposit=True)
        assert caught.value.__cause__ is error
        assert theatre.content == {"a": 0}
        assert dict(theatre.system.snapshot()[theatre.accounts]) == {}
        theatre.put("good")
        assert theatre.content == {"a": "good"}


def test_a_fold_that_rejects_at_the_commit_rejects_the_run(theatre: Theatre) -> None:
    def fold(state: Values, writes: Sequence[Write]) -> Values:
        raise Rejected("not foldable")

    theatre.script.fold = fold
    with theatre.system:
        with pytest.raises(Rejected, match="not foldable"):
            theatre.put(5)
        assert theatre.system.record(1).state is State.REJECTED
        assert theatre.content == {"a": 0}


def test_what_a_view_raises_is_raised_in_the_handler(theatre: Theatre) -> None:
    class Read(Trigger[Any]):
        key: str

    class Strict(ScriptedOnCore):
        @staticmethod
        def view(access: Access[Values]) -> Any:
            class View:
                def __getitem__(self, key: str) -> Any:
                    if key == "closed":
                        raise Rejected("closed")
                    return access.state[key]

            return View()

    strict = theatre.system.store("strict", Strict.spec(Script()))

    @theatre.system.on(Read)
    def read(trigger: Read, tx: Transaction) -> Any:
        view: Any = tx[strict]
        try:
            return view[trigger.key]
        except LookupError:
            return "absent"

    with theatre.system:
        assert theatre.system.ask(Read(key="a"), timeout=WAIT_S) == 0
        assert theatre.system.ask(Read(key="x"), timeout=WAIT_S) == "absent"
        with pytest.raises(Rejected, match="closed"):
            theatre.system.ask(Read(key="closed"), timeout=WAIT_S)


@pytest.mark.parametrize("op", [None, True, 0, -(2**70), 1.5, "a", b"\xff", [1, [2, None]], {"a": {"b": []}}, (1, 2)])
def test_a_write_is_json_or_bytes(theatre: Theatre, op: Any) -> None:
    class Change(Trigger[None]): ...

    @theatre.system.on(Change)
    def write(trigger: Change, tx: Transaction) -> None:
        tx[theatre.store].put("a", op)

    with theatre.system:
        theatre.system.ask(Change(), timeout=WAIT_S)
        assert theatre.content == {"a": [1, 2] if op == (1, 2) else op}


@pytest.mark.parametrize(
    ("key", "op", "expected"),
    [
        (1, 1, "a write's key must be a str, got int 1"),
        ("a", {1}, "op is a set: a write's op must be JSON or bytes"),
        ("a", Account(), "op is a Account: a write's op must be JSON or bytes"),
        ("a", [1, {"x": object()}], r"op\[1\]\['x'\] is a object"),
        ("a", {"x": {1: 2}}, r"op\['x'\] has the key 1: JSON keys are strings"),
        ("a", float("nan"), "op is nan, which JSON cannot hold"),
        ("a", [float("inf")], r"op\[0\] is inf, which JSON cannot hold"),
        ("a", bytearray(b"x"), "op is a bytearray"),
    ],
)
def test_a_write_that_is_neither_is_refused_with_its_place(theatre: Theatre, key: Any, op: Any, expected: str) -> None:
    class Change(Trigger[None]): ...

    @theatre.system.on(Change)
    def write(trigger: Change, tx: Transaction) -> None:
        tx[theatre.store].put(key, op)

    with theatre.system:
        with pytest.raises(HandlerFailed, match=expected) as caught:
            theatre.system.ask(Change(), timeout=WAIT_S)
        assert isinstance(caught.value.__cause__, TypeError)
        assert theatre.content == {"a": 0}


def test_what_was_written_is_as_it_was_when_it_was_written(theatre: Theatre) -> None:
    class Change(Trigger[None]): ...

    @theatre.system.on(Change)
    def write(trigger: Change, tx: Transaction) -> None:
        op = {"items": [1]}
        tx[theatre.store].put("a", op)
        op["items"].append(2)

    with theatre.system:
        theatre.system.ask(Change(), timeout=WAIT_S)
        assert theatre.content == {"a": {"items": [1]}}


@pytest.mark.parametrize("make", MAKERS)
def test_three_kinds_of_stores_commit_together(make: Any) -> None:
    system = make()
    theatre = Theatre(system, "dedicated")
    core = system.store("core", ScriptedOnCore.spec(Script()))
    book = system.store("book", Collection(Account))

    class All(Trigger[int]): ...

    @system.on(All)
    def write_all(trigger: All, tx: Transaction) -> int:
        value = int(tx[theatre.store].get("a")) + 1
        tx[theatre.store].put("a", value)
        tx[core].put("a", value)
        tx[book]["a"] = Account(balance=value)
        return value

    with system:
        submissions = system.submit_many([All()] * 50)
        while not submissions[-1].done:
            snapshot = system.snapshot()
            seen = {snapshot[theatre.store].access.state["a"], snapshot[core].access.state["a"]}
            assert seen == {snapshot[book].get("a", Account()).balance} == {snapshot.seq}
            submissions[0].result(WAIT_S)
            submissions[-1].result(WAIT_S)
        assert [submission.result(0) for submission in submissions] == list(range(1, 51))
