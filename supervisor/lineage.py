"""What followed from a run: the runs that it submitted, and those that reactions and effects have started because of it.

Owns the way from the records of the journal to a tree. Promises: the same from a running system and from a journal that has
been stopped; what was accepted and has no record yet is in it, without a seq.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.history import History
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.reactor.deciding import Link
from seqtor.messages.events import ALARM, EventEmitted
from seqtor.messages.reactions import Lineage
from seqtor.messages.records import CommitRecord

__all__ = ["kept_links", "lineage", "started_by"]

EFFECT_KEY = re.compile(r"[0-9a-f]{16,}-(\d+)-\d+")
EFFECT_FACT = re.compile(rf"(?:{ALARM})?(\d+)\.\d+/effect")
LINKS_MAX = 1_000_000
DEPTH_MAX = 100  # Whoever wants to see more of a chain asks for the lineage of its last run.
LINKED = ('"cause"', '"causes"', '"retry_of"')


def kept_links(backend: Backend, first: int, last: int, links_max: int = LINKS_MAX) -> dict[str, Link]:
    """What became of facts, by id, as the entries first..last say: the newest."""
    found: dict[str, Link] = {}
    for row in backend.entries(first, last):
        if row.kind == "reaction":
            for link in parsed(row.body).get("links", ()):
                new = Link(tuple(link.get("matched", ())), tuple(link.get("started", ())))
                found[link["fact"]] = new.after(found.get(link["fact"]))
                while len(found) > links_max:
                    del found[next(iter(found))]
    return found


def started_by(run: str, state: str, link_of: Callable[[str], Link | None]) -> tuple[str, ...]:
    """The runs that reactions have started because of what became of a run."""
    links = [link_of(fact) for fact in (run, f"{run}/{state}", f"{run}/result", f"{run}/failure")]
    return tuple([started for link in links if link is not None for started in link.started])


def lineage(history: History, seq: int, last: int, link_of: Callable[[str], Link | None]) -> Lineage:
    """The run at `seq` and what followed from it. Raises LookupError if there is no record of it."""
    rows = history.rows(seq, last) if history.first <= seq <= last else iter(())
    root: CommitRecord | None = None
    found = _Found()
    for row in rows:
        # Most runs follow from nothing. What follows from a run has a higher seq.
        if root is None or any(name in row.body for name in LINKED):
            record = commit_record(row, history.place)
            root = root or record
            found.take(record, is_root=record is root)
    if root is None:
        raise LookupError(f"there is no record of seq {seq}: the journal holds seqs from {history.first} to {last}")
    return found.tree(root, link_of)


class _Found:
    """The records that follow from the first one, by run and by what they follow from."""

    def __init__(self) -> None:
        self._newest: dict[str, CommitRecord] = {}
        self._by_seq: dict[int, str] = {}
        self._followers: dict[str, dict[str, None]] = {}

    def take(self, record: CommitRecord, *, is_root: bool) -> None:
        parent = next((each for each in self._parents(record) if each in self._newest), None)
        if parent is None and not is_root:
            return
        if parent is not None and record.run not in self._newest:  # A deferred run has several records.
            self._followers.setdefault(parent, {})[record.run] = None
        self._newest[record.run] = record
        self._by_seq[record.seq] = record.run

    def _parents(self, record: CommitRecord) -> Iterator[str]:
        """The runs that it may follow from, the nearest first."""
        if record.retry_of is not None:
            yield record.retry_of
        if record.cause is not None:
            yield record.cause
            effect = EFFECT_KEY.fullmatch(record.cause)
            if effect is not None:  # An effect has returned it.
                yield self._by_seq.get(int(effect[1]), "")
        for fact in reversed(record.causes):
            effect = EFFECT_FACT.fullmatch(fact)
            yield fact.partition("/")[0] if effect is None else self._by_seq.get(int(effect[1]), "")

    def tree(self, record: CommitRecord, link_of: Callable[[str], Link | None], depth: int = 1) -> Lineage:
        run, payload = record.run, record.trigger.payload
        released = [each.run for each in record.submitted] + ([] if record.retry is None else [record.retry.run])
        names = dict.fromkeys((*released, *started_by(run, record.state, link_of), *self._followers.get(run, ())))
        return Lineage(
            run=run,
            seq=record.seq,
            trigger=record.trigger.type,
            code=payload["code"] if record.trigger.type == EventEmitted.trigger_name else None,  # type: ignore[arg-type,call-overload,index]
            state=record.state,
            caused_by=tuple(record.causes) if record.cause is None else (record.cause,),
            followed=tuple(self._branches(run, names, link_of, depth)) if depth < DEPTH_MAX else (),
        )

    def _branches(
        self, run: str, names: Iterable[str], link_of: Callable[[str], Link | None], depth: int
    ) -> Iterator[Lineage]:
        """Those below a run: each where it belongs; what has several causes is below one of them."""
        for name in names:
            record: Any = self._newest.get(name)
            if record is None:
                yield Lineage(run=name)
            elif name in self._followers.get(run, ()):
                yield self.tree(record, link_of, depth + 1)
