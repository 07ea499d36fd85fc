"""`Node`: what stays the same of a supervisor while its instances come and go.

Owns the handles of its children and the last published view of them. Written by the supervisor's actor, read from any
thread.
"""

from __future__ import annotations

from collections.abc import Callable

from seqtor.actors.base import Ref
from seqtor.tree.handles import ChildHandle, TreeHandle, make_handle
from seqtor.tree.places import Place
from seqtor.tree.specs import ChildSpec, Strategy, SupervisorSpec
from seqtor.tree.state import Child
from seqtor.tree.view import Tree

__all__ = ["Node"]


class Node:
    """One supervisor of a tree."""

    def __init__(self, spec: SupervisorSpec, path: str, place: Place, start: Callable[..., Ref]) -> None:
        self.spec = spec
        self.path = path
        self.place = place
        self._start = start
        self.ready: Callable[[], None] | None = None  # Called at each start that is complete.
        self._handles: dict[str, ChildHandle] = {}
        self._published: tuple[tuple[str, str, int], ...] = ()
        if spec.strategy is not Strategy.DYNAMIC:
            for child in spec.children:
                self.make(child)

    def handle(self, child: str) -> ChildHandle | None:
        """The handle of a child, by its id."""
        return self._handles.get(child)

    def handles(self) -> tuple[ChildHandle, ...]:
        """All handles."""
        return tuple(self._handles.copy().values())

    def make(self, spec: ChildSpec) -> ChildHandle:
        """Make and keep the handle of a new child."""
        path = f"{self.path}/{spec.id}"
        if isinstance(spec.start, SupervisorSpec):
            below = Node(spec.start, path, self.place, self._start)
            handle: ChildHandle = TreeHandle(spec.id, path, self.place, below, self._start)
        else:
            handle = make_handle(spec, path, self.place)
        self._handles[spec.id] = handle
        return handle

    def forget(self, child: str) -> None:
        """The child's spec is gone."""
        self._handles.pop(child, None)

    def publish(self, children: tuple[Child, ...]) -> None:
        """Say how the children are now."""
        self._published = tuple((child.id, str(child.state), child.restarts) for child in children)

    def tree(self, name: str, state: str, restarts: int) -> Tree:
        """The supervisor and all below, as they are now."""
        children = []
        for child, child_state, child_restarts in self._published:
            handle = self._handles.get(child)
            if isinstance(handle, TreeHandle):
                children.append(handle.node.tree(child, child_state, child_restarts))
            elif handle is not None:
                depth = handle.mailbox_depth if child_state != "stopped" else None
                children.append(
                    Tree(name=child, kind="actor", state=child_state, restarts=child_restarts, mailbox_depth=depth)
                )
        return Tree(name=name, kind="supervisor", state=state, restarts=restarts, children=tuple(children))
