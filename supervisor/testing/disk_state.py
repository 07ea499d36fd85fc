"""What is on a simulated disk: what programs see, what is durable, and what a power failure leaves of the difference.

Owns the model. The disk is as bad as a disk may be: a sync is the only order there is. A write that was not synced reaches
it or not, sector by sector; a name is durable when its folder is synced, and of the names of one folder a power failure
keeps the first few; a rename across folders is done or not. It is not worse: a sector is written or not, and what is beside
it stays (SQLite counts on that, too). Pure, but for the random numbers that it is given.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["SECTOR_BYTES", "Node", "Volume"]

SECTOR_BYTES = 512
CHANCES = (0.0, 0.5, 1.0)


class Change(NamedTuple):
    """What was done to a file and is not synced: bytes were written at a place, or (None) all behind it was cut off."""

    at: int
    data: bytes | None


class Node:
    """A file or a folder, whatever it is called. Names of a folder are visible or durable, and so is content."""

    __slots__ = (
        "changes",
        "content",
        "durable",
        "holders",
        "is_folder",
        "kept",
        "modified",
        "names",
        "number",
        "synced",
    )

    def __init__(self, number: int, *, is_folder: bool, now: int) -> None:
        self.number = number
        self.is_folder = is_folder
        self.names: dict[str, Node] = {}
        self.kept: dict[str, Node] = {}  # The durable names.
        self.content = bytearray()
        self.durable = bytearray()
        self.changes: list[Change] = []
        self.modified = self.synced = now  # When the content was changed, and when that was when it was synced.
        self.holders: dict[int, bool] = {}  # Descriptors that hold its lock; whether alone.


Naming = tuple[tuple[Node, str, Node | None], ...]
"""What became of names, at once: (folder, name, what has the name now)."""


class Volume:
    """All of it."""

    def __init__(self) -> None:
        self.now = 1  # A clock that ticks at each change.
        self._numbers = 0
        self.root = self.new_node(is_folder=True)
        self._namings: list[Naming] = []  # Those that are not durable, in order.

    def new_node(self, *, is_folder: bool) -> Node:
        """A file, or a folder, without a name."""
        self._numbers += 1
        return Node(self._numbers, is_folder=is_folder, now=self.now)

    @property
    def size(self) -> int:
        """The bytes in files that have names."""
        return sum(len(node.content) for node in self.nodes())

    # Changes -----------------------------------------------------------------------------------------------------------

    def change(self, node: Node, at: int, data: bytes | None) -> None:
        """Write into a file, or cut it off (None)."""
        self.now += 1
        change = Change(at, data)
        _apply(node.content, change)
        node.changes.append(change)
        node.modified = self.now

    def name(self, *naming: tuple[Node, str, Node | None]) -> None:
        """Give names, or take them, all at once."""
        self.now += 1
        _give(naming, visible=True)
        self._namings.append(naming)

    def sync(self, node: Node) -> None:
        """Make durable what is in a file, or the names in a folder with all that they follow from."""
        if not node.is_folder:
            for change in node.changes:
                _apply(node.durable, change)
            node.changes.clear()
            node.synced = node.modified
            return
        folders, kept = {node.number}, []
        for naming in reversed(self._namings):
            concerned = {folder.number for folder, _, _ in naming}
            if concerned & folders:
                folders |= concerned
                kept.append(naming)
        for naming in reversed(kept):
            _give(naming, visible=False)
        chosen = {id(naming) for naming in kept}
        self._namings = [naming for naming in self._namings if id(naming) not in chosen]

    def lose(self, node: Node) -> None:
        """A sync has failed: what was to be written never is, and everybody sees it all the same."""
        node.changes.clear()

    # Another life ------------------------------------------------------------------------------------------------------

    def copied(self) -> Volume:
        """The same once more: what is left when only the program dies. Nobody has a lock any more."""
        left = copy.deepcopy(self)
        for node in left.nodes():
            node.holders.clear()
        return left

    def after_power_failure(self, chance: random.Random) -> Volume:
        """What a power failure now leaves."""
        left = self.copied()
        survival = chance.choice(CHANCES)
        lost: set[int] = set()
        for naming in left._namings:
            concerned = {folder.number for folder, _, _ in naming}
            if concerned & lost or chance.random() >= survival:
                lost |= concerned
            else:
                _give(naming, visible=False)
        left._namings.clear()
        for node in left.nodes(durable=True):
            node.names = dict(node.kept)
            if node.changes:
                node.content = _survived(node, chance)
                node.modified = chance.choice((node.modified, node.synced))
                node.changes.clear()
            else:
                node.content = bytearray(node.durable)  # Less than was seen, if a sync had failed.
                node.modified = node.synced
            node.durable, node.synced = bytearray(node.content), node.modified
        return left

    def nodes(self, *, durable: bool = False) -> Iterator[Node]:
        """All that have names (or durable ones), each once, in an order that follows from the names."""
        seen: set[int] = set()
        left = [self.root]
        while left:
            node = left.pop()
            if node.number not in seen:
                seen.add(node.number)
                yield node
                left += [
                    each for _, each in sorted((node.kept if durable else node.names).items(), key=lambda item: item[0])
                ]


def _give(naming: Naming, *, visible: bool) -> None:
    for folder, name, node in naming:
        names = folder.names if visible else folder.kept
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _apply(content: bytearray, change: Change) -> None:
    at, data = change
    if at > len(content):
        content.extend(bytes(at - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at : at + len(data)] = data


def _survived(node: Node, chance: random.Random) -> bytearray:
    """What is in a file whose last changes were not synced: each sector as it was after some of them."""
    content, changes = bytearray(node.durable), node.changes
    junk = chance.random() < 0.25  # Blocks that were given to a file and not written hold zeros, or anything.
    how = chance.choice(("none", "all", "prefix", "some", "sectors", "all but one"))
    share = chance.random()
    spared = chance.randrange(len(changes))
    cuts: dict[int, int] = {}

    def cut(sector: int, index: int) -> int:
        """How many changes a sector has seen; `index` is the first that touches it."""
        match how:
            case "none" | "all":
                return 0 if how == "none" else len(changes)
            case "prefix":
                return spared + (chance.random() < share)
            case "sectors":
                return chance.randint(index, len(changes))
            case "some":
                return len(changes) if chance.random() < share else index
            case _:
                missed = changes[spared]
                end = missed.at + len(missed.data or b"")
                touches = missed.at < (sector + 1) * SECTOR_BYTES and sector * SECTOR_BYTES < end
                return spared if touches else len(changes)

    for index, (start, data) in enumerate(changes):
        if data is None:
            if index < cut(-1, index):
                _apply(content, Change(start, None))
            continue
        begin, end = start, start + len(data)
        while begin < end:
            sector = begin // SECTOR_BYTES
            stop = min(end, (sector + 1) * SECTOR_BYTES)
            if sector not in cuts:
                cuts[sector] = cut(sector, index)
            if index < cuts[sector]:
                _apply(content, Change(begin, data[begin - start : stop - start]))
            elif junk and begin >= len(content):
                _apply(content, Change(begin, chance.randbytes(stop - begin)))
            begin = stop
    return content
