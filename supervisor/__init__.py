"""seqtor: an actor-model runtime that executes triggers in one total order."""

from loguru import logger

from seqtor.actors.calls import current_call_id
from seqtor.actors.effects import EffectContext
from seqtor.actors.resources import ResourceRef
from seqtor.actors.retries import Retry
from seqtor.actors.stores import Access, Collection, CollectionView, Document, DocumentView, StoreActor, StoreRef
from seqtor.actors.submissions import Submission
from seqtor.actors.transactions import Transaction, current_transaction
from seqtor.control import Connection, RemoteSubmission, connect
from seqtor.endings import Ending, Life
from seqtor.logs import configure_logging
from seqtor.messages import (
    Aborted,
    AlreadyResubmitted,
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
from seqtor.tree import (
    AutoShutdown,
    ChildHandle,
    ChildRefused,
    ChildSpec,
    Report,
    ReportKind,
    Restart,
    RestartKind,
    RestartsExceeded,
    StartFailed,
    Strategy,
    SupervisorRef,
    SupervisorSpec,
    Tree,
    start_supervisor,
    unwatch,
    watch,
)

__version__ = "0.1.0"

logger.disable("seqtor")  # A library is silent until the program says configure_logging() or logger.enable("seqtor").

__all__ = [
    "Aborted",
    "Access",
    "AlreadyResubmitted",
    "AutoShutdown",
    "Bundle",
    "Cancelled",
    "ChildHandle",
    "ChildRefused",
    "ChildSpec",
    "Collection",
    "CollectionView",
    "CommitIntent",
    "CommitRecord",
    "ConflictReport",
    "Connection",
    "DeadLetterRecord",
    "DeadlineExceeded",
    "Document",
    "DocumentView",
    "EffectContext",
    "Ending",
    "FootprintViolation",
    "HandlerFailed",
    "JournalCorrupted",
    "JournalLocked",
    "KeyReused",
    "Life",
    "NotLeader",
    "NotRunning",
    "OutcomeUnknown",
    "Overloaded",
    "Priority",
    "Record",
    "RecordedFailure",
    "RegistrationError",
    "Rejected",
    "RemoteSubmission",
    "ReplayDiverged",
    "ReplayReport",
    "Report",
    "ReportKind",
    "ResourceRef",
    "Restart",
    "RestartKind",
    "RestartsExceeded",
    "Retry",
    "RunRecord",
    "SeqtorError",
    "Settings",
    "Snapshot",
    "StartFailed",
    "State",
    "Stats",
    "StoreActor",
    "StoreRef",
    "StoreUnavailable",
    "Strategy",
    "Submission",
    "Supervisor",
    "SupervisorRef",
    "SupervisorSpec",
    "Transaction",
    "Tree",
    "Trigger",
    "UnknownTrigger",
    "UseTransaction",
    "WouldDeadlock",
    "configure_logging",
    "connect",
    "current_call_id",
    "current_transaction",
    "start_supervisor",
    "unwatch",
    "watch",
]
