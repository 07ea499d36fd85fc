"""Real threads whose orders are tried one after another, with frontrun.

Owns what lets frontrun see the runtime. Mailboxes, actors and dispatchers are the real ones, each of their threads is a real
thread, and frontrun says at each step which of them goes on. It does not look into `__slots__`, the truth of a deque, or
locks that were made before it came, and it leads only threads that it has started. So mailboxes and workers get a
`__dict__`, deques tell their truth in Python, locks are made anew for each execution, and a thread that a dispatcher starts
is one of frontrun's that has waited for it.

Orders are tried in two ways. A *search* (dynamic partial-order reduction) turns round what two threads did to one thing; it
is quick where a bug is a few steps away. It is no proof: what frontrun does not see, it does not turn round. A *walk* draws
how long each thread goes on, opcode by opcode, from a seed; it knows nothing of what threads do.
"""

from __future__ import annotations

import queue
import random
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, ClassVar, Literal

import frontrun  # type: ignore[import-untyped]
import pytest
from frontrun.bytecode import run_with_schedule  # type: ignore[import-untyped]
from pykka import ActorRegistry

from seqtor.actors import base, mailbox
from seqtor.actors.base import IndexedRefs
from seqtor.actors.dispatchers import elastic, outside, pool
from seqtor.messages.lifecycle import DeadLetter
from tests.seeds import scaled
from tests.simulation.planted import Plant

__all__ = ["Attempt", "ByHand", "Lean", "Signal", "Still", "TryLock", "World", "explore", "sent_in_order"]

# No execution comes near it: time is frontrun's, so who waits for ever is seen at once.
PATIENCE_S = 120.0


class World:
    """A few threads and what they share; its docstring is the promise that must hold whoever goes first."""

    threads: ClassVar[tuple[str, ...]]  # What each does: the names of methods.
    started: ClassVar[int] = 0  # So many more threads may be started by what is explored.
    executions: ClassVar[int] = 0  # So many orders are searched, times SEQTOR_EXAMPLES, if there are so many.
    preemptions: ClassVar[int | None] = None  # Of them: those with so few, or all.
    walks: ClassVar[int] = 0  # So many orders are drawn, times SEQTOR_EXAMPLES.
    steps: ClassVar[int] = 1500  # How much of a walk is drawn; then all go on in turns.
    clock: ClassVar[Literal["virtual", "explored"]] = "virtual"  # explored: time-outs may come before they must.

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.letters: list[DeadLetter] = []
        self.broken: list[str] = []  # What a thread has seen that must not be.
        self.crew = Crew(self.started)
        self.shared: list[Any] = []  # Reached from here before the threads begin, so that frontrun knows it again.
        for name, value in (("_actor_refs", IndexedRefs([])), ("_actor_refs_lock", threading.RLock())):
            self.shared.append(value)
            patch.setattr(ActorRegistry, name, value)
        SEAM.inner, THREADING.crew = threading.RLock(), self.crew
        self.shared.append(SEAM)

    def begin(self, number: int) -> None:
        """What a thread does that may be started."""
        self.crew.work(number)

    def holds(self) -> bool:
        """Whether it is as promised, after all threads have ended."""
        raise NotImplementedError


class Inconclusive(Exception):
    """The search was broken off; nothing is known."""


