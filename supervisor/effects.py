"""The effects of one running system: wired, resumed, held and stopped with it.

Owns the effects' actor and those that execute for it. A system that registers no effect has none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pykka import ActorDeadError

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.effects import EffectFunctions, Effects, Workshop
from seqtor.actors.effects.actor import dead_letters
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.mailbox import Mailbox
from seqtor.commit_path import CommitPath
from seqtor.messages.effects import DeadLetterRecord, GetDeadLetters, HoldEffects, ResumeEffects

__all__ = ["RunningEffects"]


class RunningEffects:
    """From the start to the stop of one system."""

    def __init__(self, functions: EffectFunctions, workshop: Workshop, recovery: Recovery | None) -> None:
        self._functions = functions
        self._workshop = workshop
        self._left = () if recovery is None else tuple(recovery.effects[place] for place in sorted(recovery.effects))
        self._dead_before = () if recovery is None else tuple(recovery.dead)
        self._ref: Any = None
        self._actor: Effects

    def start(
        self,
        dispatchers: Dispatchers,
        path: CommitPath,
        through: int,
        root: Mailbox,
    ) -> Mailbox | None:
        """Start the actor, if there can be any effects; it begins nothing that an earlier process left until `resume`."""
        if not len(self._functions):
            return None
        self._ref = Effects.start_on(
            dispatchers.core, self._workshop, self._functions, dispatchers, path.journal, through, self._dead_before,
            parent=root,
        )  # fmt: skip
        self._actor = self._ref._actor_weakref()
        self._actor.sequencer = path.sequencer_ref.actor_inbox
        self._actor.coordinator = path.coordinator_ref.actor_inbox
        path.ledger.open_effects.update(dict.fromkeys(each.seq for each in self._left))
        return self._ref.actor_inbox  # type: ignore[no-any-return]

    def resume(self) -> None:
        """Begin what had not ended; the system takes triggers now."""
        if self._left:
            self._ref.actor_inbox.tell(ResumeEffects(effects=self._left))

    def hold(self) -> None:
        """Let nothing more begin."""
        if self._ref is not None and self._ref.is_alive():
            self._ref.actor_inbox.tell(HoldEffects())

    def stop(self, stop_actors: Callable[[Iterable[Any]], None]) -> None:
        """Stop the actor and who executes for it; does not wait for functions that have not returned."""
        if self._ref is None:
            return
        stop_actors([self._ref])
        at_rest, stuck = self._actor.workers()
        stop_actors(at_rest)
        for ref in stuck:
            ref.stop(block=False)

    def dead_letters(self, limit: int, ask: Callable[[Any, Any], Any]) -> list[DeadLetterRecord]:
        """What was given up, newest first; after the stop too."""
        if self._ref is None:
            return dead_letters(self._dead_before, self._workshop.key, limit)
        query = GetDeadLetters(reply_to=None, limit=limit)
        try:
            return ask(self._actor, query)  # type: ignore[no-any-return]
        except ActorDeadError:
            return self._actor.answer(query)
