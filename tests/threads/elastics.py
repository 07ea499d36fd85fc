"""Worlds of the dispatchers that start a thread when they need one.

Owns what must hold of them: what is ready begins at once and is handled once, an idle thread leaves nothing behind, a stop
ends all threads, and who is stuck is counted.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest

from seqtor.actors import mailbox
from seqtor.actors.dispatchers.elastic import ElasticDispatcher
from seqtor.actors.dispatchers.outside import Outside
from tests.threads.exploring import Attempt, Lean, Signal, Still, World

__all__ = ["WORLDS"]


class Noting(Lean):
    """Leaves what it does to its world."""

    def handle(self, item: Any) -> None:
        self.world.handle(self, item)


class ElasticWorld(World):
    """Threads that are started as mailboxes become ready."""

    idle_s: ClassVar[float | None] = None
    started = 2
    walks = 10

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.elastic = self.dispatcher()
        self.actors: list[Noting] = []
        self.boxes: list[mailbox.Mailbox] = []

    def dispatcher(self) -> ElasticDispatcher:
        return ElasticDispatcher("explored", self.idle_s, Still())  # type: ignore[arg-type]

    def actor(self, name: str) -> mailbox.Mailbox:
        """Make an actor that is idle."""
        actor = Noting(self, name)
        box = mailbox.Mailbox()
        box._actor, box._dispatcher = actor, self.elastic  # type: ignore[assignment]
        box._gate.release()
        self.actors.append(actor)
        self.boxes.append(box)
        return box

    def handle(self, actor: Noting, item: Any) -> None:
        """What actors do with a message."""

    def ended(self) -> bool:
        return not self.broken and not any(hand.alive for hand in self.crew.hands)


class EachBegins(ElasticWorld):
    """What is ready begins at once: actors that wait for each other in their handlers have a thread each."""

    started = 3
    threads = ("tell",)

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.done = Signal()
        self.met = [Signal(), Signal()]
        self.pair = [self.actor("0"), self.actor("1")]

    def handle(self, actor: Noting, item: Any) -> None:
        if item == "meet":
            mine = int(actor.name)
            self.met[mine].release()
            self.met[1 - mine].acquire()
        self.done.release()

    def tell(self) -> None:
        self.pair[0].put("alone")
        self.done.acquire()
        for box in self.pair:
            box.put("meet")
        self.done.acquire()
        self.done.acquire()
        self.elastic.stop(0)
        self.crew.dismiss()

    def holds(self) -> bool:
        return self.ended() and [actor.got for actor in self.actors] == [["alone", "meet"], ["meet"]]


class IdleThreadLeaves(ElasticWorld):
    """A thread that leaves because it was idle leaves nothing behind that counted on it."""

    idle_s = 1.0
    clock: ClassVar[Literal["virtual", "explored"]] = "explored"
    threads = ("tell",)

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.done = Signal()
        self.box = self.actor("actor")

    def handle(self, actor: Noting, item: Any) -> None:
        self.done.release()

    def tell(self) -> None:
        for item in ("one", "two"):
            self.box.put(item)
            self.done.acquire()
        self.crew.dismiss()

    def holds(self) -> bool:
        return self.ended() and self.actors[0].got == ["one", "two"] and self.elastic._idle == 0


class StopsAsItBecomesReady(ElasticWorld):
    """A stop ends every thread that has begun by then, whoever took what was ready."""

    threads = ("lead",)

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.pair = [self.actor("0"), self.actor("1")]

    def lead(self) -> None:
        for box in self.pair:
            box.put("one")
        self.elastic.stop(0)
        self.crew.dismiss()

    def holds(self) -> bool:
        return self.ended() and [actor.got for actor in self.actors] == [["one"], ["one"]]


class StuckOutside(ElasticWorld):
    """An attempt outside of the order that ends as its deadline passes is left or expired, and counted once."""

    threads = ("lead", "watch")
    started = 1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.still = Still()
        super().__init__(patch)
        self.attempt = Attempt()
        self.entered = Signal()
        self.left: list[bool] = []
        self.run = self.actor("agent")

    def dispatcher(self) -> ElasticDispatcher:
        return Outside(self.still, self.still, "explored")  # type: ignore[arg-type]

    def handle(self, actor: Noting, item: Any) -> None:
        self.elastic.enter_handler(self.attempt, 1.0)  # type: ignore[attr-defined]
        self.entered.release()
        self.left.append(self.elastic.leave_handler())  # type: ignore[attr-defined]

    def watch(self) -> None:
        """The thread of the timers."""
        self.entered.acquire()
        self.still.callbacks.pop()()

    def lead(self) -> None:
        self.run.put("one")
        self.elastic.stop(0)
        self.crew.dismiss()

    def holds(self) -> bool:
        expired = self.attempt.ended == ["expired"]
        counted = self.elastic.replaced == expired and self.elastic.stuck == 0  # type: ignore[attr-defined]
        return self.ended() and counted and self.left == [not expired]


WORLDS: tuple[type[World], ...] = (EachBegins, IdleThreadLeaves, StopsAsItBecomesReady, StuckOutside)
