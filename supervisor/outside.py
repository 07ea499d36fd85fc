"""The stores of one system that write outside: begun with it, behind everything that the journal holds.

Owns what outlives their actors, and the beginning. Promises: the start returns when what is durable is outside, and what was
found there is in the stores; unless a medium is away, then its store goes on later, and everybody else now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loguru import logger

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.ledger import Ledger
from seqtor.actors.stores.access import Access
from seqtor.actors.stores.cell import StoreCell
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.derived import Derived
from seqtor.actors.stores.export import Export
from seqtor.actors.stores.export_cell import ExportCell
from seqtor.actors.stores.outside import Backlog, Outside
from seqtor.actors.stores.outside_cell import OutsideCell
from seqtor.actors.stores.suspension import Suspension
from seqtor.actors.submissions import Submission
from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.outside import OutsideEdit
from seqtor.messages.stores import BeginOutside

__all__ = ["OutsideStores", "adopting"]


class OutsideStores:
    """From the start to the stop of one system."""

    def __init__(self, stores: Sequence[StoreRef[Any]], recovery: Recovery | None) -> None:
        through = 0 if recovery is None else recovery.through
        self._refs = [ref for ref in stores if ref.spec.persists]
        self._recovery = recovery
        self._from = through
        self._changed = {ref.name: 0 if recovery is None else recovery.changed(ref.name) for ref in self._refs}
        self._suspensions = {ref.name: Suspension(ref.name) for ref in stores}
        self._outsides = {
            ref.name: Outside(through, self._changed[ref.name], ref.spec.fold, self._suspensions[ref.name])
            for ref in self._refs
        }
        self._exports = {
            ref.name: Export(ref.spec.export.absolute(), through, self._suspensions[ref.name])
            for ref in stores
            if isinstance(ref.spec, Derived) and ref.spec.export is not None
        }
        self._following = [ref for ref in stores if ref.spec.persists or ref.name in self._exports]
        self._ledger: Ledger | None = None
        self._persisted = 0

    def start_cell(self, dispatcher: Any, ref: StoreRef[Any], *args: Any, **kwargs: Any) -> Any:
        """Start the actor of a store; one that writes outside does so when it may begin."""
        export = self._exports.get(ref.name)
        if export is not None:
            return ExportCell.start_on(dispatcher, ref, *args, export=export, **kwargs)
        outside = self._outsides.get(ref.name)
        if outside is None:
            return StoreCell.start_on(dispatcher, ref, *args, **kwargs)
        return OutsideCell.start_on(dispatcher, ref, *args, outside=outside, **kwargs)

    def follow(self, ledger: Ledger, cells: Sequence[Any], states: Sequence[Any]) -> None:
        """Have the stores' actors told of what becomes durable. `states` are those with which the system starts."""
        self._ledger = ledger
        if not self._following:
            return
        overlay: list[Any] = []
        for ref in self._following:
            (self._exports.get(ref.name) or self._outsides[ref.name]).state = states[ref.index]
            ahead = () if self._recovery is None else self._recovery.ahead_of(ref)
            overlay += [(commit.seq, ref.index, commit) for commit in ahead]
        ledger.backlog = Backlog({ref.index: cells[ref.index].actor_inbox for ref in self._following}, overlay)

    def begin(
        self,
        cells: Sequence[Any],
        dispatchers: Dispatchers,
        submit: Callable[[Any], Submission[None]],
        alarm: Callable[[str, Any], object],
        read: Callable[[Any], Any] | None,
    ) -> None:
        """Let the stores begin, and wait for them. Raises RegistrationError for one that cannot."""
        replies = []
        for ref in self._following:
            reply = ReplyFuture()
            reply.driver = dispatchers.driver
            cells[ref.index].actor_inbox.tell(BeginOutside(submit=submit, alarm=alarm, read=read, reply_to=reply))
            replies.append((ref, reply))
        for ref, reply in replies:
            try:
                found: Iterable[Submission[None]] = reply.get()
            except Exception as error:
                raise RegistrationError(
                    f"store {ref.name!r} could not begin: {type(error).__name__}: {error}"
                ) from error
            for submission in found:
                try:
                    submission.result()
                except Exception as error:
                    logger.bind(actor=ref.name).debug("an edit from outside: {}", error)  # The store has warned of it.

    def changed(self) -> dict[str, int]:
        """Up to which seq each may have been changed, of what was told so far; for a checkpoint."""
        if self._ledger is None:
            return {}
        seqs = self._ledger.told.store_seqs
        return {
            ref.name: seqs[ref.index] if seqs[ref.index] > self._from else self._changed[ref.name] for ref in self._refs
        }

    def persisted_through(self, durable: int) -> int:
        """Up to which seq, of those that were durable before, everything is outside. Never goes back."""
        self._persisted = max(self._persisted, int(min(durable, self.through())))
        return self._persisted

    def suspended(self) -> tuple[str, ...]:
        """The stores whose outside is left alone for now, by name."""
        return tuple([name for name, suspension in self._suspensions.items() if suspension.error is not None])

    def through(self) -> float:
        """Up to which seq all of them would find everything outside after a crash: the journal need not keep it for them."""
        return min([outside.kept for outside in self._outsides.values()], default=math.inf)


def adopting(stores: Callable[[], Iterable[StoreRef[Any]]]) -> Callable[[OutsideEdit, Any], None]:
    """The handler of edits from outside: the store takes the content over. Reads nothing, so it never conflicts."""

    def adopt_edit(trigger: OutsideEdit, tx: Any) -> None:
        ref = next((ref for ref in stores() if ref.name == trigger.store), None)
        if ref is None:
            raise Rejected("there is no such store any more", store=trigger.store)
        access: Access[Any] = tx._access(ref)
        ref.spec.adopt(access, trigger.key, trigger.content)

    return adopt_edit
