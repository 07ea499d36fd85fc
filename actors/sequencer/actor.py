"""The sequencer: gives each trigger its place in the total order.

Owns the counter of seqs, the queue of waiting triggers and the window of numbered ones. Promises: seqs are 1, 2, 3, ...
without gaps, each given once; a seq is given only when a slot is free and the journal keeps up; `now` never
decreases along the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.ledger import Ledger
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.sequencer.waiting import WaitingTriggers
from seqtor.actors.sequencer.window import Window
from seqtor.messages.journal import RunsDurable
from seqtor.messages.lifecycle import Drain
from seqtor.messages.runs import AcceptTriggers, GetStats, RunsEnded, RunsSequenced

if TYPE_CHECKING:
    from seqtor.actors.submissions import Submission

__all__ = ["Sequencer"]

# Ended runs that the journal may have yet to write. Without a bound a burst runs ahead of the journal, which gets the
# interpreter ever more rarely: 10,000 runs wait for their group, answers are late, and the cycle collector walks them all.
UNDURABLE_MAX = 256


class Sequencer(Actor):
    """Numbers triggers in the order of their priority."""

    receives: ClassVar[tuple[type, ...]] = (AcceptTriggers, RunsEnded, RunsDurable, GetStats, Drain)

    def __init__(
        self,
        clock: Clock,
        window: Window,
        ledger: Ledger,
        in_flight: Sequence[Submission[Any]] = (),
        waiting: Sequence[Submission[Any]] = (),
        *,
        journaled: bool = False,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._window = window
        self._ledger = ledger
        self._waiting = WaitingTriggers()
        self._ended_through = ledger.told.through
        self._durable_through = ledger.durable_through if journaled else math.inf
        self._seq = self._ended_through + len(in_flight)
        self._drains: list[Any] = []
        self.bypassed = 0  # Accepted past the edge (submitted by a commit, or before a restart). Read by the edge, too.
        self.sequenced = 0  # How many were given a seq. Read by the edge to bound the queue; only this actor writes it.
        self.coordinator: Mailbox
        self.committer: Mailbox
        for submission in in_flight:  # Of the core before this one.
            window.enter(submission.seq, submission.handler)  # type: ignore[arg-type]
        for submission in waiting:
            self._waiting.push(submission)

    def on_accept_triggers(self, message: AcceptTriggers) -> None:
        push = self._waiting.push
        if message.bypasses:
            self.bypassed += len(message.submissions)
        for submission in message.submissions:
            push(submission)

    def on_runs_ended(self, message: RunsEnded) -> None:
        leave = self._window.leave
        for ended in message.runs:
            leave(ended.seq, ended.handler_s)
        self._ended_through = message.runs[-1].seq

    def on_runs_durable(self, message: RunsDurable) -> None:
        self._durable_through = message.through

    def on_get_stats(self, message: GetStats) -> None:
        self.on_batch_end()  # What could be numbered is, before it is counted.
        self.committer.tell(self.add_to(message))

    def add_to(self, query: GetStats) -> GetStats:
        """The query with what this actor knows; it passes through all that know something."""
        return GetStats(
            reply_to=query.reply_to, queued=len(self._waiting), current_seq=self._seq, now=self._clock.time()
        )

    def on_drain(self, message: Drain) -> None:
        self._drains.append(message.reply_to)

    def on_batch_end(self) -> None:
        waiting = self._waiting
        if len(waiting) and self._ended_through - self._durable_through <= UNDURABLE_MAX:
            self._sequence(waiting)
        if self._drains and not len(waiting) and not len(self._window):
            for reply_to in self._drains:
                self.coordinator.tell(Drain(reply_to=reply_to))
            self._drains.clear()

    def let_go(self) -> None:
        """Forget what waits, because it was answered; for the system that has stopped or broken down."""
        self._waiting = WaitingTriggers()

    def _sequence(self, waiting: WaitingTriggers) -> None:
        window = self._window
        seq = self._seq
        now = self._clock.time()  # Before any is taken: a crash between the two would lose it.
        numbered: list[Any] = []
        while (cls := waiting.choose()) is not None and window.has_room(waiting.peek(cls).handler):
            submission = waiting.take(cls)
            seq += 1
            submission.seq = seq
            window.enter(seq, submission.handler)
            numbered.append(submission)
        if numbered:
            first_seq, self._seq = self._seq + 1, seq
            self.sequenced += len(numbered)
            ledger = self._ledger
            ledger.now = max(ledger.now, now)
            self.coordinator.tell(
                RunsSequenced(first_seq=first_seq, submissions=tuple(numbered), sequenced_at=ledger.now)
            )
