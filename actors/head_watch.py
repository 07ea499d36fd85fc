"""The watch over the head: names in the log what holds the order up.

Owns when it is looked at, and what was said of it. On the core; it outlives the actors there. Promises: a timer is set only
while runs are in flight; of one head there is a line when it has been the head for `after_s`, at least, while others wait
behind it, and then at intervals that double, up to a day.
"""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Timers
from seqtor.actors.mailbox import Mailbox
from seqtor.messages.runs import LookAtHead

__all__ = ["HeadWatch"]

LAST_S = 86_400.0


class HeadWatch:
    """Looks at the oldest run that has not ended; `after_s` is None for never."""

    def __init__(self, clock: Clock, timers: Timers, after_s: float | None) -> None:
        self._clock = clock
        self._timers = timers
        self._after_s = after_s
        self._seq = 0
        self._since = self._next_s = 0.0  # When it was first seen as the head; after how long it is named next.
        self.is_set = after_s is None  # Nothing is to be begun.
        self.coordinator: Mailbox

    def begin(self) -> None:
        """Runs are in flight."""
        if self._after_s is not None:
            self._set(self._after_s)

    def look(self, seq: int, name: str, doing: str, count_behind: Callable[[], int]) -> None:
        """This is the head now; `doing` says what it does, `count_behind` how many runs have not ended behind it."""
        if self._after_s is None:
            return
        now = self._clock.monotonic()
        if seq != self._seq:
            self._seq, self._since, self._next_s = seq, now, self._after_s
        age_s = now - self._since
        if age_s >= self._next_s * 0.999:
            self._next_s *= 2
            behind = count_behind()
            if behind:
                text = "seq {} ({}) has held the order for {:.1f} s: {}; {} runs wait behind it"
                logger.bind(seq=seq, trigger=name, actor="coordinator").warning(text, seq, name, age_s, doing, behind)
        if self._next_s <= LAST_S:
            self._set(max(0.001, self._next_s - age_s))
        else:
            self.rest()

    def rest(self) -> None:
        """Nothing is in flight: nothing is looked at until something is."""
        self.is_set = self._after_s is None

    def _set(self, after_s: float) -> None:
        self.is_set = True
        self._timers.call_after(after_s, self._tell)

    def _tell(self) -> None:
        if not self.coordinator.closed:
            self.coordinator.tell(LookAtHead())
