"""Worlds of the pool and the core: the threads are the pool's own, led from their first step to their last.

Owns what must hold of them: what becomes ready is run, by one thread at a time, whoever parks, searches, or is stuck
meanwhile.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from seqtor.actors import mailbox
from seqtor.actors.dispatchers.pool import Core, Pool
from tests.threads.exploring import Attempt, Lean, Signal, Still, TryLock, World

__all__ = ["WORLDS"]


class Worker(Lean):
    """An actor of the pool or the core that tells when it has handled a message."""

    def handle(self, item: Any) -> None:
        self.world.handle(self, item)
        self.world.note()


class PoolWorld(World):
    """A pool whose threads begin with the world, and end with the last message."""

    slots: ClassVar[int] = 1
    started = 2
    messages: ClassVar[int]
    walks = 10

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.handled: list[None] = []
        self.core = Core()
        self.core._gate = TryLock()  # type: ignore[assignment]
        self.still = Still()
        self.pool = Pool(self.core, self.slots, self.still, self.still, "explored")  # type: ignore[arg-type]
        self.actors: list[Worker] = []
        self.boxes: list[mailbox.Mailbox] = []
        self.pool.start(self.head_seq)

    def actor(self, name: str, dispatcher: Any, rank: float = 0) -> mailbox.Mailbox:
        """Make an actor that is idle."""
        actor = Worker(self, name)
        box = mailbox.Mailbox()
        box.rank = rank
        box._actor, box._dispatcher = actor, dispatcher  # type: ignore[assignment]
        box._gate.release()
        self.actors.append(actor)
        self.boxes.append(box)
        return box

    def head_seq(self) -> int:
        return 0

    def handle(self, actor: Worker, item: Any) -> None:
        """What actors do with a message."""

    def note(self) -> None:
        """A message is handled; with the last one the pool stops. If one is forgotten its threads wait for ever."""
        self.handled.append(None)
        if len(self.handled) == self.messages:
            self.stop()

    def stop(self) -> None:
        """As `Pool.stop` does, without waiting for the threads: frontrun does."""
        with self.pool._lock:
            self.pool._stopping = True
            while self.pool._parked:
                self.pool._wake_parked()
        self.crew.dismiss()

    def got(self) -> list[list[Any]]:
        return [actor.got for actor in self.actors]

    def at_rest(self) -> bool:
        """Whether the pool's counts are right: all threads have ended, no slot is taken."""
        ended = not any(hand.alive for hand in self.crew.hands)
        return not self.broken and ended and self.pool._executing == 0 and self.pool.searching == 0


class CoreBecomesReady(PoolWorld):
    """What becomes ready on the core is run, though the last thread is about to sleep."""

    slots = 0
    started = 1
    threads = ("tell",)
    messages = 2
    executions, preemptions, walks = 100, 1, 0

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.first = self.actor("first", self.core)
        self.second = self.actor("second", self.core)

    def tell(self) -> None:
        self.first.put("one")
        self.second.put("two")

    def holds(self) -> bool:
        return self.at_rest() and self.got() == [["one"], ["two"]]


class TheCoreIsSerial(CoreBecomesReady):
    """No two threads run mailboxes of the core at once."""

    slots = 1
    started = 2
    executions, walks = 0, 20

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.driving: list[None] = []

    def handle(self, actor: Worker, item: Any) -> None:
        if len(self.driving):
            self.broken.append("two threads drive the core")
        self.driving.append(None)
        self.driving.pop()


class RunsBecomeReady(PoolWorld):
    """What becomes ready on the pool is executed, though its threads are about to sleep."""

    threads = ("tell",)
    messages = 2

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.run = self.actor("run", self.pool)
        self.other = self.actor("other", self.pool)

    def tell(self) -> None:
        self.run.put("one")
        self.other.put("two")

    def holds(self) -> bool:
        return self.at_rest() and self.got() == [["one"], ["two"]]


