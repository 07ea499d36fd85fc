"""What a system is still busy with, and who waits for whom.

Owns the look at a system that stands still between two steps of its dispatchers, where its parts may be read as they lie.
Asks no actor: it tells of systems in which none would answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from seqtor.actors.effects.actor import Stage
from seqtor.actors.submissions import Submission
from seqtor.core import RunningSystem

__all__ = ["Work", "shown"]

SHOWN_MAX = 10
TEXT_MAX = 160


def shown(value: Any) -> str:
    """A value in a line of text."""
    text = repr(value)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}..."


class Work:
    """What one running system has to do: what is under way, and what waits for its time."""

    def __init__(self, running: RunningSystem) -> None:
        self._running = running

    def left(self) -> bool:
        """Whether anything goes on that needs no further time to be due."""
        room = self._running._ledger.waiting_room
        return (
            (len(self._running.intake.open) > len(room) and any(self._runs()))
            or any(self._effects())
            or self._facts > 0
        )

    def waits(self) -> bool:
        """Whether anything waits for its time: delayed triggers, and retries of runs and of effects."""
        return bool(len(self._running._ledger.waiting_room)) or any(self._waiting_effects())

    def is_tried_again(self, seq: int, index: int) -> bool:
        """Whether this effect has failed, and the time of its next try is set."""
        return any((each.seq, each.index) == (seq, index) for each in self._waiting_effects())

    def _runs(self) -> Iterator[Submission[Any]]:
        room = self._running._ledger.waiting_room
        return (each for each in self._running.intake.open if each not in room)

    def _effects(self) -> Iterator[Any]:
        return (each for each in self._open_effects() if each.stage is not Stage.WAITING)

    def _waiting_effects(self) -> Iterator[Any]:
        """Those with a timer: who waits without one is never tried again."""
        return (each for each in self._open_effects() if each.stage is Stage.WAITING and each.timer is not None)

    def _open_effects(self) -> list[Any]:
        actor = getattr(self._running._effects, "_actor", None)
        return [] if actor is None else list(actor._open.values())

    @property
    def _facts(self) -> int:
        book = self._running.reactions.book
        return len(book.pending) if book is not None and book.busy else 0

    def told(self) -> str:
        """Who waits for whom, a line each."""
        lines = [*self._of_runs(), *self._of_effects()]
        if self._facts:
            lines.append(f"reactions: {self._facts} facts are not matched")
        if len(lines) > SHOWN_MAX:
            lines[SHOWN_MAX:] = [f"and {len(lines) - SHOWN_MAX} more"]
        return "\n".join(f"  {line}" for line in [*lines, *self._of_waiting()])

    def _of_runs(self) -> Iterator[str]:
        running = self._running
        waits = {seq: (blocker, why) for seq, blocker, why in running._path.order.waits(1 << 30)}
        by_seq = {each.seq: each for each in self._runs() if each.seq is not None}
        now = running.now()
        for submission in sorted(self._runs(), key=lambda each: (each.seq is None, each.seq or 0, each.arrival)):
            name = shown(submission.trigger)
            seq = submission.seq
            if seq is None and submission.run is not None:
                yield f"{name} executes outside of the order (sequence='completion')"
            elif seq is None:
                rate = submission.handler.rate
                yield f"{name} waits for a seq" + ("" if rate is None else f"; rate={rate:g} runs a second may begin")
            elif seq in waits:
                blocker, why = waits[seq]
                other = by_seq.get(blocker)
                named = "" if other is None else f" ({other.handler.name})"
                done = "has executed and " if why == "end" else ""
                yield f"seq {seq}: {name} {done}waits to {why} until seq {blocker}{named} has ended"
            else:
                attempt = 0 if submission.run is None else submission.run.attempt
                doing = f"executes (attempt {attempt})" if attempt else "waits for its handler to be called"
                elapsed_s = now - submission.sequenced_at
                yield f"seq {seq}: {name} {doing}, for {elapsed_s:g} s; its deadline is {submission.handler.deadline_s:g} s"

    def _of_effects(self) -> Iterator[str]:
        for each in self._effects():
            yield (
                f"the effect {each.effect.name!r} of seq {each.seq} is {each.stage.value} (try {each.attempt}), payload "
                f"{shown(each.effect.payload)}"
            )

    def _of_waiting(self) -> Iterator[str]:
        room = self._running._ledger.waiting_room
        if len(room):
            yield f"(not waited for: {len(room)} delayed triggers or retries, the next is due in {room.next_s:g} s)"
        effects = len(list(self._waiting_effects()))
        if effects:
            yield f"(not waited for: {effects} effects that have failed and are tried again later)"
