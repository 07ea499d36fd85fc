"""What the journal keeps: the records of commits, accepted triggers, calls and effects.

Owns their shape, numbered by `FORMAT`; a reader exists for each number that was ever released. They cross the boundary to
the disk, so they are pydantic; values of the user's types are in them as JSON.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from seqtor.messages.runs import State

__all__ = [
    "FORMAT",
    "AcceptedRecord",
    "CallRecord",
    "CommitRecord",
    "DeadRunRecord",
    "EffectRecord",
    "EndedRecord",
    "OpenEffect",
    "OpenReactions",
    "OpenWork",
    "ReactionLink",
    "ReactionRecord",
    "RecordedCall",
    "RecordedConflict",
    "RecordedEffect",
    "RecordedError",
    "RecordedFact",
    "RecordedTrigger",
    "SequencedRecord",
    "WaitingRecord",
]

FORMAT = 1


class JournalRecord(BaseModel):
    """Base of what is kept in the journal; fields of a newer format are refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class RecordedTrigger(JournalRecord):
    """A trigger as JSON: the name and version of its type, and its fields."""

    type: str
    version: int = 1
    payload: JsonValue


class RecordedError(JournalRecord):
    """Why a run ended without a commit, or what a call raised: the exception's class, arguments and text."""

    type: str
    message: str
    code: str | None = None
    details: dict[str, JsonValue] | None = None
    arguments: list[JsonValue] | None = None


class RecordedCall(JournalRecord):
    """The answer of one call outside: its id, and the value or the error that the handler got.

    Those of a run are in the order in which the last attempt got them.
    """

    id: str
    function: str
    value: JsonValue = None
    error: RecordedError | None = None


class RecordedEffect(JournalRecord):
    """An effect that a commit released: the name of its function and its payload, with the version of its model.

    `key` is the key of the dead letter that is carried out again; None for the key that follows from its place. `alarm`: the
    commit followed from an alarm, so that its failure is none.
    """

    name: str
    version: int = 1
    payload: JsonValue
    key: str | None = None
    alarm: bool = False


class RecordedConflict(JournalRecord):
    """What made one attempt execute again."""

    attempt: int
    store: str
    key: str
    writer_seq: int | None = None


class AcceptedRecord(JournalRecord):
    """A trigger that was accepted: one entry of the journal, or part of the commit that submitted it.

    Times are POSIX seconds. `arrival` orders the submissions of one process; `cause` is the run that submitted it. A run
    that a retry policy has made is the `run_number`-th of its trigger and follows the run `retry_of`; it is in the record
    of the run that it follows. `due` is before when a retry or a delayed trigger is not to run. `resubmits` is the place of
    a dead letter: its seq, with `.index` for an effect. `deferrals` is how many seqs of the run have ended as `deferred`.
    `coalesce` is the key under which it becomes one with others that wait. `scheduled` is the schedule that started it and
    the slot (POSIX seconds). `causes` are the ids of the facts of which a reaction has made it.
    """

    format: int = FORMAT
    run: str
    arrival: int
    trigger: RecordedTrigger
    priority: int
    event_time: float
    submitted_at: float
    key: str | None = None
    cause: str | None = None
    run_number: int = 1
    retry_of: str | None = None
    due: float | None = None
    coalesce: str | None = None
    resubmits: str | None = None
    deferrals: int = 0
    scheduled: tuple[str, float] | None = None
    causes: list[str] = Field(default_factory=list)


class CallRecord(JournalRecord):
    """The entry that makes the answer of a call durable before the handler gets it; without `call` the first one starts.

    A run that has one keeps its inputs across a restart, so that it asks the same again: `now` is its `tx.now`,
    `first_snapshot` the seq after which its first attempt read (for `tx.peek`).
    """

    format: int = FORMAT
    run: str
    now: float
    first_snapshot: int = 0
    call: RecordedCall | None = None


class SequencedRecord(JournalRecord):
    """The entry that binds a run to its seq before it has ended, because a later seq has overtaken it.

    It is durable with the record of the first that does. After a crash the run executes again under that seq, with
    `sequenced_at` as its `tx.now`; all other seqs are given anew. `writes` is what it had declared then, and others relied
    on: stores, and (store, key).
    """

    format: int = FORMAT
    run: str
    seq: int
    sequenced_at: float
    writes: list[tuple[str, str | None]] = Field(default_factory=list)


