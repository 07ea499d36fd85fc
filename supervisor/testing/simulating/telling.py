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
from seqtor.testing.checkers.evidence import Ended, Evidence
from seqtor.testing.checkers.watching import (
    Accepted,
    Answered,
    Appended,
    Began,
    EffectBegan,
    Intent,
    OrderBegan,
    RunsTold,
)
from seqtor.testing.simulating.playing import Injected, Played

__all__ = ["told"]

TEXT_MAX = 160
ENDS_IN = {State.RUNNING: "was given up", State.COMMITTED: "wants to commit"}


def told(played: Played) -> Iterator[str]:
    """The lines of a history, its violations last."""
    plan = played.plan
    yield (
        f"{len(plan.handed)} triggers, {len(plan.faults)} faults, {len(played.switches)} switches; max_in_flight="
        f"{plan.max_in_flight}, {plan.threads} threads, lateness {plan.lateness:g}"
    )
    story = Story(played.evidence)
    for note in played.evidence.notes:
        yield from story.lines(note)
    yield ""
    yield from [f"FOUND {each}" for each in played.violations]


class Story:
    """What has been told so far."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._writers = evidence.writers()
        self._names: dict[str, str] = {}  # Of runs: what is short and tells them apart.

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
        elif isinstance(note, RunsTold):
            yield from self._ended(note.message)
        elif isinstance(note, Appended) and note.group.commits:
            seqs = ", ".join(str(row.seq) for row in note.group.commits)
            yield f"   durable: seq {seqs}"
        elif isinstance(note, EffectBegan):
            yield f"   seq {note.seq}: effect {note.number} is carried out"
        elif isinstance(note, Answered) and not _is_ours(note.submission):
            yield f"   {self._name(note.run)} is answered: {note.state.value}"

    def _accepted(self, note: Accepted) -> Iterator[str]:
        if _is_ours(note.submission) or note.run in self._names:
            return
        cause = note.submission.cause
        by = f", by {self._name(cause)}" if cause is not None else ""
        yield f"   {self._name(note.run)} is handed in{by}: {_cut(repr(note.submission.trigger))}"

    def _name(self, run: str) -> str:
        return self._names.setdefault(run, f"#{len(self._names) + 1}")

    def _intent(self, intent: Intent) -> Iterator[str]:
        end = ENDS_IN.get(intent.outcome, f"ends as {intent.outcome.value}")
        yield (
            f"   seq {intent.seq} attempt {intent.attempt} ({self._name(intent.submission.id)}) has executed on the state "
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
        ref = next(ref for ref in self._evidence.lives[0].stores if ref.index == store)
        try:
            return _cut(json.dumps(from_json(ref.spec.op_json(key, op)), ensure_ascii=False))
        except Exception:  # A delta, or an intent that could not be resolved: it has no form of its own.
            return _cut(to_json(op, fallback=lambda _: "...").decode())

    def _ended(self, message: RunsEnded) -> Iterator[str]:
        for ended in message.runs:
            why = "" if ended.error is None else f" ({type(ended.error).__name__}: {ended.error})"
            result = f", result {_cut(repr(ended.result))}" if ended.result is not None else ""
            yield f"   seq {ended.seq} ({self._name(ended.submission.id)}) {ended.state.value}{_cut(why)}{result}"
            yield from self._written(ended.writes)

    def _written(self, writes: Sequence[tuple[int, Sequence[Any]]]) -> Iterator[str]:
        for store, each in writes:
            for write in each:
                value = self._value(store, write.key, write.op)
                yield f"      wrote  {self._evidence.store_name(store)}[{write.key!r}] = {value}"


def _is_ours(submission: Submission[Any]) -> bool:
    return submission.trigger.trigger_name.startswith(OURS)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}..."
