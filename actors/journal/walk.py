"""All stores' states, moved along the records one by one: for who needs the state before each of many seqs.

Owns the folding of parsed records into states. Promises: after `fold(record)` the states are those after the record's seq,
whatever form its values were kept in. Not thread-safe; the states that it gives out are immutable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqtor.actors.journal.recovery import writes_by_store
from seqtor.actors.stores.contract import StoreRef, Tail
from seqtor.messages.errors import RegistrationError
from seqtor.messages.stores import Checkpoint

__all__ = ["Walk"]

Folder = Callable[[Tail], Any]
NO_CHECKPOINTS: Mapping[str, Checkpoint] = {}


class Walk:
    """States after `seq`. `checkpoints_at(seq)` gives the stores' checkpoints of that seq, if there are any."""

    def __init__(
        self,
        seq: int,
        stores: Sequence[StoreRef[Any]],
        folders: Sequence[Folder],
        states: tuple[Any, ...],
        checkpoints_at: Callable[[int], Mapping[str, Checkpoint]] = lambda _: NO_CHECKPOINTS,
    ) -> None:
        self.seq = seq
        self.states = states
        self._stores = stores
        self.indexes = {ref.name: ref.index for ref in stores}
        self._folders = list(folders)
        self._checkpoints_at = checkpoints_at

    def fold(self, record: dict[str, Any]) -> None:
        """Move behind the next record. Raises RegistrationError for a store that the code no longer registers."""
        self.seq = record["seq"]
        by_store = writes_by_store(record)
        if by_store:
            states = list(self.states)
            for store, writes in by_store.items():
                index = self.indexes.get(store)
                if index is None:
                    raise RegistrationError(
                        f"seq {self.seq} wrote to store {store!r}, which the program no longer registers: register it "
                        "under the name it had"
                    )
                states[index] = self._folders[index](((self.seq, writes),))
            self.states = tuple(states)
        self._go_on_from(self._checkpoints_at(self.seq))

    def _go_on_from(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        """Where the form of what is kept changes there is a checkpoint in the new one: what follows is folded into that."""
        if not checkpoints:
            return
        states = list(self.states)
        for ref in self._stores:
            checkpoint = checkpoints.get(ref.name)
            if checkpoint is not None and ref.spec.keeps_parts:
                states[ref.index] = state = ref.spec.build().recover(checkpoint)
                self._folders[ref.index] = ref.spec.folder(checkpoint, state)
        self.states = tuple(states)
