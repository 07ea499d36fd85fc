"""`Tree`: a supervision tree as it is now, as data.

Owns the shape and the way it is printed. A `Tree` is a copy: it changes no more and can go anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from seqtor.actors.base import Ref

__all__ = ["Tree", "supervisor_of", "tree_of"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """An actor and what it supervises.

    `kind` is "supervisor" or "actor". `state` is `starting`, `running`, `stopping`, `restarting` (waits for its restart)
    or `stopped`; of a store that writes outside also `suspended`: that cannot be written, and is tried again.
    `mailbox_depth` counts the messages that wait, None where that cannot be known.
    """

    name: str
    kind: str
    state: str
    restarts: int = 0
    mailbox_depth: int | None = None
    children: tuple[Tree, ...] = ()

    def __iter__(self) -> Iterator[Tree]:
        """This one and all below, from the top."""
        yield self
        for child in self.children:
            yield from child

    def __getitem__(self, path: str) -> Tree:
        """The one below at `path`, ids joined by '/'. Raises LookupError with what there is."""
        name, _, rest = path.partition("/")
        for child in self.children:
            if child.name == name:
                return child[rest] if rest else child
        known = ", ".join(repr(child.name) for child in self.children) or "no children"
        raise LookupError(f"{self.name} has no child {name!r}: it has {known}")

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines("", ""))

    def _lines(self, first: str, further: str) -> Iterator[str]:
        notes = [self.state]
        if self.restarts:
            notes.append(f"{self.restarts} restart{'s' if self.restarts > 1 else ''}")
        if self.mailbox_depth:
            notes.append(f"{self.mailbox_depth} waiting")
        yield f"{first}{self.name} ({', '.join(notes)})"
        for child in self.children:
            last = child is self.children[-1]
            yield from child._lines(f"{further}{'└─ ' if last else '├─ '}", f"{further}{'   ' if last else '│  '}")


def tree_of(name: str, ref: Ref, *, suspended: bool = False) -> Tree:
    """An actor that supervises nobody, as its ref shows it."""
    alive = ref.is_alive()
    state = "restarting" if ref.suspended else "stopped" if not alive else "suspended" if suspended else "running"
    depth = len(ref.actor_inbox) if alive else None
    return Tree(name=name, kind="actor", state=state, restarts=ref.incarnation - 1, mailbox_depth=depth)


def supervisor_of(name: str, children: Sequence[Tree]) -> Tree:
    """Actors that are supervised together, by something that is no actor of its own."""
    states = {child.state for child in children}
    state = states.pop() if len(states) == 1 else "running"
    return Tree(name=name, kind="supervisor", state=state, children=tuple(children))
