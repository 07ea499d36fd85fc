"""The small language of random systems: what a trigger does, as data, performed the same by handlers and by the oracle.

A program is a tuple of steps; each reads or writes a book of numbers by store and key, or releases something with its
commit. What it has read is its result, so that a run that has read anything else than serial execution would is found by
its answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

__all__ = [
    "COUNTED", "KEYS", "PAIR", "Book", "Doubtful", "Flawed", "Step", "Steps", "answer_to", "draw_steps", "perform",
    "written",
]  # fmt: skip

KEYS = ("a", "b", "deep/c", "d")
PAIR = ("left", "right")  # The fields of the document.
COUNTED = ("collection", "guarded")  # The stores whose numbers can be incremented without a look.
CODES = ("opened", "closed", "other")
Step = tuple[Any, ...]
Steps = tuple[Step, ...]


class Flawed(ValueError):
    """What a handler fails with."""


class Doubtful(Exception):
    """What a handler is rejected with: turned into `Rejected` by whoever executes it."""


class Book(Protocol):
    """What one run sees and changes."""

    def get(self, store: str, key: str) -> int | None: ...
    def put(self, store: str, key: str, number: int | None) -> None: ...
    def add(self, store: str, key: str, amount: int) -> None: ...
    def all(self, store: str) -> Mapping[str, int]: ...
    def emit(self, code: str, payload: dict[str, Any]) -> None: ...
    def effect(self, name: str) -> None: ...
    def submit(self, program: int, delay: float | None) -> None: ...


def answer_to(question: int) -> int:
    """What is answered outside, whoever asks and however often."""
    return (question * 7 + 3) % 11


def perform(steps: Steps, book: Book) -> Generator[tuple[str, int], int, list[int | None]]:
    """Perform a program; yields ("call", question), ("pause", ticks) and ("hang", 0), to be sent an answer."""
    seen: list[int | None] = []
    last = 0
    for what, *given in steps:
        if what == "read":
            seen.append(book.get(*given))
            last = seen[-1] or 0
        elif what == "all":
            found = book.all(*given)
            last = sum(found.values())
            seen += [len(found), last]
        elif what == "bump":
            store, key, amount = given
            last = (book.get(store, key) or 0) + amount
            book.put(store, key, last)
            seen.append(last)
        elif what == "put":
            store, key, amount = given
            book.put(store, key, (last + amount) % 50)
        elif what == "drop":
            store, key = given
            book.put(store, key, None)
        elif what == "add":
            book.add(*given)
        elif what == "call":
            last = yield "call", (given[0] + last) % 5
            seen.append(last)
        elif what in ("pause", "hang"):
            if what == "pause" or last % given[0] == given[1]:
                yield what, given[0]
        elif what == "fail" and last % given[0] == given[1]:
            raise Flawed(f"{last} by {given[0]}")
        elif what == "reject" and last % given[0] == given[1]:
            raise Doubtful(f"{last} by {given[0]}")
        elif what == "emit":
            book.emit(given[0], {"k": given[1], "n": last % 4})
        elif what == "effect":
            book.effect(*given)
        elif what == "submit":
            book.submit(*given)
    return seen


def written(steps: Steps) -> list[tuple[str, str]]:
    """The stores and keys that a program may write."""
    return sorted({(step[1], step[2]) for step in steps if step[0] in ("bump", "put", "drop", "add")})


def draw_steps(
    chance: random.Random, stores: tuple[str, ...], *, is_leaf: bool, may_hang: bool, child: Callable[[], int]
) -> Steps:
    """A program over these stores. A leaf releases nothing; `child` gives the number of a program to submit."""
    steps: list[Step] = []
    for _ in range(chance.choice((1, 1, 2, 3, 4))):
        steps.append(_access(chance, stores))
        roll = chance.random()
        if roll < 0.08:
            steps.append(("call", chance.randrange(4)))
        elif roll < 0.2:
            steps.append(("pause", chance.choice((1, 20, 400))))
        elif roll < 0.27:
            modulus = chance.choice((2, 3, 5))
            steps.append((chance.choice(("fail", "fail", "reject")), modulus, chance.randrange(modulus)))
        elif roll < 0.3 and may_hang:
            steps.append(("hang", 3, chance.randrange(3)))
        elif roll < 0.65 and not is_leaf:
            steps.append(_release(chance, child))
    return tuple(steps)


def _access(chance: random.Random, stores: tuple[str, ...]) -> Step:
    store = chance.choice(stores)
    key = _key(chance, store)
    if store == "sums":
        return "read", store, key
    whats = ["read", "all", "bump", "bump", "put"]
    if store != "pair":
        whats.append("drop")
    if store in COUNTED or store == "pair":
        whats += ["add", "add"]
    what = chance.choice(whats)
    if what == "all":
        return what, store
    return (what, store, key, chance.randrange(1, 9)) if what in ("bump", "put", "add") else (what, store, key)


def _key(chance: random.Random, store: str) -> str:
    if store == "sums":
        return chance.choice(("count", "amount"))
    return chance.choice(PAIR if store == "pair" else KEYS)


def _release(chance: random.Random, child: Callable[[], int]) -> Step:
    what = chance.choice(("emit", "emit", "effect", "submit"))
    if what == "emit":
        return what, chance.choice(CODES), chance.choice("xy")
    if what == "effect":
        return what, chance.choice(("place", "reply", "doomed"))
    return what, child(), chance.choice((None, None, 0.5, 30.0))