def explore(world: type[World], plant: Plant | None = None) -> str | None:
    """Play one order after another until one breaks the promise; returns what was found, or None.

    `plant` is a bug that is there meanwhile.
    """
    work: list[Callable[[Any], None]] = [methodcaller(name) for name in world.threads]
    work += [methodcaller("begin", number) for number in range(world.started)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUN_ACTIVE", "1")  # Its own command sets it; all that it does besides is about C libraries.
        for owner in (mailbox, base):
            patch.setattr(owner, "SEAM", SEAM)
        for owner in (pool, elastic, outside):
            patch.setattr(owner, "threading", THREADING)
        if plant is not None:
            plant.into(patch)
        for owner, name, value in (
            (mailbox, "Mailbox", seen := without_slots(mailbox.Mailbox)),
            (base, "Mailbox", seen),
            (mailbox, "deque", Deque),
            (pool, "Worker", without_slots(pool.Worker)),
            (pool, "deque", Deque),
            (elastic, "queue", types.SimpleNamespace(SimpleQueue=Queue, Empty=queue.Empty)),
        ):
            patch.setattr(owner, name, value)
        try:
            found = _search(world, patch, work) if world.executions else None
            return found or _walk(world, patch, work)
        except Inconclusive:
            raise
        except Exception:  # Of one of the threads: frontrun lets it through.
            return traceback.format_exc()


def _search(world: type[World], patch: pytest.MonkeyPatch, threads: list[Callable[[Any], None]]) -> str | None:
    """All orders, or those with few preemptions."""
    result = frontrun.explore(
        setup=lambda: world(patch),
        workers=threads,
        invariant=world.holds,
        preemption_bound=world.preemptions,
        max_executions=scaled(world.executions),
        clock=world.clock,
        detect_io=False,
        reproduce_on_failure=0,
        timeout_per_run=PATIENCE_S,
        deadlock_timeout=PATIENCE_S,
    )
    if result.property_holds is None:
        raise Inconclusive(result.inconclusive_reason)
    return None if result.property_holds else str(result.explanation)


def _walk(world: type[World], patch: pytest.MonkeyPatch, threads: list[Callable[[Any], None]]) -> str | None:
    """Orders that are drawn: each thread goes on for a while, most for long, some for a step or two."""
    for seed in range(world.walks and scaled(world.walks)):
        draw = random.Random(seed)
        order: list[int] = []
        while len(order) < world.steps:
            order += [draw.randrange(len(threads))] * int(2 ** draw.uniform(0, 9))
        made = run_with_schedule(
            order,
            lambda: world(patch),
            threads,
            timeout=PATIENCE_S,
            deadlock_timeout=PATIENCE_S,
            detect_io=False,
            clock=world.clock,
        )
        if not made.holds():
            return f"walk {seed}: {world.__doc__} {made.broken}"
    return None


def without_slots(kind: type) -> type:
    """The same class, whose instances keep what they have in a `__dict__`."""
    members = {
        name: value
        for name, value in vars(kind).items()
        if name != "__slots__" and not isinstance(value, types.MemberDescriptorType)
    }
    return type(kind.__name__, kind.__bases__, members)


# What stands in for the standard library's, visibly ------------------------------------------------------------------


class Deque(deque[Any]):
    """A deque whose truth is told in Python."""

    def __bool__(self) -> bool:
        return len(self) > 0


class Signal:
    """A semaphore. Who waits for ever is told so: frontrun gives up and lets all threads go on."""

    def __init__(self, free: int = 0) -> None:
        self.inner = threading.Semaphore(free)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if self.inner.acquire(blocking, timeout):
            return True
        if blocking and timeout is None:
            raise WaitsForEver
        return False

    def release(self) -> None:
        self.inner.release()


class WaitsForEver(Exception):
    """Nobody is left who could wake this thread."""


class Lock(Signal):
    """`threading.Lock`, which may be released by who has not acquired it."""

    def __init__(self) -> None:
        self.inner = threading.BoundedSemaphore(1)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Queue:
    """`queue.SimpleQueue`."""

    def __init__(self) -> None:
        self.items = Deque()
        self.count = Signal()

    def put(self, item: Any) -> None:
        self.items.append(item)
        self.count.release()

    def get(self, timeout: float | None = None) -> Any:
        if not self.count.acquire(timeout=timeout):
            raise queue.Empty
        return self.items.popleft()


class Seam:
    """`SEAM`, with a lock that is another one in each execution."""

    inner: threading.RLock  # type: ignore[valid-type]

    def __enter__(self) -> None:
        self.inner.acquire()

    def __exit__(self, *_: object) -> None:
        self.inner.release()


class TryLock:
    """A lock that nobody waits for; each operation is one of a list."""

    def __init__(self) -> None:
        self.key: list[None] = [None]

    def acquire(self, blocking: bool = True) -> bool:
        try:
            self.key.pop()
        except IndexError:
            assert not blocking, "nobody waits for this lock"
            return False
        return True

    def release(self) -> None:
        assert not len(self.key), "released twice"
        self.key.append(None)

    def locked(self) -> bool:
        return not len(self.key)


class Threading:
    """The module, as far as dispatchers use it, with the crew of the present execution."""

    Lock = Lock
    local = threading.local
    get_ident = staticmethod(threading.get_ident)
    crew: Crew

    def Thread(self, **kwargs: Any) -> Hand:  # noqa: N802
        return self.crew.thread(**kwargs)

    def current_thread(self) -> Hand | threading.Thread:
        """A thread that another test has left idle asks, too."""
        return self.crew.current() or threading.current_thread()


class Crew:
    """The threads that are started in one execution."""

    def __init__(self, size: int) -> None:
        self.hands = [Hand() for _ in range(size)]
        self.taken = 0
        self.local = threading.local()

    def thread(
        self, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", daemon: bool = True
    ) -> Hand:
        assert self.taken < len(self.hands), f"no thread is left for {name}"
        hand = self.hands[self.taken]
        self.taken += 1
        hand.target, hand.args, hand.name = target, args, name
        return hand

    def current(self) -> Hand | None:
        """None on a thread of the world's own."""
        return getattr(self.local, "hand", None)

    def dismiss(self) -> None:
        """Nothing is started any more."""
        for hand in self.hands[self.taken :]:
            hand.start()

    def work(self, number: int) -> None:
        """What the frontrun thread with this number does."""
        hand = self.local.hand = self.hands[number]
        hand.begun.acquire()
        if hand.target is not None:
            hand.target(*hand.args)
        hand.alive = False
        hand.ended.release()


class Hand:
    """`threading.Thread`: a thread of frontrun that waits until it is started."""

    def __init__(self) -> None:
        self.begun = Signal()
        self.ended = Signal()
        self.target: Callable[..., None] | None = None
        self.args: tuple[Any, ...] = ()
        self.alive = False
        self.name = ""

    def start(self) -> None:
        self.alive = True
        self.begun.release()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, however long: one that does not end is a find."""
        self.ended.acquire()
        self.ended.release()

    def is_alive(self) -> bool:
        return self.alive


SEAM = Seam()
THREADING = Threading()


class ByHand:
    """A dispatcher whose mailboxes are run by who calls `serve`."""

    driver = None

    def __init__(self, world: World) -> None:
        self.waiting = Queue()
        self.letters = world.letters

    def ready(self, box: Any) -> None:
        self.waiting.put(box)

    def dead_letter(self, letter: DeadLetter) -> None:
        self.letters.append(letter)

    def serve(self) -> None:
        """Run what is ready, until there is None."""
        while (box := self.waiting.get()) is not None:
            box.run()

    def finish(self) -> None:
        """Run what those who served have left."""
        while len(self.waiting.items):
            if (box := self.waiting.get()) is not None:
                box.run()

    def end(self, servers: int = 1) -> None:
        """Let so many that serve end."""
        for _ in range(servers):
            self.waiting.put(None)


class Lean:
    """An actor that notes what it gets, without what `Actor` does for users."""

    batch_max = 1
    ends_batches = False

    def __init__(self, world: Any, name: str = "lean") -> None:
        self.world = world
        self.name = name
        self.got: list[Any] = []
        self.inside: list[None] = []

    def __repr__(self) -> str:
        return self.name

    def deliver(self, item: Any) -> None:
        if len(self.inside):
            self.world.broken.append(f"{self.name} handles two messages at once")
        self.inside.append(None)
        self.got.append(item)
        self.handle(item)
        self.inside.pop()

    def handle(self, item: Any) -> None:
        """What it does with a message."""


class Still:
    """A clock that stands, and timers that somebody else fires."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return 0.0

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Still:
        self.callbacks.append(callback)
        return self

    def cancel(self) -> None:
        """Whoever fires finds nothing to do."""


class Attempt:
    """An attempt that notes how it was ended."""

    seq = 1
    handler_name = "explored"

    def __init__(self) -> None:
        self.ended: list[str] = []

    def expire(self) -> None:
        self.ended.append("expired")

    def abandon(self) -> None:
        self.ended.append("abandoned")


def sent_in_order(got: Sequence[tuple[str, int]], **counts: int) -> bool:
    """Whether of each sender so many messages have come, each once and in its order."""
    return all(
        [number for name, number in got if name == sender] == list(range(count)) for sender, count in counts.items()
    ) and len(got) == sum(counts.values())
