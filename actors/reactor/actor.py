"""The reactor: has facts matched, one batch at a time, and lets what follows from them happen exactly once.

Owns the batch. Runs on the core and calls no user code; that happens in `matcher.py`. Promises: facts are matched in append
order; that they are, what waits, and what is started become durable in one entry of the journal, before anything of it
happens; a function that hangs, raises or answers nonsense fails for its reaction and fact alone.
"""

from __future__ import annotations

from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import PoolDispatcher
from seqtor.actors.effects.actor import Told
from seqtor.actors.invariants import require
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.reactor.book import ReactionBook
from seqtor.actors.reactor.deciding import Deciding
from seqtor.actors.reactor.matcher import Matcher
from seqtor.messages.facts import Fact
from seqtor.messages.journal import AppendEntry
from seqtor.messages.lifecycle import ActorCrashed, Drain
from seqtor.messages.reactions import FactsFound, FactsMatched, HoldReactions, MatchFacts, ReactionRecorded

__all__ = ["Reactor"]

BATCH_MAX = 256
CRASHES_MAX = 3


class Reactor(Actor):
    """Owns what is matched now."""

    receives: ClassVar[tuple[type, ...]] = (
        FactsFound, FactsMatched, ReactionRecorded, HoldReactions, Drain, ActorCrashed,
    )  # fmt: skip

    def __init__(
        self,
        deciding: Deciding,
        book: ReactionBook,
        ledger: Ledger,
        pool: PoolDispatcher,
        clock: Clock,
        journal: Mailbox | None,
        sequencer: Mailbox,
        deadline_s: float,
    ) -> None:
        super().__init__()
        self._deciding = deciding
        self._book = book
        self._ledger = ledger
        self._pool = pool
        self._clock = clock
        self._journal = journal
        self._sequencer = sequencer
        self._deadline_s = deadline_s
        self._facts: tuple[Fact, ...] = ()  # Of the batch that a matcher has.
        self._attempt = 0
        self._crashes = 0
        self._excluded: frozenset[tuple[str, str, str]] = frozenset()
        self._matcher = ""
        self._holding = False
        self._drains: list[Any] = []

    def on_start(self) -> None:
        """After a restart: have what was decided recorded once more, or match anew."""
        if self._book.recording is not None:
            self._have_recorded()
        else:
            self._begin()

    def on_facts_found(self, _: FactsFound) -> None:
        if not self._facts and self._book.recording is None:
            self._begin()

    def _begin(self) -> None:
        """Have the oldest facts matched, if there are any."""
        self._facts = () if self._holding else self._book.take(BATCH_MAX)
        self._excluded = frozenset()
        self._crashes = 0
        if self._facts:
            self._have_matched()

    def _have_matched(self) -> None:
        self._attempt += 1
        matcher = Matcher.start_on(
            self._pool, self._deciding, self._pool, self.actor_inbox, self._deadline_s, parent=self.actor_inbox
        )
        self._matcher = matcher.actor_urn
        matcher.tell(
            MatchFacts(
                batch=self._incarnation, attempt=self._attempt, facts=self._facts, half_met=self._book.half_met,
                excluded=self._excluded,
            )
        )  # fmt: skip

    def on_facts_matched(self, message: FactsMatched) -> None:
        if not self._facts or (message.batch, message.attempt) != (self._incarnation, self._attempt):
            return  # Of a matcher that was given up.
        if message.stuck is not None:
            self._excluded |= {message.stuck}
            self._have_matched()
            return
        self._facts = ()
        if self._holding:
            return  # It is matched after the next start.
        self._book.begin(message.decision, self._clock.time(), journaled=self._journal is not None)
        self._have_recorded()

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        """A matcher crashed (a defect of seqtor or of the machine): match again, at most three times."""
        if message.urn == self._matcher and self._facts:
            self._ledger.restarts += 1
            self._crashes += 1
            require(self._crashes < CRASHES_MAX, "a batch of facts can be matched", error=str(message.error))
            self._have_matched()

    def _have_recorded(self) -> None:
        book = self._book
        if self._journal is None:
            self._recorded()
            return
        recorded = ReactionRecorded(number=book.number)
        reply_to = Told(self.actor_inbox, recorded)  # type: ignore[arg-type]
        assert book.recording is not None
        self._journal.tell(AppendEntry(record=book.record, reply_to=reply_to, submission=book.recording.started))

    def on_reaction_recorded(self, message: ReactionRecorded) -> None:
        if self._book.recording is not None and message.number == self._book.number and not self._holding:
            self._recorded()

    def _recorded(self) -> None:
        decision = self._ledger.end_matching(self._sequencer)
        for name, fact, text in decision.failed:
            log = logger.bind(reaction=name, fact=fact, actor="reactor")
            log.warning("the reaction {!r} to {} failed and starts nothing: {}", name, fact, text)
        self._begin()

    # The stop ----------------------------------------------------------------------------------------------------------

    def on_drain(self, message: Drain) -> None:
        self._drains.append(message.reply_to)

    def on_hold_reactions(self, _: HoldReactions) -> None:
        self._holding = True

    def on_batch_end(self) -> None:
        """Once everything is matched, what was started has yet to run: the question goes round once more."""
        if self._drains and (self._holding or not self._book.busy):
            drains, self._drains = self._drains, []
            for reply_to in drains:
                self._sequencer.tell(Drain(reply_to=reply_to))

    def on_stop(self) -> None:
        """Say what is lost."""
        if self._journal is None and self._book.pending:
            logger.bind(actor="reactor").warning(
                "{} facts that no reaction has matched at the stop are lost, there is no journal",
                len(self._book.pending),
            )
