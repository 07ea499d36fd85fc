"""Simulated histories, each made from one integer: `python -m tests.simulation.histories --seconds 60`.

Owns the worlds that are searched, and the search: every seed is a world, the explorer that orders it, and where it is hurt.
Says how many histories were played, how much virtual time that is and how many actors and processes died; a history in which
something does not hold is made small and told line by line, with the command that does it again; one that never ends, with
that command.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import gc
import math
import multiprocessing
import os
import random
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import pytest
from loguru import logger

from seqtor import Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from tests.leftovers import cleared
from tests.simulation import test_calls, test_cancels, test_coalescing, test_delays, test_effects
from tests.simulation.disk_script import DISK
from tests.simulation.killed_script import KILLED
from tests.simulation.mixed_script import MIXED
from tests.simulation.shrinking import TRIES, Find, Script, made_small
from tests.simulation.systems.world import SYSTEMS, play_system

__all__ = [
    "WORLDS", "Search", "find", "number_of", "play", "play_plan", "script_of", "search", "search_on_cores", "world_of",
]  # fmt: skip

World = Callable[[int, pytest.MonkeyPatch], object]
Play = Callable[[int], None]
SHRUNK_MAX = 2  # So many of what a process finds are made small: that takes much longer than to find it.
DISK_EVERY = 8  # Of so many histories, one more is on the simulated disk.
HANGS_S = 300.0  # In real time; the longest take a few seconds, and a handler that stands is told after a minute.
COLLECT_AFTER = 20_000  # Objects; each history leaves cycles, and to look for them as often as usual costs a tenth.


def mixed(seed: int, patch: pytest.MonkeyPatch) -> None:
    """Everything that a handler and a caller can choose, against the serial oracle."""
    MIXED.play(MIXED.plan(seed), patch, lambda _: None)


def killed(seed: int, patch: pytest.MonkeyPatch) -> None:
    """Actors of one kind are killed at any line."""
    KILLED.play(KILLED.plan(seed), patch, lambda _: None)


def effects(seed: int, patch: pytest.MonkeyPatch) -> None:
    """Effects through deaths of the process."""
    test_effects.play_lives(seed, seed % 5, patch)


def calls(seed: int, patch: pytest.MonkeyPatch) -> None:
    """Recorded calls through deaths of the process."""
    test_calls.play_lives(seed, test_calls.SEQUENCES[seed % len(test_calls.SEQUENCES)], patch)


def delays(seed: int, _: pytest.MonkeyPatch) -> None:
    """Delays through crashes and deaths."""
    test_delays.play_lives(seed)


def systems(seed: int, patch: pytest.MonkeyPatch) -> None:
    """Whole systems, drawn at random: reactions, schedules, stores of all kinds, settings, and what goes wrong."""
    play_system(seed, patch)


WORLDS: tuple[World, ...] = (
    mixed, killed, mixed, effects, mixed, killed, test_cancels.play_lives, mixed, killed, calls, test_coalescing.play_lives,
    mixed, delays, systems, systems,
)  # fmt: skip


SCRIPTS: dict[World, Script] = {systems: SYSTEMS, mixed: MIXED, killed: KILLED}  # Their histories are data.


def world_of(seed: int) -> World:
    """The world that a seed plays."""
    return WORLDS[seed % len(WORLDS)]


def number_of(seed: int) -> int:
    """Which history of its world a seed plays; another one for each seed, also of a world that is there several times."""
    rounds, place = divmod(seed, len(WORLDS))
    world = WORLDS[place]
    return rounds * WORLDS.count(world) + WORLDS[:place].count(world)


def play(seed: int) -> None:
    """Play one history; raises if something does not hold. Leaves no thread behind.

    Seeds below 0 are on the simulated disk.
    """
    play_plan(seed, None, lambda _: None)


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[pytest.MonkeyPatch]:
    """The history of a seed is played inside, and leaves nothing behind."""
    chance = random.Random(seed)
    with cleared() as standing, pytest.MonkeyPatch.context() as patch:
        # What a journal is called goes into the ids of runs, and those into what handlers draw.
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=chance.getrandbits(128), version=4))
        yield patch
        assert not standing(), "these handlers stand somewhere for ever"


def script_of(seed: int) -> tuple[Script | None, int]:
    """The world of a seed as data, if its histories are data, and which of them this is."""
    return (DISK, -1 - seed) if seed < 0 else (SCRIPTS.get(world_of(seed)), number_of(seed))


def play_plan(seed: int, plan: Any, played: Callable[[Any], object]) -> None:
    """Play the history of a seed as this plan says, or (None) as the seed does; `played` is called with what was played."""
    script, number = script_of(seed)
    with _alone(seed) as patch:
        if script is None:
            world_of(seed)(number, patch)
        else:
            script.play(script.plan(number) if plan is None else plan, patch, played)


def find(seed: int, tries: int = TRIES, begins: Callable[[], None] = lambda: None) -> Find:
    """The history of a seed that fails, made small with so many plays at most. Raises LookupError for one that holds.

    `begins` is called before each play.
    """

    def play_once(plan: Any, played: Callable[[Any], object]) -> None:
        begins()
        play_plan(seed, plan, played)

    return made_small(play_once, script_of(seed)[0], tries=tries)


class Counted:
    """What has happened in the simulations of this process: it only watches."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.happened: Counter[str] = Counter()
        self.virtual_s = 0.0
        pass_time, crash, start = SimulatedDispatchers._pass_time, Actor._crash, Supervisor.start

        def timed(dispatchers: SimulatedDispatchers, latest: float = math.inf) -> bool:
            before = dispatchers.clock.monotonic()
            passed = pass_time(dispatchers, latest)
            self.virtual_s += dispatchers.clock.monotonic() - before
            return passed

        def crashed(actor: Actor, reply_to: Any) -> None:
            self.happened["actors crashed"] += 1
            crash(actor, reply_to)

        def started(system: Supervisor) -> Supervisor:
            self.happened["processes"] += 1
            return start(system)

        patch.setattr(SimulatedDispatchers, "_pass_time", timed)
        patch.setattr(Actor, "_crash", crashed)
        patch.setattr(Supervisor, "start", started)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is played meanwhile was counted already."""
        happened, virtual_s = self.happened.copy(), self.virtual_s
        try:
            yield
        finally:
            self.happened, self.virtual_s = happened, virtual_s


def search(
    seeds: Iterable[int],
    play_one: Play | None = None,
    begins: Callable[[int, Counted], None] = lambda seed, counted: None,
    tries: int = TRIES,
) -> tuple[Counter[str], float]:
    """Play them all; returns what has happened, and the virtual seconds. The first few that fail are made small and told.

    `begins` hears of each before it is played, whenever that is.
    """
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        for seed in seeds:
            begins(seed, counted)
            counted.happened["histories"] += 1
            try:
                (play_one or play)(seed)
            except Exception as error:
                counted.happened["found"] += 1
                traceback.print_exc(limit=-6, file=sys.stdout)
                if counted.happened["found"] <= SHRUNK_MAX:
                    print(f"seed {seed} fails; it is played again, to be told", flush=True)  # A play of that may hang.
                    with counted.paused():
                        print("\n".join(_told(seed, tries, functools.partial(begins, seed, counted))))
                else:
                    print("not made smaller: it is not among the first that were found; the command does it")
                _tell_found(type(error).__name__, seed)
    return counted.happened, counted.virtual_s


def _told(seed: int, tries: int, begins: Callable[[], None]) -> Iterator[str]:
    try:
        found = find(seed, tries, begins)
    except LookupError:
        yield "played again it holds: it depends on something else than its seed"
    else:
        yield from found.told()


def _tell_found(what: str, seed: int) -> None:
    print(f"found {what}; again: python -m tests.simulation.histories --seed {seed}", flush=True)


class Search(NamedTuple):
    """What is to be played: from a seed on, until a moment (of the monotonic clock) or so many, in so many processes."""

    first: int
    until: float = math.inf
    count: float = math.inf
    cores: int = 1
    hangs_s: float = HANGS_S
    tries: int = TRIES

    def seeds(self, first: int) -> Iterator[int]:
        """Those of one process, from its first on; now and then one of the disk."""
        seed = first
        while seed < self.first + self.count and time.monotonic() < self.until:
            yield seed
            if seed // self.cores % DISK_EVERY == 0:
                yield -1 - seed
            seed += self.cores


class Part:
    """One process of a search. `last` is the newest that it has told: who is played, and what had happened before."""

    def __init__(self, search: Search, number: int, first: int, play_one: Play) -> None:
        self.number = number
        self.last: tuple[int | None, Counter[str], float] | None = None
        context = multiprocessing.get_context("spawn")
        self.told, tell = context.Pipe(duplex=False)
        self.process = context.Process(target=_part, args=(tell, search, number, first, play_one), daemon=True)
        self.process.start()
        tell.close()


def _part(tell: Connection, search_for: Search, number: int, first: int, play_one: Play) -> None:
    logger.disable("seqtor")
    if hasattr(os, "sched_setaffinity"):  # Handlers hand a baton over: on one core that costs a tenth.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)

    def begins(seed: int, counted: Counted) -> None:
        tell.send((seed, counted.happened, counted.virtual_s))
        faulthandler.dump_traceback_later(search_for.hangs_s, exit=True)  # Whatever its threads do.

    happened, virtual_s = search(search_for.seeds(first), play_one, begins, search_for.tries)
    faulthandler.cancel_dump_traceback_later()
    tell.send((None, happened, virtual_s))


def search_on_cores(search_for: Search, play_one: Play = play) -> tuple[Counter[str], float]:
    """Search in processes; where one hangs or dies, that is found, and another goes on behind it."""
    happened: Counter[str] = Counter()
    virtual_s = 0.0
    parts = [Part(search_for, number, search_for.first + number, play_one) for number in range(search_for.cores)]
    while parts:
        ready = wait([part.told for part in parts])
        for part in [part for part in parts if part.told in ready]:
            try:
                part.last = part.told.recv()
            except EOFError:
                parts.remove(part)
                part.process.join()
                assert part.last is not None, "a process of the search could not begin"
                seed, of_part, of_part_s = part.last
                happened.update(of_part)
                virtual_s += of_part_s
                if seed is not None:
                    happened.update(histories=1, found=1)
                    _tell_found(f"that it hangs or ends its process (exit code {part.process.exitcode})", seed)
                    behind = max(seed, -1 - seed) + search_for.cores
                    parts.append(Part(search_for, part.number, behind, play_one))
    return happened, virtual_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long to search; 600 without --histories")
    parser.add_argument("--histories", type=int, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--no-shrink", action="store_true", help="tell what is found as it is, not made smaller")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    tries = 0 if given.no_shrink else TRIES
    if given.seed is not None:
        happened, _ = search([given.seed], tries=tries)
        return 1 if happened["found"] else 0
    seconds = math.inf if given.histories else 600.0
    if given.seconds is not None:
        seconds = given.seconds
    count = math.inf if given.histories is None else given.histories
    happened, virtual_s = search_on_cores(
        Search(given.first, time.monotonic() + seconds, count, given.cores, tries=tries)
    )
    deaths = happened["processes"] - happened["histories"]
    print(
        f"{happened['histories']} histories from seed {given.first} on, {virtual_s / 3600:.1f} simulated hours, "
        f"{happened['actors crashed']} actors and {deaths} processes died: {happened['found'] or 'nothing'} found"
    )
    return 1 if happened["found"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
