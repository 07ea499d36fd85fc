"""Every journal backend passes the one suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seqtor.actors.journal.contract import Backend, CheckpointInfo, CheckpointPart, CommitRow, EntryRow, Group, KeyRow
from seqtor.messages.errors import JournalCorrupted, JournalLocked, NotRunning
from tests.contract.journal_backends import (
    BACKENDS,
    PARTS,
    Reach,
    checkpoint,
    commit,
    commits,
    content,
    entries,
    entry,
    key,
    reopened,
)

TEXTS = ["", "plain", "\x00 in \x00 the middle", "ß → 漢字 🙂", '"quoted" \\ and \n broken', "x" * 300_000]
BYTES = [b"", b"\x00" * 32, bytes(range(256)), b"\xff\xfe"]
EMPTY = Group((), (), ())


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


# Opening and closing ---------------------------------------------------------------------------------------------------


def test_a_new_journal_is_empty(reach: Reach) -> None:
    backend = reach()
    opened = backend.open()
    assert opened.journal_id
    assert opened == (opened.journal_id, 1, 1, 0, 1, 0, (), 0, ())
    assert content(backend) == EMPTY
    backend.close()


def test_two_journals_have_different_ids(request: pytest.FixtureRequest, tmp_path_factory: Any) -> None:
    ids = set()
    for name, make in BACKENDS.items():
        if name in ("memory", "sqlite"):  # Others may have one place for all.
            backend = make(request)()
            ids.add(backend.open().journal_id)
            backend.close()
    assert len(ids) == 2


def test_every_opening_for_writing_begins_a_new_epoch_of_the_same_journal(reach: Reach) -> None:
    backend = reach()
    opened = [backend.open()]
    for _ in range(3):
        backend, again = reopened(backend, reach)
        opened.append(again)
    backend.close()
    assert [each.epoch for each in opened] == [1, 2, 3, 4]
    assert len({each.journal_id for each in opened}) == 1


def test_an_opening_for_reading_begins_no_epoch_and_writes_nothing(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 3), entries(1, 2), [key("a")]))
    before = content(backend)
    reader, opened = reopened(backend, reach, write=False)
    assert (opened.commits_through, opened.entries_through) == (3, 2)
    assert content(reader) == before
    for write in (
        lambda: reader.append(Group(commits(4, 4))),
        lambda: reader.add_checkpoint_part(3, 0, PARTS[0]),
        lambda: reader.finish_checkpoint(CheckpointInfo(3, 2, b"", 0, 0)),
        lambda: reader.trim(CheckpointInfo(3, 2, b"", 0, 0), 10),
    ):
        with pytest.raises(AssertionError, match="open for writing"):
            write()
    writer, opened = reopened(reader, reach)
    assert (opened.epoch, opened.commits_through) == (2, 3)
    assert content(writer) == before
    writer.close()


@pytest.mark.parametrize("write", [True, False])
def test_an_open_journal_is_not_opened_a_second_time(backend: Backend, reach: Reach, write: bool) -> None:
    backend.append(Group(commits(1, 1)))
    for second in (reach(), backend):
        with pytest.raises(JournalLocked):
            second.open(write=write)
    backend.append(Group(commits(2, 2)))
    assert content(backend).commits == tuple(commits(1, 2))
    again, opened = reopened(backend, reach)
    assert (opened.epoch, opened.commits_through) == (2, 2)
    again.close()


def test_closing_is_harmless_when_it_is_not_open(reach: Reach) -> None:
    backend = reach()
    backend.close()
    backend.open()
    backend.close()
    backend.close()
    assert backend.open().epoch == 2
    backend.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda backend: backend.append(Group(commits(2, 2))),
        lambda backend: list(backend.commits(1, 1)),
        lambda backend: list(backend.entries(1, 1)),
        lambda backend: list(backend.keys()),
        lambda backend: list(backend.checkpoint_parts(1)),
        lambda backend: backend.add_checkpoint_part(1, 0, PARTS[0]),
    ],
)
def test_a_closed_journal_answers_nothing(backend: Backend, use: Callable[[Backend], Any]) -> None:
    backend.append(Group(commits(1, 1), entries(1, 1), [key("a")]))
    checkpoint(backend, 1, PARTS)
    backend.close()
    with pytest.raises(AssertionError, match="is open"):
        use(backend)


# Groups ----------------------------------------------------------------------------------------------------------------


def test_what_was_appended_is_read_back_as_it_was(backend: Backend, reach: Reach) -> None:
    commit_rows = [CommitRow(seq, text, b"%032d" % seq) for seq, text in enumerate(TEXTS, 1)]
    commit_rows += [CommitRow(seq, "chain", chain) for seq, chain in enumerate(BYTES, len(TEXTS) + 1)]
    entry_rows = [EntryRow(pos, text[:50], text[:60], text) for pos, text in enumerate(TEXTS, 1)]
    key_rows = [
        KeyRow(text[:70], "run-ß", digest, seq)
        for text, digest, seq in zip(TEXTS, BYTES, (None, 1, 2, 3), strict=False)
    ]
    backend.append(Group(commit_rows, entry_rows, key_rows))
    expected = Group(tuple(commit_rows), tuple(entry_rows), tuple(sorted(key_rows)))
    assert content(backend) == expected
    again, opened = reopened(backend, reach)
    assert (opened.commits_through, opened.entries_through) == (len(commit_rows), len(entry_rows))
    assert content(again) == expected
    again.close()


def test_rows_are_of_their_types(backend: Backend) -> None:
    backend.append(Group(commits(1, 1), entries(1, 1), [key("a")]))
    rows = [*backend.commits(1, 1), *backend.entries(1, 1), *backend.keys()]
    assert [type(row) for row in rows] == [CommitRow, EntryRow, KeyRow]


def test_groups_follow_each_other(backend: Backend, reach: Reach) -> None:
    size = 1
    through = 0
    while through < 2000:
        backend.append(Group(commits(through + 1, through + size), entries(through + 1, through + size)))
        through += size
        size = size * 3 % 257
    assert content(backend) == Group(tuple(commits(1, through)), tuple(entries(1, through)), ())
    again, opened = reopened(backend, reach)
    assert (opened.commits_through, opened.entries_through) == (through, through)
    again.append(Group(commits(through + 1, through + 1)))
    assert [row.seq for row in again.commits(1, through + 9)] == list(range(1, through + 2))
    again.close()


@pytest.mark.parametrize("group", [Group(), Group(entries=entries(1, 2)), Group(keys=[key("a")]), Group(commits(1, 1))])
def test_any_part_of_a_group_may_be_empty(backend: Backend, group: Group) -> None:
    backend.append(group)
    assert content(backend) == Group(tuple(group.commits), tuple(group.entries), tuple(group.keys))


BROKEN = {
    "a gap in seq": Group([commit(3), commit(5)], entries(3, 3), [key("new")]),
    "a gap before the first seq": Group([commit(4)], entries(3, 3), [key("new")]),
    "a seq that is there": Group([commit(3), commit(3)], entries(3, 3), [key("new")]),
    "a seq that was there": Group([commit(2)], entries(3, 3), [key("new")]),
    "a gap in the positions": Group(commits(3, 3), [entry(3), entry(5)], [key("new")]),
    "a position that was there": Group(commits(3, 3), [entry(2)], [key("new")]),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_of_a_group_that_fails_nothing_is_there(backend: Backend, reach: Reach, wrong: str) -> None:
    backend.append(Group(commits(1, 2), entries(1, 2), [key("old")]))
    before = content(backend)
    with pytest.raises(AssertionError, match="gap"):
        backend.append(BROKEN[wrong])
    again, opened = reopened(backend, reach)
    assert (opened.commits_through, opened.entries_through) == (2, 2)
    assert content(again) == before
    again.append(Group(commits(3, 3), entries(3, 3)))
    again.close()


def test_after_a_group_that_failed_nothing_is_taken_until_it_is_opened_again(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 2)))
    with pytest.raises(AssertionError, match="gap"):
        backend.append(Group(commits(7, 7)))
    for _ in range(2):
        with pytest.raises(NotRunning, match="close it and open it again"):
            backend.append(Group(commits(3, 3)))
        with pytest.raises(NotRunning, match="close it and open it again"):
            backend.add_checkpoint_part(2, 0, PARTS[0])
    again, _ = reopened(backend, reach)
    again.append(Group(commits(3, 3)))
    assert content(again).commits == tuple(commits(1, 3))
    again.close()


# Reading ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(1, 5, range(1, 6)), (2, 4, range(2, 5)), (3, 3, [3]), (4, 99, [4, 5]), (-3, 1, [1]), (4, 3, []), (6, 9, [])],
)
def test_a_range_is_read_from_its_first_to_its_last(backend: Backend, first: int, last: int, expected: Any) -> None:
    backend.append(Group(commits(1, 5), entries(1, 5)))
    assert [row.seq for row in backend.commits(first, last)] == list(expected)
    assert [row.pos for row in backend.entries(first, last)] == list(expected)


def test_a_reader_that_stops_in_the_middle_disturbs_nobody(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 700), entries(1, 700), [key(f"{number:04}") for number in range(700)]))
    readers = [backend.commits(1, 700), backend.entries(1, 700), backend.keys()]
    begun = [next(reader) for reader in readers]
    assert begun[:2] == [commit(1), entry(1)]
    backend.append(Group(commits(701, 701), entries(701, 701), [key("zzz")]))
    checkpoint(backend, 1, PARTS)
    again, opened = reopened(backend, reach)
    assert opened.commits_through == 701
    again.close()


def test_rows_that_come_while_others_are_read_do_not_disturb_the_reader(backend: Backend) -> None:
    backend.append(Group(commits(1, 600), entries(1, 600)))
    seqs, positions = [], []
    for number, (one, other) in enumerate(zip(backend.commits(1, 600), backend.entries(1, 600), strict=True), 601):
        seqs.append(one.seq)
        positions.append(other.pos)
        backend.append(Group(commits(number, number), entries(number, number)))
    assert seqs == positions == list(range(1, 601))
    assert len(content(backend).commits) == 1200


# Keys ------------------------------------------------------------------------------------------------------------------


def test_a_key_is_replaced_by_a_later_row_of_it(backend: Backend, reach: Reach) -> None:
    backend.append(Group(keys=[key("a"), key("b"), key("a", run="run-2")]))
    assert content(backend).keys == (key("a", run="run-2"), key("b"))
    backend.append(Group(keys=[key("b", 7)]))
    again, _ = reopened(backend, reach)
    assert content(again).keys == (key("a", run="run-2"), key("b", 7))
    again.close()


def test_a_key_row_without_a_run_deletes_the_key(backend: Backend) -> None:
    backend.append(Group(keys=[key("a"), key("b"), key("c")]))
    backend.append(Group(keys=[key("a", run=""), key("unknown", run="")]))
    assert content(backend).keys == (key("b"), key("c"))
    backend.append(Group(keys=[key("b", run=""), key("b", 3), key("c", 3), key("c", run="")]))
    assert content(backend).keys == (key("b", 3),)


def test_there_may_be_very_many_keys(backend: Backend) -> None:
    names = [f"{number * 7919 % 5000:05}" for number in range(5000)]
    backend.append(Group(keys=[key(name) for name in names]))
    assert [row.key for row in content(backend).keys] == sorted(names)


# Checkpoints -----------------------------------------------------------------------------------------------------------


def test_a_finished_checkpoint_is_read_back_part_by_part(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 9), entries(1, 4)))
    data = os.urandom(1 << 20)
    parts = [*PARTS, CheckpointPart("store:book", data), CheckpointPart("store:book", data[:7])]
    info = checkpoint(backend, 9, parts, entries_through=4)
    assert list(backend.checkpoint_parts(9)) == parts
    again, opened = reopened(backend, reach)
    assert opened.checkpoints == (info,)
    assert type(opened.checkpoints[0]) is CheckpointInfo
    assert list(again.checkpoint_parts(9)) == parts
    assert {type(part) for part in again.checkpoint_parts(9)} == {CheckpointPart}
    again.close()


def test_checkpoints_are_named_oldest_first(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 30)))
    infos = [checkpoint(backend, seq, [CheckpointPart("open", b"%d" % seq)]) for seq in (10, 2, 30)]
    again, opened = reopened(backend, reach, write=False)
    assert opened.checkpoints == (infos[1], infos[0], infos[2])
    for seq in (2, 10, 30):
        assert list(again.checkpoint_parts(seq)) == [CheckpointPart("open", b"%d" % seq)]
    again.close()


def test_an_unfinished_checkpoint_counts_for_nothing(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 3)))
    backend.add_checkpoint_part(3, 0, PARTS[1])
    with pytest.raises(JournalCorrupted):
        list(backend.checkpoint_parts(3))
    again, opened = reopened(backend, reach)
    assert opened.checkpoints == ()
    with pytest.raises(JournalCorrupted):
        list(again.checkpoint_parts(3))
    with pytest.raises(AssertionError):
        again.finish_checkpoint(CheckpointInfo(3, 0, b"", 1, len(PARTS[1].data)))
    again, _ = reopened(again, reach)
    info = checkpoint(again, 3, PARTS[2:])
    assert list(again.checkpoint_parts(3)) == PARTS[2:]
    reader, opened = reopened(again, reach, write=False)
    assert opened.checkpoints == (info,)
    reader.close()


def test_a_checkpoint_that_is_made_again_counts_once_it_is_finished(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 3)))
    old = checkpoint(backend, 3, PARTS)
    backend.add_checkpoint_part(3, 0, CheckpointPart("open", b"new"))
    assert list(backend.checkpoint_parts(3)) == PARTS
    again, opened = reopened(backend, reach)
    assert opened.checkpoints == (old,)
    assert list(again.checkpoint_parts(3)) == PARTS
    new = checkpoint(again, 3, [CheckpointPart("open", b"new")], entries_through=0)
    assert list(again.checkpoint_parts(3)) == [CheckpointPart("open", b"new")]
    last, opened = reopened(again, reach)
    assert opened.checkpoints == (new,)
    assert list(last.checkpoint_parts(3)) == [CheckpointPart("open", b"new")]
    last.close()


def test_parts_that_are_begun_again_replace_those_before(backend: Backend) -> None:
    backend.append(Group(commits(1, 3)))
    backend.add_checkpoint_part(3, 0, PARTS[1])
    backend.add_checkpoint_part(3, 1, PARTS[1])
    checkpoint(backend, 3, [PARTS[0]])
    assert list(backend.checkpoint_parts(3)) == [PARTS[0]]


def test_groups_may_come_between_the_parts(backend: Backend) -> None:
    backend.append(Group(commits(1, 3)))
    for number, part in enumerate(PARTS):
        backend.add_checkpoint_part(3, number, part)
        backend.append(Group(commits(4 + number, 4 + number)))
    backend.finish_checkpoint(CheckpointInfo(3, 0, commit(3).chain, len(PARTS), 0))
    assert list(backend.checkpoint_parts(3)) == PARTS
    assert content(backend).commits == tuple(commits(1, 6))


def test_a_checkpoint_with_a_missing_part_is_not_finished(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 3)))
    backend.add_checkpoint_part(3, 0, PARTS[0])
    with pytest.raises(AssertionError, match="parts"):
        backend.finish_checkpoint(CheckpointInfo(3, 0, b"", 2, 2))
    again, opened = reopened(backend, reach)
    assert opened.checkpoints == ()
    again.add_checkpoint_part(3, 0, PARTS[0])
    with pytest.raises(AssertionError, match="in order"):
        again.add_checkpoint_part(3, 2, PARTS[0])
    again.close()


# Trimming --------------------------------------------------------------------------------------------------------------


def filled(backend: Backend) -> CheckpointInfo:
    """A journal with everything, and a checkpoint in the middle of it."""
    # Their names run against their age.
    keys = [key(f"ended-{99 - seq}", seq) for seq in range(1, 21)] + [key(f"open-{number:02}") for number in range(5)]
    backend.append(Group(commits(1, 20), entries(1, 16), keys))
    for seq in (2, 5, 8):
        checkpoint(backend, seq, [CheckpointPart("open", b"%d" % seq)])
    info = checkpoint(backend, 12, PARTS, entries_through=9)
    checkpoint(backend, 18, PARTS[:1], entries_through=12)
    return info


def require_trimmed(backend: Backend) -> None:
    held = content(backend)
    assert held.commits == tuple(commits(13, 20))
    assert held.entries == tuple(entries(10, 16))
    assert sorted(row.seq for row in held.keys if row.seq is not None) == list(range(13, 21))
    assert [row.key for row in held.keys if row.seq is None] == [f"open-0{number}" for number in range(5)]
    assert list(backend.checkpoint_parts(12)) == PARTS
    assert list(backend.checkpoint_parts(18)) == PARTS[:1]
    for seq in (2, 5, 8):
        with pytest.raises(JournalCorrupted):
            list(backend.checkpoint_parts(seq))


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_trimming_deletes_what_the_checkpoint_stands_for_and_nothing_else(
    backend: Backend, reach: Reach, limit: int
) -> None:
    info = filled(backend)
    rounds = 0
    while not backend.trim(info, limit):
        rounds += 1
        assert rounds < 200
        held = content(backend)
        # Whatever is left is what was there last: it went from the oldest end.
        assert held.commits == tuple(commits(21 - len(held.commits), 20))
        assert held.entries == tuple(entries(17 - len(held.entries), 16))
        ended = sorted(row.seq for row in held.keys if row.seq is not None)
        assert ended == list(range(21 - len(ended), 21))
    require_trimmed(backend)
    assert backend.trim(info, limit)
    again, opened = reopened(backend, reach)
    assert (opened.commits_from, opened.commits_through) == (13, 20)
    assert (opened.entries_from, opened.entries_through) == (10, 16)
    assert [each.seq for each in opened.checkpoints] == [12, 18]
    require_trimmed(again)
    again.append(Group(commits(21, 21), entries(17, 17)))
    again.close()


def rows_of(backend: Backend, checkpoints: int) -> int:
    held = content(backend)
    return len(held.commits) + len(held.entries) + len(held.keys) + checkpoints


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_one_trimming_deletes_no_more_than_its_limit(backend: Backend, reach: Reach, limit: int) -> None:
    info = filled(backend)
    while True:
        backend, opened = reopened(backend, reach)
        before = rows_of(backend, len(opened.checkpoints))
        done = backend.trim(info, limit)
        backend, opened = reopened(backend, reach)
        assert before - limit <= rows_of(backend, len(opened.checkpoints)) <= before
        if done:
            break
    require_trimmed(backend)
    backend.close()


def test_a_trimming_that_is_interrupted_goes_on_after_the_next_opening(backend: Backend, reach: Reach) -> None:
    info = filled(backend)
    for _ in range(60):
        done = backend.trim(info, 3)
        backend, opened = reopened(backend, reach)
        assert opened.commits_through == 20
        assert [row.seq for row in backend.commits(1, 20)] == list(range(opened.commits_from, 21))
        if done:
            break
    require_trimmed(backend)
    backend.close()


def test_a_journal_that_was_trimmed_to_its_end_goes_on_where_it_was(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 4), entries(1, 3), [key("a", 4)]))
    info = checkpoint(backend, 4, PARTS, entries_through=3)
    assert backend.trim(info, 100)
    again, opened = reopened(backend, reach)
    assert (opened.commits_from, opened.commits_through) == (5, 4)
    assert (opened.entries_from, opened.entries_through) == (4, 3)
    assert content(again) == EMPTY
    again.append(Group(commits(5, 6), entries(4, 4)))
    again, opened = reopened(again, reach)
    assert (opened.commits_from, opened.commits_through, opened.entries_through) == (5, 6, 4)
    assert content(again) == Group(tuple(commits(5, 6)), tuple(entries(4, 4)), ())
    again.close()


def test_rows_that_are_trimmed_while_they_are_read_are_skipped_from_the_oldest_end(backend: Backend) -> None:
    backend.append(Group(commits(1, 2000), entries(1, 2000)))
    info = checkpoint(backend, 1500, PARTS, entries_through=1500)
    reader, other = backend.commits(1, 2000), backend.entries(1, 2000)
    seqs, positions = [next(reader).seq], [next(other).pos]
    while not backend.trim(info, 5000):
        pass
    seqs += [row.seq for row in reader]
    positions += [row.pos for row in other]
    for read in (seqs, positions):
        assert read == sorted(set(read))
        assert read[-500:] == list(range(1501, 2001))


def test_nothing_is_trimmed_without_a_finished_checkpoint(backend: Backend, reach: Reach) -> None:
    backend.append(Group(commits(1, 4)))
    backend.add_checkpoint_part(4, 0, PARTS[0])
    with pytest.raises(AssertionError, match="finished checkpoint"):
        backend.trim(CheckpointInfo(4, 0, b"", 1, 2), 10)
    again, _ = reopened(backend, reach)
    assert content(again).commits == tuple(commits(1, 4))
    again.close()


def test_the_parts_of_a_checkpoint_under_way_are_not_trimmed(backend: Backend) -> None:
    backend.append(Group(commits(1, 9)))
    info = checkpoint(backend, 5, PARTS)
    backend.add_checkpoint_part(9, 0, PARTS[0])
    assert backend.trim(info, 1000)
    backend.add_checkpoint_part(9, 1, PARTS[1])
    backend.finish_checkpoint(CheckpointInfo(9, 0, commit(9).chain, 2, 0))
    assert list(backend.checkpoint_parts(9)) == PARTS[:2]
