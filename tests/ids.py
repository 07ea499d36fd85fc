"""Ids of parametrized tests: the same in every process, so that several can share the tests.

Owns `shown`.
"""

from __future__ import annotations

import re

__all__ = ["shown"]

ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def shown(value: object) -> str:
    """The repr of a parameter without the addresses in it."""
    return ADDRESS.sub("", repr(value))
