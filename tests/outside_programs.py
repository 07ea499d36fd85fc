"""A store that writes outside, to a box that stands for a file, a database or a service, and programs with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import immutables

from seqtor import Access, Restart, StoreActor, StoreRef, Supervisor, Transaction, Trigger
from seqtor.actors import Checkpoint, Commit, Write
from tests.programs import WAIT_S

__all__ = ["Box", "Mirror", "Put", "put_in", "with_mirror"]

Content = immutables.Map[str, Any]


class Box:
    """What is outside: values by key, up to which seq of which journal, and the versions that the store has left there.

    It outlives systems. `calls` are the groups that were written; `wrong` is what the next calls raise.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: dict[str, Any] = {}
        self.left: dict[str, Any] = {}  # What the store itself has written last.
        self.journal_id = ""
        self.seq = 0
        self.calls: list[tuple[int, ...]] = []
        self.looks = 0
        self.built = 0
        self.closed = 0
        self.wrong: list[BaseException] = []
        self.wrong_at_open: list[BaseException] = []
        self.before_ending: Callable[[], None] = lambda: None

    def edit(self, key: str, value: Any) -> None:
        """Somebody else writes; None deletes."""
        with self.lock:
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value


class MirrorView:
    """Reads and writes by key."""

    def __init__(self, access: Access[Content]) -> None:
        self.access = access

    def get(self, key: str) -> Any:
        self.access.read(key)
        return self.access.state.get(key)

    def put(self, key: str, value: Any) -> None:
        self.access.write(key, value)

    def all(self) -> dict[str, Any]:
        self.access.read_range(None, None)
        return dict(self.access.state)


class Mirror(StoreActor[Content, MirrorView]):
    """Keeps a box as its state is; what others put into it is not overwritten before it is in the journal."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._seen: dict[str, Any] = {}  # Edits that may be overwritten.
        self._withheld: dict[str, Any] = {}
        box.built += 1

    def recover(self, checkpoint: Checkpoint | None) -> Content:
        return immutables.Map()

    def persisted(self) -> int:
        if self._box.wrong_at_open:
            raise self._box.wrong_at_open.pop(0)
        if self._box.journal_id != self.journal_id:
            self._box.journal_id, self._box.seq, self._box.left = self.journal_id, 0, {}
        return self._box.seq

    def persist(self, commits: Sequence[Commit]) -> None:
        box = self._box
        if box.wrong:
            raise box.wrong.pop(0)
        assert commits
        assert [each.seq for each in commits] == sorted({each.seq for each in commits})
        with box.lock:
            for commit in commits:
                for key, value in commit.writes:
                    self._put(key, value)
            box.calls.append(tuple(commit.seq for commit in commits))
            box.before_ending()
            box.seq = commits[-1].seq

    def _put(self, key: str, value: Any) -> None:
        """Write, unless somebody else has written and nobody knows of it yet."""
        box = self._box
        found = box.values.get(key)
        self._withheld.pop(key, None)
        if found != box.left.get(key) and found != value and found != self._seen.get(key):
            self._withheld[key] = value
            self.edited_outside(key, found)
            return
        if value is None:
            box.values.pop(key, None)
        else:
            box.values[key] = value
        box.left[key] = value

    def look(self) -> None:
        box = self._box
        box.looks += 1
        with box.lock:
            for key in {*box.values, *box.left}:
                if box.values.get(key) != box.left.get(key):
                    self.edited_outside(key, box.values.get(key))

    def edit_ended(self, key: str, content: Any) -> None:
        self._seen[key] = content
        with self._box.lock:
            if key in self._withheld:
                self._put(key, self._withheld[key])

    def close(self) -> None:
        self._box.closed += 1

    @staticmethod
    def fold(state: Content, writes: Sequence[Write]) -> Content:
        for key, value in writes:
            if value is None:
                state = state.delete(key) if key in state else state
            elif state.get(key) != value:
                state = state.set(key, value)
        return state

    @staticmethod
    def view(access: Access[Content]) -> MirrorView:
        return MirrorView(access)


class Put(Trigger[Any]):
    """Writes a key, or with None deletes it; returns what was there."""

    key: str = "a"
    value: Any = None


def with_mirror(system: Supervisor, box: Box, kind: type[Mirror] = Mirror) -> StoreRef[MirrorView]:
    """Register a mirror of a box, and the handler of `Put`."""
    mirror = system.store("mirror", kind.spec(box), restart=Restart(intensity=1_000_000))

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> Any:
        before = tx[mirror].get(trigger.key)
        tx[mirror].put(trigger.key, trigger.value)
        return before

    return mirror


def put_in(system: Supervisor, **values: Any) -> None:
    """Write each of these, one after the other."""
    for key, value in values.items():
        system.ask(Put(key=key, value=value), timeout=WAIT_S)
