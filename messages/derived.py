"""Derived stores: what their functions are told, and the trigger by which one is held against its sources.

Owns the form of a change of a source, the trigger type that reconciles, what it answers, and the codes of its alarms.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from seqtor.messages.models import Record
from seqtor.messages.triggers import Trigger

__all__ = ["DRIFT", "GUARD", "ReconcileDerived", "Reconciled", "SourceChange"]

DRIFT = "seqtor.drift"
GUARD = "seqtor.guard"


class SourceChange(NamedTuple):
    """One key of a source that a commit has changed: `old` and `new` are its values, None where it is absent.

    Of a document the key is the name of a field.
    """

    store: str
    key: str
    old: Any
    new: Any


class Reconciled(Record):
    """What became of a derived store when it was held against its sources.

    `same`: it was what its sources give. `healed`: it was not, or could not be read, and is now; `fields` says in what.
    `refused`: the sources lost more than half of what is counted since the last time, from `before` to `counted`, and
    nothing was changed. `unreadable`: the function raised; `why` says what.
    """

    outcome: Literal["same", "healed", "refused", "unreadable"]
    fields: tuple[str, ...] = ()
    before: int | None = None
    counted: int | None = None
    why: str = ""


class ReconcileDerived(Trigger[Reconciled], name="seqtor.reconcile_derived"):
    """The derived store is computed anew from its sources, compared, and healed where it differs.

    Rejected if there is no derived store of this name. `accept_loss`: do so even if the sources have lost more than half of
    what is counted, and count from there.
    """

    derived: str
    accept_loss: bool = False
