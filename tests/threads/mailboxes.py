"""Worlds of the mailbox: senders, threads that run it, an owner that ends and begins instances.

Owns what must hold of them: what was taken is handled once, in the order of each sender, by one thread at a time; who asks
is answered, whatever becomes of the instance.
"""

from __future__ import annotations

from typing import Any

import pytest
from pykka import ActorDeadError

from seqtor.actors import mailbox
from seqtor.actors.base import Actor
from seqtor.messages.refusals import MailboxFull
from tests.threads.exploring import ByHand, Lean, World, sent_in_order

__all__ = ["WORLDS"]


class Counting(Lean):
    """Ends those who serve when it has had all messages."""

    expects = 0
    servers = 1

    def handle(self, item: Any) -> None:
        if len(self.got) == self.expects:
            self.world.by_hand.end(self.servers)


class OneSenderOneServer(World):
    """What is put is handled once and in order, whenever it comes: an idle mailbox does not sleep over it."""

    threads = ("send", "serve")
    expects, servers = 2, 1
    executions = 100

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.by_hand = ByHand(self)
        self.actor = Counting(self)
        self.actor.expects, self.actor.servers = self.expects, self.servers
        self.box = mailbox.Mailbox()
        self.box.prepare(self.actor, self.by_hand, ("first", 0))
        self.box.run()
        self.actor.got.clear()

    def send(self) -> None:
        self.box.put(("a", 0))
        self.box.put(("a", 1))

    def serve(self) -> None:
        self.by_hand.serve()

    def holds(self) -> bool:
        return not self.broken and sent_in_order(self.actor.got, a=2)


class TwoSendersTwoServers(OneSenderOneServer):
    """Two threads never run one mailbox at once; each message is handled once, those of one sender in their order."""

    threads = ("send", "send_too", "serve", "serve")
    expects, servers = 3, 2
    executions, walks = 0, 60

    def send_too(self) -> None:
        self.box.put(("b", 0))

    def holds(self) -> bool:
        return not self.broken and sent_in_order(self.actor.got, a=2, b=1)


class Bounded(OneSenderOneServer):
    """A full mailbox refuses with a value and keeps what it has taken; it takes too much only from those who put at once."""

    threads = ("send", "send_too", "serve")
    executions, preemptions = 80, 1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.box.depth_max = 1
        self.actor.expects = -1
        self.refused: list[MailboxFull] = []
        self.deepest: list[int] = []
        self.senders = [None, None]

    def put(self, item: Any) -> None:
        refusal = self.box.put(item)
        if refusal is None:
            self.deepest.append(len(self.box))
        else:
            self.refused.append(refusal)

    def send(self) -> None:
        self.put(("a", 0))
        self.put(("a", 1))
        self.end()

    def send_too(self) -> None:
        self.put(("b", 0))
        self.end()

    def end(self) -> None:
        self.senders.pop()
        if not len(self.senders):
            self.by_hand.end()

    def holds(self) -> bool:
        self.by_hand.finish()
        return not self.broken and len(self.actor.got) + len(self.refused) == 3 and max(self.deepest) <= 2


class Recorder(Actor):
    """Notes what it is told; what is None stops it, what is an exception is raised."""

    batch_max = 1

    def __init__(self, got: list[Any]) -> None:
        super().__init__()
        self.got = got

    def on_receive(self, message: Any) -> Any:
        self.got.append(message)
        if isinstance(message, Exception):
            raise message
        return message


class Stopped(World):
    """What is told while an actor stops is handled, refused, or a dead letter; it does not vanish."""

    threads = ("send", "serve")
    executions, walks = 60, 20

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.by_hand = ByHand(self)
        self.got: list[Any] = []
        self.ref = Recorder.start_on(self.by_hand, self.got)
        self.box = self.ref.actor_inbox
        self.actor = self.box._actor
        self.by_hand.waiting.get().run()
        self.stopped = self.ref.stop(block=False)
        self.refused: list[ActorDeadError] = []

    def send(self) -> None:
        try:
            self.ref.tell("told")
        except ActorDeadError as error:
            self.refused.append(error)

    def serve(self) -> None:
        self.by_hand.waiting.get().run()

    def holds(self) -> bool:
        self.by_hand.finish()
        letters = [letter.message for letter in self.letters]
        return len(self.got + letters + self.refused) == 1 and not len(self.box) and self.stopped.get(timeout=0) is True


