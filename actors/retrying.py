"""Retries of runs: whether another run follows one that has failed.

Owns the decision (`Retrying`, asked by the commit order at the run's turn). Promises: a retry is a new run with an id of its
own, made by the record that ends the run before it, so there is exactly one; it counts through restarts; nothing in the
order waits for it: it waits for its backoff in the waiting room.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from seqtor.actors.clock import Clock
from seqtor.actors.submissions import Origin, RetryOf, Submission
from seqtor.messages.errors import RunCrashed

__all__ = ["Retrying", "retry_id"]


def retry_id(run_id: str, run_number: int) -> str:
    """The id of the `run_number`-th run of a trigger, which follows the run `run_id`: `9f-1-7`, `9f-1-7~2`, `9f-1-7~3`."""
    first = run_id.removesuffix(f"~{run_number - 1}") if run_number > 2 else run_id
    return f"{first}~{run_number}"


class Retrying:
    """Decides what follows a failure. `entropy` seeds the jitter; it is drawn at the first retry."""

    def __init__(self, clock: Clock, entropy: Callable[[], int]) -> None:
        self._clock = clock
        self._entropy = entropy
        self._random: random.Random | None = None

    def __call__(self, submission: Submission[Any], error: BaseException) -> Submission[Any] | None:
        """The run that follows, or None if the policy says no more. A crashed run is none of the handler's doing."""
        policy = submission.handler.retry
        if policy is None or isinstance(error, RunCrashed):
            return None
        origin = submission.origin or Origin()
        before = origin.retry
        run_number = 1 if before is None else before.run_number
        if not policy.tries_again(run_number, error):
            return None
        if self._random is None:
            self._random = random.Random(self._entropy())
        due = self._clock.time() + policy.delay_s(run_number, self._random)
        root = submission if before is None or before.root is None else before.root
        retry = RetryOf(run_number=run_number + 1, of=submission.id, due=due, root=root)
        again = Origin(
            retry_id(submission.id, run_number + 1), origin.key, origin.cause, retry=retry, absorbed=submission.absorbed,
            given=origin.given, scheduled=origin.scheduled, causes=origin.causes,
        )  # fmt: skip
        follows: Submission[Any] = Submission(
            submission._intake, submission.arrival, submission.trigger, submission.handler, submission.priority,
            submission.event_time, submission.submitted_at, again,
        )  # fmt: skip
        follows.footprint = submission.footprint
        return follows
