"""Plays a random system: hands in its triggers, lets its processes live and die, and does to it what users and admins do.

Owns what is known from outside at the end: what was handed in, accepted, answered, cancelled and aborted. Promises: the same
plan plays the same. Deeds are drawn while they are done, and noted: a plan that has them plays the same again, and a part of
them is a history, too; what it needs and does not find is not done.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtor import KeyReused, Overloaded, Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.journal.held import HeldRuns
from seqtor.messages.runs import RunsEnded
from seqtor.schedules import ScheduleRef
from seqtor.testing.settling import Work as WorkLeft
from tests.properties.execution import horizon
from tests.simulation.deeds import Deed, add
from tests.simulation.systems.faults import Crashes, Repeats, SetClock, Troubles, actors_of, crash
from tests.simulation.systems.handed import Handed
from tests.simulation.systems.making import LOOK_S, Made, Outside
from tests.simulation.systems.outsiders import Edits
from tests.simulation.systems.plan import Plan
from tests.simulation.systems.programs import CODES
from tests.simulation.telling import note

__all__ = ["Playing"]

STEPS_MAX = 300_000  # Far more than it takes: what never settles fails soon.
SETTLE_S = 40 * 86_400.0
DUE_S = 20.0  # By then the scheduler has looked at the time of day, also if it has just started.
TO_RUNS = ("cancel", "abort", "hand in another")
QUIET = ("step", "hand in", "ask for acceptance", "end", "begin", "die")  # What tells of itself, or need not be told.


class Playing:
    """One history of one system. `deeds` are what was done to it so far."""

    def __init__(self, plan: Plan, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.plan = plan
        self.outside = Outside(plan, place)
        self.deeds: list[Deed] = []
        self.handed: list[Handed] = []
        self.cancelled: set[str] = set()
        self.aborted: set[str] = set()
        self.emitted: dict[str, str] = {}  # Run ids by idempotency key.
        self.appended: dict[int, None] = {}  # The seqs of a system in memory, in the order in which they have ended.
        self.crashes = 0
        self.edits = Edits(plan, place)
        self._chance = random.Random(f"play {plan.seed}")
        self._next = 0
        self._number = 0  # Of what is handed in next, also if it is refused.
        self._by_number: dict[int, Handed] = {}
        self._life = 0
        self._is_up = False
        self._ends: dict[str, str] = {}  # How each schedule ends.
        self._elapsed_s = 0.0
        self._shift_s = 0.0
        source = random.Random(f"faults {plan.seed}")
        self._note_appended(patch)
        self._crashed = Crashes(patch)
        self._repeats = Repeats(patch, source, plan.repeats) if plan.repeats else None
        self._troubles = Troubles(patch, source, plan.fails_outside) if plan.fails_outside else None
        self.made: Made
        self.dispatchers: SimulatedDispatchers
        self._how: dict[str, Callable[..., Any]] = {
            "begin": self._begin, "die": self._die_and_rest, "step": self._step, "hand in": self._hand_in,
            "ask for acceptance": self._ask, "hand in another": self._hand_in_another, "emit": self._emit,
            "cancel": self._cancel, "abort": self._abort, "change": self._change, "edit": self.edits.make,
            "set the clock": self._set_clock, "pass": self._pass, "crash": self._crash, "end": self._ends.__setitem__,
        }  # fmt: skip

    def _note_appended(self, patch: pytest.MonkeyPatch) -> None:
        """Who overtakes whom is in the records of a journal, and nowhere in memory."""
        keep = HeldRuns.keep

        def noting(held: HeldRuns, message: RunsEnded, states: tuple[Any, ...]) -> None:
            self.appended.update(dict.fromkeys(ended.seq for ended in message.runs))
            keep(held, message, states)

        patch.setattr(HeldRuns, "keep", noting)

    @property
    def system(self) -> Supervisor:
        return self.made.system

    def play(self, check: Callable[[Playing], None]) -> None:
        """Play all lives; `check` is called when the last has settled."""
        with horizon(self.plan.horizon):
            try:
                self._begin()
                if self.plan.deeds is None:
                    self._draw_lives()
                else:
                    for deed in self.plan.deeds:
                        self._do(deed.what, *deed.given)
                self._begin()
                self._settle()
                check(self)
                self.system.stop()
            finally:
                if self._is_up:
                    self._die()
            self._require_no_crash()

    def _do(self, what: str, *given: Any) -> Any:
        """Do something, and note it first: what it raises belongs to the history."""
        add(self.deeds, Deed(what, given))
        if not self._is_up and what not in ("edit", "end"):
            self._begin()
        if what not in QUIET:
            run = self._by_number[given[0]].id if what in TO_RUNS and given[0] in self._by_number else None
            note(what if run else f"{what} {', '.join(map(str, given))}".rstrip(), run)
        return self._how[what](*given)

    # Lives -----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start a process, if there is none."""
        if self._is_up:
            return
        plan = self.plan
        self.dispatchers = SimulatedDispatchers(
            plan.seed * 100 + self._life, threads=plan.settings["threads"], steps_max=STEPS_MAX, lateness=plan.lateness,
            explorer=EXPLORERS[plan.seed % len(EXPLORERS)], interleaving=plan.interleaving,
        )  # fmt: skip
        self.dispatchers.clock = SetClock(plan.start_s + self._shift_s)
        self.dispatchers.clock.advance_to(self._elapsed_s)
        self.made = Made(plan, self.outside, self._life, self.dispatchers)
        if self._repeats is not None:
            self._repeats.dispatchers = None  # Until it has started: some actors are not wired before.
        self.system.start()
        self._is_up = True
        if self._repeats is not None:
            self._repeats.dispatchers = self.dispatchers
        if self._troubles is not None:
            self._troubles.on = True

    def _die_and_rest(self, grace: float | None, pause_s: float) -> None:
        """Stop in order, or (None) be killed, wherever everything is; the next process begins so much later."""
        note(f"the process {'dies' if grace is None else 'is to stop'}, and is away for {pause_s:g} s")
        if grace is not None:
            self.system.stop(grace=grace)
        for each in self.handed:
            if each.life == self._life:
                each.look()
        self._die()
        self._elapsed_s = self.dispatchers.clock.monotonic() + pause_s
        self._life += 1
        self._require_no_crash()

    def _die(self) -> None:
        self._is_up = False
        if self._troubles is not None:
            self._troubles.on = False
        if self.outside.backend is not None:
            self.outside.backend.close()
        assert self.dispatchers.drop() == [], "these handlers stand somewhere for ever"
        self.made.let_go()

    def _require_no_crash(self) -> None:
        for who, error in self._crashed.unasked:
            raise AssertionError(f"an actor crashed that nobody killed: {who}: {error!r}") from error

    def _settle(self) -> None:
        """Have everything end that has begun; schedules are paused first, for they never end."""
        self.outside.settled = True
        if self._troubles is not None:
            self._troubles.on = False
        for schedule in self.plan.schedules:
            if self.plan.deeds is None:
                self._do("end", schedule.name, self._chance.choice(("pause", "pause", "remove")))
            self._change(schedule.name, self._ends.get(schedule.name, "pause"))
        self._run_down()
        self.dispatchers.run_for(3 * LOOK_S if self.edits.places else DUE_S)
        self._run_down()
        for each in self.handed:
            if each.life == self._life:
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

    # What is drawn ---------------------------------------------------------------------------------------------------

    def _draw_lives(self) -> None:
        lives = self.plan.lives
        for life in range(lives):
            if life:
                self._do("begin")
            self._draw_life(self.plan.roots * (life + 1) // lives)
            if life < lives - 1:
                self._draw_death()

    def _draw_life(self, until: int) -> None:
        plan, chance = self.plan, self._chance
        draws: list[Callable[[], None]] = [self._draw_hand_in] * 30 + [self._draw_steps] * 30
        draws += [self._draw_cancel] * 3 + [self._draw_abort] + [self._draw_emit] * 5 + [self._draw_again] * 2
        draws += [self._draw_pass] * 2 + ([self._draw_change] * 2 if plan.schedules else [])
        draws += [self._draw_clock] * (2 if plan.sets_clock else 0) + [self._draw_edit] * (3 if plan.edits else 0)
        while self._next < until:
            chance.choice(draws)()

    def _draw_death(self) -> None:
        chance = self._chance
        grace = chance.choice((0.0, 1.0, 3_600.0)) if chance.random() < 0.3 else None
        self._do("die", grace, chance.choice((0.0, 5.0, 4_000.0)))
        if self.plan.edits and chance.random() < 0.5:
            self._draw_edit()

    def _draw_hand_in(self) -> None:
        for _ in range(self._chance.choice((1, 1, 2, 8))):
            if self._next < self.plan.roots:
                key = f"key {self._next}" if self._chance.random() < 0.2 else None
                if self._draw_submission(self._next, key):
                    self._next += 1

    def _draw_submission(self, program: int, key: str | None) -> bool:
        chance = self._chance
        delay = chance.choice((0.01, 2.0, 600.0)) if chance.random() < 0.1 else None
        number, self._number = self._number, self._number + 1
        if not self._do("hand in", number, program, key, delay):
            self._draw_steps()
            return False
        if chance.random() < 0.2:
            self._do("ask for acceptance", number)
        return True

    def _draw_again(self) -> None:
        """The same under the same key, in this life or a later one; and something else under it, which is refused."""
        known = [each for each in self.handed if each.key is not None]
        if not known:
            return
        before = self._chance.choice(known)
        if self._chance.random() < 0.2 and before.life == self._life:
            self._do("hand in another", before.number, (before.program + 1) % self.plan.roots)
        else:
            self._draw_submission(before.program, before.key)

    def _draw_emit(self) -> None:
        chance = self._chance
        payload = {"k": chance.choice("xy"), "n": chance.randrange(4)}
        key = f"event {len(self.emitted)}" if chance.random() < 0.3 else None
        self._do("emit", chance.choice(CODES), payload, key)

    def _draw_cancel(self) -> None:
        mine = [each for each in self.handed[-8:] if each.life == self._life]
        if mine:
            self._do("cancel", self._chance.choice(mine).number)

    def _draw_abort(self) -> None:
        begun = [each for each in self.handed[-8:] if self._has_begun(each)]
        if begun:
            self._do("abort", self._chance.choice(begun).number)

    def _draw_change(self) -> None:
        schedule = self._chance.choice(self.plan.schedules)
        self._do("change", schedule.name, self._chance.choice(("pause", "resume", "resume", "fire", "remove")))

    def _draw_edit(self) -> None:
        if self.edits.places:
            self._do("edit", *self.edits.draw(self._chance))

    def _draw_clock(self) -> None:
        self._do("set the clock", self._chance.choice((-7_200.0, -3.0, 0.5, 40.0, 4_000.0)))

    def _draw_pass(self) -> None:
        self._do("pass", self._chance.choice((0.1, 1.0, 30.0, 1_000.0)))

    def _draw_steps(self) -> None:
        chance, crashes = self._chance, self.plan.crashes
        for _ in range(chance.choice((1, 10, 40))):
            if crashes and chance.random() < crashes:
                self._do("crash", chance.choice(list(actors_of(self.system))))
            if not self._do("step", 1):
                return

    # What is done ----------------------------------------------------------------------------------------------------

    def _hand_in(self, number: int, program: int, key: str | None, delay: float | None) -> bool:
        """Submit a program; False if it is refused."""
        try:
            submission = self.system.submit(self.made.trigger(program), idempotency_key=key, delay=delay)
        except Overloaded:
            return False
        self._by_number[number] = handed = Handed(submission, number, program, key, self._life)
        self.handed.append(handed)
        return True

    def _living(self, number: int) -> Handed | None:
        """What was handed in under this number, if that was in this life."""
        found = self._by_number.get(number)
        return found if found is not None and found.life == self._life else None

    def _ask(self, number: int) -> None:
        each = self._living(number)
        if each is not None:
            each.accepted = each.submission.accepted()

    def _hand_in_another(self, number: int, program: int) -> None:
        """Something else under the key of one that was handed in: it is refused."""
        before = self._living(number)
        if before is not None:
            before.look()
            if before.outcome is None or before.outcome[0] != "cancelled":
                with pytest.raises((KeyReused, Overloaded)):
                    self.system.submit(self.made.trigger(program), idempotency_key=before.key)

    def _emit(self, code: str, payload: dict[str, Any], key: str | None) -> None:
        try:
            run = self.system.emit(code, payload, idempotency_key=key)
        except Overloaded:
            return
        if key is not None:
            self.emitted[key] = run

    def _cancel(self, number: int) -> None:
        each = self._living(number)
        if each is not None and each.submission.cancel():
            self.cancelled.add(each.id)

    def _has_begun(self, each: Handed) -> bool:
        return each.life == self._life and not each.submission.done and each.submission.seq is not None

    def _abort(self, number: int) -> None:
        each = self._living(number)
        if each is not None and self._has_begun(each):
            self.aborted.add(each.id)
            try:
                self.system.abort(each.submission.seq or 0, "enough")
            except (LookupError, ValueError):
                return  # It has ended meanwhile.

    def _change(self, name: str, verb: str) -> None:
        ref = ScheduleRef(self.system._schedules, name)
        try:
            getattr(ref, verb)()
        except LookupError:
            return  # It was removed.

    def _set_clock(self, by_s: float) -> None:
        clock: Any = self.dispatchers.clock
        clock.set_by(by_s)
        self._shift_s += by_s

    def _pass(self, seconds: float) -> None:
        self.dispatchers.run_for(seconds)

    def _crash(self, name: str) -> None:
        actors = actors_of(self.system)
        if name in actors:
            crash(actors[name])
            self.crashes += 1

    def _step(self, count: int) -> bool:
        """Let so many steps happen; False if the last could not."""
        return [self.dispatchers.step() for _ in range(count)][-1]
