"""The suite that every store must pass, in a form that can be used for any store.

Subclass `StoreContract`, say how a store of integers under the keys "a", "b" and "c" is made, read and written, and
pytest runs every promise on it, in simulated orders and on real threads. A store may have found that content outside:
then it has been adopted by the first seqs.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from seqtor import (
    Collection,
    HandlerFailed,
    Record,
    Rejected,
    Restart,
    SeqtorError,
    Snapshot,
    State,
    StoreRef,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers, StoreSpec

__all__ = ["KEYS", "Stage", "StoreContract"]

WAIT_S = 20.0
KEYS = ("a", "b", "c")
SEEDS = range(6)
Deed = Callable[[Transaction, Any], Any]
Look = Callable[[Any, StoreRef[Any]], Any]


class Act(Trigger[Any]):
    """Does the deed of this number with the store."""

    deed: int


class Lower(Trigger[None]):
    """Does the deed of this number after everyone else has been executed once."""

    deed: int


class Other(Record):
    """What another store keeps."""

    number: int = 0


class Stage:
    """A running system with the store on it, and deeds to do with it.

    `look(reader, store)` gives what the deeds read and write, of a transaction, a snapshot or what is peeked at.
    """

    def __init__(
        self, system: Supervisor, spec: StoreSpec[Any], look: Look = lambda reader, store: reader[store]
    ) -> None:
        self.system = system
        self.look = look
        self.store: StoreRef[Any] = system.store("tested", spec, restart=Restart(intensity=1_000_000))
        self.other = system.store("other", Collection(Other, invariants=[lambda book: "forbidden" not in book]))
        self.first_seq = 0  # How many runs had ended when the system had started.
        self._deeds: list[Deed] = []
        system.on(Act)(self._act)
        system.on(Lower)(self._lower)

    def _act(self, trigger: Act, tx: Transaction) -> Any:
        return self._deeds[trigger.deed](tx, self.look(tx, self.store))

    async def _lower(self, trigger: Lower, tx: Transaction) -> None:
        await asyncio.sleep(0.05)
        self._deeds[trigger.deed](tx, self.look(tx, self.store))

    @contextmanager
    def opened(self) -> Iterator[Stage]:
        """The stage while its system runs."""
        with self.system:
            self.first_seq = self.system.stats().current_seq
            yield self

    def deed(self, function: Deed) -> int:
        """Register something to do; returns its number."""
        self._deeds.append(function)
        return len(self._deeds) - 1

    def submit(self, *functions: Deed) -> list[Any]:
        """Hand all of them in at once."""
        return self.system.submit_many([Act(deed=self.deed(function)) for function in functions])

    def do(self, function: Deed) -> Any:
        """Do it and wait for the result."""
        return self.system.ask(Act(deed=self.deed(function)), timeout=WAIT_S)

    def attempts_behind(self, lower: Deed, function: Deed) -> int:
        """How often `function` is executed if `lower`, at the seq before, commits after its first execution."""
        first = self.system.submit(Lower(deed=self.deed(lower)))
        (second,) = self.submit(lambda tx, view: (function(tx, view), None)[1])
        first.result(WAIT_S)
        second.result(WAIT_S)
        return self.system.record(second.seq or 0).attempts


class Peeked:
    """Reads stores as `tx.peek` shows them, in the form in which transactions and snapshots are read."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def __getitem__(self, store: StoreRef[Any]) -> Any:
        return self._tx.peek(store)


