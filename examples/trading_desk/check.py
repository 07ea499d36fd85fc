"""The self check: what the runtime did in parallel, compared with the plain loop, to the last digit.

Owns the verdict. The triggers are carried out again one after another, in the order of the seqs that the runtime
assigned, whatever that order was; every outcome, and the final state of every store, must be equal. All of it is
integers, so equal means equal. A second look needs no yardstick: the money must be the capital, plus every profit,
less what is invested.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqtor import Record

from .feed import Run
from .records import CAPITAL_E5, USD, Account, State
from .serial import SerialDesk


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first difference found (None: there is none), and what the comparison covered."""

    difference: str | None
    runs: int
    records: int
    elapsed_s: float
    """How long the plain loop took."""


def check(runs: Sequence[Run], state: State) -> Verdict:
    """Compare the runs, in seq order, and the state after them with the plain loop's."""
    begun_s = time.perf_counter()
    serial = SerialDesk()
    outcomes = [serial.run(run.trigger) for run in runs]
    elapsed_s = time.perf_counter() - begun_s
    difference = (
        _gap(runs)
        or _difference_in_outcomes(runs, outcomes)
        or _difference_in_state(state.books(), serial.state().books())
        or _difference_in_money(state)
    )
    records = sum(len(book) for book in state.books().values())
    return Verdict(difference=difference, runs=len(runs), records=records, elapsed_s=elapsed_s)


def _gap(runs: Sequence[Run]) -> str | None:
    for expected, run in enumerate(runs, start=1):
        if run.seq != expected:
            return f"the order has a gap or a double: expected seq {expected}, got {run.seq} ({run.trigger!r})"
    return None


def _difference_in_outcomes(runs: Sequence[Run], outcomes: Sequence[object]) -> str | None:
    for run, outcome in zip(runs, outcomes, strict=True):
        if run.outcome != outcome:
            return f"seq {run.seq}: the runtime gave {run.outcome!r}, the plain loop {outcome!r}, for {run.trigger!r}"
    return None


def _difference_in_state(
    parallel: Mapping[str, Mapping[str, Record]], serial: Mapping[str, Mapping[str, Record]]
) -> str | None:
    for store in sorted(parallel.keys() | serial.keys()):
        ours, theirs = parallel.get(store, {}), serial.get(store, {})
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                return f"{store}[{key!r}]: the runtime has {ours.get(key)!r}, the plain loop {theirs.get(key)!r}"
    return None


def _difference_in_money(state: State) -> str | None:
    account = state.accounts[USD]
    reserved_e5 = sum(order.reserve_e5 for order in state.orders.values() if order.approved)
    invested_e5 = sum(position.cost_e5 for position in state.positions.values())
    profit_e5 = sum(score.profit_e5 for score in state.scores.values())
    expected = Account(balance_e5=CAPITAL_E5 + profit_e5 - invested_e5, reserved_e5=reserved_e5)
    return None if account == expected else f"the books do not balance: expected {expected!r}, found {account!r}"
