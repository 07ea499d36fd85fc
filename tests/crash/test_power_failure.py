"""Power failures and broken disks under a real SQLite: what was answered is there, nothing is there in half.

The operations of a short life of a journal are recorded once, and at every one of them the power fails in several ways.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import pytest

from seqtor.actors.journal.contract import Backend, CheckpointInfo, CheckpointPart, Group
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.messages.errors import JournalCorrupted, SeqtorError
from tests.contract.journal_backends import commit, content, entry, key
from tests.crash.power_failure import Disk, Fault, Recording, unsynced

NAME = "journal.db"
WAL_PAGES = "seqtor.actors.journal.sqlite.WAL_PAGES"
Step = Callable[[Backend], Any]
State = tuple[Any, ...]
EMPTY: State = (Group((), (), ()), (), [])


@pytest.fixture(autouse=True)
def small_logs() -> Iterator[None]:
    """Copy the log into the database every few groups, so that a short life has all of it."""
    with mock.patch(WAL_PAGES, 12):
        yield


# A life of a journal ---------------------------------------------------------------------------------------------------


def life(seed: int, groups: int = 18) -> list[Step]:
    """Groups of all shapes, checkpoints, trimming and openings, in an order of its own."""
    rng = random.Random(seed)
    steps: list[Step] = [open_]
    seq = pos = checkpointed = 0
    for _ in range(groups):
        size = rng.choice((0, 1, 1, 1, 3, 9))
        entered = rng.choice((0, 0, 1, 4)) if size else 1
        body = '{"seq":%d,' + f'"text":"{"x" * rng.choice((10, 200, 1500))}"' + "}"
        commits = [commit(seq + number, body % (seq + number)) for number in range(1, size + 1)]
        entries = [entry(pos + number, body % number) for number in range(1, entered + 1)]
        keys = [key(f"key-{rng.randrange(30)}", rng.choice((None, seq))) for _ in range(rng.choice((0, 0, 2)))]
        steps.append(appending(Group(commits, entries, keys)))
        seq, pos = seq + size, pos + entered
        chance = rng.random()
        if chance < 0.2 and seq > checkpointed:
            checkpointed = seq
            info = CheckpointInfo(seq, pos, commit(seq).chain, 3, 3 * 5000)
            steps += [adding_parts(seq, rng.randbytes(5000)), finishing(info), *[trimming(info)] * rng.choice((0, 3))]
        elif chance < 0.35:
            steps += [close, open_]
    return [*steps, close, open_, appending(Group([commit(seq + 1)])), close]


def appending(group: Group) -> Step:
    return lambda backend: backend.append(group)


def adding_parts(seq: int, data: bytes) -> Step:
    def add(backend: Backend) -> None:
        for number in range(3):
            backend.add_checkpoint_part(seq, number, CheckpointPart("store:book", data))

    return add


def finishing(info: CheckpointInfo) -> Step:
    return lambda backend: backend.finish_checkpoint(info)


def trimming(info: CheckpointInfo) -> Step:
    return lambda backend: backend.trim(info, 7)


def append_next(backend: Any) -> None:
    """One more, whatever is there."""
    backend.append(Group([commit(backend._reached.total + 1)]))


def open_(backend: Backend) -> None:
    backend.open()


def close(backend: Backend) -> None:
    backend.close()


def state_of(backend: SqliteBackend) -> State:
    """All that can be read from a journal now."""
    connection = backend._open_connection()
    checkpoints = backend._read_checkpoints(connection)
    return content(backend), checkpoints, [list(backend.checkpoint_parts(info.seq)) for info in checkpoints]


class Life:
    """A journal on a recorded disk, and what was promised when."""

    def __init__(self, folder: Path, fault: Fault | None = None, synchronous: str | None = None) -> None:
        self.recording = Recording(folder, fault)
        self.backend = SqliteBackend(folder / NAME, vfs=self.recording.vfs)
        self.promises: list[tuple[int, list[State]]] = []  # From so many operations on it holds one of these.
        self.synchronous = synchronous
        self.state = EMPTY

    def promise(self, *states: State) -> None:
        """Holds from now on."""
        self.recording.note_owner()
        self.promises.append((len(self.recording.log), list(states)))

    def do(self, step: Step) -> None:
        """Do a step; while it is being done, it is there as a whole or not at all."""
        begun = len(self.recording.log)
        step(self.backend)
        before = self.state
        if self.backend._connection is not None:
            self.state = state_of(self.backend)
            if self.synchronous is not None:
                self.backend._connection.pragma("synchronous", self.synchronous)
        self.promises.append((begun, [before, self.state]))
        self.promise(self.state)

    def do_all(self, steps: list[Step]) -> list[State]:
        """Do the steps; return what the journal held before the first and after each."""
        states = [self.state]
        with self.recording.running():
            for step in steps:
                self.do(step)
                states.append(self.state)
        return states


def lived(folder: Path, seed: int, synchronous: str | None = None) -> Life:
    """A whole life without faults."""
    life_ = Life(folder, synchronous=synchronous)
    life_.do_all(life(seed))
    return life_


# What an image holds ---------------------------------------------------------------------------------------------------


def look(folder: Path, vfs: str, allowed: list[State], *, goes_on: bool) -> str:
    """Open an image as after a power failure, and say what became of what was promised."""
    backend = SqliteBackend(folder / NAME, vfs=vfs)
    try:
        try:
            opened = backend.open()
            found = state_of(backend)
        except JournalCorrupted as error:
            return "marks told" if "were durable" in str(error) else f"corrupted: {error}"
        if found not in allowed:
            return "lost"
        if goes_on:
            next_group = Group([commit(opened.commits_through + 1)], [entry(opened.entries_through + 1)])
            backend.append(next_group)
            expected = content(backend)
            backend.close()
            again = backend.open()
            assert again.journal_id == opened.journal_id
            assert again.epoch == opened.epoch + 1
            assert content(backend) == expected
            assert len(expected.commits) == len(found[0].commits) + 1
        return "intact"
    finally:
        backend.close()


def power_failures(life_: Life, folder: Path, seed: int, per_op: int, *, newest_marks: bool = False) -> Counter[str]:
    """Let the power fail after each operation since the first promise, in several ways; count what was found."""
    found: Counter[str] = Counter()
    disk = Disk()
    rng = random.Random(seed)
    promises = iter([*life_.promises, (1 << 60, [])])
    allowed: list[State] = []
    following = next(promises)
    with unsynced() as vfs:
        for number, op in enumerate(life_.recording.log, 1):
            disk.apply(op)
            while following[0] <= number:
                allowed = following[1]
                following = next(promises)
            for _ in range(per_op if allowed else 0):
                clear(folder)
                disk.image(folder, rng, newest_marks=newest_marks)
                found[look(folder, vfs, allowed, goes_on=rng.random() < 0.1)] += 1
    return found


def clear(folder: Path) -> None:
    """Remove what is in it."""
    for each in folder.iterdir():
        each.unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the journal lives."""
    (tmp_path / "life").mkdir()
    return tmp_path / "life"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Where images are looked at."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


