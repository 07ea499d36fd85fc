"""Transactions that give way to others before each operation; for simulations.

Owns the place where a handler that is executed step by step stands between two steps. Costs nothing where it is not used:
a transaction of the same layout takes the place of the class, for the attempts that are to give way.
"""

from __future__ import annotations

from typing import Any

from seqtor.actors.transactions import Transaction

__all__ = ["interleave"]


class GivesWay:
    """What is looked at before each operation of `tx` and of its views."""

    __slots__ = ()

    def check(self) -> None:
        """As a transaction's; others may go before."""
        self._give_way()
        super().check()  # type: ignore[misc]

    def _access(self, store: Any) -> Any:
        self._give_way()
        return super()._access(store)  # type: ignore[misc]

    def _give_way(self) -> None:
        owner = self._owner  # type: ignore[attr-defined]
        if owner is not None:  # Else its handler has returned, and the operation is refused.
            owner._dispatcher.give_way()


GIVING_WAY: dict[type[Transaction], type[Transaction]] = {}  # By the kind that does not.


def giving_way(kind: type[Transaction]) -> type[Transaction]:
    """The same kind of transaction, which gives way."""
    found = GIVING_WAY.get(kind)
    if found is None:
        found = GIVING_WAY[kind] = type(kind.__name__, (GivesWay, kind), {"__slots__": (), "__module__": __name__})
    return found


def interleave(attempt: object) -> None:
    """Let the operations of an attempt give way from here on; its run's dispatcher says to whom."""
    if isinstance(attempt, Transaction):
        attempt.__class__ = giving_way(type(attempt))
