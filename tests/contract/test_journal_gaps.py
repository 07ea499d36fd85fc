"""Every journal backend takes commits that overtake lower seqs, and knows which ones are yet to come."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from seqtor.actors.journal.checking import check_journal
from seqtor.actors.journal.contract import Backend, Group, Opened
from seqtor.messages.errors import JournalCorrupted
from tests.contract.journal_backends import BACKENDS, PARTS, Reach, checkpoint, commit, content, entries, key, reopened
from tests.overtaking import Overtaking


@pytest.fixture(params=BACKENDS)
def reach(request: pytest.FixtureRequest) -> Reach:
    """How to reach this test's journal; there is none yet."""
    return BACKENDS[request.param](request)


@pytest.fixture
def backend(reach: Reach) -> Iterator[Backend]:
    """A new journal, open for writing."""
    backend = reach()
    backend.open()
    yield backend
    backend.close()


def ends(opened: Opened) -> tuple[int, int, tuple[int, ...]]:
    return opened.commits_through, opened.commits_last, opened.gaps


def group(*seqs: int, late: tuple[int, ...] = ()) -> Group:
    return Group([commit(seq) for seq in seqs], late=late)


def seqs_of(backend: Backend, first: int = 1, last: int = 1 << 40) -> list[int]:
    return [row.seq for row in backend.commits(first, last)]


def test_a_seq_that_was_overtaken_may_come_later(backend: Backend, reach: Reach) -> None:
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


def test_the_oldest_seq_may_be_the_one_that_is_overtaken(backend: Backend, reach: Reach) -> None:
    backend.append(group(2, late=(1,)))
    again, opened = reopened(backend, reach)
    assert ends(opened) == (0, 2, (1,))
    assert seqs_of(again) == [2]
    again.append(group(1))
    reader, opened = reopened(again, reach, write=False)
    assert ends(opened) == (2, 2, ())
    assert seqs_of(reader) == [1, 2]
    reader.close()


def test_a_group_may_overtake_and_fill_at_once(backend: Backend, reach: Reach) -> None:
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
def test_a_range_with_gaps_is_read_without_them(backend: Backend, first: int, last: int, expected: list[int]) -> None:
    backend.append(group(1, 2, 5, 7, 9, late=(3, 4, 6, 8)))
    assert seqs_of(backend, first, last) == expected


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


@pytest.mark.parametrize("wrong", BROKEN)
def test_of_a_group_whose_gaps_are_not_those_it_names_nothing_is_there(
    backend: Backend, reach: Reach, wrong: str
) -> None:
    backend.append(group(1, 2))
    with pytest.raises(AssertionError, match=r"gap|named when they are overtaken"):
        backend.append(BROKEN[wrong])
    again, opened = reopened(backend, reach)
    assert ends(opened) == (2, 2, ())
    assert seqs_of(again) == [1, 2]
    again.close()


def test_a_gap_is_filled_once(backend: Backend) -> None:
    backend.append(group(1, 4, late=(2, 3)))
    backend.append(group(3))
    with pytest.raises(AssertionError, match="come once"):
        backend.append(group(3))


def test_a_gap_that_is_filled_while_rows_are_read_disturbs_nobody(backend: Backend) -> None:
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


def test_a_journal_with_gaps_is_trimmed_before_them(backend: Backend, reach: Reach) -> None:
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
def test_any_order_is_read_back_in_the_order_of_the_seqs(backend: Backend, reach: Reach, seed: int) -> None:
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


def test_what_overtook_and_what_was_overtaken_is_recovered_and_goes_on(reach: Reach) -> None:
    world = Overtaking(reach())
    world.begin()
    for seqs in ([1, 3, 4], [6, 2], [8]):
        world.tell(seqs)
        world.flush()
    world.backend.close()
    world.backend = reach()
    recovery = world.begin()
    assert world.recovered(recovery) == world.expected({1, 2, 3, 4, 6, 8})
    info = world.checkpoint(4)
    assert info is not None
    while not world.backend.trim(info, 3):
        pass
    for seqs in ([7], [9, 5]):
        world.tell(seqs)
        world.flush()
        world.backend.close()
        world.backend = reach()
        recovery = world.begin()
        assert world.recovered(recovery) == world.expected(world.ended)
        assert check_journal(world.backend, recovery.opened).damage == ()
    world.backend.close()


def test_a_row_that_was_there_is_missing_though_others_are_gaps(request: pytest.FixtureRequest) -> None:
    reach = BACKENDS["sqlite"](request)
    backend = reach()
    backend.open()
    backend.append(group(1, 2, 4, 5, 6, late=(3,)))
    for seq, refused_at_open in ((5, True), (2, False)):
        backend._connection.execute(f"DELETE FROM commits WHERE seq = {seq}")  # type: ignore[attr-defined]
        backend.close()
        if refused_at_open:
            with pytest.raises(JournalCorrupted, match="its commits end at 4, but 5 were durable"):
                reach().open()
            restored = reach()
            restored._path.with_name("journal.db-owner").unlink()  # type: ignore[attr-defined]
            restored.open()
            restored.append(group(5))
            backend = restored
        else:
            again = reach()
            again.open()
            with pytest.raises(JournalCorrupted, match="seq 2 is missing"):
                seqs_of(again)
            again.close()
