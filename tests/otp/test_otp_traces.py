"""The same starts, exits, crashes and shutdowns on Erlang/OTP (recorded) and on ours: what happened is the same.

The recorded traces are data; `make otp-traces` makes them anew and needs Erlang, this test does not.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.otp.player import Player
from tests.otp.scenarios import SCENARIOS, Scenario

RECORDED: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "traces.json").read_text())["traces"]
UNORDERED = ("stop", "killed")


def comparable(scenario: Scenario, trace: list[list[Any]]) -> list[list[Any]]:
    """OTP stops the children of simple_one_for_one together: there the order of their ends is not a promise."""
    trace = [["state", *map(list, event[1:])] if event[0] == "state" else event for event in trace]
    if scenario.top.strategy != "simple_one_for_one":
        return trace
    made: list[list[Any]] = []
    for unordered, events in groupby(trace, lambda event: event[0] in UNORDERED):
        made += sorted(events) if unordered else events
    return made


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_what_happens_is_what_happens_on_otp(scenario: Scenario) -> None:
    for seed in range(3):
        assert comparable(scenario, Player(seed).play(scenario)) == comparable(scenario, RECORDED[scenario.name])


def test_every_scenario_was_recorded_and_no_other() -> None:
    assert list(RECORDED) == [scenario.name for scenario in SCENARIOS]
    assert len(SCENARIOS) >= 150
