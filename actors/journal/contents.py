"""What the built-in stores hold, as JSON: from checkpoints and records alone, without the program's code.

Owns the reading of their stored forms. Promises: values are given out as they were written, in the form of their time; of a
store of the user's own nothing is said but that its code is needed.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from seqtor.actors.journal.recovery import open_work, store_section, writes_by_store

__all__ = ["Contents", "Plain"]


class Plain(NamedTuple):
    """One store: `kind` is "collection" (values by key), "document" (values by field) or "custom" (not readable here)."""

    kind: str
    shape: str
    version: int
    values: dict[str, Any]


class Contents:
    """The stores after one seq, by name. `fold` moves them behind the next record."""

    def __init__(self, seq: int, sections: dict[str, bytes], place: str) -> None:
        self.stores: dict[str, Plain] = {}
        if sections:
            for name, shape in open_work(sections, seq, place).shapes.items():
                data = sections.get(store_section(name))
                self.stores[name] = _plain(data, shape) if shape and data is not None else Plain("custom", shape, 0, {})

    def fold(self, record: dict[str, Any]) -> None:
        """Take a record (as parsed JSON) into account."""
        for name, writes in writes_by_store(record).items():
            store = self.stores.setdefault(name, Plain("custom", "", 0, {}))
            for key, value, _ in writes:
                if store.kind == "collection" and value is None:
                    store.values.pop(key, None)
                elif store.kind != "custom":
                    store.values[key] = value

    def difference(self, later: Contents) -> tuple[str, str] | None:
        """The first (store, key) in which `later` holds something else; only of stores kept in the same form."""
        for name, store in self.stores.items():
            other = later.stores.get(name)
            if other is None or store.kind == "custom" or (store.kind, store.shape) != (other.kind, other.shape):
                continue
            for key in sorted(store.values.keys() | other.values.keys()):
                if _in_order(store.values.get(key)) != _in_order(other.values.get(key)):
                    return name, key
        return None


def _plain(data: bytes, shape: str) -> Plain:
    head, newline, body = data.partition(b"\n")
    kept = json.loads(head)
    if newline:
        values = json.loads(body)
        return Plain("collection", shape, kept["version"], {key: values[key] for key in sorted(values)})
    return Plain("document", shape, kept["version"], kept["value"])


def _in_order(value: Any) -> Any:
    """The value with its arrays in an order of their own: that of a set depends on the process that wrote it."""
    if isinstance(value, list):
        return sorted(map(_in_order, value), key=json.dumps)
    if isinstance(value, dict):
        return {key: _in_order(part) for key, part in value.items()}
    return value
