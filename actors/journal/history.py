"""What was: states and records of earlier seqs, from a journal that somebody else writes, or nobody.

Owns time travel: the nearest checkpoint and the commits behind it. Reads in bounded pieces, so that the journal's actor
commits in between. Promises: what is given out was held against the hash chain; a seq whose history was compacted is a
LookupError that says so, never another state. Called at the edge, where waiting is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from seqtor.actors.journal.chain import Chain, Links, hash_at
from seqtor.actors.journal.contract import Backend, CheckpointInfo, CommitRow, Opened
from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.recovery import OPEN_WORK, links_of, open_work, read_sections, writes_by_store
from seqtor.actors.journal.walk import Walk
from seqtor.actors.stores.contract import StoreActor, StoreRef
from seqtor.messages.errors import JournalCorrupted
from seqtor.messages.stores import Checkpoint

__all__ = ["History", "KeptHistory", "Read", "chain_from", "history_of", "kept_from"]

PIECE = 1000
Read = Callable[[Callable[[Backend], Any]], Any]
"""Calls a function with the backend, where that may be used, and returns what it returns."""


class History(Protocol):
    """What replay and queries ask of a journal, in memory or on disk."""

    place: str

    @property
    def first(self) -> int:
        """The oldest seq whose record is kept."""
        ...

    def rows(self, first: int, last: int) -> Iterator[CommitRow]:
        """The records first..last in seq order. Raises LookupError if they are not kept."""
        ...

    def chain_before(self, seq: int) -> bytes | None:
        """The hash of the seq before, which the record of `seq` follows unless it overtook or was; None if not known."""
        ...

    def states_at(self, seq: int) -> tuple[Any, ...]:
        """All stores' states after `seq`. Raises LookupError if its history is not kept."""
        ...

    def walk(self, seq: int) -> Walk:
        """The same, to be moved along the records that follow."""
        ...

    def behaviour(self, ref: StoreRef[Any]) -> StoreActor[Any, Any]:
        """A store's behaviour, made anew and recovered from the newest checkpoint."""
        ...


