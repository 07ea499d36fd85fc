"""Publications: what has become visible, and to whom it matters.

Owns the chain of publications of one system and the board through which everyone finds the newest. Promises: a
publication is immutable but for the link to its successor, which is set once; reading takes no lock; one writer, the
committer. A snapshot is one publication: all stores after the same seq.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqtor.actors.last_writers import LastWriters

__all__ = ["Board", "Publication"]


class Publication:
    """All stores' states after `seq`, and the keys that changed since the publication before, by store.

    `next` is the publication after this one, None while this is the newest.
    """

    __slots__ = ("index", "next", "seq", "states", "writes")

    def __init__(self, index: int, seq: int, states: tuple[Any, ...], writes: Mapping[int, Collection[str]]) -> None:
        self.index = index
        self.seq = seq
        self.states = states
        self.writes = writes
        self.next: Publication | None = None


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

    def become_durable(self, seq: int) -> None:
        """Note that everything through `seq` is on disk, or, in memory, has ended for good. Only on the core."""
        durable = self.durable
        while durable.next is not None and durable.next.seq <= seq:
            durable = durable.next
        self.durable = durable

    def publish(self, seq: int, states: tuple[Any, ...], writes: Mapping[int, Collection[str]]) -> Publication:
        """Make states visible. Only the committer calls this, so the index rises by one."""
        if self.last_writers is not None:
            self.last_writers.note(seq, writes)
        last = self.newest
        publication = Publication(last.index + 1, seq, states, writes)
        self.newest = publication
        last.next = publication
        return publication
