"""The journal of a system that lives in memory: the newest runs as they ended, encoded only when someone asks.

Owns the history of a system without a journal on disk. It survives actors, not the process. Promises: telling it costs
nothing to speak of; what is read is what a journal on disk would hold, if the runs had ended in the order of their seqs.
Bounded: the oldest runs are forgotten, and the states before them kept in their place. Written on the core, read from any
thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from seqtor.actors.journal.contract import CommitRow
from seqtor.actors.journal.encoding import GENESIS, chained, commit_text
from seqtor.actors.journal.walk import Walk
from seqtor.actors.stores.contract import StoreActor, StoreRef
from seqtor.actors.submissions import Submission
from seqtor.messages.commits import EndedRun, Released
from seqtor.messages.runs import RunsEnded
from seqtor.messages.stores import Write

__all__ = ["HeldRuns"]

MARK_EVERY = 1024


class Kept(NamedTuple):
    """The runs behind `base`, in columns: a tuple for each would be ten times as much work for the cycle collector.

    `numbers` are three for each run (snapshot, first snapshot, when it ended), `writes` three for each write (store, key,
    op); `ends` says where the writes of each run end. The rest of a run is in its submission.
    """

    base: int
    marks: list[tuple[int, tuple[Any, ...]]]
    submissions: list[Submission[Any]]
    numbers: list[Any]
    writes: list[Any]
    ends: list[int]
    released: dict[int, Released]

    def writes_of(self, seq: int) -> tuple[tuple[int, tuple[Write, ...]], ...]:
        """The writes of a run, by store."""
        index = seq - self.base - 1
        flat = self.writes[self.ends[index - 1] if index else 0 : self.ends[index]]
        by_store: dict[int, list[Write]] = {}
        for place in range(0, len(flat), 3):
            by_store.setdefault(flat[place], []).append(Write(flat[place + 1], flat[place + 2]))
        return tuple([(store, tuple(writes)) for store, writes in by_store.items()])

    def run(self, seq: int) -> tuple[EndedRun, float]:
        """A run as it ended, and when; what it read is not kept."""
        index = seq - self.base - 1
        submission = self.submissions[index]
        snapshot_seq, first_snapshot_seq, ended_at = self.numbers[3 * index : 3 * index + 3]
        ended = EndedRun(
            submission=submission,
            seq=seq,
            attempts=submission.attempts,
            state=submission.ended_as,  # type: ignore[arg-type]
            result=submission.recorded_result,
            error=submission.error,
            conflicts=submission.conflicts,
            handler_s=submission.handler_s,
            snapshot_seq=snapshot_seq,
            first_snapshot_seq=first_snapshot_seq,
            accesses=None,
            writes=self.writes_of(seq),
            released=self.released.get(seq),
        )
        return ended, ended_at

    def behind(self, base: int) -> Kept:
        """The runs behind a later `base`, as columns of their own."""
        count = base - self.base
        first_write = self.ends[count - 1] if count else 0
        return Kept(
            base,
            [mark for mark in self.marks if mark[0] >= base],
            self.submissions[count:],
            self.numbers[3 * count :],
            self.writes[first_write:],
            [end - first_write for end in self.ends[count:]],
            {seq: released for seq, released in self.released.items() if seq > base},
        )


class HeldRuns:
    """The newest `runs_max` runs, at least, of a system in memory."""

    def __init__(self, stores: Sequence[StoreRef[Any]], states: tuple[Any, ...], runs_max: int) -> None:
        self._stores = stores
        self._runs_max = runs_max
        # The hashes after some seqs that somebody has read, so that the next reader need not encode all before.
        self._chains: tuple[int, dict[int, bytes]] = (0, {0: GENESIS})
        self._ahead: dict[int, tuple[EndedRun, float]] = {}  # Those that have overtaken a lower seq, until it ends.
        self._kept = Kept(0, [(0, states)], [], [], [], [], {})  # Replaced as one, for readers on other threads.

    place = "memory"

    @property
    def first(self) -> int:
        """The oldest seq whose run is kept."""
        return self._kept.base + 1

    @property
    def last(self) -> int:
        """The newest seq whose run is kept, and known to the coordinator."""
        kept = self._kept
        last = len(kept.submissions)
        while last and kept.submissions[last - 1].ended_as is None:
            last -= 1
        return kept.base + last

    def keep(self, message: RunsEnded, states: tuple[Any, ...]) -> None:
        """Keep runs; `states` are those after the last seq up to which all have ended. Twice: the second is ignored."""
        kept = self._kept
        runs, last = message.runs, kept.base + len(kept.submissions)
        if runs[0].seq <= last or runs[0].seq in self._ahead:
            return
        if self._ahead or [ended.seq for ended in runs] != list(range(last + 1, last + 1 + len(runs))):
            self._ahead.update((ended.seq, (ended, message.ended_at)) for ended in runs)
            while (found := self._ahead.pop(kept.base + len(kept.submissions) + 1, None)) is not None:
                self._add(found[:1], found[1])
        else:
            self._add(runs, message.ended_at)
        last = kept.base + len(kept.submissions)
        if last - kept.marks[-1][0] >= MARK_EVERY:
            kept.marks.append((last, states))
            if len(kept.submissions) > self._runs_max + max(self._runs_max // 4, MARK_EVERY):
                self._forget(last - self._runs_max)

    def _add(self, runs: Sequence[EndedRun], ended_at: float) -> None:
        kept = self._kept
        submissions, numbers, flat, ends = kept.submissions, kept.numbers, kept.writes, kept.ends
        for ended in runs:
            for store, writes in ended.writes:
                for key, op in writes:
                    flat += (store, key, op)
            ends.append(len(flat))
            numbers += (ended.snapshot_seq, ended.first_snapshot_seq, ended_at)
            if ended.released is not None:
                kept.released[ended.seq] = ended.released
            submissions.append(ended.submission)  # Last: who counts them finds all of each.

    def states_at(self, seq: int) -> tuple[Any, ...]:
        """The states after `seq`. Raises LookupError for one before the oldest that is kept."""
        kept = self._kept
        found = [mark for mark in kept.marks if mark[0] <= seq]
        if not found:
            raise LookupError(self._forgotten(seq))
        after, states = found[-1]
        changed = list(states)
        for each in range(after + 1, seq + 1):
            for store, writes in kept.writes_of(each):
                changed[store] = self._stores[store].spec.fold(changed[store], writes)
        return tuple(changed)

    def rows(self, first: int, last: int) -> Iterator[CommitRow]:
        """The rows that a journal on disk would hold. The chain begins with the oldest run that is kept."""
        kept = self._kept
        base = kept.base
        if first <= base and first <= last:
            raise LookupError(self._forgotten(first))
        if self._chains[0] != base:
            self._chains = (base, {base: GENESIS})
        chains = self._chains[1]
        start = max(seq for seq in list(chains) if seq < max(first, base + 1))
        chain = chains[start]
        for seq in range(start + 1, min(last, self.last) + 1):
            ended, ended_at = kept.run(seq)
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
        kept = self._kept
        self._kept = kept.behind(next(mark[0] for mark in kept.marks if mark[0] >= through))