class EffectRecord(JournalRecord):
    """How an effect ended: carried out (`submitted` is the trigger that it returned), or given up with `error`.

    What was given up is here as `effect`, because the commit that released it may be trimmed.
    """

    format: int = FORMAT
    seq: int
    index: int
    attempts: int
    ended_at: float
    error: RecordedError | None = None
    effect: RecordedEffect | None = None
    submitted: AcceptedRecord | None = None


class EndedRecord(JournalRecord):
    """The terminal record of an accepted trigger that never had a seq, and never will: an entry of the journal."""

    format: int = FORMAT
    run: str
    state: State
    ended_at: float


class AbsorbedTrigger(JournalRecord):
    """A trigger that became one with others, by its run id: how it was handed in."""

    run: str
    trigger: RecordedTrigger


class CommitRecord(JournalRecord):
    """The terminal record of one seq: how the run ended, what it read from, wrote, was answered and released.

    `previous` is the seq of the record appended before it. `snapshot` is the seq after which the last attempt read,
    `first_snapshot` that of the first attempt (for `tx.peek`); `reads` is a digest of the names that were read. `writes`
    are (store, key, resulting value); a version of the stored model above 1 follows as fourth. Times are POSIX seconds.
    `retry` is the run that follows one that ended as `retrying`, `deferred` the same run again, of a seq that ended so: it
    goes on, with its calls, until another record of it. Of a run with `sequence="completion"` `sequenced_at` is when it
    began, and `snapshot` may lie long before it. `coalesced` are the accepted triggers that the run stands for: this is
    their terminal record, too; `absorbed` are these with their triggers, if a reaction waits for such a status. `scheduled`
    is as in `AcceptedRecord`.
    """

    format: int = FORMAT
    seq: int
    previous: int
    epoch: int
    run: str
    state: State
    attempt: int
    trigger: RecordedTrigger
    handler_version: int = 1
    priority: int
    event_time: float
    submitted_at: float
    sequenced_at: float
    ended_at: float
    handler_s: float
    snapshot: int
    first_snapshot: int
    reads: str
    writes: list[tuple[str, str, JsonValue] | tuple[str, str, JsonValue, int]] = Field(default_factory=list)
    result: JsonValue = None
    error: RecordedError | None = None
    key: str | None = None
    cause: str | None = None
    calls: list[RecordedCall] = Field(default_factory=list)
    submitted: list[AcceptedRecord] = Field(default_factory=list)
    effects: list[RecordedEffect] = Field(default_factory=list)
    conflicts: list[RecordedConflict] = Field(default_factory=list)
    run_number: int = 1
    retry_of: str | None = None
    resubmits: str | None = None
    scheduled: tuple[str, float] | None = None
    coalesced: list[str] = Field(default_factory=list)
    absorbed: list[AbsorbedTrigger] = Field(default_factory=list)
    retry: AcceptedRecord | None = None
    deferred: AcceptedRecord | None = None
    causes: list[str] = Field(default_factory=list)


class DeadRunRecord(JournalRecord):
    """A run that ended as failed or past its deadline, and that no retry follows; all of it is in its commit's record.

    Kept by checkpoints, because that record may be trimmed. Times are POSIX seconds.
    """

    seq: int
    run: str
    trigger: RecordedTrigger
    state: State
    priority: int
    submitted_at: float
    ended_at: float
    run_number: int = 1
    error: RecordedError | None = None


class RecordedFact(JournalRecord):
    """A fact that a reaction has yet to match, or that waits for others: what it is about, as JSON.

    `kind` is "event", "status", "result", "failure", "effect" or "tick"; `name` the event's code, or the name of the
    trigger, the effect or the schedule; `run` the run that it is about, of an event the one that emitted it; `at` when it
    was recorded, POSIX seconds. The `payload` of a tick is its slot.
    """

    kind: str
    id: str
    at: float
    seq: int | None
    name: str
    run: str | None = None
    version: int = 1
    payload: JsonValue = None
    state: State | None = None
    result: JsonValue = None
    error: RecordedError | None = None
    attempts: int = 0


