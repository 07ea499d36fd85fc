"""A whole system under test: the same registrations, in memory, one thread at a time and in virtual time.

Owns the copy of a program's registrations, the waiting for its end of work, and what must not outlive a test. Promises: the
system that the program has made is not touched, so any number of tests can run it; the same seed gives the same history.
"""

from __future__ import annotations

import asyncio
import copy
import datetime
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import pykka

from seqtor.actors.clock import VirtualClock
from seqtor.actors.dispatchers.exploring import Explorer, RandomWalk
from seqtor.actors.dispatchers.simulated import NothingCanHappen, SimulatedDispatchers
from seqtor.actors.journal.contract import Backend
from seqtor.actors.resources import ResourceRef
from seqtor.actors.stores.contract import StoreRef
from seqtor.core import RunningSystem
from seqtor.known import KnownTriggers
from seqtor.messages.errors import NotRunning
from seqtor.messages.events import OURS
from seqtor.schedules import Schedules
from seqtor.settings import Settings, seconds
from seqtor.system import Supervisor
from seqtor.testing.clock import ManualClock
from seqtor.testing.instead import NOTHING_GIVEN, StandIns
from seqtor.testing.settling import Work

__all__ = ["Leaked", "NotSettled", "SeqtorRun", "SystemUnderTest", "UnderTest", "run"]

SETTLE_S = 60.0
THREAD_END_S = 5.0  # How long a thread that was told to end may take, of real time.


class NotSettled(AssertionError):
    """The system goes on with what it has begun; the text says who waits for whom."""


class Leaked(AssertionError):
    """Something that a test has started has outlived it."""


