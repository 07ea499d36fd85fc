"""The soak: a system under full load whose actors are killed at random, one every 100 ms, for as long as one likes.

`python -m tests.soak 600` (also `make soak`, `SECONDS_OF_SOAK=` for another length). Owns the load, the killing and the
counting. Every answer is held against serial execution as it comes, so that nothing needs to be kept; the memory must stay
flat after the warm-up. Then a second system with the default restart windows is killed as often: it must give up, and leave
nobody waiting. The last line says what was counted; the exit code is 1 if anything did not hold.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from seqtor import (
    Collection,
    EffectContext,
    NotRunning,
    OutcomeUnknown,
    Record,
    Restart,
    Retry,
    Supervisor,
    Transaction,
    Trigger,
)
from tests.simulation.crash_world import TARGETS
from tests.simulation.crashes import Crash, CrashBase, Crashes, crashing

__all__ = ["main"]

KEYS = 100
BATCH = 500
KILL_EVERY_S = 0.1
WARM_UP = 0.2  # Of the time.
GROWTH_MAX = 0.05
LONG_S = 300.0
ANSWER_S = 120.0
WIDE = 1_000_000


class Number(Record):
    """What is in the store."""

    n: int = 0


class Add(Trigger[int]):
    """Adds one to a key; every twentieth has an effect, which submits a `Done`."""

    key: str
    number: int


class Done(Trigger[None]):
    """Counts that an effect has ended."""


class Soak:
    """One system and what was counted of it."""

    def __init__(self, journal: Path, settings: dict[str, Any], restart: Restart | None) -> None:
        self.system = system = Supervisor(journal, settings={"control": "off", "records_max": 2_000, **settings})
        numbers = system.store("numbers", Collection(Number), restart=restart)
        self.done = system.store("done", Collection(Number), restart=restart)
        self.answered = self.effects = 0
        self.expected: Counter[str] = Counter()

        @system.effect("count", retry=Retry(3, backoff=0.001))
        def count(context: EffectContext, order: Add) -> Done:
            return Done()

        @system.on(Done)
        def on_done(trigger: Done, tx: Transaction) -> None:
            tx[self.done].increment("all", n=1)

        @system.on(Add)
        def on_add(trigger: Add, tx: Transaction) -> int:
            n = tx[numbers].get(trigger.key, Number()).n + 1
            tx[numbers][trigger.key] = Number(n=n)
            if trigger.number % 20 == 0:
                tx.effect(count, trigger)
            return n

    def load(self, until: float, on_batch: Any) -> None:
        """Submit batches, one ahead of the answers, and hold every answer against serial execution."""
        numbers = itertools.count()
        waiting: list[Any] = []
        while time.monotonic() < until or waiting:
            batch: list[Any] = []
            if time.monotonic() < until:
                triggers = [Add(key=str(number % KEYS), number=number) for number in itertools.islice(numbers, BATCH)]
                batch = self.system.submit_many(triggers)
                self.effects += sum(trigger.number % 20 == 0 for trigger in triggers)
            answers = [(submission.result(ANSWER_S), submission) for submission in waiting]
            for result, submission in sorted(answers, key=lambda each: each[1].seq):
                self.expected[submission.trigger.key] += 1
                if result != self.expected[submission.trigger.key]:
                    raise AssertionError(f"{submission}: answered {result}, expected {self.expected}")
            self.answered += len(answers)
            waiting = batch
            on_batch()


def killing(crashes: Crashes, stop: threading.Event) -> None:
    """Kill a random actor every 100 ms, at a random line."""
    chance = random.Random(1)
    kinds = list(TARGETS)
    while not stop.wait(KILL_EVERY_S):
        kind = chance.choice(kinds)
        error = chance.choice([Crash, CrashBase])
        crashes.plan(kind, TARGETS[kind], int(chance.expovariate(1 / 60)), None, error)


def resident_kb() -> int:
    """The memory of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def soak(seconds: float, journal: Path, crashes: Crashes) -> str:
    """Load and kill; returns what was counted. Raises AssertionError if something did not hold."""
    soaked = Soak(journal, {"restart_intensity": WIDE}, Restart(WIDE))
    sizes: list[tuple[float, int]] = []
    stop = threading.Event()
    killer = threading.Thread(target=killing, args=(crashes, stop))
    started = time.monotonic()
    with soaked.system as system:
        killer.start()
        try:
            soaked.load(started + seconds, lambda: sizes.append((time.monotonic() - started, resident_kb())))
        finally:
            stop.set()
            killer.join()
            crashes.kind = None
        restarts = system.stats().restarts
    done = system.snapshot()[soaked.done]["all"].n
    if done != soaked.effects:
        raise AssertionError(f"{soaked.effects} effects were released and {done} triggers of theirs were executed")
    return (
        f"{soaked.answered} triggers answered as in serial execution, {done} effects, {restarts} restarts after "
        f"{sum(crashes.happened.values())} kills, {memory(sizes, seconds)}"
    )


def memory(sizes: list[tuple[float, int]], seconds: float) -> str:
    """How much it grew after the warm-up. Raises AssertionError if that is too much; a short soak only warms up."""
    if seconds < LONG_S:
        return f"memory {max(size for _, size in sizes)} KB (no word about growth in less than {LONG_S:g} s)"
    warm = max(size for at, size in sizes if WARM_UP * seconds <= at <= 2 * WARM_UP * seconds)
    last = max(size for at, size in sizes if at >= (1 - WARM_UP) * seconds)
    if last > (1 + GROWTH_MAX) * warm:
        raise AssertionError(f"the memory grew after the warm-up from {warm} to {last} KB, by {last / warm - 1:.1%}")
    return f"memory {last / warm - 1:+.1%} after the warm-up ({last} KB)"


def escalate(journal: Path, crashes: Crashes) -> str:
    """Kill as often with the default windows; returns why the system gave up. Raises AssertionError if it did not."""
    soaked = Soak(journal, {}, None)
    stop = threading.Event()
    killer = threading.Thread(target=killing, args=(crashes, stop))
    soaked.system.start()
    killer.start()
    try:
        soaked.load(time.monotonic() + ANSWER_S, lambda: None)
    except (NotRunning, OutcomeUnknown) as gave_up:
        return str(gave_up)
    finally:
        stop.set()
        killer.join()
        crashes.kind = None
        soaked.system.stop(grace=1)
    raise AssertionError(f"the system did not give up within {ANSWER_S:g} s")


def main(seconds: float) -> int:
    """Run both parts."""
    logger.disable("seqtor")
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory(prefix="seqtor-soak-") as folder, crashing(patch) as crashes:
        try:
            counted = soak(seconds, Path(folder) / "soak.db", crashes)
            gave_up = escalate(Path(folder) / "escalates.db", crashes)
        except AssertionError as broken:
            print(f"soak of {seconds:g} s: {broken}")
            return 1
        finally:
            patch.undo()
    print(f"with the default windows: {gave_up}")
    print(f"soak of {seconds:g} s: {counted}")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
