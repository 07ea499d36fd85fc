"""All messages between actors, in the order of a run's life; the reference page is made from this list."""

from __future__ import annotations

from seqtor.messages.commits import AttemptCrashed, CommitJudged, CommitRun, JudgeCommit
from seqtor.messages.effects import CarryOut
from seqtor.messages.journal import (
    AppendEntry,
    AppendIntake,
    AwaitDurable,
    CheckpointDue,
    FinishCheckpoint,
    FlushIntake,
    GetOpenWork,
    IntakeWaited,
    KeepCheckpointPart,
    MakeCheckpoint,
    OpenWorkFound,
    ReadJournal,
    RunsDurable,
    TrimJournal,
)
from seqtor.messages.lifecycle import ActorCrashed, DeadLetter, Drain, Drained, StoreRecovered, StoreRefusedToStart
from seqtor.messages.refusals import DuplicateIntent, MailboxFull, StaleAttempt, StaleEpoch
from seqtor.messages.runs import (
    AcceptTriggers,
    ExecuteRun,
    GetConflicts,
    GetRecord,
    GetStats,
    ReplaceRun,
    RunConflicted,
    RunsEnded,
    RunsSequenced,
)
from seqtor.messages.stores import ApplyCommits, ValidateCommit, ValidationDone

__all__ = ["CATALOGUE"]

CATALOGUE: tuple[type, ...] = (
    AppendIntake,
    IntakeWaited,
    FlushIntake,
    AcceptTriggers,
    RunsSequenced,
    ExecuteRun,
    CommitRun,
    RunConflicted,
    ReplaceRun,
    JudgeCommit,
    CommitJudged,
    ValidateCommit,
    ValidationDone,
    RunsEnded,
    RunsDurable,
    ApplyCommits,
    CarryOut,
    AppendEntry,
    AwaitDurable,
    GetStats,
    GetRecord,
    GetConflicts,
    ReadJournal,
    CheckpointDue,
    GetOpenWork,
    OpenWorkFound,
    MakeCheckpoint,
    KeepCheckpointPart,
    FinishCheckpoint,
    TrimJournal,
    Drain,
    Drained,
    StoreRecovered,
    StoreRefusedToStart,
    ActorCrashed,
    AttemptCrashed,
    DeadLetter,
    MailboxFull,
    StaleEpoch,
    StaleAttempt,
    DuplicateIntent,
)
