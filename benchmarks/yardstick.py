"""The yardstick: producer → worker threads → in-order committer that checks versions → one future per item.

Owns the bare skeleton that every throughput figure is divided by. It promises what the runtime promises of state and
order (the result of item n is that of running 1..n one after another) and nothing else: no actors, no read sets, no
failures. Items and values are those of the runtime: the same triggers, the same immutable records, the same work. It is
written straightforwardly and neither slowed down nor tuned; change it and all ratios change.

`python -m benchmarks.yardstick` prints what it does here, with each of the two queues of the standard library.
"""

from __future__ import annotations

import json
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from benchmarks.measure import ROUNDS, burst, interleave, median, rounded, turns
from benchmarks.placement import place, placement
from benchmarks.workload import BURST, KEYS, TURNS, WARM_UP, Bump, Cell, keys_in_turn, serial_answers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Skeleton"]

WORKERS = 4

Item = tuple[int, Bump, "Future[int]"]  # seq, trigger, future
Intent = tuple[int, str, int, Cell, "Future[int]"]  # seq, key, version read, new value, future
QueueClass = type[queue.SimpleQueue[Any] | queue.Queue[Any]]


class Skeleton:
    """Counters by key behind four workers and a committer; a context manager that stops its threads.

    The committer recomputes a stale value itself: it holds the current one anyway.
    """

    def __init__(self, keys: Iterable[str], queue_class: QueueClass = queue.SimpleQueue) -> None:
        self._cells: dict[str, tuple[int, Cell]] = {key: (0, Cell()) for key in keys}  # key: (version, value)
        self._items: queue.SimpleQueue[Item | None] | queue.Queue[Item | None] = queue_class()
        self._intents: queue.SimpleQueue[Intent | None] | queue.Queue[Intent | None] = queue_class()
        self._seq = 0
        self._workers = [threading.Thread(target=self._work) for _ in range(WORKERS)]
        self._committer = threading.Thread(target=self._commit)

    def __enter__(self) -> Self:
        for thread in (*self._workers, self._committer):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _worker in self._workers:
            self._items.put(None)
        for worker in self._workers:
            worker.join()
        self._intents.put(None)
        self._committer.join()

    def submit(self, trigger: Bump) -> Future[int]:
        """Add one to the value under the trigger's key; the future holds the new value."""
        self._seq += 1
        future: Future[int] = Future()
        self._items.put((self._seq, trigger, future))
        return future

    def submit_many(self, triggers: Sequence[Bump]) -> list[Future[int]]:
        """The same for a batch, in order."""
        return [self.submit(trigger) for trigger in triggers]

    def _work(self) -> None:
        cells = self._cells
        while (item := self._items.get()) is not None:
            seq, trigger, future = item
            version, cell = cells[trigger.key]
            self._intents.put((seq, trigger.key, version, cell.replace(value=cell.value + 1), future))

    def _commit(self) -> None:
        cells = self._cells
        early: dict[int, Intent] = {}
        seq_next = 1
        while (arrived := self._intents.get()) is not None:
            early[arrived[0]] = arrived
            while (intent := early.pop(seq_next, None)) is not None:
                seq, key, version_read, cell, future = intent
                version, current = cells[key]
                if version != version_read:
                    cell = current.replace(value=current.value + 1)
                cells[key] = (seq, cell)
                future.set_result(cell.value)
                seq_next += 1


def main() -> None:
    """Print items per second and the p50 of submit-wait-repeat, one JSON object per queue class."""
    place()
    keys = keys_in_turn()
    items = [Bump(key=key) for key in keys]

    def per_second(queue_class: QueueClass) -> float:
        with Skeleton(KEYS, queue_class) as skeleton:
            burst(skeleton.submit_many, items[:WARM_UP])
            elapsed_s, answers = burst(skeleton.submit_many, items)
        assert answers == serial_answers(keys[:WARM_UP], keys)
        return BURST / elapsed_s

    def p50_us(queue_class: QueueClass) -> float:
        with Skeleton(KEYS, queue_class) as skeleton:
            burst(skeleton.submit_many, items[:WARM_UP])
            return median(turns(skeleton.submit, items[:TURNS])) * 1e6

    simple, full = queue.SimpleQueue, queue.Queue
    speeds = interleave("items/s", lambda: per_second(simple), lambda: per_second(full))
    waits = interleave("p50 in µs", lambda: p50_us(simple), lambda: p50_us(full))
    for queue_class, speed, wait in zip((simple, full), speeds, waits, strict=True):
        line = {
            "queue": queue_class.__name__,
            "items_per_s": rounded(median(speed)),
            "items_per_s_min": rounded(min(speed)),
            "items_per_s_max": rounded(max(speed)),
            "p50_us": rounded(median(wait)),
            "rounds": ROUNDS,
            "placement": placement(),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
