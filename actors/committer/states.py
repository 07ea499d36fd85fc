"""What has ended, folded into the state of every store: without a gap, and with what has overtaken.

Owns the states that the next run is judged on and the next publication shows. Pure. Runs end in seq order, but for those
that overtake: what these write is in `newest` at once, and in `states` when everything below them has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqtor.actors.publications import Ahead, Changes, Publication, with_writer, without_writer
from seqtor.actors.stores.contract import StoreSpec
from seqtor.actors.stores.deriving import Resolution

__all__ = ["States"]

Written = dict[int, Sequence[str]]
"""Keys by store index."""


class States:
    """The states of all stores, by index, behind `told`, the last publication that stands.

    `states` are as of `next_seq - 1`; `newest` have the commits in `ahead` in them, and are the same list if there are none.
    `seqs` are the last writers of the stores.
    """

    def __init__(self, specs: Sequence[StoreSpec[Any]], told: Publication, seqs: Sequence[int] | None) -> None:
        self._specs = specs
        self.next_seq = told.seq + 1
        self.states = list(told.states)
        self.ahead: Ahead = told.ahead
        self.ahead_last = told.ahead_last  # The highest of them, while there are any.
        self.newest = list(told.newest) if told.ahead else self.states
        self.seqs = [told.seq] * len(self.states) if seqs is None else list(seqs)
        self._writers = told.writers  # Who of those ahead has written what.
        self._changed: set[int] = set()
        self._written: dict[int, set[str]] = {}
        self._overtakers: list[tuple[int, dict[int, set[str]]]] = []

    def has_ended(self, seq: int) -> bool:
        """Whether a run has ended, in its turn or ahead of it."""
        return seq < self.next_seq or seq in self.ahead

    def as_of(self, seq: int) -> list[Any]:
        """The states as of seq - 1, as far as they matter to who writes them and may end at `seq`.

        For one that overtakes they are the newest: what it writes, no lower run may write, and no higher one has.
        """
        return self.states if seq == self.next_seq else self.newest

    def commit(self, seq: int, resolved: Sequence[Resolution]) -> Written:
        """Take the writes of a run that may end; returns the keys that it has written. Its end follows."""
        if seq != self.next_seq:
            return self._commit_ahead(seq, resolved)
        written: Written = {}
        for access, state, writes in resolved:
            store = access.store
            if self.ahead:
                self._bring_newest(store, state, writes)
            self.states[store] = state
            self.seqs[store] = seq
            self._changed.add(store)
            written[store] = keys = [write[0] for write in writes]
            if store in self._written:
                self._written[store].update(keys)
            else:
                self._written[store] = set(keys)
        return written

    def _bring_newest(self, store: int, state: Any, writes: Sequence[Any]) -> None:
        """Have a write of one that was overtaken among the newest states as well."""
        if self.newest is self.states:
            self.newest = list(self.states)
        apart = self.newest[store] is not self.states[store]
        self.newest[store] = self._specs[store].fold(self.newest[store], writes) if apart else state

    def _commit_ahead(self, seq: int, resolved: Sequence[Resolution]) -> Written:
        if self.newest is self.states:
            self.newest = list(self.states)
        written: Written = {}
        for access, state, writes in resolved:
            self.newest[access.store] = state
            written[access.store] = [write[0] for write in writes]
        self._overtakers.append((seq, {store: set(keys) for store, keys in written.items()}))
        return written

    def end(self, seq: int, changes: Changes) -> None:
        """A run has ended, with these changes if it has committed."""
        if seq != self.next_seq:
            self.ahead = self.ahead.set(seq, changes)
            self._writers = with_writer(self._writers, seq, changes)
            self.ahead_last = max(self.ahead_last, seq)
            return
        self.next_seq = seq + 1
        if self.ahead:
            self._catch_up()

    def _catch_up(self) -> None:
        """The head has ended that was overtaken: what overtook it, and nothing that is left, is part of the order now."""
        ahead, states = self.ahead, self.states
        together = max(ahead) == self.next_seq + len(ahead) - 1  # Then all of it is, and these states are at hand.
        while self.next_seq in ahead:
            changes = ahead[self.next_seq]
            self._writers = without_writer(self._writers, self.next_seq, changes)
            for store, writes in changes:
                if not together:
                    states[store] = self._specs[store].fold(states[store], writes)
                self.seqs[store] = self.next_seq
                self._changed.add(store)
            ahead = ahead.delete(self.next_seq)
            self.next_seq += 1
        self.ahead = ahead
        if together:
            self.states = self.newest
        if not ahead:
            self.newest = self.states

    def publication(self, index: int) -> Publication:
        """What is visible now, with the keys that have changed since the last time."""
        written, self._written = self._written, {}
        states = tuple(self.states)
        if not self.ahead and not self._overtakers:
            return Publication(index, self.next_seq - 1, states, written)
        overtakers, self._overtakers = tuple(self._overtakers), []
        if not self.ahead:
            return Publication(index, self.next_seq - 1, states, written, overtakers=overtakers)
        return Publication(
            index, self.next_seq - 1, states, written, self.ahead, tuple(self.newest), overtakers, self.ahead_last,
            self._writers,
        )  # fmt: skip

    def take_changed(self) -> set[int]:
        """Hand over the stores that have changed since the last time, without what is ahead."""
        changed, self._changed = self._changed, set()
        return changed
