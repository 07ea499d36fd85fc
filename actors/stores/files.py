"""`Files`: a folder of text and binary files, by relative path.

Owns how the folder follows the store, and what counts as somebody else's edit. Promises: each file is replaced at once, and
durably before its seq counts as persisted; a version that the store did not leave there gets into the journal before it is
overwritten; nothing outside of the folder is read or written. Must never touch the folder but in `persisted` and behind it:
time travel recovers this store, too.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import immutables
from loguru import logger

from seqtor.actors.journal.encoding import text
from seqtor.actors.registering import registering
from seqtor.actors.stores.access import Access
from seqtor.actors.stores.collection import DELETED, Collection, CollectionState, CollectionView, resolve
from seqtor.actors.stores.contract import StoreActor, StoreSpec, op_of, op_text
from seqtor.actors.stores.folder import PRIVATE, Folder, NotAPlace, Version, digest_of
from seqtor.actors.stores.invariants import Each, Invariants
from seqtor.actors.stores.sorted_keys import SortedKeys
from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.stores import Checkpoint, Commit, Write

if TYPE_CHECKING:
    from seqtor.actors.journal.upcasts import Upcasts

__all__ = ["Files", "FilesView", "require_name"]

StateT = CollectionState[Any]
Content = str | bytes
NAME_BYTES_MAX, PATH_BYTES_MAX = 255, 3000
LOOK_EVERY_S = 1.0
PIECE_FILES, PIECE_BYTES = 64, 1 << 24


class FileKind:
    """Stands where a collection has its model: a file's content is text or bytes, and nobody can change it."""

    shared = True
    validates = False
    model = str
    version = 1
    shape = "files"

    def __init__(self, invariants: Invariants) -> None:
        self.invariants = invariants

    def from_json(self, value: Any, version: int, where: str) -> Content:
        """What the journal kept."""
        return op_of(value)  # type: ignore[no-any-return]

    @staticmethod
    def require_instance(value: Any) -> Content:
        """Return the value if a file can hold it. Raises TypeError."""
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        if type(value) is bytes:
            return value
        if not isinstance(value, str):
            raise TypeError(f"a file holds str or bytes, got {type(value).__name__}: {value!r}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise TypeError(f"a file's text must be valid Unicode: {error}") from None
        return str(value)

    @staticmethod
    def hand_out(value: Content) -> Content:
        """The value itself."""
        return value

    @staticmethod
    def same(one: Content, other: Content) -> bool:
        """Whether two contents are equal and of one kind."""
        return type(one) is type(other) and one == other


KIND: Any = FileKind(Invariants((), keyed=True))


def require_name(key: Any) -> str:
    """Return a key that names a file inside of the folder. Raises TypeError, ValueError."""
    if not isinstance(key, str):
        raise TypeError(f"a file's name is a str, got {type(key).__name__} {key!r}")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a file's name must be valid Unicode, got {key!r}") from None
    parts = key.split("/")
    why = None
    if key.startswith("/"):
        why = "is absolute"
    elif any(part in ("", ".", "..") for part in parts):
        why = 'has an empty part, "." or ".."'
    elif "\0" in key:
        why = "has a NUL in it"
    elif parts[0] == PRIVATE:
        why = "is the store's own"
    elif len(encoded) > PATH_BYTES_MAX or any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        why = f"is too long: {NAME_BYTES_MAX} bytes between slashes, {PATH_BYTES_MAX} in all"
    if why is not None:
        raise ValueError(f"the name {key!r} {why}: give the path of a file below the folder, such as 'reports/may.txt'")
    return key


class FilesView(CollectionView[Any]):
    """The files as one attempt sees them: a mutable mapping of relative paths to text or bytes.

    Reads are tracked as those of a `Collection`. Raises ValueError for a name that leaves the folder, or that takes a file
    for a folder.
    """

    __slots__ = ()

    def __setitem__(self, key: str, value: Content) -> None:
        require_name(key)
        parts = key.split("/")  # No other file may be where this one has a folder, or below it.
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            if folder in self:
                raise ValueError(f"the name {key!r} needs a folder where there is the file {folder!r}")
        below = next(self.scan(prefix=key + "/"), None)
        if below is not None:
            raise ValueError(f"the name {key!r} is that of a folder, which holds {below[0]!r}")
        super().__setitem__(key, FileKind.require_instance(value))

    def increment(self, key: str, **fields: Any) -> None:
        """Files have no fields. Raises TypeError."""
        raise TypeError("files have no fields to increment: read the content, and write what is to be there")

    def __repr__(self) -> str:
        return f"<FilesView, {len(self._entries)} files in the snapshot>"


class FilesStore(StoreActor[StateT, FilesView]):
    """The behaviour: keeps a folder as the journal says."""

    dispatcher: ClassVar[Any] = "dedicated"

    def __init__(self, look_every_s: float | None, folder: Folder) -> None:
        self.look_every_s = look_every_s
        self._folder = folder  # Outlives this instance, which may be rebuilt: it has the lock.
        self._seq = 0
        self._owed: set[str] = set()  # Files that are not as the store says, because somebody else's version is there.
        self._seen: dict[str, set[bytes | None]] = {}  # Versions of others that the journal has.
        self._strange: list[tuple[str, bytes]] = []  # Swapped out before a crash, and reported to nobody.
        self._looked = False

    def recover(self, checkpoint: Checkpoint | None) -> StateT:
        content = {} if checkpoint is None else _content_of(checkpoint)
        return CollectionState(KIND, immutables.Map(content), SortedKeys.of(content))

    def persisted(self) -> int:
        folder = self._folder
        self._seq = folder.open(self.journal_id)
        self._strange = []
        for key, content in tuple(
            folder.set_aside()
        ):  # Now: what was planned before a crash is known until the next plan.
            if self._is_foreign(key, digest_of(content), ()):
                self._strange.append((key, content))
            else:
                folder.forget(key, digest_of(content))
        return self._seq

    def persist(self, commits: Sequence[Commit]) -> None:
        last: dict[str, tuple[int, Content | None]] = {}
        known: dict[str, set[bytes | None]] = {}
        for commit in commits:
            for key, content in commit.writes:
                last[key] = (commit.seq, content)
                known.setdefault(key, set()).add(_digest(content))
        self._bring(last, known)
        self._seq = commits[-1].seq
        if not last:
            self._folder.settle(self._seq)

    @property
    def kept_through(self) -> int | None:
        return None if self._folder.seq == self._seq else self._folder.seq

    def look(self) -> None:
        folder = self._folder
        folder.settle(self._seq)
        if not self._looked:
            for key, content in self._strange:
                self.edited_outside(key, _decoded(content))
            entries, left = self.settled.entries, folder.left
            self._owed.update(
                key
                for key in {*entries, *left}
                if _digest(entries.get(key)) != (left[key].digest if key in left else None)
            )
            self._looked = True
        if self._owed:
            self._restore(tuple(self._owed))
        for key in {*folder.keys(), *[key for key, left in folder.left.items() if left.digest is not None]}:
            if not folder.is_as_left(key):
                self._examine(key)

    def edit_ended(self, key: str, content: Any) -> None:
        digest = _digest(content)
        self._seen.setdefault(key, set()).add(digest)
        if digest is not None:
            self._folder.forget(key, digest)
        self._restore((key,))

    def close(self) -> None:
        if self._folder.is_open:
            try:
                self._folder.settle(self._seq)
            finally:
                self._folder.close()

    @staticmethod
    def fold(state: StateT, writes: Sequence[Write]) -> StateT:
        return resolve(state, writes)[0]

    @staticmethod
    def view(access: Access[StateT]) -> FilesView:
        return FilesView(access)

    def _restore(self, keys: Sequence[str]) -> None:
        """Have files as the store says, unless somebody else's version is there that nobody knows of."""
        entries = self.settled.entries
        self._bring({key: (self._seq, entries.get(key)) for key in keys}, {})

    def _bring(
        self, versions: Mapping[str, tuple[int, Content | None]], known: Mapping[str, set[bytes | None]]
    ) -> None:
        folder = self._folder
        writing: dict[str, Version] = {}
        for key, (seq, content) in versions.items():
            self._owed.discard(key)
            raw = _raw(content)
            digest = None if raw is None else digest_of(raw)
            try:
                needed = self._is_needed(key, digest, known.get(key, ()))
            except NotAPlace as error:
                self._owe(key, error)
                continue
            if needed:
                writing[key] = Version(seq, digest, raw)
        if not writing:
            return
        folder.plan({key: version.digest for key, version in writing.items()}, self._seq)
        for piece in _pieces(writing):
            ready = folder.prepare(piece)
            for key, version in piece.items():
                try:
                    foreign = folder.put(key, version, ready.get(key), {*known.get(key, ()), *self._seen.get(key, ())})
                except NotAPlace as error:
                    self._owe(key, error)
                    continue
                if foreign is not None:  # Somebody was faster: it was swapped out, and is aside.
                    self.edited_outside(key, _decoded(foreign))
        folder.sync()

    def _is_needed(self, key: str, wanted: bytes | None, known: Any) -> bool:
        """Whether a file has to be written, and may be; a version of somebody else is reported instead."""
        folder = self._folder
        left = folder.left.get(key)
        if folder.is_as_left(key):
            return (None if left is None else left.digest) != wanted
        found = folder.read(key)
        if self._is_foreign(key, _digest(found), known):
            self._owed.add(key)
            self.edited_outside(key, _decoded_or_none(found))
            return False
        return True

    def _examine(self, key: str) -> None:
        """Report a file that does not look as it was left, if it is somebody else's version."""
        found = self._folder.read(key)
        if self._is_foreign(key, _digest(found), ()):
            try:
                require_name(key)
            except ValueError as error:
                logger.warning("{}: a file is left alone: {}", self._folder.path, error)
                return
            self._owed.add(key)
            self.edited_outside(key, _decoded_or_none(found))

    def _is_foreign(self, key: str, found: bytes | None, known: Any) -> bool:
        """Whether a version is neither the store's nor in the journal; no file where none was left is nobody's version."""
        left = self._folder.left.get(key)
        if found == (None if left is None else left.digest) or found in known or found in self._seen.get(key, ()):
            return False
        return not self._folder.was_planned(key, found)

    def _owe(self, key: str, error: NotAPlace) -> None:
        self._owed.add(key)
        logger.warning("a file is not written until its place is free: {}", error)


def _raw(content: Content | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content


def _pieces(writing: Mapping[str, Version]) -> Iterator[dict[str, Version]]:
    """As many files together as may be open, and in memory a second time, at once."""
    piece: dict[str, Version] = {}
    size = 0
    for key, version in writing.items():
        if piece and (len(piece) == PIECE_FILES or size > PIECE_BYTES):
            yield piece
            piece, size = {}, 0
        piece[key] = version
        size += len(version.content or b"")
    yield piece


def _digest(content: Content | None) -> bytes | None:
    raw = _raw(content)
    return None if raw is None else digest_of(raw)


def _decoded(raw: bytes) -> Content:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _decoded_or_none(raw: bytes | None) -> Content | None:
    return None if raw is None else _decoded(raw)


def _content_of(checkpoint: Checkpoint) -> dict[str, Content]:
    """What `Files.checkpoint_of` wrote."""
    return {key: op_of(value) for key, value in json.loads(checkpoint.data.partition(b"\n")[2]).items()}


class Files(Collection[Any]):
    """The recipe of a folder of files: `system.store("reports", Files("var/reports"))`.

    Keys are relative paths, values are str (UTF-8) or bytes. What is in the folder at the first start is adopted, and so is
    what others change later; they are looked for every `look_every` seconds (None: at the start, and before each write). One
    process has the folder; another one waits `lock_timeout` seconds for it and is refused then. `invariants` are as those of
    a `Collection`. Raises RegistrationError for what cannot be meant.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lock_timeout: float | datetime.timedelta = 0.0,
        look_every: float | datetime.timedelta | None = LOOK_EVERY_S,
        invariants: Iterable[Callable[[Mapping[str, Content]], bool | None] | Each[Content]] = (),
    ) -> None:
        with registering():
            if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
                raise RegistrationError(f"Files takes the path of a folder, got {path!r}")
            self.path = self.own_path = Path(path).absolute()
            timeout_s = _seconds(lock_timeout, "lock_timeout")
            every_s = None if look_every is None else _seconds(look_every, "look_every")
            if every_s == 0:
                raise RegistrationError("look_every must be above 0 seconds, or None")
            self.kind: Any = FileKind(Invariants(invariants, keyed=True))
            StoreSpec.__init__(self, FilesStore, every_s, Folder(self.path, timeout_s))
            self.view = FilesView
            self.needs_judge = bool(self.kind.invariants)  # The fold itself is ours, and quick.

    def op_json(self, key: str, op: Content | None) -> str:
        return op_text(op)

    def checkpoint_of(self, state: StateT) -> bytes:
        entries = ",\n".join(f"{text(key)}:{op_text(state.entries[key])}" for key in state.keys)
        return f'{{"version":{self.version}}}\n{{{entries}}}'.encode()

    def prepare_for_journal(self, upcasts: Upcasts) -> None:
        """The journal gives text and bytes back as they are."""

    def write_of(self, key: str, value: Any, version: int, where: str) -> Write:
        return Write(key, op_of(value))

    def whole(self, state: StateT) -> Sequence[Write]:
        return [Write(key, state.entries[key]) for key in state.keys]

    def adopt(self, access: Access[Any], key: str, content: Any) -> None:
        """Take over a version of somebody else; one that cannot be beside the other files is refused."""
        if content is None:
            access.put(Write(key, DELETED))
            return
        try:
            FilesView(access)[key] = content
        except (TypeError, ValueError) as error:
            raise Rejected(f"the file cannot be adopted: {error}") from error


def _seconds(value: float | datetime.timedelta, name: str) -> float:
    wait_s = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    if isinstance(wait_s, bool) or not isinstance(wait_s, (int, float)) or not 0 <= wait_s < math.inf:
        raise RegistrationError(f"Files: {name} must be seconds (0 or more) or a timedelta, got {value!r}")
    return float(wait_s)
