"""Dense cases made from one integer: many triggers on few keys, so that most of them collide.

What hypothesis makes is small and shrinks well; this is large, and finds what needs many runs in flight.
"""

from __future__ import annotations

import random
from typing import Any

from seqtor import Priority
from tests.properties.execution import Case, Submitted
from tests.properties.language import (
    BOUNDS,
    KEYS,
    PREFIXES,
    GuardedCoreInts,
    GuardedInts,
    Ints,
    Step,
    Steps,
    Stores,
    UnnamedInts,
)

__all__ = ["PRIORITIES", "dense_case", "dense_program", "dense_stores"]

PRIORITIES = (Priority.NORMAL,) * 6 + (Priority.URGENT, Priority.LOW)


def dense_case(seed: int, triggers: int = 40, agents: float = 0.0) -> Case:
    """The case of an integer; `agents` is the share of triggers that get their seq when they are done, and may ask."""
    rng = random.Random(seed)
    declaring = rng.choice((0, 0, 0.3, 0.7, 0.95, 1))
    hot = tuple(rng.sample(KEYS, rng.choice((1, 2, 3))))
    submitted = tuple(
        Submitted(
            steps=dense_program(rng, hot, asks=agents > 0),
            is_async=rng.random() < 0.6,
            by_completion=agents > 0 and rng.random() < agents,
            priority=rng.choice(PRIORITIES),
            gap=rng.choice((0, 0, 0, 0, 0, 0, 2, 20)),
            declares=tuple(rng.sample(KEYS, rng.choice((1, 1, 2, 3)))) if rng.random() < declaring else None,
        )
        for _ in range(rng.randint(triggers // 2, triggers))
    )
    stores = dense_stores(rng)
    return Case(stores, submitted, threads=rng.randint(2, 8), horizon=rng.choice((None, None, None, 5, 1)))


def dense_stores(rng: random.Random) -> Stores:
    """Which stores there are, and what is in them."""
    return Stores(
        items={key: rng.randrange(6) for key in KEYS if rng.random() < 0.5},
        items_guarded=rng.random() < 0.3,
        loose={key: rng.randrange(8) for key in KEYS[:3] if rng.random() < 0.7},
        loose_guarded=rng.random() < 0.3,
        sheet_guarded=rng.random() < 0.3,
        ints=rng.choice((Ints, UnnamedInts, GuardedInts, GuardedCoreInts)),
    )


def dense_program(rng: random.Random, hot: tuple[str, ...], *, asks: bool = False) -> Steps:
    """A few steps; most end by writing what they have read."""
    steps = [dense_step(rng, hot, 2) for _ in range(rng.randint(1, 5))]
    if asks:
        for _ in range(rng.choice((0, 1, 2))):
            asked: Step = rng.choice((("ask", 1), ("ask", 3), ("ask", 100), ("glance", "items", rng.choice(hot))))
            steps.insert(rng.randint(0, len(steps)), asked)
        if rng.random() < 0.3:
            steps.append(rng.choice((("moved", "items", rng.choice(hot)), ("moved_field", "sheet", "a"))))
    if rng.random() < 0.06:
        names = tuple(rng.sample(("items", "loose", "sheet", "account"), rng.choice((1, 2))))
        steps = [step for step in steps if step[0] in ("get", "has", "scan", "length", "pause", "field", "value")]
        steps.append(
            ("commit_whole", names, rng.randrange(9), rng.choice((None, None, None, "kind", "unread", "unread")))
        )
    return tuple(steps)


def dense_step(rng: random.Random, hot: tuple[str, ...], depth: int) -> Step:
    """One step, by weight."""
    store = rng.choice(("items", "items", "items", "loose"))
    document = rng.choice(("sheet", "sheet", "account"))
    key: Any = rng.choice(hot) if rng.random() < 0.6 else rng.choice((*KEYS, 0, 1, 2))
    amount = rng.choice((0, 1, 1, 2, 3, 101, 104))
    name = rng.choice(("a", "b"))
    modulus = rng.choice((2, 3, 5))
    remainder = rng.randrange(modulus)

    def some() -> Steps:
        return tuple(dense_step(rng, hot, depth - 1) for _ in range(rng.randint(0, 2)))

    choices: list[tuple[int, Any]] = [
        (8, lambda: ("change", store, key, amount)),
        (6, lambda: ("pause", rng.choice((0, 0, 1, 2)))),
        (3, lambda: ("get", store, key)),
        (2, lambda: ("put", store, key, amount)),
        (2, lambda: ("pop", store, key)),
        (3, lambda: ("increment", store, key, amount)),
        (
            2,
            lambda: (
                "scan",
                store,
                rng.choice(("prefix", "range")),
                rng.choice(PREFIXES),
                rng.choice(BOUNDS),
                rng.choice(BOUNDS),
            ),
        ),
        (1, lambda: ("length", store)),
        (1, lambda: ("has", store, key)),
        (1, lambda: ("thin_out", store, amount)),
        (1, lambda: ("setdefault", store, key, amount)),
        (1, lambda: ("spoil", store, key)),
        (1, lambda: rng.choice((("keys", store), ("items", store), ("delete", store, key), ("index", store, key)))),
        (3, lambda: ("change_field", document, name, amount)),
        (1, lambda: ("field", document, rng.choice(("a", "b", "c")))),
        (1, lambda: ("value", document)),
        (1, lambda: ("update", document, name, amount)),
        (2, lambda: ("increment_field", document, name, amount)),
        (1, lambda: ("set_document", document, amount, amount)),
        (3, lambda: ("int_get", key)),
        (4, lambda: ("int_add", key, amount)),
        (2, lambda: ("int_range", rng.choice(BOUNDS), rng.choice(BOUNDS))),
        (1, lambda: ("reject_if", 5, rng.randrange(5))),
        (1, lambda: ("raise_if", 5, rng.randrange(5))),
        (1, lambda: ("stop_if", 5, rng.randrange(5))),
    ]
    if depth:
        choices += [
            (3, lambda: ("branch", modulus, remainder, some(), some())),
            (2, lambda: ("attempt", rng.random() < 0.5, some())),
        ]
    make = rng.choices([choice for _, choice in choices], [weight for weight, _ in choices])[0]
    return make()  # type: ignore[no-any-return]
