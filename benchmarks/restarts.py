"""RESTART: the p99 of commits to one store while another one, with 100,000 keys, is restarted again and again.

The yardstick is the p99 of the same commits in the same system while nothing is restarted, in alternation. A store is
restarted from its checkpoint in a journal on SQLite. Owns the load: `IN_FLIGHT` triggers at a time, each timed from its
submission to its answer, and the killing, by a message that no store survives.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from benchmarks.durable import scratch_folder
from benchmarks.measure import interleave, percentile
from benchmarks.outcome import Outcome
from benchmarks.workload import KEYS, Bump, Cell
from seqtor import Collection, Restart, Supervisor, Transaction
from seqtor.messages.stores import ApplyCommits

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["restart"]

KEYS_OF_THE_KILLED = 100_000
TRIGGERS = 4_000
IN_FLIGHT = 32


def make_system(path: Path) -> Supervisor:
    """Two stores; the handler writes to one of them."""
    system = Supervisor(path, settings={"control": "off"})
    cells = system.store("cells", Collection(Cell))
    initial = {f"{number:06}": Cell(value=number) for number in range(KEYS_OF_THE_KILLED)}
    system.store("killed", Collection(Cell, initial=initial), restart=Restart(1_000_000))

    @system.on(Bump)
    def bump(trigger: Bump, tx: Transaction) -> int:
        value = tx[cells].get(trigger.key, Cell()).value + 1
        tx[cells][trigger.key] = Cell(value=value)
        return value

    return system


def p99_ms(system: Supervisor) -> float:
    """Commit `TRIGGERS` triggers, some at a time; their p99."""
    gc.collect()
    waiting: deque[tuple[float, Any]] = deque()
    took_ms: list[float] = []
    for number in range(TRIGGERS):
        if len(waiting) == IN_FLIGHT:
            started, submission = waiting.popleft()
            submission.result()
            took_ms.append((time.perf_counter() - started) * 1e3)
        waiting.append((time.perf_counter(), system.submit(Bump(key=KEYS[number % len(KEYS)]))))
    for _, submission in waiting:
        submission.result()
    return percentile(took_ms, 99)


def restart() -> Outcome:
    """Measure in one system; between two rounds a few milliseconds in which the store is there again."""
    restarts = 0
    with scratch_folder() as folder:
        path = folder / "restarts.db"
        with make_system(path):
            pass  # The first start makes the checkpoint from which the store is restarted later.
        with make_system(path) as system:
            p99_ms(system)
            running: Any = system._running  # The mailbox of a store is nobody's business but the runtime's.
            mailbox = running._cell_refs[1].actor_inbox

            def kill(stop: threading.Event) -> None:
                while not stop.wait(0.001):
                    before = system.stats().restarts
                    mailbox.put(ApplyCommits(seq="no seq", state=None, epoch=0))  # type: ignore[arg-type]
                    while system.stats().restarts == before and not stop.is_set():
                        time.sleep(0.001)

            def while_restarting() -> float:
                nonlocal restarts
                before = system.stats().restarts
                stop = threading.Event()
                killer = threading.Thread(target=kill, args=(stop,))
                killer.start()
                p99 = p99_ms(system)
                stop.set()
                killer.join()
                restarts += system.stats().restarts - before
                return p99

            yardsticks, values = interleave("RESTART", lambda: p99_ms(system), while_restarting)
    return Outcome.of_rounds(yardsticks, values, restarts=restarts)
