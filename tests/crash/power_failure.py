# ruff: noqa: N802 - SQLite's names of the methods of a VFS
"""A disk that loses power: what SQLite wrote and had not synced may be there, or not, or in parts, in any order.

Owns the recording of everything that a journal does to its files, through an `apsw` VFS and around the few calls that go
past it, and the images that a power failure at any moment could leave. The disk is as bad as a disk may be: a sync is the
only order there is, a write reaches it sector by sector, a name is durable when its folder is. It is not worse: a sector
is written or not, and what is beside it stays (SQLite counts on that, too). Nothing is synced for real, which is fast.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import apsw

__all__ = ["Disk", "Fault", "Recording", "unsynced"]

SECTOR = 512


class Op(NamedTuple):
    """What was done to a file or to the folder; `number` names the file behind its changing names."""

    kind: str  # write, truncate, sync, lose, link, unlink, rename, sync folder, owner
    number: int = 0
    at: int = 0
    data: bytes = b""
    name: str = ""
    other: str = ""


class Fault:
    """Makes the n-th operation (of one kind) fail, and with `lasting` all that follow until it is healed."""

    def __init__(self, at: int, *, kind: str | None = None, lasting: bool = False) -> None:
        self.at = at
        self.kind = kind
        self.lasting = lasting
        self.count = 0
        self.fired = False
        self.healed = False

    def step(self, kind: str) -> None:
        """One operation. Raises what a broken disk or a full one gives."""
        if self.healed or self.kind not in (None, kind):
            return
        self.count += 1
        if self.count == self.at or (self.lasting and self.count > self.at):
            self.fired = True
            if kind == "write" and self.at % 2:
                raise apsw.FullError("injected: no space left")
            raise apsw.IOError(f"injected: {kind} failed")


class Recording:
    """A log of operations, written by a VFS of its own name while it is `running`."""

    def __init__(self, folder: Path, fault: Fault | None = None) -> None:
        self.folder = folder
        self.vfs = f"power-{id(self)}"
        self.log: list[Op] = []
        self.fault = fault
        self._numbers: dict[str, int] = {}
        self._last_number = 0
        self._owner = b""
        for file in folder.iterdir():  # What is there is on the disk.
            if not file.name.endswith("-owner"):
                number = self.number(file.name)
                self.log += [Op("write", number, data=file.read_bytes()), Op("sync", number), Op("sync folder")]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record, and sync nothing."""
        real_replace, real_unlink, real_pwrite = os.replace, os.unlink, os.pwrite

        def replace(old: Any, new: Any) -> None:
            real_replace(old, new)
            if Path(old).name not in self._numbers:
                return  # The side file, which is looked at as a whole.
            self._numbers[Path(new).name] = self._numbers.pop(Path(old).name)
            self.note(Op("rename", name=Path(old).name, other=Path(new).name))

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if number := self._number_of(fd):
                self.note(Op("write", number, offset, data))
            return real_pwrite(fd, data, offset)

        def fsync(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                self.note(Op("sync folder"))
            elif number := self._number_of(fd):
                self.note(Op("sync", number))

        def unlink(path: Any) -> None:
            real_unlink(path)
            self.deleted(str(path), synced=False)

        vfs = RecordingVFS(self.vfs, self)
        with mock.patch.multiple("os", replace=replace, unlink=unlink, pwrite=pwrite, fsync=fsync):
            yield
        vfs.unregister()

    def note(self, op: Op) -> None:
        """Log it, behind what happened to the side file meanwhile."""
        self.note_owner()
        self.log.append(op)

    def note_owner(self) -> None:
        """Log what the side file says now: it is written past the VFS."""
        for side in self.folder.glob("*-owner"):
            if (text := side.read_bytes()) != self._owner:
                self._owner = text
                self.log.append(Op("owner", data=text, name=side.name))

    def number(self, path: str) -> int:
        """The number of a file that is opened; one that was not there is created."""
        name = Path(path).name
        if name not in self._numbers:
            self._last_number += 1
            self._numbers[name] = self._last_number
            self.note(Op("link", self._last_number, name=name))
        return self._numbers[name]

    def _number_of(self, fd: int) -> int:
        """The number of an open file, 0 for one that is not followed."""
        status = os.fstat(fd)
        same = (name for name in self._numbers if os.path.samestat(status, (self.folder / name).stat()))
        return self._numbers.get(next(same, ""), 0)

    def deleted(self, path: str, synced: bool) -> None:
        """A file is no longer there."""
        name = Path(path).name
        if self._numbers.pop(name, None) is not None:
            self.note(Op("unlink", name=name))
            if synced:
                self.note(Op("sync folder"))

    def step(self, kind: str) -> None:
        """Fail if this is the operation that is to fail."""
        if self.fault is not None:
            self.fault.step(kind)


class RecordingVFS(apsw.VFS):
    """Files that log what is done to them."""

    def __init__(self, name: str, recording: Recording) -> None:
        super().__init__(name, "")
        self._recording = recording

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        self._recording.step("open")
        return RecordedFile(self._recording, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, False)
        self._recording.deleted(filename, syncdir)


class RecordedFile(apsw.VFSFile):
    """One of them."""

    def __init__(self, recording: Recording, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._recording = recording
        self._number = recording.number(path)
        # SQLite's own VFS syncs the folder with the first sync of a log.
        self._syncs_folder = path.endswith(("-wal", "-journal"))

    def xRead(self, amount: int, offset: int) -> bytes:
        self._recording.step("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        self._recording.step("write")
        super().xWrite(data, offset)
        self._recording.note(Op("write", self._number, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._recording.step("truncate")
        super().xTruncate(newsize)
        self._recording.note(Op("truncate", self._number, newsize))

    def xSync(self, flags: int) -> None:
        try:
            self._recording.step("sync")
        except apsw.Error:
            self._recording.note(Op("lose", self._number))
            raise
        self._recording.note(Op("sync", self._number))
        if self._syncs_folder:
            self._recording.note(Op("sync folder"))


class UnsyncedVFS(apsw.VFS):
    """The real files, without waiting for a disk."""

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return UnsyncedFile("", name, flags)


class UnsyncedFile(apsw.VFSFile):
    """One of them."""

    def xSync(self, flags: int) -> None:
        pass


@contextlib.contextmanager
def unsynced() -> Iterator[str]:
    """The name of a VFS to look at images with: they are there for a moment only."""
    vfs = UnsyncedVFS("unsynced", "")
    with mock.patch("os.fsync"):
        yield "unsynced"
    vfs.unregister()


class Disk:
    """What is surely on the disk after some operations, and what may be."""

    def __init__(self) -> None:
        self._durable: dict[int, bytearray] = {}
        self._pending: dict[int, list[Op]] = {}
        self._names: dict[str, int] = {}
        self._names_pending: list[Op] = []
        self._owners: list[tuple[str, bytes]] = []

    def apply(self, op: Op) -> None:
        """One more operation was done."""
        match op.kind:
            case "write" | "truncate":
                self._pending.setdefault(op.number, []).append(op)
            case "sync":
                content = self._durable.setdefault(op.number, bytearray())
                for each in self._pending.pop(op.number, ()):
                    _write(content, each)
            case (
                "lose"
            ):  # A failed sync: the system forgets that these were to be written, and shows them all the same.
                self._pending.pop(op.number, None)
            case "link" | "unlink" | "rename":
                self._names_pending.append(op)
            case "sync folder":
                for each in self._names_pending:
                    _rename(self._names, each)
                self._names_pending.clear()
            case "owner":
                self._owners.append((op.name, op.data))

    def image(self, folder: Path, rng: random.Random, *, newest_marks: bool = False) -> None:
        """Write what a power failure now could leave into an empty folder."""
        names = dict(self._names)
        for each in self._names_pending[: rng.randint(0, len(self._names_pending))]:
            _rename(names, each)
        for name, number in names.items():
            (folder / name).write_bytes(self._content(number, rng))
        if self._owners:
            newest = newest_marks or rng.random() < 0.5
            name, text = self._owners[-1] if newest else rng.choice(self._owners)
            (folder / name).write_bytes(text)

    def _content(self, number: int, rng: random.Random) -> bytes:
        content = bytearray(self._durable.get(number, b""))
        pending = self._pending.get(number, [])
        if not pending:
            return bytes(content)
        junk = rng.random() < 0.25  # Blocks that were given to the file and not written hold zeros, or anything.
        how = rng.choice(("none", "all", "prefix", "some", "sectors", "all but one"))
        chance = rng.random()
        spared = rng.randrange(len(pending))
        for index, op in enumerate(pending):
            if how == "all" or (how == "prefix" and index < spared) or (how == "all but one" and index != spared):
                _write(content, op)
            elif how == "sectors" or (how == "prefix" and index == spared) or (how == "some" and rng.random() < chance):
                _tear(content, op, rng, chance if how != "some" else 0.8, junk)
        return bytes(content)


def _write(content: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        if op.at < len(content):
            del content[op.at :]
        else:
            content.extend(bytes(op.at - len(content)))
        return
    if op.at > len(content):
        content.extend(bytes(op.at - len(content)))
    content[op.at : op.at + len(op.data)] = op.data


def _tear(content: bytearray, op: Op, rng: random.Random, chance: float, junk: bool) -> None:
    """Write some sectors of it."""
    if op.kind == "truncate":
        if rng.random() < chance:
            _write(content, op)
        return
    start, end = op.at, op.at + len(op.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        if rng.random() < chance:
            _write(content, Op("write", op.number, start, op.data[start - op.at : stop - op.at]))
        elif junk and start >= len(content):
            _write(content, Op("write", op.number, start, rng.randbytes(stop - start)))
        start = stop


def _rename(names: dict[str, int], op: Op) -> None:
    match op.kind:
        case "link":
            names[op.name] = op.number
        case "unlink":
            names.pop(op.name, None)
        case "rename" if op.name in names:
            names[op.other] = names.pop(op.name)
