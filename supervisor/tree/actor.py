"""The supervisor's actor: a thin shell around its state machine.

Owns the way from messages to events and from commands to actors. Decides nothing: `state` does. Must never wait for a
child; it is told.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, cast

from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from seqtor.actors.base import Actor, Ref
from seqtor.actors.dispatchers.contract import Cancellable
from seqtor.actors.mailbox import Mailbox, answer, answer_error
from seqtor.messages.lifecycle import ActorCrashed, ActorStarted, ActorStopped
from seqtor.messages.supervision import ChangeChildren, SupervisorTimer
from seqtor.tree.events import (
    Abandon,
    Begin,
    ChildEnded,
    ChildStarted,
    Command,
    Exit,
    Forget,
    Launch,
    Ready,
    Release,
    Reply,
    SetTimer,
    Stop,
    StopAsked,
    Tell,
    TimerFired,
)
from seqtor.tree.handles import ChildHandle
from seqtor.tree.nodes import Node
from seqtor.tree.state import Supervision

__all__ = ["SupervisorActor"]


class SupervisorActor(Actor):
    """Carries out what the state machine of its node says."""

    receives: ClassVar[tuple[type, ...]] = (ActorCrashed, ActorStarted, ActorStopped, ChangeChildren, SupervisorTimer)

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._place = place = node.place
        self._machine = Supervision(node.spec, node.path, place.random)
        self._events: deque[Any] = deque()
        self._instances: dict[str, tuple[str, int, int]] = {}  # URN: id, start and incarnation of the child.
        self._stoppers: list[Any] = []
        self._timers: dict[int, Cancellable] = {}
        self._exit: Exit | None = None

    # Messages ----------------------------------------------------------------------------------------------------------

    def deliver(self, item: Any) -> None:
        """Handle one message; a stop is an ordered one, answered when all children have ended."""
        message = item.message if type(item) is Envelope else item
        if not isinstance(message, _ActorStop):
            super().deliver(item)
            return
        if (reply_to := getattr(item, "reply_to", None)) is not None:
            self._stoppers.append(reply_to)
        try:
            self._handle(StopAsked())
        except BaseException:
            self._fail(None)

    def _begin(self) -> None:
        self._handle(Begin())  # `Ready` tells the parent: the start is acknowledged when all children have done so.

    def on_actor_started(self, message: ActorStarted) -> None:
        child, start, incarnation = self._instances.get(message.urn, ("", 0, -1))
        if incarnation == message.incarnation:
            self._handle(ChildStarted(child, start))

    def on_actor_stopped(self, message: ActorStopped) -> None:
        self._end(message.urn, message.incarnation, None)

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        self._end(message.urn, message.incarnation, message.error)

    def on_supervisor_timer(self, message: SupervisorTimer) -> None:
        if message.incarnation == self._incarnation and self._timers.pop(message.timer, None) is not None:
            self._handle(TimerFired(message.timer))

    def on_change_children(self, message: ChangeChildren) -> None:
        self._handle(message.request)

    def on_failure(self, exception_type: Any, exception_value: BaseException | None, traceback: Any) -> None:
        """It has given up, or this is a defect: nobody is left without a supervisor."""
        if not self._machine.exited:
            for handle in self._node.handles():
                handle.abandon(keep=False)
        self._close()

    # Events and commands -----------------------------------------------------------------------------------------------

    def _end(self, urn: str, incarnation: int, error: BaseException | None) -> None:
        child, start, present = self._instances.get(urn, ("", 0, -1))
        if present == incarnation:
            del self._instances[urn]
            if (handle := self._node.handle(child)) is not None:
                handle.error = error
            self._handle(ChildEnded(child, start, error))

    def _handle(self, event: Any) -> None:
        self._events.append(event)
        clock = self._place.clock
        while self._events:
            for command in self._machine.handle(self._events.popleft(), clock.monotonic(), clock.time()):
                self._carry_out(command)
        self._node.publish(self._machine.children)
        if self._exit is None:
            return
        if self._exit.error is not None:
            raise self._exit.error
        self._close()
        self._stop()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Launch():
                self._launch(command)
            case Stop():
                self._handle_of(command.child).stop(keep=command.keep)
            case Abandon():
                self._abandon(command)
            case Release():
                self._handle_of(command.child).release()
            case Forget():
                self._node.forget(command.child)
            case SetTimer():
                self._set_timer(command)
            case Reply():
                _reply(command)
            case Tell():
                self._place.report(command.report)
            case Ready():
                self._acknowledge()
            case Exit():
                self._exit = command

    def _handle_of(self, child: str) -> ChildHandle:
        return cast("ChildHandle", self._node.handle(child))

    def _launch(self, command: Launch) -> None:
        spec = command.spec
        handle = self._node.handle(spec.id)
        if handle is None:
            handle = self._node.make(spec)
        handle.error = None
        try:
            urn, incarnation = handle.launch(spec, cast("Mailbox", self.actor_inbox))
        except Exception as error:  # From the `__init__` of the child's class.
            handle.error = error
            self._events.append(ChildEnded(command.child, command.start, error))
        else:
            self._instances[urn] = (command.child, command.start, incarnation)

    def _abandon(self, command: Abandon) -> None:
        handle = self._handle_of(command.child)
        self._instances = {urn: known for urn, known in self._instances.items() if known[0] != command.child}
        handle.abandon(keep=command.keep)

    def _set_timer(self, command: SetTimer) -> None:
        inbox = cast("Mailbox", self.actor_inbox)
        fired = SupervisorTimer(timer=command.timer, incarnation=self._incarnation)

        def fire() -> None:
            inbox.put(fired)

        self._timers[command.timer] = self._place.timers.call_after(command.delay_s, fire)

    def _acknowledge(self) -> None:
        if self._restartable and self._parent is not None:
            self._parent.tell(ActorStarted(urn=self.actor_urn, incarnation=self._incarnation))
        if self._node.ready is not None:
            self._node.ready()

    def _close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for stopper in self._stoppers:
            answer(stopper, None)
        self._stoppers.clear()


def start_on_place(node: Node, *, parent: Any = None, restartable: bool = False) -> Ref:
    """Start a supervisor where its place says."""
    return SupervisorActor.start_on(node.place.dispatcher, node, parent=parent, restartable=restartable)


def _reply(command: Reply) -> None:
    if isinstance(command.value, BaseException):
        answer_error(command.reply, command.value)
    else:
        answer(command.reply, command.value)
