"""Kill -9 of a real process between a fact and the run that it starts: exactly one run, at every point."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from seqtor import Supervisor
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.reactions_program import EXPECTED, MOMENTS, PLAIN, make_system
from tests.services.postgres import until

ROOT = Path(__file__).parents[2]
STARTS = 20


def live(journal: Path, moment: str = "-", count: int = 1) -> int:
    """One life of the program; returns how it ended."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.crash.reactions_program", str(journal), moment, str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def is_noted(system: Supervisor, text: str) -> bool:
    return text in system.snapshot()[system.stores["notes"]]


def noted(journal: Path) -> Counter[str]:
    """How often each text was noted by a run that is on disk, and that knows its facts."""
    backend = SqliteBackend(journal)
    opened = backend.open(write=False)
    try:
        records = [json.loads(row.body) for row in backend.commits(1, opened.commits_through)]
    finally:
        backend.close()
    notes = [record for record in records if record["trigger"]["type"] == "Note"]
    assert all(record["causes"] for record in notes)
    return Counter(record["trigger"]["payload"]["text"] for record in notes)


def test_facts_that_a_start_finds_are_matched_once_and_what_they_start_is_executed(tmp_path: Path) -> None:
    journal = tmp_path / "notes.db"
    live(journal, "before a decision is written")
    for number in range(STARTS):  # What is matched before the start has come to its end is a matter of microseconds.
        copy = tmp_path / str(number) / journal.name
        copy.parent.mkdir()
        for file in filter(Path.is_file, tmp_path.glob(f"{journal.name}*")):
            shutil.copy(file, copy.parent)
        with make_system(copy) as system:
            until(partial(is_noted, system, "first 0"), "what an event has started is executed")
        assert noted(copy)["first 0"] == 1


def test_a_reaction_that_is_new_in_a_process_that_is_killed_misses_nothing_and_looks_at_nothing_before(
    tmp_path: Path,
) -> None:
    journal = tmp_path / "notes.db"
    assert live(journal, PLAIN) == -signal.SIGKILL
    assert live(journal, "before a decision is written") == -signal.SIGKILL
    with make_system(journal) as system:
        until(partial(is_noted, system, "first 0"), "what an event has started is executed")
    assert {text for text in noted(journal) if text.startswith("first")} == {"first 0"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_is_killed_at_any_moment_starts_each_run_once(moment: str, tmp_path: Path) -> None:
    journal = tmp_path / "notes.db"
    for count in (1, 2):
        live(journal, moment, count)
        if journal.exists():
            with make_system(journal) as system:  # It hands nothing in: what is on disk is finished.
                events = system.events(limit=None)
            so_far = noted(journal)
            assert set(so_far.values()) <= {1}
            assert {f"{event.code} {event.payload}" for event in events} <= set(so_far)
    assert live(journal) == 0
    with make_system(journal) as system:
        system.verify()
        assert {event.payload: len(event.started) for event in system.events(code="first")} == {0: 2, 1: 2, 2: 2}
    assert noted(journal) == EXPECTED
