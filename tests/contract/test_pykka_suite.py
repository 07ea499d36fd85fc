"""pykka's own test suite passes with our actors, on the elastic dispatcher and on the pool.

The suite is taken from pykka's source distribution on PyPI when this file runs, for the version that is installed; it
is kept in `build/pykka-sdist` and never copied into the repository. What is left out is listed here by name, with its
reason, and is run too: a test that has come to pass, or is gone, must leave the list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SDISTS = ROOT / "build" / "pykka-sdist"
RUNTIMES = ("elastic", "pool")
TESTS_MIN = 130  # on each runtime; pykka 4.5.0 has 133 and 12 that need none
DEAD_THREAD = "error::pytest.PytestUnhandledThreadExceptionWarning"  # A dispatcher's thread that dies fails the suite.

ABOUT_ANOTHER_ACTOR = {
    "tests/test_threading_actor.py": "tests the threads that ThreadingActor starts; our actors own none",
}
DEMANDS_WHAT_IS_REPAIRED = {
    "tests/proxy/test_static_method_calls.py::test_exception_in_method_reraised_by_future": (
        "demands that an exception in an ask does not end the actor; ours has crashed, because its state may be half "
        "changed, and on_failure is called"
    ),
    "tests/test_actor.py::test_all_actors_are_stopped_on_base_exception": (
        "demands that a BaseException in one actor stops every actor of the process; ours ends that actor, as a crash"
    ),
    "tests/test_logging.py::test_base_exception_is_logged": (
        "demands the log line that says that all actors are being stopped, after a BaseException in one"
    ),
}


class Outcomes(NamedTuple):
    """Names of the suite's tests, with the runtime in brackets, and what pytest printed."""

    passed: list[str]
    failed: list[str]
    skipped: list[str]
    printed: str


class SuiteRun:
    """One pytest process over the suite."""

    def __init__(self, suite: Path, folder: Path, *selection: str) -> None:
        self._report = folder / "report.xml"
        self._printed = folder / "printed.txt"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
        with self._printed.open("w") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-W", DEAD_THREAD, "-p", "no:randomly", "-p", "no:cacheprovider",
                 "--timeout", "60", "--tb", "short", f"--junitxml={self._report}", *selection],
                cwd=suite,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def outcomes(self) -> Outcomes:
        """Wait for the end of the process."""
        self.process.wait()
        printed = self._printed.read_text()
        assert self._report.exists(), printed
        found = Outcomes([], [], [], printed)
        for case in ElementTree.parse(self._report).iter("testcase"):
            kinds = {part.tag for part in case} & {"failure", "error", "skipped"}
            bucket = found.passed if not kinds else found.skipped if kinds == {"skipped"} else found.failed
            bucket.append(f"{case.get('classname')}::{case.get('name')}")
        return found


def download(requirement: str) -> None:
    """Put the source distribution into `build/pykka-sdist`, whole or not at all."""
    SDISTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SDISTS) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--no-binary", "pykka", "--dest", folder, requirement],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"pip could not download {requirement} as source:\n{done.stdout}{done.stderr}"
        for archive in Path(folder).iterdir():
            archive.replace(SDISTS / archive.name)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite of the installed pykka, extracted, with our conftest.py before its own."""
    name = f"pykka-{version('pykka')}"
    archive = SDISTS / f"{name}.tar.gz"
    if not archive.exists():
        download(f"pykka=={version('pykka')}")
    folder = tmp_path_factory.mktemp("pykka")
    with tarfile.open(archive) as contents:
        contents.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)  # Python < 3.11.4
        contents.extractall(folder)
    extracted = folder / name
    conftest = extracted / "tests" / "conftest.py"
    conftest.rename(conftest.with_name("pykka_conftest.py"))
    shutil.copy2(Path(__file__).with_name("pykka_runtimes.py"), conftest)
    return extracted


@pytest.fixture(scope="module")
def runs(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SuiteRun]]:
    """The suite without what is listed, and each listed test by itself; all at once, because those wait for 5 s."""
    leave_out = [f"--ignore={name}" for name in ABOUT_ANOTHER_ACTOR]
    leave_out += [f"--deselect={name}" for name in DEMANDS_WHAT_IS_REPAIRED]
    started = {"suite": SuiteRun(suite, tmp_path_factory.mktemp("suite"), "tests", *leave_out)}
    for test in DEMANDS_WHAT_IS_REPAIRED:
        for runtime in RUNTIMES:
            name = f"{test}[{runtime}]"
            started[name] = SuiteRun(suite, tmp_path_factory.mktemp("listed"), name)
    yield started
    for run in started.values():
        run.process.kill()
        run.process.wait()


@pytest.fixture(scope="module")
def outcomes(runs: dict[str, SuiteRun]) -> Outcomes:
    return runs["suite"].outcomes()


def test_pykkas_own_suite_passes_on_our_actors(runs: dict[str, SuiteRun], outcomes: Outcomes) -> None:
    assert not outcomes.failed, outcomes.printed
    assert runs["suite"].process.returncode == 0, outcomes.printed


def test_nothing_of_the_suite_is_skipped_in_silence(suite: Path, outcomes: Outcomes) -> None:
    assert not outcomes.skipped
    modules = {name.partition("::")[0].replace(".", "/") + ".py" for name in outcomes.passed}
    files = {path.relative_to(suite).as_posix() for path in (suite / "tests").rglob("test_*.py")}
    assert modules == files - set(ABOUT_ANOTHER_ACTOR)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_whole_suite_runs_on_each_dispatcher(runtime: str, outcomes: Outcomes) -> None:
    assert len([name for name in outcomes.passed if f"[{runtime}" in name]) >= TESTS_MIN


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("test", DEMANDS_WHAT_IS_REPAIRED)
def test_each_test_left_out_exists_and_fails(test: str, runtime: str, runs: dict[str, SuiteRun]) -> None:
    found = runs[f"{test}[{runtime}]"].outcomes()
    assert len(found.failed) == 1, f"take {test} off the list: it passes, or pykka has it no more\n{found.printed}"
    assert not found.passed
    assert not found.skipped


@pytest.mark.parametrize("file", ABOUT_ANOTHER_ACTOR)
def test_each_file_left_out_exists(file: str, suite: Path) -> None:
    assert (suite / file).exists()
