"""`watch`: notes what a system does, for the checkers.

Owns the notes: everything that a checker can judge, in the order in which it happened, across the processes that live one
after another on one journal. Promises: the system does the same as without; a note costs one append to a list, and nothing
is judged before somebody asks. Must never look into what an actor owns while it runs.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple, cast

from seqtor.actors.committer import CommitOrder
from seqtor.actors.committer.history import Change
from seqtor.actors.journal.contract import Backend, Group, Opened
from seqtor.actors.publications import Publication
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Submission
from seqtor.around import Watcher
from seqtor.messages.commits import CommitRun
from seqtor.messages.runs import AttemptConflict, RunsEnded, State
from seqtor.messages.stores import StoreAccess
from seqtor.system import Supervisor

__all__ = ["Accepted", "Answered", "Appended", "Began", "Conflicted", "EffectBegan", "Intent", "Life", "OpenedJournal",
           "OrderBegan", "RunsTold"]  # fmt: skip


class Life(Watcher):
    """What one process does, from its start on; `notes` are shared with those before it."""

    def __init__(self, number: int, notes: list[Any], system: Supervisor) -> None:
        self.number = number
        self.notes = notes
        self.system = system
        self.stores: Sequence[StoreRef[Any]] = ()
        self.first: Publication | None = None
        self.is_journaled = False
        self.epoch = 0  # Of the commit path.

    def backend(self, backend: Backend) -> Backend:
        return cast("Backend", WatchedBackend(backend, self))  # All else is the backend's.

    def open_submissions(self) -> dict[Submission[Any], None]:
        return WatchedSubmissions(self)

    def began(self, stores: Sequence[StoreRef[Any]], first: Publication, *, journaled: bool) -> None:
        self.stores, self.first, self.is_journaled = stores, first, journaled
        self.notes.append(Began(self, first.seq))

    def order(self, order: CommitOrder) -> None:
        """Note what the order takes, from here on."""
        self.epoch = order.epoch
        self.notes.append(OrderBegan(self, order.epoch))
        offer, conflict = order.offer, order._conflict

        def offered(intent: CommitRun) -> Any:
            return self._taken(intent, order, offer(intent))

        def conflicted(intent: CommitRun, change: Change, **how: Any) -> None:
            name = next((ref.name for ref in self.stores if ref.index == change.store), "*")
            found = AttemptConflict(intent.attempt, name, change.key, change.writer_seq)
            self.notes.append(Conflicted(self, intent.seq, found))
            conflict(intent, change, **how)

        vars(order)["offer"] = offered  # Whatever else takes intents calls it.
        vars(order)["_conflict"] = conflicted

    def _taken(self, intent: CommitRun, order: CommitOrder, refusal: object) -> object:
        if refusal is None:
            note = Intent(
                self, intent.seq, intent.attempt, intent.epoch, self.epoch if order.epoch == self.epoch else -1,
                intent.snapshot_seq, intent.seen, intent.accesses, intent.outcome, intent.submission,
            )  # fmt: skip
            self.notes.append(note)
        return refusal

    def ended(self, message: RunsEnded) -> None:
        self.notes.append(RunsTold(self, message))

    def effect(self, seq: int, index: int) -> None:
        self.notes.append(EffectBegan(self, seq, index))


class Began(NamedTuple):
    """A process has begun behind `seq`."""

    life: Life
    seq: int


class OrderBegan(NamedTuple):
    """An epoch of the commit path has begun."""

    life: Life
    epoch: int


class Accepted(NamedTuple):
    """A trigger was handed in, or one that was accepted before is open again."""

    life: Life
    submission: Submission[Any]
    run: str


class Answered(NamedTuple):
    """A caller was told how a run has ended, which had this seq."""

    life: Life
    submission: Submission[Any]
    run: str
    state: State
    seq: int | None


class Intent(NamedTuple):
    """The committer has taken the intent of an attempt, made in `epoch`, while `epoch_live` was the live one."""

    life: Life
    seq: int
    attempt: int
    epoch: int
    epoch_live: int
    snapshot_seq: int
    seen: Container[int]
    accesses: tuple[StoreAccess, ...]
    outcome: State
    submission: Submission[Any]


class Conflicted(NamedTuple):
    """The committer has found that something which an attempt has read has changed: the run executes again.

    Noted before the intent of that attempt, if it is found when that arrives.
    """

    life: Life
    seq: int
    conflict: AttemptConflict


class RunsTold(NamedTuple):
    """The committer has told how runs have ended."""

    life: Life
    message: RunsEnded


class OpenedJournal(NamedTuple):
    """The journal was opened for writing."""

    life: Life
    opened: Opened


class Appended(NamedTuple):
    """A group is durable."""

    life: Life
    group: Group


class EffectBegan(NamedTuple):
    """An effect's function is called."""

    life: Life
    seq: int
    number: int


class WatchedSubmissions(dict[Submission[Any], None]):
    """The open submissions of a life: who comes was accepted, who goes with a state was answered."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life

    def __setitem__(self, submission: Submission[Any], _: None) -> None:
        super().__setitem__(submission, None)
        self._life.notes.append(Accepted(self._life, submission, submission.id))

    def update(self, submissions: Any) -> None:
        for submission in submissions:
            self[submission] = None

    def pop(self, submission: Submission[Any], *default: Any) -> None:
        super().pop(submission, *default)
        state = submission._state
        if state is not None:
            life = self._life
            life.notes.append(Answered(life, submission, submission.id, state, submission.seq))


class WatchedBackend:
    """A backend that tells what has become durable."""

    def __init__(self, backend: Backend, life: Life) -> None:
        self._backend = backend
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open(self, *, write: bool = True) -> Opened:
        """As the backend."""
        opened = self._backend.open(write=write)
        if write:
            self._life.notes.append(OpenedJournal(self._life, opened))
        return opened

    def append(self, group: Group) -> None:
        """As the backend."""
        self._backend.append(group)
        self._life.notes.append(Appended(self._life, group))
