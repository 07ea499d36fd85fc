"""What bounds a journal: checkpoints are kept part by part, and what they stand for is trimmed."""

from __future__ import annotations

import os

import pytest

from seqtor.actors.journal.contract import (
    Backend,
    CheckpointInfo,
    CheckpointPart,
    Group,
)
from seqtor.messages.errors import JournalCorrupted
from seqtor.testing.journals.rows import (
    PARTS,
    JournalSuite,
    Reach,
    checkpoint,
    commit,
    commits,
    content,
    entries,
    key,
    reopened,
)

__all__ = ["BoundingContract"]


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


def rows_of(backend: Backend, checkpoints: int) -> int:
    held = content(backend)
    return len(held.commits) + len(held.entries) + len(held.keys) + checkpoints


class BoundingContract(JournalSuite):
    """Checkpoints and trimming."""

    def test_a_finished_checkpoint_is_read_back_part_by_part(self, backend: Backend, reach: Reach) -> None:
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

    def test_checkpoints_are_named_oldest_first(self, backend: Backend, reach: Reach) -> None:
        backend.append(Group(commits(1, 30)))
        infos = [checkpoint(backend, seq, [CheckpointPart("open", b"%d" % seq)]) for seq in (10, 2, 30)]
        again, opened = reopened(backend, reach, write=False)
        assert opened.checkpoints == (infos[1], infos[0], infos[2])
        for seq in (2, 10, 30):
            assert list(again.checkpoint_parts(seq)) == [CheckpointPart("open", b"%d" % seq)]
        again.close()

    def test_an_unfinished_checkpoint_counts_for_nothing(self, backend: Backend, reach: Reach) -> None:
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

    def test_a_checkpoint_that_is_made_again_counts_once_it_is_finished(self, backend: Backend, reach: Reach) -> None:
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

    def test_parts_that_are_begun_again_replace_those_before(self, backend: Backend) -> None:
        backend.append(Group(commits(1, 3)))
        backend.add_checkpoint_part(3, 0, PARTS[1])
        backend.add_checkpoint_part(3, 1, PARTS[1])
        checkpoint(backend, 3, [PARTS[0]])
        assert list(backend.checkpoint_parts(3)) == [PARTS[0]]

    def test_groups_may_come_between_the_parts(self, backend: Backend) -> None:
        backend.append(Group(commits(1, 3)))
        for number, part in enumerate(PARTS):
            backend.add_checkpoint_part(3, number, part)
            backend.append(Group(commits(4 + number, 4 + number)))
        backend.finish_checkpoint(CheckpointInfo(3, 0, commit(3).chain, len(PARTS), 0))
        assert list(backend.checkpoint_parts(3)) == PARTS
        assert content(backend).commits == tuple(commits(1, 6))

    def test_a_checkpoint_with_a_missing_part_is_not_finished(self, backend: Backend, reach: Reach) -> None:
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

    @pytest.mark.parametrize("limit", [1, 2, 7, 1000])
    def test_trimming_deletes_what_the_checkpoint_stands_for_and_nothing_else(
        self, backend: Backend, reach: Reach, limit: int
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

    @pytest.mark.parametrize("limit", [1, 3, 10])
    def test_one_trimming_deletes_no_more_than_its_limit(self, backend: Backend, reach: Reach, limit: int) -> None:
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

    def test_a_trimming_that_is_interrupted_goes_on_after_the_next_opening(
        self, backend: Backend, reach: Reach
    ) -> None:
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

    def test_a_journal_that_was_trimmed_to_its_end_goes_on_where_it_was(self, backend: Backend, reach: Reach) -> None:
        backend.append(Group(commits(1, 4), entries(1, 3), [key("a", 4)]))
        info = checkpoint(backend, 4, PARTS, entries_through=3)
        assert backend.trim(info, 100)
        again, opened = reopened(backend, reach)
        assert (opened.commits_from, opened.commits_through) == (5, 4)
        assert (opened.entries_from, opened.entries_through) == (4, 3)
        assert content(again) == Group((), (), ())
        again.append(Group(commits(5, 6), entries(4, 4)))
        again, opened = reopened(again, reach)
        assert (opened.commits_from, opened.commits_through, opened.entries_through) == (5, 6, 4)
        assert content(again) == Group(tuple(commits(5, 6)), tuple(entries(4, 4)), ())
        again.close()

    def test_rows_that_are_trimmed_while_they_are_read_are_skipped_from_the_oldest_end(self, backend: Backend) -> None:
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

    def test_nothing_is_trimmed_without_a_finished_checkpoint(self, backend: Backend, reach: Reach) -> None:
        backend.append(Group(commits(1, 4)))
        backend.add_checkpoint_part(4, 0, PARTS[0])
        with pytest.raises(AssertionError, match="finished checkpoint"):
            backend.trim(CheckpointInfo(4, 0, b"", 1, 2), 10)
        again, _ = reopened(backend, reach)
        assert content(again).commits == tuple(commits(1, 4))
        again.close()

    def test_the_parts_of_a_checkpoint_under_way_are_not_trimmed(self, backend: Backend) -> None:
        backend.append(Group(commits(1, 9)))
        info = checkpoint(backend, 5, PARTS)
        backend.add_checkpoint_part(9, 0, PARTS[0])
        assert backend.trim(info, 1000)
        backend.add_checkpoint_part(9, 1, PARTS[1])
        backend.finish_checkpoint(CheckpointInfo(9, 0, commit(9).chain, 2, 0))
        assert list(backend.checkpoint_parts(9)) == PARTS[:2]
