"""The search finds bugs: each of those that are planted is found within so many histories."""

from __future__ import annotations

import pytest

from tests.simulation.histories import play
from tests.simulation.planted import PLANTS, SYSTEM_PLANTS, Plant
from tests.simulation.systems.world import play_system

HISTORIES_MAX = 230
SYSTEMS_MAX = 70


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_the_search_finds_that(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.into(monkeypatch)
    for seed in range(HISTORIES_MAX):
        try:
            play(seed)
        except Exception as error:
            print(f"found at seed {seed}: {type(error).__name__}")
            return
    pytest.fail(f"not found in {HISTORIES_MAX} histories: {plant.name}")


@pytest.mark.parametrize("plant", SYSTEM_PLANTS, ids=lambda plant: plant.name)
def test_the_search_of_systems_finds_that(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.into(monkeypatch)
    for seed in range(SYSTEMS_MAX):
        try:
            with pytest.MonkeyPatch.context() as patch:
                play_system(seed, patch)
        except Exception as error:
            print(f"found at seed {seed}: {type(error).__name__}")
            return
    pytest.fail(f"not found in {SYSTEMS_MAX} systems: {plant.name}")
