"""Commits that overtake lower seqs: a backend takes them, and knows which ones are yet to come."""

from __future__ import annotations

import random

import pytest

from seqtor.actors.journal.contract import (
    Backend,
    Group,
    Opened,
)
from seqtor.testing.journals.rows import (
    PARTS,
    JournalSuite,
    Reach,
    checkpoint,
    commit,
    content,
    entries,
    key,
    reopened,
)

__all__ = ["OvertakingContract"]


def ends(opened: Opened) -> tuple[int, int, tuple[int, ...]]:
    return opened.commits_through, opened.commits_last, opened.gaps


def group(*seqs: int, late: tuple[int, ...] = ()) -> Group:
    return Group([commit(seq) for seq in seqs], late=late)


def seqs_of(backend: Backend, first: int = 1, last: int = 1 << 40) -> list[int]:
    return [row.seq for row in backend.commits(first, last)]


BROKEN = {
    "a gap that is not named": group(3, 5),
    "one gap of two that is not named": group(5, 7, late=(6,)),
    "a gap that is there": group(3, 5, late=(4, 2)),
    "a gap that is filled at once": group(5, 3, 4, late=(4,)),
    "a seq twice": group(4, 4, late=(3,)),
    "a seq that is there": group(3, 1),
    "a late one without a gap": group(3, late=(4,)),
    "late ones without any commit": group(late=(3,)),
}


class OvertakingContract(JournalSuite):
    """Gaps in the seqs."""

    def test_a_seq_that_was_overtaken_may_come_later(self, backend: Backend, reach: Reach) -> None:
        backend.append(group(1, 2, 4, 5, late=(3,)))
        assert seqs_of(backend) == [1, 2, 4, 5]
        again, opened = reopened(backend, reach)
        assert ends(opened) == (2, 5, (3,))
        assert seqs_of(again) == [1, 2, 4, 5]
        again.append(group(6))
        again.append(group(3))
        assert seqs_of(again) == [1, 2, 3, 4, 5, 6]
        last, opened = reopened(again, reach)
        assert ends(opened) == (6, 6, ())
        assert content(last).commits == tuple(commit(seq) for seq in range(1, 7))
        last.append(group(7))
        last.close()

    def test_the_oldest_seq_may_be_the_one_that_is_overtaken(self, backend: Backend, reach: Reach) -> None:
        backend.append(group(2, late=(1,)))
        again, opened = reopened(backend, reach)
        assert ends(opened) == (0, 2, (1,))
        assert seqs_of(again) == [2]
        again.append(group(1))
        reader, opened = reopened(again, reach, write=False)
        assert ends(opened) == (2, 2, ())
        assert seqs_of(reader) == [1, 2]
        reader.close()

    def test_a_group_may_overtake_and_fill_at_once(self, backend: Backend, reach: Reach) -> None:
        backend.append(group(2, 4, 1, 8, late=(3, 5, 6, 7)))
        backend.append(Group([commit(6), commit(9), commit(3)], entries(1, 2), [key("a", 9)]))
        again, opened = reopened(backend, reach)
        assert ends(opened) == (4, 9, (5, 7))
        assert content(again) == Group(
            tuple(commit(seq) for seq in (1, 2, 3, 4, 6, 8, 9)), tuple(entries(1, 2)), (key("a", 9),)
        )
        again.close()

    @pytest.mark.parametrize(
        ("first", "last", "expected"),
        [(1, 9, [1, 2, 5, 7, 9]), (3, 4, []), (3, 6, [5]), (4, 5, [5]), (6, 6, []), (8, 99, [9]), (2, 8, [2, 5, 7])],
    )
    def test_a_range_with_gaps_is_read_without_them(
        self, backend: Backend, first: int, last: int, expected: list[int]
    ) -> None:
        backend.append(group(1, 2, 5, 7, 9, late=(3, 4, 6, 8)))
        assert seqs_of(backend, first, last) == expected

    @pytest.mark.parametrize("wrong", BROKEN)
    def test_of_a_group_whose_gaps_are_not_those_it_names_nothing_is_there(
        self, backend: Backend, reach: Reach, wrong: str
    ) -> None:
        backend.append(group(1, 2))
        with pytest.raises(AssertionError, match=r"gap|named when they are overtaken"):
            backend.append(BROKEN[wrong])
        again, opened = reopened(backend, reach)
        assert ends(opened) == (2, 2, ())
        assert seqs_of(again) == [1, 2]
        again.close()

    def test_a_gap_is_filled_once(self, backend: Backend) -> None:
        backend.append(group(1, 4, late=(2, 3)))
        backend.append(group(3))
        with pytest.raises(AssertionError, match="come once"):
            backend.append(group(3))

    def test_a_gap_that_is_filled_while_rows_are_read_disturbs_nobody(self, backend: Backend) -> None:
        backend.append(group(*range(1, 501), 502, late=(501,)))
        backend.append(group(*range(503, 1200)))
        reader = backend.commits(1, 2000)
        seqs = [next(reader).seq]
        for row in reader:
            if row.seq == 400:
                backend.append(group(501))
            seqs.append(row.seq)
        assert [seq for seq in seqs if seq != 501] == [seq for seq in range(1, 1200) if seq != 501]
        assert seqs_of(backend) == list(range(1, 1200))

    def test_a_journal_with_gaps_is_trimmed_before_them(self, backend: Backend, reach: Reach) -> None:
        backend.append(group(1, 2, 3, 5, 6, late=(4,)))
        info = checkpoint(backend, 3, PARTS)
        while not backend.trim(info, 2):
            pass
        again, opened = reopened(backend, reach)
        assert (opened.commits_from, *ends(opened)) == (4, 3, 6, (4,))
        assert seqs_of(again) == [5, 6]
        again.append(group(8, 4, late=(7,)))
        again, opened = reopened(again, reach)
        assert (opened.commits_from, *ends(opened)) == (4, 6, 8, (7,))
        assert seqs_of(again) == [4, 5, 6, 8]
        again.close()

    @pytest.mark.parametrize("seed", range(5))
    def test_any_order_is_read_back_in_the_order_of_the_seqs(self, backend: Backend, reach: Reach, seed: int) -> None:
        chance = random.Random(seed)
        order = sorted(range(1, 301), key=lambda seq: seq + chance.random() * chance.choice([1, 1, 1, 40]))
        done: set[int] = set()
        last = 0
        while order:
            size = chance.randint(1, 30)
            now, order = order[:size], order[size:]
            opened_now = set(range(last + 1, max(now) + 1)) - set(now)
            backend.append(Group([commit(seq) for seq in now], late=opened_now))
            done |= set(now)
            last = max(last, *now)
            gaps = tuple(seq for seq in range(1, last) if seq not in done)
            if chance.random() < 0.3:
                backend, opened = reopened(backend, reach, write=True)
                assert ends(opened) == (gaps[0] - 1 if gaps else last, last, gaps)
            assert seqs_of(backend) == sorted(done)
        backend, opened = reopened(backend, reach)
        assert ends(opened) == (300, 300, ())
        backend.close()
