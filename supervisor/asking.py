"""What is asked of the actors of the core: figures, records, an abort, whether something is durable.

Owns the asking, which outlives crashes: an actor that crashes at a question is asked again, and what one that has ended knew
last is read where it lies. Called at the edge, where waiting is allowed.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from pykka import ActorDeadError

from seqtor.actors.committer import Committer
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.sequencer import Sequencer
from seqtor.actors.submissions import Submission
from seqtor.commit_path import CommitPath
from seqtor.messages.errors import NotRunning, OutcomeUnknown
from seqtor.messages.journal import AwaitDurable
from seqtor.messages.runs import (
    AbortRun,
    CancelTrigger,
    ConflictReport,
    GetConflicts,
    GetRecord,
    GetRuns,
    GetStats,
    RunRecord,
    Stats,
)

__all__ = ["Asking"]

TRIES = 10
ANSWERS = (ActorDeadError, NotRunning, OutcomeUnknown)


class Asking:
    """Asks the actors of one running system; `why_closed` says why they may be gone."""

    def __init__(self, path: CommitPath, dispatchers: Dispatchers, why_closed: Callable[[], str]) -> None:
        self._path = path
        self._dispatchers = dispatchers
        self._why_closed = why_closed
        self.at_rest = threading.Lock()  # For the coordinator's state once no dispatcher runs it any more.

    def stats(self) -> Stats:
        """A consistent cut along the path of a run."""
        return self._ask([self._path.sequencer, self._path.committer], GetStats(reply_to=None))  # type: ignore[no-any-return]

    def record(self, seq: int) -> RunRecord | None:
        """What is known of the run at a seq."""
        return self._ask([self._path.committer], GetRecord(reply_to=None, seq=seq))  # type: ignore[no-any-return]

    def runs(self, before: int | None, count: int) -> tuple[RunRecord, ...]:
        """What the coordinator knows of the `count` runs below `before` (None: of the newest), newest first."""
        return self._ask([self._path.committer], GetRuns(reply_to=None, before=before, count=count))  # type: ignore[no-any-return]

    def conflicts(self) -> ConflictReport:
        """Where re-execution comes from."""
        return self._ask([self._path.committer], GetConflicts(reply_to=None))  # type: ignore[no-any-return]

    def abort(self, seq: int, reason: str) -> None:
        """Have the run at a seq end as aborted. Raises LookupError if there is none or it has ended, NotRunning."""
        try:
            self.reply_of(self._path.coordinator, AbortRun(seq=seq, reason=reason, reply_to=None), tries=1)
        except ActorDeadError:
            raise NotRunning(f"the run at seq {seq} cannot be aborted: {self._why_closed()}") from None

    def cancel(self, submission: Submission[Any]) -> bool:
        """Have a trigger never run, unless it has a seq. The caller's thread waits until that is durable."""
        try:
            return bool(self.reply_of(self._path.coordinator, CancelTrigger(submission=submission, reply_to=None)))
        except ActorDeadError:
            return False  # The system has stopped: with a journal it runs after the next start.

    def await_durable(self, seq: int, timeout_s: float | None = None) -> None:
        """Wait until everything through `seq` is durable and can be seen in snapshots. Raises pykka.Timeout."""
        self.reply_of(self._path.coordinator, AwaitDurable(seq=seq, reply_to=None), timeout_s)

    def _ask(self, along: list[Sequencer | Committer], query: Any) -> Any:
        """Send a query along the actors that add to it, and on to the coordinator, which answers.

        Of one that has ended, by the stop or by a crash, what it knew last is read where it lies.
        """
        for actor in along:
            try:
                return self.reply_of(actor, query)
            except ActorDeadError:
                query = actor.add_to(query)
        try:
            return self.reply_of(self._path.coordinator, query)
        except ActorDeadError:
            with self.at_rest:
                return self._path.coordinator.answer(query)

    def reply_of(self, actor: Any, query: Any, timeout_s: float | None = None, tries: int = TRIES) -> Any:
        """What the actor answers; asked again if it crashes at the query, because it is there again at once."""
        while True:
            reply = ReplyFuture()
            reply.driver = self._dispatchers.driver
            actor.actor_inbox.tell(dataclasses.replace(query, reply_to=reply))
            try:
                return reply.get(timeout=timeout_s)
            except ANSWERS:
                raise
            except BaseException:
                tries -= 1
                if not tries or not reply.is_set():
                    raise  # It crashes every time; or this is the caller's own, such as Ctrl-C.
