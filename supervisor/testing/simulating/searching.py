"""`simulate`: plays the histories of many seeds of a program, and tells of the first that fails, made small.

Owns what one seed comes to. Promises: a seed's finding is the same wherever and with whatever others it is played.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from seqtor.actors.registering import require_function
from seqtor.messages.errors import RegistrationError, UnknownTrigger
from seqtor.messages.triggers import Trigger
from seqtor.system import Supervisor
from seqtor.testing.checkers.evidence import Violation
from seqtor.testing.instead import StandIns
from seqtor.testing.simulating.drawing import drawn
from seqtor.testing.simulating.plan import Plan, Workload, make_plan
from seqtor.testing.simulating.playing import STANDS, Invariant, Played, play, targets_of
from seqtor.testing.simulating.shrinking import shrink
from seqtor.testing.simulating.telling import told

__all__ = [
    "TRIES", "TRIGGERS", "Failing", "Finding", "Program", "Simulated", "Sizes", "WrongWorkload",
    "require_invariant", "require_workload", "simulate",
]  # fmt: skip

TRIGGERS = 40
TRIES = 200
HOLDS_AGAIN = (
    "played again it holds: handlers keep something outside of stores. Keep it in a store, or name a function that makes "
    "the system, and that with it (bank:make_system)"
)


class WrongWorkload(Exception):
    """A workload gives what cannot be handed in, or raises; the cause is what it has raised."""


def require_workload(function: Any, place: str) -> None:
    """Raise RegistrationError unless this can be a workload."""
    _require_plain(function, f"{place} is async: a workload is a plain function that returns or yields triggers")
    require_function(function, place, 1, "a random.Random alone")


def require_invariant(function: Any, place: str) -> None:
    """Raise RegistrationError unless this can be an invariant."""
    _require_plain(function, f"{place} is async: an invariant is a plain function that looks at a snapshot")
    require_function(function, place, 1, "a snapshot alone")


def _require_plain(function: Any, otherwise: str) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(otherwise)


class Simulated(NamedTuple):
    """What one seed came to: counts, and what did not hold."""

    seed: int
    violations: tuple[Violation, ...]
    seqs: int
    states: Counter[str]
    crashes: int
    processes: int
    steps: int
    virtual_s: float

    @property
    def stands(self) -> bool:
        """Whether a handler stood still in real time: each further play of it would cost seconds."""
        return _stands(self.violations)


class Sizes(NamedTuple):
    """How large a history was before it was made smaller, and is now."""

    triggers: tuple[int, int]
    faults: tuple[int, int]
    switches: tuple[int, int]


class Finding(NamedTuple):
    """A history that fails: its lines, and how much smaller it was made; None: it is only said what does not hold."""

    seed: int
    violations: tuple[Violation, ...]
    lines: tuple[str, ...]
    sizes: Sizes | None = None


class Program:
    """A program as it is simulated. `make` gives the system, for each history: the same one, or a new one.

    `workload` gives the triggers (default: drawn from the schemas of all that have handlers), `triggers` of them at most.
    `look` is called between the steps of every history: what it raises ends it. Raises RegistrationError for a workload or
    an invariant that is async, or is called with something else.
    """

    def __init__(
        self,
        make: Callable[[], Supervisor],
        workload: Workload | None = None,
        *,
        triggers: int = TRIGGERS,
        instead: Callable[[], StandIns] = StandIns,
        invariants: Sequence[Invariant] = (),
        look: Callable[[], None] = lambda: None,
    ) -> None:
        if workload is not None:
            require_workload(workload, "the workload")
        for invariant in invariants:
            require_invariant(invariant, f"the invariant {getattr(invariant, '__name__', invariant)}")
        self._make = make
        self._workload = workload
        self._triggers = triggers
        self._instead = instead
        self._invariants = invariants
        self._look = look

    def plan(self, seed: int) -> Plan:
        """What a seed decides. Raises CannotDraw, and WrongWorkload for one that raises or gives what has no handler."""
        system = self._make()
        workload = self._workload
        work = drawn(system) if workload is None else lambda source: _given(workload, source, system)
        plan = make_plan(seed, work, self._triggers, targets_of(system))
        if not plan.handed:
            raise WrongWorkload(f"the workload gives no trigger with seed {seed}: nothing would be looked at")
        return plan

    def repeats(self, seed: int) -> bool:
        """Whether the workload gives the same again for a seed; what is drawn is not looked at."""
        return self._workload is None or repr(self.plan(seed)) == repr(self.plan(seed))

    def play(self, plan: Plan) -> Played:
        """Play it. Raises NotGiven for what is outside and has no stand-in, if that is asked for."""
        return play(self._make(), plan, instead=self._instead(), invariants=self._invariants, look=self._look)

    def simulate(self, seed: int) -> Simulated:
        """Play the history of a seed."""
        played = self.play(self.plan(seed))
        states = Counter({state.value: count for state, count in sorted(played.states.items())})
        return Simulated(
            seed, played.violations, len(played.evidence.ended), states, played.crashes, played.processes, played.steps,
            played.virtual_s,
        )  # fmt: skip

    def find(self, found: Simulated, tries: int = TRIES) -> Finding:
        """A history that has failed, made small with at most so many plays.

        One in which a handler stands is not made smaller. If it holds when it is played again, what did not hold the first
        time and why that can be is all that is told.
        """
        if found.stands:
            return _as_found(found)
        plan = self.plan(found.seed)
        first = self.play(plan)
        if not first.violations:
            return _as_found(found, HOLDS_AGAIN)
        checkers = {first.violations[0].checker}
        stood = False

        def fails(smaller: Plan) -> frozenset[int] | None:
            nonlocal stood
            if stood:  # It is as small as it gets: each further play could cost seconds.
                return None
            played = self.play(smaller)
            stood = _stands(played.violations)
            return played.switches if checkers & {each.checker for each in played.violations} else None

        small = self.play(shrink(plan, fails, tries))
        if not small.violations:
            return _as_found(found, HOLDS_AGAIN)
        sizes = Sizes(
            (len(plan.handed), len(small.plan.handed)),
            (len(plan.faults), len(small.plan.faults)),
            (len(first.switches), len(small.switches)),
        )
        return Finding(found.seed, small.violations, tuple(told(small)), sizes)


def _stands(violations: Sequence[Violation]) -> bool:
    return any(each.checker == STANDS for each in violations)


def _as_found(found: Simulated, *why: str) -> Finding:
    """What was found, without its history."""
    return Finding(found.seed, found.violations, (*[f"FOUND {each}" for each in found.violations], *why))


def _given(workload: Workload, source: random.Random, system: Supervisor) -> Iterator[Trigger[Any]]:
    """What a workload gives, each looked at as it comes: it may never end."""
    try:
        found: Any = workload(source)
        if not isinstance(found, Iterable):
            raise WrongWorkload(
                f"the workload gives {found!r}, expected triggers: return a list of them, or yield them"
            )
        for each in found:
            system._known.handler_of(each)
            yield each
    except WrongWorkload:
        raise
    except UnknownTrigger as unknown:
        raise WrongWorkload(f"the workload: {unknown}") from None
    except Exception as error:
        raise WrongWorkload(f"the workload raises {type(error).__name__}: {error}") from error


class Failing(AssertionError):
    """A history in which something does not hold; the text tells it, made small. `finding` is the same as data.

    Of one that holds when it is played again, the text says what did not hold, and why that can be.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__("\n".join([f"seed {finding.seed} fails:", *finding.lines]))
        self.finding = finding


def simulate(
    system: Supervisor | Callable[[], Supervisor],
    seeds: Iterable[int] = range(20),
    *,
    workload: Workload | None = None,
    invariants: Sequence[Invariant] = (),
    instead: StandIns | None = None,
    triggers: int = TRIGGERS,
) -> list[Simulated]:
    """Play the history of each seed, as `seqtor simulate` does; raise Failing for the first that fails, made small.

    `system` is a system with its registrations, or a function that makes one for each history. `workload(random)` gives the
    triggers, `triggers` of them at most (default: drawn from the schemas). `invariants` are called with the snapshot after
    every seq that was visible: False, or raising, breaks one. What is outside and has no stand-in in `instead` is
    called, opened and carried out as it is, as in `run`.

    Raises RegistrationError for a workload or an invariant that is no plain function of one argument; WrongWorkload for a
    workload that raises, gives nothing, or what has no handler.
    """
    make = (lambda: system) if isinstance(system, Supervisor) else system
    program = Program(
        make, workload, triggers=triggers, instead=lambda: instead or StandIns(), invariants=tuple(invariants)
    )
    played = []
    for seed in seeds:
        found = program.simulate(seed)
        if found.violations:
            raise Failing(program.find(found))
        played.append(found)
    return played
