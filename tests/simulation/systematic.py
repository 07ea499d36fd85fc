"""All orders of a small world, up to equivalence.

Owns the search. A world is played again and again, each time in another order of its steps, until every order has been
played or is equivalent to one that was. A step is what one process does between two choices: a turn of the core (the oldest
ready mailbox there, one message of it, as on real threads), or what the handler of a run does up to its next operation of
`tx`.

Two orders are equivalent if one comes from the other by exchanging neighbours that are independent: of different processes,
and with nothing in common that one of them changes. What a step has to do with (mailboxes, publications, what an attempt has
read) is noted while it is done. The reduction is dynamic (Flanagan, Godefroid: "Dynamic Partial-Order Reduction for Model
Checking Software", POPL 2005) with sleep sets (Godefroid: "Partial-Order Methods for the Verification of Concurrent
Systems", 1996).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from pykka import ActorRegistry

from seqtor import Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.publications import Board
from seqtor.actors.runs import Run
from seqtor.actors.transactions import Transaction

__all__ = ["Played", "Search", "World", "play_all"]

Touched = dict[Hashable, bool]  # What a step had to do with, and whether it changed it.
CORE = "core"
STEPS_MAX = 2_000
THREADS = 64  # More than runs: slots are not what is searched here.


class World(NamedTuple):
    """`begin` registers, starts and hands in; it returns what says whether all has ended, and what to compare orders by."""

    begin: Callable[[SimulatedDispatchers], tuple[Supervisor, Callable[[], bool], Callable[[], Hashable]]]


class Played(NamedTuple):
    """How many orders were played to the end, how many were given up as equivalent, and in how many each end was come to."""

    orders: int
    equivalent: int
    ends: Counter[Hashable]


class Place:
    """A state on the way, of which it is known who can go on, who has been tried, and who is still to be."""

    def __init__(self, enabled: Sequence[Hashable], sleeping: Mapping[Hashable, Touched]) -> None:
        self.enabled = tuple(enabled)
        self.sleeping = dict(sleeping)  # Who was tried before, and whose step would come to the same now.
        self.to_try: set[Hashable] = set()
        self.chosen: Hashable = None
        self.touched: Touched = {}


class Search:
    """An explorer that goes where it has not been. One object for all plays; `path` is what the present one follows."""

    def __init__(self, *, reduced: bool, process_of: Callable[[Any], Hashable] | None = None) -> None:
        self._reduced = reduced
        self._process_of = process_of or globals()["process_of"]
        self.path: list[Place] = []
        self._depth = 0
        self.is_redundant = False
        self._pending: Place | None = None  # Where all who could go on were sleeping.
        self.resting = True  # Nothing is chosen: before the world begins and when it has ended.
        self.touched: Touched = {}

    # Of one play ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._depth, self.is_redundant, self.resting = 0, False, False
        self._pending = None
        self.touched = {}

    def batch(self) -> int:
        return 1

    def choose(self, ready: Sequence[Any]) -> int:
        if self.resting or self.is_redundant:
            return 0
        processes: dict[Hashable, int] = {}
        for index, each in enumerate(ready):
            processes.setdefault(self._process_of(each), index)
        self.touched = {}
        if self._depth < len(self.path):
            place = self.path[self._depth]
            assert place.enabled == tuple(processes), "the same choices lead to the same place"
        else:
            place = Place(tuple(processes), self._sleeping())
            awake = [each for each in place.enabled if each not in place.sleeping]
            if not awake:
                self.is_redundant, self._pending = True, place
                return 0
            place.chosen = awake[0]
            place.to_try = set() if self._reduced else set(awake[1:])
            self.path.append(place)
        self._depth += 1
        place.touched = self.touched
        return processes[place.chosen]

    def _sleeping(self) -> dict[Hashable, Touched]:
        if not self.path or not self._reduced:
            return {}
        last = self.path[-1]
        return {
            process: touched
            for process, touched in last.sleeping.items()
            if process != last.chosen and not meet(touched, last.touched)
        }

    # Between plays -------------------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Make the path lead to an order that was not played; False if there is none left."""
        if self._reduced:
            self._find_races()
        while self.path:
            place = self.path[-1]
            place.sleeping[place.chosen] = place.touched
            place.to_try.discard(place.chosen)
            left = [each for each in place.enabled if each in place.to_try and each not in place.sleeping]
            if left or (not self._reduced and place.to_try):
                place.chosen = left[0] if left else min(place.to_try, key=place.enabled.index)
                return True
            self.path.pop()
        return False

    def _find_races(self) -> None:
        """For each two steps whose order might have been the other one: note where to try that."""
        before: list[set[int]] = []  # By step: those that must come before it, as this order is.
        for later, step in enumerate(self.path):
            before.append(self._causes(later, step.chosen, step.touched, before))
        if self._pending is not None:  # Who was sleeping is not played here, but would have raced with what was.
            for process, touched in self._pending.sleeping.items():
                self._causes(len(self.path), process, touched, before)

    def _causes(self, later: int, process: Hashable, touched: Touched, before: list[set[int]]) -> set[int]:
        """The steps that must come before this one; those that need not, and are not independent, are raced with."""
        causes: set[int] = set()
        for earlier in range(later - 1, -1, -1):
            if earlier in causes:
                continue
            other = self.path[earlier]
            must = other.chosen == process or self._enables(earlier, process)
            if must or meet(other.touched, touched):
                if not must:  # All of them: who of them is enough without sleep sets is not enough with them.
                    other.to_try |= set(other.enabled)
                causes |= {earlier, *before[earlier]}
        return causes

    def _enables(self, earlier: int, process: Hashable) -> bool:
        """Whether the process could not go on before a step, and could behind it."""
        behind = self.path[earlier + 1] if earlier + 1 < len(self.path) else self._pending
        return process not in self.path[earlier].enabled and behind is not None and process in behind.enabled


