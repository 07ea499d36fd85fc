"""No store writes into the journal's file, or takes it for one of its own, under whatever name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtor import Derived, Files, Record, RegistrationError, Supervisor, Table


class Row(Record):
    """A row, or a sum of rows."""

    number: int = 0


def linked(path: Path) -> Path:
    (path / "link").symlink_to(path / "desk.db")
    return path / "link"


@pytest.mark.parametrize(
    "url",
    [
        lambda path: f"sqlite:///{path}/desk.db",
        lambda path: f"sqlite+pysqlite:///{path}/down/../desk.db",
        lambda path: f"sqlite:///{os.path.relpath(path)}/desk.db",
        lambda path: f"sqlite:///file:{path}/desk%2Edb?mode=rwc&uri=true",
        lambda path: f"sqlite:///{linked(path)}",
    ],
)
def test_a_table_on_the_journals_file_refuses_the_start(tmp_path: Path, url: Callable[[Path], str]) -> None:
    system = Supervisor(tmp_path / "desk.db")
    system.store("rows", Table(url(tmp_path), Row))
    with pytest.raises(RegistrationError, match=r"store 'rows' has the file .*desk\.db, which is the journal's"):
        system.start()
    assert not (tmp_path / "desk.db").exists(), "nothing was opened"


def test_a_derived_file_in_the_place_of_the_journal_refuses_the_start(tmp_path: Path) -> None:
    system = Supervisor(f"sqlite:///{tmp_path}/desk.db")
    rows = system.store("rows", Table(f"sqlite:///{tmp_path}/rows.db", Row))
    system.store("sum", Derived(Row, [rows], rebuild=lambda rows: Row(number=len(rows)), export=tmp_path / "desk.db"))
    with pytest.raises(RegistrationError, match="store 'sum' has the file"):
        system.start()


def test_a_folder_that_the_journal_is_in_refuses_the_start(tmp_path: Path) -> None:
    system = Supervisor(tmp_path / "deep" / "desk.db")
    system.store("files", Files(tmp_path))
    with pytest.raises(RegistrationError, match=r"the journal .*desk\.db is in it"):
        system.start()


@pytest.mark.parametrize("place", ["other.db", "desk.db-table", "files/desk.db"])
def test_files_beside_the_journal_are_nobodys_business(tmp_path: Path, place: str) -> None:
    (tmp_path / "files").mkdir()
    system = Supervisor(tmp_path / "desk.db")
    system.store("rows", Table(f"sqlite:///{tmp_path}/{place}", Row))
    system.store("files", Files(tmp_path / "documents"))
    with system:
        assert (tmp_path / place).exists()


def test_a_table_in_memory_has_no_file() -> None:
    specs: list[Any] = [Table("sqlite://", Row), Table("sqlite:///:memory:", Row)]
    assert [spec.own_path for spec in specs] == [None, None]
