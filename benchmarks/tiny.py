"""W1, W1int, W3, W3r and W4: a tiny read-modify-write, in bursts and one by one.

Owns the handlers that are measured, written as a user would write them. Every answer is compared with that of a serial
execution: a fast wrong answer is an error, not a figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import immutables

from benchmarks.measure import burst, interleave, median, turns
from benchmarks.outcome import Outcome
from benchmarks.workload import (
    BURST,
    KEYS,
    TURNS,
    WARM_UP,
    Bump,
    Cell,
    keys_at_random,
    keys_in_turn,
    keys_of_one,
    serial_answers,
)
from benchmarks.yardstick import Skeleton
from seqtor import Collection, Supervisor, Transaction
from seqtor.actors.stores import Access, Checkpoint, StoreActor, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from seqtor.actors.journal.contract import Backend

__all__ = ["record_system", "require_serial", "skeleton_bursts", "w1", "w1_int", "w3", "w3_random", "w4"]


class Counters(StoreActor[immutables.Map[str, int], "CountersView"]):
    """Plain integers by key: the least that a store can be."""

    dispatcher = "core"

    def recover(self, checkpoint: Checkpoint | None) -> immutables.Map[str, int]:
        return immutables.Map(dict.fromkeys(KEYS, 0))

    @staticmethod
    def fold(state: immutables.Map[str, int], writes: Sequence[Write]) -> immutables.Map[str, int]:
        for key, value in writes:
            state = state.set(key, value)
        return state

    @staticmethod
    def view(access: Access[immutables.Map[str, int]]) -> CountersView:
        return CountersView(access)


class CountersView:
    """What `tx[counters]` gives: integers by key."""

    __slots__ = ("_access",)

    def __init__(self, access: Access[immutables.Map[str, int]]) -> None:
        self._access = access

    def __getitem__(self, key: str) -> int:
        self._access.read(key)
        return self._access.state[key]

    def __setitem__(self, key: str, value: int) -> None:
        self._access.write(key, value)


def record_system(journal: Path | str | Backend | None = None) -> Supervisor:
    """Counters as immutable records in a collection."""
    system = Supervisor(journal)
    cells = system.store("cells", Collection(Cell, initial={key: Cell() for key in KEYS}))

    @system.on(Bump)
    def bump(trigger: Bump, tx: Transaction) -> int:
        book = tx[cells]
        cell = book[trigger.key]
        book[trigger.key] = changed = cell.replace(value=cell.value + 1)
        return changed.value

    return system


def integer_system() -> Supervisor:
    """Counters as plain integers in a store of one's own."""
    system = Supervisor()
    counters = system.store("counters", Counters.spec())

    @system.on(Bump)
    def bump(trigger: Bump, tx: Transaction) -> int:
        book = tx[counters]
        book[trigger.key] = value = book[trigger.key] + 1
        return value

    return system


def w1() -> Outcome:
    """1,000 keys in turn, `Record` values."""
    return _bursts("W1", record_system, keys_in_turn())


def w1_int() -> Outcome:
    """1,000 keys in turn, plain integers."""
    return _bursts("W1int", integer_system, keys_in_turn())


def w3() -> Outcome:
    """One hot key; the yardstick still has 1,000."""
    return _bursts("W3", record_system, keys_of_one())


def w3_random() -> Outcome:
    """Random keys out of 1,000; the yardstick takes them in turn."""
    return _bursts("W3r", record_system, keys_at_random())


def w4() -> Outcome:
    """Submit, wait, repeat: the p50."""
    keys = keys_in_turn()
    triggers = [Bump(key=key) for key in keys[:TURNS]]

    def yardstick() -> float:
        with Skeleton(KEYS) as skeleton:
            burst(skeleton.submit_many, triggers[:WARM_UP])
            return median(turns(skeleton.submit, triggers)) * 1e6

    def measure() -> float:
        system = record_system()
        with system:
            burst(system.submit_many, triggers[:WARM_UP])
            return median(turns(system.submit, triggers)) * 1e6

    return Outcome.of_rounds(*interleave("W4", yardstick, measure))


def skeleton_bursts() -> Callable[[], float]:
    """A function that runs the yardstick's burst once: items/s."""
    keys = keys_in_turn()
    items = [Bump(key=key) for key in keys]

    def yardstick() -> float:
        with Skeleton(KEYS) as skeleton:
            burst(skeleton.submit_many, items[:WARM_UP])
            elapsed_s, answers = burst(skeleton.submit_many, items)
        require_serial(answers, keys, "the yardstick")
        return BURST / elapsed_s

    return yardstick


def _bursts(title: str, build: Callable[[], Supervisor], keys: Sequence[str]) -> Outcome:
    triggers = [Bump(key=key) for key in keys]
    executions: list[int] = []

    def measure() -> float:
        system = build()
        with system:
            burst(system.submit_many, triggers[:WARM_UP])
            executed_before = system.conflicts().executions
            elapsed_s, answers = burst(system.submit_many, triggers)
            executions.append(system.conflicts().executions - executed_before)
        require_serial(answers, keys, title)
        return BURST / elapsed_s

    rounds = interleave(title, skeleton_bursts(), measure)
    return Outcome.of_rounds(*rounds, executions_mean=sum(executions) / len(executions) / BURST)


def require_serial(answers: Sequence[int], keys: Sequence[str], who: str) -> None:
    """Raise AssertionError unless the answers are those of a serial execution."""
    if answers != serial_answers(keys[:WARM_UP], keys):
        raise AssertionError(f"{who}: the answers differ from those of a serial execution")
