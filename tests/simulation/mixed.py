"""Cases that mix everything that a handler and a caller can choose, made from one integer, and held against the oracle.

Orders (arrival, completion), footprints, executors (threads, the loop, worker processes), deadlines that handlers pass,
coalescing and merging, rates, delays, cancels, priorities. Who hangs, who is merged with whom and who was cancelled is a
recorded input; whether it may be so is judged too: a run ends past its deadline where the serial execution would hang, and
in no other place as long as time is virtual.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
import os
import pickle
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from seqtor import (
    Cancelled,
    DeadlineExceeded,
    HandlerFailed,
    Priority,
    Rejected,
    Submission,
    Supervisor,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import Explorer, RandomWalk
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.testing import CHECKERS, watch
from tests.oracle import PastDeadline
from tests.properties.execution import (
    NEVER,
    WAIT_S,
    horizon,
    rest,
    switching_often,
)
from tests.properties.language import FOREVER, KEYS, Execution, Steps, Stores, perform, written_stores
from tests.simulation.dense import PRIORITIES, dense_program, dense_stores
from tests.simulation.mixed_check import MixCheck
from tests.simulation.mixed_kinds import REFS, Kind, Mixed, execute, joined, type_of
from tests.simulation.telling import note

# All but the serial order: `MixCheck` has an oracle that shares less with the runtime.
WATCHED = tuple(name for name in CHECKERS if name != "serial order")
STEPS_MAX = 200_000  # Far more than it takes: what is never answered fails soon.
__all__ = ["Mix", "mix_for_real", "mix_simulated", "run_for_real", "run_simulated"]


@dataclasses.dataclass(frozen=True)
class Handed:
    """One trigger and how it is handed in; `cancels` is the number of an earlier one that is taken back after it."""

    kind: Kind
    steps: Steps
    keys: tuple[str, ...]
    priority: Priority
    gap: int
    group: str | None
    event_time: float | None
    delay: float | None
    cancels: int | None


@dataclasses.dataclass(frozen=True)
class Mix:
    """Everything that is random about one execution, but for the scheduling."""

    stores: Stores
    handed: tuple[Handed, ...]
    rounds: tuple[int, ...]  # How many are handed in before all of them are waited for.
    threads: int
    processes: int
    max_in_flight: int
    horizon: int | None
    journaled: bool
    deadline_s: float
    deadline_in_process_s: float
    rate: float
    tick_s: float


def mix_simulated(seed: int) -> Mix:
    """The case of an integer, for virtual time."""
    rng = random.Random(f"simulated {seed}")
    handed = _handed(rng, 0, hangs={"loop": 0.5, "pool": 0.3}, delays=(0.3, 1.0, 4.0))
    return _mix(
        rng, [handed], deadline_s=5.0, deadline_in_process_s=5.0, rate=rng.choice((0.5, 3.0, 30.0)), tick_s=0.001
    )


def mix_for_real(first: int, seeds: int) -> Mix:
    """The cases of so many integers, one after another in one system (worker processes take long to start), for real
    threads and processes: every kind of handler hangs.
    """
    rounds: list[list[Handed]] = []
    for seed in range(first, first + seeds):
        rng = random.Random(f"real {seed}")
        hangs = {"loop": 0.3, "pool": 0.3, "process": 0.1}
        rounds.append(_handed(rng, sum(map(len, rounds)), hangs=hangs, delays=(0.001, 0.01, 0.03)))
    rng = random.Random(f"real {first} {seeds}")
    return _mix(rng, rounds, deadline_s=0.1, deadline_in_process_s=0.2, rate=rng.choice((20.0, 100.0)), tick_s=0.0)


def _mix(rng: random.Random, rounds: list[list[Handed]], **others: Any) -> Mix:
    return Mix(
        stores=dense_stores(rng),
        handed=tuple([each for handed in rounds for each in handed]),
        rounds=tuple(map(len, rounds)),
        threads=rng.randint(2, 8),
        processes=rng.choice((1, 1, 1, 2)),
        max_in_flight=rng.choice((2, 4, 10_000)),
        horizon=rng.choice((None, None, None, 5, 1)),
        journaled=rng.random() < 0.5,
        **others,
    )


def _handed(rng: random.Random, before: int, hangs: dict[str, float], delays: tuple[float, ...]) -> list[Handed]:
    declaring = rng.choice((0, 0.3, 0.7, 1))
    hot = tuple(rng.sample(KEYS, rng.choice((1, 2, 3))))
    kinds = [_kind(rng, declaring, hangs) for _ in range(rng.randint(3, 8))]  # Few: those of one kind may become one.
    return [_one(rng, before, number, rng.choice(kinds), hot, delays) for number in range(rng.randint(15, 40))]


def _kind(rng: random.Random, declaring: float, hangs: dict[str, float]) -> Kind:
    place = rng.choice(("loop", "loop", "pool", "process"))
    by_completion = place != "process" and rng.random() < 0.3
    declares = rng.random() < declaring
    merges = not (by_completion or declares or place == "process") and rng.random() < 0.5
    timed = rng.random() < hangs.get(place, 0) * (1.5 if by_completion else 1)  # Outside, reads may be stale.
    return Kind(place, by_completion, declares, timed, merges, rated=rng.random() < 0.15)


def _one(
    rng: random.Random, before: int, number: int, kind: Kind, hot: tuple[str, ...], delays: tuple[float, ...]
) -> Handed:
    steps = list(dense_program(rng, hot, asks=True))
    if kind.timed and rng.random() < 0.6:
        modulus = rng.choice((2, 3, 4))
        last = len(steps) - (steps[-1][0] == "commit_whole")
        steps.insert(rng.randint(0, last), ("hang_if", modulus, rng.randrange(modulus)))
    return Handed(
        kind=kind,
        steps=tuple(steps),
        keys=tuple(rng.sample(KEYS, rng.choice((1, 1, 2, 3)))) if kind.declares else KEYS,
        priority=rng.choice(PRIORITIES),
        gap=rng.choice((0, 0, 0, 0, 0, 0, 2, 20)),
        group=rng.choice((None, "a", "b")) if not kind.by_completion else None,
        event_time=float(rng.randrange(5)) if rng.random() < 0.3 else None,
        delay=rng.choice(delays) if rng.random() < 0.15 else None,
        cancels=before + rng.randint(max(0, number - 6), number) if rng.random() < 0.15 else None,
    )


class MixDesk:
    """A case in a system."""

    def __init__(self, mix: Mix, system: Supervisor, simulation: SimulatedDispatchers | None = None) -> None:
        """`simulation`: where plain handlers hang and rest, in virtual time; None on real threads."""
        self.mix = mix
        self.system = system
        self.refs = mix.stores.register(system)
        self.executions: collections.Counter[int] = collections.Counter()
        self._simulation = simulation
        self._let_go = threading.Event()  # Of the plain handlers that hang.
        self._pickled_stores = pickle.dumps(mix.stores)
        REFS.clear()
        REFS[self._pickled_stores] = self.refs
        for kind in sorted({each.kind for each in mix.handed}):
            self._register(kind)

    def _register(self, kind: Kind) -> None:
        mix = self.mix
        function: Any = {"loop": self._run_async, "pool": self._run_sync, "process": execute}[kind.place]
        deadline_s = mix.deadline_in_process_s if kind.place == "process" else mix.deadline_s
        options: dict[str, Any] = {
            "deadline": deadline_s if kind.timed else None,
            "executor": "process" if kind.place == "process" else "thread",
            "sequence": "completion" if kind.by_completion else "arrival",
            "rate": mix.rate if kind.rated else None,
            "writes": self._footprint if kind.declares else None,
            "coalesce": None if kind.by_completion else lambda trigger: trigger.group,
            "merge": joined if kind.merges else None,
        }
        self.system.on(type_of(kind), **options)(function)

    def trigger(self, number: int) -> Mixed:
        """What is handed in."""
        each = self.mix.handed[number]
        fields: dict[str, Any] = {"number": number, "group": each.group, "event_time": each.event_time}
        if each.kind.place == "process":
            fields["pickled"] = pickle.dumps((self._pickled_stores, each.steps, each.keys))
        return type_of(each.kind)(**fields)

    def steps(self, trigger: Mixed) -> Steps:
        """What a trigger is to do: of one that was merged, what all of them are."""
        return tuple(step for number in (*trigger.also, trigger.number) for step in self.mix.handed[number].steps)

    def execution(self, trigger: Mixed, tx: Any) -> Execution:
        return Execution(tx, self.refs, self.mix.handed[trigger.number].keys)

    def _footprint(self, trigger: Mixed) -> list[Any]:
        declared: list[Any] = []
        for store, by_key in written_stores(self.steps(trigger)).items():
            keys = self.mix.handed[trigger.number].keys
            declared += [(self.refs[store], key) for key in keys] if by_key else [self.refs[store]]
        return declared

    def _note(self, trigger: Mixed, tx: Any) -> None:
        self.executions[trigger.number] += 1
        assert (tx.seq is None) == self.mix.handed[trigger.number].kind.by_completion

    def _run_sync(self, trigger: Mixed, tx: Any) -> Any:
        self._note(trigger, tx)
        run = self.execution(trigger, tx)
        for ticks in perform(self.steps(trigger), run):
            if self._simulation is not None:
                if ticks:
                    self._simulation.sleep(math.inf if ticks == FOREVER else ticks * self.mix.tick_s)
            elif ticks == FOREVER:
                assert self._let_go.wait(WAIT_S)
            elif ticks:
                os.sched_yield()
        return run.result

    async def _run_async(self, trigger: Mixed, tx: Any) -> Any:
        self._note(trigger, tx)
        run = self.execution(trigger, tx)
        pauses = perform(self.steps(trigger), run)
        interrupted: BaseException | None = None
        while True:
            try:  # What cancels the handler arrives inside the program.
                ticks = next(pauses) if interrupted is None else pauses.throw(interrupted)
            except StopIteration:
                return run.result
            interrupted = await (hang() if ticks == FOREVER else rest(ticks * self.mix.tick_s))

    def serially(self, trigger: Mixed, tx: Any) -> Any:
        """The handler of the oracle."""
        run = self.execution(trigger, tx)
        for ticks in perform(self.steps(trigger), run):
            if ticks == FOREVER:
                raise PastDeadline
        return run.result

    # What is handed in -----------------------------------------------------------------------------------------------

    def hand_in(self, give_way: Callable[[int], None]) -> tuple[list[Submission[Any]], set[int]]:
        """Submit everything; returns the submissions, and the numbers of those that were cancelled."""
        submissions: list[Submission[Any]] = []
        cancelled: set[int] = set()
        for count in self.mix.rounds:
            for number in range(len(submissions), len(submissions) + count):
                each = self.mix.handed[number]
                submissions.append(self.system.submit(self.trigger(number), priority=each.priority, delay=each.delay))
                give_way(each.gap)
                if each.cancels is not None:
                    note("cancel", submissions[each.cancels].id)
                    if submissions[each.cancels].cancel():
                        cancelled.add(each.cancels)
            try:
                for submission in submissions[-count:]:
                    with suppress(Rejected, HandlerFailed, DeadlineExceeded, Cancelled):
                        submission.result(WAIT_S)
            finally:
                hung, self._let_go = self._let_go, threading.Event()
                hung.set()
        return submissions, cancelled


async def hang() -> BaseException | None:
    """Wait for what never comes; returns what interrupted it."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as cancelled:
        return cancelled
    return None


