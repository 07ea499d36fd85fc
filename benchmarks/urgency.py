"""PRIO: the p99 from submit to commit of HIGH triggers while 20,000 LOW ones wait.

The yardstick is the time that 300 tiny runs take in the same round. Times come from the runs' records, so the waking of
the measuring thread does not count. Owns the backlog: it is refilled between HIGH triggers, never while one is under
way, and a HIGH that is not counted then waits until the refill has been taken in, because the figure is about the order
of what waits, not about taking in a batch; how long that one takes is told as `behind_refill_ms_max`.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measure import ROUNDS, burst, percentile, progress
from benchmarks.outcome import Outcome
from benchmarks.tiny import record_system
from benchmarks.workload import KEYS, WARM_UP, Bump
from seqtor import Priority

if TYPE_CHECKING:
    from seqtor import Submission, Supervisor

__all__ = ["prio"]

HIGHS = 200
WAITING = 20_000
REFILL = 5_000
SPARE = 5_000  # Some LOW run between the count of a backlog and the next HIGH.
YARDSTICK_RUNS = 300

TRIGGERS = [Bump(key=KEYS[i % len(KEYS)]) for i in range(WAITING)]


class Moments(NamedTuple):
    """The seq of a run, when it was submitted and when it committed, in POSIX seconds."""

    seq: int
    submitted_at: float
    committed_at: float

    @classmethod
    def of(cls, system: Supervisor, submission: Submission[int]) -> Moments:
        """The one place that knows how a record tells its times. Ask soon: a system forgets its oldest records."""
        seq = submission.seq
        assert seq is not None, "a submission that has answered has a seq"
        record = system.record(seq)
        assert record.committed_at is not None, f"the run at seq {seq} has answered without a commit"
        return cls(seq, record.submitted_at, record.committed_at)

    @property
    def took_ms(self) -> float:
        return (self.committed_at - self.submitted_at) * 1e3


class Round(NamedTuple):
    """What one round has shown."""

    p99_ms: float
    yardstick_ms: float
    behind_refill_ms_max: float
    waiting_min: int


def prio() -> Outcome:
    """The median over rounds of the p99s."""
    rounds: list[Round] = []
    for number in range(1, ROUNDS + 1):
        system = record_system()
        with system:
            shown = Backlog(system).measure()
        progress(
            f"PRIO: round {number} of {ROUNDS}: p99 {shown.p99_ms:.2f} ms, "
            f"{YARDSTICK_RUNS} tiny runs {shown.yardstick_ms:.2f} ms, at least {shown.waiting_min:,} LOW waiting"
        )
        rounds.append(shown)
    return Outcome.of_rounds(
        [each.yardstick_ms for each in rounds],
        [each.p99_ms for each in rounds],
        behind_refill_ms_max=max(each.behind_refill_ms_max for each in rounds),
        waiting_min=min(each.waiting_min for each in rounds),
    )


class Backlog:
    """A system whose LOW triggers never run out while HIGH ones are measured.

    Every seq after the warm-up is that of a LOW or a HIGH from here, so the seq of a HIGH tells how many LOW wait.
    """

    def __init__(self, system: Supervisor) -> None:
        self._system = system
        self._lows: list[Submission[int]] = []
        self._highs: list[Moments] = []  # those that count
        self._behind_refill: list[Moments] = []  # and those that do not
        self._waiting: list[int] = []  # LOW triggers behind each HIGH that counts

    def measure(self) -> Round:
        burst(self._system.submit_many, TRIGGERS[:WARM_UP])
        gc.collect()
        self._refill(WAITING)
        waiting = self._behind_a_refill()
        while len(self._highs) < HIGHS:
            if waiting < WAITING + SPARE:
                waiting = self._behind_a_refill()
            waiting = self._high(self._highs)
            self._waiting.append(waiting)
        for low in self._lows:
            low.result()
        return self._judge()

    def _judge(self) -> Round:
        return Round(
            p99_ms=percentile([high.took_ms for high in self._highs], 99),
            yardstick_ms=self._drain_ms(),
            behind_refill_ms_max=max(high.took_ms for high in self._behind_refill),
            waiting_min=min(self._waiting),
        )

    def _drain_ms(self) -> float:
        """What 300 runs took after the last HIGH, with nothing submitted any more: the strictest time of the round."""
        first, last = self._highs[-1], Moments.of(self._system, self._lows[-1])
        return (last.committed_at - first.committed_at) / (last.seq - first.seq) * YARDSTICK_RUNS * 1e3

    def _behind_a_refill(self) -> int:
        self._refill(REFILL)
        return self._high(self._behind_refill)

    def _refill(self, count: int) -> None:
        self._lows += self._system.submit_many(TRIGGERS[:count], priority=Priority.LOW)

    def _high(self, highs: list[Moments]) -> int:
        """Run one HIGH and note its moments; returns how many LOW waited when it got its seq."""
        submission = self._system.submit(TRIGGERS[len(highs)], priority=Priority.HIGH)
        submission.result()
        high = Moments.of(self._system, submission)
        highs.append(high)
        lows_sequenced = high.seq - WARM_UP - len(self._highs) - len(self._behind_refill)
        return len(self._lows) - lows_sequenced
