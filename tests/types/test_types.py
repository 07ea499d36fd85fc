"""Programs that use seqtor type-check under mypy --strict and pyright without plugins; mistakes are reported.

Both checkers are called as the Makefile calls them: with the repository's configuration, from its root.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HERE = Path("tests/types")
EXAMPLES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "examples").rglob("*.py"))]
CHECKERS = ("mypy", "pyright")
MISTAKE = re.compile(r"  # type: ignore\[[a-z-, ]+\].*$")
ERROR = re.compile(r"^\s*(?P<path>[^\s:]+):(?P<line>\d+)(?::\d+)?(?: -|:) error")


class Report:
    """What one checker said of some files."""

    def __init__(self, checker: str, *files: str) -> None:
        done = subprocess.run(
            [BIN / checker, *files], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
        )
        self.text = done.stdout + done.stderr
        assert re.search(r"^(Success|Found \d+ error|\d+ errors?,)", done.stdout, re.MULTILINE), self.text

    def errors_in(self, *places: str) -> list[str]:
        """The reports about files in these places; the package's own are `make types`' business."""
        return [line for line in self.text.splitlines() if any(p in place_of(line) for p in places)]


def place_of(line: str) -> str:
    found = ERROR.match(line)
    return found["path"] if found else ""


@pytest.fixture(scope="module")
def bare_mistakes() -> Iterator[Path]:
    """The mistakes without the comments that silence them."""
    path = ROOT / "build" / "mistakes_without_comments.py"
    lines = (ROOT / HERE / "mistakes.py").read_text("utf-8").splitlines()
    path.write_text("\n".join(MISTAKE.sub("", line) for line in lines) + "\n", encoding="utf-8")
    yield path
    path.unlink()


@pytest.fixture(scope="module", params=CHECKERS)
def report(request: pytest.FixtureRequest, bare_mistakes: Path) -> Report:
    """One run of each checker over everything."""
    files = (*EXAMPLES, str(HERE / "program.py"), str(HERE / "mistakes.py"), str(bare_mistakes.relative_to(ROOT)))
    return Report(request.param, *files)


def test_the_examples_type_check(report: Report) -> None:
    assert len(EXAMPLES) > 5
    assert report.errors_in("examples/") == []


def test_a_users_program_has_the_types_that_it_expects(report: Report) -> None:
    assert report.errors_in("types/program.py") == []


def test_no_comment_silences_a_mistake_that_is_not_reported(report: Report) -> None:
    assert report.errors_in("types/mistakes.py") == []


def test_every_mistake_is_reported_and_nothing_else(report: Report) -> None:
    source = (ROOT / HERE / "mistakes.py").read_text("utf-8").splitlines()
    expected = {number for number, line in enumerate(source, 1) if MISTAKE.search(line)}
    assert len(expected) > 25
    found = {int(ERROR.match(line)["line"]) for line in report.errors_in("mistakes_without_comments.py")}  # type: ignore[index]
    assert {source[number - 1] for number in expected - found} == set()
    assert {source[number - 1] for number in found - expected} == set()
