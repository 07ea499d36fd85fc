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

__all__ = ["DiskWorld", "play_lives"]

PLACE = "/simulated"
KEYS = ("a", "b", "deep/c", "deep/er/d")
LIFE_S = 600.0
STEPS_MAX = 200_000
STEPS_OF_A_LIFE = (0, 20, 200, 600)
SAVES = 12
ACTORS_CRASH_AT = ("journal.append.before", "journal.append.after", "journal.checkpoint.after", "outside.persist.after")
DISK_ERRORS_AT = tuple(each for each in faults.POINTS if each.startswith(("files.", "export.")))


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

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"disk:{seed}")
        self.seed = seed
        self.disk = SimulatedDisk(PLACE, seed=seed)
        self.saves: list[Save] = []
        self.told: dict[int, int] = {}
        self.accepted: set[int] = set()
        self.sent: dict[str, tuple[int, int]] = {}
        self.lives = 0
        self.trims = self.chance.random() < 0.25
        self.look_every = self.chance.choice((None, None, 1.0))
        self.ended_s = 0.0
        self.errors_before = 0

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
        settings = {"restart_intensity": 1_000_000, "deadline": 1e6, "retain": 5.0 if self.trims else None}
        system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)
        files = system.store("files", Files(f"{PLACE}/var/files", look_every=self.look_every))
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

    def a_save(self) -> Save:
        """The next one."""
        chance = self.chance
        save = Save(
            number=len(self.saves), key=chance.choice(KEYS), other=chance.choice(KEYS), deletes=chance.random() < 0.2
        )
        self.saves.append(save)
        return save

    # Lives ---------------------------------------------------------------------------------------------------------------

    def live(self, *, is_last: bool) -> None:
        """One life: from a start to an ordered stop, a death or a broken journal."""
        self.require_whole_file()
        self.errors_before = self._errors()
        system, dispatchers, backend = self.make()
        registered = set(ActorRegistry.get_all())
        is_broken = False
        try:
            with contextlib.ExitStack() as stack:
                if not is_last:
                    self._hurt(stack)
                is_broken = not self._start(system, is_last=is_last)
                if not is_broken and not self.disk.has_ended:
                    is_broken = not self._work(system, dispatchers, is_last=is_last)
                if not is_broken and (is_last or self.chance.random() < 0.3):
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
            self.disk.end(power_fails=self.chance.random() < 0.6)
            self.disk.begin_again()

    def _hurt(self, stack: contextlib.ExitStack) -> None:
        """Decide what goes wrong in this life."""
        chance, disk = self.chance, self.disk
        if chance.random() < 0.6:
            disk.end_at(
                disk.steps + int(chance.choice((30, 300, 1500)) * chance.random()) + 1,
                power_fails=chance.random() < 0.7,
            )
        match chance.choice(("nothing", "nothing", "die at a point", "crash", "point", "disk", "disk", "full")):
            case "die at a point":
                power_fails = chance.random() < 0.7
                self._once(stack, tuple(faults.POINTS), lambda: disk.end(power_fails=power_fails))
            case "crash":
                self._once(stack, ACTORS_CRASH_AT, lambda: _raise(Crash("injected")))
            case "point":
                self._once(stack, DISK_ERRORS_AT, lambda: _raise(OSError(errno.EIO, "injected")))
            case "disk":
                kinds = chance.choice(
                    ((), ("sync",), ("write",), ("read",), ("rename", "unlink", "mkdir"), ("sync folder",))
                )
                below = chance.choice(("", "journal", "var", "out"))
                times = chance.choice((1, 3, None))
                code = chance.choice((errno.EIO, errno.ENOSPC))
                stack.enter_context(
                    disk.failing(*kinds, code=code, times=times, after=int(300 * chance.random() ** 2), below=below)
                )
            case "full":
                disk.capacity_bytes = disk.files.volume.size + int(100_000 * chance.random())
                stack.callback(setattr, disk, "capacity_bytes", None)

    def _once(self, stack: contextlib.ExitStack, points: tuple[str, ...], do: Any) -> None:
        """Do something the n-th time that one of these points is passed."""
        left = [self.chance.choice((1, 2, 5, 20))]
        chosen = self.chance.choice((*points, None))  # None: any of them.

        def watch(point: str) -> None:
            if point in points and chosen in (None, point):
                left[0] -= 1
                if left[0] == 0:
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
        chance, disk = self.chance, self.disk
        open_: dict[int, Any] = {}
        accepted: dict[int, Any] = {}
        again = [save for save in self.saves if save.number not in self.told and save.number % 7 != 6]
        if self.trims and not is_last:
            again = []  # Keys are forgotten with what is trimmed.
        elif self.trims:
            again = [
                save for save in again if save.number not in self.accepted and str(save.number) not in _rows(system)
            ]
        steps = STEPS_MAX if is_last else int(chance.choice(STEPS_OF_A_LIFE) * chance.random())
        try:
            for save in again:
                open_[save.number] = system.submit(save, idempotency_key=str(save.number))
            for _ in range(steps):
                if not is_last and chance.random() < 0.15:
                    save = self.a_save()
                    open_[save.number] = submission = system.submit(save, idempotency_key=str(save.number))
                    if chance.random() < 0.4:
                        accepted[save.number] = submission.accepted()
                if is_last and not open_ and system.stats().effects_through >= system.stats().committed_through:
                    break
                dispatchers.step()
                if disk.has_ended:
                    return True
                self._note(open_, accepted)
        except (OSError, SeqtorError) as error:
            self._require_excuse(error, is_last=is_last)
            return False
        if is_last:
            dispatchers.run_for(60.0)  # What was suspended is tried again.
            self.require_all(system)
        return True

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
        assert {number for number in self.accepted if number % 7 != 6} <= {int(each) for each in rows}, (
            "accepted and lost"
        )
        expected: dict[str, str] = {}
        by_seq = sorted(((int(number), done) for number, done in rows.items()), key=lambda each: each[1].seq)
        assert len({done.seq for _, done in by_seq}) == len(by_seq), "one seq, one run"
        for number, done in by_seq:
            save = self.saves[number]
            assert done.runs == 1, f"{number} has run {done.runs} times"
            content = None if save.deletes else saved(number, done.seq, expected.get(save.other))
            assert done.content == content, f"{number} did not read what was there"
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
        if not self.trims:
            system.verify()


def _rows(system: Supervisor) -> dict[str, Done]:
    return dict(system.snapshot()[system.stores["rows"]])


def _raise(error: Exception) -> None:
    raise error


def play_lives(seed: int, patch: pytest.MonkeyPatch) -> DiskWorld:
    """Play one history: some lives that end badly, and a last one in which nothing goes wrong."""
    world = DiskWorld(seed)
    chance = world.chance
    patch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", chance.choice((300, 3000, 1 << 24)))
    patch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)
    patch.setattr("seqtor.actors.journal.sqlite.WAL_PAGES", chance.choice((4, 12, 500)))
    patch.setattr("seqtor.actors.journal.actor.TRIM_ROWS", chance.choice((2, 1000)))
    with world.disk:
        for _ in range(chance.choice((2, 4, 6))):
            world.live(is_last=False)
        world.live(is_last=True)
    return world
