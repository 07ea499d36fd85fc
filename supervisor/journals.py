"""Which journal a program means: from what it passes to a backend.

Owns the forms that `Supervisor(journal)` takes, and that no store has the journal's file. Nothing is opened here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from seqtor.actors.journal.contract import Backend
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.files import Files
from seqtor.messages.errors import RegistrationError

__all__ = ["backend_maker", "require_apart"]

FORMS = 'a path ("bank.db"), "sqlite:///PATH", "postgresql://...", or None to keep everything in memory'


def backend_maker(journal: Any) -> Callable[[], Backend | None]:
    """A function that makes the backend at the start, None for a system in memory.

    Raises RegistrationError for what names no journal.
    """
    if journal is None or journal == "memory:":
        return lambda: None
    if isinstance(journal, os.PathLike):
        journal = os.fspath(journal)
    if isinstance(journal, str):
        return _maker_of_text(journal)
    if hasattr(journal, "append") and hasattr(journal, "open") and hasattr(journal, "place"):
        return lambda: journal
    raise RegistrationError(f"journal {journal!r}: pass {FORMS}")


def require_apart(backend: Backend | None, stores: Iterable[StoreRef[Any]]) -> None:
    """Raise RegistrationError for a store that would write into the journal's file, or take it for one of its own."""
    file = getattr(backend, "file", None)  # One in memory, or on a server, has none.
    if file is None:
        return
    journal = Path(file).expanduser().resolve()
    for ref in stores:
        own = None if ref.spec.own_path is None else ref.spec.own_path.expanduser().resolve()
        if own == journal:
            raise RegistrationError(
                f"store {ref.name!r} has the file {own}, which is the journal's: two copies of SQLite on one file do not "
                "see each other's locks, and a file that is replaced is lost. Give the store a file of its own"
            )
        if own is not None and own in journal.parents and isinstance(ref.spec, Files):
            raise RegistrationError(
                f"store {ref.name!r} has the folder {own}, and the journal {journal} is in it: it would be taken for a file "
                "that somebody edits. Put the journal elsewhere, or give the store a folder of its own"
            )


def _maker_of_text(journal: str) -> Callable[[], Backend]:
    scheme, separator, rest = journal.partition("://")
    if not separator:
        if not journal or journal.endswith(("/", os.sep)):
            raise RegistrationError(f"journal {journal!r} names no file: pass {FORMS}")
        return lambda: _sqlite(journal)
    if scheme == "sqlite":
        if not rest.startswith("/") or len(rest) < 2:
            raise RegistrationError(
                f"journal {journal!r}: write sqlite:///relative/path or sqlite:////absolute/path, with three or four slashes"
            )
        return lambda: _sqlite(unquote(rest[1:]))
    if scheme in ("postgresql", "postgres"):
        return lambda: _postgres(journal)
    raise RegistrationError(f"journal {journal!r}: there is no backend for {scheme}://, pass {FORMS}")


def _sqlite(path: str) -> Backend:
    from seqtor.actors.journal.sqlite import SqliteBackend

    return SqliteBackend(path)


def _postgres(url: str) -> Backend:
    from seqtor.actors.journal.postgres import PostgresBackend

    return PostgresBackend(url)
