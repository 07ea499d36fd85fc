"""Deferral: what becomes of a completion run that has a seq and needs a call which is not recorded.

Owns the decision at the run's turn: its seq ends as `deferred` and the run goes on outside, or, when that has happened
`DEFERRALS_MAX` times, it ends as failed. Pure. Promises: the seq's record stands on its own, and the submission that the
caller holds goes on; how often it was deferred counts through restarts.
"""

from __future__ import annotations

from typing import Any

from seqtor.actors.submissions import Origin, Submission
from seqtor.messages.commits import CommitRun, Released
from seqtor.messages.errors import RunDeferred
from seqtor.messages.runs import State

__all__ = ["DEFERRALS_MAX", "decide_deferral", "deferrals_of", "go_on_after"]

# One deferral: its reads had changed and the change led to another question. Each comes back with one more answer, so a
# handler that asks about what it decides on may need two or three; one that needs a sixth will need a seventh.
DEFERRALS_MAX = 5


def deferrals_of(submission: Submission[Any]) -> int:
    """How often the run was deferred so far."""
    return 0 if submission.origin is None else submission.origin.deferrals


def decide_deferral(intent: CommitRun) -> CommitRun:
    """How the seq of an attempt that needs another call ends: an intent with the outcome, for its turn."""
    submission = intent.submission
    deferrals = deferrals_of(submission)
    if deferrals >= DEFERRALS_MAX:
        error = RunDeferred(
            f"{submission.handler.name} (run {submission.id}) was deferred {deferrals} times, and needs an answer that is "
            f"not recorded once more ({intent.error}): what it asks depends on what it reads through tx[store], which "
            "changes faster than it is asked. Ask about tx.peek(store), which never changes, and decide on tx[store] and "
            "tx.changed(store, key)"
        )
        return intent._replace(outcome=State.FAILED, result=None, error=error, released=None)
    return intent._replace(submission=_stand_in(submission), released=Released(deferred=submission))


def go_on_after(stand_in: Submission[Any], submission: Submission[Any]) -> None:
    """Count the deferral that the stand-in's record tells of. Twice: the same."""
    origin = submission.origin or Origin()
    submission.origin = origin._replace(deferrals=deferrals_of(stand_in) + 1)


def _stand_in(submission: Submission[Any]) -> Submission[Any]:
    """What the record of the seq is about, while the submission itself goes on: nobody waits for it."""
    origin = submission.origin or Origin()
    retry = None if origin.retry is None else origin.retry._replace(root=None)
    made: Submission[Any] = Submission(
        submission._intake, submission.arrival, submission.trigger, submission.handler, submission.priority,
        submission.event_time, submission.submitted_at, origin._replace(id=submission.id, retry=retry),
    )  # fmt: skip
    made.seq = submission.seq
    made.sequenced_at = submission.sequenced_at
    return made
