"""REACT, REACTburst and REACT10k: events that start a run each, one by one, in a burst, and among 10,000 conditions.

Owns the reactions that are measured, written as a user would write them. The yardsticks are W4 and W1 of seqtor itself, on
the same stores, in alternation. Every run is accounted for by the values that the runs leave behind.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measure import burst, interleave, median, turns
from benchmarks.outcome import Outcome
from benchmarks.tiny import record_system
from benchmarks.workload import KEYS, TURNS, WARM_UP, Bump, keys_in_turn
from seqtor import Facts, Supervisor, on_event
from seqtor.messages import EventEmitted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["react", "react_10k", "react_burst"]

EVENTS = 20_000
OTHERS = 10_000
CODE = "bump"


def reacting_system(others: int = 0) -> Supervisor:
    """The counters of W4; each event adds one to the key that it names. `others` wait for something else.

    Half of these wait for other codes, half for the same code with another item in the payload.
    """
    system = record_system()

    @system.when(on_event(CODE, where={"kind": "counter"}))
    def bump(facts: Facts) -> Bump:
        return Bump(key=facts.event.payload["key"])

    for number in range(others):
        condition = on_event(f"other {number}") if number % 2 else on_event(CODE, where={"kind": f"other {number}"})
        system.when(condition, name=f"other {number}")(starts_nothing)
    return system


def starts_nothing(facts: Facts) -> None:
    raise AssertionError(f"{facts} met a condition of another event")


def react() -> Outcome:
    """Emit, wait until the run that it starts has committed, repeat: the p50; against submit, wait, repeat."""
    keys = keys_in_turn()
    triggers = [Bump(key=key) for key in keys[:TURNS]]

    def yardstick() -> float:
        with record_system() as system:
            burst(system.submit_many, triggers[:WARM_UP])
            return median(turns(system.submit, triggers)) * 1e6

    return Outcome.of_rounds(*interleave("REACT", yardstick, lambda: one_by_one_us(keys[:TURNS])))


def react_10k() -> Outcome:
    """The same among 10,000 other conditions, against the same with none."""
    keys = keys_in_turn()[:TURNS]
    rounds = interleave("REACT10k", lambda: one_by_one_us(keys), lambda: one_by_one_us(keys, OTHERS))
    return Outcome.of_rounds(*rounds)


def react_burst() -> Outcome:
    """20,000 events in one `submit_many`, until all of the runs that they start have committed; against W1."""
    keys = keys_in_turn()[:EVENTS]
    triggers = [Bump(key=key) for key in keys]

    def yardstick() -> float:
        with record_system() as system:
            burst(system.submit_many, triggers[:WARM_UP])
            elapsed_s, _ = burst(system.submit_many, triggers)
            return EVENTS / elapsed_s

    def measure() -> float:
        with reacting_system() as system:
            begun = react_to(system, keys[:WARM_UP], 0)
            events = [event(key) for key in keys]
            gc.collect()
            start = time.perf_counter()
            system.submit_many(events)
            system.snapshot(seq=begun + 2 * EVENTS)
            elapsed_s = time.perf_counter() - start
            require_counted(system, [*keys[:WARM_UP], *keys])
            return EVENTS / elapsed_s

    return Outcome.of_rounds(*interleave("REACTburst", yardstick, measure))


def one_by_one_us(keys: Sequence[str], others: int = 0) -> float:
    """The p50 of one event and its run, in microseconds."""
    with reacting_system(others) as system:
        seq = react_to(system, keys[:WARM_UP], 0)
        gc.collect()
        took_s: list[float] = []
        for key in keys:
            payload = {"kind": "counter", "key": key}
            seq += 2  # The event, and its run.
            start = time.perf_counter()
            system.emit(CODE, payload)
            system.snapshot(seq=seq)
            took_s.append(time.perf_counter() - start)
        require_counted(system, [*keys[:WARM_UP], *keys])
    return median(took_s) * 1e6


def react_to(system: Supervisor, keys: Sequence[str], seq: int) -> int:
    """Emit events for these keys and wait for their runs; returns the last seq."""
    system.submit_many([event(key) for key in keys])
    seq += 2 * len(keys)
    system.snapshot(seq=seq)
    return seq


def event(key: str) -> EventEmitted:
    return EventEmitted(code=CODE, payload_json=f'{{"kind":"counter","key":"{key}"}}')


def require_counted(system: Supervisor, keys: Sequence[str]) -> None:
    """Raise AssertionError unless every event has started one run."""
    cells: Any = system.snapshot()[system.stores["cells"]]
    counted = {key: cells[key].value for key in KEYS}
    expected = dict.fromkeys(KEYS, 0)
    for key in keys:
        expected[key] += 1
    if counted != expected:
        raise AssertionError("the runs that events have started are not one for each event")
