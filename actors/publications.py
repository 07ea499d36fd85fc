"""Publications: what has become visible, and to whom it matters.

Owns the chain of publications of one system and the board through which everyone finds the newest. Promises: a
publication is immutable but for the link to its successor, which is set once; reading takes no lock; one writer, the
committer. A snapshot is one publication, as a seq sees it: what has ended below that seq.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from immutables import Map

from seqtor.messages.stores import Write

if TYPE_CHECKING:
    from seqtor.actors.last_writers import LastWriters
    from seqtor.actors.stores.contract import StoreSpec

__all__ = ["NOTHING_AHEAD", "Ahead", "Board", "Changes", "Publication", "StateBelow", "Writers",
           "with_writer", "without_writer"]  # fmt: skip

Changes = tuple[tuple[int, tuple[Write, ...]], ...]
"""What one commit has written: the resulting writes by store index."""

Ahead = Map[int, Changes]
"""The commits that have overtaken a lower seq which has not ended, by seq."""

Writers = Map[tuple[int, str], tuple[int, ...]]
"""By store and key, which of these have written it, in rising order."""

NOTHING_AHEAD: Ahead = Map()
NO_WRITERS: Writers = Map()


class Publication:
    """All stores' states after `seq`, through which everything has ended, and the keys that changed, by store.

    `ahead` are the commits that have overtaken, the highest at `ahead_last`, `writers` who of them has written what.
    `newest` are the states with them in it: what a seq above them all sees. Nearly all do, and tens of thousands may be
    ahead: so nobody has to look through them.
    `writes` are the keys that runs up to `seq` have changed since the publication before, `overtakers` the same of each run
    that has overtaken since. `next` is the publication after this one, None while this is the newest.
    """

    __slots__ = ("ahead", "ahead_last", "index", "newest", "next", "overtakers", "seq", "states", "writers",
                 "writes")  # fmt: skip

    def __init__(
        self,
        index: int,
        seq: int,
        states: tuple[Any, ...],
        writes: Mapping[int, Collection[str]],
        ahead: Ahead = NOTHING_AHEAD,
        newest: tuple[Any, ...] | None = None,
        overtakers: Sequence[tuple[int, Mapping[int, Collection[str]]]] = (),
        ahead_last: int = 0,
        writers: Writers | None = None,
    ) -> None:
        self.index = index
        self.seq = seq
        self.states = states
        self.writes = writes
        self.ahead = ahead
        self.ahead_last = max(ahead) if ahead and not ahead_last else ahead_last
        self.newest = states if newest is None else newest
        self.writers = writers_of(ahead) if writers is None else writers
        self.overtakers = overtakers
        self.next: Publication | None = None

    @property
    def count(self) -> int:
        """How many runs have ended in all."""
        return self.seq + len(self.ahead)

    def written_below(self, seq: float) -> Sequence[Mapping[int, Collection[str]]]:
        """What of this publication a run at `seq` has to know: the keys that lower runs have changed, by store."""
        if not self.overtakers:
            return (self.writes,)
        return (self.writes, *[writes for overtaker, writes in self.overtakers if overtaker < seq])


def writers_of(ahead: Ahead) -> Writers:
    """Who of those that have overtaken has written what."""
    writers = NO_WRITERS
    for seq in sorted(ahead):
        writers = with_writer(writers, seq, ahead[seq])
    return writers


def with_writer(writers: Writers, seq: int, changes: Changes) -> Writers:
    """The same with one more that has overtaken."""
    for place in _places(changes):
        writers = writers.set(place, tuple(sorted((*writers.get(place, ()), seq))))
    return writers


def without_writer(writers: Writers, seq: int, changes: Changes) -> Writers:
    """The same without one that the order has caught up with."""
    for place in _places(changes):
        others = tuple([each for each in writers[place] if each != seq])
        writers = writers.set(place, others) if others else writers.delete(place)
    return writers


def _places(changes: Changes) -> set[tuple[int, str]]:
    """What was written; a custom store may be written twice under one key."""
    return {(store, write.key) for store, writes in changes for write in writes}


class StateBelow:
    """A store as `seq` sees it: with what has overtaken up to there, and not with what has overtaken it.

    Nothing is computed before it is asked for: a run that has declared what it writes reads little else, and of that nothing
    has overtaken it.
    """

    __slots__ = ("_publication", "_seq", "_spec", "_store")

    def __init__(self, publication: Publication, seq: float, store: int, spec: StoreSpec[Any]) -> None:
        self._publication = publication
        self._seq = seq
        self._store = store
        self._spec = spec

    def part(self, key: str) -> Any:
        """What the store holds under a key. Only of a store whose writes are told apart by key."""
        publication, store, seq = self._publication, self._store, self._seq
        seqs = publication.writers.get((store, key))
        if seqs is None or seqs[-1] < seq:
            return self._spec.part(publication.newest[store], key)
        lower = bisect_left(seqs, seq)
        if not lower:
            return self._spec.part(publication.states[store], key)
        writes = next(writes for index, writes in publication.ahead[seqs[lower - 1]] if index == store)
        return next(write.op for write in writes if write.key == key)

    def whole(self) -> Any:
        """The store's state."""
        publication, store, spec = self._publication, self._store, self._spec
        above: set[str] = set()
        below: list[tuple[int, tuple[Write, ...]]] = []
        for overtaker, changes in publication.ahead.items():
            for index, writes in changes:
                if index != store:
                    continue
                if overtaker < self._seq:
                    below.append((overtaker, writes))
                else:
                    above.update([write.key for write in writes])
        if not above:
            return publication.newest[store]
        if spec.by_key:
            return spec.fold(publication.newest[store], [Write(key, self.part(key)) for key in sorted(above)])
        state = publication.states[store]
        for _, writes in sorted(below, key=itemgetter(0)):
            state = spec.fold(state, writes)
        return state


class Board:
    """Where the newest publication is found, and which first attempts are executing; one for each epoch.

    `durable` is the newest publication of which everything is on disk; in memory, of which everything has ended for good.

    `executing` maps the seqs of runs without a finished attempt to their transactions: the committer looks at what they
    have read so far when another run stalls. Runs add themselves; the committer removes them.
    """

    __slots__ = ("durable", "epoch", "executing", "last_writers", "newest")

    def __init__(
        self,
        newest: Publication,
        epoch: int,
        durable: Publication | None = None,
        last_writers: LastWriters | None = None,
    ) -> None:
        self.last_writers = last_writers  # None unless runs may last: see there.
        newest.next = None  # What an older epoch published after it is taken back.
        self.newest = newest
        self.durable = newest if durable is None else durable  # Whoever holds a publication holds all after it.
        self.epoch = epoch
        self.executing: dict[int, Any] = {}

    def become_durable(self, count: int) -> None:
        """Note that the first `count` runs to end are on disk, or, in memory, have ended for good. Only on the core."""
        durable = self.durable
        while durable.next is not None and durable.next.seq + len(durable.next.ahead) <= count:
            durable = durable.next
        self.durable = durable

    def publish(self, publication: Publication) -> Publication:
        """Make a publication visible. Only the committer calls this, so the index rises by one."""
        if self.last_writers is not None:
            self.last_writers.note(publication.seq, publication.writes)
            for seq, writes in publication.overtakers:
                self.last_writers.note(seq, writes)
        last = self.newest
        self.newest = publication
        last.next = publication
        return publication
