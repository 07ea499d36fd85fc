"""Retries of runs: whether another run follows one that has failed, and those that wait for their backoff.

Owns the decision (`Retrying`, asked by the commit order at the run's turn) and the waiting (`WaitingRetries`). Promises: a
retry is a new run with an id of its own, made by the record that ends the run before it, so there is exactly one; it counts
through restarts; nothing in the order waits for it, and its wait is a timer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger

from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Cancellable, Timers
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.retries import BACKOFF_MAX_S
from seqtor.actors.submissions import Intake, Origin, RetryOf, Submission
from seqtor.messages.errors import RunCrashed
from seqtor.messages.runs import AcceptTriggers, RetryDue

__all__ = ["Retrying", "WaitingRetries", "retry_id"]

NAMED_MAX = 10


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
        again = Origin(retry_id(submission.id, run_number + 1), origin.key, origin.cause, retry=retry)
        return Submission(
            submission._intake, submission.arrival, submission.trigger, submission.handler, submission.priority,
            submission.event_time, submission.submitted_at, again,
        )  # fmt: skip


class WaitingRetries:
    """The runs whose backoff is not over. On the core; it outlives the actors there."""

    def __init__(self, clock: Clock, timers: Timers, intake: Intake) -> None:
        self._clock = clock
        self._timers = timers
        self._intake = intake
        self._waiting: dict[Submission[Any], Cancellable] = {}
        self._closed = False
        self.coordinator: Mailbox
        self.stop_at = float("inf")  # POSIX seconds: what is due later does not hold up a stop.

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, submission: object) -> bool:
        return submission in self._waiting

    def wait(self, submission: Submission[Any]) -> None:
        """Let the coordinator know when it is due (`RetryDue`). Before it is open. Twice: the second is ignored."""
        if submission in self._waiting or submission in self._intake.open or submission.done or self._closed:
            return
        due = _due(submission)
        policy = submission.handler.retry
        # The time of day may have been set back meanwhile: nobody waits longer than the policy ever lets.
        longest_s = BACKOFF_MAX_S if policy is None else policy.backoff_max
        delay_s = min(max(0.0, due - self._clock.time()), longest_s)
        told = RetryDue(submission=submission)
        self._waiting[submission] = self._timers.call_after(delay_s, lambda: _tell(self.coordinator, told))

    def resume(self, submissions: Iterable[Submission[Any]]) -> None:
        """Let those wait that an earlier process had left; the rest is due, or no retry."""
        now = self._clock.time()
        for submission in submissions:
            if submission.origin is not None and submission.origin.retry is not None and _due(submission) > now:
                self.wait(submission)

    def remind(self) -> None:
        """Tell of all once more whose time has come; the coordinator that was told of them may have crashed."""
        now = self._clock.time()
        for submission in list(self._waiting):
            if _due(submission) <= now:
                _tell(self.coordinator, RetryDue(submission=submission))

    def end_wait(self, submission: Submission[Any], sequencer: Mailbox) -> bool:
        """The wait is over: have it run; False if it did not wait (any more)."""
        if self._waiting.pop(submission, None) is None:
            return False
        self._intake.open[submission] = None
        sequencer.tell(AcceptTriggers(submissions=(submission,), bypasses=True))
        return True

    def hold_up_a_stop(self) -> bool:
        """Whether one of them is due before the grace of the stop is over."""
        return any(_due(submission) <= self.stop_at for submission in self._waiting)

    def close(self, *, journaled: bool) -> None:
        """Stop waiting, because the system stops; names what is left."""
        self._closed = True
        for timer in self._waiting.values():
            timer.cancel()
        if not self._waiting:
            return
        named = [f"{each.handler.name} (run {each.id})" for each in list(self._waiting)[:NAMED_MAX]]
        more = f" and {len(self._waiting) - NAMED_MAX} more" if len(self._waiting) > NAMED_MAX else ""
        log, text = logger.bind(actor="core"), ", ".join(named) + more
        if journaled:
            log.info("retries that were not due at the stop run after the next start: {}", text)
        else:
            log.warning("retries that were not due at the stop are lost, there is no journal: {}", text)


def _due(submission: Submission[Any]) -> float:
    origin = submission.origin
    assert origin is not None
    assert origin.retry is not None
    return origin.retry.due


def _tell(coordinator: Mailbox, told: RetryDue) -> None:
    if not coordinator.closed:  # Closed: the system is gone, and with it whoever waits.
        coordinator.tell(told)
