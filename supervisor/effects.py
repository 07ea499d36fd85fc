"""The effects of one running system: wired, resumed, held and stopped with it.

Owns the effects' actor and those that execute for it. A system that registers no effect has none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pykka import ActorDeadError

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.effects import EffectFunctions, Effects, Workshop
from seqtor.actors.effects.actor import dead_letters
from seqtor.actors.effects.workforce import Workforce
from seqtor.actors.journal.open_runs import DEAD_LETTERS_MAX
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.mailbox import Mailbox
from seqtor.commit_path import CommitPath
from seqtor.messages.effects import DeadLetterRecord, GetDeadLetters, HoldEffects, ResumeEffects
from seqtor.messages.records import EffectRecord

__all__ = ["RunningEffects"]


class RunningEffects:
    """From the start to the stop of one system."""

    def __init__(self, functions: EffectFunctions, workshop: Workshop, recovery: Recovery | None) -> None:
        self._functions = functions
        self._workshop = workshop
        self._left = () if recovery is None else tuple(recovery.effects[place] for place in sorted(recovery.effects))
        self._dead = deque[EffectRecord](() if recovery is None else recovery.dead, maxlen=DEAD_LETTERS_MAX)
        self._held = False
        self.ref: Any = None
        self._actor: Effects

    def start(self, dispatchers: Dispatchers, path: CommitPath, root: Mailbox) -> Mailbox | None:
        """Start the actor, if there can be any effects; it begins nothing that an earlier process left until `resume`."""
        if not len(self._functions):
            return None
        for each in self._left:
            path.ledger.open_effects.setdefault(each.seq, {})[each.index] = each.effect
        self._workforce = workforce = Workforce(self._workshop, dispatchers)
        self._arguments = (
            self._workshop, self._functions, dispatchers, path.journal, path.ledger, workforce, self._dead,
        )  # fmt: skip
        self.ref = Effects.start_on(dispatchers.core, *self._arguments, parent=root, restartable=True)
        self._wire(path)
        return self.ref.actor_inbox  # type: ignore[no-any-return]

    def restart(self, path: CommitPath) -> None:
        """Start the actor anew; what had not ended is begun once more."""
        self.ref.restart(*self._arguments, resumed=True)
        self._wire(path)
        if self._held:
            self.hold()

    def _wire(self, path: CommitPath) -> None:
        self._actor = self.ref._actor_weakref()
        self._workforce.effects = self.ref.actor_inbox
        self._actor.sequencer = path.sequencer_ref.actor_inbox
        self._actor.coordinator = path.coordinator_ref.actor_inbox

    def resume(self) -> None:
        """Begin what had not ended; the system takes triggers now."""
        if self._left:
            self.ref.actor_inbox.tell(ResumeEffects())

    def hold(self) -> None:
        """Let nothing more begin."""
        self._held = True
        if self.ref is not None and self.ref.is_alive():
            self.ref.actor_inbox.tell(HoldEffects())

    def stop(self, stop_actors: Callable[[Iterable[Any]], None]) -> None:
        """Stop the actor and who executes for it; does not wait for functions that have not returned."""
        if self.ref is None:
            return
        stop_actors([self.ref])
        at_rest, stuck = self._workforce.all()
        stop_actors(at_rest)
        for ref in stuck:
            ref.stop(block=False)

    def dead_letters(self, limit: int, ask: Callable[[Any, Any], Any]) -> list[DeadLetterRecord]:
        """What was given up, newest first; after the stop too."""
        if self.ref is None:
            return dead_letters(self._dead, self._workshop.key, limit)
        query = GetDeadLetters(reply_to=None, limit=limit)
        try:
            return ask(self._actor, query)  # type: ignore[no-any-return]
        except ActorDeadError:
            return self._actor.answer(query)
