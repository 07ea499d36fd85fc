"""kill -9 between a tick and its run: every slot starts one run, whichever process starts it."""

from __future__ import annotations

from pathlib import Path

from tests.crash.schedules_program import killed_at_the_end, office, require_each_slot_once
from tests.services.postgres import until


def test_processes_that_are_killed_at_any_point_start_each_slot_once(tmp_path: Path) -> None:
    journal = str(tmp_path / "office.db")
    for lines in (2, 5, 12):
        with killed_at_the_end(journal, lines):
            pass
    with office(journal) as system:
        before = system.schedules()[0].started
        until(lambda: system.schedules()[0].started > before + 3, "it goes on")
        require_each_slot_once(system)