# Power failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_power_failure_at_any_moment_loses_nothing_that_was_answered(folder: Path, images: Path, seed: int) -> None:
    found = power_failures(lived(folder, seed), images, seed, per_op=2)
    assert set(found) == {"intact"}
    assert found["intact"] > 800


def test_a_power_failure_while_one_is_recovered_from_loses_nothing_either(folder: Path, images: Path) -> None:
    life_ = lived(folder, 7)
    disk = Disk()
    rng = random.Random(7)
    found: Counter[str] = Counter()
    second = folder.parent / "second"
    second.mkdir()
    with unsynced() as vfs:
        for number, op in enumerate(life_.recording.log):
            disk.apply(op)
            if number % 37:
                continue
            clear(second)
            disk.image(second, rng)
            again = Life(second)
            backend = SqliteBackend(second / NAME, vfs=vfs)
            if (second / NAME).exists():
                backend.open(write=False)
                again.state = state_of(backend)
                backend.close()
            commits = again.state[0].commits
            again.promise(again.state)
            again.do_all([open_, append_next])
            assert len(again.state[0].commits) == len(commits) + 1
            found += power_failures(again, images, number, per_op=2)
            again.backend.close()
    assert set(found) == {"intact"}
    assert found["intact"] > 200


def test_with_commits_that_are_not_synced_this_harness_finds_losses_and_new_marks_tell_them(
    folder: Path, images: Path
) -> None:
    """synchronous=NORMAL. What is lost untold with new marks is what has no mark: keys, checkpoints, trimming."""
    life_ = lived(folder, 1, synchronous="NORMAL")
    old = power_failures(life_, images, 1, per_op=2)
    assert old["lost"] > 20
    assert old["marks told"] > 20
    new = power_failures(life_, images, 1, per_op=2, newest_marks=True)
    assert new["marks told"] > old["marks told"]
    assert new["lost"] < old["lost"]


