"""Every example runs, in a short form, with the exit code that says that its own checks hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.custom_store.__main__ import main as custom_store
from examples.media_pipeline.__main__ import main as media_pipeline

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/__main__.py"))


def test_every_example_has_a_short_form_and_a_row_in_the_list() -> None:
    assert EXAMPLES == ["agent_desk", "custom_store", "media_pipeline", "trade_state", "trading_desk"], (
        "write a test of its short form"
    )
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


def test_the_media_pipeline_makes_of_every_article_what_its_reactions_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert media_pipeline() == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "https://news.example/flood       withdrawn: the readers of the flood are cut off\n" in printed.out
    assert "https://news.example/speech      summarised\n" in printed.out, "nobody has cleared its rights"
    assert "publish        4 runs" in printed.out


def test_the_stores_of_one_s_own_follow_the_journal_while_the_device_is_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert custom_store() == 0
    printed = capsys.readouterr().out
    assert "rejected: the measurement jumps" in printed
    assert "the device has {'speed': 36, 'valve': 1}" in printed
