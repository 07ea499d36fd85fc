"""The simulated dispatchers: one thread, a virtual clock, a seeded choice of who goes next.

Owns the order of everything that happens in a simulated system. Promises: the same seed gives the same order, across
processes and hash seeds; time passes only when nothing else can happen; nothing runs unless someone waits (`run_until`)
or steps. A sync handler is one step, but for its calls outside: while it waits for one the others run, from inside of
its step, up to `threads` sync handlers at a time. An async handler is one step per await; a wait that blocks the loop
keeps other coroutines from running, as on a real one.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from seqtor.actors.clock import VirtualClock
from seqtor.actors.dispatchers.contract import Cancellable, Expirable
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.dispatchers.timers import Timer
from seqtor.actors.futures import Driver
from seqtor.actors.mailbox import Mailbox

__all__ = ["NothingCanHappen", "SimulatedDispatchers"]


class NothingCanHappen(Exception):
    """Something waits, but no actor is ready and no timer is set: in a real system this would hang."""


class SimulatedDispatchers(Driver):
    """All dispatchers of one system in one: `core`, `pool`, `outside`, `loop` and `dedicated` are the same object."""

    def __init__(self, seed: int, threads: int = 4, steps_max: int = 5_000_000) -> None:
        self._random = random.Random(seed)
        self._ready: list[Mailbox] = []
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._steps_left = steps_max
        self._event_loop: SimulatedLoop = cast("Any", SimulatedLoop)(
            self
        )  # Abstract in all that simulation has no use for.
        self._tasks: set[asyncio.Task[None]] = set()
        self._waits = 0  # How many wait, one inside of the other.
        self.clock = VirtualClock()
        self.threads = threads
        self.driver = self
        self.core = self.pool = self.outside = self.loop = self.timers = self
        self.dead_letter = log_dead_letter
        self.steps = 0

    def dedicated(self, name: str) -> SimulatedDispatchers:
        return self

    def entropy(self) -> int:
        return self._random.getrandbits(64)

    def start(self, head_seq: Callable[[], int]) -> None:
        """Nothing to start: the caller's thread is the only one."""

    def stop(self, timeout_s: float) -> list[str]:
        for task in sorted(asyncio.all_tasks(self._event_loop), key=lambda task: task.get_name()):
            task.cancel()
        while self._event_loop.callbacks:
            self._event_loop.run_one()
        return []

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
        """A sync handler is one step; virtual time does not pass in it."""

    @property
    def replaced(self) -> int:
        """No thread, so none that could be stuck."""
        return 0

    stuck = replaced

    def abandon(self, seq: int) -> None:
        """A sync handler is one step: at the abort of its run it has not begun, or has ended."""

    def abandon_attempt(self, attempt: Expirable) -> None:
        """It may wait for a call outside, from inside of which this is said."""
        attempt.abandon()

    def adapt(self, *, conflicted: bool) -> None:
        """The seed decides how long stretches are."""

    def leave_handler(self) -> bool:
        return True

    def start_coroutine(
        self, coroutine: Coroutine[Any, Any, None], attempt: Expirable, deadline_s: float
    ) -> Cancellable:
        task: asyncio.Task[None] = asyncio.Task(
            coroutine, loop=self._event_loop, name=f"attempt-{next(self._count):09}"
        )
        watch = self.call_after(deadline_s, attempt.expire)
        self._tasks.add(task)
        task.add_done_callback(lambda _: watch.cancel())
        task.add_done_callback(self._tasks.discard)
        return task

    def run_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Step until `done()`. False if `timeout_s` of virtual time passed first.

        Raises NothingCanHappen if it can never become true.
        """
        give_up = self.call_after(timeout_s, lambda: None) if timeout_s is not None else None
        give_up_at = self.clock.monotonic() + timeout_s if timeout_s is not None else None
        self._waits += 1
        try:
            while not done():
                if give_up_at is not None and self.clock.monotonic() >= give_up_at and not self._can_step():
                    return False
                if not self.step():
                    raise NothingCanHappen("no actor is ready and no timer is set, but something is still waited for")
        finally:
            self._waits -= 1
        if give_up is not None:
            give_up.cancel()
        return True

    def run_to_rest(self) -> None:
        """Step until no actor is ready; time stands still."""
        while self._can_step():
            self.step()

    def step(self) -> bool:
        """Let one ready actor (or callback) run, or time pass to the next timer. False if nothing can happen."""
        self.steps += 1
        if self.steps > self._steps_left:
            raise NothingCanHappen(f"still busy after {self._steps_left} steps: a livelock")
        ready = self._ready_now()
        choices = len(ready) + (1 if self._event_loop.can_run else 0)
        if not choices:
            return self._pass_time()
        choice = self._random.randrange(choices)
        if choice == len(ready):
            self._event_loop.run_one()
            return True
        mailbox = ready[choice]
        self._ready.remove(mailbox)
        mailbox.run(self._random.choice((1, 1, 2, 4, 256)))
        return True

    def _can_step(self) -> bool:
        return bool(self._ready_now() or self._event_loop.can_run)

    def _ready_now(self) -> list[Mailbox]:
        """The mailboxes that may run: no more runs than threads, where each waits inside of the one before."""
        if self._waits <= self.threads:
            return self._ready
        return [mailbox for mailbox in self._ready if not mailbox.rank]

    def _pass_time(self) -> bool:
        while self._heap:
            moment, _, timer = heapq.heappop(self._heap)
            if timer.callback is not None:
                self.clock.advance_to(moment)
                timer.callback()
                return True
        return False


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
