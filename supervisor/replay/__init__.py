"""Replay: recorded runs are executed again and held against the journal."""

from seqtor.replay.execution import Program
from seqtor.replay.replaying import Progress, ReplayReport, replay, require_range

__all__ = ["Program", "Progress", "ReplayReport", "replay", "require_range"]
