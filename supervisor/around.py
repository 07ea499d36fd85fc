"""What a test puts around a running system: who watches it, and what stands in for the outside.

Owns the seam. Promises: a system that nobody has put anything around (`NOTHING`) does what it would do without the seam;
what a watcher is told has happened, in the order in which it did. Must never decide anything: a watcher only watches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seqtor.actors.resources import ResourceRef, Resources

if TYPE_CHECKING:
    from seqtor.actors.answers import Call
    from seqtor.actors.committer import CommitOrder
    from seqtor.actors.dispatchers.contract import LoopDispatcher
    from seqtor.actors.journal.contract import Backend
    from seqtor.actors.publications import Publication
    from seqtor.actors.stores.contract import StoreRef
    from seqtor.actors.submissions import Submission
    from seqtor.messages.runs import RunsEnded

__all__ = ["NOTHING", "Around", "Watcher"]


class Watcher:
    """Is told what happens in one system; this one of nothing. Each is called where it happens, on whatever thread."""

    def backend(self, backend: Backend) -> Backend:
        """What the journal is to write through: the backend, or one that tells of it."""
        return backend

    def open_submissions(self) -> dict[Submission[Any], None]:
        """Where the system is to keep what was accepted and is not answered."""
        return {}

    def began(self, stores: Sequence[StoreRef[Any]], first: Publication, *, journaled: bool) -> None:
        """The stores have recovered; `first` leads to all publications that follow."""

    def order(self, order: CommitOrder) -> None:
        """An epoch of the commit path begins, with this order."""

    def ended(self, message: RunsEnded) -> None:
        """These runs have ended, in memory; the journal is told next."""

    def effect(self, seq: int, index: int) -> None:
        """An effect's function is about to be called."""


class Around(NamedTuple):
    """`instead` gives the call that is made in place of one that a handler asks for, `resources` finds what handlers use,
    `initial` changes the states that the stores have recovered without a journal's records.
    """

    watcher: Watcher | None = None
    instead: Callable[[Call], Call] | None = None
    resources: Callable[[Sequence[ResourceRef[Any]], LoopDispatcher], Resources] = Resources
    initial: Callable[[Sequence[StoreRef[Any]], tuple[Any, ...]], tuple[Any, ...]] | None = None


NOTHING = Around()
