"""`seqtor reactions`: what a running system reacts to, from the command line."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from seqtor import Facts, Supervisor, Trigger, on_event
from seqtor.cli.app import app

WAIT_S = 20.0


class Note(Trigger[None], name="reactions-command.note"):
    """Does nothing."""


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["reactions", *arguments])


def test_it_lists_reactions_their_failures_and_what_waits_for_more_facts(tmp_path: Path) -> None:
    path, decided = tmp_path / "journal.db", threading.Event()
    system = Supervisor(path)
    system.on(Note)(lambda trigger, tx: decided.set())
    system.when(on_event("a"), name="told")(lambda facts: Note())

    @system.when((on_event("a") & on_event("b")).correlate(lambda fact: fact.payload), name="both")
    def both(facts: Facts) -> Note:
        return Note()

    @system.when(on_event("a"), name="broken")
    def broken(facts: Facts) -> Note:
        raise LookupError("nothing there")

    with system:
        event = system.emit("a", "x")
        assert decided.wait(WAIT_S), "what is decided of one fact is recorded at once"
        broken_line, failed, both_line, half_met, told = run("--journal", str(path)).stdout.splitlines()
        found = json.loads(run("--journal", str(path), "--json").stdout)["reactions"]
    assert broken_line == "broken  event a  0 started, 1 failed"
    assert failed.startswith("  failed last: ")
    assert failed.endswith("LookupError: nothing there")
    assert both_line == "both  event a & event b  0 started"
    assert half_met.startswith('  half met  key "x"  since ')
    assert half_met.endswith(f"has {event}, waits for event b")
    assert told == "told  event a  1 started"
    assert [each["name"] for each in found] == ["broken", "both", "told"]


def test_a_program_without_reactions_says_so_beside_the_result(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Supervisor(path):
        listed = run("--journal", str(path))
    assert (listed.exit_code, listed.stdout, listed.stderr) == (0, "", "the program registers no reaction\n")
    stopped = run("--journal", str(path))
    assert stopped.exit_code == 3
