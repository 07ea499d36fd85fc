"""The file beside a journal's database: who owns the journal, and how far it is known to reach.

Owns `<path>-owner`. Its lock (flock) is what ownership is: it ends with the process, however that ends, and holds within
one process too. Its text names the owner, and holds marks: the journal's id and how many rows are durable, rewritten in
place after each group and never synced. Promises: marks never say more than is durable; a mark that is torn counts for
nothing. Must never be deleted while it is owned, and never be trusted for anything but "there must be at least this".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import weakref
import zlib
from pathlib import Path
from typing import NamedTuple

from seqtor.actors.filesystem import FileSystem, file_system_at, sync_folder
from seqtor.messages.errors import JournalCorrupted, JournalLocked

__all__ = ["Marks", "Owner", "owner_path"]

# One disk sector holds both lines, so that a power failure leaves the old or the new ones.
HEADER = b"seqtor-journal-owner pid=%010d%28s\n"
MARKS_AT = 64
READ_BYTES = 512


def owner_path(path: Path) -> Path:
    """The side file of a journal."""
    return path.with_name(path.name + "-owner")


class Marks(NamedTuple):
    """How many commits and entries of a journal were durable when it was last marked, those that are trimmed included."""

    journal_id: str
    commits: int
    entries: int


class Owner:
    """A held side file: exclusively by the one that writes, together by those that read."""

    def __init__(self, files: FileSystem, path: Path, fd: int, *, created: bool, writes: bool) -> None:
        self.path = path
        self._files = files
        self.created = created
        self._fd = fd
        self._writes = writes
        self.marks = _read_marks(files, fd, path)
        _held.add(self)

    @classmethod
    def take(cls, journal: Path, files: FileSystem | None = None) -> Owner:
        """Own the journal alone. Raises JournalLocked with the owner's pid, or an OSError that says what to change."""
        files = files or file_system_at(journal)
        path = owner_path(journal)
        while True:
            created = not files.exists(path)
            at = path.with_name(path.name + "-new") if created else path
            try:
                fd = files.open(at, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise _no_access(error, journal) from error
            try:
                _lock(files, fd, journal, fcntl.LOCK_EX)
                # Else its maker gave up and removed it meanwhile, or another one was faster.
                if not _is_still(files, fd, at) or (created and files.exists(path)):
                    files.close(fd)
                    continue
                if created:
                    # Whole and synced before it has its name: no power failure leaves a file of anything else's bytes.
                    files.pwrite(fd, (HEADER % (os.getpid(), b"")).ljust(READ_BYTES - 1) + b"\n", 0)
                    files.fsync(fd)
                    files.replace(at, path)
                    sync_folder(files, path.parent)
                owner = cls(files, path, fd, created=created, writes=True)
            except BaseException:
                files.close(fd)
                raise
            try:
                files.pwrite(fd, HEADER % (os.getpid(), b""), 0)
            except BaseException:
                owner.release()
                raise
            return owner

    @classmethod
    def read(cls, journal: Path, files: FileSystem | None = None) -> Owner | None:
        """Keep writers away while the journal is read; None without a side file. Raises JournalLocked."""
        files = files or file_system_at(journal)
        path = owner_path(journal)
        try:
            fd = files.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _no_access(error, journal) from error
        try:
            _lock(files, fd, journal, fcntl.LOCK_SH)
            return cls(files, path, fd, created=False, writes=False)
        except BaseException:
            files.close(fd)
            raise

    def mark(self, journal_id: str, commits: int, entries: int) -> None:
        """Note what is durable. Not synced: what a power failure takes is only the protection of the newest rows."""
        line = b"marks %s %020d %020d" % (journal_id.encode(), commits, entries)
        self._files.pwrite(self._fd, b"%s %08x\n" % (line, zlib.crc32(line)), MARKS_AT)

    def release(self) -> None:
        """Let others in."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        _held.discard(self)
        if self._writes:
            with contextlib.suppress(OSError):  # The lock is what counts.
                self._files.pwrite(fd, HEADER % (0, b""), 0)
        self._files.close(fd)

    def discard(self) -> None:
        """Let go, and leave no file behind that this owner has made for nothing."""
        if self.created and self._fd >= 0:
            with contextlib.suppress(OSError):
                self._files.unlink(self.path)
        self.release()

    def close_in_child(self) -> None:
        """After a fork: the lock is the parent's, and must end with it."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1


_held: weakref.WeakSet[Owner] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for owner in tuple(_held):
        owner.close_in_child()


os.register_at_fork(after_in_child=_close_all_in_child)


def _lock(files: FileSystem, fd: int, journal: Path, kind: int) -> None:
    try:
        files.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise OSError(
                error.errno,
                f"journal '{journal}' cannot be locked ({error.strerror}): put it on a file system that has flock",
            ) from error
    else:
        return
    if kind == fcntl.LOCK_EX:
        with contextlib.suppress(OSError):
            files.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            raise JournalLocked(f"journal '{journal}' is being read by a tool: try again when the tool has ended")
    header = re.match(rb"seqtor-journal-owner pid=(\d+)", files.pread(fd, READ_BYTES, 0))
    pid = int(header[1]) if header else 0
    if pid == os.getpid():
        raise JournalLocked(f"journal '{journal}' is open already, in this process (pid {pid}): close it first")
    raise JournalLocked(
        f"journal '{journal}' belongs to another process (pid {pid or 'unknown'}): stop it, or ask it through its socket"
    )


def _is_still(files: FileSystem, fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(files.fstat(fd), files.stat(path))
    except FileNotFoundError:
        return False


def _read_marks(files: FileSystem, fd: int, path: Path) -> Marks | None:
    text = files.pread(fd, READ_BYTES, 0)
    if text.strip(b"\0") and not text.startswith(b"seqtor-journal-owner "):
        raise JournalCorrupted(
            f"'{path}' is no owner file of a seqtor journal, it begins with {text[:20]!r}: move it away, or choose "
            "another path for the journal"
        )
    found = re.match(rb"(marks (\S+) (\d+) (\d+)) ([0-9a-f]{8})\n", text[MARKS_AT:])
    if not found or zlib.crc32(found[1]) != int(found[5], 16):
        return None
    return Marks(found[2].decode(), int(found[3]), int(found[4]))


def _no_access(error: OSError, journal: Path) -> OSError:
    folder = journal.parent
    if isinstance(error, FileNotFoundError):
        advice = f"the folder '{folder}' does not exist: create it first"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = (
            f"'{owner_path(journal)}' cannot be opened ({error.strerror}): give this user access to it, to write a journal "
            f"give this user write access to the folder '{folder}' and the files '{journal.name}*' in it"
        )
    else:
        return error
    return OSError(error.errno, f"journal '{journal}': {advice}")
