"""How soon each explorer finds bugs: `python -m tests.simulation.explorers`.

Owns the figures of docs/simulation.md: the planted bugs, one at a time, in the same histories under each explorer, and in
which of these each is found first; with `--hits`, in how many mixed programs those are found for which runs must meet, and
in how many schedules one for which a run must starve. Prints a table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
from collections.abc import Callable
from multiprocessing.pool import Pool
from typing import Any, NamedTuple

import pytest
from loguru import logger

from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import EXPLORERS
from tests.leftovers import cleared
from tests.simulation import deaths, histories, killed_script, mixed_script, test_effects
from tests.simulation.mixed import mix_simulated, run_simulated
from tests.simulation.planted import PLANTS
from tests.simulation.starved import PLANT as STARVING
from tests.simulation.starved import starving

__all__ = ["PORTFOLIOS", "Portfolio", "found_after"]


class Portfolio(NamedTuple):
    """What orders histories: these explorers, and how likely others go before an operation of `tx`."""

    name: str
    explorers: tuple[Callable[[random.Random], Any], ...]
    interleaving: float


PORTFOLIOS = (
    *(Portfolio(explorer.__name__, (explorer,), 1.0) for explorer in EXPLORERS),
    Portfolio("all in turn", EXPLORERS, 1.0),
    Portfolio("all in turn, plain handlers in one step", EXPLORERS, 0.0),
)


MEETING = tuple(
    number
    for number, plant in enumerate(PLANTS)
    if plant.name
    in {
        "only what was also written is validated",
        "ranges are not validated",
        "a write is noted one seq too early",
        "what was overtaken conflicts with who has overtaken it",
        "who reads what a lower one may write overtakes it",
    }
)
"""Found only where runs meet."""
SCHEDULES = 10  # So many times as many as programs: they are small.


def found_after(plant: int, portfolio: Portfolio, histories_max: int) -> int | None:
    """How many histories are played until one finds a planted bug; None if none does."""
    logger.disable("seqtor")
    with pytest.MonkeyPatch.context() as patch:
        PLANTS[plant].into(patch)
        for module in (killed_script, mixed_script, deaths, test_effects):
            patch.setattr(module, "EXPLORERS", portfolio.explorers)
        init: Any = SimulatedDispatchers.__init__

        def always(dispatchers: Any, *args: Any, **kwargs: Any) -> None:
            init(dispatchers, *args, **kwargs)
            dispatchers.interleaving = portfolio.interleaving

        patch.setattr(SimulatedDispatchers, "__init__", always)
        for seed in range(histories_max):
            try:
                histories.play(seed)
            except Exception:
                print(f"{portfolio.name}, {PLANTS[plant].name}: {seed + 1}", file=sys.stderr, flush=True)
                return seed + 1
    return None


def hits(plant: int, explorer: Callable[[random.Random], Any], programs: int) -> int:
    """In how many of so many mixed programs a planted bug is found."""
    logger.disable("seqtor")
    found = 0
    with pytest.MonkeyPatch.context() as patch:
        PLANTS[plant].into(patch)
        for seed in range(programs):
            try:
                with cleared():
                    run_simulated(mix_simulated(seed), seed, explorer)
            except Exception:
                found += 1
    print(f"{explorer.__name__}, {PLANTS[plant].name}: {found}", file=sys.stderr, flush=True)
    return found


def starved(explorer: Callable[[random.Random], Any], schedules: int) -> int:
    """As `starving`, in a process of its own."""
    logger.disable("seqtor")
    return starving(explorer, schedules)


def tell_hits(pool: Pool, programs: int) -> None:
    """Print in how many programs and schedules each explorer finds what takes a certain order."""
    asked = [(plant, explorer, programs) for plant in MEETING for explorer in EXPLORERS]
    found = iter(pool.starmap(hits, asked, 1))
    print(f"| found in so many of {programs} mixed programs | {' | '.join(each.__name__ for each in EXPLORERS)} |")
    print(f"| --- {'| ---: ' * len(EXPLORERS)}|")
    for plant in MEETING:
        print(f"| {PLANTS[plant].name} | {' | '.join(str(next(found)) for _ in EXPLORERS)} |")
    schedules = SCHEDULES * programs
    counts = pool.starmap(starved, [(explorer, schedules) for explorer in EXPLORERS], 1)
    print(f"| {STARVING.name} (of {schedules} schedules) | {' | '.join(map(str, counts))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=200, help="how many are played at most for each")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--portfolios", type=int, default=len(PORTFOLIOS), help="only the first so many")
    parser.add_argument("--hits", type=int, help="in how many of so many mixed programs some are found")
    given = parser.parse_args()
    if given.hits is not None:
        with multiprocessing.get_context("spawn").Pool(given.cores) as pool:
            tell_hits(pool, given.hits)
        return
    portfolios = PORTFOLIOS[: given.portfolios]
    asked = [(plant, each, given.histories) for each in portfolios for plant in range(len(PLANTS))]
    with multiprocessing.get_context("spawn").Pool(given.cores) as pool:
        found = pool.starmap(found_after, asked, 1)
    print(
        f"| of {len(PLANTS)} planted bugs, in {given.histories} histories | found | median | the last one | not found |"
    )
    print("| --- | --- | --- | --- | --- |")
    for number, portfolio in enumerate(portfolios):
        after = found[number * len(PLANTS) : (number + 1) * len(PLANTS)]
        missed = "; ".join(plant.name for plant, each in zip(PLANTS, after, strict=True) if each is None)
        needed = [given.histories + 1 if each is None else each for each in after]
        last = max([each for each in after if each is not None], default=0)
        counted = len(PLANTS) - after.count(None)
        print(f"| {portfolio.name} | {counted} | {statistics.median(needed):g} | {last} | {missed or '-'} |")


if __name__ == "__main__":
    main()
