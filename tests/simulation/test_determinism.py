"""One integer gives one execution, down to every step, in every process."""

from __future__ import annotations

from tests.other_processes import printed
from tests.simulation.histories import WORLDS
from tests.simulation.trace import traced

SEEDS = 40


def trace_hashes(hash_seed: str, module: str = "trace") -> list[str]:
    """The hashes of the traces, from a process with this hash seed."""
    return printed(hash_seed, "-m", f"tests.simulation.{module}", "0", str(SEEDS)).splitlines()


def test_the_same_seed_gives_the_same_trace_in_every_process_whatever_its_hash_seed() -> None:
    first = trace_hashes("1")
    assert len(first) == 2 * SEEDS
    assert first == trace_hashes("2")


def test_all_worlds_are_the_same_in_every_process_whatever_its_hash_seed() -> None:
    assert len(WORLDS) < SEEDS, "each world is played"
    first = trace_hashes("3", "history_trace")
    assert len(set(first)) == SEEDS
    assert first == trace_hashes("4", "history_trace")


def test_the_same_seed_gives_the_same_trace_twice_in_one_process() -> None:
    for seed in range(5):
        assert traced(seed) == traced(seed)


def test_another_seed_gives_another_trace() -> None:
    assert len({tuple(traced(seed)) for seed in range(5)}) == 5
