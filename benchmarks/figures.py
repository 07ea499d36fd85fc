"""The table of figures: how each is measured, its unit, and what it must reach."""

from __future__ import annotations

from benchmarks import (
    computing,
    durable,
    opening,
    outside,
    reactions,
    restarts,
    schedules,
    simulating,
    sizes,
    sleepers,
    slow_work,
    snapshots,
    tiny,
    urgency,
    waiting,
)
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
    "SIZE": Figure(sizes.size, "µs", (at_most(1.3),)),
    "SIZEderived": Figure(sizes.size_derived, "µs", (at_most(1.3),)),
    "SIZEeach": Figure(sizes.size_each, "µs", (at_most(1.3),)),
    "FILES": Figure(outside.files, "µs", (at_most(1.5),)),
    "FILES1": Figure(outside.files_one_by_one, "µs", ()),
    "TABLEpg": Figure(outside.table_pg, "rows/s", (at_least(3.0),)),
    "OPEN1M": Figure(opening.open_1m, "s", (at_most(3.0, "value"),)),
    "OPEN200k": Figure(opening.open_200k, "s", (at_most(10.0, "value"),)),
    "RESTART": Figure(restarts.restart, "ms p99", (at_most(5.0),)),
    "A10k": Figure(sleepers.a10k, "s", (at_most(4.0, "value"),)),
    "A10kMB": Figure(sleepers.a10k_mb, "MB", (at_most(300.0, "value"),)),
    "SCHED10k": Figure(schedules.sched_10k, "% of a core", (at_most(1.0, "value"),)),
    "A10kAgentsKB": Figure(sleepers.a10k_agents_kb, "KB", (at_most(40.0, "value"),)),
    "REACT": Figure(reactions.react, "µs p50", (at_most(3.0),)),
    "REACTburst": Figure(reactions.react_burst, "events/s", (at_least(0.3),)),
    "REACT10k": Figure(reactions.react_10k, "µs p50", (at_most(1.5),)),
    "PROC": Figure(computing.proc, "runs/s", (at_least(1.7),)),
    "SIM": Figure(simulating.sim, "histories/min", (at_least(300.0, "value"),)),
    "PRIO": Figure(urgency.prio, "ms p99", (at_most(1.0),)),
}
