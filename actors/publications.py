"""Publications: what has become visible, and to whom it matters.

Owns the chain of publications of one system and the board through which everyone finds the newest. Promises: a
publication is immutable but for the link to its successor, which is set once; reading takes no lock; one writer, the
committer. A snapshot is one publication, as a seq sees it: what has ended below that seq.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from immutables import Map

from seqtor.messages.stores import Write

if TYPE_CHECKING:
    from seqtor.actors.last_writers import LastWriters
    from seqtor.actors.stores.contract import StoreSpec

__all__ = ["NOTHING_AHEAD", "Ahead", "Board", "Changes", "Publication", "state_below"]

Changes = tuple[tuple[int, tuple[Write, ...]], ...]
"""What one commit has written: the resulting writes by store index."""

Ahead = Map[int, Changes]
"""The commits that have overtaken a lower seq which has not ended, by seq."""

NOTHING_AHEAD: Ahead = Map()


class Publication:
    """All stores' states after `seq`, through which everything has ended, and the keys that changed, by store.

    `ahead` are the commits that have overtaken, the highest at `ahead_last`; `newest` are the states with them in it: what a
    seq above them all sees. Nearly all do, and tens of thousands may be ahead: so nobody has to look through them.
    `writes` are the keys that runs up to `seq` have changed since the publication before, `overtakers` the same of each run
    that has overtaken since. `next` is the publication after this one, None while this is the newest.
    """

    __slots__ = ("ahead", "ahead_last", "index", "newest", "next", "overtakers", "seq", "states", "writes")

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
    ) -> None:
        self.index = index
        self.seq = seq
        self.states = states
        self.writes = writes
        self.ahead = ahead
        self.ahead_last = max(ahead) if ahead and not ahead_last else ahead_last
        self.newest = states if newest is None else newest
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


def state_below(state: Any, ahead: Ahead, newest: Any, seq: float, store: int, spec: StoreSpec[Any]) -> Any:
    """A store as `seq` sees it: with what has overtaken up to there, and not with what has overtaken it.

    `state` is the store without any overtaker, `newest` with all of them.
    """
    above: dict[str, Any] = {}  # What is not to be seen, and what is in its place.
    below: list[tuple[int, tuple[Write, ...]]] = []
    for overtaker, changes in ahead.items():
        for index, writes in changes:
            if index != store:
                continue
            if overtaker < seq:
                below.append((overtaker, writes))
            else:
                above.update(dict(writes))
    if not above:
        return newest
    below.sort()
    if not spec.by_key:
        for _, writes in below:
            state = spec.fold(state, writes)
        return state
    for key in above:
        above[key] = Write(key, spec.part(state, key))
    for _, writes in below:
        for write in writes:
            if write.key in above:
                above[write.key] = write
    return spec.fold(newest, list(above.values()))


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
