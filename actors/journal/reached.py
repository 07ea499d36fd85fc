"""Which seqs are there, when they come out of order: all up to one, and above it all but a few.

Owns that set, as three values. Promises: each seq comes once; as long as nothing is overtaken it is one number, and costs
no more than that. Immutable, so that a group that fails changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from seqtor.actors.invariants import require

__all__ = ["NOTHING_REACHED", "Reached", "next_expected"]


class Reached(NamedTuple):
    """All seqs up to `through`, and those up to `last` that are not in `gaps`. Without gaps, `last` is `through`."""

    through: int
    last: int
    gaps: frozenset[int] = frozenset()

    def has(self, seq: int) -> bool:
        """Whether the seq is there."""
        return seq <= self.through or (seq <= self.last and seq not in self.gaps)

    @property
    def total(self) -> int:
        """How many seqs are there."""
        return self.last - len(self.gaps)

    def after(self, seqs: Sequence[int], late: Collection[int] = ()) -> Reached:
        """The set with these seqs, in the order in which they come.

        `late` are the gaps that they open. Raises unless each seq is new and the gaps are those.
        """
        last = self.last
        for seq in seqs:
            last += 1
            if seq != last:
                return self._out_of_order(seqs, late)
        if late:
            require(False, "seqs that come later are named when they are overtaken", late=sorted(late)[:5], last=last)
        return Reached(last if not self.gaps else self.through, last, self.gaps)

    def _out_of_order(self, seqs: Sequence[int], late: Collection[int]) -> Reached:
        last, gaps = self.last, set(self.gaps)
        for seq in seqs:
            if seq > last:
                gaps.update(range(last + 1, seq))
                last = seq
            elif seq in gaps:
                gaps.remove(seq)
            else:
                require(False, "commits leave no gap in seq and come once", seq=seq, expected=last + 1)
        opened = gaps - self.gaps
        if opened != set(late):
            wrong = min(opened ^ set(late))
            require(False, "commits leave no gap in seq but those that come later", seq=wrong, late=wrong in late)
        through = self.through
        while through < last and through + 1 not in gaps:
            through += 1
        return Reached(through, last, frozenset(gaps))


NOTHING_REACHED = Reached(0, 0)


def next_expected(seq: int, found: int, gaps: Collection[int]) -> int:
    """The first seq from `seq` on that is no gap, or `found`, which is there."""
    while seq < found and seq in gaps:
        seq += 1
    return seq
