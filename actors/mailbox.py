"""The mailbox of an actor that owns no thread.

Owns the queue of undelivered messages and the one bit that says whether the actor is scheduled. Promises: messages
of one sender arrive in order; the actor is on its dispatcher at most once at a time; a message that comes after the
end is answered or reported, never lost in silence. Correct without the GIL: it relies on atomic deque operations and on
a lock used as compare-and-set.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from queue import Full
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError, Future
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from seqtor.messages.lifecycle import ActorCrashed, DeadLetter, Drain, Drained, StoreRecovered, StoreRefusedToStart
from seqtor.messages.refusals import MailboxFull

if TYPE_CHECKING:
    from seqtor.actors.base import Actor
    from seqtor.actors.dispatchers.contract import Dispatcher

__all__ = ["Mailbox", "answer", "answer_error", "asker_of"]

# What a full mailbox still takes: few of each are ever sent, and without them nothing would stop or be mended.
LIFECYCLE = (_ActorStop, ActorCrashed, Drain, Drained, StoreRecovered, StoreRefusedToStart)


class Mailbox:
    """A deque of messages and the gate that tells whether its actor is scheduled."""

    __slots__ = ("_actor", "_dispatcher", "_gate", "_queue", "closed", "depth_max", "rank")

    def __init__(self, depth_max: int | None = None) -> None:
        self._queue: deque[Any] = deque()
        self._gate = threading.Lock()
        self._gate.acquire()  # Held until the actor is bound: what arrives before is delivered after on_start.
        self._actor: Actor | None = None
        self._dispatcher: Dispatcher | None = None
        self.closed = False
        self.depth_max = depth_max
        self.rank = 0

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
            self._bury("stopped before the message arrived")
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
            if self.closed:
                return
            limit -= 1
        if actor.ends_batches:
            actor.finish_batch()
            if self.closed:
                return
        self._gate.release()
        if queue and self._gate.acquire(False):
            self._dispatcher.ready(self)  # type: ignore[union-attr]

    def close(self, reason: str) -> int:
        """Deliver nothing more: answer what waits for an answer, report the rest. Returns how many were reported.

        An actor that closes itself holds the gate and is never scheduled again; if its owner closes it, `run` finds no
        actor and buries what has come.
        """
        self.closed = True
        buried = self._bury(reason) if self._queue else 0
        self._actor = None  # The mailbox outlives its actor in refs; it must not keep it alive.
        return buried

    def _bury(self, reason: str) -> int:
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
                    answer_error(reply_to, ActorDeadError(f"{self._name()} {reason}"))
            elif not isinstance(message, _ActorStop):
                buried += 1
                if self._dispatcher is not None:
                    self._dispatcher.dead_letter(DeadLetter(recipient=self._name(), reason=reason, message=message))

    def _refuse_full(self, item: Any) -> MailboxFull:
        refusal = MailboxFull(recipient=self._name(), mailbox_depth_max=self.depth_max or 0)
        if type(item) is Envelope and item.reply_to is not None:
            answer(item.reply_to, refusal)
        return refusal

    def _name(self) -> str:
        actor = self._actor  # Once: another thread may close the mailbox meanwhile.
        return str(actor) if actor is not None else "the actor"


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
