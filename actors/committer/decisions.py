"""The outbox of the commit order: what its actor has to do at the end of a batch.

Owns what was decided and not carried out. Pure data. Promises: what is forgotten of a run is not done.
"""

from __future__ import annotations

from typing import Any

from seqtor.messages.commits import JudgeCommit
from seqtor.messages.stores import Commit

__all__ = ["Decisions"]


class Decisions:
    """Who is told, asked and started."""

    __slots__ = ("begun", "held", "judge", "replaced", "restarts", "validate")

    def __init__(self) -> None:
        self.begun: list[int] = []  # Seqs of runs with a footprint that may execute for the first time.
        self.held: list[int] = []  # Seqs of those that may not, yet.
        self.restarts: list[tuple[Any, int, int]] = []  # (mailbox of the run, seq, attempt)
        self.replaced: list[tuple[int, int]] = []  # (seq, attempt): the run actor is stuck or gone
        self.judge: JudgeCommit | None = None
        self.validate: list[tuple[int, int, Any, Any, Commit]] = []  # (store, attempt, old state, new state, commit)

    def forget(self, seq: int) -> None:
        """Let nothing be done about a run."""
        self.begun = [each for each in self.begun if each != seq]
        self.restarts = [each for each in self.restarts if each[1] != seq]
        self.replaced = [each for each in self.replaced if each[0] != seq]
        self.validate = [each for each in self.validate if each[4].seq != seq]
        if self.judge is not None and self.judge.seq == seq:
            self.judge = None
