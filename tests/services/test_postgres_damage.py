"""What is found in a schema: a journal, a part of one, something else, nothing."""

from __future__ import annotations

from collections import deque
from itertools import chain

import pytest

from seqtor.actors.journal import postgres
from seqtor.actors.journal.contract import CheckpointPart, Group
from seqtor.actors.journal.postgres import PostgresBackend
from seqtor.messages.errors import JournalCorrupted
from tests.contract.journal_backends import checkpoint, commits, entries
from tests.services.postgres_owners import execute, reopened

DAMAGES = {
    "a commit in the middle": "DELETE FROM commits WHERE seq = 2",
    "the newest commit": "DELETE FROM commits WHERE seq = 3",
    "the oldest commit": "DELETE FROM commits WHERE seq = 1",
    "all commits": "TRUNCATE commits",
    "an entry in the middle": "DELETE FROM entries WHERE pos = 2",
    "all entries": "TRUNCATE entries",
    "a commit too many": "INSERT INTO commits VALUES (4, '', '')",
    "the lease": "DELETE FROM lease",
    "a table": "DROP TABLE keys",
    "the table of the lease": "DROP TABLE lease",
    "a column": "ALTER TABLE lease DROP COLUMN commits_through",
    "a newer format": "UPDATE lease SET format = 2",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("write", [True, False])
def test_a_journal_that_is_not_whole_is_refused(backend: PostgresBackend, url: str, damage: str, write: bool) -> None:
    backend.append(Group(entries=entries(3, 3)))
    backend.close()
    execute(url, DAMAGES[damage])
    for _ in range(2):
        again = PostgresBackend(url)
        with pytest.raises(JournalCorrupted) as raised:
            again.open(write=write)
        assert f"journal {again.place}: " in str(raised.value)


@pytest.mark.parametrize("table", ["commits", "entries"])
def test_a_journal_whose_oldest_rows_are_missing_is_refused_whatever_its_checkpoint_stands_for(
    backend: PostgresBackend, url: str, table: str
) -> None:
    checkpoint(backend, 3, [CheckpointPart("open", b"{}")], entries_through=2)
    backend.close()
    execute(url, f"DELETE FROM {table} WHERE {'seq' if table == 'commits' else 'pos'} = 1")
    with pytest.raises(JournalCorrupted, match=f"{table} 1 to . were written; found are 2 to"):
        PostgresBackend(url).open()


CHANGES = {
    "a commit before the checkpoint is missing": "DELETE FROM commits WHERE seq = 2",
    "an entry before the checkpoint is missing": "DELETE FROM entries WHERE pos = 2",
    "an entry has another body": "UPDATE entries SET body = body || ' ' WHERE pos = 2",
    "an entry has another kind": "UPDATE entries SET kind = 'rejected' WHERE pos = 2",
    "two entries have changed places": "UPDATE entries AS e SET body = o.body, kind = o.kind, ref = o.ref,"
    " digest = o.digest FROM entries AS o WHERE (e.pos, o.pos) IN ((1, 2), (2, 1))",
    "a commit is no text": r"UPDATE commits SET body = '\xff' WHERE seq = 1",
    "a part is missing": "DELETE FROM checkpoint_parts WHERE number = 1",
    "a part was changed": r"UPDATE checkpoint_parts SET data = '\x00' WHERE number = 1",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_was_changed_or_lost_is_found_when_it_is_read(
    backend: PostgresBackend, url: str, change: str
) -> None:
    checkpoint(backend, 3, [CheckpointPart("open", b"{}"), CheckpointPart("store:a", b"{}")], entries_through=2)
    backend.append(Group(commits(4, 4), entries(3, 3)))
    backend.close()
    execute(url, CHANGES[change])
    again = PostgresBackend(url)
    again.open()
    with pytest.raises(JournalCorrupted):
        deque(chain(again.commits(1, 4), again.entries(1, 3), again.checkpoint_parts(3)))
    again.close()


def test_what_is_not_there_is_not_created_by_a_reader(url: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is none in the schema"):
        PostgresBackend(url).open(write=False)
    assert execute(url, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", url.rpartition("=")[2]) == [(0,)]


def test_a_reader_skips_what_a_new_owner_trims_meanwhile(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PIECE_ROWS_MAX", 10)
    owner = PostgresBackend(url)
    owner.open()
    owner.append(Group(commits(1, 100)))
    info = checkpoint(owner, 50, [CheckpointPart("open", b"{}")])
    owner.close()
    reader = PostgresBackend(url)
    reader.open(write=False)
    rows = reader.commits(1, 100)
    seqs = [next(rows).seq]
    owner.open()
    assert owner.trim(info, 1000)
    seqs += [row.seq for row in rows]
    assert seqs == [*range(1, 11), *range(51, 101)]
    reader.close()
    owner.close()


def test_a_schema_that_holds_other_tables_is_used_beside_them(url: str) -> None:
    schema = url.rpartition("=")[2]
    execute(url, f"CREATE SCHEMA {schema}")
    execute(url, "CREATE TABLE orders (number integer)")
    assert reopened(url)[0].epoch == 1
    assert execute(url, "SELECT count(*) FROM orders") == [(0,)]
