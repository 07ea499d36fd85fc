"""The users' own actors beside a system: what `system.supervise` registers.

Owns their start after the runtime's actors and their stop before them. Promises: what users' actors do, the runtime goes
on. A subtree that gives up is a report and a line in the log, and it is down; nothing else is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import overload

from loguru import logger

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.messages.errors import RegistrationError
from seqtor.tree.handles import ChildHandle
from seqtor.tree.reports import Report, ReportKind
from seqtor.tree.running import SupervisorRef
from seqtor.tree.specs import ChildSpec, SupervisorSpec
from seqtor.tree.view import Tree
from seqtor.tree.window import Restart

__all__ = ["UserTrees"]


class UserTrees:
    """The supervisors that a program has put beside one system."""

    def __init__(self, restarted: Callable[[str, BaseException | None, int], None] | None = None) -> None:
        self._restarted = restarted  # Called with the actor's path, its error, and how often it was, on its thread.
        self._lock = threading.Lock()
        self._trees: dict[str, SupervisorRef] = {}
        self._dispatchers: Dispatchers | None = None
        self._started = self._stopped = False

    @overload
    def add(self, spec: ChildSpec, name: str | None, restart: Restart | None) -> ChildHandle: ...
    @overload
    def add(self, spec: SupervisorSpec, name: str | None, restart: Restart | None) -> SupervisorRef: ...
    def add(self, spec: object, name: str | None, restart: Restart | None) -> ChildHandle | SupervisorRef:
        """Put one more beside the system; starts it if the system has been started.

        Raises RegistrationError for what cannot be meant, StartFailed if it is started and fails.
        """
        tree = self._tree_of(spec, name, restart)
        with self._lock:
            if self._stopped:
                raise RegistrationError(f"supervise({tree.name!r}) comes too late: the system has stopped")
            if tree.name in self._trees:
                raise RegistrationError(
                    f"the name {tree.name!r} is taken: what a system supervises has a name of its own"
                )
            self._trees[tree.name] = tree
            starts = self._started
        if starts:
            try:
                tree.start(self._dispatchers)
            except BaseException:
                with self._lock:
                    del self._trees[tree.name]
                raise
        return tree.child(spec.id) if isinstance(spec, ChildSpec) else tree

    def start(self, dispatchers: Dispatchers) -> None:
        """Start all, in the order in which they were added. If one fails, those before it are stopped, and it raises."""
        with self._lock:
            self._dispatchers = dispatchers
            self._started = True
            trees = list(self._trees.values())
        for place, tree in enumerate(trees):
            try:
                tree.start(dispatchers)
            except BaseException:
                for started in reversed(trees[:place]):
                    started.stop()
                raise

    def stop(self, grace_s: float) -> None:
        """Stop all, in reverse order, each with its children in theirs; what is left after `grace_s` is cut off."""
        with self._lock:
            self._stopped = True
            trees = list(self._trees.values())
            dispatchers = self._dispatchers
        if dispatchers is None:
            return
        give_up_at = dispatchers.clock.monotonic() + grace_s
        for tree in reversed(trees):
            if not tree.stop(max(0.0, give_up_at - dispatchers.clock.monotonic())):
                logger.bind(actor=tree.name).warning(
                    "{} did not stop within {:g} s and is abandoned", tree.name, grace_s
                )
                tree.abandon()

    def trees(self) -> tuple[Tree, ...]:
        """How they are now."""
        with self._lock:
            trees = list(self._trees.values())
        return tuple(tree.tree() for tree in trees)

    @property
    def restarts(self) -> int:
        """How many restarts there were in all of them."""
        with self._lock:
            return sum(tree.restarts for tree in self._trees.values())

    def _tree_of(self, spec: object, name: str | None, restart: Restart | None) -> SupervisorRef:
        if isinstance(spec, SupervisorSpec):
            if name is None:
                raise RegistrationError(
                    "supervise(SupervisorSpec(...)) needs a name=, for reports and for system.tree()"
                )
            if restart is not None:
                raise RegistrationError("restart= goes into the SupervisorSpec itself")
            return SupervisorRef(spec, name, self._report)
        if not isinstance(spec, ChildSpec):
            raise RegistrationError(f"supervise() takes a ChildSpec or a SupervisorSpec, got {spec!r}")
        if spec.is_supervisor:
            raise RegistrationError(
                f"supervise() takes the SupervisorSpec of {spec.id!r} itself, with name={spec.id!r}"
            )
        return SupervisorRef(SupervisorSpec([spec], restart=restart), name or spec.id, self._report)

    def _report(self, report: Report) -> None:
        if report.kind is ReportKind.RESTARTED and self._restarted is not None:
            self._restarted(f"{report.supervisor}/{report.child}", report.error, report.restarts)
