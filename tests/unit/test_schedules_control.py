"""Schedules of a running system from other processes: `connect` and `seqtor schedules`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqtor import Connection, Supervisor, Transaction, Trigger, connect
from seqtor.cli.app import app
from tests.programs import WAIT_S


class Report(Trigger[None], name="schedules-control.report"):
    """Does nothing."""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "office.db"
    system = Supervisor(path)

    @system.on(Report)
    def report(trigger: Report, tx: Transaction) -> None:
        assert tx.scheduled_for is not None

    system.schedule(Report(), cron="0 3 1 1 *", name="yearly")
    with system:
        yield path


@pytest.fixture
def connection(journal: Path) -> Iterator[Connection]:
    with connect(journal, timeout=WAIT_S) as connection:
        yield connection


def test_a_connected_process_lists_and_changes_schedules(connection: Connection) -> None:
    [record] = connection.schedules()
    assert (record.name, record.trigger, record.when) == ("yearly", "schedules-control.report", "0 3 1 1 *")
    assert (record.plan.cron, record.paused, record.started) == ("0 3 1 1 *", False, 0)
    yearly = connection.schedule_named("yearly")
    first, second = yearly.next(2)
    assert (first.month, first.hour, second.year - first.year) == (1, 3, 1)
    assert record.next == first.timestamp()
    yearly.pause()
    assert connection.schedules()[0].paused
    assert yearly.next() == []
    run = yearly.fire()
    yearly.resume()
    assert not connection.schedules()[0].paused
    assert any(each.trigger.trigger_name == "schedules-control.report" for each in connection.runs()) or run
    yearly.remove()
    assert connection.schedules() == []
    with pytest.raises(LookupError, match="there is no schedule 'yearly'"):
        yearly.pause()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["schedules", *arguments])


def test_what_only_looks_reads_the_journal_of_a_system_that_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "office.db"
    system = Supervisor(path)
    system.on(Report)(lambda trigger, tx: None)
    system.schedule(Report(), cron="0 3 1 1 *", name="yearly")
    with system:
        system.schedule(Report(), every=3600, name="hourly").pause()
    where = ("--journal", str(path))
    hourly, yearly = run("list", *where).stdout.splitlines()
    assert hourly == "hourly  schedules-control.report  every 3600 s  paused  never started  0 started, 0 missed"
    assert yearly.startswith("yearly  schedules-control.report  0 3 1 1 *  next ")
    found = json.loads(run("list", "--json", *where).stdout)["schedules"]
    assert [(each["name"], each["paused"], each["plan"]["cron"]) for each in found] == [
        ("hourly", True, None),
        ("yearly", False, "0 3 1 1 *"),
    ]
    first, second = json.loads(run("next", "yearly", "--count", "2", "--json", *where).stdout)["next"]
    assert first == found[1]["next"]
    assert 365 <= (second - first) / 86400 <= 366
    paused = run("next", "hourly", *where)
    assert (paused.stdout, paused.stderr) == ("", "no slot of hourly follows: it is paused, or has had its last\n")
    for name in ("yearli", "x"):
        unknown = run("next", name, *where)
        assert (unknown.exit_code, unknown.stdout) == (2, "")
        assert f"there is no schedule {name!r}" in unknown.stderr
        assert ("did you mean 'yearly'" in unknown.stderr) == (name == "yearli")
    assert run("pause", "yearly", *where).exit_code == 3
    assert run("list", "--journal", str(tmp_path / "none.db")).exit_code == 3


def test_what_has_ended_is_not_under_way_in_a_journal_that_was_stopped(tmp_path: Path) -> None:
    path, done = tmp_path / "office.db", threading.Event()
    system = Supervisor(path)
    system.on(Report)(lambda trigger, tx: done.set())
    system.schedule(Report(), every=0.2, name="often")
    with system:
        assert done.wait(WAIT_S)
    listed = run("list", "--journal", str(path)).stdout
    assert " started, " in listed
    assert "under way" not in listed


def test_a_journal_without_schedules_says_so_beside_the_result(tmp_path: Path) -> None:
    path = tmp_path / "office.db"
    with Supervisor(path):
        pass
    listed = run("list", "--journal", str(path))
    assert (listed.exit_code, listed.stdout, listed.stderr) == (0, "", "there is no schedule\n")
    assert run("list", "--json", "--journal", str(path)).stdout == '{"schedules": []}\n'
    for words, said in ((["runs", "list"], "there is no such run\n"), (["events", "list"], "there is no such event\n")):
        listed = CliRunner().invoke(app, [*words, "--journal", str(path)])
        assert (listed.exit_code, listed.stdout, listed.stderr) == (0, "", said)


def test_the_commands_do_what_the_verbs_do(journal: Path) -> None:
    where = ("--journal", str(journal))
    listed = run("list", *where)
    assert listed.exit_code == 0
    assert listed.stdout.startswith("yearly  schedules-control.report  0 3 1 1 *  next ")
    assert listed.stdout.endswith("never started  0 started, 0 missed\n")
    slots = json.loads(run("next", "yearly", "--count", "2", "--json", *where).stdout)
    assert slots["schedule"] == "yearly"
    assert len(slots["next"]) == 2
    assert run("next", "yearly", *where).stdout.count("01-01T03:00:00.000+00:00\n") == 5
    assert run("pause", "yearly", *where).stdout == "yearly is paused\n"
    assert "  paused  " in run("list", *where).stdout
    assert json.loads(run("resume", "yearly", "--json", *where).stdout) == {"resumed": "yearly"}
    assert json.loads(run("fire", "yearly", "--json", *where).stdout)["run"].endswith(".1")
    [found] = json.loads(run("list", "--json", *where).stdout)["schedules"]
    assert (found["name"], found["paused"], found["plan"]["cron"]) == ("yearly", False, "0 3 1 1 *")
    assert run("remove", "yearly", *where).stdout == "yearly is removed\n"
    gone = run("pause", "yearly", *where)
    assert gone.exit_code != 0
    assert gone.stdout == ""
    assert "there is no schedule 'yearly'" in gone.stderr
