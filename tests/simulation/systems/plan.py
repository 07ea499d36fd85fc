"""A whole system, drawn from one integer: its stores, handlers, programs, reactions, schedules, settings, and its fate.

Everything that is random about a system but what is done to it while it runs, which `Playing` draws and adds. Two plans of
the same integer are equal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.simulation.deeds import Deed
from tests.simulation.systems.programs import CODES, Steps, draw_steps

__all__ = ["DEADLINE_S", "Handling", "Plan", "Program", "ReactionPlan", "SchedulePlan", "draw"]

# Shortly before the clocks of Berlin are set forward, shortly before they are set back, and any time.
STARTS_S = (1_774_742_400.0, 1_793_116_800.0, 1_700_000_000.0)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
LINES = ("*/30 * * * *", "0 * * * *", "30 2 * * *", "15 1,2,3 * * *", "0 */3 * * *", "10,50 0-12 * * *")
STORES = ("collection", "guarded", "pair", "own", "files", "rows", "sums")
DEADLINE_S = 50.0  # Of handlers that may hang.


class Handling(NamedTuple):
    """The options of the handler of one trigger type."""

    is_async: bool
    by_completion: bool = False
    declares: bool = False
    hangs: bool = False
    coalesces: bool = False
    runs_max: int = 1
    backoff: float = 0.0
    rate: float | None = None
    priority: int | None = None


class Program(NamedTuple):
    """What one trigger does: the number of its type, and its steps."""

    kind: int
    steps: Steps


class ReactionPlan(NamedTuple):
    """A reaction: `what` is "event", "status", "result", "failure", "effect", "tick", "either", "both" or "run".

    `about` is the code, or the number of the trigger type; `where` says which filter, `answers` what its function returns.
    """

    name: str
    what: str
    about: Any
    where: str
    within: float | None
    answers: str


class SchedulePlan(NamedTuple):
    """A schedule, the program that it starts, and the line that a later life gives it instead (None: the same)."""

    name: str
    program: int
    options: dict[str, Any]
    later: dict[str, Any] | None


class Plan(NamedTuple):
    """One system, and what is done to it (None: that is drawn while it is played)."""

    seed: int
    stores: tuple[str, ...]
    handlings: tuple[Handling, ...]
    programs: tuple[Program, ...]
    roots: int  # The first so many programs are handed in; those behind them follow from others.
    reactions: tuple[ReactionPlan, ...]
    schedules: tuple[SchedulePlan, ...]
    settings: dict[str, Any]
    start_s: float
    lives: int
    journaled: bool
    lateness: float
    interleaving: float
    crashes: float  # The chance in a step that an actor is killed.
    sets_clock: bool
    edits: bool
    repeats: float  # The chance that a message comes twice, where it may.
    fails_outside: float  # The chance that writing outside fails before or behind each step.
    slow_store: float  # The chance that a store is away when it is asked.
    horizon: int | None
    fold: bool  # Whether what is derived is folded.
    deeds: tuple[Deed, ...] | None = None


def draw(seed: int, roots: int) -> Plan:
    """The system of an integer, to which so many triggers are handed in."""
    chance = random.Random(f"system {seed}")
    optional = chance.sample(STORES[1:], chance.randint(1, len(STORES) - 1))
    stores = tuple(each for each in STORES if each == "collection" or each in optional)
    declaring = chance.choice((0.0, 0.0, 0.5, 1.0))
    handlings = tuple(_handling(chance, declaring) for _ in range(chance.randint(2, 5)))
    leaves = [
        Handling(is_async=False),
        Handling(is_async=True, runs_max=2, backoff=0.5),
    ]  # Of what follows from others.
    handlings = (*handlings, *leaves)
    leaf_kinds = (len(handlings) - 2, len(handlings) - 1)
    programs: list[Program] = []
    children = max(4, roots // 8)
    for number in range(roots + children):
        is_leaf = number >= roots
        kind = chance.choice(leaf_kinds) if is_leaf else chance.randrange(len(handlings) - 2)
        steps = draw_steps(
            chance, stores, is_leaf=is_leaf, may_hang=handlings[kind].hangs,
            child=lambda: roots + chance.randrange(children),
        )  # fmt: skip
        programs.append(Program(kind, steps))
    journaled = chance.random() < 0.85
    faulty = chance.random() < 0.3
    return Plan(
        seed=seed,
        stores=stores,
        handlings=handlings,
        programs=tuple(programs),
        roots=roots,
        reactions=tuple(_reactions(chance, len(handlings))),
        schedules=tuple(_schedules(chance, roots, children)),
        settings=_settings(chance, journaled),
        start_s=chance.choice(STARTS_S) - chance.choice((0.0, 1_800.0, 7_200.0)),
        lives=chance.choice((1, 2, 3, 4)) if journaled else 1,
        journaled=journaled,
        lateness=chance.choice((0.0, 0.0, 0.02, 0.2)),
        interleaving=chance.choice((1.0, 0.0, 0.3)),
        crashes=chance.choice((0.0, 0.0, 0.002, 0.01)),
        sets_clock=chance.random() < 0.3,
        edits=chance.random() < 0.5,
        repeats=chance.choice((0.0, 0.0, 0.02, 0.2)),
        fails_outside=chance.choice((0.05, 0.3)) if faulty else 0.0,
        slow_store=chance.choice((0.0, 0.0, 0.1)),
        horizon=chance.choice((None, None, 5, 1)),
        fold=chance.random() < 0.5,
    )


def _handling(chance: random.Random, declaring: float) -> Handling:
    is_async = chance.random() < 0.5
    by_completion = chance.random() < 0.2
    declares = chance.random() < declaring
    retried = chance.random() < 0.4
    return Handling(
        is_async=is_async,
        by_completion=by_completion,
        declares=declares,
        hangs=chance.random() < 0.2,
        coalesces=not by_completion and chance.random() < 0.25,
        runs_max=chance.choice((2, 3)) if retried else 1,
        backoff=chance.choice((0.0, 0.1, 20.0)),
        rate=chance.choice((0.5, 10.0)) if chance.random() < 0.1 else None,
        priority=chance.choice((None, None, 0, 3)),
    )


def _settings(chance: random.Random, journaled: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "threads": chance.choice((2, 2, 3, 8)),
        "max_in_flight": chance.choice((1, 2, 5, 10_000)),
        "max_queued": chance.choice((1, 5, 100_000, 100_000)),
        "max_delayed": chance.choice((1, 100_000, 100_000)),
    }
    if journaled:
        found["records_max"] = chance.choice((1, 20, 100_000))
    return found


def _reactions(chance: random.Random, kinds: int) -> Iterator[ReactionPlan]:
    for number in range(chance.choice((0, 2, 4, 6))):
        what = chance.choice(
            ("event", "event", "status", "result", "failure", "effect", "tick", "either", "both", "run")
        )
        about: Any = chance.randrange(kinds)
        if what == "event":
            about = chance.choice(CODES)
        elif what == "tick":
            about = (chance.choice(LINES), chance.choice(ZONES), chance.choice(("all", "latest", "skip")))
        elif what in ("either", "both"):
            about = tuple(chance.sample(CODES, 2))
        elif what == "run":
            about = (about, chance.choice((about, about, chance.randrange(kinds))))
        yield ReactionPlan(
            name=f"{what}{number}",
            what=what,
            about=about,
            where=chance.choice(("any", "any", "items", "predicate", "raises")),
            within=chance.choice((None, 1.0, 60.0, 3_600.0)),
            answers=chance.choice(("one", "one", "two", "none", "raises")),
        )


def _schedules(chance: random.Random, roots: int, children: int) -> Iterator[SchedulePlan]:
    for number in range(chance.choice((0, 1, 2, 3))):
        options = _timing(chance) | {
            "misfire": chance.choice(("all", "latest", "earliest", "skip")),
            "overlap": chance.choice(("skip", "queue", "parallel")),
            "catch_up_max": chance.choice((1, 3, 100)),
            "jitter": chance.choice((None, None, 20.0)),
            "grace": chance.choice((None, 0.5, 1e6)),
        }
        later = chance.choice((None, None, options | _timing(chance)))
        if later is not None and "every" in later and "cron" in later:
            del later["cron" if "cron" in options else "every"]
        yield SchedulePlan(f"schedule{number}", roots + chance.randrange(children), options, later)


def _timing(chance: random.Random) -> dict[str, Any]:
    if chance.random() < 0.5:
        return {"every": chance.choice((60.0, 700.0, 3_600.0))}
    return {"cron": chance.choice(LINES), "timezone": chance.choice(ZONES)}
