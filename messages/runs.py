"""The life of a run as messages: accepted, sequenced, executed, conflicted, ended; and what can be asked about it."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from seqtor.messages.message import message
from seqtor.messages.triggers import Trigger

__all__ = [
    "AbortRun",
    "AcceptTriggers",
    "AttemptConflict",
    "CancelTrigger",
    "ConflictReport",
    "ExecuteRun",
    "GetConflicts",
    "GetRecord",
    "GetRuns",
    "GetStats",
    "HotKey",
    "LookAtHead",
    "Pair",
    "ReplaceRun",
    "RunConflicted",
    "RunRecord",
    "RunsEnded",
    "RunsResumed",
    "RunsSequenced",
    "State",
    "Stats",
    "TokenDue",
    "TriggersDelayed",
    "TriggersEnded",
    "Wait",
    "WaitOver",
]


class State(enum.StrEnum):
    """Where a trigger is in its life; from `committed` on it is how the run ended."""

    QUEUED = "queued"
    RUNNING = "running"
    DEFERRED = "deferred"
    COMMITTED = "committed"
    REJECTED = "rejected"
    RETRYING = "retrying"
    FAILED = "failed"
    DEADLINE = "deadline"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
    COALESCED = "coalesced"


@message
class AcceptTriggers:
    """From: the edge (`submit`), coordinator (what a commit submitted). To: sequencer.

    Answer: none here; each submission is answered by its run's end. `bypasses`: they count as queued, but the edge has
    not counted them. Twice: would run the triggers twice; each is sent once.
    """

    submissions: tuple[Any, ...]
    bypasses: bool = False


@message
class TriggersDelayed:
    """From: the edge (`submit` with `delay=` or `at=`). To: coordinator, which lets them wait. Answer: none.

    Twice: would run those twice whose time has come; each is sent once.
    """

    submissions: tuple[Any, ...]


@message
class WaitOver:
    """From: the waiting room, by a timer. To: coordinator, which hands on to the sequencer whose time has come.

    That of a retry is the end of its backoff, that of a delayed trigger was given with it. Answer: none. Twice: the second
    finds nobody.
    """


@message
class LookAtHead:
    """From: the watch over the head, by a timer. To: coordinator. Answer: none. Twice: looked at twice."""


@message
class TokenDue:
    """From: sequencer, by a timer. To: sequencer. Answer: none; a type that had used up its rate may go on.

    Twice: the second finds nothing to do.
    """


@message
class CancelTrigger:
    """From: the edge. To: coordinator, which passes it on behind all that it has told the sequencer.

    Answer: True once it is durable that the trigger will never run; False if it has a seq. Twice: the same answer.
    """

    submission: Any
    reply_to: Any


@message
class TriggersEnded:
    """From: journal; in memory, sequencer. To: coordinator. Answer: none; these ended without a seq, and that is durable.

    Twice: the second is ignored.
    """

    submissions: tuple[Any, ...]


@message
class RunsResumed:
    """From: the start. To: coordinator. Answer: none; runs of an earlier process execute again, under the seqs they have.

    Lower runs that were overtaken; in seq order, before any other run. Twice: would execute them twice; it is sent once.
    """

    submissions: tuple[Any, ...]


@message
class RunsSequenced:
    """From: sequencer. To: coordinator. Answer: none. Twice: a seq that is known already is a broken invariant.

    The submissions have the seqs from `first_seq` on, in their order; `sequenced_at` is POSIX seconds and never
    decreases along the order. It is their `tx.now`, unless they asked outside in an earlier process: these keep theirs.
    """

    first_seq: int
    submissions: tuple[Any, ...]
    sequenced_at: float


@message
class ExecuteRun:
    """From: coordinator, at creation. To: a run actor. Answer: `CommitRun` to the committer. Twice: fenced there."""

    attempt: int


class AttemptConflict(NamedTuple):
    """What made one attempt execute again: a key (or range) of a store that a lower seq had written meanwhile."""

    attempt: int
    store: str
    key: str
    writer_seq: int | None


@message
class RunConflicted:
    """From: committer. To: a run actor. Answer: `CommitRun` of the next attempt, with the same seq.

    Sent when everything the run waited for has ended. Twice: the second is ignored (its attempt is not the next).
    """

    seq: int
    attempt: int


@message
class ReplaceRun:
    """From: committer. To: coordinator. Answer: none; a new run actor executes `attempt` in place of a stuck one.

    Twice: the second actor's intent is fenced.
    """

    seq: int
    attempt: int


@message
class RunsEnded:
    """From: committer. To: journal (first), coordinator (records, answers) and sequencer (free slots).

    `runs` are `EndedRun`s in append order; `ended_at` is POSIX seconds. With them `count` runs have ended, all of those
    up to `through` and some above it, which have overtaken; `overtaken` are the runs below those that have not ended:
    their seqs and submissions. (A journal that is restarted counts for itself.) Answer: none here; `RunsDurable` from
    the journal to the coordinator. Twice: the second is ignored.
    """

    runs: tuple[Any, ...]
    ended_at: float
    through: int = 0
    count: int = 0
    overtaken: tuple[tuple[int, Any], ...] = ()


@message
class AbortRun:
    """From: the edge. To: coordinator, which adds the submission and passes it to the committer.

    Answer: None once the run will end as aborted, at its turn; LookupError if it has ended or never was.
    Twice: the first reason counts, both are answered.
    """

    seq: int
    reason: str
    reply_to: Any
    submission: Any = None


@message
class GetStats:
    """From: the edge. To: sequencer, which passes it on to the committer and the coordinator. Answer: `Stats`.

    Passing it along the path of a run gives one consistent cut. Twice: two answers.
    """

    reply_to: Any
    queued: int = 0
    current_seq: int = 0
    pending_commits: int = 0
    committed_through: int = 0
    conflicts_in_flight: int = 0
    restarts: int = 0
    outside: int = 0
    now: float = 0.0


@message
class GetRecord:
    """From: the edge. To: committer, which adds what it knows and passes it to the coordinator.

    Answer: `RunRecord`, or None if the seq is unknown. Twice: two answers.
    """

    reply_to: Any
    seq: int
    conflicts: tuple[AttemptConflict, ...] = ()
    blocked_by: int | None = None


@message
class GetRuns:
    """From: the edge. To: committer, which adds what it knows and passes it to the coordinator.

    Answer: a tuple of `RunRecord`s, newest first: those known of the `count` seqs below `before` (None: of the newest).
    `in_flight` are (seq, conflicts, seq that blocks it) of un-ended runs. Twice: two answers.
    """

    reply_to: Any
    before: int | None
    count: int
    in_flight: tuple[tuple[int, tuple[AttemptConflict, ...], int | None], ...] = ()


@message
class GetConflicts:
    """From: the edge. To: committer, which adds who waits and passes it on. Answer: `ConflictReport`. Twice: two answers.

    `waits` are (seq, the seq that it waits for, what it waits to do).
    """

    reply_to: Any
    waits: tuple[tuple[int, int, str], ...] = ()


class Stats(NamedTuple):
    """The system at one moment. Seqs are 0 before the first; `head_age` is seconds, None when nothing is in flight.

    `effects_through`: all effects of the commits up to this seq have ended. `retries_waiting`: runs whose backoff is not
    over. `delayed`: triggers whose time has not come; they are not in `queued`. `outside`: completion runs that execute
    without a seq; they are running, too. `threads_replaced`: threads that were given up because a handler did not leave
    them; `threads_stuck`: those of them that it has not left to this moment.
    `persisted_through`: the stores that write outside have done so for the commits up to this seq; `stores_suspended`: those
    of them that cannot for now, and try again.
    `processes_replaced`: worker processes that have died, or were killed because a handler did not leave them.
    """

    current_seq: int
    next_commit_seq: int
    committed_through: int
    durable_through: int
    effects_through: int
    queued: int
    in_flight: int
    pending_commits: int
    head_age: float | None
    state_counts: dict[State, int]
    conflicts: int
    restarts: int
    retries_waiting: int = 0
    delayed: int = 0
    threads_replaced: int = 0
    threads_stuck: int = 0
    processes_replaced: int = 0
    outside: int = 0
    persisted_through: int = 0
    stores_suspended: tuple[str, ...] = ()


class RunRecord(NamedTuple):
    """What is known of the run at one seq. Times are POSIX seconds; None where it has not happened yet.

    `retry_of` is the id of the run that this one follows as a retry, `retried_as` that of the run that follows it;
    `run_number` counts the runs of one trigger. `resubmits` is the place of the dead letter that this run is another try
    of.
    """

    seq: int
    id: str
    trigger: Trigger[Any]
    state: State
    attempts: int
    error: str | None
    conflicts: tuple[AttemptConflict, ...]
    blocked_by: int | None
    caused_by: tuple[str, ...]
    causes: tuple[str, ...]
    durable: bool
    submitted_at: float
    sequenced_at: float
    committed_at: float | None
    handler_s: float
    retry_of: str | None = None
    retried_as: str | None = None
    run_number: int = 1
    resubmits: str | None = None

    @property
    def retry_count(self) -> int:
        """Executions beyond the first."""
        return self.attempts - 1


class HotKey(NamedTuple):
    """A key and how many attempts it made conflict."""

    store: str
    key: str
    conflicts: int


class Pair(NamedTuple):
    """Two trigger types that collide: `reader` was executed again because `writer` had committed."""

    reader: str
    writer: str
    conflicts: int


class Wait(NamedTuple):
    """A run that waits for another one just now, to `end`, to `begin` or to `execute again`, and their trigger types."""

    seq: int
    trigger: str
    to: str
    blocked_by: int
    blocker: str


class ConflictReport(NamedTuple):
    """Where re-execution comes from: hottest keys and colliding handler pairs, most conflicts first; and who waits for whom.

    `waits` are those of the lowest 100 seqs that wait.
    """

    conflicts: int
    executions: int
    wasted_executions: int
    hottest_keys: tuple[HotKey, ...]
    pairs: tuple[Pair, ...]
    waits: tuple[Wait, ...] = ()

    def __str__(self) -> str:
        noun = "conflict" if self.conflicts == 1 else "conflicts"
        lines = [f"{self.conflicts} {noun}, {self.wasted_executions} of {self.executions} executions wasted"]
        lines += [f"  {hot.conflicts:6}  {hot.store}[{hot.key!r}]" for hot in self.hottest_keys]
        lines += [f"  {pair.conflicts:6}  {pair.reader} after {pair.writer}" for pair in self.pairs]
        lines += [
            f"  seq {wait.seq} ({wait.trigger}) waits for seq {wait.blocked_by} ({wait.blocker}) to {wait.to}"
            for wait in self.waits
        ]
        return "\n".join(lines)
