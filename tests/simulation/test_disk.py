"""Histories on the simulated disk: nothing is found in some of them, and what is planted is."""

from __future__ import annotations

import hashlib
import os
import uuid

import pytest
from loguru import logger

from tests.other_processes import printed
from tests.seeds import FACTOR, seeds
from tests.simulation.disk_plan import DiskPlan
from tests.simulation.disk_world import DiskWorld, play_lives
from tests.simulation.planted import DISK_PLANTS, Plant

PLAYED_ELSEWHERE = 100_000
HISTORIES_PER_TEST = 25
HISTORIES_MAX = 60
FOUND_AT = {"effects go out before their commit is durable": 34}  # Then those before are played by `make search` only.


@pytest.mark.parametrize("first", seeds(50, HISTORIES_PER_TEST))
def test_nothing_is_lost_or_invented_in_histories_from(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = 0
    for seed in range(first, first + HISTORIES_PER_TEST):
        with monkeypatch.context() as patch:
            try:
                world = play_lives(PLAYED_ELSEWHERE + seed, patch)
            except Exception as error:
                error.add_note(f"again: python -m tests.simulation.histories --seed {-1 - PLAYED_ELSEWHERE - seed}")
                raise
        told += len(world.told)
    assert told > 10 * HISTORIES_PER_TEST, "nearly nothing was answered"


@pytest.mark.parametrize("plant", DISK_PLANTS, ids=lambda plant: plant.name)
def test_histories_on_the_disk_find_that(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    first = 0 if FACTOR > 1 else FOUND_AT.get(plant.name, 0)
    plant.into(monkeypatch)
    for seed in range(first, HISTORIES_MAX):
        with monkeypatch.context() as patch:
            try:
                play_lives(seed, patch)
            except Exception as error:
                print(f"found at seed {seed}: {type(error).__name__}")
                return
    pytest.fail(f"not found in {HISTORIES_MAX} histories: {plant.name}")


def test_a_disk_that_lies_about_syncs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the runtime can make up for it: who does not see this sees nothing."""
    make = DiskWorld.__init__

    def lying(self: DiskWorld, plan: DiskPlan) -> None:
        make(self, plan)
        self.disk.lies = True

    monkeypatch.setattr(DiskWorld, "__init__", lying)
    for seed in range(20):
        with monkeypatch.context() as patch:
            try:
                play_lives(seed, patch)
            except Exception as error:
                print(f"found at seed {seed}: {type(error).__name__}: {error}")
                return
    pytest.fail("a disk that lies was not found out")


# Determinism -------------------------------------------------------------------------------------------------------------


def traced(seed: int) -> str:
    """What happened on the disk, every operation with its path, and what was answered."""
    logger.disable("seqtor")
    operations = hashlib.sha256()
    make = DiskWorld.__init__

    def watched(self: DiskWorld, plan: DiskPlan) -> None:
        make(self, plan)
        step = self.disk._step

        def note(files: object, kind: str, path: str, grows: int) -> None:
            operations.update(f"{kind} {path.replace(str(os.getpid()), 'pid')} {grows}\n".encode())
            step(files, kind, path, grows)

        self.disk._step = note

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskWorld, "__init__", watched)
        number = iter(range(1 << 30))
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(number)))
        world = play_lives(seed, patch)
    return f"{operations.hexdigest()} {sorted(world.told.items())} {sorted(world.disk.happened.items())}"


def test_the_same_seed_gives_the_same_operations_in_every_process_whatever_its_hash_seed() -> None:
    program = "from tests.simulation.test_disk import traced\nfor seed in range(6): print(traced(seed))"
    outputs = [printed(hash_seed, "-c", program).splitlines() for hash_seed in ("1", "2")]
    assert len(set(outputs[0])) == 6
    assert outputs[0] == outputs[1]
