"""What a backend does with rows: it opens and closes, appends groups, reads them back, keeps keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seqtor.actors.journal.contract import (
    Backend,
    CheckpointInfo,
    CommitRow,
    EntryRow,
    Group,
    KeyRow,
)
from seqtor.messages.errors import JournalLocked, NotRunning
from seqtor.testing.journals.rows import (
    PARTS,
    JournalSuite,
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

__all__ = ["AppendingContract"]

TEXTS = ["", "plain", "\x00 in \x00 the middle", "ß → 漢字 🙂", '"quoted" \\ and \n broken', "x" * 300_000]
BYTES = [b"", b"\x00" * 32, bytes(range(256)), b"\xff\xfe"]
EMPTY = Group((), (), ())

BROKEN = {
    "a gap in seq": Group([commit(3), commit(5)], entries(3, 3), [key("new")]),
    "a gap before the first seq": Group([commit(4)], entries(3, 3), [key("new")]),
    "a seq that is there": Group([commit(3), commit(3)], entries(3, 3), [key("new")]),
    "a seq that was there": Group([commit(2)], entries(3, 3), [key("new")]),
    "a gap in the positions": Group(commits(3, 3), [entry(3), entry(5)], [key("new")]),
    "a position that was there": Group(commits(3, 3), [entry(2)], [key("new")]),
}


class AppendingContract(JournalSuite):
    """Opening, groups, reading, keys."""

    def test_a_new_journal_is_empty(self, reach: Reach) -> None:
        backend = reach()
        opened = backend.open()
        assert opened.journal_id
        assert opened == (opened.journal_id, 1, 1, 0, 1, 0, (), 0, ())
        assert content(backend) == EMPTY
        backend.close()

    def test_every_opening_for_writing_begins_a_new_epoch_of_the_same_journal(self, reach: Reach) -> None:
        backend = reach()
        opened = [backend.open()]
        for _ in range(3):
            backend, again = reopened(backend, reach)
            opened.append(again)
        backend.close()
        assert [each.epoch for each in opened] == [1, 2, 3, 4]
        assert len({each.journal_id for each in opened}) == 1

    def test_an_opening_for_reading_begins_no_epoch_and_writes_nothing(self, backend: Backend, reach: Reach) -> None:
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
    def test_an_open_journal_is_not_opened_a_second_time(self, backend: Backend, reach: Reach, write: bool) -> None:
        backend.append(Group(commits(1, 1)))
        for second in (reach(), backend):
            with pytest.raises(JournalLocked):
                second.open(write=write)
        backend.append(Group(commits(2, 2)))
        assert content(backend).commits == tuple(commits(1, 2))
        again, opened = reopened(backend, reach)
        assert (opened.epoch, opened.commits_through) == (2, 2)
        again.close()

    def test_closing_is_harmless_when_it_is_not_open(self, reach: Reach) -> None:
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
    def test_a_closed_journal_answers_nothing(self, backend: Backend, use: Callable[[Backend], Any]) -> None:
        backend.append(Group(commits(1, 1), entries(1, 1), [key("a")]))
        checkpoint(backend, 1, PARTS)
        backend.close()
        with pytest.raises(AssertionError, match="is open"):
            use(backend)

    def test_what_was_appended_is_read_back_as_it_was(self, backend: Backend, reach: Reach) -> None:
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

    def test_rows_are_of_their_types(self, backend: Backend) -> None:
        backend.append(Group(commits(1, 1), entries(1, 1), [key("a")]))
        rows = [*backend.commits(1, 1), *backend.entries(1, 1), *backend.keys()]
        assert [type(row) for row in rows] == [CommitRow, EntryRow, KeyRow]

    def test_groups_follow_each_other(self, backend: Backend, reach: Reach) -> None:
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

    @pytest.mark.parametrize(
        "group", [Group(), Group(entries=entries(1, 2)), Group(keys=[key("a")]), Group(commits(1, 1))]
    )
    def test_any_part_of_a_group_may_be_empty(self, backend: Backend, group: Group) -> None:
        backend.append(group)
        assert content(backend) == Group(tuple(group.commits), tuple(group.entries), tuple(group.keys))

    @pytest.mark.parametrize("wrong", BROKEN)
    def test_of_a_group_that_fails_nothing_is_there(self, backend: Backend, reach: Reach, wrong: str) -> None:
        backend.append(Group(commits(1, 2), entries(1, 2), [key("old")]))
        before = content(backend)
        with pytest.raises(AssertionError, match="gap"):
            backend.append(BROKEN[wrong])
        again, opened = reopened(backend, reach)
        assert (opened.commits_through, opened.entries_through) == (2, 2)
        assert content(again) == before
        again.append(Group(commits(3, 3), entries(3, 3)))
        again.close()

    def test_after_a_group_that_failed_nothing_is_taken_until_it_is_opened_again(
        self, backend: Backend, reach: Reach
    ) -> None:
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

    @pytest.mark.parametrize(
        ("first", "last", "expected"),
        [(1, 5, range(1, 6)), (2, 4, range(2, 5)), (3, 3, [3]), (4, 99, [4, 5]), (-3, 1, [1]), (4, 3, []), (6, 9, [])],
    )
    def test_a_range_is_read_from_its_first_to_its_last(
        self, backend: Backend, first: int, last: int, expected: Any
    ) -> None:
        backend.append(Group(commits(1, 5), entries(1, 5)))
        assert [row.seq for row in backend.commits(first, last)] == list(expected)
        assert [row.pos for row in backend.entries(first, last)] == list(expected)

    def test_a_reader_that_stops_in_the_middle_disturbs_nobody(self, backend: Backend, reach: Reach) -> None:
        backend.append(Group(commits(1, 700), entries(1, 700), [key(f"{number:04}") for number in range(700)]))
        readers = [backend.commits(1, 700), backend.entries(1, 700), backend.keys()]
        begun = [next(reader) for reader in readers]
        assert begun[:2] == [commit(1), entry(1)]
        backend.append(Group(commits(701, 701), entries(701, 701), [key("zzz")]))
        checkpoint(backend, 1, PARTS)
        again, opened = reopened(backend, reach)
        assert opened.commits_through == 701
        again.close()

    def test_rows_that_come_while_others_are_read_do_not_disturb_the_reader(self, backend: Backend) -> None:
        backend.append(Group(commits(1, 600), entries(1, 600)))
        seqs, positions = [], []
        for number, (one, other) in enumerate(zip(backend.commits(1, 600), backend.entries(1, 600), strict=True), 601):
            seqs.append(one.seq)
            positions.append(other.pos)
            backend.append(Group(commits(number, number), entries(number, number)))
        assert seqs == positions == list(range(1, 601))
        assert len(content(backend).commits) == 1200

    def test_a_key_is_replaced_by_a_later_row_of_it(self, backend: Backend, reach: Reach) -> None:
        backend.append(Group(keys=[key("a"), key("b"), key("a", run="run-2")]))
        assert content(backend).keys == (key("a", run="run-2"), key("b"))
        backend.append(Group(keys=[key("b", 7)]))
        again, _ = reopened(backend, reach)
        assert content(again).keys == (key("a", run="run-2"), key("b", 7))
        again.close()

    def test_a_key_row_without_a_run_deletes_the_key(self, backend: Backend) -> None:
        backend.append(Group(keys=[key("a"), key("b"), key("c")]))
        backend.append(Group(keys=[key("a", run=""), key("unknown", run="")]))
        assert content(backend).keys == (key("b"), key("c"))
        backend.append(Group(keys=[key("b", run=""), key("b", 3), key("c", 3), key("c", run="")]))
        assert content(backend).keys == (key("b", 3),)

    def test_there_may_be_very_many_keys(self, backend: Backend) -> None:
        names = [f"{number * 7919 % 5000:05}" for number in range(5000)]
        backend.append(Group(keys=[key(name) for name in names]))
        assert [row.key for row in content(backend).keys] == sorted(names)
