"""What is in the journal and has not ended yet: accepted triggers, answers of calls, effects.

Owns what a checkpoint has to remember beside the stores, so that what lies before it need not be read again. Pure; on
the journal's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from seqtor.actors.journal.encoding import dead_run_record
from seqtor.actors.journal.kept_reactions import KeptReactions
from seqtor.messages.journal import OpenWorkFound
from seqtor.messages.records import (
    CallRecord,
    DeadRunRecord,
    EffectRecord,
    OpenEffect,
    ReactionRecord,
    SequencedRecord,
)
from seqtor.messages.runs import State

if TYPE_CHECKING:
    from seqtor.actors.journal.chain import Links
    from seqtor.actors.submissions import Submission
    from seqtor.messages.commits import EndedRun

__all__ = ["DEAD_LETTERS_MAX", "DEAD_STATES", "OpenRuns", "forget_oldest"]

DEAD_LETTERS_MAX = 10_000  # Of runs, and of effects.
DEAD_STATES = frozenset({State.FAILED, State.DEADLINE})


class OpenRuns:
    """The open ends of the journal, by run id, and by (seq, index) for effects."""

    def __init__(
        self,
        submissions: Iterable[Submission[Any]] = (),
        calls: Iterable[CallRecord] = (),
        effects: Iterable[OpenEffect] = (),
        dead: Iterable[EffectRecord] = (),
        dead_runs: Iterable[DeadRunRecord] = (),
        resubmitted: Mapping[str, str] | None = None,
        sequenced: Iterable[SequencedRecord] = (),
        ended: Iterable[tuple[str, int]] = (),
        reactions: KeptReactions | None = None,
        closed: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.submissions: dict[str, Submission[Any]] = {each.id: each for each in submissions}
        self.calls: dict[str, list[CallRecord]] = {}
        for call in calls:
            self.calls.setdefault(call.run, []).append(call)
        self.effects: dict[tuple[int, int], OpenEffect] = {(each.seq, each.index): each for each in effects}
        self.dead: deque[EffectRecord] = deque(dead, maxlen=DEAD_LETTERS_MAX)
        self.dead_runs: deque[DeadRunRecord] = deque(dead_runs, maxlen=DEAD_LETTERS_MAX)
        self.resubmitted: dict[str, str] = dict(resubmitted or {})  # By the place of a dead letter: the run id.
        self.sequenced: dict[int, SequencedRecord] = {each.seq: each for each in sequenced}  # Overtaken, by seq.
        # Runs that ended without a seq, each with a seq behind all commits that may have submitted it.
        self._ended_without_seq: dict[str, int] = dict(ended)
        self.reactions = reactions or KeptReactions()
        self._closed = set(closed)  # Effects that have ended, of commits behind the last checkpoint.

    def ended(self, ended: EndedRun, ended_at: float) -> None:
        """Note the end of a run, which closes its own entries and opens those of what it released."""
        if ended.state is State.DEFERRED:  # Its seq has ended, and it goes on with its calls.
            self.submissions[ended.submission.id] = ended.released.deferred  # type: ignore[union-attr]
            return
        if self.calls:
            self.calls.pop(ended.submission.id, None)
        if self.sequenced:
            self.sequenced.pop(ended.seq, None)
        if ended.state in DEAD_STATES:
            self.dead_runs.append(dead_run_record(ended, ended_at))
        released = ended.released
        if released is None:
            return
        if released.retry is not None:
            self.submissions[released.retry.id] = released.retry
        if ended.state is State.COMMITTED:
            for submission in released.submissions:
                self.submissions[submission.id] = submission
            for index, effect in enumerate(released.effects):
                self.effects[ended.seq, index] = OpenEffect(seq=ended.seq, index=index, effect=effect)

    def ended_without_seq(self, submission: Submission[Any], through: int, ended_at: float) -> None:
        """Note that an accepted trigger has ended and will have no seq; the journal holds the seqs up to `through`."""
        self.reactions.ended_without_seq(submission, ended_at)
        self.submissions.pop(submission.id, None)
        self.calls.pop(submission.id, None)
        self._ended_without_seq[submission.id] = through

    def resubmits(self, submission: Submission[Any]) -> None:
        """Note that a run is another try of a dead letter, if it is; only when that is written."""
        origin = submission.origin
        if origin is not None and origin.resubmits is not None:
            self.resubmitted[origin.resubmits] = submission.id
            forget_oldest(self.resubmitted)

    def noted(self, record: CallRecord | EffectRecord | ReactionRecord, submission: Any = None) -> tuple[str, str]:
        """Note a call, the end of an effect with what it submitted, or what reactions have started; returns the kind and the
        reference of its entry.

        Only when the entry is written: a checkpoint made before must not know what a crash may still undo.
        """
        if isinstance(record, CallRecord):
            if record.run in self.submissions:  # Else its run has ended meanwhile.
                self.calls.setdefault(record.run, []).append(record)
            return "call", record.run
        if isinstance(record, ReactionRecord):
            if self.reactions.note(record):
                self.submissions.update((started.id, started) for started in submission)
            return "reaction", str(record.number)
        ref = f"{record.seq}.{record.index}"
        if self.effects.pop((record.seq, record.index), None) is None:
            return "effect", ref  # Written twice: the first counts.
        self._closed.add((record.seq, record.index))
        if record.error is not None:
            self.dead.append(record)
            self.reactions.gave_up(record)
        if submission is not None:
            self.submissions[submission.id] = submission
        return "effect", ref

    def found(self, seq: int, chain: bytes, links: Links, entries_through: int) -> OpenWorkFound:
        """A copy for the checkpoint at `seq`."""
        self._closed = {closed for closed in self._closed if closed[0] > seq}
        ended = self._ended_without_seq
        self._ended_without_seq = {run: through for run, through in ended.items() if through > seq}
        return OpenWorkFound(
            chain=chain,
            links=links,
            entries_through=entries_through,
            submissions=tuple(self.submissions.values()),
            calls=tuple(call for calls in self.calls.values() for call in calls),
            effects=tuple(each for each in self.effects.values() if each.seq <= seq),
            closed=tuple(sorted(self._closed)),
            ended=tuple(self._ended_without_seq),
            dead=tuple(self.dead),
            dead_runs=tuple(each for each in self.dead_runs if each.seq <= seq),
            resubmitted=tuple(self.resubmitted.items()),
            sequenced=tuple(self.sequenced.values()),
            reactions=None if self.reactions.is_empty else self.reactions.found(seq),
        )


def forget_oldest(resubmitted: dict[str, str]) -> None:
    """Keep no more resubmissions than there can be dead letters, of both kinds."""
    if len(resubmitted) > 2 * DEAD_LETTERS_MAX:
        del resubmitted[next(iter(resubmitted))]
