"""A folder whose files a store writes, and others may edit: what is there, what the store has left there, and the exchange.

Owns the folder's lock, its `.seqtor` directory and its manifest (SQLite: the journal's id, the seq, and for each file the
version that the store last left). Promises: a file is replaced at once and durably, or not at all; a version that the store
did not leave is never lost, whatever moment its writer chose: it is set aside until `forget`. Must never write outside of
the folder, nor follow a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import apsw

from seqtor.actors.faults import fault
from seqtor.actors.filesystem import (
    EXCHANGE,
    NOREPLACE,
    file_system_at,
    make_folders,
    read_all,
    read_file,
    sync_folder,
    write_all,
)
from seqtor.actors.journal.sqlite_files import write_wal_again
from seqtor.messages.errors import SeqtorError

__all__ = ["Folder", "FolderLocked", "Left", "NotAPlace", "Ready", "Version", "digest_of"]

PRIVATE = ".seqtor"
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
RETRY_S = 0.05
NO_FILE = b""  # Where a digest cannot be NULL.
SCHEMA = """
create table if not exists files (key text primary key, seq integer not null, digest blob, size integer, mtime integer)
    without rowid;
create table if not exists planned (key text, digest blob, primary key (key, digest)) without rowid;
create table if not exists meta (name text primary key, value) without rowid;
"""


class FolderLocked(SeqtorError):
    """Another process, or another store of this one, writes this folder."""

    code = "folder_locked"


class NotAPlace(SeqtorError):
    """A file cannot be where its key says: a link, or something that is no directory, is in its way."""

    code = "not_a_place"


class Version(NamedTuple):
    """What a file is to hold as of a seq; None for both: it is deleted."""

    seq: int
    digest: bytes | None
    content: bytes | None


class Ready(NamedTuple):
    """A new version of a file, whole and durable, that is not in its place yet."""

    place: Path
    left: Left


class Left(NamedTuple):
    """The version of a file that the store last left: at which seq, its digest (None: it was deleted), and its looks."""

    seq: int
    digest: bytes | None
    size: int = -1
    mtime: int = -1


def digest_of(content: bytes) -> bytes:
    """What two contents are told apart by."""
    return hashlib.blake2b(content, digest_size=16).digest()


class Folder:
    """One folder. Opened by one thread, and used by it; `open` again is harmless, also after `close`."""

    def __init__(self, path: Path, lock_timeout_s: float) -> None:
        self.path = path
        self._files = file_system_at(path)
        self._private = path / PRIVATE
        self._new, self._aside = self._private / "new", self._private / "aside"
        self._lock_timeout_s = lock_timeout_s
        self._lock: int | None = None
        self._manifest: apsw.Connection | None = None
        self._count = 0
        self.seq = 0  # Up to which everything is there, as far as the manifest knows.
        self.left: dict[str, Left] = {}
        self._unsaved: dict[str, Left] = {}
        self._planned: set[tuple[str, bytes | None]] = set()
        self._has_put_all = True  # What was planned is there; else it may be there, or be aside, or nowhere.
        self._touched: set[Path] = set()  # Directories that have to be synced.

    # Life ------------------------------------------------------------------------------------------------------------

    def open(self, journal_id: str) -> int:
        """Lock the folder and read the manifest; returns the seq that it has, 0 for another journal's.

        Raises FolderLocked with the owner, OSError where files cannot change places.
        """
        if not self._files.can_exchange:
            raise OSError(
                errno.ENOSYS, "Files needs renameat2, which Linux has: keep them in a Collection here", str(self.path)
            )
        for directory in (self._new, self._aside):
            make_folders(self._files, directory)
        self._take_lock()
        for unfinished in self._files.entries(self._new):
            self._files.unlink(self._new / unfinished.name)
        manifest = self._manifest
        if manifest is None:
            path = self._private / "manifest.db"
            write_wal_again(self._files, path)
            self._manifest = manifest = apsw.Connection(str(path), vfs=self._files.vfs)
            # Exclusive: who has the folder has the manifest.
            for name, value in (("locking_mode", "exclusive"), ("journal_mode", "wal"), ("synchronous", "full")):
                manifest.pragma(name, value)
            manifest.execute(SCHEMA)
            for directory in (self._private, self.path, self.path.parent):  # Whoever made them may have died before.
                sync_folder(self._files, directory)
        meta = dict(manifest.execute("select name, value from meta"))
        if meta.get("journal") != journal_id:
            with manifest:
                for table in ("files", "planned", "meta"):
                    manifest.execute(f"delete from {table}")
                manifest.execute("insert into meta values ('journal', ?), ('seq', 0)", (journal_id,))
            meta = {"seq": 0}
        self.left = {key: Left(*rest) for key, *rest in manifest.execute("select * from files")}
        found = manifest.execute("select key, digest from planned")
        self._planned = {(key, None if digest == NO_FILE else digest) for key, digest in found}
        self._has_put_all = not self._planned
        for key, _ in self._planned:  # The folders that were made for these may not be durable.
            self._touched.update(each for each in self._above(key) if self._files.is_folder(each))
        self._unsaved = {}
        self.seq = int(meta["seq"])
        return self.seq

    def close(self) -> None:
        """Let go of the folder."""
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None
        if self._lock is not None:
            self._files.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        files = self._files
        fd = files.open(self._private / "lock", os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + self._lock_timeout_s
        try:
            while not self._is_locked(fd):
                if time.monotonic() >= deadline:
                    owner = read_all(files, fd).decode(errors="replace").strip() or "unknown"
                    raise FolderLocked(
                        f"the folder {self.path} is written by another process (pid {owner}), or by another store of this "
                        "one: one folder, one store. Stop the other one, or wait longer with lock_timeout="
                    )
                time.sleep(RETRY_S)  # A lock of another process gives no signal.
            write_all(files, fd, b"%-19d\n" % os.getpid())
        except BaseException:
            files.close(fd)
            raise
        self._lock = fd

    def _is_locked(self, fd: int) -> bool:
        try:
            self._files.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self._manifest is not None

    # What is there ---------------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes | None:
        """What a file holds now; None if it is not there, or is no file. Raises NotAPlace."""
        files = self._files
        try:
            with files.opened(self._place(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                return read_all(files, fd) if stat.S_ISREG(files.fstat(fd).st_mode) else None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                return None
            raise

    def is_as_left(self, key: str) -> bool:
        """Whether a file looks as the store left it, without reading it."""
        left = self.left.get(key)
        try:
            found = self._files.lstat(self._place(key))
        except (FileNotFoundError, NotADirectoryError):
            return left is None or left.digest is None
        looks = (found.st_size, found.st_mtime_ns)
        return left is not None and left.digest is not None and looks == (left.size, left.mtime)

    def keys(self) -> Iterator[str]:
        """The files that are there, but for those whose names no key can have."""
        yield from self._walk(self.path, "")

    def _walk(self, directory: Path, before: str) -> Iterator[str]:
        for entry in self._files.entries(directory):
            if not before and entry.name == PRIVATE:
                continue
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                continue
            if entry.is_folder:
                yield from self._walk(directory / entry.name, f"{before}{entry.name}/")
            elif entry.is_file:
                yield before + entry.name

    def was_planned(self, key: str, digest: bytes | None) -> bool:
        """Whether the store was about to leave this version, perhaps before a crash."""
        return (key, digest) in self._planned

    def set_aside(self) -> Iterator[tuple[str, bytes]]:
        """Versions that were swapped out and are still here: the key and the content."""
        keys = {_named(key): key for key in (*self.left, *(key for key, _ in self._planned))}
        for entry in self._files.entries(self._aside):
            key = keys.get(entry.name.partition(".")[0])
            if key is not None:
                yield key, read_file(self._files, self._aside / entry.name)

    def forget(self, key: str, digest: bytes) -> None:
        """Delete a version that was set aside."""
        for entry in self._files.entries(self._aside):
            place = self._aside / entry.name
            if entry.name.startswith(f"{_named(key)}.") and digest_of(read_file(self._files, place)) == digest:
                self._files.unlink(place)

    def _place(self, key: str) -> Path:
        """Where a file is. Raises NotAPlace if a link is on the way."""
        place = self.path
        for part in key.split("/")[:-1]:
            place /= part
            if self._files.is_link(place):
                raise NotAPlace(f"{place} is a link, and a store does not follow links: remove it, or what it holds up")
        return self.path / key

    def _above(self, key: str) -> list[Path]:
        """The folders that a file is in, from the whole folder on."""
        parts = key.split("/")[:-1]
        return [self.path.joinpath(*parts[:count]) for count in range(len(parts) + 1)]

    # Writing ---------------------------------------------------------------------------------------------------------

    def plan(self, versions: Mapping[str, bytes | None], seq: int) -> None:
        """Note durably what is about to be left (digests by key), and up to which seq everything has been."""
        fault("files.plan.before")
        self._note(seq, versions.items(), ())
        self._has_put_all = False
        fault("files.plan.after")

    def settle(self, seq: int) -> None:
        """Note that everything up to a seq is there."""
        fault("files.settle.before")
        gone = [key for key, left in self.left.items() if left.digest is None]
        self._note(seq, (), gone)
        for key in gone:
            del self.left[key]
        fault("files.settle.after")

    def _note(self, seq: int, planned: Iterable[tuple[str, bytes | None]], gone: Iterable[str]) -> None:
        """Write the manifest. What is noted of files must be on the disk before, also if putting others has failed."""
        manifest = self._require_open()
        self._sync_touched()
        planned = {*planned} if self._has_put_all else {*planned, *self._planned}
        with manifest:
            manifest.execute("delete from planned")
            manifest.execute("update meta set value = ? where name = 'seq'", (seq,))
            rows = [(key, *left) for key, left in self._unsaved.items()]
            manifest.executemany("insert or replace into files values (?, ?, ?, ?, ?)", rows)
            manifest.executemany("delete from files where key = ?", [(key,) for key in gone])
            manifest.executemany(
                "insert into planned values (?, ?)", [(key, digest or NO_FILE) for key, digest in planned]
            )
        self._unsaved = {}  # Not before it is durable: a transaction may fail, and is made again.
        self.seq, self._planned = seq, planned

    def prepare(self, versions: Mapping[str, Version]) -> dict[str, Ready]:
        """Write new versions beside the files, durably, for `put`; deletions need none.

        The disk has all of them before one is waited for. Raises OSError, also for what does not read back.
        """
        files = self._files
        begun: dict[str, tuple[Path, int]] = {}  # The files in `new`, and open.
        ready = {}
        try:
            for key, version in versions.items():
                if version.content is not None:
                    fault("files.write.before")
                    place = self._new / self._new_name(key)
                    begun[key] = (place, files.open(place, CREATE, 0o666))
                    self._write(begun[key][1], version.content)
            fault("files.write.before_sync")
            for key, (place, descriptor) in begun.items():
                seq, digest, content = versions[key]
                files.fsync(descriptor)
                if self._read_back(descriptor) != content:
                    raise OSError(errno.EIO, f"{place} does not hold what was written to it")
                looks = files.fstat(descriptor)
                ready[key] = Ready(self._aside / place.name, Left(seq, digest, looks.st_size, looks.st_mtime_ns))
        finally:
            for _, descriptor in begun.values():
                files.close(descriptor)
        for place, _ in begun.values():
            files.replace(place, self._aside / place.name)  # Whole: what a crash leaves there is a version.
        return ready

    def put(
        self, key: str, version: Version, ready: Ready | None, known: Collection[bytes | None] = ()
    ) -> bytes | None:
        """Replace a file by what `prepare` has made of a version (None: delete it); durable behind `sync`.

        `known` are versions that the journal has, by digest. Returns what was swapped out, if it is neither known nor what
        the store had left: then it was set aside, too. Raises NotAPlace, OSError.
        """
        files, before = self._files, self.left.get(key)
        fault("files.rename.before")
        if ready is None:
            place, aside, left = self._place(key), self._aside / self._new_name(key), Left(version.seq, None)
            swapped = files.rename(place, aside, NOREPLACE)
            self._prune(place.parent)
        else:
            aside, left = ready
            try:
                place = self._place(key)
                swapped = self._exchange(aside, place)
            except NotAPlace:
                files.unlink(aside)  # Else it would be taken for somebody's at the next start.
                raise
            self._touched.add(place.parent)
        fault("files.rename.after")
        self.left[key] = self._unsaved[key] = left
        self._touched.add(self._aside)  # Else what is deleted there comes back, and is taken for somebody's.
        if not swapped:
            return None
        found = files.lstat(aside)
        if not stat.S_ISREG(found.st_mode):
            files.unlink(aside)  # A link: what it leads to is untouched.
            return None
        if before is None or (found.st_size, found.st_mtime_ns) != (before.size, before.mtime):
            there = read_file(files, aside)
            digest = digest_of(there)
            if digest not in known and digest != left.digest and (before is None or digest != before.digest):
                sync_folder(files, self._aside)  # Before its old place is synced, which does not have it any more.
                return there
        files.unlink(aside)
        return None

    def sync(self) -> None:
        """Make durable what was put, which is all that was planned."""
        fault("files.sync.before")
        self._sync_touched()
        self._has_put_all = True
        fault("files.sync.after")

    def _sync_touched(self) -> None:
        for directory in sorted(self._touched):
            sync_folder(self._files, directory)
        self._touched = set()

    def _exchange(self, aside: Path, place: Path) -> bool:
        """Put a file in its place; whether something was there, which is aside now."""
        files = self._files
        self._make_directories(place.parent)
        if files.is_folder(place) and not files.is_link(place):
            self._remove_empty(place)
            if files.is_folder(place):
                raise NotAPlace(f"{place} is a folder that is not empty: a file cannot be in its place")
        while not files.rename(aside, place, EXCHANGE):
            if files.rename(aside, place, NOREPLACE):
                return False
        return True

    def _remove_empty(self, directory: Path) -> None:
        """Remove a folder, and those in it, as far as they hold nothing."""
        for entry in self._files.entries(directory):
            if entry.is_folder:
                self._remove_empty(directory / entry.name)
        with contextlib.suppress(OSError):  # It is not empty.
            self._files.rmdir(directory)

    def _prune(self, directory: Path) -> None:
        """Remove folders that nothing is left in."""
        while directory != self.path:
            try:
                self._files.rmdir(directory)
            except OSError:  # Not empty, or gone.
                break
            self._touched.discard(directory)
            directory = directory.parent
        if self._files.is_folder(directory):
            self._touched.add(directory)

    def _make_directories(self, directory: Path) -> None:
        missing = []
        while not self._files.is_folder(directory):
            missing.append(directory)
            directory = directory.parent
        for each in reversed(missing):
            try:
                self._files.mkdir(each)
            except FileExistsError:
                raise NotAPlace(f"{each} is no folder: nothing can be in it") from None
            self._touched |= {each.parent}

    def _write(self, descriptor: int, content: bytes) -> None:
        write_all(self._files, descriptor, content)
        self._files.begin_to_write(descriptor)

    def _read_back(self, descriptor: int) -> bytes:
        return read_all(self._files, descriptor)

    def _new_name(self, key: str) -> str:
        self._count += 1
        return f"{_named(key)}.{self._files.time_ns()}-{self._count}"

    def _require_open(self) -> apsw.Connection:
        if self._manifest is None:
            raise RuntimeError(f"the folder {self.path} is not open")
        return self._manifest


def _named(key: str) -> str:
    return digest_of(key.encode()).hex()
