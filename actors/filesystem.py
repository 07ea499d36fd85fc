"""What the runtime asks of a file system, and which one a path is on: the machine's, or one that a test has mounted.

Owns the few operations that files are written with past SQLite, and the table of mounted file systems. Promises: the methods
do what the functions of `os` with these names do, with their errors. What asks for a path keeps the file system that it
got: one that is mounted in its place later is another life's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "EXCHANGE",
    "NOREPLACE",
    "Entry",
    "FileSystem",
    "file_system_at",
    "make_folders",
    "mount",
    "read_all",
    "read_file",
    "sync_folder",
    "unmount",
    "write_all",
]

NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD = -100
BEGIN_TO_WRITE = 2  # SYNC_FILE_RANGE_WRITE
PIECE_BYTES = 1 << 20


_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)  # Linux has them; the others go without.
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _renameat2 is not None:
    _renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Entry(NamedTuple):
    """A name in a folder: a folder, a file, or something else (a link, a socket)."""

    name: str
    is_folder: bool
    is_file: bool


class FileSystem:
    """The machine's."""

    vfs: str | None = None
    """The name of SQLite's way to these files; None is its own."""
    can_exchange = _renameat2 is not None
    """Whether `rename` is there: two files can change places, and a target be spared."""

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        return os.pread(fd, count, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def begin_to_write(self, fd: int) -> None:
        """A hint that the disk may have what was written: what is promised is `fsync`'s."""
        if _sync_file_range is not None:
            _sync_file_range(fd, 0, 0, BEGIN_TO_WRITE)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def flock(self, fd: int, operation: int) -> None:
        fcntl.flock(fd, operation)

    def stat(self, path: Path) -> os.stat_result:
        return path.stat()

    def lstat(self, path: Path) -> os.stat_result:
        return path.lstat()

    def unlink(self, path: Path) -> None:
        path.unlink()

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def rename(self, source: Path, target: Path, flags: int) -> bool:
        """renameat2. False if an exchange lacks one of the two, or there is a target that must not be, or no source."""
        if _renameat2 is None:
            raise OSError(errno.ENOSYS, "this system has no renameat2", str(target))
        if _renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.ENOENT, errno.EEXIST):
            return False
        raise OSError(code, os.strerror(code), str(target))

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def entries(self, folder: Path) -> list[Entry]:
        """What is in a folder, by name."""
        with os.scandir(folder) as found:
            entries = [
                Entry(each.name, each.is_dir(follow_symlinks=False), each.is_file(follow_symlinks=False))
                for each in found
            ]
        return sorted(entries)

    def time_ns(self) -> int:
        """The time that tells names of files apart."""
        return time.time_ns()

    # What follows from these -------------------------------------------------------------------------------------------

    def exists(self, path: Path) -> bool:
        """Whether something is there; of a link, at its end."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_folder(self, path: Path) -> bool:
        """Whether a folder is there; of a link, at its end."""
        try:
            return stat.S_ISDIR(self.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_link(self, path: Path) -> bool:
        """Whether a link is there."""
        try:
            return stat.S_ISLNK(self.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    @contextlib.contextmanager
    def opened(self, path: Path, flags: int, mode: int = 0o666) -> Iterator[int]:
        """A descriptor for a while."""
        fd = self.open(path, flags, mode)
        try:
            yield fd
        finally:
            self.close(fd)


def read_file(files: FileSystem, path: Path) -> bytes:
    """What a file holds."""
    with files.opened(path, os.O_RDONLY) as fd:
        return read_all(files, fd)


def read_all(files: FileSystem, fd: int) -> bytes:
    """What an open file holds."""
    pieces = []
    offset = 0
    while piece := files.pread(fd, PIECE_BYTES, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def write_all(files: FileSystem, fd: int, content: bytes, offset: int = 0) -> None:
    """Write, however many pieces the system makes of it."""
    view = memoryview(content)
    while view:
        count = files.pwrite(fd, bytes(view[:PIECE_BYTES]), offset)
        view, offset = view[count:], offset + count


def make_folders(files: FileSystem, path: Path) -> None:
    """Have a folder there, durably: with the folders above it that are missing."""
    missing = []
    while not files.exists(path):
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # Somebody was faster.
            files.mkdir(each)
        sync_folder(files, each.parent)


def sync_folder(files: FileSystem, folder: Path) -> None:
    """Make new, renamed and deleted names of a folder durable."""
    with files.opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        files.fsync(fd)


# Which one -------------------------------------------------------------------------------------------------------------

_machine = FileSystem()
_mounted: dict[Path, FileSystem] = {}


def file_system_at(path: Path) -> FileSystem:
    """The file system that a path is on."""
    for place, files in _mounted.items():
        if path.is_relative_to(place):
            return files
    return _machine


def mount(place: Path, files: FileSystem) -> None:
    """Have what asks for a path below `place` from now on get this one."""
    _mounted[place] = files


def unmount(place: Path) -> None:
    """Have it get the machine's again."""
    _mounted.pop(place, None)
