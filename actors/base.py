"""The base of every actor: a pykka actor that runs on a dispatcher instead of a thread of its own.

Owns the delivery of one message and what happens when it fails. Promises, where pykka 4.5 does otherwise: an exception
ends the actor even if it was raised in an `ask` (its state may be half changed), and the asker still gets it; a raising
`on_start` calls `on_failure`; messages queued behind a crash are answered or become dead letters; a `BaseException`
ends ends this actor and no other; leaving the registry costs the same however many actors there are; a message that the
actor does not know is a dead letter, never a crash.

A *restartable* actor is a cell: its mailbox, URN, ref and `actor_stopped` outlive the instance. When the instance
crashes the mailbox is suspended and the parent told; the parent restarts it or gives it up. Who restarts when is not
decided here.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pykka
from pykka import ActorRegistry
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from seqtor.actors.futures import ReplyFuture
from seqtor.actors.invariants import require
from seqtor.actors.mailbox import RECYCLE, SEAM, START, Mailbox, answer, answer_error, asker_of
from seqtor.actors.watching import WATCHES, tell_watchers
from seqtor.messages.lifecycle import ActorCrashed, ActorStarted, ActorStopped, DeadLetter
from seqtor.messages.refusals import MailboxFull

if TYPE_CHECKING:
    from seqtor.actors.dispatchers.contract import Dispatcher

__all__ = ["Actor", "Ref"]

logger = logging.getLogger("pykka")
Method = Callable[[Any, Any], Any]


ABSENT = object()


class _UnknownAttribute(Exception):
    """The message names an attribute that the actor does not have; nothing was changed, so nothing crashes."""


class Ref(pykka.ActorRef[Any]):
    """pykka's reference, whose `tell` answers a full mailbox with a value.

    The ref of a restartable actor stays the same while its instances come and go. What ends and begins them is called by
    the actor's parent only.
    """

    actor_inbox: Mailbox  # type: ignore[assignment]
    incarnation = 1  # How many instances it has had.
    _arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _parent: Any = None

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

    @property
    def suspended(self) -> bool:
        """Whether it has no instance now: messages wait for a restart."""
        return self.actor_inbox.suspended

    def restart(self, *args: Any, **kwargs: Any) -> None:
        """Make the next instance and schedule it; START is delivered first, then what has waited.

        It gets the given arguments, or those of the last start if none are given. Only while suspended. Raises what the
        class's `__init__` raises; then nothing has changed.
        """
        require(self.suspended, "only a suspended actor is restarted", actor=str(self))
        if args or kwargs:
            self._arguments = (args, kwargs)
        else:
            args, kwargs = self._arguments
        kind: Any = self.actor_class
        actor: Any = kind.__new__(kind)
        actor._dispatcher, actor._parent, actor._restartable = self._dispatcher, self._parent, True
        actor._cell = self
        actor._incarnation = self.incarnation + 1
        actor.__init__(*args, **kwargs)
        self.incarnation += 1
        self._actor_weakref = weakref.ref(actor)
        self.actor_inbox.restart(actor, START)

    def suspend(self) -> None:
        """End the present instance without its failing, and keep the mailbox. `on_stop` is not called.

        Only while the actor is not handling a message: the caller runs on the same serial dispatcher, or knows that it
        is idle. Harmless while suspended. `recycle` has no such condition.
        """
        actor = self._actor_weakref()
        if not self.suspended:
            ended = actor is not None and self.actor_inbox.suspend(actor, running=False)
            require(ended, "only an actor that has not ended is suspended", actor=str(self))

    def recycle(self) -> None:
        """Have the instance end before its next message, with `on_stop`; the parent gets `ActorStopped`, and the actor is
        suspended then. Harmless while suspended: the restart forgets it.
        """
        self.actor_inbox.put_first(RECYCLE)

    def detach(self, dispatcher: Dispatcher | None = None) -> None:
        """Part with an instance that may be stuck in a message, or that has stopped: the actor is suspended then.

        What waits is kept. Nothing that the old instance still does ends or reports this actor. `dispatcher` is where the
        next instance runs, by default where this one did; that it blocks a thread of it cannot be helped here.
        """
        if dispatcher is not None:
            self._dispatcher = dispatcher
        self.incarnation += 1  # Before the mailbox: what the old instance reports from now on is an old one's.
        self.actor_inbox = self.actor_inbox.detach(self._dispatcher)
        if self.actor_stopped.is_set():
            self.actor_stopped.clear()
            ActorRegistry.register(self)

    def give_up(self, reason: str, error: BaseException | None = None) -> int:
        """End a suspended actor for good: what waits is answered or becomes dead letters. Returns how many letters.

        `error` is what its watchers are told.
        """
        require(self.suspended, "only a suspended actor is given up", actor=str(self))
        ActorRegistry.unregister(self)
        self.actor_stopped.set()
        undelivered = self.actor_inbox.close(reason)
        if WATCHES:
            tell_watchers(self.actor_urn, error)
        return undelivered


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
    _restartable = False
    _incarnation = 0
    _cell: Ref | None = None  # Whose next instance this is.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._methods = {kind: getattr(cls, f"on_{_snake(kind.__name__)}") for kind in cls.receives}
        cls.ends_batches = cls.on_batch_end is not Actor.on_batch_end

    @classmethod
    def start_on(
        cls, dispatcher: Dispatcher, *args: Any, parent: Any = None, restartable: bool = False, **kwargs: Any
    ) -> Ref:
        """Start the actor on a dispatcher; `parent` is the mailbox that is told when it crashes.

        If it is `restartable`, the parent is also told when it has started and stopped, and must restart it or give it
        up after a crash: until then it is suspended, and whoever asks it waits.
        """
        actor = cls.__new__(cls)
        actor._dispatcher = dispatcher
        actor._parent = parent
        if restartable:
            actor._restartable = True
            actor._incarnation = 1
        actor.__init__(*args, **kwargs)  # type: ignore[misc]
        ref = cast("Ref", actor._actor_ref)
        if restartable:
            ref._arguments, ref._parent = (args, kwargs), parent
        ActorRegistry.register(ref)
        actor._start_actor_loop()
        return ref

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        if self._dispatcher is None:
            from seqtor.actors.dispatchers.standalone import standalone_dispatcher

            self._dispatcher = standalone_dispatcher()
        super().__init__()
        cell = self._cell
        if cell is None:
            self.actor_inbox.depth_max = self.mailbox_depth_max  # type: ignore[attr-defined]
            self._actor_ref = Ref(self)
        else:
            self.actor_urn = cell.actor_urn
            self.actor_inbox = cast("Any", cell.actor_inbox)
            self.actor_stopped = cell.actor_stopped
            self._actor_ref = cell

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
            return self._begin()
        if message is RECYCLE:
            return self._recycle()
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

    def _begin(self) -> None:
        self.on_start()
        if self._restartable and self._parent is not None:
            self._parent.tell(ActorStarted(urn=self.actor_urn, incarnation=self._incarnation))

    def _recycle(self) -> None:
        """End this instance; what waits is the next one's."""
        inbox = cast("Mailbox", self.actor_inbox)
        if not inbox.starts_with(START):  # Otherwise there is nothing to end: on_start has not been called.
            self._call_on_stop()
        if inbox.suspend(self, running=True) and self._parent is not None:
            self._parent.tell(ActorStopped(urn=self.actor_urn, incarnation=self._incarnation))

    def stop(self) -> None:
        """Have the actor stop after what waits already; harmless in an instance that has been replaced."""
        if not self._restartable or cast("Mailbox", self.actor_inbox).holds(self):
            super().stop()

    def _stop(self) -> None:
        inbox = cast("Mailbox", self.actor_inbox)
        if self._restartable:
            with SEAM:
                if not inbox.holds(self):
                    return  # Replaced at this very moment: the ref is another instance's.
                ActorRegistry.unregister(self._actor_ref)
                self.actor_stopped.set()
            self._call_on_stop()
        else:
            try:
                super()._stop()
            except BaseException:
                self._handle_failure(*sys.exc_info())
        ended = not self._restartable or inbox.holds(self)  # Otherwise it was replaced while it called on_stop.
        inbox.close("stopped before handling the message")
        parent = self._parent if self._restartable else None
        if WATCHES and ended and parent is None:  # Who gets the report restarts the actor, or tells them.
            tell_watchers(self.actor_urn, None)
        if ended and parent is not None:
            parent.tell(ActorStopped(urn=self.actor_urn, incarnation=self._incarnation))

    def _call_on_stop(self) -> None:
        try:
            self.on_stop()
        except BaseException:
            logger.exception(f"Unhandled exception in {self}:")

    def _fail(self, reply_to: Any) -> None:
        """End the actor with the exception that is being handled, and tell everyone who must know."""
        kind, error, traceback = sys.exc_info()
        if reply_to is not None:
            logger.info(f"Exception returned from {self} to caller:", exc_info=(kind, error, traceback))  # type: ignore[arg-type]
        if self._restartable:
            self._crash(reply_to)
            return
        self._handle_failure(kind, error, traceback)
        if reply_to is not None and error is not None:  # Only now: whoever has the exception finds the actor dead.
            answer_error(reply_to, error)
        undelivered = self.actor_inbox.close("crashed before handling the message")  # type: ignore[attr-defined]
        try:
            self.on_failure(kind, error, traceback)
        except BaseException:
            self._handle_failure(*sys.exc_info())
        if WATCHES:
            tell_watchers(self.actor_urn, error)
        if self._parent is not None and error is not None:
            self._parent.tell(
                ActorCrashed(actor=type(self).__name__, urn=self.actor_urn, error=error, undelivered=undelivered)
            )

    def _crash(self, reply_to: Any) -> None:
        """End this instance with the exception that is being handled; what waits is the next one's."""
        kind, error, traceback = sys.exc_info()
        if self._parent is None:  # Otherwise it is the parent's to say what the crash means.
            logger.error(f"Unhandled exception in {self}:", exc_info=(kind, error, traceback))  # type: ignore[arg-type]
        try:
            self.on_failure(kind, error, traceback)
        except BaseException:
            logger.exception(f"Unhandled exception in {self}:")
        suspended = cast("Mailbox", self.actor_inbox).suspend(self, running=True)
        if error is None:
            return
        if reply_to is not None:  # Only now: what its holder tells the actor next is the next instance's.
            answer_error(reply_to, _as_exception(error, self))
        if suspended and self._parent is not None:
            self._parent.tell(
                ActorCrashed(
                    actor=type(self).__name__, urn=self.actor_urn, error=error, undelivered=0,
                    incarnation=self._incarnation,
                )
            )  # fmt: skip

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


def _as_exception(error: BaseException, actor: Actor) -> Exception:
    """What an asker gets: its own thread must not be interrupted because the actor's was."""
    if isinstance(error, Exception):
        return error
    crash = RuntimeError(f"{actor} crashed with {error!r}")
    crash.__cause__ = error
    return crash


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
