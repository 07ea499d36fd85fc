"""Runs triggers of every kind and prints, per kind, how many objects only the cycle collector could free.

`python -m tests.properties.garbage` prints one JSON object a line. A process of its own: threads of other tests that end
meanwhile leave cycles of their own, and the figure here must be exactly 0.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from seqtor import (
    Access,
    Collection,
    Document,
    HandlerFailed,
    Record,
    Rejected,
    Restart,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors.publications import Publication
from seqtor.messages import Checkpoint, Commit, CommitIntent, Write
from tests.programs import WAIT_S, simulated, threaded

__all__ = ["KINDS", "PLACES"]

RUNS = 20_000
RUNS_PER_KIND = 500
BURST = 500
FORGETFUL = {"records_max": 10}  # What a kept record holds is no garbage yet.
PLACES = [
    f"{place}, {handler}, {keys} keys"
    for place in ("simulated", "threads")
    for handler in ("sync", "async")
    for keys in (1, 1000)
]


class Number(Record):
    """A counter."""

    n: int = 0


class Work(Trigger[Any]):
    """One run of a kind."""

    number: int
    key: str


class GuardedView:
    """Writes only."""

    def __init__(self, access: Access[tuple[str, ...]]) -> None:
        self._access = access

    def add(self, text: str) -> None:
        self._access.write("x", text)


class Guarded(StoreActor[tuple[str, ...], GuardedView]):
    """A store off the core that says no in every way."""

    def recover(self, checkpoint: Checkpoint | None) -> tuple[str, ...]:
        return ()

    def validate(self, old: tuple[str, ...], new: tuple[str, ...], commit: Commit) -> None:
        if new[-1] == "refused":
            raise Rejected("refused")
        if new[-1] == "crash":
            raise ValueError("crash")

    @staticmethod
    def fold(state: tuple[str, ...], writes: Sequence[Write]) -> tuple[str, ...]:
        if any(write.op == "fold" for write in writes):
            raise ValueError("fold")
        return (*state, *(write.op for write in writes))

    @staticmethod
    def view(access: Access[tuple[str, ...]]) -> GuardedView:
        return GuardedView(access)


class Stores:
    """The stores that the handlers below work on."""

    def __init__(self, system: Supervisor) -> None:
        guarded = Collection(Number, invariants=[lambda state: all(value.n >= 0 for value in state.values())])
        self.numbers = system.store("numbers", Collection(Number))
        self.number = system.store("number", Document(Number))
        self.guarded = system.store("guarded", guarded)
        self.custom = system.store("custom", Guarded.spec(), restart=Restart(intensity=1_000_000))


def commits(trigger: Work, tx: Transaction, stores: Stores) -> int:
    view = tx[stores.numbers]
    n = view.get(trigger.key, Number()).n + 1
    view[trigger.key] = Number(n=n)
    return n


def reads_ranges(trigger: Work, tx: Transaction, stores: Stores) -> int:
    total = sum(value.n for _, value in tx[stores.numbers].scan(prefix="k")) + tx[stores.number].fields.n
    tx[stores.number].increment(n=1)
    return total


def raises(trigger: Work, tx: Transaction, stores: Stores) -> int:
    commits(trigger, tx, stores)
    raise ValueError(trigger.number)


def raises_from_below(trigger: Work, tx: Transaction, stores: Stores) -> int:
    try:
        return tx[stores.numbers]["absent"].n
    except KeyError as error:
        raise ValueError(trigger.number) from error


def rejects(trigger: Work, tx: Transaction, stores: Stores) -> int:
    commits(trigger, tx, stores)
    raise Rejected("no", number=trigger.number)


def breaks_an_invariant(trigger: Work, tx: Transaction, stores: Stores) -> None:
    tx[stores.guarded]["x"] = Number(n=-1)


def returns_what_cannot_be_serialised(trigger: Work, tx: Transaction, stores: Stores) -> Any:
    return object()


def commits_intents(trigger: Work, tx: Transaction, stores: Stores) -> list[CommitIntent]:
    seq, number = tx.read(stores.number)
    return [tx.prepare_commit(stores.number, seq, number.replace(n=trigger.number))]


def commits_an_invalid_intent(trigger: Work, tx: Transaction, stores: Stores) -> list[CommitIntent]:
    seq, _ = tx.read(stores.number)
    return [tx.prepare_commit(stores.number, seq, "no number")]


def is_refused_by_the_store(trigger: Work, tx: Transaction, stores: Stores) -> None:
    tx[stores.custom].add("refused")


def crashes_the_store(trigger: Work, tx: Transaction, stores: Stores) -> None:
    tx[stores.custom].add("crash")


def breaks_the_fold(trigger: Work, tx: Transaction, stores: Stores) -> None:
    tx[stores.custom].add("fold")


def outside(number: int) -> int:
    return number


async def outside_async(number: int) -> int:
    await asyncio.sleep(0)
    if number % 2:
        raise ValueError(number)
    return number


def fails_outside(number: int) -> int:
    raise ValueError(number)


def calls(trigger: Work, tx: Transaction, stores: Stores) -> Any:
    n = commits(trigger, tx, stores)
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return tx.acall(outside_async, trigger.number)
    with suppress(ValueError):
        tx.call(fails_outside, trigger.number)
    return n + tx.call(outside, trigger.number)


def fails_in_a_call(trigger: Work, tx: Transaction, stores: Stores) -> int:
    commits(trigger, tx, stores)
    return tx.call(fails_outside, trigger.number)


Kind = Callable[[Work, Transaction, Stores], Any]
KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        commits, reads_ranges, raises, raises_from_below, rejects, breaks_an_invariant,
        returns_what_cannot_be_serialised, commits_intents, commits_an_invalid_intent, is_refused_by_the_store,
        crashes_the_store, breaks_the_fold, calls, fails_in_a_call,
    )
}  # fmt: skip


def run_all(system: Supervisor, runs: int, keys: int) -> None:
    """Run triggers in bursts and wait for each."""
    for start in range(0, runs, BURST):
        numbers = range(start, min(start + BURST, runs))
        for submission in system.submit_many([Work(number=i, key=f"k{i % keys}") for i in numbers]):
            with suppress(Rejected, HandlerFailed):
                submission.result(WAIT_S)


def handler_of(kind: Kind, stores: Stores, is_async: bool) -> Any:
    """A handler of a kind; async ones give way now and then, so that some are cancelled there."""

    async def work_async(trigger: Work, tx: Transaction) -> Any:
        if trigger.number % 3 == 0:
            tx[stores.numbers].get(trigger.key)
            await asyncio.sleep(0)
        result = kind(trigger, tx, stores)
        return await result if asyncio.iscoroutine(result) else result

    def work(trigger: Work, tx: Transaction) -> Any:
        return kind(trigger, tx, stores)

    return work_async if is_async else work


def leftovers(system: Supervisor, kind: Kind, is_async: bool, runs: int, keys: int) -> dict[str, int]:
    """What `runs` runs leave for the cycle collector, as counts by type."""
    system.on(Work)(handler_of(kind, Stores(system), is_async))
    with system:
        run_all(system, 50, keys)
        gc.collect()
        gc.disable()
        run_all(system, runs, keys)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found = collections.Counter(type(each).__name__ for each in gc.garbage)
        gc.garbage.clear()
        gc.enable()
    return dict(found.most_common(8))


def publications_kept(kind: Kind, is_async: bool) -> int:
    """How many of 60 publications stay alive while the record of the first run, of this kind, is kept."""

    def first_of_kind(trigger: Work, tx: Transaction, stores: Stores) -> Any:
        return (kind if trigger.number == 0 else commits)(trigger, tx, stores)

    system = threaded(4)
    system.on(Work)(handler_of(first_of_kind, Stores(system), is_async))
    with system:
        for i in range(60):
            with suppress(Rejected, HandlerFailed):
                system.ask(Work(number=i, key="x"), timeout=WAIT_S)
        gc.collect()
        return sum(1 for each in gc.get_objects() if type(each) is Publication)


def figures() -> Iterator[tuple[str, Any]]:
    """Everything, by name."""
    for place in PLACES:
        where, handler, keys = place.split(", ")
        system = simulated(1, settings=FORGETFUL) if where == "simulated" else threaded(4, **FORGETFUL)
        yield place, leftovers(system, commits, handler == "async", RUNS, int(keys.split()[0]))
    for name, kind in KINDS.items():
        for is_async in (False, True):
            handler = "async" if is_async else "sync"
            yield f"{name}, {handler}", leftovers(threaded(4, **FORGETFUL), kind, is_async, RUNS_PER_KIND, 3)
            yield f"{name}, {handler}, kept", publications_kept(kind, is_async)


if __name__ == "__main__":
    for figure, found in figures():
        print(json.dumps([figure, found]), flush=True)
