"""All orders of small worlds: each gives what serial execution gives, and the reduction loses no end."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from pykka.messages import ProxyCall

from seqtor import Collection, Record, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.runs import Run
from tests.seeds import scaled
from tests.simulation.planted import PLANTS
from tests.simulation.systematic import Played, Search, World, play_all


class Number(Record):
    """A counter."""

    n: int = 0


class Add(Trigger[int]):
    """Reads a key and writes it."""

    key: str


class Increment(Trigger[None]):
    """Writes a key without reading it."""

    key: str


class Look(Trigger[int]):
    """Reads a key."""

    key: str


class Copy(Trigger[int]):
    """Reads a store and writes the other one."""

    back: bool


class Killer(Actor):
    """Makes the committer crash, at any time: it is a process of its own."""

    stands_alone = True

    def on_receive(self, message: Any) -> None:
        message.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))


def world(*triggers: Trigger[Any], killed: bool = False, late: bool = False) -> World:
    """Runs, and a death of the committer at any time; compared are results, executions, the state, and the deaths.

    `late`: orders begin to differ when all runs are about to be executed.
    """

    def begin(dispatchers: SimulatedDispatchers) -> tuple[Supervisor, Callable[[], bool], Callable[[], Hashable]]:
        system = Supervisor(dispatchers=lambda _: dispatchers)
        numbers = system.store("numbers", Collection(Number))
        others = system.store("others", Collection(Number))

        @system.on(Add)
        def add(trigger: Add, tx: Transaction) -> int:
            n = tx[numbers].get(trigger.key, Number()).n + 1
            tx[numbers][trigger.key] = Number(n=n)
            return n

        @system.on(Increment)
        def increment(trigger: Increment, tx: Transaction) -> None:
            tx[numbers].increment(trigger.key, n=1)

        @system.on(Look)
        def look(trigger: Look, tx: Transaction) -> int:
            return tx[numbers].get(trigger.key, Number()).n

        @system.on(Copy)
        def copy(trigger: Copy, tx: Transaction) -> int:
            source, target = (others, numbers) if trigger.back else (numbers, others)
            n = tx[source].get("a", Number()).n + 1
            tx[target]["a"] = Number(n=n)
            return n

        system.start()
        running: Any = system._running
        dispatchers.run_to_rest()
        submissions = system.submit_many(list(triggers))
        while late and sum(isinstance(each._actor, Run) for each in dispatchers._ready) != len(triggers):
            dispatchers.step()
        if killed:
            Killer.start_on(dispatchers).tell(running._path.committer_ref.actor_inbox)

        def end() -> Hashable:
            ended = tuple((each.result(0), system.record(each.seq or 0).attempts) for each in submissions)
            snapshot = system.snapshot()
            state = tuple((key, number.n) for ref in (numbers, others) for key, number in snapshot[ref].items())
            return ended, state, running._ledger.restarts

        return system, lambda: all(each.done for each in submissions), end

    return World(begin)


def results(played: Played) -> set[Hashable]:
    """What the runs have answered and left, whatever it took."""
    ends: Any = played.ends
    return {(tuple(result for result, _ in ended), state) for ended, state, _ in ends}


SKEW = (Copy(back=False), Copy(back=True))
SERIAL = {((1, 2), (("a", 2), ("a", 1)))}


# The reduction ---------------------------------------------------------------------------------------------------------

Program = list[list[tuple[str, str]]]


def program_of(chance: random.Random) -> Program:
    """Three processes of a few operations on a few variables."""
    kinds = ("add", "take", "take", "wait")
    return [[(chance.choice(kinds), chance.choice("xyz")) for _ in range(chance.randint(1, 3))] for _ in range(3)]


def ends_of(program: Program, *, reduced: bool) -> tuple[set[Hashable], int]:
    """How all orders of a program end, and how many were played."""
    search = Search(reduced=reduced, process_of=lambda process: process)
    ends: set[Hashable] = set()
    count = 0
    while True:
        search.begin()
        count += 1
        values, private, at = dict.fromkeys("xyz", 0), [1, 10, 100], [0, 0, 0]

        def able(process: int, at: list[int] = at, values: dict[str, int] = values) -> bool:
            left = program[process][at[process] :]
            return bool(left) and (left[0][0] != "wait" or values[left[0][1]] > 0)

        while (ready := [process for process in range(3) if able(process)]) and not search.is_redundant:
            process = ready[search.choose(ready)]
            if search.is_redundant:
                break
            kind, name = program[process][at[process]]
            at[process] += 1
            search.touched[name] = kind == "add"
            if kind == "add":
                values[name] = 3 * values[name] + private[process]
            elif kind == "take":
                private[process] += values[name]
        if not search.is_redundant:
            ends.add((*values.values(), *private, *at))
        if not search.advance():
            return ends, count


def test_the_reduction_loses_no_end_of_any_program_and_plays_fewer_orders() -> None:
    played = {True: 0, False: 0}
    for seed in range(scaled(300)):
        program = program_of(random.Random(seed))
        ends = {}
        for reduced in (True, False):
            ends[reduced], count = ends_of(program, reduced=reduced)
            played[reduced] += count
        assert ends[True] == ends[False], f"seed {seed}"
    print(f"{played[True]} orders instead of {played[False]}")
    assert played[True] < played[False] / 10


def test_no_end_of_a_random_order_is_lost() -> None:
    for triggers in (SKEW, (Add(key="a"), Add(key="a")), (Increment(key="a"), Look(key="a"))):
        played = play_all(world(*triggers))
        found: set[Hashable] = set()
        for seed in range(scaled(30)):
            dispatchers = SimulatedDispatchers(seed, explorer=EXPLORERS[seed % len(EXPLORERS)], threads=64)
            _, is_over, end_of = world(*triggers).begin(dispatchers)
            dispatchers.run_until(is_over, None)
            found.add(end_of())
            dispatchers.drop()
        assert found <= set(played.ends)
        assert len(found) > 1


# Small worlds ----------------------------------------------------------------------------------------------------------


def test_two_runs_on_one_key_give_what_serial_execution_gives_in_every_order() -> None:
    played = play_all(world(Add(key="a"), Add(key="a")))
    assert results(played) == {((1, 2), (("a", 2),))}
    ends: Any = played.ends
    executions = {tuple(attempts for _, attempts in ended) for ended, _, _ in ends}
    assert executions == {(1, 1), (1, 2)}, "the second one after the first, or beside it"
    print(f"{played.orders} orders, {played.equivalent} given up as equivalent")
    assert played.orders >= 10


def test_two_runs_that_read_what_the_other_writes_give_what_serial_execution_gives_in_every_order() -> None:
    assert results(play_all(world(*SKEW))) == SERIAL


def test_a_run_and_the_death_of_the_committer_at_any_time_give_what_serial_execution_gives() -> None:
    played = play_all(world(Add(key="a"), killed=True))
    assert results(played) == {((1,), (("a", 1),))}
    ends: Any = played.ends
    assert {restarts for _, _, restarts in ends} == {1}
    print(f"{played.orders} orders, {played.equivalent} given up as equivalent")


# In each run of the tests the first one, with `make search` all of them.
THREE_RUNS: list[tuple[tuple[Trigger[Any], ...], tuple[int | None, ...], tuple[tuple[str, int], ...]]] = [
    ((Add(key="a"), Add(key="b"), Look(key="a")), (1, 1, 1), (("a", 1), ("b", 1))),
    ((Increment(key="a"), Add(key="a"), Look(key="a")), (None, 2, 2), (("a", 2),)),
    ((Add(key="a"), Add(key="a"), Look(key="a")), (1, 2, 2), (("a", 2),)),
    ((Add(key="a"), Add(key="a"), Add(key="a")), (1, 2, 3), (("a", 3),)),
]


@pytest.mark.parametrize(("triggers", "answers", "state"), THREE_RUNS[: scaled(1)])
def test_three_runs_give_what_serial_execution_gives_in_every_order_in_which_they_execute(
    triggers: tuple[Trigger[Any], ...], answers: tuple[int | None, ...], state: tuple[tuple[str, int], ...]
) -> None:
    played = play_all(world(*triggers, late=True))
    assert results(played) == {(answers, state)}
    print(f"{played.orders} orders, {played.equivalent} given up as equivalent")
    assert played.orders >= 1_000


@pytest.mark.parametrize(
    "name",
    [
        "only what was also written is validated",
        "a write is noted one seq too early",
        "an intent that waits does not hear of later commits",
    ],
)
def test_the_search_finds_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (plant,) = [each for each in PLANTS if each.name == name]
    plant.into(monkeypatch)
    try:
        found = results(play_all(world(*SKEW)))
    except Exception as error:
        print(f"found: {type(error).__name__}")
    else:
        assert found != SERIAL, f"not found: {name}"
