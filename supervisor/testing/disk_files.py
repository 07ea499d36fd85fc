"""The files of a simulated disk in one life, as the runtime asks for them: paths and descriptors over a volume.

Owns the descriptors, and the place of each operation in their order. Promises: what `FileSystem` does, with its errors.
There are no links.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from seqtor.actors.filesystem import EXCHANGE, Entry, FileSystem
from seqtor.testing.disk_state import Node, Volume

__all__ = ["DiskFiles"]

FIRST_FD = 1 << 20  # No descriptor of the machine's.
TICK_NS = 1_000_000
BEGIN_NS = 1_700_000_000 * 10**9

Step = Callable[["DiskFiles", str, str, int], None]
"""Called before each operation, with its kind, its path and by how many bytes it grows the disk; raises OSError."""


class DiskFiles(FileSystem):
    """One life's. `vfs` is the name under which SQLite finds it."""

    can_exchange = True

    def __init__(self, place: Path, volume: Volume, step: Step, vfs: str, *, lies: bool = False) -> None:
        self.place = place
        self.volume = volume
        self.vfs = vfs
        self.steps = 0
        self._step = step
        self._lies = lies
        self._opened: dict[int, tuple[Node, Path]] = {}
        self._last_fd = FIRST_FD

    def step(self, kind: str, path: Path | str, grows: int = 0) -> None:
        """One operation is about to be done. Raises OSError."""
        self.steps += 1
        self._step(self, kind, str(path), grows)

    # Names -------------------------------------------------------------------------------------------------------------

    def node(self, path: Path) -> Node:
        """What is at a path. Raises FileNotFoundError, NotADirectoryError."""
        found = self.volume.root
        for part in path.relative_to(self.place).parts:
            if not found.is_folder:
                raise _error(errno.ENOTDIR, path)
            if part not in found.names:
                raise _error(errno.ENOENT, path)
            found = found.names[part]
        return found

    def folder_of(self, path: Path) -> Node:
        """The folder that a name is in, or would be."""
        folder = self.node(path.parent)
        if not folder.is_folder:
            raise _error(errno.ENOTDIR, path)
        return folder

    def create(self, path: Path) -> Node:
        """A new empty file at a path where nothing is."""
        node = self.volume.new_node(is_folder=False)
        self.volume.name((self.folder_of(path), path.name, node))
        return node

    def stat(self, path: Path) -> os.stat_result:
        return _status(self.node(path))

    lstat = stat

    def unlink(self, path: Path) -> None:
        self.step("unlink", path)
        if self.node(path).is_folder:
            raise _error(errno.EISDIR, path)
        self.volume.name((self.folder_of(path), path.name, None))

    def replace(self, source: Path, target: Path) -> None:
        self.step("rename", target)
        node = self.node(source)
        self.volume.name((self.folder_of(source), source.name, None), (self.folder_of(target), target.name, node))

    def rename(self, source: Path, target: Path, flags: int) -> bool:
        self.step("rename", target)
        try:
            source_folder, target_folder = self.folder_of(source), self.folder_of(target)
        except FileNotFoundError:
            return False
        node, other = source_folder.names.get(source.name), target_folder.names.get(target.name)
        if node is None or (flags == EXCHANGE) != (other is not None):
            return False
        self.volume.name((source_folder, source.name, other), (target_folder, target.name, node))
        return True

    def mkdir(self, path: Path) -> None:
        self.step("mkdir", path)
        folder = self.folder_of(path)
        if path.name in folder.names:
            raise _error(errno.EEXIST, path)
        self.volume.name((folder, path.name, self.volume.new_node(is_folder=True)))

    def rmdir(self, path: Path) -> None:
        self.step("rmdir", path)
        node = self.node(path)
        if not node.is_folder:
            raise _error(errno.ENOTDIR, path)
        if node.names:
            raise _error(errno.ENOTEMPTY, path)
        self.volume.name((self.folder_of(path), path.name, None))

    def entries(self, folder: Path) -> list[Entry]:
        self.step("read", folder)
        found = self.node(folder)
        if not found.is_folder:
            raise _error(errno.ENOTDIR, folder)
        return [Entry(name, node.is_folder, not node.is_folder) for name, node in sorted(found.names.items())]

    def time_ns(self) -> int:
        return BEGIN_NS + self.volume.now * TICK_NS

    # Descriptors -------------------------------------------------------------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        self.step("open", path)
        try:
            node = self.node(path)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            node = self.create(path)
        else:
            if flags & os.O_EXCL:
                raise _error(errno.EEXIST, path)
            if flags & os.O_DIRECTORY and not node.is_folder:
                raise _error(errno.ENOTDIR, path)
            if node.is_folder and flags & (os.O_WRONLY | os.O_RDWR):
                raise _error(errno.EISDIR, path)
            if flags & os.O_TRUNC:
                self.truncate_node(node, path, 0)
        self._last_fd += 1
        self._opened[self._last_fd] = node, path
        return self._last_fd

    def close(self, fd: int) -> None:
        node, _ = self._open(fd)
        node.holders.pop(fd, None)
        del self._opened[fd]

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        return self.read_node(*self._open(fd), count, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self.write_node(*self._open(fd), data, offset)
        return len(data)

    def begin_to_write(self, fd: int) -> None:
        """A disk may do it at any time."""

    def fsync(self, fd: int) -> None:
        self.sync_node(*self._open(fd))

    def fstat(self, fd: int) -> os.stat_result:
        return _status(self._open(fd)[0])

    def flock(self, fd: int, operation: int) -> None:
        node, path = self._open(fd)
        alone = bool(operation & fcntl.LOCK_EX)
        if any(alone or other for holder, other in node.holders.items() if holder != fd):
            raise _error(errno.EWOULDBLOCK, path)
        node.holders[fd] = alone

    def _open(self, fd: int) -> tuple[Node, Path]:
        if fd not in self._opened:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._opened[fd]

    # Files, for descriptors and for SQLite -----------------------------------------------------------------------------

    def read_node(self, node: Node, path: Path, count: int, offset: int) -> bytes:
        """What a file holds there; less at its end."""
        if node.is_folder:
            raise _error(errno.EISDIR, path)
        self.step("read", path)
        return bytes(node.content[offset : offset + count])

    def write_node(self, node: Node, path: Path, data: bytes, offset: int) -> None:
        """Write all of it."""
        self.step("write", path, max(0, offset + len(data) - len(node.content)))
        self.volume.change(node, offset, bytes(data))

    def truncate_node(self, node: Node, path: Path, size: int) -> None:
        """Cut a file off, or make it longer."""
        self.step("truncate", path)
        self.volume.change(node, size, None)

    def sync_node(self, node: Node, path: Path) -> None:
        """Make a file's content durable, or a folder's names."""
        try:
            self.step("sync folder" if node.is_folder else "sync", path)
        except OSError:
            self.volume.lose(node)
            raise
        if not self._lies:
            self.volume.sync(node)


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def _status(node: Node) -> os.stat_result:
    kind = stat.S_IFDIR if node.is_folder else stat.S_IFREG
    modified_ns = BEGIN_NS + node.modified * TICK_NS
    seconds = modified_ns // 10**9
    times = (*[seconds] * 3, *[float(seconds)] * 3, *[modified_ns] * 3)
    return os.stat_result((kind | 0o755, node.number, 1, 1, 0, 0, len(node.content), *times))
