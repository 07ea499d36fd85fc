"""The pytest plugin: the fixture for who asks for it, and nothing for who does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

USES_IT = """
from seqtor import Supervisor, Trigger

class Ping(Trigger[str]): ...

system = Supervisor()
system.on(Ping)(lambda trigger, tx: "pong")
started = []

def test_a_system(seqtor_run):
    with seqtor_run(system, seed=3) as desk:
        assert desk.ask(Ping()) == "pong"
        desk.clock.advance(minutes=5)

def test_one_that_is_not_stopped(seqtor_run):
    desk = seqtor_run(system)
    desk.start()
    started.append(desk)
    assert desk.ask(Ping()) == "pong"

def test_that_it_was_stopped_all_the_same():
    assert [desk.life.value for desk in started] == ["stopped"]
"""
USES_NOTHING = """
import sys

def test_nothing_is_imported():
    assert "_seqtor_pytest" in sys.modules
    assert not [name for name in sys.modules if name == "seqtor" or name.startswith("seqtor.")]
"""


def pytest_in(folder: Path, program: str) -> str:
    """Run a test file as a project of its own does; what pytest prints."""
    (folder / "test_of_a_user.py").write_text(program, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SEQTOR_"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "--rootdir",
            folder,
            folder,
        ],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_test_that_asks_for_the_fixture_runs_a_system(tmp_path: Path) -> None:
    assert "3 passed" in pytest_in(tmp_path, USES_IT)


def test_who_does_not_use_the_fixture_does_not_import_the_runtime(tmp_path: Path) -> None:
    assert "1 passed" in pytest_in(tmp_path, USES_NOTHING)
