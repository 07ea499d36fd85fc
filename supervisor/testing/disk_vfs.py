# ruff: noqa: N802 - SQLite's names of the methods of a VFS
"""SQLite's way to a simulated disk: a VFS for one life.

Owns the translation between the two. Promises: SQLite sees what a file system of Linux shows, and its errors are SQLite's.
There is no shared memory, so a write-ahead log needs `locking_mode=exclusive`. Locks are always granted: what uses this disk
locks files of its own.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from seqtor.testing.disk_files import DiskFiles
from seqtor.testing.disk_state import Node

__all__ = ["DiskVFS"]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise apsw.FullError(str(error)) from error
        raise apsw.IOError(str(error)) from error


class DiskVFS(apsw.VFS):
    """Registered from the beginning, under the name that the files have for it."""

    def __init__(self, files: DiskFiles) -> None:
        assert files.vfs is not None
        super().__init__(files.vfs, "")
        self._files = files

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:
        files, wanted = self._files, flags[0]
        flags[1] = wanted
        if name is None:  # A file for a while, which nobody else sees.
            return OpenFile(files, files.volume.new_node(is_folder=False), files.place / "-", None)
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        with _translated():
            files.step("open", path)
            creates = wanted & apsw.SQLITE_OPEN_CREATE
            if not creates and not files.exists(path):
                raise apsw.CantOpenError(f"there is no file {path}")
            node = files.node(path) if files.exists(path) else files.create(path)
        # SQLite's own VFS syncs the folder with the first sync of a log that it may create, also if it did not.
        is_log = creates and wanted & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        return OpenFile(files, node, path, files.folder_of(path) if is_log else None)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        path = Path(filename)
        if not self._files.exists(path):
            error: Any = apsw.IOError(f"there is no file {path}")
            error.extendedresult = apsw.SQLITE_IOERR_DELETE_NOENT
            raise error
        with _translated():
            self._files.unlink(path)
            if syncdir:
                self._files.sync_node(self._files.folder_of(path), path.parent)

    def xAccess(self, pathname: str, flags: int) -> bool:
        path = Path(pathname)
        if not self._files.exists(path):
            return False
        node = self._files.node(path)
        return flags != apsw.SQLITE_ACCESS_EXISTS or node.is_folder or bool(node.content)

    def xFullPathname(self, name: str) -> str:
        return name


class OpenFile:
    """A file that SQLite has open."""

    def __init__(self, files: DiskFiles, node: Node, path: Path, folder: Node | None) -> None:
        self._files = files
        self._node = node
        self._path = path
        self._folder = folder  # To be synced with the first sync of the file.

    def excepthook(self, *_: object) -> None:
        """What goes wrong where SQLite takes no error is of no interest."""

    def xClose(self) -> None:
        """Nothing is kept open."""

    def xRead(self, amount: int, offset: int) -> bytes:
        with _translated():
            return self._files.read_node(self._node, self._path, amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        with _translated():
            self._files.write_node(self._node, self._path, data, offset)

    def xTruncate(self, newsize: int) -> None:
        with _translated():
            self._files.truncate_node(self._node, self._path, newsize)

    def xSync(self, flags: int) -> None:
        with _translated():
            self._files.sync_node(self._node, self._path)
            if self._folder is not None:
                folder, self._folder = self._folder, None
                self._files.sync_node(folder, self._path.parent)

    def xFileSize(self) -> int:
        return len(self._node.content)

    def xLock(self, level: int) -> None:
        """Granted."""

    def xUnlock(self, level: int) -> None:
        """Granted."""

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