def run(
    system: Supervisor,
    seed: int = 0,
    *,
    now: datetime.datetime | None = None,
    lateness: float = 0.0,
    interleaving: float = 1.0,
    calls: Mapping[Callable[..., Any], Any] | None = None,
    resources: Mapping[ResourceRef[Any], Any] | None = None,
    effects: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    stores: Mapping[StoreRef[Any], Any] | None = None,
) -> SystemUnderTest:
    """The registrations of a system, to be run in a test: `with run(system) as desk: ...`.

    In memory, one thread at a time, in virtual time that begins at `now` (an aware datetime; default: always the same).
    `seed` chooses the order in which things happen; `lateness` is the chance, in each step, that a timer fires although
    somebody is ready, as on a busy machine; `interleaving` the chance, at each operation of `tx` in a plain handler, that
    others may go before it. With 0 a plain handler is one step: for those that hold a lock over operations of `tx`.

    What stands in for the outside: `calls` gives the answers of `tx.call` and `tx.acall` by function (a value, an exception,
    or a function that is called instead), `resources` what `tx.resource` returns, `effects` functions that carry out an
    effect instead, with the same arguments. What is not given is called, opened and carried out as it is. `stores` gives
    contents to begin with, as those of `call`. Raises TypeError and ValueError for what does not fit.
    """
    if not isinstance(system, Supervisor):
        raise TypeError(f"run() takes the Supervisor that the program registers everything with, got {system!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"run(system, seed) takes an int as seed, which chooses the order of things, got {seed!r}")
    instead = StandIns(calls or {}, resources or {}, effects or {}, stores or {})
    return SystemUnderTest(system, seed, now, lateness, interleaving, instead=instead)


class SeqtorRun:
    """What the fixture `seqtor_run` is: `run`, for the time of one test."""

    def __init__(self) -> None:
        self._made: list[SystemUnderTest] = []

    def __call__(
        self,
        system: Supervisor,
        seed: int = 0,
        *,
        now: datetime.datetime | None = None,
        lateness: float = 0.0,
        interleaving: float = 1.0,
        calls: Mapping[Callable[..., Any], Any] | None = None,
        resources: Mapping[ResourceRef[Any], Any] | None = None,
        effects: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        stores: Mapping[StoreRef[Any], Any] | None = None,
    ) -> SystemUnderTest:
        """As `run`."""
        made = run(
            system, seed, now=now, lateness=lateness, interleaving=interleaving, calls=calls, resources=resources,
            effects=effects, stores=stores,
        )  # fmt: skip
        self._made.append(made)
        return made

    def stop_all(self) -> None:
        """Stop those that the test has not stopped."""
        for made in reversed(self._made):
            made.stop(0)


class SystemUnderTest(Supervisor):
    """A system with the registrations of another one, on simulated dispatchers; `clock` is its time.

    Whoever waits (`ask`, `result`, a query) lets it work. Time passes by `clock.advance(...)`, and where a wait needs it.
    Its stores keep nothing outside, whatever they do in the program: what is there is neither read nor written.

    The end of its `with` block waits until it has settled, and raises Leaked for threads, tasks and actors that handlers
    have started and left.
    """

    _writes_outside = False

    def __init__(
        self,
        system: Supervisor,
        seed: int,
        now: datetime.datetime | None,
        lateness: float,
        interleaving: float = 1.0,
        *,
        instead: StandIns = NOTHING_GIVEN,
        journal: Backend | None = None,
        settings: Settings | None = None,
        explorer: Callable[[random.Random], Explorer] = RandomWalk,
    ) -> None:
        self.seed = seed
        self.dispatchers = dispatchers = UnderTest(seed, lateness, interleaving, self._told, explorer)
        if now is not None:
            if now.tzinfo is None:
                raise ValueError(f"now= takes an aware datetime, got {now!r}: say its tzinfo, datetime.UTC")
            dispatchers.clock = VirtualClock(now.timestamp())
        self.clock = ManualClock(dispatchers)
        super().__init__(
            journal, name=system.name, settings=settings or system.settings, dispatchers=lambda _: dispatchers
        )
        self._take_over(system)
        instead.require_known(self)
        self._effects = instead.carried_out(self._effects)
        self._around = instead.around()
        self._threads: set[threading.Thread] = set()
        self._actors: set[str] = set()

    def _take_over(self, system: Supervisor) -> None:
        """Register what the other one has. What belongs to one running system is made anew, the rest is shared."""
        self._stores.refs[:] = system._stores.refs  # The references are what handlers know stores by.
        self._effects, self._resources, self._upcasts = system._effects, system._resources, system._upcasts
        self._reactions = copy.copy(system._reactions)
        self._reactions._by_name = dict(system._reactions._by_name)
        self._schedules = Schedules(self)
        self._schedules.declared.update(system._schedules.declared)
        self._known = KnownTriggers(self.settings.deadline)
        self._schedules.add_handlers(self._handlers.add)
        for handler in system._handlers:
            if handler.trigger_type not in self._handlers:
                self._handlers.add(copy.copy(handler))
        for tree in system._users._trees.values():
            self._users.add(tree.spec, tree.name, None)

    def settle(self, timeout: float | datetime.timedelta = SETTLE_S) -> None:
        """Let everything happen that is due: runs, what they release, reactions, effects.

        Not waited for is what has its own time: delays, backoffs of retries, schedules; `clock.advance(...)` is for those.
        A handler that waits for time gets it, up to `timeout` (virtual) seconds; then NotSettled says who waits for whom.
        """
        timeout_s = seconds(timeout, "timeout")
        self._require_running()
        if self._stopped:
            raise NotRunning(f"{self.name!r} has been stopped, and has settled: call settle() inside of its block")
        dispatchers = self.dispatchers
        dispatchers.run_to_rest()
        until = dispatchers.clock.monotonic() + timeout_s
        while self._work.left():
            if not dispatchers.pass_time(until):
                raise NotSettled(
                    f"{self.name!r} has not settled within {timeout_s:g} s of virtual time:\n{self._work.told()}\n"
                    "Let more time pass with settle(timeout=...) if it needs that; else it waits for what does not come: in "
                    "a simulation nothing comes from sockets or other threads"
                )

    def _require_running(self) -> RunningSystem:
        if self._running is None:
            raise NotRunning(
                f"{self.name!r} has not been started: use it inside of its block, with run(system) as desk: ..."
            )
        return super()._require_running()

    @property
    def _work(self) -> Work:
        return Work(self._require_running())

    def _told(self) -> str:
        return self._work.told()

    def start(self) -> Self:
        self._threads = set(threading.enumerate())
        self._actors = {ref.actor_urn for ref in pykka.ActorRegistry.get_all()}
        return super().start()

    def __exit__(self, *error: object) -> None:
        failed = any(each is not None for each in error)
        try:
            if not failed:
                self.settle(self.settings.stop_grace)
        finally:
            self.stop()
        if not failed:
            self._require_nothing_left()

    def _require_nothing_left(self) -> None:
        left = [f"the task {each}" for each in self.dispatchers.tasks_left]
        for thread in set(threading.enumerate()) - self._threads:
            thread.join(THREAD_END_S)
            if thread.is_alive():
                left.append(f"the thread {thread.name!r}")
        actors = [ref for ref in pykka.ActorRegistry.get_all() if ref.actor_urn not in self._actors]
        left += [
            f"the actor {ref.actor_class.__name__} ({ref.actor_urn})"
            for ref in actors
            if not ref.actor_class.__module__.startswith(
                OURS
            )  # Those of a system that another test runs beside this one.
        ]
        if left:
            raise Leaked(
                f"the test of {self.name!r} has left behind: {', '.join(left)}. End them where they were started: await the "
                "task, join the thread, stop the actor; what has to live as long as the system is a resource, or supervised"
            )

    async def __aenter__(self) -> Self:
        raise TypeError(
            f"{self.name!r} runs on the thread of its test: write `with`, not `async with`; `await submission` works inside"
        )


class UnderTest(SimulatedDispatchers):
    """Simulated dispatchers that say who waits for whom when nothing can happen, and what tasks were left at the stop."""

    def __init__(
        self,
        seed: int,
        lateness: float,
        interleaving: float,
        told: Any,
        explorer: Callable[[random.Random], Explorer] = RandomWalk,
    ) -> None:
        super().__init__(seed, lateness=lateness, explorer=explorer, interleaving=interleaving)
        self._who_waits = told
        self.tasks_left: list[str] = []

    def run_until(self, done: Any, timeout_s: float | None) -> bool:
        try:
            return super().run_until(done, timeout_s)
        except NothingCanHappen as stuck:
            stuck.add_note(f"who waits for whom:\n{self._who_waits()}")
            raise

    def stop(self, timeout_s: float) -> list[str]:
        tasks = sorted(asyncio.all_tasks(self._event_loop), key=lambda task: task.get_name())
        self.tasks_left = [f"{task.get_name()!r} ({_function_of(task)})" for task in tasks]
        return super().stop(timeout_s)


def _function_of(task: asyncio.Task[Any]) -> str:
    coroutine: Any = task.get_coro()
    return str(getattr(coroutine, "__qualname__", coroutine))
