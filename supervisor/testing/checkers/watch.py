"""`watch`: a system whose history is noted, and what the checkers say of it.

Owns the list of checkers. Promises: all of them judge, and all that they see is said, in an order that follows from the
history alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from seqtor.messages.errors import RegistrationError
from seqtor.system import Supervisor
from seqtor.testing.checkers.evidence import Evidence, Violation
from seqtor.testing.checkers.order import check_reads, check_serial
from seqtor.testing.checkers.outcomes import (
    check_durable,
    check_effects,
    check_epochs,
    check_real_time,
    check_records,
)
from seqtor.testing.checkers.watching import Life

__all__ = ["CHECKERS", "Violated", "Watch", "watch"]

SHOWN_MAX = 20

CHECKERS: Mapping[str, Callable[[Evidence, Supervisor], Iterable[Violation]]] = MappingProxyType(
    {
        "serial order": check_serial,
        "reads": lambda evidence, _: check_reads(evidence),
        "one record": lambda evidence, _: check_records(evidence),
        "durable answers": lambda evidence, _: check_durable(evidence),
        "effects": lambda evidence, _: check_effects(evidence),
        "one epoch": lambda evidence, _: check_epochs(evidence),
        "real time": lambda evidence, _: check_real_time(evidence),
    }
)
"""The checkers by name."""


class Violated(AssertionError):
    """Something that the runtime promises does not hold; `violations` are all that was seen."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        more = len(violations) - SHOWN_MAX
        lines = [str(each) for each in violations[:SHOWN_MAX]] + ([f"and {more} more"] if more > 0 else [])
        super().__init__("\n".join(lines))
        self.violations = violations


class Watch:
    """The notes of one system, or of several that live one after another on one journal."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.lives: list[Life] = []

    def follow(self, system: Supervisor) -> None:
        """Watch a system from its start on; the next process on the same journal, if others were watched before.

        Raises RegistrationError for one that runs already, or is watched.
        """
        if system._running is not None or system._around.watcher is not None:
            raise RegistrationError(
                f"{system.name!r} runs already, or is watched: watch() comes once, and before the start"
            )
        life = Life(len(self.lives), self.notes, system)
        self.lives.append(life)
        system._around = system._around._replace(watcher=life)

    def evidence(self) -> Evidence:
        """What the notes come to so far."""
        return Evidence(self.lives, tuple(self.notes))

    def violations(self, *checkers: str) -> tuple[Violation, ...]:
        """What does not hold, as these checkers see it (default: all); nothing may be under way.

        Of a system that runs: after `settle()`, or when all has been answered and its effects have ended. The serial oracle
        needs the journal, or in memory the newest runs, and executes the handlers again.
        """
        if not self.lives or self.lives[-1].first is None:
            raise RegistrationError("there is nothing to judge: the system that is watched has not been started")
        unknown = [name for name in checkers if name not in CHECKERS]
        if unknown:
            raise LookupError(f"there is no checker {unknown[0]!r}; there are {', '.join(map(repr, CHECKERS))}")
        evidence, system = self.evidence(), self.lives[-1].system
        return tuple([each for name in checkers or CHECKERS for each in CHECKERS[name](evidence, system)])

    def check(self, *checkers: str) -> None:
        """Raise Violated with all `violations`, if there are any."""
        violations = self.violations(*checkers)
        if violations:
            raise Violated(violations)


def watch(system: Supervisor) -> Watch:
    """Note all that a system does from its start on, and let the checkers judge it: `watch(system).check()` at its rest.

    Works on simulated systems (`run(...)`) and on real ones; it keeps everything in memory, so it is for tests. Raises
    RegistrationError for a system that runs already.
    """
    noted = Watch()
    noted.follow(system)
    return noted
