"""Programs that mix orders, footprints, executors, deadlines and all that a caller may say: as if one after another."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.mixed import mix_for_real, mix_simulated, run_for_real, run_simulated

FACTOR = float(os.environ.get("SEQTOR_EXAMPLES", "1"))
SEEDS_PER_TEST = 20


@pytest.mark.parametrize("first", range(0, max(SEEDS_PER_TEST, int(40 * FACTOR)), SEEDS_PER_TEST))
def test_programs_that_mix_everything_in_virtual_time_equal_the_serial_order_under_seeds_from(first: int) -> None:
    happened: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            happened += run_simulated(mix_simulated(seed), seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    kinds = {"loop deadline", "loop committed", "pool committed", "process committed"}
    wanted = kinds | {"deferred", "cancelled", "coalesced", "merged", "delayed", "rated"}
    assert wanted <= (+happened).keys(), "each of these happens, or nothing is shown of it"


@pytest.mark.parametrize("first", range(0, max(10, int(10 * FACTOR)), 10))
def test_programs_that_mix_everything_on_threads_and_in_processes_equal_the_serial_order_under_seeds_from(
    first: int,
) -> None:
    happened = run_for_real(mix_for_real(first, 10))
    assert {"loop committed", "pool committed", "process committed"} <= happened.keys()
