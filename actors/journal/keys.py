"""Idempotency keys: which run each is bound to, and how that run ended.

Owns the answer to "has this been submitted already?", which must be there without waiting for a disk: all keys that the
journal holds are kept here, as little of each as will do. A key is bound by the first trigger that is accepted under it
and stays bound whatever the outcome, unless it is taken back. Thread-safe under the caller's lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seqtor.actors.journal.contract import KeyRow
from seqtor.actors.journal.encoding import payload_digest
from seqtor.actors.submissions import Submission
from seqtor.messages.errors import KeyReused
from seqtor.messages.triggers import Trigger

__all__ = ["BoundKeys"]

LIVE_MAX = 10_000


class BoundKeys:
    """The keys of one system: bound to a submission of this process, or to what the journal says of an earlier one."""

    def __init__(
        self,
        rows: Iterable[KeyRow] = (),
        live: Iterable[Submission[Any]] = (),
        forget_above: int = 0,
        forgotten_through: int = 0,
    ) -> None:
        self._forgotten_through = 0
        self._rows: dict[str, KeyRow] = {row.key: row for row in rows}
        self.forget(forgotten_through)
        self._live: dict[str, Submission[Any]] = {}
        self._forget_above = forget_above  # In memory nothing else holds the outcomes, so they are kept here: so many.
        for submission in live:
            self.bind(submission)

    def find(self, key: str, trigger: Trigger[Any]) -> Submission[Any] | KeyRow | None:
        """What the key is bound to, or None. Raises KeyReused if that had another payload."""
        bound: Submission[Any] | KeyRow | None = self._live.get(key) or self._rows.get(key)
        if bound is None:
            return None
        digest = payload_digest(bound.given) if isinstance(bound, Submission) else bound.digest
        if digest != payload_digest(trigger):
            run = bound.id if isinstance(bound, Submission) else bound.run
            raise KeyReused(
                f"the idempotency key {key!r} was used for another trigger (run {run}): the same key means the same "
                f"trigger with the same fields; give {trigger!r} a key of its own"
            )
        return bound

    def forget(self, through: int) -> None:
        """Let go of keys whose runs ended up to a seq, because the journal gives up their outcomes."""
        if through > self._forgotten_through:
            self._forgotten_through = through
            self._rows = {key: row for key, row in self._rows.items() if row.seq is None or row.seq > through}

    def bind(self, submission: Submission[Any]) -> bool:
        """Bind the submission's key to it. False if the key is bound to another run."""
        key = submission.key
        if key is None:
            return True
        row = self._rows.get(key)
        bound = self._live.get(key)
        if bound is not None or (row is not None and row.run != submission.id):
            return bound is submission
        self._live[key] = submission
        if len(self._live) > max(LIVE_MAX, self._forget_above):
            self._settle()
        return True

    def free(self, submission: Submission[Any]) -> None:
        """The submission was taken back, and with it its key: whoever comes under that is the first."""
        key = submission.key
        if key is not None:  # Only one of a key ever runs, it or its retries, so it is what the key is bound to.
            self._live.pop(key, None)
            self._rows.pop(key, None)

    def _settle(self) -> None:
        """Keep of runs that have ended only what the journal would say of them; in memory, forget the oldest."""
        for key, submission in list(self._live.items()):
            if submission.done:
                del self._live[key]
                if not self._forget_above and (submission.seq or 0) > self._forgotten_through:
                    digest = payload_digest(submission.given)
                    self._rows[key] = KeyRow(key, submission.id, digest, submission.seq)
                elif len(self._live) <= self._forget_above // 2:
                    return
