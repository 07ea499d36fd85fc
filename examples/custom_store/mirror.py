"""The mirror of a service that is sometimes down: the settings of a device, by name.

Owns how the device follows the journal. While it is away its store waits and everybody else goes on; what was committed
meanwhile is there in the end. What somebody has set at the device itself is adopted, and not overwritten before.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import immutables

from seqtor import Access, StoreActor, StoreUnavailable
from seqtor.actors.stores import Checkpoint, Commit, Write

__all__ = ["Device", "Mirror", "MirrorView"]

Settings = immutables.Map[str, int]


class Note(NamedTuple):
    """What the device remembers for the mirror: the journal that it follows, up to which seq, and what was set last."""

    journal: str = ""
    seq: int = 0
    left: Mapping[str, int | None] = immutables.Map()


class Device:
    """Stands for the service. While it is down it raises ConnectionError."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settings: dict[str, int] = {}
        self._note = Note()
        self.is_down = False

    def read(self) -> tuple[dict[str, int], Note]:
        """What is set, and the note of who follows."""
        with self._lock:
            self._require_up()
            return dict(self._settings), self._note

    def change(self, changes: Mapping[str, int | None], expected: Mapping[str, int | None], note: Note | None) -> bool:
        """Change settings (None removes one), all or, if one is not as expected, none; returns whether it has."""
        with self._lock:
            self._require_up()
            if any(self._settings.get(name) != value for name, value in expected.items()):
                return False
            for name, value in changes.items():
                self._settings.pop(name, None)
                if value is not None:
                    self._settings[name] = value
            self._note = self._note if note is None else note
            return True

    def _require_up(self) -> None:
        if self.is_down:
            raise ConnectionError("the device does not answer")


class MirrorView:
    """The settings as a handler sees them."""

    def __init__(self, access: Access[Settings]) -> None:
        self._access = access

    def __getitem__(self, name: str) -> int:
        self._access.read(name)
        return self._access.state[name]

    def __setitem__(self, name: str, value: int) -> None:
        self._access.write(name, value)

    def all(self) -> dict[str, int]:
        """All settings."""
        self._access.read_range(None, None)
        return dict(sorted(self._access.state.items()))


class Mirror(StoreActor[Settings, MirrorView]):
    """Has the device set as the journal says: `Mirror.spec(device, look_every_s=1.0)`."""

    def __init__(self, device: Device, look_every_s: float | None = None) -> None:
        self.look_every_s = look_every_s
        self._device = device
        self._note = Note()
        self._seen: set[tuple[str, int | None]] = set()  # What others have set and the journal has.

    def recover(self, checkpoint: Checkpoint | None) -> Settings:
        return immutables.Map()  # The commits are folded into it. The device is asked in `persisted`, not here.

    def persisted(self) -> int:
        _, note = self._read()
        self._note = note if note.journal == self.journal_id else Note(self.journal_id)
        return self._note.seq

    def persist(self, commits: Sequence[Commit]) -> None:
        wanted = {name: value for commit in commits for name, value in commit.writes}
        self._change(wanted, commits[-1].seq)

    def look(self) -> None:
        found, _ = self._read()
        for name in sorted({*found, *self.settled}):
            if found.get(name) == self.settled.get(name):
                continue
            if (name, found.get(name)) in self._seen:
                self._change({name: self.settled.get(name)}, self._note.seq)
            else:
                self.edited_outside(name, found.get(name))

    def edit_ended(self, key: str, content: Any) -> None:
        """The journal has it now: the device is set as the store says, whatever that is."""
        self._seen.add((key, content))
        self._change({key: self.settled.get(key)}, self._note.seq)

    def _change(self, wanted: Mapping[str, int | None], seq: int) -> None:
        """Change what is as this store left it, or as the journal knows it; report the rest."""
        left = self._note.left
        while True:
            found, _ = self._read()
            there = {name: found.get(name) for name in wanted}
            mine = {
                name: value
                for name, value in wanted.items()
                if there[name] in (left.get(name), value) or (name, there[name]) in self._seen
            }
            note = Note(self.journal_id, seq, immutables.Map({**left, **mine}))
            if self._try(mine, {name: there[name] for name in mine}, note):
                break
        self._note = note
        for name in sorted(wanted.keys() - mine.keys()):
            self.edited_outside(name, there[name])

    def _read(self) -> tuple[dict[str, int], Note]:
        try:
            return self._device.read()
        except ConnectionError as error:
            raise StoreUnavailable(str(error), retry_after=0.02) from error

    def _try(self, *what: Any) -> bool:
        try:
            return self._device.change(*what)
        except ConnectionError as error:
            raise StoreUnavailable(str(error), retry_after=0.02) from error

    @staticmethod
    def fold(state: Settings, writes: Sequence[Write]) -> Settings:
        for name, value in writes:
            if value is None:
                state = state.delete(name) if name in state else state
            elif state.get(name) != value:
                state = state.set(name, value)
        return state

    @staticmethod
    def view(access: Access[Settings]) -> MirrorView:
        return MirrorView(access)
