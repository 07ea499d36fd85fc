"""A part of the search in every run of the tests; `make simulate` goes on from there."""

from __future__ import annotations

import pytest

from tests.seeds import seeds
from tests.simulation.histories import WORLDS, number_of, play, search, world_of

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
