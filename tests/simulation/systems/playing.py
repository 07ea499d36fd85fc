"""Plays a random system: hands in its triggers, lets its processes live and die, and does to it what users and admins do.

Owns what is known from outside at the end: what was handed in, accepted, answered, cancelled and aborted. Promises: the same
plan plays the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    HandlerFailed,
    KeyReused,
    NotRunning,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    Submission,
    Supervisor,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.schedules import ScheduleRef
from seqtor.testing.settling import Work as WorkLeft
from tests.properties.execution import horizon
from tests.simulation.systems.faults import Crashes, Repeats, SetClock, Troubles, crash_any
from tests.simulation.systems.making import LOOK_S, Made, Outside
from tests.simulation.systems.outsiders import Edits
from tests.simulation.systems.plan import Plan
from tests.simulation.systems.programs import CODES

__all__ = ["EMITTED", "Handed", "Playing"]

STEPS_MAX = 300_000  # Far more than it takes: what never settles fails soon.
SETTLE_S = 40 * 86_400.0
DUE_S = 20.0  # By then the scheduler has looked at the time of day, also if it has just started.
EMITTED = -1  # Instead of the number of a program.


class Handed:
    """One trigger as its caller knows it: `outcome` is (state, value) once that was answered."""

    def __init__(self, submission: Submission[Any], program: int, key: str | None, life: int) -> None:
        self.submission, self.program, self.key, self.life = submission, program, key, life
        self.accepted: Any = None  # A future, if its caller has asked when it is durable.
        self.outcome: tuple[str, Any] | None = None

    @property
    def id(self) -> str:
        return self.submission.id

    @property
    def is_accepted(self) -> bool:
        """Whether its caller was told that it is durable."""
        return self.outcome is not None or (self.accepted is not None and _has_come(self.accepted))

    def look(self) -> None:
        """Note what its caller has been told by now."""
        if self.outcome is None and self.submission.done:
            self.outcome = _outcome_of(self.submission)


def _outcome_of(submission: Submission[Any]) -> tuple[str, Any] | None:
    try:
        return "committed", submission.result(0)
    except Rejected as error:
        return "rejected", str(error)
    except HandlerFailed as error:
        return "failed", str(error.__cause__)
    except DeadlineExceeded:
        return "deadline", None
    except Aborted:
        return "aborted", None
    except Cancelled:
        return "cancelled", None
    except (NotRunning, OutcomeUnknown):
        return None


def _has_come(future: Any) -> bool:
    """Whether it was answered, with no error."""
    if not future.is_set():
        return False
    try:
        future.get(timeout=0)
    except (NotRunning, OutcomeUnknown):
        return False
    return True


class Playing:
    """One history of one system."""

    def __init__(self, plan: Plan, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.plan = plan
        self.outside = Outside(plan, place)
        self.handed: list[Handed] = []
        self.cancelled: set[str] = set()
        self.aborted: set[str] = set()
        self.emitted: dict[str, str] = {}  # Run ids by idempotency key.
        self.crashes = 0
        self.edits = Edits(plan, place)
        self._chance = random.Random(f"play {plan.seed}")
        self._next = 0
        self._elapsed_s = 0.0
        self._shift_s = 0.0
        source = random.Random(f"faults {plan.seed}")
        self._crashed = Crashes(patch)
        self._repeats = Repeats(patch, source, plan.repeats) if plan.repeats else None
        self._troubles = Troubles(patch, source, plan.fails_outside) if plan.fails_outside else None
        self.made: Made
        self.dispatchers: SimulatedDispatchers

    @property
    def system(self) -> Supervisor:
        return self.made.system

    def play(self, check: Callable[[Playing], None]) -> None:
        """Play all lives; `check` is called when the last has settled."""
        with horizon(self.plan.horizon):
            for life in range(self.plan.lives):
                self._begin(life)
                try:
                    self._live(life)
                    if life == self.plan.lives - 1:
                        self._settle()
                        check(self)
                        self.system.stop()
                    else:
                        self._end()
                finally:
                    self._die()
                assert not self._crashed.unasked, f"actors crashed that nobody killed: {self._crashed.unasked}"

    # Lives -----------------------------------------------------------------------------------------------------------

    def _begin(self, life: int) -> None:
        plan = self.plan
        self.dispatchers = SimulatedDispatchers(
            plan.seed * 100 + life, threads=plan.settings["threads"], steps_max=STEPS_MAX, lateness=plan.lateness,
            explorer=EXPLORERS[plan.seed % len(EXPLORERS)], interleaving=plan.interleaving,
        )  # fmt: skip
        self.dispatchers.clock = SetClock(plan.start_s + self._shift_s)
        self.dispatchers.clock.advance_to(self._elapsed_s)
        self.made = Made(plan, self.outside, life, self.dispatchers)
        if self._repeats is not None:
            self._repeats.dispatchers = None  # Until it has started: some actors are not wired before.
        self.system.start()
        if self._repeats is not None:
            self._repeats.dispatchers = self.dispatchers
        if self._troubles is not None:
            self._troubles.on = True

    def _end(self) -> None:
        """Stop in order now and then, or be killed: wherever everything is."""
        if self._chance.random() < 0.3:
            self.system.stop(grace=self._chance.choice((0.0, 1.0, 3_600.0)))
        for each in self.handed:
            if each.life == self.made.life:
                each.look()

    def _die(self) -> None:
        if self._troubles is not None:
            self._troubles.on = False
        if self.outside.backend is not None:
            self.outside.backend.close()
        assert self.dispatchers.drop() == [], "these handlers stand somewhere for ever"
        self.made.let_go()
        clock = self.dispatchers.clock
        self._elapsed_s = clock.monotonic() + self._chance.choice((0.0, 5.0, 4_000.0))
        self.edits.while_down(self._chance)

    def _live(self, life: int) -> None:
        plan, chance = self.plan, self._chance
        until = plan.roots * (life + 1) // plan.lives
        deeds: list[Callable[[], None]] = [self._hand_in] * 30 + [self._step] * 30
        deeds += [self._cancel] * 3 + [self._abort] + [self._emit] * 5 + [self._hand_in_again] * 2
        deeds += [self._pass_time] * 2 + ([self._verb] * 2 if plan.schedules else [])
        deeds += [self._set_clock] * (2 if plan.sets_clock else 0) + [self._edit] * (3 if plan.edits else 0)
        while self._next < until:
            chance.choice(deeds)()

    def _settle(self) -> None:
        """Have everything end that has begun; schedules are paused first, for they never end."""
        self.outside.settled = True
        if self._troubles is not None:
            self._troubles.on = False
        for schedule in self.plan.schedules:
            self._change(schedule.name, self._chance.choice(("pause", "pause", "remove")))
        self._run_down()
        self.dispatchers.run_for(3 * LOOK_S if self.edits.places else DUE_S)
        self._run_down()
        for each in self.handed:
            if each.life == self.made.life:
                each.look()

    def _run_down(self) -> None:
        running: Any = self.system._running
        dispatchers, work = self.dispatchers, WorkLeft(running)
        until = dispatchers.clock.monotonic() + SETTLE_S
        dispatchers.run_to_rest()
        while work.left() or len(running._ledger.waiting_room) or self._effects_left(running):
            assert dispatchers.pass_time(until), f"it does not settle:\n{work.told()}"

    @staticmethod
    def _effects_left(running: Any) -> bool:
        actor = getattr(running._effects, "_actor", None)
        return actor is not None and bool(actor._open)

    # What is done to it ----------------------------------------------------------------------------------------------

    def _hand_in(self) -> None:
        for _ in range(self._chance.choice((1, 1, 2, 8))):
            if self._next < self.plan.roots:
                key = f"key {self._next}" if self._chance.random() < 0.2 else None
                if self._submit(self._next, key):
                    self._next += 1

    def _submit(self, program: int, key: str | None) -> bool:
        chance = self._chance
        delay = chance.choice((0.01, 2.0, 600.0)) if chance.random() < 0.1 else None
        trigger = self.made.trigger(program)
        try:
            submission = self.system.submit(trigger, idempotency_key=key, delay=delay)
        except Overloaded:
            self._step()
            return False
        handed = Handed(submission, program, key, self.made.life)
        if chance.random() < 0.2:
            handed.accepted = submission.accepted()
        self.handed.append(handed)
        return True

    def _hand_in_again(self) -> None:
        """The same under the same key, in this life or a later one; and something else under it, which is refused."""
        known = [each for each in self.handed if each.key is not None]
        if not known:
            return
        before = self._chance.choice(known)
        if self._chance.random() < 0.2 and before.life == self.made.life:
            other = (before.program + 1) % self.plan.roots
            before.look()
            if before.outcome is None or before.outcome[0] != "cancelled":
                with pytest.raises((KeyReused, Overloaded)):
                    self.system.submit(self.made.trigger(other), idempotency_key=before.key)
        else:
            self._submit(before.program, before.key)

    def _emit(self) -> None:
        chance = self._chance
        payload = {"k": chance.choice("xy"), "n": chance.randrange(4)}
        key = f"event {len(self.emitted)}" if chance.random() < 0.3 else None
        try:
            run = self.system.emit(chance.choice(CODES), payload, idempotency_key=key)
        except Overloaded:
            return
        if key is not None:
            self.emitted[key] = run

    def _cancel(self) -> None:
        mine = [each for each in self.handed[-8:] if each.life == self.made.life]
        if mine:
            each = self._chance.choice(mine)
            if each.submission.cancel():
                self.cancelled.add(each.id)

    def _abort(self) -> None:
        mine = [each for each in self.handed[-8:] if each.life == self.made.life and not each.submission.done]
        begun = [each for each in mine if each.submission.seq is not None]
        if begun:
            each = self._chance.choice(begun)
            self.aborted.add(each.id)
            try:
                self.system.abort(each.submission.seq or 0, "enough")
            except (LookupError, ValueError):
                return  # It has ended meanwhile.

    def _verb(self) -> None:
        schedule = self._chance.choice(self.plan.schedules)
        self._change(schedule.name, self._chance.choice(("pause", "resume", "resume", "fire", "remove")))

    def _change(self, name: str, verb: str) -> None:
        ref = ScheduleRef(self.system._schedules, name)
        try:
            getattr(ref, verb)()
        except LookupError:
            return  # It was removed.

    def _edit(self) -> None:
        self.edits.make(self._chance)

    def _set_clock(self) -> None:
        by_s = self._chance.choice((-7_200.0, -3.0, 0.5, 40.0, 4_000.0))
        clock: Any = self.dispatchers.clock
        clock.set_by(by_s)
        self._shift_s += by_s

    def _pass_time(self) -> None:
        self.dispatchers.run_for(self._chance.choice((0.1, 1.0, 30.0, 1_000.0)))

    def _step(self) -> None:
        chance, crashes = self._chance, self.plan.crashes
        for _ in range(chance.choice((1, 10, 40))):
            if crashes and chance.random() < crashes:
                crash_any(self.system, chance)
                self.crashes += 1
            if not self.dispatchers.step():
                return
