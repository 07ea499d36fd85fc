"""The stand-in for an exchange: it places an order once, however often it is told to under the same key.

Owns a file with one JSON line per order. Promises: an order that was placed is on disk, and is known after a restart, so
that the same key gets the same reference.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from .records import PlaceOrder

__all__ = ["Exchange"]


class Exchange:
    """The exchange. Thread-safe: effects are carried out on several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._references: dict[str, str] = {placed["key"]: placed["reference"] for placed in map(json.loads, lines)}

    def place(self, key: str, order: PlaceOrder) -> str:
        """Place the order, unless it was placed under this key before; returns its reference."""
        with self._lock:
            known = self._references.get(key)
            if known is not None:
                return known
            reference = f"X-{len(self._references) + 1}"
            line = json.dumps({"key": key, "reference": reference, **order.model_dump()}) + "\n"
            with self._path.open("ab", buffering=0) as orders:  # One write, so that a kill leaves a whole line or none.
                orders.write(line.encode())
                os.fsync(orders.fileno())
            self._references[key] = reference
            return reference
