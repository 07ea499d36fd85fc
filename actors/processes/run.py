"""The run actor of a handler that executes in worker processes.

Owns the system's end of an attempt. Promises: the attempt is as that of any run; if its worker process dies in it, the run
executes again with the same seq, three times at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqtor.actors.processes.wire import WorkerDied
from seqtor.actors.runs import Run
from seqtor.actors.transactions import AttemptAbandoned, AttemptState
from seqtor.messages.commits import AttemptCrashed
from seqtor.messages.runs import State

if TYPE_CHECKING:
    from seqtor.actors.processes.crew import Crew

__all__ = ["ProcessRun"]


class ProcessRun(Run):
    """A run whose handler is a plain function that computes: executes in a worker process."""

    _dispatcher: Crew

    def _execute(self, attempt: int) -> None:
        context, submission, crew = self.context, self.submission, self._dispatcher
        transaction = self._open(attempt)
        result: Any = None
        error: BaseException | None = None
        outcome = State.RUNNING
        crew.enter_handler(transaction, submission.handler.deadline_s)
        clock = context.clock
        started = clock.monotonic()
        try:
            outcome, result, error = crew.execute(self, transaction)
        except AttemptAbandoned:
            pass
        except WorkerDied as death:
            if transaction.end(AttemptState.LOST):
                context.committer.put(
                    AttemptCrashed(
                        submission=submission, seq=self.seq, attempt=attempt, error=death.with_traceback(None)
                    )
                )
                # Let nothing be sent for it below.
        except BaseException as failure:
            outcome, error = State.FAILED, failure.with_traceback(None)
        handler_s = clock.monotonic() - started
        crew.leave_handler()
        self._close(transaction, outcome, result, error, handler_s)
        del submission, error  # An exception leads to its frames, and those here.
