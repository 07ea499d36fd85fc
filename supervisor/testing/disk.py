"""A disk in memory under the real journal and the real files: its programs die, its power fails, it is full or broken.

Owns the lives of a disk: what is mounted in each, at which operation it ends, and what goes wrong on the way. Promises: the
same seed and the same operations leave the same disk; a program that was left behind in an earlier life writes to that one's
disk and harms nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from seqtor.actors.filesystem import mount, unmount
from seqtor.testing.disk_files import DiskFiles
from seqtor.testing.disk_state import Volume
from seqtor.testing.disk_vfs import DiskVFS

__all__ = ["SimulatedDisk"]


class SimulatedDisk:
    """A disk that is there, inside of its `with` block, below `place`: `Supervisor("/simulated/journal.db")` is on it.

    `Files` and `export=` of derived stores below `place` are on it, too; whoever was made before the block is not. `lies`
    makes a disk whose syncs do nothing: what a test then does not find, it cannot find. One disk has a place at a time.
    """

    def __init__(
        self, place: str | os.PathLike[str] = "/simulated", *, seed: int = 0, capacity_bytes: int | None = None,
        lies: bool = False,
    ) -> None:  # fmt: skip
        self.place = Path(place)
        if not self.place.is_absolute():
            raise ValueError(f"a simulated disk has an absolute place, such as '/simulated', got {str(place)!r}")
        self.capacity_bytes = capacity_bytes
        self.lies = lies
        self.lives = 0
        self.watch: Callable[[str, str], object] | None = None
        """Called with every operation and the path that it is done to; what it raises, an OSError, the operation raises."""
        self.happened: Counter[str] = Counter()  # Operations by kind, errors by name.
        self._chance = random.Random(seed)
        self._left: Volume | None = None  # What the next life finds, once this one has ended.
        self._ends_at: tuple[int, bool] | None = None
        self._vfs: list[DiskVFS] = []
        self._volume = Volume()
        self.files: DiskFiles

    # Lives ---------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._begin(self._volume)
        return self

    def __exit__(self, *_: object) -> None:
        unmount(self.place)
        for vfs in self._vfs:
            vfs.unregister()
        self._vfs.clear()

    @property
    def has_ended(self) -> bool:
        """Whether the program has died, or the power failed: what is done since then is not on this disk."""
        return self._left is not None

    @property
    def steps(self) -> int:
        """How many operations there were in this life."""
        return self.files.steps

    def end_at(self, step: int, *, power_fails: bool) -> None:
        """Have this life end just before an operation, counted from 1."""
        self._ends_at = step, power_fails

    def end(self, *, power_fails: bool) -> None:
        """End this life: only the program dies, or the power fails and what was not synced may be lost."""
        if self._left is None:
            volume = self.files.volume
            self._left = volume.after_power_failure(self._chance) if power_fails else volume.copied()

    def begin_again(self) -> None:
        """Begin the next life with what the last one has left (if it has not ended: as if the program died now).

        Make the system and all that is on the disk anew; what is left of the last life goes on with a disk of its own.
        """
        self.end(power_fails=False)
        left, self._left = self._left, None
        assert left is not None
        self._begin(left)

    def _begin(self, volume: Volume) -> None:
        self.lives += 1
        self._ends_at = None
        files = DiskFiles(self.place, volume, self._step, f"{self.place}-{id(self)}-{self.lives}", lies=self.lies)
        self._vfs.append(DiskVFS(files))
        self.files = files
        mount(self.place, files)

    # What goes wrong -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def failing(
        self, *kinds: str, code: int = errno.EIO, times: int | None = None, after: int = 0, below: str = ""
    ) -> Iterator[None]:
        """While the block runs, operations of these kinds fail (none: all): from the `after`-th on, `times` times.

        Kinds are open, read, write, truncate, sync, sync folder, rename, unlink, mkdir, rmdir. `below`: only paths that
        begin so, seen from `place`.
        """
        outer, passed = self.watch, [0]
        prefix = str(self.place / below) if below else ""

        def watch(kind: str, path: str) -> None:
            if outer is not None:
                outer(kind, path)
            if (kinds and kind not in kinds) or not path.startswith(prefix):
                return
            passed[0] += 1
            if passed[0] > after and (times is None or passed[0] <= after + times):
                raise OSError(code, os.strerror(code), path)

        self.watch = watch
        try:
            yield
        finally:
            self.watch = outer

    def _step(self, files: DiskFiles, kind: str, path: str, grows: int) -> None:
        """One operation. Raises what the disk has to say."""
        if files is not self.files or self._left is not None:
            return  # Of somebody who is dead.
        self.happened[kind] += 1
        if self._ends_at is not None and files.steps >= self._ends_at[0]:
            self.end(power_fails=self._ends_at[1])
            return
        try:
            if self.watch is not None:
                self.watch(kind, path)
            if grows and self.capacity_bytes is not None and files.volume.size + grows > self.capacity_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        except OSError as error:
            self.happened[f"{kind}: {errno.errorcode.get(error.errno or 0, 'error')}"] += 1
            raise

    # Looking at it -------------------------------------------------------------------------------------------------------

    def contents(self, folder: str = "") -> dict[str, bytes]:
        """The files below a folder by path, as programs see them now."""
        found: dict[str, bytes] = {}
        left: list[tuple[str, Any]] = [("", self.files.node(self.place / folder))]
        while left:
            name, node = left.pop()
            if node.is_folder:
                left += [(f"{name}/{each}" if name else each, child) for each, child in node.names.items()]
            else:
                found[name] = bytes(node.content)
        return dict(sorted(found.items()))

    def __repr__(self) -> str:
        return f"<SimulatedDisk {self.place}: life {self.lives}, {self.files.steps} operations>"
