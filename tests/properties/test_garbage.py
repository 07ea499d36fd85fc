"""20,000 runs leave nothing for the cycle collector: a reference cycle per run would cost a third of the throughput."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.properties.garbage import KINDS, PLACES

ROOT = Path(__file__).parents[2]

both = pytest.mark.parametrize("handler", ["sync", "async"])
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What `tests.properties.garbage` found, by name."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.properties.garbage"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(line) for line in ran.stdout.splitlines())


@pytest.mark.parametrize("place", PLACES)
def test_20000_runs_leave_no_cycles(place: str, found: dict[str, Any]) -> None:
    assert found[place] == {}


@both
@every_kind
def test_a_run_leaves_no_cycle_if_it(kind: str, handler: str, found: dict[str, Any]) -> None:
    assert found[f"{kind}, {handler}"] == {}


@both
@every_kind
def test_what_is_kept_of_a_run_keeps_no_old_snapshots_alive_if_it(
    kind: str, handler: str, found: dict[str, Any]
) -> None:
    """Whoever holds one publication holds all after it: a single kept record could hold the whole history."""
    assert found[f"{kind}, {handler}, kept"] < 10
