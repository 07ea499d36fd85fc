"""Where a test of ordering runs: on one thread under many seeds, and on real threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seqtor import HandlerFailed, Rejected, State, Submission, Supervisor
from tests.programs import WAIT_S, simulated, threaded

__all__ = ["SEEDS", "World", "everywhere", "in_simulation", "outcome_of", "wait_for"]

World = Callable[[], Supervisor]
SEEDS = 25


def _simulated(seed: int) -> World:
    return lambda: simulated(seed)


_seeds = [pytest.param(_simulated(seed), id=f"seed{seed}") for seed in range(SEEDS)]
_threads = [pytest.param(lambda: threaded(4), id="threads"), pytest.param(lambda: threaded(2), id="two-threads")]

everywhere = pytest.mark.parametrize("world", [*_seeds, *_threads])
in_simulation = pytest.mark.parametrize("seed", range(SEEDS))


def wait_for(submissions: list[Submission[Any]]) -> list[State]:
    """Wait until every run has ended; returns how, in the order of submission."""
    return [outcome_of(submission)[0] for submission in submissions]


def outcome_of(submission: Submission[Any]) -> tuple[State, Any]:
    """How a run ended and its result or error; fails if it hangs."""
    try:
        return State.COMMITTED, submission.result(WAIT_S)
    except Rejected as rejection:
        return State.REJECTED, rejection
    except HandlerFailed as failure:
        return State.FAILED, failure.__cause__
