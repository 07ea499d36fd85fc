"""What others do to the files and rows of a random system, and what must be there at the end.

Owns the edits. Promises of the runtime that are checked: what is outside is the state once all has settled, and the newest
edit of each key is in the journal, whoever wrote to it at the same time.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.simulation.systems.plan import Plan
from tests.simulation.systems.programs import KEYS

__all__ = ["EDITOR", "Edits", "files_in", "rows_in"]

EDITOR = 1_000_000  # By whom edits are, and the next ones, where programs leave their numbers.


class Edits:
    """Edits of one history. `places` are the stores that keep something outside."""

    def __init__(self, plan: Plan, place: Path) -> None:
        self.place = place
        self.places = tuple(name for name in plan.stores if name in ("files", "rows"))
        self._number = EDITOR
        self.newest: dict[tuple[str, str], str | None] = {}

    def draw(self, chance: random.Random) -> tuple[str, str, str | None]:
        """What somebody does next: the store, the key, and the content, or None for a deletion."""
        store, key = chance.choice(self.places), chance.choice(KEYS)
        self._number += 1
        content = None if chance.random() < 0.2 else f"{chance.randrange(40)} {self._number}"
        return store, key, content

    def make(self, store: str, key: str, content: str | None) -> None:
        """Somebody writes to a file or a row, or deletes one."""
        if store in self.places and (self._edit_file if store == "files" else self._edit_row)(key, content):
            self.newest[store, key] = content

    def _edit_file(self, key: str, content: str | None) -> bool:
        path = self.place / "files" / key
        if content is None:
            if not path.exists():
                return False
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return True

    def _edit_row(self, key: str, content: str | None) -> bool:
        with contextlib.closing(sqlite3.connect(self.place / "rows.db")) as database, database:
            if not database.execute("select 1 from sqlite_master where name = 'row'").fetchall():
                return False
            if content is None:
                return database.execute("delete from row where key = ?", (key,)).rowcount > 0
            n, by = content.split()
            changed = database.execute('update row set n = ?, "by" = ? where key = ?', (n, by, key))
            if not changed.rowcount:
                database.execute('insert into row (key, n, "by") values (?, ?, ?)', (key, n, by))
            return True

    def require_journaled(self, contents: Iterable[tuple[str, str, str | None]]) -> None:
        """The newest edit of each key, but for deletions, is among those that the journal has."""
        known = set(contents)
        for (store, key), content in self.newest.items():
            if content is not None:
                assert (store, key, content) in known, f"an edit was lost: {store} {key} {content}"


def files_in(place: Path) -> dict[str, str]:
    """What is in the folder."""
    folder = place / "files"
    found = {str(each.relative_to(folder)): each for each in folder.rglob("*") if each.is_file()}
    return {key: each.read_text() for key, each in found.items() if not key.startswith(".seqtor/")}


def rows_in(place: Path) -> dict[str, Any]:
    """What is in the table, in the form of files: the number, and by whom."""
    with contextlib.closing(sqlite3.connect(place / "rows.db")) as database:
        rows = database.execute('select key, n, "by" from row').fetchall()
    return {key: f"{n} {by}" for key, n, by in rows}
