"""Two checkers of the order: the serial oracle, and where every read came from.

Promises: what they say does not hold, does not. The oracle executes the runs again, one after another, each on the state
that those before it have left, with its recorded inputs; the handlers are the program's own, so what they do outside
of `tx` they do once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json

from seqtor.actors.publications import Publication
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.errors import ReplayDiverged
from seqtor.messages.stores import StoreAccess
from seqtor.snapshots import json_values
from seqtor.system import Supervisor
from seqtor.testing.checkers.evidence import Ended, Evidence, Violation, named
from seqtor.testing.checkers.watching import Life

__all__ = ["check_reads", "check_serial", "standing_publications"]

SERIAL, READS = "serial order", "reads"
DIVERGED_MAX = 20  # Of one history.
ADDRESS = " at 0x"  # In the text of an object that says nothing of itself, so that it cannot be compared.

# The serial oracle -------------------------------------------------------------------------------------------------


def check_serial(evidence: Evidence, system: Supervisor) -> Iterator[Violation]:
    """Every run gives what it is recorded to have given, and every state that was seen is the one after those runs."""
    yield from _executed_again(system)
    digests = Digests(system._every_store)
    with system._history() as (history, through):
        walk = history.walk(history.first - 1)
        expected = {walk.seq: walk.states}
        seen = {publication.seq for life in evidence.lives for publication in _publications(life)}
        for row in history.rows(history.first, through):
            walk.fold(from_json(row.body))
            if walk.seq in seen:
                expected[walk.seq] = walk.states
    for publication in standing_publications(evidence):
        if publication.seq not in expected:
            continue
        for ref in digests.differing(publication.states, expected[publication.seq]):
            found, wanted = digests.told(ref, publication.states, expected[publication.seq])
            yield Violation(
                SERIAL,
                publication.seq,
                f"after seq {publication.seq} {ref.name!r} was seen as {found}, and running seq 1 to {publication.seq} "
                f"one after another gives {wanted}",
            )


def _executed_again(system: Supervisor) -> Iterator[Violation]:
    with system._history() as (history, through):
        first = history.first
    for _ in range(DIVERGED_MAX):
        if first > through:
            return
        try:
            system.replay(first, through)
        except ReplayDiverged as diverged:
            yield Violation(SERIAL, diverged.seq, str(diverged))
            first = diverged.seq + 1
        else:
            return


def standing_publications(evidence: Evidence) -> Iterator[Publication]:
    """What was visible and was not lost with its process, in the order in which it was."""
    for life in evidence.lives:
        stands = _stands_through(evidence, life)
        for publication in _publications(life):
            if publication.seq <= stands:
                yield publication


def _publications(life: Life) -> Iterator[Publication]:
    publication = life.first
    while publication is not None:
        yield publication
        publication = publication.next


def _stands_through(evidence: Evidence, life: Life) -> float:
    """Up to which seq what a process has seen outlived it."""
    if not life.is_journaled:
        return float("inf")
    seq = life.first.seq if life.first is not None else 0
    while any(row.life.number <= life.number for row in evidence.rows.get(seq + 1, ())):
        seq += 1
    return seq


class Digests:
    """States of all stores, compared by what they hold."""

    def __init__(self, stores: Sequence[StoreRef[Any]]) -> None:
        self._stores = stores
        self._known: dict[int, tuple[Any, bytes | None]] = {}  # By the identity of a state, which is kept alive.

    def differing(self, found: Sequence[Any], expected: Sequence[Any]) -> Iterator[StoreRef[Any]]:
        """The stores whose states are not the same."""
        for ref in self._stores:
            before, after = found[ref.index], expected[ref.index]
            if before is after:
                continue
            digests = self._of(ref, before), self._of(ref, after)
            if None not in digests and digests[0] != digests[1]:
                yield ref

    def _of(self, ref: StoreRef[Any], state: Any) -> bytes | None:
        known = self._known.get(id(state))
        if known is None:
            text = _text(json_values(ref, state))
            known = state, None if ADDRESS in text else blake2b(text.encode()).digest()
            self._known[id(state)] = known
        return known[1]

    def told(self, ref: StoreRef[Any], found: Sequence[Any], expected: Sequence[Any]) -> tuple[str, str]:
        """What of the two differs."""
        one, other = json_values(ref, found[ref.index]), json_values(ref, expected[ref.index])
        keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
        return _text({key: one.get(key) for key in keys}), _text({key: other.get(key) for key in keys})


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False, default=repr)


# Where reads came from ---------------------------------------------------------------------------------------------


def check_reads(evidence: Evidence) -> Iterator[Violation]:
    """Whatever a run has read came from the last lower run that wrote it."""
    writers = evidence.writers()
    for seq in sorted(evidence.ended):
        ended = evidence.ended[seq]
        for access in ended.accesses:
            yield from _missed(evidence, ended, access, writers.get(access.store, ()))


def _missed(
    evidence: Evidence, ended: Ended, access: StoreAccess, writers: Sequence[tuple[int, str]]
) -> Iterator[Violation]:
    intent, seq = ended.intent, ended.seq
    assert intent is not None
    told = set()
    for writer, key in writers:
        if not intent.snapshot_seq < writer < seq or writer in intent.seen or key in told:
            continue
        version = access.keys.get(key)
        read_key = key in access.keys and writer > (intent.snapshot_seq if version is None else version)
        if read_key or access.whole or any(_is_within(key, *each) for each in access.ranges):
            told.add(key)
            store, what = evidence.store_name(access.store), "read" if read_key else "looked for"
            yield Violation(
                READS,
                seq,
                f"seq {seq} ({named(ended.run.submission)}) {what} {store}[{key!r}] as of seq {intent.snapshot_seq}, but "
                f"seq {writer} ({named(evidence.ended[writer].run.submission)}) had written it before its turn",
            )


def _is_within(key: str, start: str | None, stop: str | None) -> bool:
    return (start is None or key >= start) and (stop is None or key < stop)
