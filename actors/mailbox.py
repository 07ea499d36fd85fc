"""The mailbox of an actor that owns no thread.

Owns the queue of undelivered messages and the one bit that says whether the actor is scheduled. Promises: messages
of one sender arrive in order; the actor is on its dispatcher at most once at a time; a message that comes after the
end is answered or reported, never lost in silence. Correct without the GIL: it relies on atomic deque operations and on
a lock used as compare-and-set.

A mailbox can outlive the instance that it delivers to. *Suspended*, it has no instance: messages wait. `restart` gives
it another one. Whoever holds the gate owns the mailbox's one place on its dispatcher: a `ready` that has not been run
yet, a `run`, or, while it is suspended, the mailbox itself. `_owed` says that it is suspended and one of the other two
still has the gate; whichever it is hands it back when it finds its instance gone.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import Full
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError, Future
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from seqtor.actors.invariants import require
from seqtor.messages.lifecycle import (
    ActorCrashed,
    ActorStarted,
    ActorStopped,
    DeadLetter,
    Drain,
    Drained,
    StoreRecovered,
    StoreRefusedToStart,
)
from seqtor.messages.refusals import MailboxFull

if TYPE_CHECKING:
    from seqtor.actors.base import Actor
    from seqtor.actors.dispatchers.contract import Dispatcher

__all__ = ["RECYCLE", "SEAM", "START", "Mailbox", "answer", "answer_error", "asker_of"]


class Control:
    """What only actors and their mailboxes say to each other; never a dead letter."""

    __slots__ = ("says",)

    def __init__(self, says: str) -> None:
        self.says = says

    def __repr__(self) -> str:
        return f"<{self.says}>"


START = Control("start")  # Delivered first: calls `on_start` on the dispatcher.
RECYCLE = Control("recycle")  # Ends the instance, and leaves the mailbox to the next one.

# What a full mailbox still takes: few of each are ever sent, and without them nothing would stop or be mended.
LIFECYCLE = (
    _ActorStop, ActorCrashed, ActorStarted, ActorStopped, Drain, Drained, StoreRecovered, StoreRefusedToStart,
)  # fmt: skip
NOT_LETTERS = (_ActorStop, Control)
# One for all mailboxes: held for a moment when an instance is taken from its mailbox or put into it, which is rare.
SEAM = threading.RLock()


class Mailbox:
    """A deque of messages and the gate that tells whether its actor is scheduled."""

    __slots__ = ("_actor", "_dispatcher", "_gate", "_heir", "_last", "_owed", "_queue", "closed", "depth_max", "rank",
                 "suspended")  # fmt: skip

    def __init__(self, depth_max: int | None = None) -> None:
        self._queue: deque[Any] = deque()
        self._gate = threading.Lock()
        self._gate.acquire()  # Held until the actor is bound: what arrives before is delivered after on_start.
        self._actor: Actor | None = None
        self._dispatcher: Dispatcher | None = None
        self.closed = False
        self.suspended = False
        self.depth_max = depth_max
        self.rank: float = 0

    def bind(self, actor: Actor, dispatcher: Dispatcher, first: Any) -> None:
        """Schedule the actor for the first time; `first` is delivered before anything that is queued already."""
        self._actor = actor
        self._dispatcher = dispatcher
        self._queue.appendleft(first)
        dispatcher.ready(self)

    def prepare(self, actor: Actor, dispatcher: Dispatcher, first: Any) -> None:
        """Like `bind`, but the caller schedules the mailbox, together with others."""
        self._actor = actor
        self._dispatcher = dispatcher
        self._queue.append(first)

    def put(self, item: Any) -> MailboxFull | None:
        """Queue a message (bare, or in pykka's envelope) and schedule the actor; refuse with a value when full."""
        if self.depth_max is not None and len(self._queue) >= self.depth_max and not _is_lifecycle(item):
            return self._refuse_full(item)
        self._queue.append(item)
        if self._gate.acquire(False):
            self._dispatcher.ready(self)  # type: ignore[union-attr]
        elif self.closed:
            self._bury("stopped before the message arrived")
        return None

    tell = put

    def get(self) -> Any:
        """Take the next message (pykka's inbox protocol)."""
        return self._queue.popleft()

    def empty(self) -> bool:
        """Tell whether nothing is queued (pykka's inbox protocol)."""
        return not self._queue

    def __len__(self) -> int:
        return len(self._queue)

    def run(self, limit: int = 1 << 30) -> None:
        """Deliver up to `limit` queued messages on the calling thread; only a dispatcher calls this."""
        actor = self._actor
        if actor is None:
            self._run_without_actor(limit)
            return
        queue = self._queue
        if limit > actor.batch_max:
            limit = actor.batch_max
        while queue and limit:
            try:
                item = queue.popleft()
            except IndexError:
                return  # Only the scheduled thread takes, unless the actor's owner closes the mailbox meanwhile.
            actor.deliver(item)
            if self._actor is not actor:
                self._leave()
                return
            limit -= 1
        if actor.ends_batches:
            actor.finish_batch()
            if self._actor is not actor:
                self._leave()
                return
        self._gate.release()
        if queue and self._gate.acquire(False):
            self._dispatcher.ready(self)  # type: ignore[union-attr]

    def close(self, reason: str) -> int:
        """Deliver nothing more: answer what waits for an answer, report the rest. Returns how many were reported.

        An actor that closes itself holds the gate and is never scheduled again; if its owner closes it, `run` finds no
        actor and buries what has come.
        """
        actor = self._actor
        self.closed = True
        self.suspended = False
        self._actor = None  # The mailbox outlives its actor in refs; it must not keep it alive.
        return self._bury(reason, actor) if self._queue else 0

    # Instances that come and go ----------------------------------------------------------------------------------------

    def suspend(self, actor: Actor, *, running: bool) -> bool:
        """Take the instance away: from now on messages wait. False if it is not (or no longer) the present one.

        `running`: the instance itself says so, from inside of `run`. Otherwise it must not be handling a message.
        """
        with SEAM:
            if self._actor is not actor:
                return False
            self._owed = not running and not self._gate.acquire(False)
            self._last = str(actor)
            self.suspended = True
            self._actor = None
        return True

    def restart(self, actor: Actor, first: Any) -> None:
        """Give a suspended mailbox its next instance and schedule it: `first` is delivered, then what has waited."""
        with SEAM:
            require(self.suspended, "only a suspended mailbox gets another instance", actor=str(actor))
            queue = self._queue
            while queue and queue[0] is RECYCLE:  # Meant for an instance that crashed before it came to it.
                queue.popleft()
            if not queue or queue[0] is not first:
                queue.appendleft(first)
            self._actor = actor
            self.suspended = False
            if self._owed and not self._gate.acquire(False):
                return  # Whoever still has the gate finds the new instance, or what is queued for it.
            self._owed = False
        self._dispatcher.ready(self)  # type: ignore[union-attr]

    def detach(self, dispatcher: Dispatcher | None = None) -> Mailbox:
        """Part with an instance that may be stuck in a message: close, and return a suspended mailbox in its place.

        What waits, and what is still put here, goes on to the returned one. The instance gets nothing more; when it
        comes back from its message it finds that it has been replaced.
        """
        heir = Mailbox(self.depth_max)
        heir._dispatcher = dispatcher or self._dispatcher
        heir._last = self._name()
        heir._owed = False
        heir.rank = self.rank
        heir.suspended = True
        with SEAM:
            require(not self.closed or getattr(self, "_heir", None) is None, "a mailbox has one heir", actor=heir._last)
            self._heir = heir
            # Its gate may be open: what is put there now must not come after what its sender gives to the heir.
            self._dispatcher = ONWARD
            self.close("was replaced")
        return heir

    def drain(self, keep: Callable[[Any], bool]) -> list[Any]:
        """Take out of a suspended mailbox what `keep(message)` is false for; returns these messages, in order.

        Who has asked for one of them in pykka's way is answered that it was not handled; a message that carries its own
        `reply_to` is the caller's to answer.
        """
        with SEAM:
            require(self.suspended, "only a suspended mailbox is drained", actor=self._name())
            items = [self._queue.popleft() for _ in range(len(self._queue))]
            kept: list[Any] = []
            taken: list[Any] = []
            for item in items:
                message = item.message if type(item) is Envelope else item
                if isinstance(message, NOT_LETTERS) or keep(message):
                    kept.append(item)
                    continue
                taken.append(message)
                if type(item) is Envelope and item.reply_to is not None:
                    error = ActorDeadError(f"{self._name()} was restarted before handling the message")
                    answer_error(item.reply_to, error)
            self._queue.extendleft(reversed(kept))  # In front of what has come meanwhile.
        return taken

    def holds(self, actor: Actor) -> bool:
        """Tell whether it delivers to this instance."""
        return self._actor is actor

    def put_first(self, item: Control) -> None:
        """Queue it before everything that waits."""
        self._queue.appendleft(item)
        if self._gate.acquire(False):
            self._dispatcher.ready(self)  # type: ignore[union-attr]
        elif self.closed:
            self._bury("stopped before the message arrived")

    def starts_with(self, item: Control) -> bool:
        """Tell whether this is what would be delivered next; only the instance itself may rely on it."""
        return bool(self._queue) and self._queue[0] is item

    def _run_without_actor(self, limit: int) -> None:
        with SEAM:
            if self.suspended:
                self._owed = False  # The gate is the mailbox's again: `restart` schedules it.
                return
            restarted = self._actor is not None
        if restarted:
            self.run(limit)
        else:
            self._bury("stopped before the message arrived")

    def _leave(self) -> None:
        """The instance is gone from the mailbox whose messages this thread delivers, which has the gate."""
        if self.closed:
            return
        with SEAM:
            if not self._owed:
                return  # It was suspended from inside of this delivery: the gate went with it.
            self._owed = False
            if self.suspended:
                return
        self._dispatcher.ready(self)  # type: ignore[union-attr]

    # The end -----------------------------------------------------------------------------------------------------------

    def _bury(self, reason: str, actor: Actor | None = None) -> int:
        heir: Mailbox | None = getattr(self, "_heir", None)
        if heir is not None:
            self._pass_on(heir)
            return 0
        buried = 0
        while True:
            try:
                item = self._queue.popleft()
            except IndexError:
                return buried
            message = item.message if type(item) is Envelope else item
            reply_to = asker_of(item)
            if reply_to is not None:
                if isinstance(message, _ActorStop):
                    answer(reply_to, None)
                else:
                    answer_error(reply_to, ActorDeadError(f"{self._name(actor)} {reason}"))
            elif not isinstance(message, NOT_LETTERS):
                buried += 1
                if self._dispatcher is not None:
                    letter = DeadLetter(recipient=self._name(actor), reason=reason, message=message)
                    self._dispatcher.dead_letter(letter)

    def _pass_on(self, heir: Mailbox) -> None:
        with SEAM:  # Taken and put as one step, so that the messages of one sender stay in order.
            while self._queue:
                try:
                    item = self._queue.popleft()
                except IndexError:
                    return  # The instance has come back from its message and taken this one.
                heir._queue.append(item)
                if heir._gate.acquire(False):
                    heir._dispatcher.ready(heir)  # type: ignore[union-attr]
                elif heir.closed:
                    heir._bury("stopped before the message arrived")

    def _refuse_full(self, item: Any) -> MailboxFull:
        refusal = MailboxFull(recipient=self._name(), mailbox_depth_max=self.depth_max or 0)
        if type(item) is Envelope and item.reply_to is not None:
            answer(item.reply_to, refusal)
        return refusal

    def _name(self, actor: Actor | None = None) -> str:
        actor = actor or self._actor  # Once: another thread may close the mailbox meanwhile.
        return str(actor) if actor is not None else getattr(self, "_last", "the actor")


class Onward:
    """The dispatcher of a mailbox that has an heir: what is put there goes on before the sender does."""

    driver = None

    def ready(self, mailbox: Mailbox) -> None:
        mailbox._bury("was replaced")

    def dead_letter(self, letter: DeadLetter) -> None:
        raise AssertionError(f"what a replaced mailbox has goes on to its heir: {letter}")


ONWARD = Onward()


def asker_of(item: Any) -> Any:
    """The future that waits for the answer of a queued message, or None; queries between actors carry their own."""
    reply_to = getattr(item, "reply_to", None)
    if reply_to is None and type(item) is Envelope:
        reply_to = getattr(item.message, "reply_to", None)
    return reply_to if isinstance(reply_to, Future) else None


def answer(reply_to: Any, value: Any) -> None:
    """Answer an asker; harmless if the future has its value already, because its holder gave up and filled it."""
    with contextlib.suppress(Full):
        reply_to.set(value)


def answer_error(reply_to: Any, error: BaseException) -> None:
    """Answer an asker with an exception; harmless if the future has its value already."""
    with contextlib.suppress(Full):
        reply_to.set_exception((type(error), error, error.__traceback__))


def _is_lifecycle(item: Any) -> bool:
    return isinstance(item.message if type(item) is Envelope else item, LIFECYCLE)
