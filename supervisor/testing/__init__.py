"""The test kit: handlers without actors, whole systems in virtual time, assertions that say what was near, and suites.

The suites (`StoreContract`, `OutsideStoreContract`, `JournalContract`) need pytest, and are imported when they are asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqtor.testing import faults
from seqtor.testing.asserting import assert_committed
from seqtor.testing.calling import CallResult, call
from seqtor.testing.checkers import CHECKERS, Violated, Violation, Watch, watch
from seqtor.testing.clock import ManualClock
from seqtor.testing.conflicts import force_conflict
from seqtor.testing.firing import assert_fired
from seqtor.testing.given import CallMade, EffectReleased, NotGiven
from seqtor.testing.instead import StandIns
from seqtor.testing.running import Leaked, NotSettled, SeqtorRun, SystemUnderTest, run
from seqtor.testing.simulating.searching import Failing, simulate

if TYPE_CHECKING:
    from seqtor.testing.disk import SimulatedDisk
    from seqtor.testing.journals import JournalContract
    from seqtor.testing.outside import OutsideStoreContract
    from seqtor.testing.stores import StoreContract

__all__ = [
    "CHECKERS",
    "CallMade",
    "CallResult",
    "EffectReleased",
    "Failing",
    "JournalContract",
    "Leaked",
    "ManualClock",
    "NotGiven",
    "NotSettled",
    "OutsideStoreContract",
    "SeqtorRun",
    "SimulatedDisk",
    "StandIns",
    "StoreContract",
    "SystemUnderTest",
    "Violated",
    "Violation",
    "Watch",
    "assert_committed",
    "assert_fired",
    "call",
    "faults",
    "force_conflict",
    "run",
    "simulate",
    "watch",
]

SUITES = {"JournalContract": "journals", "OutsideStoreContract": "outside", "StoreContract": "stores"}
LATE = {**SUITES, "SimulatedDisk": "disk"}  # It needs apsw.


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name in SUITES:
        import pytest

        pytest.register_assert_rewrite(*[f"{__name__}.{module}" for module in SUITES.values()])
    return getattr(importlib.import_module(f"{__name__}.{LATE[name]}"), name)
