"""What an error of SQLite means to whoever runs the journal.

Owns the translation: above the backend nobody knows apsw. Promises: damage is JournalCorrupted, another owner is
JournalLocked, what the operating system refuses is an OSError; each says what to do.
"""

from __future__ import annotations

import errno

import apsw

from seqtor.messages.errors import JournalCorrupted, JournalLocked

__all__ = ["WHAT_TO_DO", "corrupted", "meaning"]

WHAT_TO_DO = (
    "see what is intact with `seqtor journal verify`, save it with `seqtor journal export`, or restore a backup (and remove "
    "the files of the same name with '-wal' and '-owner')"
)


def corrupted(place: str, found: str, seq: int | None = None) -> JournalCorrupted:
    """The error for a journal that holds something else than was written."""
    return JournalCorrupted(f"journal '{place}': {found}; {WHAT_TO_DO}", seq)


def meaning(place: str, error: Exception, doing: str, seq: int | None = None) -> Exception:
    """The error to raise from one of SQLite's."""
    told = f"journal '{place}': {doing} failed: {type(error).__name__}: {error}"
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.FormatError | UnicodeDecodeError):
        return JournalCorrupted(f"{told}; the file is damaged: {WHAT_TO_DO}", seq)
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return JournalLocked(f"{told}; another program has the file open: find and stop it")
    if isinstance(error, apsw.FullError):
        return OSError(errno.ENOSPC, f"{told}; make room and start again: what was answered is on disk")
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.CantOpenError):
        advice = "give this user write access to the file, its '-wal' and the folder"
        return PermissionError(errno.EACCES, f"{told}; {advice}")
    if isinstance(error, apsw.IOError):
        return OSError(errno.EIO, f"{told}; look at the disk and at the log of the system")
    return error
