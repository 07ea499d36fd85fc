"""Edits from outside: somebody else has changed what a store keeps in a file or a table.

Owns the trigger type by which a store brings them into the order. Promises: what was found outside is in its payload, so it
is in the journal whatever the handler makes of it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from seqtor.messages.triggers import Trigger

__all__ = ["OutsideEdit", "decoded", "encoded"]


class OutsideEdit(Trigger[None], name="seqtor.outside_edit"):
    """Somebody else has given a key of a store another content, or has deleted it (`content` is None).

    The store submits it. It takes a seq like every trigger, and by default the store adopts the content. A program that
    registers a handler of its own decides itself; once it has ended the store writes what it then holds.
    """

    store: str
    key: str
    content_json: str = "null"

    @property
    def content(self) -> Any:
        """What was found outside: JSON or bytes, in the form of a write's op; None if the key is gone."""
        return decoded(json.loads(self.content_json))


def encoded(value: Any) -> Any:
    """JSON or bytes as JSON: bytes as {"$bytes": base64}, keys that begin with $ escaped."""
    if type(value) is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if type(value) is list:
        return [encoded(part) for part in value]
    if type(value) is dict:
        return {f"${key}" if key.startswith("$") else key: encoded(part) for key, part in value.items()}
    return value


def decoded(value: Any) -> Any:
    """What `encoded` made JSON of."""
    if type(value) is list:
        return [decoded(part) for part in value]
    if type(value) is dict:
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        return {key.removeprefix("$"): decoded(part) for key, part in value.items()}
    return value