class StoreContract:
    """What every store promises. `names_reads`: a read of one key does not conflict with a write of another.

    Of a store that no handler writes, say in `make_spec_in` from what it follows, in `look` where a handler writes instead,
    and with `follows = True` that a run does not see what its own writes will make of it.
    """

    names_reads: ClassVar[bool] = True
    follows: ClassVar[bool] = False

    def make_spec(self) -> StoreSpec[Any]:
        """A fresh recipe of a store in which "a", "b" and "c" are 0."""
        raise NotImplementedError

    def make_spec_in(self, system: Supervisor) -> StoreSpec[Any]:
        """The same for a store that needs others, which are registered here."""
        return self.make_spec()

    def look(self, reader: Any, store: StoreRef[Any]) -> Any:
        """The view that the other methods get; `reader[store]` is that of a transaction, a snapshot or a peek."""
        return reader[store]

    def read(self, view: Any, key: str) -> int:
        """Read one key."""
        raise NotImplementedError

    def write(self, view: Any, key: str, value: int) -> None:
        """Write one key, without reading it."""
        raise NotImplementedError

    def read_all(self, view: Any) -> dict[str, int]:
        """Read the whole store."""
        raise NotImplementedError

    # Set-up ----------------------------------------------------------------------------------------------------------

    def make_stage(self, system: Supervisor) -> Stage:
        """The store on a system that has not started yet."""
        return Stage(system, self.make_spec_in(system), self.look)

    @pytest.fixture(params=["simulated", "threads"])
    def stage(self, request: pytest.FixtureRequest) -> Iterator[Stage]:
        """A running system on each kind of dispatcher."""
        if request.param == "simulated":
            system = Supervisor(dispatchers=lambda settings: SimulatedDispatchers(7))
        else:
            system = Supervisor(settings={"threads": 4})
        with self.make_stage(system).opened() as stage:
            yield stage

    @pytest.fixture(params=SEEDS)
    def seeded(self, request: pytest.FixtureRequest) -> Iterator[Stage]:
        """A running system in many simulated orders."""
        system = Supervisor(dispatchers=lambda settings: SimulatedDispatchers(request.param))
        with self.make_stage(system).opened() as stage:
            yield stage

    @pytest.fixture
    def threaded(self) -> Iterator[Stage]:
        """A running system on real threads."""
        with self.make_stage(Supervisor(settings={"threads": 4})).opened() as stage:
            yield stage

    def increment(self, key: str) -> Deed:
        """Add one by reading and writing."""

        def deed(tx: Transaction, view: Any) -> int:
            value = self.read(view, key) + 1
            self.write(view, key, value)
            return value

        return deed

    def put(self, key: str, value: int) -> Deed:
        """Write without reading."""
        return lambda tx, view: self.write(view, key, value)

    def content(self, stage: Stage, snapshot: Snapshot | None = None) -> dict[str, int]:
        """The committed content."""
        return self.read_all(self.look(snapshot or stage.system.snapshot(), stage.store))

    # Reads and writes ------------------------------------------------------------------------------------------------

    def test_it_starts_with_its_initial_content(self, stage: Stage) -> None:
        assert self.content(stage) == dict.fromkeys(KEYS, 0)
        assert stage.do(lambda tx, view: [self.read(view, key) for key in KEYS]) == [0, 0, 0]
        assert stage.do(lambda tx, view: self.read_all(view)) == dict.fromkeys(KEYS, 0)
        assert repr(stage.store).endswith(f"at seq {stage.first_seq}>")

    def test_own_writes_are_seen_at_once_and_by_others_after_the_commit(self, stage: Stage) -> None:
        def deed(tx: Transaction, view: Any) -> None:
            for value in (5, 6):
                self.write(view, "a", value)
                seen = 0 if self.follows else value
                assert self.read(view, "a") == seen
                assert self.read_all(view) == {"a": seen, "b": 0, "c": 0}
                assert self.read(self.look(tx, stage.store), "a") == seen
            assert self.content(stage) == dict.fromkeys(KEYS, 0)

        stage.do(deed)
        assert self.content(stage) == {"a": 6, "b": 0, "c": 0}
        assert stage.do(lambda tx, view: self.read(view, "a")) == 6
        assert repr(stage.store).endswith(f"at seq {stage.first_seq + 1}>")

    def test_what_was_rejected_or_failed_has_written_nothing(self, stage: Stage) -> None:
        def rejected(tx: Transaction, view: Any) -> None:
            self.write(view, "a", 5)
            raise Rejected("no")

        def failed(tx: Transaction, view: Any) -> None:
            self.write(view, "a", 5)
            raise ValueError("wrong")

        def unserialisable(tx: Transaction, view: Any) -> object:
            self.write(view, "a", 5)
            return object()

        for deed, error in ((rejected, Rejected), (failed, HandlerFailed), (unserialisable, HandlerFailed)):
            with pytest.raises(error):
                stage.do(deed)
        assert self.content(stage) == dict.fromkeys(KEYS, 0)
        assert repr(stage.store).endswith(f"at seq {stage.first_seq}>")

    def test_a_write_that_changes_nothing_is_no_write(self, stage: Stage) -> None:
        stage.do(self.put("a", 0))
        assert repr(stage.store).endswith(f"at seq {stage.first_seq}>")
        assert stage.attempts_behind(self.put("a", 0), lambda tx, view: self.read(view, "a")) == 1

    # Conflicts -------------------------------------------------------------------------------------------------------

    def test_a_key_that_was_read_and_has_changed_is_a_conflict(self, stage: Stage) -> None:
        assert stage.attempts_behind(self.put("a", 5), lambda tx, view: self.read(view, "a")) == 2

    def test_a_store_that_was_read_whole_and_has_changed_is_a_conflict(self, stage: Stage) -> None:
        assert stage.attempts_behind(self.put("b", 5), lambda tx, view: self.read_all(view)) == 2

    def test_another_key_that_has_changed_is_no_conflict(self, stage: Stage) -> None:
        if self.names_reads:
            assert stage.attempts_behind(self.put("b", 5), lambda tx, view: self.read(view, "a")) == 1

    def test_what_was_only_written_is_no_conflict(self, stage: Stage) -> None:
        assert stage.attempts_behind(self.put("a", 5), self.put("a", 6)) == 1
        assert self.content(stage)["a"] == 6

    def test_a_failure_on_stale_reads_is_a_conflict_and_not_a_failure(self, stage: Stage) -> None:
        def divide(tx: Transaction, view: Any) -> float:
            return 1 / self.read(view, "a")

        first = stage.system.submit(Lower(deed=stage.deed(self.put("a", 2))))
        (second,) = stage.submit(divide)
        first.result(WAIT_S)
        assert second.result(WAIT_S) == 0.5

    def test_a_read_of_this_store_guards_a_write_of_another(self, stage: Stage) -> None:
        def copy(tx: Transaction, view: Any) -> None:
            tx[stage.other]["copy"] = Other(number=self.read(view, "a"))

        assert stage.attempts_behind(self.put("a", 5), copy) == 2
        assert stage.system.snapshot()[stage.other]["copy"].number == 5

    # The serial order ------------------------------------------------------------------------------------------------

    def require_increments(self, stage: Stage, count: int) -> None:
        """Many runs that add one each add up, and each sees the one before."""
        submissions = stage.submit(*[self.increment("a")] * count)
        assert [submission.result(WAIT_S) for submission in submissions] == list(range(1, count + 1))
        assert self.content(stage) == {"a": count, "b": 0, "c": 0}
        assert max(stage.system.record(submission.seq).attempts for submission in submissions) <= 3

    def test_increments_add_up_in_every_order(self, seeded: Stage) -> None:
        self.require_increments(seeded, 20)

    def test_increments_add_up_on_threads(self, threaded: Stage) -> None:
        self.require_increments(threaded, 100)

    def require_no_write_skew(self, stage: Stage) -> None:
        """Each may take the one place that is left, after looking at all: one of them gets it."""

        def take(key: str) -> Deed:
            def deed(tx: Transaction, view: Any) -> bool:
                if sum(self.read_all(view).values()) > 0:
                    return False
                self.write(view, key, 1)
                return True

            return deed

        results = [submission.result(WAIT_S) for submission in stage.submit(*[take(key) for key in KEYS * 3])]
        assert results == [True] + [False] * 8
        assert self.content(stage) == {"a": 1, "b": 0, "c": 0}

    def test_there_is_no_write_skew_in_any_order(self, seeded: Stage) -> None:
        self.require_no_write_skew(seeded)

    def test_there_is_no_write_skew_on_threads(self, threaded: Stage) -> None:
        self.require_no_write_skew(threaded)

    def require_serial_equivalence(self, stage: Stage, seed: int) -> None:
        """Random runs end as if they had been executed one after another."""
        rng = random.Random(seed)
        model: dict[str, int] = dict.fromkeys(KEYS, 0)
        expected: list[Any] = []
        deeds: list[Deed] = []
        for _ in range(60):
            source, target = rng.choice(KEYS), rng.choice(KEYS)
            value, kind = rng.randrange(100), rng.choice(("add", "put", "sum", "reject", "fail", "read"))
            deeds.append(self._random_deed(kind, source, target, value))
            result, model = self._expected(kind, source, target, value, model)
            expected.append(result)
        answers = []
        for submission in stage.submit(*deeds):
            try:
                answers.append(submission.result(WAIT_S))
            except (Rejected, HandlerFailed) as error:
                answers.append(str(error.__cause__ or error))
        assert answers == expected
        assert self.content(stage) == model

    def _random_deed(self, kind: str, source: str, target: str, value: int) -> Deed:
        def deed(tx: Transaction, view: Any) -> Any:
            if kind == "put":
                return self.write(view, target, value)
            if kind == "sum":
                total = sum(self.read_all(view).values())
                self.write(view, target, total % 1000)
                return total
            read = self.read(view, source)
            if kind == "add":
                self.write(view, target, read + value)
            elif kind in ("reject", "fail") and read % 2:
                self.write(view, target, -1)
                raise Rejected(f"odd {read}") if kind == "reject" else ValueError(f"odd {read}")
            return read

        return deed

    def _expected(
        self, kind: str, source: str, target: str, value: int, model: dict[str, int]
    ) -> tuple[Any, dict[str, int]]:
        if kind == "put":
            return None, {**model, target: value}
        if kind == "sum":
            total = sum(model.values())
            return total, {**model, target: total % 1000}
        read = model[source]
        if kind == "add":
            return read, {**model, target: read + value}
        return (f"odd {read}" if kind in ("reject", "fail") and read % 2 else read), model

    @pytest.mark.parametrize("program", range(2))
    def test_random_runs_equal_the_serial_order_in_every_order(self, seeded: Stage, program: int) -> None:
        self.require_serial_equivalence(seeded, program)

    @pytest.mark.parametrize("program", range(2))
    def test_random_runs_equal_the_serial_order_on_threads(self, threaded: Stage, program: int) -> None:
        self.require_serial_equivalence(threaded, program)

    # Snapshots -------------------------------------------------------------------------------------------------------

    def test_a_snapshot_stays_as_it_is(self, stage: Stage) -> None:
        before = stage.system.snapshot()
        stage.do(self.put("a", 5))
        between = stage.system.snapshot()
        stage.do(self.put("a", 6))
        assert [self.content(stage, snapshot)["a"] for snapshot in (before, between, stage.system.snapshot())] == [
            0,
            5,
            6,
        ]

    def test_a_snapshot_is_read_only(self, stage: Stage) -> None:
        view = self.look(stage.system.snapshot(), stage.store)
        with pytest.raises(TypeError, match="a snapshot is read-only"):
            self.write(view, "a", 5)
        assert self.read_all(view) == self.content(stage) == dict.fromkeys(KEYS, 0)

    def test_every_snapshot_is_consistent_while_threads_write(self, threaded: Stage) -> None:
        def move(source: str, target: str) -> Deed:
            def deed(tx: Transaction, view: Any) -> int:
                self.write(view, source, self.read(view, source) - 1)
                self.write(view, target, self.read(view, target) + 1)
                return sum(self.read_all(view).values())

            return deed

        moves = [move(*pair) for pair in (("a", "b"), ("b", "c"), ("c", "a"))]
        submissions = threaded.submit(*moves * 40)
        sums = set()
        while not submissions[-1].done:
            sums.add(sum(self.content(threaded).values()))
        assert sums <= {0}
        assert {submission.result(WAIT_S) for submission in submissions} == {0}

    def test_peek_is_the_first_attempt_s_snapshot(self, stage: Stage) -> None:
        seen: list[tuple[int, int, bool]] = []

        def look(tx: Transaction, view: Any) -> None:
            peeked = self.look(Peeked(tx), stage.store)
            seen.append((self.read(peeked, "a"), self.read(view, "a"), tx.changed(stage.store, "a")))

        assert stage.attempts_behind(self.put("a", 5), look) == 2
        assert seen == [(0, 0, False), (0, 5, True)]

    def test_peeking_alone_never_conflicts(self, stage: Stage) -> None:
        def peek(tx: Transaction, view: Any) -> None:
            self.read_all(self.look(Peeked(tx), stage.store))

        assert stage.attempts_behind(self.put("a", 5), peek) == 1

    # With others -----------------------------------------------------------------------------------------------------

    def test_all_stores_of_a_commit_apply_or_none(self, stage: Stage) -> None:
        def forbidden(tx: Transaction, view: Any) -> None:
            self.write(view, "a", 5)
            tx[stage.other]["forbidden"] = Other()

        def allowed(tx: Transaction, view: Any) -> None:
            self.write(view, "a", 6)
            tx[stage.other]["allowed"] = Other()

        with pytest.raises(Rejected, match="invariant"):
            stage.do(forbidden)
        assert (self.content(stage)["a"], list(stage.system.snapshot()[stage.other])) == (0, [])
        stage.do(allowed)
        assert (self.content(stage)["a"], list(stage.system.snapshot()[stage.other])) == (6, ["allowed"])

    def test_a_view_that_is_used_after_its_handler_has_ended_says_so(self, stage: Stage) -> None:
        kept: list[Any] = []
        stage.do(lambda tx, view: kept.append(view))
        for use in (
            lambda: self.read(kept[0], "a"),
            lambda: self.read_all(kept[0]),
            lambda: self.write(kept[0], "a", 5),
        ):
            with pytest.raises(SeqtorError, match="has ended: use tx only inside its handler"):
                use()
        assert self.content(stage) == dict.fromkeys(KEYS, 0)

    def test_it_is_read_by_many_threads_at_once(self, threaded: Stage) -> None:
        stop = threading.Event()
        sums: list[int] = []

        def watch() -> None:
            while not stop.is_set():
                content = self.content(threaded)
                sums.append(content["a"] - content["b"])

        def both(tx: Transaction, view: Any) -> None:
            value = self.read(view, "a") + 1
            self.write(view, "a", value)
            self.write(view, "b", value)

        watchers = [threading.Thread(target=watch) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        for submission in threaded.submit(*[both] * 20):
            submission.result(WAIT_S)
        stop.set()
        for watcher in watchers:
            watcher.join(WAIT_S)
        assert set(sums) <= {0}
        assert threaded.system.stats().state_counts == {State.COMMITTED: threaded.first_seq + 20}
