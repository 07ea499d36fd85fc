"""Tells a history that was played, line by line: who did what at which seq, what was read, written and answered.

Owns the text. Pure. Promises: the same history gives the same text, byte for byte; nothing of the process or of the machine
is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from seqtor.actors.submissions import Submission
from seqtor.messages.events import OURS
from seqtor.messages.runs import RunsEnded, State
from seqtor.messages.stores import StoreAccess
from seqtor.messages.triggers import Priority
from seqtor.testing.checkers.evidence import Ended, Evidence
from seqtor.testing.checkers.watching import (
    Accepted,
    Answered,
    Appended,
    Began,
    Conflicted,
    EffectBegan,
    Intent,
    OrderBegan,
    RunsTold,
)
from seqtor.testing.simulating.playing import Injected, Played

__all__ = ["Story", "cut", "told"]

TEXT_MAX = 160
ENDS_IN = {State.RUNNING: "was given up", State.COMMITTED: "wants to commit"}


def told(played: Played) -> Iterator[str]:
    """The lines of a history, its violations last."""
    plan = played.plan
    yield (
        f"{len(plan.handed)} triggers, {len(plan.faults)} faults, {len(played.switches)} switches; max_in_flight="
        f"{plan.max_in_flight}, {plan.threads} threads, lateness {plan.lateness:g}"
    )
    story = Story(played.evidence, all_triggers=True)
    for note in played.evidence.notes:
        yield from story.lines(note)
    yield ""
    yield from [f"FOUND {each}" for each in played.violations]


class Story:
    """What has been told so far; `all_triggers`: of the runtime's own, too. `names` are what runs are called, by ids."""

    def __init__(self, evidence: Evidence, *, all_triggers: bool = False) -> None:
        self._evidence = evidence
        self._all_triggers = all_triggers
        self._writers = evidence.writers()
        self.names: dict[str, str] = {}
        self._executed: set[tuple[int, int, int]] = set()  # Attempts that were told, by process and seq.
        self._conflicts: dict[tuple[int, int, int], list[str]] = {}  # What is to be told behind them.

    def lines(self, note: Any) -> Iterator[str]:
        """What one note says, if it says anything."""
        if isinstance(note, Injected):
            yield f"-- {note.text}"
        elif isinstance(note, Began) and note.life.number:
            yield f"-- process {note.life.number + 1} begins behind seq {note.seq}"
        elif isinstance(note, OrderBegan) and note.epoch > 1:
            yield f"-- the commit path goes on in epoch {note.epoch}"
        elif isinstance(note, Accepted):
            yield from self._accepted(note)
        elif isinstance(note, Intent):
            yield from self._intent(note)
            attempt = (note.life.number, note.seq, note.attempt)
            self._executed.add(attempt)
            yield from self._conflicts.pop(attempt, ())
        elif isinstance(note, RunsTold):
            yield from self._ended(note.message)
        elif isinstance(note, Appended) and note.group.commits:
            seqs = ", ".join(str(row.seq) for row in note.group.commits)
            yield f"   durable: seq {seqs}"
        elif isinstance(note, EffectBegan):
            yield f"   seq {note.seq}: effect {note.number}{self._effect_name(note)} is carried out"
        elif isinstance(note, Conflicted):
            attempt = (note.life.number, note.seq, note.conflict.attempt)
            if attempt in self._executed:
                yield self._conflicted(note)
            else:  # It is told behind what it is about.
                self._conflicts[attempt] = [self._conflicted(note)]
        elif isinstance(note, Answered) and self._is_told(note.submission):
            yield f"   {self.name(note.run)} is answered: {note.state.value}"

    def _effect_name(self, note: EffectBegan) -> str:
        ended = self._evidence.ended.get(note.seq)
        released = None if ended is None else ended.run.released
        return "" if released is None else f" ({released.effects[note.number].name})"

    @staticmethod
    def _conflicted(note: Conflicted) -> str:
        _, store, key, writer = note.conflict
        what = "something" if store == "*" else f"{store}[{key!r}]"
        by = "" if writer is None else f" by seq {writer}"
        return f"   seq {note.seq} attempt {note.conflict.attempt} has read {what}, which was changed{by}: it executes again"

    def _is_told(self, submission: Submission[Any]) -> bool:
        return self._all_triggers or not submission.trigger.trigger_name.startswith(OURS)

    def _accepted(self, note: Accepted) -> Iterator[str]:
        submission = note.submission
        if not self._is_told(submission) or note.run in self.names:
            return
        about = "".join(f", {each}" for each in self._circumstances(submission))
        yield f"   {self.name(note.run)} is handed in{about}: {cut(repr(submission.trigger))}"

    def _circumstances(self, submission: Submission[Any]) -> Iterator[str]:
        """By whom it is handed in, and how, where that is not the ordinary way."""
        if submission.cause not in (None, submission.id):
            yield f"by {self.name(submission.cause)}"
        if submission.key is not None:
            yield f"under the key {submission.key!r}"
        if submission.priority != Priority.NORMAL:
            yield f"as {Priority(submission.priority).name}"
        if submission.due is not None:
            yield f"to run {submission.due - submission.submitted_at:g} s later"

    def name(self, run: str) -> str:
        """What a run is called here, from its first mention on."""
        return self.names.setdefault(run, f"#{len(self.names) + 1}")

    def _intent(self, intent: Intent) -> Iterator[str]:
        end = ENDS_IN.get(intent.outcome, f"ends as {intent.outcome.value}")
        yield (
            f"   seq {intent.seq} attempt {intent.attempt} ({self.name(intent.submission.id)}) has executed on the state "
            f"after seq {intent.snapshot_seq}, and {end}"
        )
        for access in intent.accesses:
            for what in self._reads(intent, access):
                yield f"      read   {what}"
            store = self._evidence.store_name(access.store)
            for write in access.writes:
                yield f"      writes {store}[{write.key!r}] = {self._value(access.store, write.key, write.op)}"

    def _reads(self, intent: Intent, access: StoreAccess) -> Iterator[str]:
        store = self._evidence.store_name(access.store)
        for key in access.keys:
            writer = self._seen_writer(intent, access.store, key)
            if writer is None:
                yield f"{store}[{key!r}] as at the start"
            else:
                op = [write.op for index, writes in writer.run.writes if index == access.store for write in writes
                      if write.key == key][-1]  # fmt: skip
                yield f"{store}[{key!r}] = {self._value(access.store, key, op)}, written by seq {writer.seq}"
        if access.whole:
            yield f"all of {store}"
        for start, stop in access.ranges:
            yield f"{store} from {start!r} to {stop!r}"

    def _seen_writer(self, intent: Intent, store: int, key: str) -> Ended | None:
        seqs = [
            seq for seq, written in self._writers.get(store, ())
            if written == key and seq < intent.seq and (seq <= intent.snapshot_seq or seq in intent.seen)
        ]  # fmt: skip
        return self._evidence.ended[seqs[-1]] if seqs else None

    def _value(self, store: int, key: str, op: Any) -> str:
        spec = self._evidence.store(store).spec
        try:
            return cut(json.dumps(from_json(spec.op_json(key, op)), ensure_ascii=False))
        except Exception:  # A delta, or an intent that could not be resolved: it has no form of its own.
            return cut(to_json(op, fallback=lambda _: "...").decode())

    def _ended(self, message: RunsEnded) -> Iterator[str]:
        for ended in message.runs:
            why = "" if ended.error is None else f" ({type(ended.error).__name__}: {ended.error})"
            result = f", result {cut(repr(ended.result))}" if ended.result is not None else ""
            yield f"   seq {ended.seq} ({self.name(ended.submission.id)}) {ended.state.value}{cut(why)}{result}"
            yield from self._written(ended.writes)

    def _written(self, writes: Sequence[tuple[int, Sequence[Any]]]) -> Iterator[str]:
        for store, each in writes:
            for write in each:
                value = self._value(store, write.key, write.op)
                yield f"      wrote  {self._evidence.store_name(store)}[{write.key!r}] = {value}"


def cut(text: str) -> str:
    """As much of a text as fits into a line."""
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}..."