class RunsTellTheCore(PoolWorld):
    """A run that tells the core what it has done, and is told to execute again, is never forgotten between the two."""

    threads = ("tell",)
    messages = 4

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.run = self.actor("run", self.pool)
        self.committer = self.actor("committer", self.core)

    def handle(self, actor: Worker, item: Any) -> None:
        if actor.name == "run":
            self.committer.put(item)
        elif item == "again":
            self.run.put("once more")

    def tell(self) -> None:
        self.run.put("again")

    def holds(self) -> bool:
        return self.at_rest() and self.got() == [["again", "once more"], ["again", "once more"]]


class BlockedRuns(PoolWorld):
    """Runs that wait for each other in their handlers have a thread each, as long as there are slots."""

    slots = 2
    started = 3
    threads = ("tell",)
    messages = 2

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.met = [Signal(), Signal()]
        self.run = self.actor("0", self.pool, rank=0)
        self.other = self.actor("1", self.pool, rank=0)

    def handle(self, actor: Worker, item: Any) -> None:
        mine = int(actor.name)
        self.met[mine].release()
        self.met[1 - mine].acquire()

    def tell(self) -> None:
        self.run.put("one")
        self.other.put("two")

    def holds(self) -> bool:
        return self.at_rest() and self.got() == [["one"], ["two"]]


class TheHeadHasASlot(PoolWorld):
    """The last slot is the head's: runs that wait in their handlers until it has ended never take all."""

    slots = 2
    started = 3
    threads = ("tell",)
    messages = 3

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.head_ran = Signal()
        self.ended: list[int] = []
        self.runs = [self.actor(str(seq), self.pool, rank=seq) for seq in (2, 3, 1)]

    def head_seq(self) -> int:
        return 4 if self.ended else 1

    def handle(self, actor: Worker, item: Any) -> None:
        if actor.name == "1":
            self.ended.append(1)
            self.head_ran.release()
            self.head_ran.release()
        else:
            self.head_ran.acquire()

    def tell(self) -> None:
        for box in self.runs:
            box.put("go")

    def holds(self) -> bool:
        return self.at_rest() and self.got() == [["go"]] * 3


class StuckThread(PoolWorld):
    """A thread whose handler returns as its deadline passes is replaced once or not at all, and so is its slot."""

    started = 3
    threads = ("tell", "watch")
    messages = 1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.attempt = Attempt()
        self.left: list[bool] = []
        self.entered = Signal()
        self.run = self.actor("run", self.pool)

    def handle(self, actor: Worker, item: Any) -> None:
        self.pool.enter_handler(self.attempt, -1.0)
        self.entered.release()
        self.left.append(self.pool.leave_handler())

    def watch(self) -> None:
        """The thread of the timers."""
        self.entered.acquire()
        self.pool._expire_attempts()

    def tell(self) -> None:
        self.run.put("one")

    def holds(self) -> bool:
        expired = self.attempt.ended == ["expired"]
        threads = len(self.pool._workers) == self.slots + 1 and self.crew.taken == self.slots + 1 + expired
        told = self.left == [not expired] and self.pool.replaced == expired
        return self.at_rest() and threads and told and self.pool.stuck == 0 and self.got() == [["one"]]


class StopsWhileReady(PoolWorld):
    """A stop runs what was ready before it, and ends the thread."""

    slots = 0
    started = 1
    walks = 20
    threads = ("lead",)
    messages = -1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.committer = self.actor("committer", self.core)

    def lead(self) -> None:
        self.committer.put("one")
        self.pool.stop(0)

    def holds(self) -> bool:
        return self.at_rest() and self.got() == [["one"]]


class StopsWhileIdle(StopsWhileReady):
    """A stop wakes every thread, and waits for it."""

    slots = 1
    started = 2
    walks = 12

    def lead(self) -> None:
        self.pool.stop(0)

    def holds(self) -> bool:
        return self.at_rest()


WORLDS: tuple[type[World], ...] = (
    CoreBecomesReady, TheCoreIsSerial, RunsBecomeReady, RunsTellTheCore, BlockedRuns, TheHeadHasASlot, StuckThread,
    StopsWhileReady, StopsWhileIdle,
)  # fmt: skip
