"""Many colliding triggers per system: the state after every seq, results and errors are those of the serial order."""

from __future__ import annotations

import pytest

from tests.properties.execution import run_simulated, run_threaded
from tests.seeds import seeds
from tests.simulation.dense import dense_case

SEEDS_PER_TEST = 25


@pytest.mark.parametrize("first", seeds(250, SEEDS_PER_TEST))
def test_dense_programs_under_seeds_from(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            run_simulated(dense_case(seed), seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("first", seeds(150, SEEDS_PER_TEST))
def test_dense_programs_of_which_half_get_their_seq_when_they_are_done_under_seeds_from(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            run_simulated(dense_case(2_000_000 + seed, agents=0.5), seed)
        except Exception as error:
            error.add_note(f"case {2_000_000 + seed}, seed {seed}")
            raise


@pytest.mark.parametrize("first", seeds(25, SEEDS_PER_TEST))
def test_dense_programs_of_which_half_get_their_seq_when_they_are_done_on_real_threads_from(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            run_threaded(dense_case(3_000_000 + seed, agents=0.5))
        except Exception as error:
            error.add_note(f"case {3_000_000 + seed}")
            raise


@pytest.mark.parametrize("first", seeds(75, SEEDS_PER_TEST))
def test_dense_programs_on_real_threads_from(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            run_threaded(dense_case(1_000_000 + seed))
        except Exception as error:
            error.add_note(f"case {1_000_000 + seed}")
            raise
