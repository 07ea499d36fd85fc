"""`require`: an invariant that is checked always.

A violation crashes the actor that found it, even in the middle of an `ask`: a wrong state must not answer.
"""

from __future__ import annotations

from typing import Any

__all__ = ["InvariantBroken", "require"]


class InvariantBroken(AssertionError):
    """Something that must always hold did not; a defect of seqtor, never of its user."""


def require(condition: object, promise: str, **values: Any) -> None:
    """Raise `InvariantBroken` with the promise and the values unless the condition holds."""
    if not condition:
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise InvariantBroken(f"{promise} ({shown})" if shown else promise)
