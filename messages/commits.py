"""Messages around the commit: the intent of a finished attempt, the judging of it, and how the run ended.

`CommitRun`, `EndedRun` and `StoreAccess` are built for every run; a named tuple costs a third of a slotted message.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

from seqtor.messages.message import message
from seqtor.messages.runs import AttemptConflict, State
from seqtor.messages.stores import StoreAccess, Write

__all__ = [
    "AttemptCrashed",
    "BeginRuns",
    "CommitJudged",
    "CommitRun",
    "DeclareRuns",
    "EndedRun",
    "JudgeCommit",
    "Released",
    "RunsHeld",
]  # fmt: skip


class Released(NamedTuple):
    """What an attempt wants to do besides writing, with the answers it got from outside: released with its commit.

    `submissions` are `Submission`s that nobody waits for; `effects` are `RecordedEffect`s, `calls` `RecordedCall`s.
    `retry` is the run that follows, of one that ended as `retrying`: nothing else of such a run is released. `deferred` is
    the submission that goes on, of one that ended as `deferred`; then the ended run's own is a stand-in.
    """

    calls: tuple[Any, ...] = ()
    submissions: tuple[Any, ...] = ()
    effects: tuple[Any, ...] = ()
    retry: Any = None
    deferred: Any = None


class CommitRun(NamedTuple):
    """From: a run actor (or the deadline watch). To: committer. Answer: `RunConflicted`, or the run ends.

    The intent of one finished attempt. `outcome` is how the attempt itself ended: `COMMITTED` wants to commit;
    `REJECTED`, `FAILED`, `DEADLINE`, `DEFERRED` end it if what was read still holds; `RUNNING` was abandoned because it
    does not. `run` is the mailbox that is told to execute again; `released` is None if there is nothing but writes. The
    snapshot has all that ended through `snapshot_seq`, and of what had overtaken then, `seen`, the seqs below this one.
    Twice: refused, `DuplicateIntent` or `StaleAttempt`.
    """

    run: Any
    submission: Any
    seq: int
    attempt: int
    epoch: int
    snapshot_seq: int
    first_snapshot_seq: int
    outcome: State
    accesses: tuple[StoreAccess, ...]
    released: Released | None
    result: Any
    error: BaseException | None
    handler_s: float
    deadline_s: float
    seen: Container[int] = ()


@message
class DeclareRuns:
    """From: coordinator. To: committer. Answer: `BeginRuns` for each, when the lower runs that it meets have ended.

    `submissions` have a seq and a footprint, in seq order; sent before any of them executes. Twice: the second is ignored.
    """

    submissions: tuple[Any, ...]


@message
class BeginRuns:
    """From: committer. To: coordinator and sequencer. Answer: none; the runs at these seqs execute for the first time.

    Twice: the second is ignored.
    """

    seqs: tuple[int, ...]


@message
class RunsHeld:
    """From: committer. To: sequencer. Answer: `BeginRuns`, later; until then the runs at these seqs need no slots.

    Twice: the second is ignored.
    """

    seqs: tuple[int, ...]


@message
class AttemptCrashed:
    """From: the parent of a run actor that crashed, or one whose worker process died. To: committer. Answer: the run
    executes again, or ends as failed.

    Twice: refused, `StaleAttempt`.
    """

    submission: Any
    seq: int
    attempt: int
    error: BaseException


@message
class JudgeCommit:
    """From: committer. To: the judge on `pool`. Answer: `CommitJudged`. Twice: judged twice, the second is ignored.

    Folds and invariants that are the user's code run there, on the states as of seq - 1, never on `core`. `around` are the
    derived stores of those that are written, and all of their sources: index and state.
    """

    seq: int
    attempt: int
    trigger: str
    accesses: tuple[StoreAccess, ...]
    states: tuple[Any, ...]
    around: tuple[tuple[int, Any], ...]
    deadline_s: float
    epoch: int


@message
class CommitJudged:
    """From: the judge. To: committer. Answer: none. Twice: the second is ignored, as is one from an older epoch.

    `resolved` are the accesses that change a store, derived ones behind the others, each with the new state and the
    effective writes; `outcome` is `COMMITTED`, or how the run ends.
    """

    seq: int
    attempt: int
    outcome: State
    resolved: tuple[tuple[StoreAccess, Any, Any], ...]
    error: BaseException | None
    epoch: int


class EndedRun(NamedTuple):
    """How one run ended: what the terminal record of its seq says.

    `writes` are the resulting writes by store index, `accesses` what the last attempt read (None: not kept).
    """

    submission: Any
    seq: int
    attempts: int
    state: State
    result: Any
    error: BaseException | None
    conflicts: tuple[AttemptConflict, ...]
    handler_s: float
    snapshot_seq: int
    first_snapshot_seq: int
    accesses: tuple[StoreAccess, ...] | None
    writes: tuple[tuple[int, tuple[Write, ...]], ...]
    released: Released | None
