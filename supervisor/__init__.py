"""seqtor: an actor-model runtime that executes triggers in one total order."""

from loguru import logger

from seqtor.actors.calls import current_call_id
from seqtor.actors.effects import EffectContext
from seqtor.actors.resources import ResourceRef
from seqtor.actors.retries import Retry
from seqtor.actors.stores import Access, Collection, CollectionView, Document, DocumentView, StoreActor, StoreRef
from seqtor.actors.submissions import Submission
from seqtor.actors.transactions import Transaction, current_transaction
from seqtor.messages import (
    Aborted,
    Cancelled,
    CommitIntent,
    CommitRecord,
    ConflictReport,
    DeadLetterRecord,
    DeadlineExceeded,
    FootprintViolation,
    HandlerFailed,
    JournalCorrupted,
    JournalLocked,
    KeyReused,
    NotLeader,
    NotRunning,
    OutcomeUnknown,
    Overloaded,
    Priority,
    Record,
    RecordedFailure,
    RegistrationError,
    Rejected,
    ReplayDiverged,
    RunRecord,
    SeqtorError,
    State,
    Stats,
    StoreUnavailable,
    Trigger,
    UnknownTrigger,
    UseTransaction,
    WouldDeadlock,
)
from seqtor.registry import Bundle
from seqtor.replay import ReplayReport
from seqtor.settings import Settings
from seqtor.snapshots import Snapshot
from seqtor.system import Supervisor

__version__ = "0.1.0"

logger.disable("seqtor")  # A library is silent until the program says logger.enable("seqtor").

__all__ = [
    "Aborted",
    "Access",
    "Bundle",
    "Cancelled",
    "Collection",
    "CollectionView",
    "CommitIntent",
    "CommitRecord",
    "ConflictReport",
    "DeadLetterRecord",
    "DeadlineExceeded",
    "Document",
    "DocumentView",
    "EffectContext",
    "FootprintViolation",
    "HandlerFailed",
    "JournalCorrupted",
    "JournalLocked",
    "KeyReused",
    "NotLeader",
    "NotRunning",
    "OutcomeUnknown",
    "Overloaded",
    "Priority",
    "Record",
    "RecordedFailure",
    "RegistrationError",
    "Rejected",
    "ReplayDiverged",
    "ReplayReport",
    "ResourceRef",
    "Retry",
    "RunRecord",
    "SeqtorError",
    "Settings",
    "Snapshot",
    "State",
    "Stats",
    "StoreActor",
    "StoreRef",
    "StoreUnavailable",
    "Submission",
    "Supervisor",
    "Transaction",
    "Trigger",
    "UnknownTrigger",
    "UseTransaction",
    "WouldDeadlock",
    "current_call_id",
    "current_transaction",
]