class WaitingRecord(JournalRecord):
    """A fact that waits in a part of a half-met composite, since `at`; it has met these `conditions` of the part."""

    composite: str
    key: str
    part: int
    at: float
    conditions: list[int]
    fact: RecordedFact


class ReactionLink(JournalRecord):
    """What became of a fact: the reactions that it has matched, and the runs that they have started with it."""

    fact: str
    matched: list[str] = Field(default_factory=list)
    started: list[str] = Field(default_factory=list)


class ReactionRecord(JournalRecord):
    """The entry that says what the reactor has decided: from here on these facts are `matched`, whatever crashes.

    `number` counts them; one that is written twice has the same. `started` are the triggers that are accepted with it.
    `waiting` began to wait in half-met composites; `gone` wait no more (composite, key, id of the fact). `failed` are
    reactions whose functions raised: (reaction, id of the fact, text). `now` is the newest time that a composite has
    seen, which not every fact has met.
    """

    format: int = FORMAT
    number: int
    at: float
    matched: list[str]
    now: float = 0.0
    started: list[AcceptedRecord] = Field(default_factory=list)
    waiting: list[WaitingRecord] = Field(default_factory=list)
    gone: list[tuple[str, str, str]] = Field(default_factory=list)
    links: list[ReactionLink] = Field(default_factory=list)
    failed: list[tuple[str, str, str]] = Field(default_factory=list)


class OpenReactions(JournalRecord):
    """What a checkpoint remembers of reactions. `kinds` are the kinds of facts that are of interest since `epoch`.

    `facts` are those that have yet to be matched, in append order, `waiting` those of half-met composites. `matched` are the
    facts of later commits that are matched already: (id, seq). `now` is the newest time that a composite has seen, `number`
    that of the newest `ReactionRecord`.
    """

    epoch: int
    kinds: list[str]
    facts: list[RecordedFact] = Field(default_factory=list)
    waiting: list[WaitingRecord] = Field(default_factory=list)
    matched: list[tuple[str, int]] = Field(default_factory=list)
    now: float = 0.0
    number: int = 0


class OpenEffect(JournalRecord):
    """An effect that was released at `seq` and has not ended."""

    seq: int
    index: int
    effect: RecordedEffect


class OpenWork(JournalRecord):
    """What a checkpoint remembers beside the stores: accepted triggers, calls and effects that have not ended.

    `now` is the last `sequenced_at`; `shapes` are the forms in which the stores are kept; `unkept` are the stores that
    make no checkpoint, so that their commits are needed from the first on; `closed` are the effects (seq, index) of later
    commits that have ended already, `ended` the runs submitted by later commits that have ended without a seq. `dead` are
    effects that were given up, `dead_runs` runs; `resubmitted` tells by the place of a dead letter (seq, or seq.index)
    which run was its resubmission.

    Where later seqs had overtaken the checkpoint's: `sequenced` are the runs that are bound to a seq and have not ended;
    `links` (seq, hash) and `passed` are what the records behind the checkpoint are held against, if that is not the one
    hash at its seq: the records up to it that one behind it follows, and those behind it that one up to it has followed.
    `reactions` is there if the system has any. `changed` tells of the stores that write outside up to which seq they may
    have been changed, `outside` up to which seq none of them needs the journal any more.
    """

    format: int = FORMAT
    now: float
    shapes: dict[str, str]
    unkept: list[str] = Field(default_factory=list)
    accepted: list[AcceptedRecord] = Field(default_factory=list)
    calls: list[CallRecord] = Field(default_factory=list)
    effects: list[OpenEffect] = Field(default_factory=list)
    closed: list[tuple[int, int]] = Field(default_factory=list)
    ended: list[str] = Field(default_factory=list)
    dead: list[EffectRecord] = Field(default_factory=list)
    dead_runs: list[DeadRunRecord] = Field(default_factory=list)
    resubmitted: dict[str, str] = Field(default_factory=dict)
    sequenced: list[SequencedRecord] = Field(default_factory=list)
    links: list[tuple[int, str]] = Field(default_factory=list)
    passed: list[int] = Field(default_factory=list)
    reactions: OpenReactions | None = None
    changed: dict[str, int] = Field(default_factory=dict)
    outside: int | None = None
