"""Messages about effects: what is done to the outside world after a durable commit."""

from __future__ import annotations

from typing import Any, NamedTuple

from seqtor.messages.message import message

__all__ = [
    "CarryOut",
    "DeadLetterRecord",
    "EffectDue",
    "EffectExecuted",
    "EffectRecorded",
    "EffectsEnded",
    "ExecuteEffect",
    "GetDeadLetters",
    "HoldEffects",
    "ReportFree",
    "ResumeEffects",
    "WorkerFree",
]

# To effects ----------------------------------------------------------------------------------------------------------


@message
class CarryOut:
    """From: coordinator, once the commit at `seq` is durable. To: effects. Answer: `EffectsEnded`, when all have ended.

    `effects` are `RecordedEffect`s; their place in the tuple is their index. Twice: the second is ignored.
    """

    seq: int
    effects: tuple[Any, ...]


@message
class ResumeEffects:
    """From: the system, once it takes triggers. To: effects. Answer: `EffectsEnded` for each seq.

    Begin what an earlier process had left. Twice: the second is ignored.
    """


@message
class EffectExecuted:
    """From: effect worker. To: effects. Answer: none; how one execution ended.

    `error` is what the function raised and `failure` its record, both None if it returned; `submission` is then the
    trigger that it returned and `accepted` its record, both None if it returned none. `worker` is the URN of who executed.
    Twice: the second is ignored.
    """

    seq: int
    index: int
    attempt: int
    submission: Any
    accepted: Any
    error: BaseException | None
    failure: Any
    worker: str


@message
class ReportFree:
    """From: effects, after a restart. To: an effect worker. Answer: `WorkerFree`, when it comes to it. Twice: harmless."""


@message
class WorkerFree:
    """From: an effect worker with nothing to do. To: effects. Answer: none. Twice: harmless."""

    worker: str


@message
class EffectDue:
    """From: effects, by a timer. To: effects. Answer: none; the wait before `attempt` is over. Twice: ignored."""

    seq: int
    index: int
    attempt: int


@message
class EffectRecorded:
    """From: journal, as its answer to `AppendEntry`. To: effects. Answer: none; the end of the effect is on disk.

    Twice: the second is ignored.
    """

    seq: int
    index: int


@message
class HoldEffects:
    """From: the system that stops or has broken down. To: effects. Answer: none; nothing more is begun.

    What runs is left alone; what has not ended is resumed at the next start. Twice: harmless.
    """


@message
class GetDeadLetters:
    """From: the edge. To: effects. Answer: a list of up to `limit` `DeadLetterRecord`s, newest first. Twice: two answers."""

    reply_to: Any
    limit: int


# From effects --------------------------------------------------------------------------------------------------------


@message
class ExecuteEffect:
    """From: effects. To: effect worker. Answer: `EffectExecuted`. Twice: executes twice, under the same key.

    `function` is an `EffectFunction`, `effect` the `RecordedEffect`.
    """

    seq: int
    index: int
    attempt: int
    function: Any
    effect: Any


@message
class EffectsEnded:
    """From: effects. To: coordinator. Answer: none; every effect of the commit at `seq` has ended.

    `submitted`: what effects returned may be on its way to the sequencer, so that the system is not at rest.
    Twice: harmless.
    """

    seq: int
    submitted: bool


class DeadLetterRecord(NamedTuple):
    """Something that was given up after its last try: a run, or an effect. Times are POSIX seconds.

    `kind` is "run" or "effect". Of a run: `id` is its run id, `seq` its seq, `name` the trigger's, `attempts` how many
    runs there were. Of an effect: `id` is the key that every try had, `seq` the commit that released it, `effect_index` its
    place there, `name` the function's. `payload` is JSON, of the model's or trigger type's `version`; `error` the text of
    the last exception; `submitted_at` when the trigger was handed in, None for an effect. `resubmitted_as` is the run id
    of the resubmission, once there is one.
    """

    id: str
    kind: str
    seq: int
    name: str
    payload: Any
    error: str
    attempts: int
    time: float
    effect_index: int | None = None
    submitted_at: float | None = None
    version: int = 1
    resubmitted_as: str | None = None

    @property
    def place(self) -> str:
        """What tells it from every other: its seq, with `.effect_index` for an effect."""
        return f"{self.seq}" if self.effect_index is None else f"{self.seq}.{self.effect_index}"