def test_without_any_sync_this_harness_finds_losses_and_damage(folder: Path, images: Path) -> None:
    found: Counter[str] = Counter()
    for seed in range(3):
        found += power_failures(lived_anew(folder, seed), images, seed, per_op=2)
    assert found["lost"] > 50
    assert sum(count for verdict, count in found.items() if verdict.startswith("corrupted")) > 5


def lived_anew(folder: Path, seed: int) -> Life:
    clear(folder)
    return lived(folder, seed, synchronous="OFF")


# Broken disks ----------------------------------------------------------------------------------------------------------


def run_until_it_fails(life_: Life, steps: list[Step], states: list[State]) -> tuple[int, BaseException | None]:
    """Do the steps until one raises; then it may be there or not. Returns how many were done."""
    assert life_.recording.fault is not None
    with life_.recording.running():
        for done, step in enumerate(steps):
            begun = len(life_.recording.log)
            try:
                step(life_.backend)
            except (OSError, SeqtorError, apsw.Error) as error:
                life_.promises.append((begun, states[done : done + 2]))
                with contextlib.suppress(Exception):
                    life_.backend.close()
                return done, error
            assert step is close or not life_.recording.fault.fired, f"a failure in step {done} was swallowed"
            life_.promise(states[done + 1])
    return len(steps), None


@pytest.mark.parametrize("lasting", [False, True])
def test_every_error_of_the_disk_is_told_and_loses_nothing_that_was_answered(folder: Path, lasting: bool) -> None:
    steps = life(5, groups=7)
    counting = Life(folder, Fault(0))
    states = counting.do_all(steps)
    assert counting.recording.fault is not None
    count = counting.recording.fault.count
    assert count > 150
    told: Counter[str] = Counter()
    for at in range(1, count + 1):
        clear(folder)
        life_ = Life(folder, Fault(at, lasting=lasting))
        done, error = run_until_it_fails(life_, steps, states)
        assert error is None or isinstance(error, OSError), f"operation {at}: {error!r}"
        told[type(error).__name__] += 1
        with unsynced() as vfs:
            verdict = look(folder, vfs, states[done : done + 2], goes_on=True)
        assert verdict == "intact", f"operation {at}, step {done}: {verdict}"
    assert told["OSError"] > 100


@pytest.mark.parametrize("seed", range(2))
def test_what_a_failed_sync_left_in_memory_is_not_promised_before_it_is_on_disk(
    folder: Path, images: Path, seed: int
) -> None:
    """After a failed sync the system shows what was written, and never writes it: the next opening must."""
    steps = life(seed, groups=6)
    states = Life(folder).do_all(steps)
    found: Counter[str] = Counter()
    failed = 0
    for at in range(1, 200):
        clear(folder)
        fault = Fault(at, kind="sync")
        life_ = Life(folder, fault)
        _, error = run_until_it_fails(life_, steps, states)
        if error is None:
            break
        failed += 1
        fault.healed = True
        life_.promises = life_.promises[-1:]
        with life_.recording.running():
            life_.backend.open()
            life_.state = state_of(life_.backend)
            life_.promise(life_.state)
            life_.do(append_next)
            life_.backend.close()
        found += power_failures(life_, images, at, per_op=1)
    assert failed > 10
    assert set(found) == {"intact"}