def run_simulated(
    mix: Mix,
    seed: int,
    explorer: Callable[[random.Random], Explorer] = RandomWalk,
    lateness: float = 0.0,
    interleaving: float = 1.0,
) -> collections.Counter[str]:
    """Execute one step at a time in the order that the seed chooses, and compare; returns what has happened."""
    simulation = SimulatedDispatchers(
        seed,
        threads=mix.threads,
        steps_max=STEPS_MAX,
        lateness=lateness,
        explorer=explorer,
        interleaving=interleaving,
    )

    def give_way(gap: int) -> None:
        for _ in range(gap):
            simulation.step()

    with horizon(mix.horizon):
        settings: dict[str, Any] = {"max_in_flight": mix.max_in_flight, **NEVER}
        if lateness:  # Who has a short deadline may pass it then, as on a busy machine.
            settings |= {"deadline": 1e6, "deadline_completion": 1e6}
        backend = MemoryBackend() if mix.journaled else None
        system = Supervisor(backend, dispatchers=lambda _: simulation, settings=settings)
        noted = watch(system)
        desk = MixDesk(mix, system, simulation)
        with system:
            first = system._running._path.board.newest  # type: ignore[union-attr]
            submissions, cancelled = desk.hand_in(give_way)
            simulation.run_to_rest()  # Whoever was restarted at last is counted then.
            happened = MixCheck(desk, submissions, cancelled, virtual=not lateness).check(first)
            noted.check(*WATCHED)
            return happened


def run_for_real(mix: Mix) -> collections.Counter[str]:
    """Execute on real threads and in worker processes, and compare; returns what has happened."""

    def give_way(gap: int) -> None:
        for _ in range(gap):
            os.sched_yield()

    with horizon(mix.horizon), switching_often():
        settings = {
            "threads": mix.threads, "processes": mix.processes, "max_in_flight": mix.max_in_flight, **NEVER,
        }  # fmt: skip
        system = Supervisor(MemoryBackend() if mix.journaled else None, settings=settings)
        desk = MixDesk(mix, system)
        with system:
            first = system._running._path.board.newest  # type: ignore[union-attr]
            submissions, cancelled = desk.hand_in(give_way)
            return MixCheck(desk, submissions, cancelled, virtual=False).check(first)
