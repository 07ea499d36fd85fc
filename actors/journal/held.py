"""The journal of a system that lives in memory: the newest runs as they ended, encoded only when someone asks.

Owns the history of a system without a journal on disk. It survives actors, not the process. Promises: telling it costs
nothing to speak of; what is read is what a journal on disk would hold. Bounded: the oldest runs are forgotten, and the
states before them kept in their place. Written on the core, read from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from seqtor.actors.journal.contract import CommitRow
from seqtor.actors.journal.encoding import GENESIS, chained, commit_text
from seqtor.actors.journal.walk import Walk
from seqtor.actors.stores.contract import StoreActor, StoreRef
from seqtor.messages.commits import EndedRun
from seqtor.messages.runs import RunsEnded

__all__ = ["HeldRuns"]

MARK_EVERY = 1024


class HeldRuns:
    """The newest `runs_max` runs, at least, of a system in memory."""

    def __init__(self, stores: Sequence[StoreRef[Any]], states: tuple[Any, ...], runs_max: int) -> None:
        self._stores = stores
        self._runs_max = runs_max
        # The hashes after some seqs that somebody has read, so that the next reader need not encode all before.
        self._chains: tuple[int, dict[int, bytes]] = (0, {0: GENESIS})
        # Replaced as one, so that a reader on another thread sees them together.
        self._kept: tuple[int, list[tuple[EndedRun, float]], list[tuple[int, tuple[Any, ...]]]] = (0, [], [(0, states)])

    place = "memory"

    @property
    def first(self) -> int:
        """The oldest seq whose run is kept."""
        return self._kept[0] + 1

    @property
    def last(self) -> int:
        """The newest seq whose run is kept."""
        base, runs, _ = self._kept
        return base + len(runs)

    def keep(self, message: RunsEnded, states: tuple[Any, ...]) -> None:
        """Keep runs; `states` are those after the last of them."""
        base, runs, marks = self._kept
        ended_at = message.ended_at
        runs.extend([(ended, ended_at) for ended in message.runs])
        last = base + len(runs)
        if last - marks[-1][0] >= MARK_EVERY:
            marks.append((last, states))
            if len(runs) > 2 * self._runs_max:
                self._forget(last - self._runs_max)

    def states_at(self, seq: int) -> tuple[Any, ...]:
        """The states after `seq`. Raises LookupError for one before the oldest that is kept."""
        base, runs, marks = self._kept
        found = [mark for mark in marks if mark[0] <= seq]
        if not found:
            raise LookupError(self._forgotten(seq))
        after, states = found[-1]
        changed = list(states)
        for ended, _ in runs[after - base : seq - base]:
            for store, writes in ended.writes:
                changed[store] = self._stores[store].spec.fold(changed[store], writes)
        return tuple(changed)

    def rows(self, first: int, last: int) -> Iterator[CommitRow]:
        """The rows that a journal on disk would hold. The chain begins with the oldest run that is kept."""
        base, runs, _ = self._kept
        if first <= base and first <= last:
            raise LookupError(self._forgotten(first))
        if self._chains[0] != base:
            self._chains = (base, {base: GENESIS})
        chains = self._chains[1]
        start = max(seq for seq in list(chains) if seq < max(first, base + 1))
        chain = chains[start]
        for ended, ended_at in runs[start - base : max(0, last - base)]:
            body = commit_text(ended, ended.seq - 1, 1, ended_at, self._stores)
            chain = chained(chain, body)
            if ended.seq % MARK_EVERY == 0:
                chains[ended.seq] = chain
            if ended.seq >= first:
                yield CommitRow(ended.seq, body, chain)

    def chain_before(self, seq: int) -> bytes | None:
        """The hash that the run of `seq` is chained to."""
        chain = GENESIS
        for row in self.rows(seq - 1, seq - 1) if seq > self.first else ():
            chain = row.chain
        return chain

    def walk(self, seq: int) -> Walk:
        """The states after `seq`, to be moved along the rows that follow."""
        states = self.states_at(seq)
        folders = [ref.spec.folder(None, state) for ref, state in zip(self._stores, states, strict=True)]
        return Walk(seq, self._stores, folders, states)

    def behaviour(self, ref: StoreRef[Any]) -> StoreActor[Any, Any]:
        """A store's behaviour, made anew."""
        behaviour = ref.spec.build()
        behaviour.recover(None)
        return behaviour

    def _forgotten(self, seq: int) -> str:
        return (
            f"seq {seq} is forgotten: a system in memory keeps the newest {self._runs_max} runs (records_max), here "
            f"from seq {self.first} on; with a journal, Supervisor('name.db'), all are kept"
        )

    def _forget(self, through: int) -> None:
        base, runs, marks = self._kept
        kept_marks = [mark for mark in marks if mark[0] >= through]
        new_base = kept_marks[0][0]
        self._kept = (new_base, runs[new_base - base :], kept_marks)
