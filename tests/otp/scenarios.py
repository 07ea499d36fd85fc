"""Scenarios of starts, exits, crashes and shutdowns, as data: the same list on every machine.

Owns what is played on OTP and on ours. A scenario is a supervisor, called `top`, and steps. Names of children are unique
in a scenario; `fails` are the numbers of the starts (from 1) that fail; a `stuck` child does not stop when it is told.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

__all__ = ["SCENARIOS", "Leaf", "Node", "Scenario"]

STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
KINDS = ("permanent", "transient", "temporary")
SHUTDOWN_MS = 20
LONG_S = 1000


@dataclass(frozen=True)
class Leaf:
    """A worker."""

    id: str
    restart: str = "permanent"
    shutdown: int | str = 5000
    significant: bool = False
    fails: tuple[int, ...] = ()
    stuck: bool = False


@dataclass(frozen=True)
class Node:
    """A supervisor; `id`, `restart` and `significant` matter below another one."""

    children: tuple[Leaf | Node, ...] = ()
    strategy: str = "one_for_one"
    intensity: int = 3
    period: int = LONG_S
    auto_shutdown: str = "never"
    id: str = "top"
    restart: str = "permanent"
    significant: bool = False


class Scenario(NamedTuple):
    """What is played: `steps` are tuples of a verb and its arguments. `about` groups scenarios in their names."""

    name: str
    top: Node
    steps: tuple[tuple[Any, ...], ...]


@dataclass
class Book:
    """The list in the making."""

    scenarios: list[Scenario] = field(default_factory=list)

    def add(self, about: str, top: Node, *steps: tuple[Any, ...]) -> None:
        number = sum(scenario.name.startswith(f"{about} ") for scenario in self.scenarios) + 1
        self.scenarios.append(Scenario(f"{about} {number}", top, steps))


def abc(**changed: Leaf | Node) -> tuple[Leaf | Node, ...]:
    """Three permanent workers, some of them changed."""
    return tuple(changed.get(name, Leaf(name)) for name in "abc")


def ends(book: Book) -> None:
    for strategy, kind, end, who in product(STRATEGIES, KINDS, ("crash", "exit"), "abc"):
        book.add("end", Node(abc(**{who: Leaf(who, kind)}), strategy), (end, who), ("crash", "b"), (end, who))


def intensities(book: Book) -> None:
    for strategy, intensity, kind in product(STRATEGIES, (0, 1, 2), ("permanent", "transient")):
        children = abc(b=Leaf("b", kind))
        book.add("intensity", Node(children, strategy, intensity), *[("crash", who) for who in "bbab"])
    for strategy in STRATEGIES:
        short = Node(abc(), strategy, intensity=1, period=1)
        book.add("period", short, ("crash", "a"), ("pass",), ("crash", "b"), ("pass",), ("crash", "c"))
        book.add("period", short, ("crash", "a"), ("crash", "b"))


def failing_starts(book: Book) -> None:
    for strategy, who in product(STRATEGIES, "abc"):
        book.add("first start fails", Node(abc(**{who: Leaf(who, fails=(1,))}), strategy))
        for fails in ((2,), (2, 3), (2, 3, 4, 5)):
            book.add(
                "restart fails", Node(abc(**{who: Leaf(who, fails=fails)}), strategy), ("crash", who), ("crash", "a")
            )
    for strategy, fails, kind in product(STRATEGIES[1:], ((2,), (2, 3), (2, 3, 4, 5)), KINDS):
        top = Node(abc(b=Leaf("b", kind, fails=fails)), strategy)
        book.add("sibling's start fails", top, ("crash", "a"), ("crash", "c"), ("crash", "b"))


def requests(book: Book) -> None:
    for strategy, kind in product(STRATEGIES, KINDS):
        top = Node(abc(b=Leaf("b", kind)), strategy)
        twice = [("terminate", "top", "b"), ("restart", "top", "b")]
        book.add("request", top, *twice, *twice[:1], ("delete", "top", "b"), ("restart", "top", "b"))
        book.add("request", top, ("delete", "top", "b"), ("restart", "top", "b"), ("terminate", "top", "x"))
        book.add("request", top, ("terminate", "top", "b"), ("crash", "a"), ("exit", "b"), ("delete", "top", "b"))
        new = Leaf("d", kind)
        book.add("request", top, ("start", "top", new), ("start", "top", new), ("crash", "d"), ("terminate", "top", "d"),
                 ("start", "top", new), ("crash", "a"))  # fmt: skip
    for strategy in STRATEGIES:
        failing = Leaf("d", fails=(1,))
        book.add("request", Node(abc(), strategy), ("start", "top", failing), ("start", "top", failing), ("crash", "a"))
        ended = Node(abc(b=Leaf("b", "transient", fails=(2,))), strategy)
        book.add(
            "request", ended, ("exit", "b"), ("restart", "top", "b"), ("restart", "top", "b"), ("delete", "top", "b")
        )


def shutdowns(book: Book) -> None:
    slow: tuple[Leaf, ...] = (
        Leaf("b", shutdown="brutal_kill"), Leaf("b", shutdown=SHUTDOWN_MS, stuck=True), Leaf("b", shutdown=SHUTDOWN_MS),
        Leaf("b", shutdown="infinity"),
    )  # fmt: skip
    for strategy, child in product(STRATEGIES, slow):
        book.add("shutdown", Node(abc(b=child), strategy))
        book.add("shutdown", Node(abc(b=child), strategy), ("crash", "a"), ("crash", "c"), ("terminate", "top", "b"))
        book.add("shutdown", Node(abc(b=child), strategy, intensity=0), ("crash", "c"))


def significant_children(book: Book) -> None:
    for auto, kind, end in product(
        ("any_significant", "all_significant"), ("transient", "temporary"), ("crash", "exit")
    ):
        one = Node(abc(b=Leaf("b", kind, significant=True)), auto_shutdown=auto)
        two = Node(abc(a=Leaf("a", kind, significant=True), c=Leaf("c", kind, significant=True)), auto_shutdown=auto)
        for top in (one, two):
            book.add("significant", top, (end, "b"), (end, "c"), (end, "a"))
        book.add("significant", two, ("terminate", "top", "a"), (end, "c"))


def trees(book: Book) -> None:
    inner = (Leaf("x"), Leaf("y"))
    for strategy, kind in product(STRATEGIES, KINDS):
        below = Node(inner, "one_for_all", intensity=1, id="b", restart=kind)
        top = Node(abc(b=below), strategy)
        book.add("tree", top, ("crash", "x"), ("crash", "a"), ("crash", "y"), ("crash", "c"))
        book.add("tree", top, ("crash", "x"), ("crash", "y"), ("crash", "a"), ("crash", "x"))
        book.add(
            "tree", top, ("terminate", "top", "b"), ("restart", "top", "b"), ("terminate", "b", "x"), ("crash", "a")
        )
    for kind, significant in product(("transient", "temporary"), (False, True)):
        leaves = (Leaf("x", "transient", significant=True), Leaf("y"))
        below = Node(leaves, auto_shutdown="any_significant", id="b", restart=kind, significant=significant)
        top = Node(abc(b=below), auto_shutdown="any_significant" if significant else "never")
        book.add("tree", top, ("crash", "x"), ("exit", "x"), ("crash", "a"))
    for fails in ((1,), (2,), (2, 3, 4, 5)):
        below = Node((Leaf("x", fails=fails), Leaf("y")), intensity=2, id="b")
        book.add("tree", Node(abc(b=below), "rest_for_one"), ("crash", "x"), ("crash", "a"))


def dynamic(book: Book) -> None:
    made = [("dynamic", "top", name, ()) for name in ("d1", "d2", "d3")]
    for kind, end in product(KINDS, ("crash", "exit")):
        top = Node((Leaf("recipe", kind),), "simple_one_for_one", intensity=1)
        book.add("dynamic", top, *made, (end, "d2"), (end, "d1"))
        book.add("dynamic", top, made[0], ("terminate", "top", "d1"), made[1], (end, "d2"))
    for kind in KINDS:
        top = Node((Leaf("recipe", kind),), "simple_one_for_one", intensity=2)
        book.add(
            "dynamic", top, ("dynamic", "top", "d1", (1,)), made[1], ("restart", "top", "d2"), ("delete", "top", "d2")
        )
        book.add("dynamic", top, ("dynamic", "top", "d1", (2, 3)), made[1], ("crash", "d1"), ("crash", "d2"))
    for shutdown in ("brutal_kill", SHUTDOWN_MS):
        stuck = Leaf("recipe", shutdown=shutdown, stuck=shutdown == SHUTDOWN_MS)
        book.add("dynamic", Node((stuck,), "simple_one_for_one"), *made, ("terminate", "top", "d2"))


def anything(book: Book) -> None:
    """Random ones, the same at every call."""
    chance = random.Random(2026)
    for _ in range(80):
        names = "abcd"[: chance.randint(2, 4)]
        auto = chance.choice(("never", "never", "any_significant", "all_significant"))
        children: list[Leaf | Node] = []
        for name in names:
            kind = chance.choice(KINDS)
            significant = auto != "never" and kind != "permanent" and chance.random() < 0.6
            fails = tuple(number for number in (2, 3, 4) if chance.random() < 0.2)
            if name == "b" and chance.random() < 0.4:
                below = (Leaf("x", chance.choice(KINDS)), Leaf("y", chance.choice(KINDS)))
                # Not transient: when such a supervisor gives up, ours differs (decision 0012).
                kind = chance.choice(("permanent", "temporary"))
                children.append(Node(below, chance.choice(STRATEGIES), 1, id=name, restart=kind))
                continue
            children.append(Leaf(name, kind, significant=significant, fails=fails))
        top = Node(tuple(children), chance.choice(STRATEGIES), chance.randint(0, 4), auto_shutdown=auto)
        steps: list[tuple[Any, ...]] = []
        for _ in range(chance.randint(3, 8)):
            name = chance.choice([*names, "x", "y"])
            steps.append(
                chance.choice(
                    [("crash", name), ("crash", name), ("exit", name), ("terminate", "top", name), ("restart", "top", name),
                     ("delete", "top", name)]
                )
            )  # fmt: skip
        book.add("random", top, *steps)


def _scenarios() -> Iterator[Scenario]:
    book = Book()
    for write in (
        ends,
        intensities,
        failing_starts,
        requests,
        shutdowns,
        significant_children,
        trees,
        dynamic,
        anything,
    ):
        write(book)
    yield from book.scenarios


SCENARIOS: tuple[Scenario, ...] = tuple(_scenarios())
