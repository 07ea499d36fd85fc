"""What the journal keeps of reactions: facts that are not matched yet, and what waits in half-met composites.

Owns what a checkpoint has to remember of them, on the journal's thread, and what a start brings back. Promises: a fact is
there from the durable end of its run until the durable record that it is matched, and never again; facts come back in append
order; what happened before its kind was of interest is no fact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from seqtor.actors.journal.chain import Break
from seqtor.actors.reactor.kept import KeptFact, facts_of, recorded, recorded_effect, recorded_facts
from seqtor.messages.records import (
    AcceptedRecord,
    EffectRecord,
    OpenReactions,
    ReactionRecord,
    RecordedFact,
    WaitingRecord,
)
from seqtor.messages.runs import State

if TYPE_CHECKING:
    from seqtor.actors.submissions import Submission
    from seqtor.messages.commits import EndedRun

__all__ = ["KeptReactions", "in_append_order"]


class KeptReactions:
    """The open ends of reactions in one journal. `kinds` of facts are of interest in the records since `epoch`."""

    def __init__(self, kept: OpenReactions | None = None) -> None:
        self.epoch = 0 if kept is None else kept.epoch
        self.kinds: frozenset[str] = frozenset(() if kept is None else kept.kinds)
        self.facts: dict[str, KeptFact] = {} if kept is None else {fact.id: fact for fact in kept.facts}
        self.waiting: dict[tuple[str, str, str], WaitingRecord] = {}
        self.matched: dict[str, int] = {} if kept is None else dict(kept.matched)
        self.now = 0.0 if kept is None else kept.now
        self.number = 0 if kept is None else kept.number
        self._behind: dict[str, RecordedFact] = {}  # Those of records behind the checkpoint, while these are read.
        for each in () if kept is None else kept.waiting:
            self.waiting[each.composite, each.key, each.fact.id] = each

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self.kinds or self.facts or self.waiting or self.number)

    # While records are written -----------------------------------------------------------------------------------------

    def ended(self, ended: EndedRun, at: float) -> None:
        """Note the facts that the end of a run yields; the journal is told of it before its submission is settled."""
        for fact in facts_of(ended.submission, ended.seq, at, self.kinds, ended):
            self.facts[fact.id] = fact

    def ended_without_seq(self, submission: Submission[Any], at: float) -> None:
        """Note the facts that the end of a trigger without a seq yields."""
        for fact in facts_of(submission, None, at, self.kinds):
            self.facts[fact.id] = fact

    def gave_up(self, record: EffectRecord) -> None:
        """Note that an effect was given up."""
        fact = recorded_effect(record, self.kinds)
        if fact is not None:
            self.facts[fact.id] = fact

    def note(self, record: ReactionRecord) -> bool:
        """Note what was decided. False if the record was written twice: the first counts."""
        if record.number <= self.number:
            return False
        self.number = record.number
        self.now = max(self.now, record.now)
        for fact in record.matched:
            known = self.facts.pop(fact, None)
            if known is not None and known.seq is not None:
                self.matched[fact] = known.seq
        for each in record.waiting:
            self.waiting[each.composite, each.key, each.fact.id] = each
        for place in record.gone:
            self.waiting.pop(place, None)
        return True

    def found(self, seq: int) -> KeptReactions:
        """A copy for the checkpoint at `seq`."""
        self.matched = {fact: at for fact, at in self.matched.items() if at > seq}
        copy = KeptReactions()
        copy.epoch, copy.kinds, copy.now, copy.number = self.epoch, self.kinds, self.now, self.number
        copy.facts, copy.waiting, copy.matched = dict(self.facts), dict(self.waiting), dict(self.matched)
        return copy

    def record(self) -> OpenReactions:
        """The same for the checkpoint."""
        facts = [fact if isinstance(fact, RecordedFact) else recorded(fact) for fact in self.facts.values()]
        return OpenReactions(
            epoch=self.epoch, kinds=sorted(self.kinds), facts=facts, waiting=list(self.waiting.values()),
            matched=list(self.matched.items()), now=self.now, number=self.number,
        )  # fmt: skip

    # While a journal is read -------------------------------------------------------------------------------------------

    def read_commit(self, record: dict[str, Any]) -> None:
        """Take the facts of a commit's record (as parsed JSON) behind the checkpoint."""
        if self.kinds and record["epoch"] >= self.epoch:
            for fact in recorded_facts(record, self.kinds):
                if fact.id not in self.matched and fact.id not in self.facts:
                    self._behind[fact.id] = fact

    def read_ended(self, accepted: AcceptedRecord, state: State, at: float) -> None:
        """Take the fact that an accepted trigger has ended without a seq."""
        trigger = accepted.trigger
        if f"status {state.value} {trigger.type}" in self.kinds:
            fact = RecordedFact(
                kind="status", id=f"{accepted.run}/{state.value}", at=at, seq=None, name=trigger.type, run=accepted.run,
                version=trigger.version, payload=trigger.payload, state=state,
            )  # fmt: skip
            self.facts.setdefault(fact.id, fact)

    def read_all(self, breaks: Sequence[Break]) -> None:
        """All commits are read: what they yield comes behind what the checkpoint had, in append order."""
        behind, self._behind = self._behind, {}
        order = in_append_order([fact.seq or 0 for fact in behind.values()], breaks)
        for fact in sorted(behind.values(), key=lambda fact: order[fact.seq or 0]):
            self.facts[fact.id] = fact

    def watch(self, kinds: Collection[str], epoch: int) -> bool:
        """From here on these kinds are of interest. True if they are others than before: a checkpoint has to say so.

        What happened before stays what it was: nothing, or a fact that has yet to be matched.
        """
        if frozenset(kinds) == self.kinds:
            return False
        self.kinds, self.epoch = frozenset(kinds), epoch
        return True


def in_append_order(seqs: Iterable[int], breaks: Sequence[Break]) -> dict[int, tuple[int, int]]:
    """A place in the append order for each seq; `breaks` say where that is not the order of the seqs."""
    starts = sorted({each.seq for each in breaks} | {0})
    follows = {each.after: each.seq for each in breaks}

    def start_of(seq: int) -> int:
        return starts[bisect_right(starts, seq) - 1]

    after = {start_of(last): start for last, start in follows.items()}
    ranks: dict[int, int] = {}
    for head in [start for start in starts if start not in after.values()]:
        stretch: int | None = head
        while stretch is not None and stretch not in ranks:
            ranks[stretch] = len(ranks)
            stretch = after.get(stretch)
    return {seq: (ranks.get(start_of(seq), len(ranks)), seq) for seq in seqs}
