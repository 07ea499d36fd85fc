"""What the reactor has decided, and what it has yet to match: outside of it, as the ledger is outside of the core.

Owns the facts that are not matched yet, the half-met composites, the decision that is being recorded, and what became of the
newest facts. Written on the core only; read from anywhere. Promises: each method leaves it whole.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from seqtor.actors.journal.encoding import accepted_text
from seqtor.actors.reactor.deciding import Decision, Link
from seqtor.actors.reactor.kept import facts_of, recorded
from seqtor.actors.reactor.matching import HalfMet
from seqtor.actors.reactor.reactions import Reactions
from seqtor.messages.facts import Fact
from seqtor.messages.reactions import FactsFound
from seqtor.messages.records import AcceptedRecord, ReactionLink, ReactionRecord, WaitingRecord

if TYPE_CHECKING:
    from seqtor.actors.mailbox import Mailbox
    from seqtor.actors.submissions import Submission

__all__ = ["ReactionBook"]

FAILURES_MAX = 1000


class ReactionBook:
    """The books of the reactions of one system."""

    def __init__(self, reactions: Reactions, kinds: frozenset[str], links_max: int) -> None:
        self.reactions = reactions
        self.kinds = kinds
        self.pending: dict[str, Fact] = {}  # By id, in append order.
        self.half_met = HalfMet()
        self.recording: Decision | None = None
        self.record: ReactionRecord | None = None  # Of it, with a journal.
        self.number = 0  # Of the newest record.
        self.links: dict[str, Link] = {}  # What became of the newest facts, by id.
        self.started: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.failures: deque[tuple[str, str, str]] = deque(maxlen=FAILURES_MAX)
        self.left: tuple[WaitingRecord, ...] = ()  # Waits for reactions that the program does not register.
        self._links_max = links_max
        self._told = False
        self._open = False
        self.reactor: Mailbox

    def open(self) -> None:
        """Let facts be matched from here on: what the journal has left open is queued.

        What a decision starts before that would be queued twice, once as something that is found in the journal.
        """
        self._open = True
        self.reactor.tell(FactsFound())

    def note(self, submission: Submission[Any], seq: int | None, at: float) -> None:
        """A trigger has ended durably: let the reactor know, if somebody is interested."""
        found = facts_of(submission, seq, at, self.kinds)
        if found:
            self.add(found)

    def add(self, facts: Iterable[Fact]) -> None:
        """Facts are durable."""
        self.pending.update((fact.id, fact) for fact in facts)
        if not self._told:
            self._told = True
            self.reactor.tell(FactsFound())

    def take(self, count: int) -> tuple[Fact, ...]:
        """The oldest facts that are not matched, once it is open; they stay until what follows from them is recorded."""
        self._told = False
        return tuple(islice(self.pending.values(), count)) if self._open else ()

    @property
    def busy(self) -> bool:
        """Whether something has yet to be matched, or to be recorded."""
        return bool(self.pending) or self.recording is not None

    def begin(self, decision: Decision, at: float, *, journaled: bool) -> None:
        """Note a decision: from here on it is this one that is recorded, whatever crashes."""
        self.number += 1
        self.record = _record_of(decision, self.number, at) if journaled else None
        self.recording = decision

    def finish(self) -> Decision:
        """Note that the decision is recorded; the caller accepts what it starts."""
        decision, self.recording, self.record = self.recording, None, None
        assert decision is not None
        for fact in decision.facts:
            self.pending.pop(fact.id, None)
        self.half_met = decision.half_met
        for name, link in decision.links.items():  # One that had waited has met a reaction before.
            self.links[name] = link.after(self.links.get(name))
        while len(self.links) > self._links_max:
            del self.links[next(iter(self.links))]
        self.started.update(decision.by)
        self.failed.update(name for name, _, _ in decision.failed)
        self.failures.extend(decision.failed)
        return decision


def _record_of(decision: Decision, number: int, at: float) -> ReactionRecord:
    return ReactionRecord(
        number=number,
        at=at,
        matched=[fact.id for fact in decision.facts],
        now=decision.half_met.now,
        started=[AcceptedRecord.model_validate_json(accepted_text(each)) for each in decision.started],
        waiting=[
            WaitingRecord(
                composite=composite, key=key, part=part, at=waiting.at, conditions=list(waiting.conditions),
                fact=recorded(waiting.fact),
            )
            for composite, key, part, waiting in decision.waiting
        ],
        gone=list(decision.gone),
        links=[
            ReactionLink(fact=fact, matched=list(link.matched), started=list(link.started))
            for fact, link in decision.links.items()
        ],
        failed=list(decision.failed),
    )  # fmt: skip
