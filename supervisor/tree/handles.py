"""`ChildHandle`: what stays the same of a child while its instances come and go.

Owns how each kind of actor is started, stopped, cut off and released: actors of seqtor keep their ref and mailbox through
a restart; for others (`ThreadingActor`) a restart makes a new actor, and the handle is the stable thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka
from pykka import ActorDeadError, ActorRegistry

from seqtor.actors.base import Actor, Ref
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.watching import tell_watchers
from seqtor.messages.lifecycle import ActorCrashed, ActorStarted, ActorStopped
from seqtor.messages.refusals import MailboxFull
from seqtor.tree.places import Place
from seqtor.tree.specs import ChildSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from seqtor.tree.nodes import Node

__all__ = ["ChildHandle", "KilledByBaseException", "make_handle"]


class KilledByBaseException(Exception):
    """A `BaseException` ended a child that is no actor of seqtor; `__cause__` is the exception."""


class ChildHandle:
    """A child of a supervisor, for whoever talks to it; thread-safe.

    Promises: `tell` and `ask` reach the present instance. While an actor of seqtor waits for its restart, messages wait
    with it; those to other actors raise ActorDeadError meanwhile.
    """

    def __init__(self, id: str, path: str) -> None:  # noqa: A002
        self.id = id
        self.path = path
        self.error: BaseException | None = None
        self._ref: pykka.ActorRef[Any] | None = None

    @property
    def ref(self) -> pykka.ActorRef[Any]:
        """pykka's reference to the child. Raises ActorDeadError if it has never been started."""
        if self._ref is None:
            raise ActorDeadError(f"{self.path} has not been started")
        return self._ref

    def is_alive(self) -> bool:
        """Whether it takes messages."""
        return self._ref is not None and self._ref.is_alive()

    def tell(self, message: Any) -> MailboxFull | None:
        """Send without waiting. Raises ActorDeadError if it has ended."""
        return self.ref.tell(message)  # type: ignore[func-returns-value]

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send and wait for the answer, or return its future with `block=False`."""
        return self.ref.ask(message, block=block, timeout=timeout)

    def proxy(self) -> Any:
        """pykka's proxy to the present instance's attributes and methods."""
        return self.ref.proxy()

    @property
    def mailbox_depth(self) -> int | None:
        """How many messages wait; None where that cannot be known."""
        inbox: Any = None if self._ref is None else self._ref.actor_inbox
        return len(inbox) if isinstance(inbox, Mailbox) else inbox.qsize() if hasattr(inbox, "qsize") else None

    def __repr__(self) -> str:
        return f"<ChildHandle {self.path}>"

    # For its supervisor ------------------------------------------------------------------------------------------------

    def launch(self, spec: ChildSpec, parent: Mailbox) -> tuple[str, int]:
        """Make an instance. Returns its URN and incarnation, which it reports with. Raises what `__init__` raises."""
        raise NotImplementedError

    def stop(self, *, keep: bool) -> None:
        """Have the instance stop; it reports when it has. `keep`: a successor will take what waits."""
        self.ref.stop(block=False)

    def abandon(self, *, keep: bool) -> None:
        """Cut the instance off, whatever it is doing."""
        raise NotImplementedError

    def release(self) -> None:
        """The instance has ended and there will be no other: answer what waits."""
        tell_watchers(self.ref.actor_urn, self.error)


class CellHandle(ChildHandle):
    """An actor of seqtor: the ref and the mailbox stay."""

    _ref: Ref | None
    _dedicated: Any = None

    def __init__(self, id: str, path: str, place: Place) -> None:  # noqa: A002
        super().__init__(id, path)
        self._place = place

    def launch(self, spec: ChildSpec, parent: Mailbox) -> tuple[str, int]:
        ref = self._ref
        if ref is None:
            kind: Any = spec.start
            ref = self._ref = kind.start_on(
                self._dispatcher(spec), *spec.args, parent=parent, restartable=True, **spec.kwargs
            )
            return ref.actor_urn, ref.incarnation
        if not ref.suspended:
            ref.detach()
        ref._parent = parent  # The supervisor may be another instance than the one that started it first.
        if spec.dispatcher == "dedicated" and self._dedicated is None:
            ref.detach(self._dispatcher(spec))
        ref.restart()
        return ref.actor_urn, ref.incarnation

    def stop(self, *, keep: bool) -> None:
        if keep:
            self.ref.recycle()  # type: ignore[attr-defined]
        else:
            super().stop(keep=keep)

    def abandon(self, *, keep: bool) -> None:
        if self._ref is None or not self._ref.is_alive():
            return
        self._ref.detach()
        self._end_dedicated()
        if not keep:
            self._ref.give_up("was abandoned before it handled the message", self.error)

    def release(self) -> None:
        ref = self._ref
        if ref is None:
            return
        self._end_dedicated()
        if ref.suspended:
            ref.give_up("ended before it handled the message", self.error)
        super().release()

    def _dispatcher(self, spec: ChildSpec) -> Any:
        dispatcher: Any = self._place.dispatcher_of(spec)
        if spec.dispatcher == "dedicated":
            self._dedicated = dispatcher
        return dispatcher

    def _end_dedicated(self) -> None:
        """Let the child's own thread go, when it comes back from what it is doing."""
        if self._dedicated is not None and hasattr(self._dedicated, "end"):
            self._dedicated.end()
        self._dedicated = None


