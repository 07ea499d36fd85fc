"""A world on a simulated disk: the SQLite journal, `Files`, a collection, a JSON file and effects, through deaths of the
process, power failures and broken disks, at any operation and at any fault point.

Owns what is done in it, and what must hold: what was answered is in every later state, under its seq; what was accepted
runs, once; no effect was made of a commit that is not there; a start fails only while the disk does; at the end, journal,
folder and file say what the triggers give, executed one after another in the order of their seqs. A program that has died
goes on with a disk of its own until it is left; what it does there counts for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest
from pykka import ActorRegistry

from seqtor import Collection, Derived, EffectContext, Files, Record, Rejected, Retry, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.messages import OutsideEdit
from seqtor.messages.errors import JournalCorrupted, OutcomeUnknown, SeqtorError
from seqtor.testing import faults
from seqtor.testing.disk import SimulatedDisk
from tests.simulation.deeds import Deed, add
from tests.simulation.disk_plan import (
    ACTORS_CRASH_AT,
    DISK_ERRORS_AT,
    DiskPlan,
    Life,
    draw_deeds,
    draw_life,
    draw_settings,
)
from tests.simulation.telling import note

__all__ = ["DiskWorld", "play_disk", "play_lives"]

PLACE = "/simulated"
LIFE_S = 600.0
STEPS_MAX = 200_000


class Done(Record):
    """That a trigger has run: how often, at which seq, and what it left."""

    runs: int = 0
    seq: int = 0
    key: str = ""
    content: str | None = None


class Count(Record):
    """How many have."""

    count: int = 0


class Save(Trigger[int]):
    """Writes a file that says what another one says, or deletes it; every seventh is rejected."""

    number: int
    key: str
    other: str
    deletes: bool


def saved(number: int, seq: int, before: str | None) -> str:
    """What a `Save` writes."""
    return f"{number} at {seq} after {(before or 'nothing')[:30]} " * (1 + number % 40)


class Crash(Exception):
    """What ends an actor."""


class DiskWorld:
    """One history. `told` is what was answered, by number: the seq; `sent` what effects told the outside, by key."""

    def __init__(self, plan: DiskPlan) -> None:
        self.chance = random.Random(f"disk:{plan.seed}")
        draw_settings(self.chance)
        self.plan = plan
        self.seed = plan.seed
        self._lived: list[Life] = []
        self._done: list[list[Deed]] = []  # In each of these lives.
        self.disk = SimulatedDisk(PLACE, seed=plan.seed)
        self.saves: dict[int, Save] = {}
        self.told: dict[int, int] = {}
        self.accepted: set[int] = set()
        self.sent: dict[str, tuple[int, int]] = {}
        self.lives = 0
        self.ended_s = 0.0
        self.errors_before = 0

    @property
    def lived(self) -> tuple[Life, ...]:
        """The lives so far, as they were drawn or given."""
        return tuple([life._replace(deeds=tuple(done)) for life, done in zip(self._lived, self._done, strict=True)])

    # The program -------------------------------------------------------------------------------------------------------

    def make(self) -> tuple[Supervisor, SimulatedDispatchers, SqliteBackend]:
        """It, in one more life."""
        dispatchers = SimulatedDispatchers(
            self.seed * 100 + self.lives, steps_max=STEPS_MAX, explorer=EXPLORERS[self.seed % len(EXPLORERS)],
            interleaving=(0.0, 0.2, 0.0, 1.0)[self.seed % 4],
        )  # fmt: skip
        dispatchers.clock.advance_to(max(self.lives * LIFE_S, self.ended_s))
        self.lives += 1
        backend = SqliteBackend(f"{PLACE}/journal.db")
        settings = {"restart_intensity": 1_000_000, "deadline": 1e6, "retain": 5.0 if self.plan.trims else None}
        system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)
        files = system.store("files", Files(f"{PLACE}/var/files", look_every=self.plan.look_every))
        rows = system.store("rows", Collection(Done))
        system.store(
            "count",
            Derived(Count, [rows], rebuild=lambda found: Count(count=len(found)), export=f"{PLACE}/out/count.json"),
        )

        @system.effect("send", retry=Retry(6, backoff=0.01))
        def send(context: EffectContext, number: int) -> None:
            if not self.disk.has_ended:
                assert self.sent.setdefault(context.key, (number, context.seq)) == (number, context.seq)

        @system.on(Save)
        def save(trigger: Save, tx: Transaction) -> int:
            if trigger.number % 7 == 6:
                raise Rejected("every seventh")
            content = None if trigger.deletes else saved(trigger.number, tx.seq, tx[files].get(trigger.other))
            if content is None:
                tx[files].pop(trigger.key, None)
            else:
                tx[files][trigger.key] = content
            before = tx[rows].get(str(trigger.number), Done())
            tx[rows][str(trigger.number)] = Done(runs=before.runs + 1, seq=tx.seq, key=trigger.key, content=content)
            tx.effect(send, trigger.number)
            return tx.seq

        return system, dispatchers, backend

    # Lives ---------------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """All lives: some that end badly, and a last one in which nothing goes wrong."""
        with self.disk:
            if self.plan.lives is None:
                for _ in range(self.plan.lives_drawn):
                    self.live(draw_life(self.chance))
            else:
                for life in self.plan.lives:
                    self.live(life)
            self.live(None)

    def live(self, life: Life | None) -> None:
        """One life: from a start to an ordered stop, a death or a broken journal. None: the last one, which goes well."""
        is_drawn, is_last = self.plan.lives is None, life is None
        self.require_whole_file()
        self.errors_before = self._errors()
        system, dispatchers, backend = self.make()
        registered = set(ActorRegistry.get_all())
        is_broken = False
        if life is not None:
            self._lived.append(life)
            self._done.append([])
        try:
            with contextlib.ExitStack() as stack:
                if life is not None:
                    self._hurt(life, stack)
                is_broken = not self._start(system, is_last=is_last)
                if not is_broken and not self.disk.has_ended:
                    is_broken = not self._work(system, dispatchers, is_last=is_last)
                if not is_broken and (is_last or self._draws("stops", is_drawn, 0.3)):
                    system.stop()
        finally:
            self.ended_s = dispatchers.clock.monotonic()
            with contextlib.suppress(apsw.Error, OSError):
                backend.close()
            system.stores["files"].spec.args[1].close()
            for ref in set(ActorRegistry.get_all()) - registered:
                ActorRegistry.unregister(ref)
            dispatchers.drop()
            dispatchers.stop(0)
        if not is_last:
            power_fails = self._draws("power_fails", is_drawn, 0.6)
            if not self.disk.has_ended:
                note("the power fails" if power_fails else "the process dies")
            self.disk.end(power_fails=power_fails)
            self.disk.begin_again()

    def _draws(self, name: str, is_drawn: bool, often: float) -> bool:
        """What this life says, or what is drawn and noted in it now."""
        if is_drawn:
            self._lived[-1] = self._lived[-1]._replace(**{name: self.chance.random() < often})
        return bool(getattr(self._lived[-1], name))

    def _hurt(self, life: Life, stack: contextlib.ExitStack) -> None:
        """Have go wrong what goes wrong in this life."""
        disk = self.disk
        if life.ends_at is not None:
            operations, power_fails = life.ends_at
            note(f"at operation {operations} of the disk {'the power fails' if power_fails else 'the process dies'}")
            disk.end_at(disk.steps + operations, power_fails=power_fails)
        what, given = life.trouble
        if what != "nothing":
            note(f"trouble: {what}, {given}")
        match what:
            case "die at a point":
                power_fails, *when = given
                self._once(stack, tuple(faults.POINTS), lambda: disk.end(power_fails=power_fails), *when)
            case "crash":
                self._once(stack, ACTORS_CRASH_AT, lambda: _raise(Crash("injected")), *given)
            case "point":
                self._once(stack, DISK_ERRORS_AT, lambda: _raise(OSError(errno.EIO, "injected")), *given)
            case "disk":
                kinds, below, times, code, after = given
                stack.enter_context(disk.failing(*kinds, code=code, times=times, after=after, below=below))
            case "full":
                disk.capacity_bytes = disk.files.volume.size + given[0]
                stack.callback(setattr, disk, "capacity_bytes", None)

    def _once(
        self, stack: contextlib.ExitStack, points: tuple[str, ...], do: Any, times: int, chosen: str | None
    ) -> None:
        """Do something the n-th time that one of these points is passed, or the chosen one."""
        left = [times]

        def watch(point: str) -> None:
            if point in points and chosen in (None, point):
                left[0] -= 1
                if left[0] == 0:
                    note(f"now, at {point}")
                    do()

        stack.enter_context(faults.watching(watch))

    def _start(self, system: Supervisor, *, is_last: bool) -> bool:
        """Whether it starts, as it must while the disk is well; then all that was answered is there."""
        try:
            system.start()
        except (OSError, SeqtorError, apsw.Error, Crash) as error:
            self._require_excuse(error, is_last=is_last)
            return False
        if not self.disk.has_ended:
            self.require_told(system)
        return True

    def _require_excuse(self, error: Exception, *, is_last: bool) -> None:
        """A start or a journal may fail if the disk has, in this life."""
        assert not isinstance(error, JournalCorrupted), f"taken for corrupted: {error}"
        assert not is_last, f"it fails on a disk that is well: {error!r}"
        has_excuse = self.disk.has_ended or self._errors() > self.errors_before or "injected" in str(error)
        assert has_excuse, f"it fails, and nothing is wrong with the disk: {error!r}"

    def _errors(self) -> int:
        return sum(count for name, count in self.disk.happened.items() if ": " in name)

    def _work(self, system: Supervisor, dispatchers: SimulatedDispatchers, *, is_last: bool) -> bool:
        """Hand in and wait; False if the journal has failed."""
        disk = self.disk
        open_: dict[int, Any] = {}
        accepted: dict[int, Any] = {}
        again = [save for save in self.saves.values() if save.number not in self.told and save.number % 7 != 6]
        if self.plan.trims and not is_last:
            again = []  # Keys are forgotten with what is trimmed.
        elif self.plan.trims:
            again = [
                save for save in again if save.number not in self.accepted and str(save.number) not in _rows(system)
            ]
        try:
            for save in again:
                open_[save.number] = system.submit(save, idempotency_key=str(save.number))
            for what, given in self._last_deeds(system, open_) if is_last else self._deeds():
                if what == "save":
                    self.saves[given[0]] = save = Save(number=given[0], key=given[1], other=given[2], deletes=given[3])
                    open_[save.number] = system.submit(save, idempotency_key=str(save.number))
                elif what == "ask for acceptance" and given[0] in open_:
                    accepted[given[0]] = open_[given[0]].accepted()
                for _ in range(given[0] if what == "step" else 0):
                    dispatchers.step()
                    if disk.has_ended:
                        note("the disk's life has ended")
                        return True
                    self._note(open_, accepted)
        except (OSError, SeqtorError) as error:
            self._require_excuse(error, is_last=is_last)
            return False
        if is_last:
            dispatchers.run_for(60.0)  # What was suspended is tried again.
            self.require_all(system)
        return True

    def _deeds(self) -> Iterator[Deed]:
        """What is done in this life: as it says, or as it is drawn, and noted."""
        if self.plan.lives is not None:
            self._done[-1] += self._lived[-1].deeds
            yield from self._lived[-1].deeds
            return
        for deed in draw_deeds(self.chance, len(self.saves)):
            add(self._done[-1], deed)
            yield deed

    @staticmethod
    def _last_deeds(system: Supervisor, open_: dict[int, Any]) -> Iterator[Deed]:
        """Steps until everything is done."""
        for _ in range(STEPS_MAX):
            if not open_ and system.stats().effects_through >= system.stats().committed_through:
                return
            yield Deed("step", (1,))

    def _note(self, open_: dict[int, Any], accepted: dict[int, Any]) -> None:
        """Take notice of answers that have come in."""
        for number in [number for number, submission in open_.items() if submission.done]:
            try:
                self.told[number] = open_.pop(number).result()
            except Rejected:
                assert number % 7 == 6
                self.told[number] = 0
        for number in [number for number, future in accepted.items() if future.is_set()]:
            try:
                accepted.pop(number).get()
            except OutcomeUnknown:  # The journal's actor has crashed: it may be there, or not.
                continue
            self.accepted.add(number)

    # What must hold ------------------------------------------------------------------------------------------------------

    def require_told(self, system: Supervisor) -> None:
        """Everything that was answered is there, at its seq."""
        found = _rows(system)
        for number, seq in self.told.items():
            if seq:
                assert found[str(number)].seq == seq, (
                    f"{number} was answered with seq {seq}, found {found[str(number)]}"
                )

    def require_whole_file(self) -> None:
        """What readers of the JSON file find at any moment."""
        content = self.disk.contents().get("out/count.json")
        if content is not None:
            Count.model_validate_json(content)

    def require_all(self, system: Supervisor) -> None:
        """Everything that was accepted has run once, in one order, and journal, folder, file and outside say so."""
        self.require_told(system)
        snapshot = system.snapshot()
        rows = _rows(system)
        lost = {number for number in self.accepted if number % 7 != 6} - {int(each) for each in rows}
        assert not lost, f"accepted and lost: {sorted(lost)}"
        expected: dict[str, str] = {}
        by_seq = sorted(((int(number), done) for number, done in rows.items()), key=lambda each: each[1].seq)
        assert len({done.seq for _, done in by_seq}) == len(by_seq), "one seq, one run"
        for number, done in by_seq:
            save = self.saves[number]
            assert done.runs == 1, f"{number} has run {done.runs} times"
            content = None if save.deletes else saved(number, done.seq, expected.get(save.other))
            assert done.content == content, f"{number} did not read what was there, at seq {done.seq}"
            if content is None:
                expected.pop(save.key, None)
            else:
                expected[save.key] = content
        found = {
            key: content.decode()
            for key, content in self.disk.contents("var/files").items()
            if not key.startswith(".seqtor")
        }
        edits = list(system.runs(trigger=OutsideEdit))
        assert not edits, f"nobody but the store has written files: {edits}"
        assert dict(snapshot[system.stores["files"]]) == expected, "the files are what the triggers give"
        assert found == expected, "the folder is as the files are"
        if rows:
            out = Count.model_validate_json(self.disk.contents("out")["count.json"])
            assert out.count == len(rows)
        for number, seq in self.sent.values():
            assert rows.get(str(number), Done()).seq == seq, f"an effect of {number} at seq {seq}, which is not there"
        assert {number for number, _ in self.sent.values()} == {int(each) for each in rows}, "each has its effect"
        if not self.plan.trims:
            system.verify()


def _rows(system: Supervisor) -> dict[str, Done]:
    return dict(system.snapshot()[system.stores["rows"]])


def _raise(error: Exception) -> None:
    raise error


def play_lives(seed: int, patch: pytest.MonkeyPatch) -> DiskWorld:
    """Play one history: some lives that end badly, and a last one in which nothing goes wrong."""
    return play_disk(draw_settings(random.Random(f"disk:{seed}"))._replace(seed=seed), patch, lambda _: None)


def play_disk(plan: DiskPlan, patch: pytest.MonkeyPatch, played: Callable[[DiskPlan], object]) -> DiskWorld:
    """Play a plan; `played` is called with all of it that was played, however that ends."""
    world = DiskWorld(plan)
    patch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", plan.checkpoint_bytes_min)
    patch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)
    patch.setattr("seqtor.actors.journal.sqlite.WAL_PAGES", plan.wal_pages)
    patch.setattr("seqtor.actors.journal.actor.TRIM_ROWS", plan.trim_rows)
    try:
        world.play()
    finally:
        played(plan._replace(lives=world.lived))
    return world
