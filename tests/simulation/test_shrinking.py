"""A history that fails is made small and told: it still fails in the same way, and is told the same in every process."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
from loguru import logger

from seqtor.testing import Violated
from seqtor.testing.checkers.evidence import Violation
from tests.other_processes import printed
from tests.simulation import histories
from tests.simulation.histories import find, play, play_plan, search
from tests.simulation.history_trace import traced_history
from tests.simulation.planted import DISK_PLANTS, PLANTS, SYSTEM_PLANTS, Plant
from tests.simulation.shrinking import made_small, way_of
from tests.simulation.telling import Told, note

ALL = 1 << 30


class Found(NamedTuple):
    """A plant, a seed that finds it, and what is made of that with so many plays: what part of the triggers is left at most.

    `about` finds in the message of the error which seq or number it is about, `line` is what the trace says of that.
    """

    plant: str
    seed: int
    tries: int
    part: float
    about: str
    line: str


SYSTEM = Found(
    "what is matched is matched again after a restart", 14, 30, 0.1, r"has ended twice: \d+ and (\d+)", " seq {} ("
)
MIXED = Found("only what was also written is validated", 11, 60, 0.7, r"^seq (\d+)", " seq {} (")
DISK = Found(
    "the journal is not synced", -1, 40, 0.2, r"accepted and lost: \[(\d+)", "is handed in, under the key '{}'"
)
KILLED = Found("an older epoch's intent is accepted", 1, 60, 0.4, r"the commit of seq (\d+)", " seq {} (")


def plant(name: str) -> Plant:
    return next(each for each in (*SYSTEM_PLANTS, *PLANTS, *DISK_PLANTS) if each.name == name)


@pytest.mark.parametrize("found", [SYSTEM, MIXED, KILLED, DISK], ids=["system", "mixed", "killed", "disk"])
def test_a_history_that_fails_becomes_small_fails_in_the_same_way_and_is_told_up_to_what_fails(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(found.plant).into(monkeypatch)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever the plant leads to.
        play(found.seed)
    small = find(found.seed, found.tries)
    assert small.way == way_of(raised.value)
    triggers, left = small.sizes["triggers"]
    assert 0 < left <= found.part * triggers
    assert small.plays <= found.tries
    about = re.search(found.about, str(small.error))
    assert about is not None, small.error
    assert any(found.line.format(about[1]) in line for line in small.lines), small.lines
    text = "\n".join(small.told())
    end = "\n".join([small.way.line, *[f"      {line}" for line in (str(small.error), *small.runs)]])
    assert text.endswith(end), "what has failed comes last"
    assert all(run.partition(" is ")[0] in "\n".join(small.lines) for run in small.runs)
    assert bool(small.runs) == (found is SYSTEM), "its error names a run by its id"


def told(found: Found) -> str:
    """A history that fails, made small and told, in a process of its own."""
    logger.disable("seqtor")
    with pytest.MonkeyPatch.context() as patch:
        plant(found.plant).into(patch)
        return "\n".join(find(found.seed, 6).told())


def test_the_same_history_is_told_byte_for_byte_in_every_process_whatever_its_hash_seed() -> None:
    program = (
        "from tests.simulation.test_shrinking import DISK, KILLED, MIXED, SYSTEM, told\n"
        "for found in (SYSTEM, MIXED, KILLED, DISK): print(told(found))"
    )
    outputs = [printed(hash_seed, "-c", program) for hash_seed in ("1", "2")]
    assert outputs[0].count("FOUND ") == 4
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("seed", [74, 133, -2, 1])  # Systems, the disk, killed actors.
def test_what_was_drawn_while_it_was_played_plays_the_same_as_data(seed: int) -> None:
    played: list[Any] = []
    lines = []
    for plan in (None, "played"):
        with Told() as drawn:
            play_plan(seed, plan and played[-1], played.append)
        lines.append(drawn.lines(ALL))
    assert len(lines[0]) > 100
    assert lines[0] == lines[1]
    assert played[0] == played[1]


@pytest.mark.parametrize("seed", [0, 1, 3, 6, 9, 10, 12, 13, -1])  # Of each world one.
def test_what_is_told_plays_as_it_does_untold(seed: int) -> None:
    untold = traced_history(seed)
    with Told() as told:
        assert traced_history(seed) == untold
    assert any(" seq 1 (" in line for line in told.lines(ALL)), "how a seq has ended"


def test_a_world_that_is_no_data_says_so_and_is_told_all_the_same() -> None:
    def fail(plan: Any, played: Any) -> None:
        play(3)
        raise AssertionError("at the end of it")

    small = made_small(fail, None, tries=3)
    text = "\n".join(small.told())
    assert "what is done in this world is not made smaller, only who goes when" in text
    assert "is answered: committed" in text
    assert text.endswith("at the end of it")
    assert small.sizes["switches"] == (small.sizes["switches"][0], 0), "who has waited longest goes"
    assert small.plays == 1


def test_of_a_long_history_the_end_is_told() -> None:
    with Told() as told:
        for number in range(10):
            note(f"deed {number}")
    assert told.lines(3) == ["... 7 lines before these", *[f"      0.000 -- deed {number}" for number in (7, 8, 9)]]


def test_what_holds_is_no_find() -> None:
    with pytest.raises(LookupError):
        find(0)


def test_ways_to_fail_are_told_apart_by_the_error_its_place_its_checker_and_its_cause() -> None:
    def raised(error: Exception, cause: Exception | None = None) -> Exception:
        try:
            raise error from cause
        except type(error) as found:
            return found

    def elsewhere() -> Exception:
        try:
            raise AssertionError("seq 3")
        except AssertionError as found:
            return found

    def on_lines(number: int) -> Exception:
        try:
            if number % 2:
                raise AssertionError(number)
            raise AssertionError(number)
        except AssertionError as found:
            return found

    def violated(checker: str) -> Exception:
        return Violated((Violation(checker, 3, "text"),))

    same = [raised(AssertionError(f"seq {number}")) for number in (3, 4)]
    assert len({way_of(each) for each in same}) == 1, "numbers are no part of it"
    others = [
        raised(ValueError("seq 3")), raised(AssertionError(), ValueError()), raised(AssertionError(), KeyError()),
        elsewhere(), on_lines(1), on_lines(2), raised(violated("reads")), raised(violated("one record")),
    ]  # fmt: skip
    assert len({way_of(each) for each in [*same, *others]}) == 1 + len(others)


def test_only_the_first_that_a_search_finds_are_made_small(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(seed: int, *_: object) -> None:
        raise AssertionError(f"seed {seed} does not hold")

    def play_and_fail(seed: int, plan: Any, played: Any) -> None:
        play_plan(3, None, lambda _: None)
        fail(seed)

    monkeypatch.setattr(histories, "play", fail)
    monkeypatch.setattr(histories, "play_plan", play_and_fail)
    happened, virtual_s = search(range(4), tries=1)
    assert (happened["histories"], happened["found"]) == (4, 4)
    assert (happened["processes"], happened["actors crashed"], virtual_s) == (0, 0, 0.0), (
        "counted where it was found only"
    )
    text = capsys.readouterr().out
    assert [text.count(f"      seed {seed} does not hold") for seed in range(4)] == [1, 1, 0, 0]
    assert (
        text.count("it is played again, to be told") == text.count("not made smaller: it is not among the first") == 2
    )
    assert text.count("again: python -m tests.simulation.histories --seed") == 4
