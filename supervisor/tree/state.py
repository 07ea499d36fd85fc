"""A supervisor as a pure state machine: events in, commands out.

Owns the order in which children are started, stopped and restarted, as OTP's `supervisor` does it; decision 0012 lists
the differences. No threads and no clock: moments are handed in, what takes time is a command and, later, an event.

What takes several steps (stop the others, then start all again) is a generator, a *procedure*: it yields a test for the
event that it waits for. One procedure is under way at a time; all other events wait in the order in which they came, as
messages wait while OTP's supervisor starts or stops a child.
"""

from __future__ import annotations

import dataclasses
import random as random_numbers
from collections import deque
from collections.abc import Callable, Generator, Iterable
from enum import StrEnum
from typing import Any

from seqtor.actors.invariants import require
from seqtor.tree.errors import ChildRefused, RestartsExceeded, StartFailed, StoppedInStart
from seqtor.tree.events import (
    Abandon,
    Begin,
    ChildEnded,
    ChildStarted,
    Command,
    DeleteChild,
    Event,
    Exit,
    Forget,
    Launch,
    Ready,
    Release,
    Reply,
    RestartChild,
    SetTimer,
    StartChild,
    StartDynamic,
    Stop,
    StopAsked,
    Tell,
    TerminateChild,
    TimerFired,
)
from seqtor.tree.reports import Report, ReportKind
from seqtor.tree.specs import AutoShutdown, ChildSpec, RestartKind, Strategy, SupervisorSpec, require_fits
from seqtor.tree.window import Window

__all__ = ["Child", "ChildState", "Supervision"]

Procedure = Generator[Callable[[Any], bool], Any, None]
Answered = Generator[Callable[[Any], bool], Any, BaseException | None]


class ChildState(StrEnum):
    """Where a child is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclasses.dataclass(slots=True)
class Child:
    """One child: its spec, and what is known of its present instance."""

    spec: ChildSpec
    state: ChildState = ChildState.STOPPED
    start: int = 0
    restarts: int = 0
    timer: int | None = None
    error: BaseException | None = None

    @property
    def id(self) -> str:
        """The id of its spec."""
        return self.spec.id


@dataclasses.dataclass(frozen=True, slots=True)
class _TryAgain:
    """To itself: the child's restart has failed. Waits behind what has come, so that requests get through."""

    child: str
    start: int


