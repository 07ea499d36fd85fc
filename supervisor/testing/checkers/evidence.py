"""What the notes of a watched system come to: which runs have ended where, what is durable since when.

Owns the reading of the notes, once for all checkers. Pure: asks no system. Shares no decision with the runtime: what a run
read, wrote and released is taken as it was told and recorded, and whether that may be is for the checkers to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import EndedRun
from seqtor.messages.stores import StoreAccess
from seqtor.testing.checkers.watching import (
    Accepted,
    Answered,
    Appended,
    EffectBegan,
    Intent,
    Life,
    OpenedJournal,
    RunsTold,
)

__all__ = ["Ended", "Evidence", "Row", "Violation", "named"]

TEXT_MAX = 120


class Violation(NamedTuple):
    """One thing that does not hold: the name of the checker that saw it, the seq that it is about, a sentence."""

    checker: str
    seq: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.checker}: {self.text}"


class Row(NamedTuple):
    """A terminal record as it became durable: the place of the note, by which process, and what it says."""

    at: int
    life: Life
    record: dict[str, Any]


class Ended(NamedTuple):
    """How a run has ended that stands: it is durable, or in memory was told."""

    seq: int
    at: int
    life: Life
    run: EndedRun
    intent: Intent | None

    @property
    def accesses(self) -> Sequence[StoreAccess]:
        """What its last attempt has read and wanted to write."""
        return () if self.intent is None else self.intent.accesses


class Evidence:
    """The notes in order, and what they say by seq and by run."""

    def __init__(self, lives: Sequence[Life], notes: Sequence[Any]) -> None:
        self.lives = lives
        self.notes = notes
        self.is_journaled = any(life.is_journaled for life in lives)
        self.rows: dict[int, list[Row]] = defaultdict(list)
        self.entries: dict[str, list[tuple[int, str, str]]] = defaultdict(list)  # By ref: place, kind and body.
        self.told: dict[tuple[int, int], list[tuple[int, EndedRun]]] = defaultdict(list)  # By life and seq.
        self.accepted: dict[str, tuple[int, Submission[Any]]] = {}  # By run: when it was handed in first.
        self.answered: list[tuple[int, Answered]] = []
        self.effects: dict[tuple[int, int], list[int]] = defaultdict(list)  # When they were begun, by seq and index.
        self.intents: list[tuple[int, Intent]] = []
        self.openings: list[tuple[int, OpenedJournal]] = []
        self._intents: dict[tuple[int, int], list[tuple[int, Intent]]] = defaultdict(list)
        for at, note in enumerate(notes):
            self._take(at, note)
        self.ended = {each.seq: each for each in self._all_ended()}

    def _take(self, at: int, note: Any) -> None:
        if isinstance(note, Accepted):
            self.accepted.setdefault(note.run, (at, note.submission))
        elif isinstance(note, Answered):
            self.answered.append((at, note))
        elif isinstance(note, Intent):
            self.intents.append((at, note))
            self._intents[note.life.number, note.seq].append((at, note))
        elif isinstance(note, RunsTold):
            for ended in note.message.runs:
                self.told[note.life.number, ended.seq].append((at, ended))
        elif isinstance(note, EffectBegan):
            self.effects[note.seq, note.number].append(at)
        elif isinstance(note, OpenedJournal):
            self.openings.append((at, note))
        elif isinstance(note, Appended):
            for row in note.group.commits:
                self.rows[row.seq].append(Row(at, note.life, from_json(row.body)))
            for entry in note.group.entries:
                self.entries[entry.ref].append((at, entry.kind, entry.body))

    def _all_ended(self) -> Iterator[Ended]:
        for (number, seq), tellings in self.told.items():
            life = self.lives[number]
            at, run = tellings[0]
            if life.is_journaled and not any(row.life is life for row in self.rows.get(seq, ())):
                continue  # It was lost with its process: nobody was told, and the seq was given again.
            intents = [
                each for place, each in self._intents[number, seq] if place < at and each.attempt == run.attempts
            ]
            yield Ended(seq, at, life, run, intents[-1] if intents else None)

    def durable_at(self, seq: int) -> int | None:
        """When the end of a seq stood: the place of the note; None if it never did."""
        if self.is_journaled:
            rows = self.rows.get(seq)
            return rows[0].at if rows else None
        ended = self.ended.get(seq)
        return None if ended is None else ended.at

    def store(self, index: int) -> StoreRef[Any]:
        """The store that messages call so, as the first process had it that came so far."""
        return next(ref for life in self.lives for ref in life.stores if ref.index == index)

    def store_name(self, index: int) -> str:
        """What the program calls a store."""
        return self.store(index).name

    def writers(self) -> dict[int, list[tuple[int, str]]]:
        """By store: which seq has written which key, in rising order."""
        found: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for seq in sorted(self.ended):
            for store, writes in self.ended[seq].run.writes:
                found[store] += [(seq, write.key) for write in writes]
        return found


def named(submission: Submission[Any]) -> str:
    """A trigger in a sentence."""
    text = repr(submission.trigger)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}..."
