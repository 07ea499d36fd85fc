"""The runs with `sequence="completion"`: who waits to begin, and how many are under way.

Owns their queues and their slots, apart from those of numbered work, so that neither holds up the other. A run keeps its
slot from its first attempt to its end, through every deferral. Pure; not thread-safe. Promises: at most `SYNC_MAX` plain
handlers at a time, each of which holds a thread for long, and `async_max` coroutines; of those that wait the order is that
of all triggers: priority, event time, arrival.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqtor.actors.handlers import Handler
from seqtor.actors.rates import Bucket
from seqtor.actors.sequencer.waiting import WaitingTriggers
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import EndedRun
from seqtor.messages.runs import State

__all__ = ["SYNC_MAX", "OutsideRuns"]

# Each holds a thread of its own (`actors/dispatchers/outside.py`), most of the time waiting for an answer.
SYNC_MAX = 32


class OutsideRuns:
    """Completion runs before and while they are under way."""

    def __init__(self, async_max: int, buckets: Mapping[Handler, Bucket] | None = None) -> None:
        # Of plain handlers, of coroutine functions.
        self._waiting = (WaitingTriggers(buckets), WaitingTriggers(buckets))
        self._slots_max = (SYNC_MAX, async_max)
        self._under_way: tuple[dict[Submission[Any], None], dict[Submission[Any], None]] = ({}, {})
        self._by_seq: dict[int, Submission[Any]] = {}

    def __len__(self) -> int:
        return len(self._under_way[0]) + len(self._under_way[1])

    def __contains__(self, submission: Submission[Any]) -> bool:
        return submission in self._under_way[submission.handler.is_async]

    @property
    def queued(self) -> int:
        """How many wait to begin."""
        return len(self._waiting[0]) + len(self._waiting[1])

    @property
    def unsequenced(self) -> int:
        """How many are under way without a seq."""
        return len(self) - len(self._by_seq)

    def push(self, submission: Submission[Any]) -> None:
        """Queue one that was accepted."""
        self._waiting[submission.handler.is_async].push(submission)

    def drop(self, submission: Submission[Any]) -> None:
        """Take back one that waits to begin."""
        self._waiting[submission.handler.is_async].drop(submission)

    def next_token_s(self) -> float | None:
        """In how many seconds the next may begin that waits for its rate; None if none does."""
        waits = [each for each in (waiting.next_token_s() for waiting in self._waiting) if each is not None]
        return min(waits, default=None)

    def take(self) -> Iterator[Submission[Any]]:
        """Those that may begin now, each with its slot."""
        for waiting, under_way, slots in zip(self._waiting, self._under_way, self._slots_max, strict=True):
            while len(under_way) < slots and (cls := waiting.choose()) is not None:
                submission = waiting.take(cls)
                under_way[submission] = None
                yield submission

    def sequence(self, submission: Submission[Any], seq: int) -> None:
        """One under way has its seq; also one that had it before a restart, and takes its slot with it."""
        self._under_way[submission.handler.is_async][submission] = None
        self._by_seq[seq] = submission

    def withdraw(self, submission: Submission[Any]) -> None:
        """One without a seq goes on no more."""
        self._under_way[submission.handler.is_async].pop(submission, None)

    def leave(self, ended: Sequence[EndedRun]) -> list[EndedRun]:
        """Free the slots of those that have ended and are not deferred; returns the runs of arrival among them."""
        others = []
        for each in ended:
            submission = self._by_seq.pop(each.seq, None)
            if submission is None:
                others.append(each)
            elif each.state is not State.DEFERRED:
                del self._under_way[submission.handler.is_async][submission]
        return others
