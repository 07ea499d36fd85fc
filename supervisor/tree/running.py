"""`start_supervisor` and `SupervisorRef`: supervision for programs.

Owns the edge: here callers wait, and requests are checked. Promises: a supervisor that `start_supervisor` returns has
started all its children; one that fails leaves none behind.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import pykka
from pykka import ActorDeadError

from seqtor.actors.base import Ref
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.mailbox import answer, answer_error
from seqtor.actors.watching import unwatch, watch
from seqtor.messages.errors import RegistrationError
from seqtor.messages.supervision import ChangeChildren
from seqtor.tree.actor import start_on_place
from seqtor.tree.errors import ChildRefused
from seqtor.tree.events import DeleteChild, RestartChild, StartChild, StartDynamic, TerminateChild
from seqtor.tree.handles import ChildHandle, TreeHandle
from seqtor.tree.nodes import Node
from seqtor.tree.places import Place
from seqtor.tree.reports import Report, ReportKind
from seqtor.tree.specs import ChildSpec, Strategy, SupervisorSpec, require_fits
from seqtor.tree.view import Tree

__all__ = ["SupervisorRef", "start_supervisor"]

REPORTS_MAX = 1_000


class SupervisorRef:
    """A running supervisor, for programs; thread-safe. Not for actors that run on its threads: they would wait."""

    def __init__(self, spec: SupervisorSpec, name: str, on_report: Callable[[Report], None] | None = None) -> None:
        self.name = name
        self.spec = spec
        self.error: BaseException | None = None
        self.restarts = 0  # Of actors anywhere below it.
        self._on_report = on_report
        self._place = Place(name, self._keep)
        self._reports: deque[Report] = deque(maxlen=REPORTS_MAX)
        self._ended = threading.Event()
        self._node = Node(spec, name, self._place, start_on_place)
        self._ref: Ref | None = None

    def start(self, dispatchers: Dispatchers | None = None) -> None:
        """Start the children in order; returns when all have acknowledged. `start_supervisor` says the rest."""
        if self._ref is not None:
            raise RegistrationError(f"{self.name} has been started already")
        self._place.open(dispatchers)
        self._started = self._future()
        self._node.ready = lambda: answer(self._started, None)
        self._ref = start_on_place(self._node, parent=_Parent(self), restartable=True)
        self._started.get()

    # Children ----------------------------------------------------------------------------------------------------------

    def child(self, path: str) -> ChildHandle:
        """The handle of a child; of a child's child by "child/grandchild". Raises LookupError with what there is."""
        node, id_ = self._below(path)
        handle = node.handle(id_)
        if handle is None:
            known = ", ".join(repr(handle.id) for handle in node.handles()) or "no children"
            raise LookupError(f"{node.path} has no child {id_!r}: it has {known}")
        return handle

    def start_child(self, spec: ChildSpec, *, under: str = "") -> ChildHandle:
        """Add a child behind the others and start it; returns when it has acknowledged.

        `under` is the path of the supervisor below this one that gets it. Raises StartFailed, ChildRefused.
        """
        node, ref, _ = self._find(f"{under}/" if under else "")
        require_fits(node.spec, spec)
        return self._handle(node, self._request(ref, StartChild, spec))

    def start_dynamic(self, *args: Any, under: str = "", **kwargs: Any) -> ChildHandle:
        """Start one more child of a dynamic supervisor, with these arguments behind those of its recipe."""
        node, ref, _ = self._find(f"{under}/" if under else "")
        return self._handle(node, self._request(ref, StartDynamic, args, kwargs))

    def terminate_child(self, path: str) -> None:
        """Stop a child and leave it stopped; returns when it has ended. Raises ChildRefused."""
        _, ref, id_ = self._find(path)
        self._request(ref, TerminateChild, id_)

    def restart_child(self, path: str) -> None:
        """Start a stopped child again. Raises ChildRefused if it is not stopped, StartFailed."""
        _, ref, id_ = self._find(path)
        self._request(ref, RestartChild, id_)

    def delete_child(self, path: str) -> None:
        """Drop the spec of a stopped child. Raises ChildRefused if it is not stopped."""
        _, ref, id_ = self._find(path)
        self._request(ref, DeleteChild, id_)

    def which_children(self) -> tuple[Tree, ...]:
        """The children in the order of their start, with their states."""
        return self.tree().children

    def count_children(self) -> dict[str, int]:
        """How many there are: `specs`, `active` (have an instance), `supervisors` and `workers`."""
        children = self.which_children()
        supervisors = sum(child.kind == "supervisor" for child in children)
        return {
            "specs": 1 if self.spec.strategy is Strategy.DYNAMIC else len(children),
            "active": sum(child.state == "running" for child in children),
            "supervisors": supervisors,
            "workers": len(children) - supervisors,
        }

    def tree(self) -> Tree:
        """The supervisor and all below, as they are now."""
        state = "starting" if self._ref is None else "stopped" if self._ended.is_set() else "running"
        return self._node.tree(self.name, state, 0)

    # Watching ----------------------------------------------------------------------------------------------------------

    def watch(self, path: str, watcher: pykka.ActorRef[Any]) -> None:
        """Send `ActorDied` to `watcher` when the child has ended for good."""
        watch(self.child(path).ref, watcher)

    def unwatch(self, path: str, watcher: pykka.ActorRef[Any]) -> None:
        """Send nothing more."""
        unwatch(self.child(path).ref, watcher)

    def reports(self) -> tuple[Report, ...]:
        """What happened in the tree, the newest last; the newest 1,000 are kept."""
        return tuple(self._reports.copy())

    # The end -----------------------------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Whether it supervises."""
        return self._ref is not None and not self._ended.is_set()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the children in reverse order, then the supervisor. False if that has not ended after `timeout` seconds.

        Each child has as long as its spec says. Harmless if it has ended.
        """
        if self._ref is None:
            return True
        if self._ref.is_alive():
            self._ref.stop(block=False)
        return self.join(timeout)

    def abandon(self) -> None:
        """Cut off all that still runs, whatever it is doing, and end; for a stop that takes too long."""
        if self._ref is None or self._ended.is_set():
            return
        self._ref.detach()
        for handle in self._node.handles():
            handle.abandon(keep=False)
        self._end(None)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; `error` tells whether it gave up. False after `timeout` seconds."""
        if self._place.driver is not None and not self._ended.is_set():
            return self._place.driver.run_until(self._ended.is_set, timeout)
        return self._ended.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<SupervisorRef {self.name}>"

    def _keep(self, report: Report) -> None:
        self._reports.append(report)
        self.restarts += report.kind is ReportKind.RESTARTED
        if self._on_report is not None:
            self._on_report(report)

    def _end(self, error: BaseException | None) -> None:
        """The actor has ended, with an error or in order. Called on its thread."""
        self.error = error
        if self._ref is not None and self._ref.suspended:
            self._ref.give_up("has ended", error)
        self._ended.set()
        if error is None:
            answer(self._started, None)
        else:
            answer_error(self._started, error)

    def _future(self) -> ReplyFuture:
        future = ReplyFuture()
        future.driver = self._place.driver
        return future

    def _below(self, path: str) -> tuple[Node, str]:
        node = self._node
        *above, id_ = path.split("/")
        for name in above:
            handle = node.handle(name)
            if not isinstance(handle, TreeHandle):
                raise LookupError(f"{node.path} has no supervisor {name!r} below it")
            node = handle.node
        return node, id_

    def _find(self, path: str) -> tuple[Node, pykka.ActorRef[Any], str]:
        """The supervisor at the path's last but one place, and the id at the last."""
        node, id_ = self._below(path)
        if self._ref is None:
            raise ChildRefused("stopped", f"{self.name} has not been started")
        above, _, _ = path.rpartition("/")
        return node, self.child(above).ref if above else self._ref, id_

    def _handle(self, node: Node, child: str) -> ChildHandle:
        handle = node.handle(child)
        if handle is None:  # It has started, and is gone already: a temporary child that has done its work.
            raise ChildRefused("not_found", f"{node.path}/{child} was started and has ended already")
        return handle

    def _request(self, ref: pykka.ActorRef[Any], request: Callable[..., Any], *values: Any) -> Any:
        future = self._future()
        try:
            ref.tell(ChangeChildren(request=request(*values, future), reply_to=future))
        except ActorDeadError as dead:
            raise ChildRefused("stopped", f"{self.name} has stopped") from dead
        return future.get()


class _Parent:
    """What a supervisor at the top tells instead of a parent: it is never restarted."""

    def __init__(self, top: SupervisorRef) -> None:
        self._top = top

    def tell(self, message: Any) -> None:
        kind = type(message).__name__
        if kind == "ActorCrashed":
            self._top._end(message.error)
        elif kind == "ActorStopped":
            self._top._end(None)


def start_supervisor(
    spec: SupervisorSpec,
    name: str = "supervisor",
    *,
    dispatchers: Dispatchers | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> SupervisorRef:
    """Start a supervisor and its children; returns when all have acknowledged.

    `dispatchers` are those of a simulation; without them actors get threads as they need them. `on_report` is called with
    each report, on the supervisor's thread. Raises StartFailed if a child fails; those before it have been stopped then.
    """
    if not isinstance(spec, SupervisorSpec):
        raise RegistrationError(f"start_supervisor() takes a SupervisorSpec, got {spec!r}")
    started = SupervisorRef(spec, name, on_report)
    started.start(dispatchers)
    return started
