"""The base of every actor: a pykka actor that runs on a dispatcher instead of a thread of its own.

Owns the delivery of one message and what happens when it fails. Promises, where pykka 4.5 does otherwise: an exception
ends the actor even if it was raised in an `ask` (its state may be half changed), and the asker still gets it; a raising
`on_start` calls `on_failure`; messages queued behind a crash are answered or become dead letters; a `BaseException`
ends this actor and no other; leaving the registry costs the same however many actors there are; a message that the
actor does not know is a dead letter, never a crash.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pykka
from pykka import ActorRegistry
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from seqtor.actors.futures import ReplyFuture
from seqtor.actors.mailbox import Mailbox, answer, answer_error, asker_of
from seqtor.messages.lifecycle import ActorCrashed, DeadLetter
from seqtor.messages.refusals import MailboxFull

if TYPE_CHECKING:
    from seqtor.actors.dispatchers.contract import Dispatcher

__all__ = ["Actor", "Ref"]

logger = logging.getLogger("pykka")
Method = Callable[[Any, Any], Any]


class _Start:
    """Delivered first: calls `on_start` on the dispatcher."""


START = _Start()
ABSENT = object()


class _UnknownAttribute(Exception):
    """The message names an attribute that the actor does not have; nothing was changed, so nothing crashes."""


class Ref(pykka.ActorRef[Any]):
    """pykka's reference, whose `tell` answers a full mailbox with a value."""

    actor_inbox: Mailbox  # type: ignore[assignment]

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self._dispatcher = actor._dispatcher

    def tell(self, message: Any) -> MailboxFull | None:  # type: ignore[override]
        """Send without waiting. Returns None, or `MailboxFull` if the message was not taken.

        Raises pykka.ActorDeadError if the actor has ended.
        """
        if self.actor_stopped.is_set():
            raise pykka.ActorDeadError(f"{self} not found")
        return self.actor_inbox.put(Envelope(message))

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send and wait for the answer, or return its future with `block=False`."""
        future: Any = super().ask(message, block=False)
        future.driver = self._dispatcher.driver if self._dispatcher is not None else None
        return future.get(timeout=timeout) if block else future


class Actor(pykka.Actor):
    """An actor on a dispatcher.

    `receives` lists the message classes it knows; each is handled by the method called after it (`CommitRun` by
    `on_commit_run`). At most `batch_max` messages are handled before others get the thread; `on_batch_end` runs after
    them. `mailbox_depth_max` bounds the mailbox.
    """

    receives: ClassVar[tuple[type, ...]] = ()
    batch_max: ClassVar[int] = 256
    mailbox_depth_max: ClassVar[int | None] = None
    _methods: ClassVar[dict[type, Method]] = {}
    ends_batches: ClassVar[bool] = False
    _dispatcher: Dispatcher | None = None
    _parent: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._methods = {kind: getattr(cls, f"on_{_snake(kind.__name__)}") for kind in cls.receives}
        cls.ends_batches = cls.on_batch_end is not Actor.on_batch_end

    @classmethod
    def start_on(cls, dispatcher: Dispatcher, *args: Any, parent: Any = None, **kwargs: Any) -> Ref:
        """Start the actor on a dispatcher; `parent` is the mailbox that is told when it crashes."""
        actor = cls.__new__(cls)
        actor._dispatcher = dispatcher
        actor._parent = parent
        actor.__init__(*args, **kwargs)  # type: ignore[misc]
        ActorRegistry.register(actor._actor_ref)
        actor._start_actor_loop()
        return actor._actor_ref  # type: ignore[return-value]

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        if self._dispatcher is None:
            from seqtor.actors.dispatchers.standalone import standalone_dispatcher

            self._dispatcher = standalone_dispatcher()
        super().__init__()
        self.actor_inbox.depth_max = self.mailbox_depth_max  # type: ignore[attr-defined]
        self._actor_ref = Ref(self)

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Mailbox()

    @staticmethod
    def _create_future() -> ReplyFuture:
        return ReplyFuture()

    def _start_actor_loop(self) -> None:
        self.actor_inbox.bind(self, self._dispatcher, START)  # type: ignore[attr-defined]

    def tell_self(self, message: Any) -> None:
        """Queue a message to this actor behind what waits already."""
        self.actor_inbox.put(message)

    def deliver(self, item: Any) -> None:
        """Handle one message on the calling thread; only a mailbox calls this."""
        if type(item) is Envelope:
            message, reply_to = item.message, item.reply_to
        else:
            message, reply_to = item, None
        try:
            method = self._methods.get(type(message))
            response = method(self, message) if method is not None else self._handle_receive(message)
        except _UnknownAttribute as unknown:
            self._refuse(message, unknown.__cause__, reply_to)
            return
        except BaseException:
            self._fail(asker_of(item))
            return
        if reply_to is not None:
            answer(reply_to, response)

    def finish_batch(self) -> None:
        """Call `on_batch_end`; only a mailbox calls this, where it is overridden."""
        try:
            self.on_batch_end()
        except BaseException:
            self._fail(None)

    def on_batch_end(self) -> None:
        """Run after the messages of one batch, before others get the thread."""

    def _handle_receive(self, message: Any) -> Any:
        if message is START:
            return self.on_start()
        if isinstance(message, ProxyCall):
            return self._find(message.attr_path)(*message.args, **message.kwargs)
        if isinstance(message, ProxyGetAttr):
            return self._find(message.attr_path)
        if isinstance(message, ProxySetAttr):
            return setattr(self._find(message.attr_path[:-1]), message.attr_path[-1], message.value)
        return super()._handle_receive(message)

    def _find(self, path: Sequence[str]) -> Any:
        """Get what a proxy's message names; a property that raises is the actor's own failure."""
        found: Any = self
        for name in path:
            try:
                found = getattr(found, name)
            except AttributeError as error:
                if inspect.getattr_static(found, name, ABSENT) is ABSENT:
                    raise _UnknownAttribute from error
                raise
        return found

    def _stop(self) -> None:
        try:
            super()._stop()
        except BaseException:
            self._handle_failure(*sys.exc_info())
        self.actor_inbox.close("stopped before handling the message")  # type: ignore[attr-defined]

    def _fail(self, reply_to: Any) -> None:
        """End the actor with the exception that is being handled, and tell everyone who must know."""
        kind, error, traceback = sys.exc_info()
        if reply_to is not None:
            logger.info(f"Exception returned from {self} to caller:", exc_info=(kind, error, traceback))  # type: ignore[arg-type]
        self._handle_failure(kind, error, traceback)
        if reply_to is not None and error is not None:  # Only now: whoever has the exception finds the actor dead.
            answer_error(reply_to, error)
        undelivered = self.actor_inbox.close("crashed before handling the message")  # type: ignore[attr-defined]
        try:
            self.on_failure(kind, error, traceback)
        except BaseException:
            self._handle_failure(*sys.exc_info())
        if self._parent is not None and error is not None:
            self._parent.tell(
                ActorCrashed(actor=type(self).__name__, urn=self.actor_urn, error=error, undelivered=undelivered)
            )

    def _refuse(self, message: Any, cause: BaseException | None, reply_to: Any) -> None:
        if reply_to is not None and cause is not None:
            answer_error(reply_to, cause)
        else:
            Actor.on_receive(self, message)

    def on_receive(self, message: Any) -> Any:
        """Refuse a message that the actor does not know: logged, and a dead letter."""
        super().on_receive(message)
        if self._dispatcher is not None:
            letter = DeadLetter(recipient=str(self), reason="the actor does not know this message", message=message)
            self._dispatcher.dead_letter(letter)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class IndexedRefs(list[Any]):
    """pykka's list of registered refs with an index, so that leaving it does not scan it.

    Behaves as the list that it replaces for everything that `ActorRegistry` does with it.
    """

    def __init__(self, refs: list[Any]) -> None:
        super().__init__()
        self._refs: dict[int, Any] = {id(ref): ref for ref in refs}

    def append(self, ref: Any) -> None:
        self._refs[id(ref)] = ref

    def remove(self, ref: Any) -> None:
        if self._refs.pop(id(ref), None) is None:
            raise ValueError(f"{ref!r} is not registered")

    def __contains__(self, ref: object) -> bool:
        return id(ref) in self._refs

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._refs.values()))

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: Any) -> Any:
        return list(self._refs.values())[index]

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    __hash__ = None


def _index_registry() -> None:
    with ActorRegistry._actor_refs_lock:
        if not isinstance(ActorRegistry._actor_refs, IndexedRefs):
            ActorRegistry._actor_refs = IndexedRefs(ActorRegistry._actor_refs)


_index_registry()
