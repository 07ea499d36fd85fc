"""Plays a plan: one process after another of the program, on one journal, until everything is at rest.

Owns the driving of a history: when what is handed in, hurt, and started anew. Promises: the same plan gives the same
history, byte for byte; the program's own system is not touched; whatever goes wrong is a violation, and ends no search.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pykka import ActorRegistry
from pykka.messages import ProxyCall

from seqtor.actors.dispatchers.handler_threads import HandlerStands
from seqtor.actors.dispatchers.simulated import NothingCanHappen
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.errors import NotRunning
from seqtor.messages.runs import State
from seqtor.snapshots import Snapshot
from seqtor.system import Supervisor
from seqtor.testing.checkers.evidence import Evidence, Violation
from seqtor.testing.checkers.order import standing_publications
from seqtor.testing.checkers.watch import CHECKERS, Watch
from seqtor.testing.given import NotGiven
from seqtor.testing.instead import NOTHING_GIVEN, StandIns
from seqtor.testing.running import NotSettled, SystemUnderTest
from seqtor.testing.settling import Work
from seqtor.testing.simulating.plan import DEATH, Followed, Handed, Plan

__all__ = ["CRASHED", "RAISED", "STANDS", "STUCK", "Injected", "Invariant", "Played", "play", "targets_of"]

Invariant = Callable[[Snapshot], Any]

STEPS_MAX, STEPS_PER_TRIGGER = 10_000, 500  # Far more than it takes: what never comes to rest is found soon.
WAIT_S = 3600.0  # So long retries and delays are waited for when all has been handed in.
OFTEN = {"restart_intensity": 1_000_000}
REAL_WAIT_S = 10.0  # So long a handler may take to its next operation, even on a busy machine.
STUCK, CRASHED, RAISED, STANDS = "stuck", "crashed", "raised", "stands"


class Injected(NamedTuple):
    """A note: what the plan did."""

    text: str


class Played(NamedTuple):
    """What a plan came to. `switches` are the steps in which somebody else went than who had waited longest."""

    plan: Plan
    violations: tuple[Violation, ...]
    evidence: Evidence
    switches: frozenset[int]
    virtual_s: float
    steps: int
    crashes: int
    processes: int

    @property
    def states(self) -> Counter[State]:
        """How the runs have ended, by state."""
        return Counter(each.run.state for each in self.evidence.ended.values())


def targets_of(system: Supervisor) -> tuple[str, ...]:
    """The actors of a system that may be hurt, by name."""
    stores = [f"store {ref.name}" for ref in system._stores.refs]
    around = ["effects"] if len(system._effects) else []
    return ("sequencer", "coordinator", "committer", "journal", *around, *stores)


def play(
    system: Supervisor,
    plan: Plan,
    *,
    instead: StandIns = NOTHING_GIVEN,
    invariants: Sequence[Invariant] = (),
    look: Callable[[], None] = lambda: None,
) -> Played:
    """Play a history and have it judged by all checkers and the program's invariants.

    Raises NotGiven for something outside that nothing stands in for, if `instead` notes what is missing.
    """
    return History(system, plan, instead, look).play(invariants)


class SeededBackend(MemoryBackend):
    """A journal whose identity follows from the seed: the ids and the random numbers of runs do, too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._journal_id = random.Random(f"journal {seed}").randbytes(16).hex()


