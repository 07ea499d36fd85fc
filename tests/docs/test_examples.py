"""Every example runs, in a short form, with the exit code that says that its own checks hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/__main__.py"))


def test_every_example_has_a_short_form_and_a_row_in_the_list() -> None:
    assert EXAMPLES == ["agent_desk", "trading_desk"], "write a test of its short form"
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert not [name for name in EXAMPLES if f"[{name}]({name})" not in listed]


def test_the_trading_desk_equals_a_plain_loop_to_the_last_digit(tmp_path: Path) -> None:
    pytest.importorskip("backtesting", reason="the recorded prices come with the extra [examples]")
    chart = tmp_path / "chart.html"
    done = subprocess.run(
        [sys.executable, "-m", "examples.trading_desk", "--bars", "200", "--chart", chart],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal a plain loop's to the last digit" in done.stdout
    assert "seqtor.actors" not in done.stderr, "the library is silent"
    assert chart.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
