"""The stand-in for a language model: deterministic answers, real waiting times.

Owns what it is asked and what it answers. It notes each question that reaches it as a line in a file before it begins to
think: so one can count what was asked, across restarts too.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from seqtor import Record, current_call_id

from .records import Side

__all__ = ["Advice", "Model", "Prompt", "Wish", "wish_in"]

WISH = re.compile(
    r"\b(?P<side>buy|sell)\s+(?P<quantity>[1-9]\d{0,5})\s+(?P<symbol>[A-Z]{1,8})\b"
    r"(?:\s+(?:below|above|at|for)\s+(?P<units>\d{1,8})(?:\.(?P<cents>\d\d))?\b)?",
    re.IGNORECASE,
)


class Wish(Record):
    """What a client wants; without a side nothing that the desk could do."""

    side: Side | None = None
    quantity: int = 0
    symbol: str = ""
    limit_cents: int | None = None
    """The worst price that the client takes."""


class Prompt(Record):
    """What the model is asked about: the wish, and how things stood when the agent began."""

    wish: Wish
    cents: int
    held: int


class Advice(Record):
    """What the model says should be done, and the worst price at which it still should."""

    text: str
    limit_cents: int


@dataclass(frozen=True, slots=True)
class Model:
    """The model. A real one has a client here, and takes `current_call_id()` as its idempotency key."""

    questions: Path
    read_s: float = 0.3
    advise_s: float = 2.0

    async def read(self, text: str) -> Wish:
        """Find out what a client wants."""
        await self._think("read", self.read_s)
        return wish_in(text)

    async def advise(self, prompt: Prompt) -> Advice:
        """Say what to do; without a limit of the client's, up to one percent from the price that was asked about."""
        await self._think("advise", self.advise_s)
        wish = prompt.wish
        limit = wish.limit_cents
        if limit is None:
            limit = prompt.cents + (1 if wish.side == "buy" else -1) * (prompt.cents // 100)
        return Advice(
            text=f"The desk holds {prompt.held} {wish.symbol}, at {prompt.cents / 100:.2f}.", limit_cents=limit
        )

    async def _think(self, question: str, seconds: float) -> None:
        with self.questions.open("a", encoding="utf-8") as lines:
            lines.write(f"{question} {current_call_id()}\n")
        await asyncio.sleep(seconds)


def wish_in(text: str) -> Wish:
    """What a text asks for, as far as the stand-in understands it."""
    found = WISH.search(text)
    if found is None:
        return Wish()
    return Wish(
        side="buy" if found["side"].lower() == "buy" else "sell",
        quantity=int(found["quantity"]),
        symbol=found["symbol"].upper(),
        limit_cents=None if found["units"] is None else int(found["units"]) * 100 + int(found["cents"] or 0),
    )
