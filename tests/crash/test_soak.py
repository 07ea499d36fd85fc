"""A short soak: actors are killed under full load, and nothing is lost; `make soak` is the long one."""

from __future__ import annotations

import subprocess
import sys


def test_a_short_soak_loses_nothing_and_gives_up_where_it_should() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "8"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    gave_up, counted = done.stdout.splitlines()[-2:]
    assert "crashed" in gave_up
    assert "triggers answered as in serial execution" in counted