class Supervision:
    """The state of one supervisor.

    `path` names it in reports. Chance (`random`) is used for the jitter of backoffs only.
    """

    def __init__(self, spec: SupervisorSpec, path: str, random: random_numbers.Random | None = None) -> None:
        self.spec = spec
        self.path = path
        self.exited = False
        self._random = random or random_numbers.Random()
        self._window = Window(spec.restart)
        dynamic = spec.strategy is Strategy.DYNAMIC
        self._children: dict[str, Child] = {} if dynamic else {child.id: Child(child) for child in spec.children}
        self._procedure: Procedure | None = None
        self._wanted: Callable[[Any], bool] | None = None
        self._queue: deque[Any] = deque()
        self._commands: list[Command] = []
        self._timers = 0
        self._made = 0
        self._now = self._time = 0.0

    @property
    def children(self) -> tuple[Child, ...]:
        """The children in the order of their start."""
        return tuple(self._children.values())

    def handle(self, event: Event, now: float, time: float) -> list[Command]:
        """Take an event, return what is to be done. `now` never decreases; `time` is the wall clock's, for reports."""
        self._now, self._time = now, time
        self._queue.append(event)
        self._proceed()
        commands, self._commands = self._commands, []
        return commands

    def _proceed(self) -> None:
        while not self.exited:
            if self._procedure is None:
                if not self._queue:
                    return
                self._procedure = self._react(self._queue.popleft())
                event = None
            else:
                event = self._take_wanted()
                if event is None:
                    return
            try:
                self._wanted = next(self._procedure) if event is None else self._procedure.send(event)
            except StopIteration:
                self._procedure = self._wanted = None
        for event in self._queue:
            self._refuse_late(event)
        self._queue.clear()

    def _take_wanted(self) -> Any:
        for place, event in enumerate(self._queue):
            if self._wanted is not None and self._wanted(event):
                del self._queue[place]
                return event
        return None

    def _refuse_late(self, event: Any) -> None:
        if isinstance(event, (StartChild, StartDynamic, TerminateChild, RestartChild, DeleteChild)):
            self._do(Reply(event.reply, ChildRefused("stopped", f"{self.path} has stopped")))

    def _react(self, event: Any) -> Procedure:
        match event:
            case Begin():
                return self._begin()
            case ChildEnded():
                return self._on_ended(event)
            case TimerFired():
                return self._on_timer(event)
            case _TryAgain():
                return self._on_try_again(event)
            case StopAsked():
                return self._exit(None)
            case StartChild() | StartDynamic():
                return self._on_start_child(event)
            case TerminateChild():
                return self._on_terminate_child(event)
            case RestartChild():
                return self._on_restart_child(event)
            case DeleteChild():
                return self._on_delete_child(event)
            case _:
                return self._ignore()

    # The beginning and the end -----------------------------------------------------------------------------------------

    def _begin(self) -> Procedure:
        failed = yield from self._start_all(self.children)
        if failed is None:
            self._do(Ready())
            return
        self._release(failed)
        cause = failed.error or StoppedInStart("it stopped by itself before it had acknowledged its start")
        yield from self._exit(StartFailed(f"{self.path}/{failed.id}", cause))

    def _exit(self, error: BaseException | None) -> Procedure:
        if error is not None:
            self._report(ReportKind.GAVE_UP, error=error, restarts=len(self._window))
        yield from self._stop_all(self.children, keep=False)
        self._report(ReportKind.ENDED)
        self.exited = True
        self._do(Exit(error))

    def _ignore(self) -> Procedure:
        """What an instance says that has been replaced, or a timer that is not waited for any more."""
        yield from ()

    # Ends of children --------------------------------------------------------------------------------------------------

    def _on_ended(self, event: ChildEnded) -> Procedure:
        child = self._children.get(event.child)
        if child is None or child.start != event.start or child.state is not ChildState.RUNNING:
            return
        child.error = event.error
        child.state = ChildState.STOPPED
        self._report(ReportKind.STOPPED if event.error is None else ReportKind.CRASHED, child, error=event.error)
        kind = child.spec.restart
        if kind is RestartKind.PERMANENT or (kind is RestartKind.TRANSIENT and event.error is not None):
            yield from self._restart(child)
            return
        self._release(child)
        self._drop(child)
        if self._shuts_down(child):
            yield from self._exit(None)

    def _shuts_down(self, child: Child) -> bool:
        match self.spec.auto_shutdown:
            case AutoShutdown.ANY_SIGNIFICANT:
                return child.spec.significant
            case AutoShutdown.ALL_SIGNIFICANT:
                others = (other for other in self.children if other.state is not ChildState.STOPPED)
                return child.spec.significant and not any(other.spec.significant for other in others)
            case _:
                return False

    def _restart(self, child: Child) -> Procedure:
        """Restart the child and whom its strategy says, now or after a backoff, unless it is one restart too many."""
        if not self._window.add(self._now):
            period_s = self.spec.restart.period
            error = RestartsExceeded(self.path, child.id, len(self._window), period_s, child.error)
            yield from self._exit(error)
            return
        delay_s = self.spec.restart.delay_s(len(self._window), self._random)
        if delay_s:
            child.state = ChildState.RESTARTING
            child.timer = self._set_timer(delay_s)
            self._report(ReportKind.BACKED_OFF, child, delay_s=delay_s)
        else:
            yield from self._restart_now(child)

    def _restart_now(self, child: Child) -> Procedure:
        child.state, child.timer = ChildState.STOPPED, None
        affected: tuple[Child, ...] = (child,)
        if self.spec.strategy is Strategy.ONE_FOR_ALL:
            affected = self.children
        elif self.spec.strategy is Strategy.REST_FOR_ONE:
            affected = self.children[self.children.index(child) :]
        if len(affected) > 1:
            yield from self._stop_all(affected, keep=True)
        failed = yield from self._start_all(each for each in affected if each.id in self._children)
        if failed is not None:
            failed.state = ChildState.RESTARTING
            self._queue.append(_TryAgain(failed.id, failed.start))

    def _on_try_again(self, event: _TryAgain) -> Procedure:
        child = self._children.get(event.child)
        if child is not None and child.start == event.start and child.state is ChildState.RESTARTING:
            yield from self._restart(child)

    def _on_timer(self, event: TimerFired) -> Procedure:
        for child in self.children:
            if child.state is ChildState.RESTARTING and child.timer == event.timer:
                yield from self._restart_now(child)

    # Requests ----------------------------------------------------------------------------------------------------------

    def _on_start_child(self, event: StartChild | StartDynamic) -> Procedure:
        dynamic = self.spec.strategy is Strategy.DYNAMIC
        if isinstance(event, StartDynamic) is not dynamic:
            self._refuse(event.reply, "dynamic", _wrong_start(self.path, dynamic))
            return
        if isinstance(event, StartDynamic):
            self._made += 1
            recipe = self.spec.children[0]
            spec = recipe.with_arguments(f"{recipe.id}-{self._made}", event.args, event.kwargs)
        else:
            spec = event.spec
            require_fits(self.spec, spec)
        if (present := self._children.get(spec.id)) is not None:
            runs = present.state is ChildState.RUNNING
            text = "runs already" if runs else "has a spec already: use restart_child, or delete_child before"
            self._refuse(event.reply, "already_started" if runs else "already_present", f"{self._path(spec.id)} {text}")
            return
        child = self._children[spec.id] = Child(spec)
        failed = yield from self._start(child)
        if failed is not None:
            self._release(child)
            del self._children[child.id]
            self._do(Forget(child.id))
        self._do(Reply(event.reply, child.id if failed is None else StartFailed(self._path(child.id), failed)))

    def _on_terminate_child(self, event: TerminateChild) -> Procedure:
        child = self._children.get(event.child)
        if child is None:
            self._refuse(event.reply, "not_found", self._not_found(event.child))
            return
        yield from self._stop(child, keep=False)
        self._drop(child)
        self._do(Reply(event.reply, None))

    def _on_restart_child(self, event: RestartChild) -> Procedure:
        child = self._stopped_child(event, "it can be restarted once it is terminated")
        if child is None:
            return
        failed = yield from self._start(child)
        if failed is not None:
            self._release(child)
            child.state = ChildState.STOPPED
        self._do(Reply(event.reply, None if failed is None else StartFailed(self._path(child.id), failed)))

    def _on_delete_child(self, event: DeleteChild) -> Procedure:
        child = self._stopped_child(event, "terminate it first")
        if child is not None:
            self._release(child)
            del self._children[child.id]
            self._do(Forget(child.id))
            self._do(Reply(event.reply, None))
        yield from ()

    def _stopped_child(self, event: RestartChild | DeleteChild, advice: str) -> Child | None:
        child = self._children.get(event.child)
        if self.spec.strategy is Strategy.DYNAMIC:
            text = f"{self.path} is dynamic: what it starts is gone when it stops, so there is nothing to do it with"
            self._refuse(event.reply, "dynamic", text)
        elif child is None:
            self._refuse(event.reply, "not_found", self._not_found(event.child))
        elif child.state is not ChildState.STOPPED:
            reason = "restarting" if child.state is ChildState.RESTARTING else "running"
            self._refuse(event.reply, reason, f"{self._path(child.id)} is {reason}: {advice}")
        else:
            return child
        return None

    # Steps -------------------------------------------------------------------------------------------------------------

    def _start_all(self, children: Iterable[Child]) -> Generator[Callable[[Any], bool], Any, Child | None]:
        """Start them one after another; returns the first that fails, behind which none is started."""
        for child in tuple(children):
            if (yield from self._start(child)) is not None:
                return child
        return None

    def _start(self, child: Child) -> Answered:
        require(child.state is ChildState.STOPPED, "only a stopped child is started", child=child.id, state=child.state)
        again = child.start > 0
        child.start += 1
        child.state = ChildState.STARTING
        self._do(Launch(child.id, child.start, child.spec))
        event = yield _about(child, ChildStarted, ChildEnded)
        if isinstance(event, ChildStarted):
            child.state = ChildState.RUNNING
            child.restarts += again
            self._report(
                ReportKind.RESTARTED if again else ReportKind.STARTED, child, error=child.error if again else None
            )
            return None
        child.state = ChildState.STOPPED
        child.error = event.error or StoppedInStart("it stopped by itself before it had acknowledged its start")
        self._report(ReportKind.FAILED_TO_START, child, error=child.error)
        return child.error

    def _stop_all(self, children: tuple[Child, ...], *, keep: bool) -> Procedure:
        """Stop them in reverse order. Those that are temporary are gone then: a restart does not bring them back."""
        if self.spec.strategy is Strategy.DYNAMIC:
            yield from self._stop_together(children)
            return
        for child in reversed(children):
            kept = keep and child.spec.restart is not RestartKind.TEMPORARY
            yield from self._stop(child, keep=kept)
            if keep:
                self._drop(child)

    def _stop(self, child: Child, *, keep: bool) -> Procedure:
        if child.state is ChildState.RUNNING:
            yield from self._await_stop(child, self._ask_to_stop(child, keep=keep), keep=keep)
        if not keep:
            self._release(child)
        child.state, child.timer = ChildState.STOPPED, None

    def _stop_together(self, children: tuple[Child, ...]) -> Procedure:
        running = [child for child in children if child.state is ChildState.RUNNING]
        timers = [self._ask_to_stop(child, keep=False) for child in running]
        for child, timer in zip(running, timers, strict=True):
            yield from self._await_stop(child, timer, keep=False)
        for child in children:
            self._release(child)
            child.state = ChildState.STOPPED

    def _ask_to_stop(self, child: Child, *, keep: bool) -> int | None:
        child.state = ChildState.STOPPING
        if child.spec.shutdown == "brutal_kill":
            return None
        self._do(Stop(child.id, child.start, keep))
        return None if isinstance(child.spec.shutdown, str) else self._set_timer(child.spec.shutdown)

    def _await_stop(self, child: Child, timer: int | None, *, keep: bool) -> Procedure:
        event: Any = None
        if child.spec.shutdown != "brutal_kill":
            ended = _about(child, ChildEnded)
            event = yield lambda event: ended(event) or (isinstance(event, TimerFired) and event.timer == timer)
        if isinstance(event, ChildEnded):
            self._report(ReportKind.SHUT_DOWN, child, error=event.error)
        else:
            self._do(Abandon(child.id, child.start, keep))
            self._report(ReportKind.ABANDONED, child)

    def _drop(self, child: Child) -> None:
        """A temporary child, and a dynamic one, is gone when it has ended; others leave their spec."""
        if child.spec.restart is RestartKind.TEMPORARY or self.spec.strategy is Strategy.DYNAMIC:
            del self._children[child.id]
            self._do(Forget(child.id))

    def _release(self, child: Child) -> None:
        if child.start:
            self._do(Release(child.id))

    def _set_timer(self, delay_s: float) -> int:
        self._timers += 1
        self._do(SetTimer(self._timers, delay_s))
        return self._timers

    def _report(
        self, kind: ReportKind, child: Child | None = None, *, error: BaseException | None = None,
        restarts: int = 0, delay_s: float | None = None,
    ) -> None:  # fmt: skip
        self._do(
            Tell(
                Report(
                    time=self._time, kind=kind, supervisor=self.path, child=None if child is None else child.id, error=error,
                    restarts=restarts if child is None else child.restarts, delay_s=delay_s,
                )
            )
        )  # fmt: skip

    def _refuse(self, reply: Any, reason: str, text: str) -> None:
        self._do(Reply(reply, ChildRefused(reason, text)))

    def _do(self, command: Command) -> None:
        self._commands.append(command)

    def _path(self, child: str) -> str:
        return f"{self.path}/{child}"

    def _not_found(self, child: str) -> str:
        known = ", ".join(repr(known) for known in self._children) or "no children"
        return f"{self.path} has no child {child!r}: it has {known}"


def _about(child: Child, *kinds: type[Any]) -> Callable[[Any], bool]:
    name, start = child.id, child.start
    return lambda event: isinstance(event, kinds) and event.child == name and event.start == start


def _wrong_start(path: str, dynamic: bool) -> str:
    if dynamic:
        return f"{path} is dynamic: start_child takes the arguments of one more child, not a ChildSpec"
    return f"{path} is not dynamic: start_child takes a ChildSpec"