class History:
    """One history while it is played."""

    def __init__(self, system: Supervisor, plan: Plan, instead: StandIns, look: Callable[[], None]) -> None:
        self._program = system
        self._plan = plan
        self._instead = instead
        self._look = look
        self._backend = SeededBackend(plan.seed)
        self._watch = Watch()
        self._faults = list(plan.faults)
        self._steps = 0  # Of all processes.
        self._explored = 0
        self._switches: set[int] = set()
        self._crashes = self._kills = 0
        self._found: list[Violation] = []
        self._desk: SystemUnderTest
        self._explorer: Followed

    def play(self, invariants: Sequence[Invariant]) -> Played:
        """Play it to its end."""
        try:
            try:
                self._begin(0.0)
                self._drive()
                self._come_to_rest()
            except (NothingCanHappen, NotSettled, NotRunning) as stuck:
                self._found.append(Violation(STUCK, None, self._why_stuck(stuck)))
            except HandlerStands as stands:
                self._found.append(Violation(STANDS, None, str(stands)))
            except Exception as error:  # At a start, or where the runtime looks at itself.
                self._raised(error)
            self._look()
            self._look_for_crashes()
            self._raise_what_is_missing()
            evidence = self._watch.evidence()
            if not self._found:
                self._judge(evidence, invariants)
            self._take_switches()
            clock = self._desk.dispatchers.clock
            return Played(
                self._plan, tuple(self._found), evidence, frozenset(self._switches), clock.monotonic(), self._steps,
                self._crashes, len(self._watch.lives),
            )  # fmt: skip
        finally:
            self._end()

    # Processes -----------------------------------------------------------------------------------------------------

    def _begin(self, now_s: float) -> None:
        plan, life = self._plan, len(self._watch.lives)
        made: list[Followed] = []

        def explorer(source: random.Random) -> Followed:
            made.append(plan.explorer(source))
            return made[0]

        settings = self._program.settings.model_copy(update={**OFTEN, "max_in_flight": plan.max_in_flight})
        self._desk = desk = SystemUnderTest(
            self._program, plan.seed * 100 + life, None, plan.lateness, instead=self._instead, journal=self._backend,
            settings=settings, explorer=explorer,
        )  # fmt: skip
        self._explorer = made[0]
        self._explorer.count_from(self._explored)
        dispatchers = desk.dispatchers
        dispatchers.threads = plan.threads
        dispatchers.handlers.patience_s = REAL_WAIT_S
        dispatchers.limit(STEPS_MAX + STEPS_PER_TRIGGER * len(plan.handed))
        dispatchers.clock.advance_to(now_s)
        self._watch.follow(desk)
        self._kills = 0
        self._others = {ref.actor_urn for ref in ActorRegistry.get_all()}
        desk.start()

    def _die(self) -> None:
        """The process is gone with all that it had in memory; the next one begins on what is durable."""
        self._watch.notes.append(Injected(f"process {len(self._watch.lives)} dies"))
        self._look_for_crashes()
        now_s = self._desk.dispatchers.clock.monotonic()
        self._take_switches()
        self._end()
        self._begin(now_s)

    def _end(self) -> None:
        """Let go of a process without a word to its journal."""
        if not self._watch.lives:
            return  # It was ended before there was one.
        life = self._watch.lives[-1]
        life.notes = []  # What its coroutines still do as they are cancelled has not happened.
        self._backend.close()
        self._desk._users.stop(0)
        self._desk.dispatchers.stop(1.0)
        for ref in ActorRegistry.get_all():
            if ref.actor_urn not in self._others:
                ActorRegistry.unregister(ref)

    def _take_switches(self) -> None:
        self._switches |= self._explorer.switched
        self._explored = self._explorer.steps

    # Driving -------------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        handed = list(reversed(self._plan.handed))
        next_step, next_s, wait_until_s = 0, 0.0, 0.0
        while True:
            self._look()
            self._hurt()
            dispatchers = self._desk.dispatchers
            now_s = dispatchers.clock.monotonic()
            if handed and self._steps >= next_step and now_s >= next_s:
                each: Handed = handed.pop()
                self._desk.submit(each.trigger)
                next_step, next_s = self._steps + each.steps, now_s + each.pause_s
                wait_until_s = next_s + WAIT_S
                continue
            if not handed and not self._is_busy(wait_until_s):
                return
            self._steps += 1
            if not dispatchers.step():
                if not handed:
                    return
                next_step, next_s = self._steps, now_s  # Nothing happens before the next one comes.
            self._raise_what_is_missing()

    def _is_busy(self, until_s: float) -> bool:
        """Whether anything goes on, or waits for a time that will be waited for."""
        running = self._desk._require_running()
        work = Work(running)
        return work.left() or (work.waits() and self._desk.dispatchers.clock.monotonic() < until_s)

    def _come_to_rest(self) -> None:
        while self._faults and self._faults[0].target == DEATH:  # Later than all: the next process finds everything.
            self._faults.pop(0)
            self._die()
        self._desk.settle()

    def _hurt(self) -> None:
        while self._faults and self._faults[0].step <= self._steps:
            fault = self._faults.pop(0)
            if fault.target == DEATH:
                self._die()
                continue
            ref = self._actor(fault.target)
            if ref is not None:
                self._crashes += 1
                self._kills += 1
                self._watch.notes.append(Injected(f"the actor {fault.target!r} crashes"))
                # A message that it cannot handle: an exception in the actor, whatever it is.
                ref.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))

    def _actor(self, target: str) -> Any:
        running: Any = self._desk._require_running()
        if target.startswith("store "):
            names = [ref.name for ref in running._stores]
            return running._cell_refs[names.index(target.removeprefix("store "))]
        if target == "journal":
            return running.journal.ref
        if target == "effects":
            return running._effects.ref
        return running._path.refs[("committer", "coordinator", "sequencer").index(target)]

    # Judging -------------------------------------------------------------------------------------------------------

    def _judge(self, evidence: Evidence, invariants: Sequence[Invariant]) -> None:
        for judge in CHECKERS.values():
            try:
                self._found += judge(evidence, self._desk)
            except Exception as error:  # What is recorded cannot even be executed again.
                self._raised(error)
        self._found += self._broken(evidence, invariants)

    def _raised(self, error: Exception) -> None:
        self._found.append(Violation(RAISED, None, f"{type(error).__name__}: {error}"))

    def _why_stuck(self, stuck: Exception) -> str:
        running: Any = self._desk._running
        if running is not None and running._broken is not None:
            return f"the system broke down: {running._broken}"
        return "\n".join([str(stuck), *getattr(stuck, "__notes__", ())])

    def _look_for_crashes(self) -> None:
        running: Any = self._desk._running
        restarts = 0 if running is None else running._ledger.restarts
        if restarts > self._kills:
            text = f"{restarts} actors crashed in process {len(self._watch.lives)}, of which the plan has hurt {self._kills}"
            self._found.append(Violation(CRASHED, None, text))

    def _raise_what_is_missing(self) -> None:
        if self._instead.missing:
            raise NotGiven(self._instead.missing[0])

    def _broken(self, evidence: Evidence, invariants: Sequence[Invariant]) -> Iterator[Violation]:
        """The program's own invariants, at every state that was visible and stands; of each the first that breaks it."""
        stores = self._desk._every_store
        for invariant in invariants:
            for publication in standing_publications(evidence):
                text = _why_broken(invariant, Snapshot(publication.seq, publication.states, stores))
                if text is not None:
                    name = getattr(invariant, "__name__", repr(invariant))
                    yield Violation(
                        f"invariant {name}", publication.seq, f"does not hold after seq {publication.seq}{text}"
                    )
                    break


def _why_broken(invariant: Invariant, snapshot: Snapshot) -> str | None:
    try:
        holds = invariant(snapshot)
    except Exception as error:  # An assertion, or what the program's code makes of a state that cannot be.
        return f": {type(error).__name__}: {error}"
    return None if holds is None or holds is True else f": it returned {holds!r}"
