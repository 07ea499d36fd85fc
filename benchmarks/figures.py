"""The table of figures: how each is measured, its unit, and what it must reach."""

from __future__ import annotations

from benchmarks import computing, durable, opening, restarts, sleepers, slow_work, snapshots, tiny, urgency, waiting
from benchmarks.outcome import Figure, at_least, at_most
from benchmarks.placement import is_pinned

__all__ = ["FIGURES"]

EXECUTIONS = at_most(2.05, "executions_mean")

FIGURES: dict[str, Figure] = {
    "W1": Figure(tiny.w1, "triggers/s", (at_least(0.55),)),
    "W1int": Figure(tiny.w1_int, "triggers/s", (at_least(0.75),)),
    "W2": Figure(durable.w2, "triggers/s", (at_least(0.4), at_least(0.5, "share_of_w1"))),
    "W2pg": Figure(durable.w2_pg, "triggers/s", (at_least(0.4, "share_of_sqlite"),)),
    "W3": Figure(tiny.w3, "triggers/s", (at_least(0.38), EXECUTIONS)),
    "W3r": Figure(tiny.w3_random, "triggers/s", (at_least(0.38), EXECUTIONS)),
    "W4": Figure(tiny.w4, "µs p50", (at_most(2.0),)),
    "W4d": Figure(durable.w4d, "µs p50", (at_most(2.5 if is_pinned() else 4.0),)),
    "W6a": Figure(slow_work.w6a, "ms p99", (at_most(10.0, "value"), at_most(2, "agent_attempts_max"))),
    "W6b": Figure(slow_work.w6b, "ms p99", (at_most(10.0, "value"),)),
    "W6c": Figure(slow_work.w6c, "ms p99", ()),
    "K100": Figure(waiting.k100, "triggers/s", (at_least(7.0), at_most(1.8, "executions_mean"))),
    "K100fp": Figure(waiting.k100_footprints, "triggers/s", (at_least(15.0), at_most(1.05, "executions_mean"))),
    "W7": Figure(snapshots.w7, "µs", (at_most(1.3),)),
    "OPEN1M": Figure(opening.open_1m, "s", (at_most(3.0, "value"),)),
    "OPEN200k": Figure(opening.open_200k, "s", (at_most(10.0, "value"),)),
    "RESTART": Figure(restarts.restart, "ms p99", (at_most(5.0),)),
    "A10k": Figure(sleepers.a10k, "s", (at_most(4.0, "value"),)),
    "A10kMB": Figure(sleepers.a10k_mb, "MB", (at_most(300.0, "value"),)),
    "PROC": Figure(computing.proc, "runs/s", (at_least(1.7),)),
    "PRIO": Figure(urgency.prio, "ms p99", (at_most(1.0),)),
}
