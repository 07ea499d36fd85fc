"""Messages to and from the journal. What it keeps is in `records.py`."""

from __future__ import annotations

from typing import Any

from seqtor.messages.message import message

__all__ = [
    "AppendEntry",
    "AppendIntake",
    "AwaitDurable",
    "CheckpointDue",
    "CheckpointSkipped",
    "EndTriggers",
    "FinishCheckpoint",
    "FlushIntake",
    "GetOpenWork",
    "IntakeWaited",
    "KeepCheckpointPart",
    "MakeCheckpoint",
    "OpenWorkFound",
    "ReadJournal",
    "RunsDurable",
    "TrimJournal",
]

# To the journal ------------------------------------------------------------------------------------------------------


@message
class AppendIntake:
    """From: the edge, before the sequencer is told. To: journal. Answer: none; see `FlushIntake`. Twice: harmless.

    The rows are written with the next group unless their runs have ended by then.
    """

    submissions: tuple[Any, ...]


@message
class FlushIntake:
    """From: the edge. To: journal. Answer: None, when the submission (accepted or already ended) is durable.

    Twice: answered twice.
    """

    submission: Any
    reply_to: Any


@message
class AppendEntry:
    """From: run (its first call starts, a call's answer), effects (an outcome), reactor (a decision). To: journal.

    Answer: None, when it is durable, and with the start of a call the acceptance of its run, too. `record` is a
    `CallRecord`, an `EffectRecord` or a `ReactionRecord`; `submission` is what the effect returned to be submitted, or a
    tuple of what the reactions start.
    Twice: two entries of which the reader takes the first.
    """

    record: Any
    reply_to: Any
    submission: Any = None


@message
class EndTriggers:
    """From: sequencer; coordinator, after a crash. To: journal. Answer: `TriggersEnded` to the coordinator.

    The submissions will never have a seq; each gets a terminal record, unless nothing of it is on disk. `ended_at` is POSIX
    seconds. Twice: a second record, which says the same.
    """

    submissions: tuple[Any, ...]
    ended_at: float


@message
class AwaitDurable:
    """From: the edge, and runs before a call. To: coordinator. Answer: None, when all seqs through `seq` are durable.

    Or, if that is given, when the first `count` runs to end are. Twice: answered twice.
    """

    reply_to: Any
    seq: int = 0
    count: int = 0


@message
class ReadJournal:
    """From: the edge. To: journal. Answer: what `read(backend)` returns, called between two groups; a bounded piece.

    Twice: read twice.
    """

    read: Any
    reply_to: Any


@message
class IntakeWaited:
    """From: journal, by a timer. To: journal. Answer: none; accepted triggers have waited long enough for their rows.

    Twice: harmless.
    """


@message
class GetOpenWork:
    """From: checkpointer. To: journal. Answer: `OpenWorkFound`, as of now, with the chain at `seq`. Twice: two answers."""

    seq: int
    reply_to: Any


@message
class KeepCheckpointPart:
    """From: checkpointer. To: journal. Answer: none; part `number` of the checkpoint at `seq`. Twice: replaced."""

    seq: int
    number: int
    part: Any


@message
class FinishCheckpoint:
    """From: checkpointer, after the parts. To: journal. Answer: the `CheckpointInfo`, durable. Twice: harmless."""

    info: Any
    reply_to: Any


@message
class CheckpointDue:
    """From: journal, which has grown. To: checkpointer. Answer: none. Twice: the second finds nothing new to keep."""


@message
class CheckpointSkipped:
    """From: checkpointer. To: journal, which asks again later. Answer: none. There was nothing new, or it failed.

    Twice: the same.
    """


@message
class TrimJournal:
    """From: the edge, later journal itself. To: journal. Answer: none; deletes what checkpoint `info` stands for, in pieces.

    Twice: nothing is left to delete.
    """

    info: Any


@message
class MakeCheckpoint:
    """From: checkpointer. To: a store cell. Answer: `state` as bytes, or None. Twice: made twice."""

    state: Any
    reply_to: Any


# From the journal ----------------------------------------------------------------------------------------------------


@message
class RunsDurable:
    """From: journal, after the group is on disk; coordinator passes it on. To: coordinator, sequencer. Answer: none.

    All seqs through `through` are durable, and with those that have overtaken `count` records in all, the first that were
    told. Twice: the second is ignored.
    """

    through: int
    count: int


@message
class OpenWorkFound:
    """From: journal. To: checkpointer. Answer: none; what has not ended as of the entries through `entries_through`.

    `chain` is the hash at the checkpoint's seq, `links` what the records behind it are held against. Twice: harmless.
    """

    chain: bytes
    links: Any
    entries_through: int
    submissions: tuple[Any, ...]
    calls: tuple[Any, ...]
    effects: tuple[Any, ...]
    closed: tuple[tuple[int, int], ...]
    ended: tuple[str, ...]
    dead: tuple[Any, ...]
    dead_runs: tuple[Any, ...]
    resubmitted: tuple[tuple[str, str], ...]
    sequenced: tuple[Any, ...]
    reactions: Any = None