def meet(one: Touched, other: Touched) -> bool:
    """Whether two steps have something in common that one of them changes."""
    if len(other) < len(one):
        one, other = other, one
    return any(key in other and (changes or other[key]) for key, changes in one.items())


def process_of(ready: Any) -> Hashable:
    """Who would go on: the core, the loop, or a run."""
    if not isinstance(ready, Mailbox):
        return CORE  # What is called back on the core.
    actor = ready._actor
    if isinstance(actor, Run):
        return actor.seq, id_of_instance(actor)
    name = type(actor).__name__
    return name if getattr(actor, "stands_alone", False) else CORE


def name_of(mailbox: Mailbox) -> Hashable:
    """The same in all orders, which the identity of an object is not."""
    actor = mailbox._actor
    return (actor.seq, id_of_instance(actor)) if isinstance(actor, Run) else type(actor).__name__


def id_of_instance(actor: Any) -> int:
    """Which of the run actors of a run it is: one that was replaced may still be executing."""
    context = actor.context
    instances: list[Any] = context.board.__class__.instances.setdefault(actor.seq, [])  # type: ignore[attr-defined]
    if not any(each is actor for each in instances):
        instances.append(actor)
    return next(number for number, each in enumerate(instances) if each is actor)


class NotingDict(dict[int, Any]):
    """Which attempts are executing; whoever looks or changes has to do with them."""

    search: Search

    def __setitem__(self, key: int, value: Any) -> None:
        self.search.touched["executing", key] = True
        super().__setitem__(key, value)

    def get(self, key: Any, default: Any = None) -> Any:
        self.search.touched.setdefault(("executing", key), False)
        return super().get(key, default)

    def pop(self, key: Any, *default: Any) -> Any:
        self.search.touched["executing", key] = True
        return super().pop(key, *default)


@contextmanager
def noting(search: Search) -> Iterator[None]:
    """Note what each step has to do with."""
    with pytest.MonkeyPatch.context() as patch:
        put, publish, init = Mailbox.put, Board.publish, Board.__init__
        opened, check, access = Run._open, Transaction.check, Transaction._access

        def puts(mailbox: Mailbox, item: Any) -> Any:
            search.touched["queue", name_of(mailbox)] = True
            return put(mailbox, item)

        def publishes(board: Board, publication: Any) -> Any:
            search.touched["board"] = True
            return publish(board, publication)

        def begins(board: Board, *args: Any, **kwargs: Any) -> None:
            init(board, *args, **kwargs)
            board.executing = NotingDict()
            search.touched["board"] = True

        def opens(run: Run, attempt: int) -> Any:
            search.touched.setdefault("board", False)
            return opened(run, attempt)

        def checks(transaction: Transaction) -> None:
            search.touched.setdefault("board", False)
            search.touched["attempt", transaction.seq, transaction.attempt] = True
            check(transaction)

        def accesses(transaction: Transaction, store: Any) -> Any:
            search.touched.setdefault("board", False)
            search.touched["attempt", transaction.seq, transaction.attempt] = True
            return access(transaction, store)

        def looked_at(name: str) -> Any:
            method = getattr(Transaction, name)

            def looks(transaction: Transaction, *args: Any) -> Any:
                search.touched["attempt", transaction.seq, transaction.attempt] = True
                return method(transaction, *args)

            return looks

        NotingDict.search = search
        patch.setattr(Board, "instances", {}, raising=False)
        patch.setattr(Mailbox, "put", puts)
        patch.setattr(Mailbox, "tell", puts)
        patch.setattr(Board, "publish", publishes)
        patch.setattr(Board, "__init__", begins)
        patch.setattr(Run, "_open", opens)
        patch.setattr(Transaction, "check", checks)
        patch.setattr(Transaction, "_access", accesses)
        for name in ("meets", "has_read_key", "keys_read", "abandon", "end", "expire", "seal"):
            patch.setattr(Transaction, name, looked_at(name))
        yield


def play_all(world: World, *, reduced: bool = True, orders_max: int = 100_000) -> Played:
    """Play every order; without `reduced` also those that are equivalent."""
    search = Search(reduced=reduced)
    ends: Counter[Hashable] = Counter()
    orders = equivalent = 0
    while orders + equivalent < orders_max:
        with noting(search):
            end = _play(world, search)
        if end is None:
            equivalent += 1
        else:
            orders += 1
            ends[end] += 1
        if not search.advance():
            return Played(orders, equivalent, ends)
    raise AssertionError(f"more than {orders_max} orders")


def _play(world: World, search: Search) -> Hashable:
    registered = set(ActorRegistry.get_all())
    dispatchers = SimulatedDispatchers(0, threads=THREADS, steps_max=STEPS_MAX, explorer=lambda _: search)
    search.resting = True
    try:
        _, is_over, end_of = world.begin(dispatchers)
        search.begin()
        while not is_over() and not search.is_redundant:
            assert dispatchers.step(), "nothing can happen, and something is waited for"
        search.resting = True
        return None if search.is_redundant else end_of()
    finally:
        search.resting = True
        dispatchers.drop()
        for ref in set(ActorRegistry.get_all()) - registered:
            ActorRegistry.unregister(ref)
