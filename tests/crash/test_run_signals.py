"""`seqtor run` as systemd sees it: it says when it is ready, drains on a signal, and says how it ended."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from seqtor.actors.journal.recovery import Recovery, commit_record
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.served import Served

STOPPING = [signal.SIGTERM, signal.SIGINT]


def ended(folder: Path) -> list[tuple[int, int, str]]:
    """What the journal says of each run: its number, its attempts, its state."""
    backend = SqliteBackend(folder / "work.db")
    opened = backend.open(write=False)
    try:
        records = [commit_record(row, "work.db") for row in backend.commits(1, opened.commits_through)]
    finally:
        backend.close()
    return [(number_of(record.trigger.payload), record.attempt, str(record.state)) for record in records]


def number_of(payload: Any) -> int:
    return int(payload["number"])


def accepted(folder: Path) -> list[int]:
    """What was accepted and has not ended."""
    backend = SqliteBackend(folder / "work.db")
    try:
        return [
            number_of(record.trigger.payload) for record in Recovery(backend, backend.open(write=False)).open_accepted()
        ]
    finally:
        backend.close()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_drains_what_was_accepted_and_the_exit_code_is_0(tmp_path: Path, number: signal.Signals) -> None:
    with Served(tmp_path) as served:
        assert served.await_told("READY=1")["STATUS"] == "desk is running"
        for each in (1, 2, 3):
            served.send(f"wait {each}")
            served.await_line(f"begins {each}")
        served.signal(number)
        served.await_told("STOPPING=1")
        count = 3
        answer = ""
        while not answer.startswith("refused"):  # From now on, but for what comes between the two.
            count += 1
            served.send(f"do {count}")
            answer = served.await_line((f"accepted {count}", f"refused {count}"))
        assert answer == f"refused {count}: NotRunning"
        (tmp_path / "open").touch()
        served.let_through()
        code, stderr = served.end()
    assert code == 0, stderr
    assert ended(tmp_path) == [(each, 1, "committed") for each in range(1, count)]
    assert f"{number.name} came" in stderr
    assert f"desk: stopped at seq {count - 1}" in stderr


def test_what_does_not_end_within_the_grace_runs_at_the_next_start_and_has_used_up_no_attempt(tmp_path: Path) -> None:
    with Served(tmp_path, "--grace", "0.05") as served:
        served.await_told("READY=1")
        served.send("do 1")
        served.await_line("accepted 1")
        served.send("wait 2")
        served.await_line("accepted 2")
        served.send("do 3")
        served.await_line("accepted 3")
        served.signal(signal.SIGTERM)
        code, stderr = served.end()
    assert code == 0, stderr
    assert "work was left after a grace of 0.05 s" in stderr
    assert ended(tmp_path) == [(1, 1, "committed")]
    assert accepted(tmp_path) == [2, 3]
    (tmp_path / "open").touch()
    with Served(tmp_path) as served:
        assert served.await_line("begins 2") == "begins 2 attempt 1"
        served.await_told("READY=1")
        served.send("ask 4")
        served.await_line("result 4")
        served.signal(signal.SIGTERM)
        assert served.end()[0] == 0
    assert ended(tmp_path) == [(each, 1, "committed") for each in (1, 2, 3, 4)]


@pytest.mark.parametrize(("first", "second"), [*zip(STOPPING, STOPPING, strict=True), tuple(reversed(STOPPING))])
def test_a_second_signal_stops_at_once_and_nothing_accepted_is_lost(
    tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    with Served(tmp_path, "--grace", "3600") as served:
        served.await_told("READY=1")
        served.send("wait 1")
        served.await_line("accepted 1")
        served.signal(first)
        served.await_told("STOPPING=1")
        served.signal(second)
        code, stderr = served.end()
    assert code == 130
    assert f"{second.name} came again: stopped at once" in stderr
    assert accepted(tmp_path) == [1]
    (tmp_path / "open").touch()
    with Served(tmp_path) as served:
        assert served.await_line("begins 1") == "begins 1 attempt 1"
        served.await_told("READY=1")
        served.signal(signal.SIGTERM)
        code, stderr = served.end()
    assert code == 0, stderr
    assert ended(tmp_path) == [(1, 1, "committed")]


def test_a_journal_that_fails_ends_the_process_with_a_report(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.await_told("READY=1")
        served.send("ask 1")
        served.await_line("result 1")
        (tmp_path / "full").touch()
        served.send("ask 2")
        assert "broken down" in served.await_told("STOPPING=1")["STATUS"]
        code, stderr = served.end()
    assert code == 70
    report = stderr.splitlines()[-1]
    assert report.startswith("seqtor: desk has broken down: ")
    assert "No space left on device" in report
    assert "Everything through seq 1 is in the journal work.db" in report
    (tmp_path / "full").unlink()
    with Served(tmp_path) as served:
        served.await_told("READY=1")
        served.send("ask 3")
        served.await_line("result 3")
        served.signal(signal.SIGTERM)
        assert served.end()[0] == 0
    assert (1, 1, "committed") in ended(tmp_path)


def test_a_signal_during_the_start_gives_it_up(tmp_path: Path) -> None:
    (tmp_path / "away.py").write_text(
        "import seqtor\n"
        "class Away(seqtor.StoreActor):\n"
        "    def recover(self, checkpoint):\n"
        "        print('recovering', flush=True)\n"
        "        raise seqtor.StoreUnavailable(retry_after=3600)\n"
        "    fold = view = staticmethod(lambda *_: None)\n"
        "system = seqtor.Supervisor('work.db')\n"
        "system.store('away', Away.spec())\n",
        encoding="utf-8",
    )
    with Served(tmp_path, system="away:system") as served:
        served.await_line("recovering")
        served.signal(signal.SIGTERM)
        code, stderr = served.end()
    assert code == 0
    assert stderr.splitlines()[-1] == "seqtor: SIGTERM came during the start, which is given up"
    assert accepted(tmp_path) == [], "nobody holds the journal"


def test_a_second_process_on_the_same_journal_is_exit_code_3(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.await_told("READY=1")
        with Served(tmp_path) as second:
            code, stderr = second.end()
        assert code == 3
        assert f"(pid {served.process.pid})" in stderr
