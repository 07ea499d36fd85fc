"""Supervision: who starts, watches, restarts and stops actors. Usable without the rest of seqtor."""

from seqtor.actors.watching import unwatch, watch
from seqtor.tree.errors import ChildRefused, RestartsExceeded, StartFailed
from seqtor.tree.handles import ChildHandle
from seqtor.tree.reports import Report, ReportKind
from seqtor.tree.running import SupervisorRef, start_supervisor
from seqtor.tree.specs import AutoShutdown, ChildSpec, RestartKind, Strategy, SupervisorSpec
from seqtor.tree.view import Tree
from seqtor.tree.window import Restart, Window

__all__ = [
    "AutoShutdown",
    "ChildHandle",
    "ChildRefused",
    "ChildSpec",
    "Report",
    "ReportKind",
    "Restart",
    "RestartKind",
    "RestartsExceeded",
    "StartFailed",
    "Strategy",
    "SupervisorRef",
    "SupervisorSpec",
    "Tree",
    "Window",
    "start_supervisor",
    "unwatch",
    "watch",
]
