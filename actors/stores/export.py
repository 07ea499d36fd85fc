"""The JSON file of a derived store: what it says, and that it is there.

Owns the file. Promises: at every moment the file is a whole record, of some durable seq; a reader never sees half of
one, also after a crash. What others do to it is not kept: the store is the truth, and the file is written anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seqtor.actors.faults import fault
from seqtor.actors.filesystem import FileSystem, file_system_at, make_folders, read_file, sync_folder, write_all
from seqtor.actors.stores.derived import DerivedState
from seqtor.actors.stores.suspension import Suspension
from seqtor.messages.stores import Commit
from seqtor.messages.triggers import Trigger

__all__ = ["Export", "json_of_record", "write_atomically"]

UNFINISHED = ".new"


def json_of_record(value: Any) -> bytes:
    """The content of the file."""
    return f"{value.model_dump_json(indent=2)}\n".encode()


class Export:
    """What one derived store has yet to write to its file; used by its cell only, and kept when that crashes.

    `state` is the store's as of the durable seq `seq`.
    """

    def __init__(self, path: Path, seq: int, suspension: Suspension) -> None:
        self.suspension = suspension
        self.path = path
        self._files = file_system_at(path)
        self.seq = seq
        self.state: DerivedState[Any] | None = None
        self.submit: Callable[[Trigger[Any]], object] | None = None  # None until the store may begin.
        self._written: bytes | None = None  # What this process has left in the file.
        self._checked: float | None = None  # The reconciliation at which the file was looked at last.

    def take(self, commits: Sequence[Commit], through: int) -> None:
        """Note what has become durable. Twice: the second adds nothing."""
        state = self.state
        assert state is not None  # It is there before the first commit.
        for commit in commits:
            if commit.seq > self.seq:
                state = state.with_writes(commit.writes)
        self.state = state
        self.seq = max(self.seq, through)

    def bring(self) -> str | None:
        """Have the file say what the store says; returns what others had done to it, if that was found just now.

        Looked for when the store was reconciled. A store that is unreadable, or refused by the guard, leaves the file as it
        is. Raises OSError.
        """
        state = self.state
        if state is None or state.value is None or state.unreadable or state.held:
            return None
        content = json_of_record(state.value)
        if self._written is None:
            _remove_unfinished(self._files, self.path)
        looks = self._written is None or state.reconciled != self._checked
        if content == self._written and not looks:
            return None
        found = _read(self._files, self.path) if looks else self._written
        drift = None
        if self._written is not None and found != self._written:
            drift = "the file was gone" if found is None else "the file was changed"
        if found != content:
            write_atomically(self.path, content, self._files)
        self._written, self._checked = content, state.reconciled
        return drift


def write_atomically(path: Path, content: bytes, files: FileSystem | None = None) -> None:
    """Replace a file as a whole, durably: whoever reads it sees the old content or the new one. Raises OSError."""
    files = files or file_system_at(path)
    make_folders(files, path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    fault("export.write.before")
    try:
        with files.opened(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            write_all(files, fd, content)
            fault("export.write.before_sync")
            files.fsync(fd)
        fault("export.rename.before")
        files.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            files.unlink(beside)
        raise
    fault("export.rename.after")
    sync_folder(files, path.parent)


def _remove_unfinished(files: FileSystem, path: Path) -> None:
    """Delete what a process has left that was killed while it wrote the file. Raises OSError."""
    before = f".{path.name}."
    for entry in files.entries(path.parent) if files.is_folder(path.parent) else ():
        name = entry.name
        is_ours = name.startswith(before) and name.endswith(UNFINISHED)
        if is_ours and name.removeprefix(before).removesuffix(UNFINISHED).isdigit():  # Else it is another file's.
            with contextlib.suppress(FileNotFoundError):
                files.unlink(path.with_name(name))


def _read(files: FileSystem, path: Path) -> bytes | None:
    try:
        return read_file(files, path)
    except FileNotFoundError:
        return None
