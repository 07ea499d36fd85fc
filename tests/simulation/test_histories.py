"""A part of the search in every run of the tests; `make simulate` goes on from there."""

from __future__ import annotations

import os

import pytest

from tests.seeds import seeds
from tests.simulation.histories import WORLDS, Search, number_of, play, search, search_on_cores, world_of

HISTORIES_PER_TEST = 60
PLAYED_ELSEWHERE = 100_000  # Other seeds than those with which planted bugs are looked for.


@pytest.mark.parametrize("first", seeds(240, HISTORIES_PER_TEST))
def test_nothing_is_found_in_histories_from(first: int) -> None:
    for seed in range(first, first + HISTORIES_PER_TEST):
        try:
            play(PLAYED_ELSEWHERE + seed)
        except Exception as error:
            error.add_note(f"again: python -m tests.simulation.histories --seed {PLAYED_ELSEWHERE + seed}")
            raise


def test_no_history_is_played_twice() -> None:
    played = [(world_of(seed), number_of(seed)) for seed in range(10 * len(WORLDS))]
    assert len(set(played)) == len(played)


def test_what_is_found_is_told_with_the_command_that_plays_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(seed: int) -> None:
        if seed == 3:
            raise AssertionError("it does not hold")

    monkeypatch.setattr("tests.simulation.histories.play", found)
    happened, _ = search(range(5))
    assert (happened["histories"], happened["found"]) == (5, 1)
    text = capsys.readouterr().out
    assert "it does not hold" in text
    assert "found AssertionError; again: python -m tests.simulation.histories --seed 3" in text


def test_the_search_counts_what_it_has_played() -> None:
    happened, virtual_s = search(range(15))
    assert happened["histories"] == 15
    assert happened["processes"] > 15, "some died, and were started again"
    assert happened["actors crashed"] > 0
    assert virtual_s > 0


def play_badly(seed: int) -> None:
    """One history that never ends, one that takes its process with it, one that does not hold."""
    while seed == 3:
        pass
    if seed == 6:
        os._exit(7)
    assert seed != 9, "it does not hold"


def test_a_history_that_hangs_or_ends_its_process_is_told_and_the_search_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    happened, _ = search_on_cores(Search(first=0, count=14, cores=2, hangs_s=3.0), play_badly)
    out, err = capfd.readouterr()
    told = [line for line in out.splitlines() if line.startswith("found")]
    again = "again: python -m tests.simulation.histories --seed"
    assert sorted(told) == [
        f"found AssertionError; {again} 9",
        f"found that it hangs or ends its process (exit code 1); {again} 3",
        f"found that it hangs or ends its process (exit code 7); {again} 6",
    ]
    assert "in play_badly" in err, "where it hangs"
    assert happened["found"] == 3
    assert happened["histories"] == 14 + 2, "all of them, and two of the disk"


def test_so_many_histories_are_played_as_were_asked_for() -> None:
    seeds = [seed for first in (100, 101) for seed in Search(first=100, count=20, cores=2).seeds(first)]
    assert sorted(seed for seed in seeds if seed >= 0) == list(range(100, 120))
    assert len([seed for seed in seeds if seed < 0]) > 0, "some on the disk"
