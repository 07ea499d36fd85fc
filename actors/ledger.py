"""What the actors of the core have decided, kept outside of them: from it they are rebuilt when one of them crashes.

Owns what was told to the journal, what has yet to be answered, the record of every run, and the counters. Written on the
core only, by one actor at a time. Promises: each method leaves it whole, so an actor that crashes between two of them has
told everything of a decision or nothing; doing the rest of a decision once more changes nothing. Must never hold what the
actors can derive: the queue, the window and the commit order are built anew.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seqtor.messages.runs import AcceptTriggers, RunsEnded, State

if TYPE_CHECKING:
    from seqtor.actors.calls import Resumed
    from seqtor.actors.dead_letters import DeadLetters
    from seqtor.actors.last_writers import LastWriters
    from seqtor.actors.mailbox import Mailbox
    from seqtor.actors.publications import Publication
    from seqtor.actors.reactor.book import ReactionBook
    from seqtor.actors.reactor.deciding import Decision
    from seqtor.actors.stores.outside import Backlog
    from seqtor.actors.submissions import Submission
    from seqtor.actors.waiting_room import WaitingRoom
    from seqtor.messages.commits import EndedRun
    from seqtor.messages.facts import Fact
    from seqtor.messages.records import RecordedEffect

__all__ = ["Counted", "Ledger", "Told"]


class Told(NamedTuple):
    """How far the journal was told: the publication, the last seq that changed each store, and the newest message."""

    publication: Publication
    store_seqs: tuple[int, ...]
    message: RunsEnded | None

    @property
    def through(self) -> int:
        """Up to this seq all have ended for good."""
        return self.publication.seq

    @property
    def ended(self) -> int:
        """How many have ended for good: those, and the ones that have overtaken."""
        return self.publication.count


class Ending(NamedTuple):
    """An accepted trigger that ends without a seq: when that was decided, and who waits until it is durable."""

    ended_at: float
    askers: list[Any]


class Counted(NamedTuple):
    """What has been counted of the first `ended` runs to end; all of those through `through` are among them."""

    through: int
    ended: int
    states: Mapping[State, int] = {}
    executions: int = 0
    wasted: int = 0
    conflicts: int = 0


class Ledger:
    """The books of one system, from the publication with which it starts."""

    __slots__ = (
        "aborting", "asked", "awaited", "awaited_counts", "backlog", "carried", "causes", "counted", "dead_letters",
        "durable_count", "durable_through", "ending", "epoch", "hot_keys", "journal_restarts", "last_writers", "now",
        "open_effects", "pairs", "reactions", "released", "restarts", "resumed", "runs", "to_wake", "told",
        "undurable", "unsettled", "waiting_room",
    )  # fmt: skip

    def __init__(self, publication: Publication, epoch: int, now: float) -> None:
        through = publication.seq
        self.epoch = epoch
        self.now = now  # The newest `tx.now`, POSIX seconds.
        self.told = Told(publication, (through,) * len(publication.states), None)
        self.unsettled: deque[RunsEnded] = deque()  # Decided; the coordinator has yet to hear of it.
        self.undurable: deque[EndedRun] = deque()  # Settled; answered and released when they are durable.
        self.durable_through = through
        self.durable_count = publication.count  # With those that have overtaken.
        self.runs: dict[int, Submission[Any]] = {}  # The newest runs by seq, for their records.
        self.causes: dict[int, tuple[str, ...]] = {}  # The runs that a commit submitted.
        self.counted = Counted(through, publication.count)
        self.hot_keys: Counter[tuple[str, str]] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.resumed: dict[str, Resumed] = {}  # By run id, what runs go on with that had made calls before the start.
        self.open_effects: dict[int, dict[int, RecordedEffect]] = {}  # By seq, in their order, and index.
        self.reactions: ReactionBook | None = None  # None if there are none.
        self.backlog: Backlog | None = None  # None if no store writes outside.
        self.released = False  # Something was accepted that a run or an effect had submitted; a drain looks once more.
        self.carried: set[int] = set()  # Seqs whose effects have been open, of runs that may yet be released once more.
        self.asked = itertools.count()
        self.awaited: list[tuple[int, int, Any]] = []  # (seq, order of asking, future), the lowest seq first.
        self.ending: dict[Submission[Any], Ending] = {}  # Decided; not answered yet, because it may not be durable.
        self.awaited_counts: list[tuple[int, int, Any]] = []  # The same by how many have to be durable.
        self.aborting: dict[int, str] = {}  # The un-ended runs that are to end as aborted, with the reasons.
        self.last_writers: LastWriters | None = None
        self.dead_letters: DeadLetters
        self.waiting_room: WaitingRoom
        self.to_wake: list[Callable[[], None]] = []  # Those whose runs have been answered, and who sleep.
        self.restarts = 0
        self.journal_restarts = 0  # After one, answers of calls may be lost that were on their way to the disk.

    def tell(self, message: RunsEnded, publication: Publication, store_seqs: tuple[int, ...]) -> None:
        """Note what the journal is told next: from here on these runs have ended, whatever crashes.

        `publication` is what they have made visible.
        """
        self.unsettled.append(message)
        self.told = Told(publication, store_seqs, message)
        if self.last_writers is not None:
            self.last_writers.settle()

    def begin_end(
        self, submission: Submission[Any], state: State, make_error: Callable[[], BaseException], ended_at: float
    ) -> None:
        """Note that an accepted trigger ends without a seq: from here on it is never given one, whatever crashes."""
        self.ending[submission] = Ending(ended_at, [])
        submission.settle(state, make_error)

    def finish_end(self, submission: Submission[Any]) -> None:
        """Note that it has ended, is answered and is counted."""
        ending = self.ending.pop(submission)
        if self.reactions is not None:
            self.reactions.note(submission, None, ending.ended_at)
        states = Counter(self.counted.states)
        states[submission.ended_as] += 1  # type: ignore[index]  # It was settled when that was decided.
        self.counted = self.counted._replace(states=states)

    def wake(self) -> None:
        """Wake everyone whose run has been answered; who is woken may run at once, in the place of the caller."""
        to_wake, self.to_wake = self.to_wake, []
        for wake in to_wake:
            wake()

    def become_durable(self, through: int, count: int) -> None:
        """Note how far everything is on disk. Twice, or late: the newest counts."""
        self.durable_through = max(self.durable_through, through)
        self.durable_count = max(self.durable_count, count)

    def settle(self, counted: Counted, *, durable: bool) -> None:
        """Note that the oldest message is settled: all its runs have an outcome, a record and a place in the counts."""
        message = self.unsettled.popleft()
        self.counted = counted
        if durable:
            self.carried.clear()
            if self.backlog is not None:
                for ended in message.runs:
                    self.backlog.note(ended)
            if self.reactions is not None:
                for ended in message.runs:
                    self.reactions.note(ended.submission, ended.seq, message.ended_at)
        else:
            self.undurable.extend(message.runs)

    def answered(self) -> None:
        """Note that the oldest run that is durable was answered and released."""
        ended = self.undurable.popleft()
        if self.carried:
            self.carried.clear()
        if self.backlog is not None:
            self.backlog.note(ended)
        if self.reactions is not None:
            self.reactions.note(ended.submission, ended.seq, ended.submission.ended_at)

    def open_effects_of(self, seq: int, effects: Sequence[RecordedEffect]) -> None:
        """Note the effects that a commit has released. Twice: the first counts, also when they have ended."""
        if seq not in self.carried:
            self.carried.add(seq)
            self.open_effects[seq] = dict(enumerate(effects))

    def end_effect(
        self, seq: int, index: int, submission: Submission[Any] | None, sequencer: Mailbox, failure: Fact | None = None
    ) -> None:
        """Note the end of an effect, accept what it returned, if anything, and have reactions look at its failure.

        Twice: the second changes nothing.
        """
        left = self.open_effects.get(seq, {})
        if left.pop(index, None) is None:
            return
        if not left:
            del self.open_effects[seq]
        if failure is not None and self.reactions is not None:
            self.reactions.add((failure,))
        if submission is not None:
            self._accept((submission,), sequencer)

    def end_matching(self, sequencer: Mailbox) -> Decision:
        """Note that what the reactor decided is recorded, and accept what it starts."""
        assert self.reactions is not None
        decision = self.reactions.finish()
        for fact in decision.facts:
            link = decision.links.get(fact.id)
            if link is not None and link.started and fact.seq in self.runs:
                self.causes[fact.seq] = (*self.causes.get(fact.seq, ()), *link.started)
        if decision.started:
            self._accept(decision.started, sequencer)
        return decision

    def _accept(self, submissions: tuple[Submission[Any], ...], sequencer: Mailbox) -> None:
        self.released = True
        for submission in submissions:
            submission._intake.open[submission] = None
        sequencer.tell(AcceptTriggers(submissions=submissions, bypasses=True))
