"""Which actors of the runtime are restarted together, and what each restart does.

Owns the groups that the root supervises. Promises: every restart is counted; whoever waits for the drain of a stop is asked
again after it, because what crashed may have lost the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from seqtor.actors.ledger import Ledger
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.journal import CheckpointDue
from seqtor.messages.lifecycle import ActorCrashed
from seqtor.messages.stores import ValidateCommit
from seqtor.root import Group, Root
from seqtor.settings import Settings
from seqtor.tree.window import Restart

if TYPE_CHECKING:
    from seqtor.commit_path import CommitPath
    from seqtor.edge import Edge
    from seqtor.effects import RunningEffects
    from seqtor.journaling import Journaling
    from seqtor.reactions import RunningReactions

__all__ = ["Restarts"]


class Restarts:
    """Tells the root of one running system who is restarted, and how."""

    def __init__(
        self, root: Root, path: CommitPath, edge: Edge, settings: Settings, drain_again: Callable[[], None]
    ) -> None:
        self._root = root
        self._path = path
        self._edge = edge
        self._ledger: Ledger = path.ledger
        self._drain_again = drain_again
        self._policy = Restart(settings.restart_intensity, settings.restart_period)
        root.committer = path.committer_ref.actor_inbox

    def of_core(self) -> None:
        """The sequencer, the coordinator and the committer: one epoch after the other."""
        self._root.supervise(Group("the core", self._path.refs, self._policy, self._rebuild))

    def of_stores(self, refs: Iterable[StoreRef[Any]], cells: Iterable[Any]) -> None:
        """Each store by itself."""
        for ref, cell in zip(refs, cells, strict=True):

            def restart(_: ActorCrashed, cell: Any = cell) -> None:
                self._ledger.restarts += 1
                # It is asked again when it has recovered.
                cell.actor_inbox.drain(lambda message: not isinstance(message, ValidateCommit))
                cell.restart()

            self._root.supervise(Group(f"store {ref.name!r}", [cell], ref.restart or self._policy, restart))

    def of_effects(self, effects: RunningEffects) -> None:
        """The actor of the effects, if there is one."""

        def carry_out_again(_: ActorCrashed) -> None:
            self._ledger.restarts += 1
            effects.restart(self._path)
            self._drain_again()

        if effects.ref is not None:
            self._root.supervise(Group("effects", [effects.ref], self._policy, carry_out_again))

    def of_reactions(self, reactions: RunningReactions) -> None:
        """The reactor, if there is one."""

        def match_again(_: ActorCrashed) -> None:
            self._ledger.restarts += 1
            reactions.restart()
            self._drain_again()

        if reactions.ref is not None:
            self._root.supervise(Group("the reactor", [reactions.ref], self._policy, match_again))

    def of_journal(self, journal: Journaling, effects: RunningEffects, reactions: RunningReactions) -> None:
        """The journal, with whom it tells what is durable, and its checkpointer."""
        path, checkpointer = self._path, journal.checkpointer_ref

        def check_again(_: ActorCrashed) -> None:
            self._ledger.restarts += 1
            checkpointer.restart()
            checkpointer.tell(CheckpointDue())  # It may have crashed at one.

        def read_again(crashed: ActorCrashed) -> None:
            for ref in (*path.refs, *[each.ref for each in (effects, reactions) if each.ref is not None]):
                ref.suspend()
            journal.restart()
            self._rebuild(crashed)
            if effects.ref is not None:
                effects.restart(path)
            if reactions.ref is not None:
                reactions.restart()

        self._root.supervise(Group("checkpointer", [checkpointer], self._policy, check_again))
        may_restart = lambda: journal.may_restart() and all(ref.is_alive() for ref in path.refs)  # noqa: E731
        self._root.supervise(Group("the journal", [journal.ref], self._policy, read_again, may_restart))

    def of_scheduler(self, ref: Any) -> None:
        """The scheduler; it was started just now."""

        def restart(_: ActorCrashed) -> None:
            self._ledger.restarts += 1
            ref.restart()

        self._root.supervise(Group("the scheduler", [ref], self._policy, restart))

    def _rebuild(self, _: ActorCrashed) -> None:
        self._edge.rebuild()
        self._drain_again()
