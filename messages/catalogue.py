"""All messages between actors, in the order of a run's life; the reference page is made from this list."""

from __future__ import annotations

from seqtor.messages.commits import AttemptCrashed, CommitJudged, CommitRun, JudgeCommit
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
    ApplyCommits,
    GetStats,
    GetRecord,
    GetConflicts,
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