class TreeHandle(CellHandle):
    """A supervisor as a child. What waits in it are requests; they are refused when it ends."""

    def __init__(self, id: str, path: str, place: Place, node: Node, start: Callable[..., Ref]) -> None:  # noqa: A002
        super().__init__(id, path, place)
        self.node = node
        self._start = start

    def launch(self, spec: ChildSpec, parent: Mailbox) -> tuple[str, int]:
        if self._ref is None:
            self._ref = self._start(self.node, parent=parent, restartable=True)
            return self._ref.actor_urn, self._ref.incarnation
        return super().launch(spec, parent)

    def stop(self, *, keep: bool) -> None:
        super().stop(keep=False)

    def abandon(self, *, keep: bool) -> None:
        super().abandon(keep=False)
        for handle in self.node.handles():
            handle.abandon(keep=False)


class ForeignHandle(ChildHandle):
    """An actor of another runtime of pykka. It tells its end through hooks that are put into the instance."""

    _incarnation = 0

    def launch(self, spec: ChildSpec, parent: Mailbox) -> tuple[str, int]:
        self._incarnation += 1
        kind: Any = spec.start
        actor: Any = kind(*spec.args, **spec.kwargs)
        ref: pykka.ActorRef[Any] = actor.actor_ref
        _report_to(parent, actor, self._incarnation)
        ActorRegistry.register(ref)
        self._ref = ref
        actor._start_actor_loop()
        return ref.actor_urn, self._incarnation

    def abandon(self, *, keep: bool) -> None:
        if self._ref is not None and self._ref.is_alive():
            self._ref.actor_stopped.set()  # It ends after its present message; nobody can send it another one.
            ActorRegistry.unregister(self._ref)

    def release(self) -> None:
        if self._ref is not None:
            super().release()


def make_handle(spec: ChildSpec, path: str, place: Place) -> ChildHandle:
    """The handle of a child that is no supervisor."""
    if isinstance(spec.start, type) and issubclass(spec.start, Actor):
        return CellHandle(spec.id, path, place)
    return ForeignHandle(spec.id, path)


def _report_to(parent: Mailbox, actor: Any, incarnation: int) -> None:
    """Have the actor tell its start and its end, once, when its loop is over."""
    setup, run, fail, receive = (
        actor._actor_loop_setup, actor._actor_loop, actor._handle_failure, actor._handle_receive,
    )  # fmt: skip
    urn, name = actor.actor_urn, type(actor).__name__
    errors: list[BaseException] = []

    def set_up() -> None:
        setup()
        if not actor.actor_stopped.is_set():
            parent.tell(ActorStarted(urn=urn, incarnation=incarnation))

    def failed(kind: Any, error: Any, traceback: Any) -> None:
        errors.append(error)
        fail(kind, error, traceback)

    def received(message: Any) -> Any:
        try:
            return receive(message)
        except Exception:
            raise
        except BaseException as error:  # pykka would stop every actor of the process.
            errors.append(error)
            ActorRegistry.unregister(actor.actor_ref)
            actor.actor_stopped.set()
            raise KilledByBaseException(f"{name}: {type(error).__name__}: {error}") from error

    def loop() -> None:
        run()
        if errors:
            parent.tell(ActorCrashed(actor=name, urn=urn, error=errors[0], undelivered=0, incarnation=incarnation))
        else:
            parent.tell(ActorStopped(urn=urn, incarnation=incarnation))

    actor._actor_loop_setup, actor._actor_loop, actor._handle_failure, actor._handle_receive = (
        set_up, loop, failed, received,
    )  # fmt: skip
