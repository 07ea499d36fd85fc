"""Kill -9 in the middle of a call: what was answered is not asked again, what was in flight is, once, under its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.caller import MOMENTS

ROOT = Path(__file__).parents[2]


def live(folder: Path, moment: str, handler: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.crash.caller", folder / "calls.db", folder / "calls.txt", moment, handler],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("handler", ["sync", "async", "agent-sync", "agent-async"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_at_most_the_call_in_flight_is_made_once_more_after_a_kill(moment: str, handler: str, tmp_path: Path) -> None:
    killed = live(tmp_path, moment, handler)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = (tmp_path / "calls.txt").read_text().splitlines()
    ended = live(tmp_path, "never", handler)
    assert ended.returncode == 0, ended.stderr
    after = (tmp_path / "calls.txt").read_text().splitlines()[len(before) :]
    in_first_life, in_second_life = MOMENTS[moment]
    assert [line.split()[0] for line in before] == in_first_life
    assert [line.split()[0] for line in after] == in_second_life
    ids = dict(line.split() for line in before + after)
    assert all(ids[which] == call_id for which, call_id in (line.split() for line in before + after)), "the same ids"
    answer, levels, executed = ended.stdout.splitlines()
    assert answer.startswith("second to first to 0 "), "asked about what the first attempt saw, before the change"
    assert levels == "10 11"
    assert executed == "2"
