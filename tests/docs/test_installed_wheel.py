"""What a stranger does: install the wheel somewhere, copy the README's first program, run it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.docs.pages import programs_of


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that knows nothing of the checkout."""
    hidden = ("PYTHON", "PYTEST_", "SEQTOR_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_installed_wheel_runs_the_first_program_of_the_readme(wheel: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = tmp_path / "environment"
    venv.create(environment)  # Without a pip of its own: ours installs into it, which is three times as fast.
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", wheel, cwd=elsewhere)
    place = run(python, "-c", "import seqtor; print(seqtor.__file__)", cwd=elsewhere).stdout.strip()
    assert Path(place).is_relative_to(environment), "this seqtor is not the one that was installed"

    first, *_ = programs_of(Path("README.md"))
    (elsewhere / "bank.py").write_text(first.text, encoding="utf-8")
    done = run(python, "-W", "error", "bank.py", cwd=elsewhere)
    assert (done.stdout, done.stderr) == (first.output, "")
    assert first.output == "95\n"

    testing = "import sys, seqtor.testing; print('pytest' in sys.modules, len(seqtor.testing.__all__) > 0)"
    assert run(python, "-W", "error", "-c", testing, cwd=elsewhere).stdout == "False True\n", "without pytest, too"

    (computing,) = programs_of(Path("docs/how-to/cpu-bound.md"))
    (elsewhere / "computing.py").write_text(computing.text, encoding="utf-8")
    done = run(python, "-W", "error", "computing.py", cwd=elsewhere)
    assert (done.stdout, done.stderr) == (computing.output, ""), "worker processes find the installed package, too"
