"""The simulated dispatchers: one thread at a time, a virtual clock, a seeded choice of who goes next.

Owns the order of everything that happens in a simulated system. Promises: the same seed gives the same order, across
processes and hash seeds; time passes only when nothing else can happen, unless it is asked to (`lateness`); nothing runs
unless someone waits (`run_until`) or steps. A sync handler has a thread of its own, which runs only when it is chosen: it
gives way before its operations of `tx` (`interleaving`), where it waits, and when it has returned; up to `threads` of them
are in flight at a time. All else runs on the thread that steps. An async handler is one step per await; a wait that blocks
the loop keeps other coroutines from running, as on a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, cast

from seqtor.actors.clock import VirtualClock
from seqtor.actors.dispatchers.contract import Cancellable, Expirable
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.dispatchers.exploring import Explorer, RandomWalk
from seqtor.actors.dispatchers.handler_threads import HandlerThread, HandlerThreads
from seqtor.actors.dispatchers.simulated_pool import SimulatedPool
from seqtor.actors.dispatchers.timers import Timer
from seqtor.actors.futures import Driver
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.transactions import current_transaction_or_none

__all__ = ["NothingCanHappen", "SimulatedDispatchers"]

LATE_MAX_S = 5.0
SLACK_S = 1e-6  # What sums of floats may differ by: a slot at the very end of a time is in it.


class NothingCanHappen(Exception):
    """Something waits, but no actor is ready and no timer is set: in a real system this would hang."""


class SimulatedDispatchers(Driver):
    """All dispatchers of one system: `core`, `loop` and `dedicated` are this object, `pool` and `outside` run on it."""

    def __init__(
        self,
        seed: int,
        threads: int = 4,
        steps_max: int = 5_000_000,
        lateness: float = 0.0,
        explorer: Callable[[random.Random], Explorer] = RandomWalk,
        interleaving: float = 1.0,
    ) -> None:
        """`lateness`: the chance, in each step, that a timer of the next 5 s fires before those who are ready.

        `interleaving`: the chance, at each operation of `tx` in a sync handler, that others may go before it; with 0 such a
        handler is one step, but for where it waits. `explorer` makes the strategy that chooses who goes next.
        """
        self._random = random.Random(seed)
        self._explorer = explorer(self._random)
        self._lateness = lateness
        self._ready: list[Mailbox] = []
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._steps_left = steps_max
        self._event_loop: SimulatedLoop = cast("Any", SimulatedLoop)(
            self
        )  # Abstract in all that simulation has no use for.
        self._tasks: dict[asyncio.Task[None], Expirable] = {}  # Of async handlers.
        self._chosen: Any = None  # Who goes next, if that is said already: a handler has given way to it.
        self._resting = False  # Time stands still.
        self._held: Mailbox | None = None
        self.clock = VirtualClock()
        self.threads = threads
        self.driver = self
        self.core = self.loop = self.timers = self
        self.interleaving = interleaving
        self.handlers = HandlerThreads()
        self.pool, self.outside = SimulatedPool(self, threads), SimulatedPool(self, None)
        self.dead_letter = log_dead_letter
        self.steps = 0

    def limit(self, steps_max: int) -> None:
        """Take it for a livelock if so many steps are not enough."""
        self._steps_left = steps_max

    def dedicated(self, name: str) -> SimulatedDispatchers:
        return self

    def entropy(self) -> int:
        return self._random.getrandbits(64)

    def start(self, head_seq: Callable[[], int]) -> None:
        """Nothing to start: the caller's thread drives all. `head_seq` tells the lowest seq that has not ended."""
        self.pool.head_seq = head_seq

    def stop(self, timeout_s: float) -> list[str]:
        left = self._let_go()
        for task in sorted(asyncio.all_tasks(self._event_loop), key=lambda task: task.get_name()):
            task.cancel()
        while self._event_loop.callbacks:
            self._event_loop.run_one()
        return left

    def drop(self) -> list[str]:
        """Let nothing more happen in handlers, as if the process had died; returns the names of threads that stay in them.

        Who waits in a handler is let go by an exception, and nothing of its attempt is sent.
        """
        left = self._let_go()
        for attempt in self._tasks.values():
            _lose(attempt)
        for task in sorted(asyncio.all_tasks(self._event_loop), key=lambda task: task.get_name()):
            coroutine: Any = task.get_coro()
            with contextlib.suppress(Exception):  # What is raised on the way out: nobody is there to hear of it.
                coroutine.close()
        return left

    def _let_go(self) -> list[str]:
        """End the threads of sync handlers."""
        for thread in self.handlers.in_flight.values():
            _lose(thread.stay and thread.stay.attempt)
        return self.handlers.end()

    def ready(self, mailbox: Mailbox) -> None:
        self._ready.append(mailbox)

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._heap, (self.clock.monotonic() + delay_s, next(self._count), timer))
        return timer

    def call(self, callback: Callable[[], None]) -> None:
        """Call back between steps."""
        self._event_loop.call_soon(callback)

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        self._ready.extend(mailboxes)

    def after_stretch(self, callback: Callable[[], None]) -> None:
        self._event_loop.callbacks.append(CoreHandle(callback, (), self._event_loop))

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        raise NotImplementedError("sync handlers run on the pool dispatcher")

    def leave_handler(self) -> bool:
        raise NotImplementedError("sync handlers run on the pool dispatcher")

    def adapt(self, *, conflicted: bool) -> None:
        """Coroutines run one step at a time anyway."""

    def start_coroutine(
        self, coroutine: Coroutine[Any, Any, None], attempt: Expirable, deadline_s: float
    ) -> Cancellable:
        task: asyncio.Task[None] = asyncio.Task(
            coroutine, loop=self._event_loop, name=f"attempt-{next(self._count):09}"
        )
        watch = self.call_after(deadline_s, attempt.expire)
        self._tasks[task] = attempt
        task.add_done_callback(lambda _: watch.cancel())
        task.add_done_callback(self._tasks.pop)
        return task

    def run_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Step until `done()`; in a sync handler, give way until then. False if `timeout_s` of virtual time passed first.

        Raises NothingCanHappen if it can never become true.
        """
        give_up = self.call_after(timeout_s, lambda: None) if timeout_s is not None else None
        give_up_at = self.clock.monotonic() + timeout_s if timeout_s is not None else math.inf
        thread = self.handlers.here()
        if thread is not None:
            if not done():
                self.handlers.give_way(thread, lambda: done() or self.clock.monotonic() >= give_up_at)
        else:
            while not done():
                if self.clock.monotonic() >= give_up_at and not self._can_step():
                    return False
                if not self.step():
                    raise NothingCanHappen("no actor is ready and no timer is set, but something is still waited for")
        if give_up is not None:
            give_up.cancel()
        return done()

    def sleep(self, duration_s: float) -> None:
        """Block the sync handler that calls this for so long, of virtual time; for ever if it is infinite.

        One that is executed again from its record waits for nothing.
        """
        if self.handlers.here() is None:
            transaction = current_transaction_or_none()
            if transaction is None or transaction.submission.handler.is_async:
                raise RuntimeError(
                    "only a sync handler sleeps: it has a thread of its own. Elsewhere let time pass: run_for()"
                )
            return
        self.run_until(lambda: False, None if math.isinf(duration_s) else duration_s)

    def give_way(self, thread: HandlerThread, *, leaves: bool = False) -> None:
        """The handler on this thread does an operation, or has returned: whoever is chosen goes before."""
        handlers = self.handlers
        if handlers.ending or not self.interleaving:
            return
        if self.interleaving < 1 and self._random.random() >= self.interleaving:
            return
        ready = self._ready_now()  # This one is among them.
        if len(ready) > 1:
            chosen = ready[self._explorer.choose(ready)]
            if chosen is not thread.mailbox:
                self._chosen = chosen
                handlers.give_way(thread, leaves=leaves)

    def run_to_rest(self) -> None:
        """Step until no actor is ready; time stands still."""
        self._resting = True
        try:
            while self._can_step():
                self.step()
        finally:
            self._resting = False

    def run_for(self, duration_s: float) -> None:
        """Let virtual time pass: all that falls due until then happens, in its order."""
        until = self.clock.monotonic() + duration_s
        self.run_to_rest()
        while self.pass_time(until):
            pass
        self.clock.advance_to(until)

    def pass_time(self, until_s: float) -> bool:
        """Let the next timer fire, and all that follows at its time; False if there is none until then."""
        if not self._pass_time(until_s + SLACK_S):
            return False
        self.run_to_rest()
        return True

    @contextlib.contextmanager
    def holding(self, mailbox: Mailbox) -> Iterator[None]:
        """Meanwhile this one does not run, whatever lies in it; not for what waits for it."""
        self._held = mailbox
        try:
            yield
        finally:
            self._held = None

    def step(self) -> bool:
        """Let one ready actor (or callback) run, or time pass to the next timer. False if nothing can happen."""
        self.steps += 1
        if self.steps > self._steps_left:
            raise NothingCanHappen(f"still busy after {self._steps_left} steps: a livelock")
        ready = self._ready_now()
        if not ready:
            return self._pass_time()
        is_late = self._lateness and not self._resting and self._random.random() < self._lateness
        if is_late and self._pass_time(self.clock.monotonic() + LATE_MAX_S):
            return True
        chosen, self._chosen = self._chosen, None
        if chosen is None or chosen is self._held:
            chosen = ready[self._explorer.choose(ready)]
        if chosen is self._event_loop:
            self._event_loop.run_one()
            return True
        thread = self.handlers.in_flight.get(chosen)
        if thread is not None:
            self.handlers.resume(thread)
            return True
        self._ready.remove(chosen)
        place = chosen._dispatcher
        if type(place) is SimulatedPool:
            self.handlers.begin(chosen, self._explorer.batch(), place.end_stay)
        else:
            chosen.run(self._explorer.batch())
        return True

    def _can_step(self) -> bool:
        return bool(self._ready_now())

    def _ready_now(self) -> list[Any]:
        """Who can go on: mailboxes, the loop, and handlers that have given way; no more of them than threads."""
        ready: list[Any] = self._ready
        in_flight = self.handlers.in_flight
        if in_flight:
            latest = self.pool.free_from()
            if latest is not None:
                pool = self.pool
                ready = [each for each in ready if each._dispatcher is not pool or each.rank <= latest]
            going_on = [each for each, thread in in_flight.items() if thread.awaits is None or thread.awaits()]
            ready = ready + going_on
        if self._held is not None:
            ready = [each for each in ready if each is not self._held]
        return [*ready, self._event_loop] if self._event_loop.can_run else ready

    def _pass_time(self, latest: float = math.inf) -> bool:
        """Let the next timer fire, if there is one until then."""
        while self._heap and self._heap[0][0] <= latest:
            moment, _, timer = heapq.heappop(self._heap)
            if timer.callback is not None:
                self.clock.advance_to(moment)
                timer.callback()
                return True
        return False


def _lose(attempt: Expirable | None) -> None:
    """Let nothing of an attempt be sent. What judges attempts is one for its deadline only, and sends nothing."""
    lose = getattr(attempt, "lose", None)
    if lose is not None:
        lose()


class CoreHandle(asyncio.Handle):
    """A callback of the core among those of the loop: it can run while a coroutine blocks the loop."""

    __slots__ = ()


class SimulatedLoop(asyncio.AbstractEventLoop):
    """As much of an asyncio loop as coroutines need that wait for time and for each other; no sockets, no threads."""

    def __init__(self, simulation: SimulatedDispatchers) -> None:
        self._simulation = simulation
        self.callbacks: deque[asyncio.Handle] = deque()
        self._blocked = False  # Whether a callback of the loop is running, from inside of which others are driven.

    @property
    def can_run(self) -> bool:
        """Whether there is a callback that can run now."""
        if self._blocked:
            return any(type(handle) is CoreHandle for handle in self.callbacks)
        return bool(self.callbacks)

    def run_one(self) -> None:
        """Run the next callback; one of the loop with this loop as the running one."""
        if self._blocked:
            of_core = next(handle for handle in self.callbacks if type(handle) is CoreHandle)
            self.callbacks.remove(of_core)
            of_core._run()
            return
        handle = self.callbacks.popleft()
        if handle.cancelled():
            return
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._blocked = type(handle) is not CoreHandle
        try:
            handle._run()
        finally:
            self._blocked = False
            asyncio._set_running_loop(outer)

    def time(self) -> float:
        return self._simulation.clock.monotonic()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.callbacks.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._simulation.call_after(when - self.time(), lambda: self.callbacks.append(handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing to do: a cancelled handle is skipped when its turn comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **kwargs)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError("threads cannot be simulated: call the function directly, or use real dispatchers")
