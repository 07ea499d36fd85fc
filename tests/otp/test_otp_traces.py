"""The same starts, exits, crashes and shutdowns on Erlang/OTP (recorded) and on ours: what happened is the same.

The recorded traces are data; `make otp-traces` makes them anew and needs Erlang, this test does not.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.otp.player import Player
from tests.otp.scenarios import SCENARIOS, Node, Scenario

RECORDED: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "traces.json").read_text())["traces"]
UNORDERED = ("stop", "killed")


def comparable(scenario: Scenario, trace: list[list[Any]]) -> list[list[Any]]:
    """OTP stops the children of simple_one_for_one together: there the order of their ends is not a promise."""
    trace = [["state", *map(list, event[1:])] if event[0] == "state" else event for event in trace]
    if scenario.top.strategy != "simple_one_for_one":
        return trace
    made: list[list[Any]] = []
    for unordered, events in groupby(trace, lambda event: event[0] in UNORDERED):
        together = list(events)
        made += sorted(together) if unordered else together
    return made


# A transient supervisor that gives up: OTP takes that for an end in order, ours for a crash, as if it were permanent
# (docs/decisions/0012-supervision.md). Each with the scenario that differs from it in that one word.
DIFFERENT = {"tree 4": "tree 1", "tree 5": "tree 2", "tree 14": "tree 11", "tree 23": "tree 20"}
AGREED = tuple(scenario for scenario in SCENARIOS if scenario.name not in DIFFERENT)
NAMED = {scenario.name: scenario for scenario in SCENARIOS}
SEEDS = range(3)


@pytest.mark.parametrize("scenario", AGREED, ids=[scenario.name for scenario in AGREED])
def test_what_happens_is_what_happens_on_otp(scenario: Scenario) -> None:
    for seed in SEEDS:
        assert comparable(scenario, Player(seed).play(scenario)) == comparable(scenario, RECORDED[scenario.name])


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_transient_supervisor_that_gives_up_is_restarted_where_otp_leaves_it(name: str) -> None:
    scenario, twin = NAMED[name], NAMED[DIFFERENT[name]]
    (below,) = (child for child in scenario.top.children if isinstance(child, Node))
    permanent = tuple(
        replace(child, restart="permanent") if child is below else child for child in scenario.top.children
    )
    assert (replace(scenario.top, children=permanent), scenario.steps) == (twin.top, twin.steps)
    for seed in SEEDS:
        played = comparable(scenario, Player(seed).play(scenario))
        assert played == comparable(twin, RECORDED[twin.name])
        assert played != comparable(scenario, RECORDED[name])


def test_every_scenario_was_recorded_and_no_other() -> None:
    assert list(RECORDED) == [scenario.name for scenario in SCENARIOS]
    assert len(SCENARIOS) >= 150
