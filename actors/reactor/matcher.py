"""The matcher: calls the users' functions of a batch of facts, on `pool` and each within a deadline.

One matcher for each batch, so that one that hangs holds up no other.
"""

from __future__ import annotations

from typing import ClassVar

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.contract import AttemptDispatcher
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.reactor.deciding import Deciding
from seqtor.messages.reactions import FactsMatched, MatchFacts

__all__ = ["Matcher"]


class Matcher(Actor):
    """Decides what follows from one batch of facts."""

    receives: ClassVar[tuple[type, ...]] = (MatchFacts,)
    seq = 0  # Of no run.

    def __init__(self, deciding: Deciding, pool: AttemptDispatcher, reactor: Mailbox, deadline_s: float) -> None:
        super().__init__()
        self.actor_inbox.rank = 0  # type: ignore[attr-defined]
        self._deciding = deciding
        self._pool = pool
        self._reactor = reactor
        self._deadline_s = deadline_s
        self._doing = ("", "", "")
        self._message: MatchFacts

    def on_match_facts(self, message: MatchFacts) -> None:
        self._message = message
        decision = self._deciding.decide(message.facts, message.half_met, message.excluded, self._enter)
        self._pool.leave_handler()
        self._reactor.tell(FactsMatched(batch=message.batch, attempt=message.attempt, decision=decision))
        self.stop()

    def _enter(self, reaction: str, fact: str, what: str) -> None:
        self._doing = (reaction, fact, what)
        self._pool.enter_handler(self, self._deadline_s)

    @property
    def handler_name(self) -> str:
        """Whose function is called, for reports."""
        return f"the reaction {self._doing[0]}"

    def abandon(self) -> None:
        """No run is executed here that could be aborted."""

    def expire(self) -> None:
        """The deadline of a call has passed; from the watch's thread. What the matcher may still send comes too late."""
        message = self._message
        self._reactor.tell(FactsMatched(batch=message.batch, attempt=message.attempt, stuck=self._doing))