class StoppedWhileAsked(Stopped):
    """Who asks while an actor stops is answered."""

    executions, walks = 0, 60

    def send(self) -> None:
        try:
            self.answer = self.ref.ask("asked", block=False)
        except ActorDeadError as error:
            self.refused.append(error)

    def holds(self) -> bool:
        self.by_hand.finish()
        if self.refused:
            return not self.got
        try:
            return self.answer.get(timeout=0) == "asked" and self.got == ["asked"]
        except ActorDeadError:
            return not self.got


class Restarted(World):
    """What is sent while an actor crashes and is restarted reaches an instance once, in order."""

    threads = ("send", "serve")
    executions, preemptions = 40, 1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.by_hand = ByHand(self)
        self.got: list[Any] = []
        self.ref = Recorder.start_on(self.by_hand, self.got, parent=self, restartable=True)
        self.box = self.ref.actor_inbox
        self.actor = self.box._actor
        self.by_hand.waiting.get().run()
        self.crashes = 0

    def tell(self, report: Any) -> None:
        """What its parent is told: that an instance has crashed, or has begun."""
        if type(report).__name__ == "ActorCrashed":
            self.crashes += 1
            self.ref.restart()

    def send(self) -> None:
        self.ref.tell(("a", 0))
        self.ref.tell(RuntimeError("as planned"))
        self.ref.tell(("a", 1))
        self.ref.tell(("a", 2))

    def serve(self) -> None:
        while len(self.got) < 4:
            self.by_hand.waiting.get().run()

    def holds(self) -> bool:
        return sent_in_order([each for each in self.got if type(each) is tuple], a=3) and self.crashes == 1


class SuspendedFromOutside(World):
    """A mailbox that its owner suspends and restarts between two messages has one place on its dispatcher."""

    threads = ("send", "serve")
    executions, preemptions = 80, 1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.by_hand = ByHand(self)
        self.first, self.second = Lean(self, "first"), Lean(self, "second")
        self.box = mailbox.Mailbox()
        self.box.prepare(self.first, self.by_hand, ("start", 0))
        self.box.run()
        self.ready: list[int] = []

    def send(self) -> None:
        self.box.put(("a", 0))
        self.box.put(("a", 1))

    def serve(self) -> None:
        """The owner, on the same serial dispatcher, so no message is being handled meanwhile."""
        self.box.suspend(self.first, running=False)
        if len(self.by_hand.waiting.items):
            self.by_hand.waiting.get().run()
        self.box.restart(self.second, ("start", 1))
        while len(self.second.got) < 3:
            self.by_hand.waiting.get().run()

    def holds(self) -> bool:
        scheduled = len(self.by_hand.waiting.items)
        return self.second.got == [("start", 1), ("a", 0), ("a", 1)] and scheduled == 0 and not self.box._gate.locked()


class Detached(World):
    """What is sent while an instance is replaced that may be stuck is handled once; each instance has it in order."""

    threads = ("send", "serve", "replace")
    executions, walks = 100, 10
    expects, servers = 2, 1

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.by_hand = ByHand(self)
        self.got: list[tuple[int, Any]] = []
        self.ref = Replaced.start_on(self.by_hand, self, parent=self, restartable=True)
        self.box = self.ref.actor_inbox
        self.actor = self.box._actor
        self.by_hand.waiting.get().run()

    def tell(self, report: Any) -> None:
        """What its parent is told."""

    def send(self) -> None:
        for number in range(self.expects):
            self.ref.tell(("a", number))

    def replace(self) -> None:
        self.ref.detach()
        self.ref.restart()

    def serve(self) -> None:
        self.by_hand.serve()

    def holds(self) -> bool:
        first = [message for incarnation, message in self.got if incarnation == 1]
        second = [message for incarnation, message in self.got if incarnation > 1]
        return sent_in_order(first + second, a=self.expects)


class DetachedWhileStuck(Detached):
    """An instance that comes back while it is replaced takes nothing that the next one has, and loses nothing."""

    threads = ("send", "serve", "serve", "replace")
    executions, walks = 0, 20
    servers = 2


class Replaced(Actor):
    """Notes which of its instances is told what; ends those who serve when all is there."""

    batch_max = 1

    def __init__(self, world: Detached) -> None:
        super().__init__()
        self.world = world

    def on_receive(self, message: Any) -> Any:
        self.world.got.append((self._incarnation, message))
        if len(self.world.got) == self.world.expects:
            self.world.by_hand.end(self.world.servers)


WORLDS: tuple[type[World], ...] = (
    OneSenderOneServer, TwoSendersTwoServers, Bounded, Stopped, StoppedWhileAsked, Restarted, SuspendedFromOutside, Detached,
    DetachedWhileStuck,
)  # fmt: skip