class KeptHistory:
    """Reads a journal through `read`; `checkpoints` and `first` are asked for each time, because compaction moves them."""

    def __init__(
        self,
        read: Read,
        place: str,
        stores: Sequence[StoreRef[Any]],
        checkpoints: Callable[[], Sequence[CheckpointInfo]],
        first: Callable[[], int],
        journal_id: str,
    ) -> None:
        self.place = place
        self._journal_id = journal_id
        self._read = read
        self._stores = stores
        self._checkpoints = checkpoints
        self._first = first

    @property
    def first(self) -> int:
        return self._first()

    def rows(self, first: int, last: int) -> Iterator[CommitRow]:
        if first > last:
            return
        self._require_kept(first)
        chain = Chain(self.place, Links({}), self._hash_at, self._hash_before, first=first)
        while first <= last:
            stop = min(last, first + PIECE - 1)
            for row in self._read(partial(_commits, first, stop)):
                if row.seq != first:
                    self._require_kept(first)
                    raise JournalCorrupted(f"{self.place}: seq {first} is missing, the next one is {row.seq}", first)
                chain.check(row)
                yield row
                first += 1
            if first <= stop:
                self._require_kept(first)
                raise JournalCorrupted(f"{self.place}: seq {first} is missing, and everything up to {stop}", first)

    def chain_before(self, seq: int) -> bytes | None:
        return self._hash_before(seq - 1)

    def _hash_at(self, seq: int) -> bytes | None:
        found = self._read(partial(_commits, seq, seq)) if seq >= self.first else []
        return found[0].chain if found else None

    def _hash_before(self, seq: int) -> bytes | None:
        """The hash of a record that may be trimmed, if a checkpoint kept it."""
        if seq == 0:
            return GENESIS
        for info in self._checkpoints():
            if info.seq == seq:
                return info.chain
        if seq >= self.first:
            return self._hash_at(seq)
        for info in self._checkpoints():
            found = links_of(info, open_work(self._sections(info.seq), info.seq, self.place)).hashes.get(seq)
            if found is not None:
                return found
        return None

    def states_at(self, seq: int) -> tuple[Any, ...]:
        return self.walk(seq).states

    def walk(self, seq: int) -> Walk:
        base, sections = self.base(seq)
        kept = _checkpoints_of(sections, base)
        behind: dict[str, list[tuple[int, list[tuple[str, Any, int]]]]] = {}
        # Stores that make no checkpoint: all of their commits are needed.
        unkept = set(open_work(sections, base, self.place).shapes) - set(kept) if sections else set()
        for row in self.rows(1 if unkept else base + 1, seq):
            for store, writes in writes_by_store(parsed(row.body)).items():
                if row.seq > base or store in unkept:
                    behind.setdefault(store, []).append((row.seq, writes))
        folders, states = [], []
        for ref in self._stores:
            checkpoint = kept.get(ref.name)
            folder = ref.spec.folder(checkpoint, self._recovered(ref, checkpoint)[1])
            folders.append(folder)
            states.append(folder(behind.get(ref.name, ())))
        return Walk(seq, self._stores, folders, tuple(states), self._checkpoints_at)

    def base(self, seq: int) -> tuple[int, dict[str, bytes]]:
        """The seq and the sections of the newest checkpoint up to `seq`; of the beginning, if there is none."""
        before = [info for info in self._checkpoints() if info.seq <= seq]
        if before:
            return before[-1].seq, self._sections(before[-1].seq)
        if self.first > 1:
            raise self._not_kept(seq)
        return 0, {}

    def behaviour(self, ref: StoreRef[Any]) -> StoreActor[Any, Any]:
        checkpoints = self._checkpoints()
        kept = _checkpoints_of(self._sections(checkpoints[-1].seq), checkpoints[-1].seq) if checkpoints else {}
        return self._recovered(ref, kept.get(ref.name))[0]

    def _recovered(self, ref: StoreRef[Any], checkpoint: Checkpoint | None) -> tuple[StoreActor[Any, Any], Any]:
        behaviour = ref.spec.build()
        behaviour.journal_id = self._journal_id
        return behaviour, behaviour.recover(checkpoint)

    def _checkpoints_at(self, seq: int) -> Mapping[str, Checkpoint]:
        if any(info.seq == seq for info in self._checkpoints()):
            return _checkpoints_of(self._sections(seq), seq)
        return {}

    def _sections(self, seq: int) -> dict[str, bytes]:
        try:
            return self._read(lambda backend: read_sections(backend, seq))  # type: ignore[no-any-return]
        except JournalCorrupted:
            self._require_kept(seq + 1)  # It may have been compacted just now.
            raise

    def _require_kept(self, seq: int) -> None:
        if seq < self.first:
            raise self._not_kept(seq)

    def _not_kept(self, seq: int) -> LookupError:
        return LookupError(
            f"the history of seq {seq} is not kept: {self.place} was compacted up to seq {self.first - 1}. Ask for a later "
            "seq, or look into a backup from before; a longer retain= (None: for ever) keeps more from now on"
        )


def chain_from(backend: Backend, opened: Opened) -> Chain:
    """What the records that are there are held against, from the oldest on.

    Where it is not known what the oldest of them follow, because a trimming is under way, those are taken as they are.
    """
    first = opened.commits_from
    for info in opened.checkpoints:
        if info.seq == first - 1:
            work = open_work(read_sections(backend, info.seq), info.seq, backend.place)
            return Chain(backend.place, links_of(info, work), hash_at(backend))
    links = Links({0: GENESIS} if first == 1 else {})
    return Chain(backend.place, links, hash_at(backend), first=first)


def kept_from(opened: Opened) -> int:
    """The oldest seq whose history is kept: where commits were trimmed, the first behind a checkpoint."""
    if opened.commits_from > 1 and opened.checkpoints:
        return max(opened.commits_from, opened.checkpoints[0].seq + 1)
    return opened.commits_from


def history_of(backend: Backend, opened: Opened, stores: Sequence[StoreRef[Any]] = ()) -> KeptHistory:
    """The history of a journal that nobody writes meanwhile. Use it from one thread at a time."""
    first = kept_from(opened)
    return KeptHistory(
        lambda read: read(backend), backend.place, stores, lambda: opened.checkpoints, lambda: first, opened.journal_id
    )


def _checkpoints_of(sections: Mapping[str, bytes], seq: int) -> dict[str, Checkpoint]:
    return {
        section.removeprefix("store:"): Checkpoint(seq, data)
        for section, data in sections.items()
        if section != OPEN_WORK
    }


def _commits(first: int, last: int, backend: Backend) -> list[CommitRow]:
    return list(backend.commits(first, last))
