"""Dead letters: the runs that were given up, and which dead letters have been submitted again.

Owns the list of dead runs (that of dead effects is the effects' actor's) and the marks of both. Promises: a run is in it
before its caller has the answer; the newest `DEAD_LETTERS_MAX` are kept; each is resubmitted once. Thread-safe. With a
journal all of it follows from the records there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from seqtor.actors.journal.encoding import model_json
from seqtor.actors.journal.open_runs import DEAD_LETTERS_MAX, forget_oldest
from seqtor.messages.commits import EndedRun
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.records import DeadRunRecord, RecordedEffect, RecordedTrigger
from seqtor.messages.resubmissions import EffectResubmitted
from seqtor.messages.triggers import Trigger

__all__ = ["DeadLetters", "DeadRun", "carry_out_again"]


class DeadRun(NamedTuple):
    """A run that was given up; its trigger as it was handed in, or as an earlier process has kept it."""

    seq: int
    run: str
    name: str
    trigger: Trigger[Any] | RecordedTrigger
    priority: int
    run_number: int
    submitted_at: float
    ended_at: float
    error: str

    def letter(self) -> DeadLetterRecord:
        """What a caller is shown."""
        trigger = self.trigger
        if isinstance(trigger, RecordedTrigger):
            payload, version = from_json(model_json(trigger))["payload"], trigger.version  # A copy: it may be changed.
        else:
            payload, version = from_json(model_json(trigger)), trigger.trigger_version
        return DeadLetterRecord(
            id=self.run,
            kind="run",
            seq=self.seq,
            name=self.name,
            payload=payload,
            error=self.error,
            attempts=self.run_number,
            time=self.ended_at,
            submitted_at=self.submitted_at,
            version=version,
        )


class DeadLetters:
    """The dead letters of one system."""

    def __init__(self, records: Iterable[DeadRunRecord] = (), resubmitted: Mapping[str, str] | None = None) -> None:
        self._lock = threading.Lock()
        self._runs: deque[DeadRun] = deque(map(_of_record, records), maxlen=DEAD_LETTERS_MAX)
        self._resubmitted = dict(resubmitted or {})

    def add(self, ended: EndedRun) -> None:
        """A run was given up. Twice: the second is ignored."""
        submission, error = ended.submission, ended.error
        origin = submission.origin
        retry = None if origin is None else origin.retry
        dead = DeadRun(
            seq=ended.seq,
            run=submission.id,
            name=submission.handler.name,
            trigger=submission.trigger,
            priority=submission.priority,
            run_number=1 if retry is None else retry.run_number,
            submitted_at=submission.submitted_at,
            ended_at=submission.ended_at,
            error="" if error is None else f"{type(error).__name__}: {error}",
        )
        with self._lock:
            if not self._runs or self._runs[-1].seq < ended.seq:
                self._runs.append(dead)

    def newest(self, effects: list[DeadLetterRecord], limit: int) -> list[DeadLetterRecord]:
        """The newest of the runs and of the effects (newest first, at most `limit` of them), with their marks."""
        with self._lock:
            runs = list(self._runs)[: -limit - 1 : -1]
            marks = dict(self._resubmitted)
        letters = [run.letter() for run in runs] + effects
        letters.sort(key=lambda letter: letter.time, reverse=True)
        if not marks:
            return letters[:limit]
        return [letter._replace(resubmitted_as=marks.get(letter.place)) for letter in letters[:limit]]

    def run_at(self, seq: int) -> DeadRun | None:
        """The dead run at a seq."""
        with self._lock:
            return next((run for run in self._runs if run.seq == seq), None)

    def resubmission_of(self, place: str) -> str | None:
        """As which run the dead letter at `place` was submitted again; None if it was not."""
        with self._lock:
            return self._resubmitted.get(place)

    def mark(self, place: str, run_id: str) -> None:
        """The dead letter at `place` was submitted again, as this run."""
        with self._lock:
            self._resubmitted[place] = run_id
            forget_oldest(self._resubmitted)


def carry_out_again(trigger: EffectResubmitted, tx: Any) -> None:
    """The handler of `EffectResubmitted`: releases the effect with its commit, under the key that it had."""
    effect = RecordedEffect(
        name=trigger.effect, version=trigger.version, payload=from_json(trigger.payload_json), key=trigger.key
    )
    tx.effect_again(effect)


def _of_record(record: DeadRunRecord) -> DeadRun:
    error = record.error
    return DeadRun(
        seq=record.seq,
        run=record.run,
        name=record.trigger.type,
        trigger=record.trigger,
        priority=record.priority,
        run_number=record.run_number,
        submitted_at=record.submitted_at,
        ended_at=record.ended_at,
        error="" if error is None else f"{error.type.rpartition('.')[2]}: {error.message}",
    )
