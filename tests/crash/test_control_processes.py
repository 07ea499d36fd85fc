"""Two processes: one runs a system, the other talks to it through the control socket, and kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqtor import NotRunning, OutcomeUnknown, RegistrationError, State, Supervisor, connect
from seqtor.cli.app import app
from tests.crash.control_program import CountSlowly, CountUp, TooMany

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SEQTOR_")}


@contextmanager
def program(journal: Path) -> Iterator[subprocess.Popen[str]]:
    """The program in a process of its own, running; stopped in order unless it was killed."""
    command = [sys.executable, "-m", "tests.crash.control_program", str(journal)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate(timeout=WAIT_S)
    assert process.returncode in (0, -signal.SIGKILL)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def seqtor(journal: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """The command line, in this process; what it printed, and what it said beside that."""
    done = CliRunner().invoke(app, arguments, env={"SEQTOR_JOURNAL": str(journal)})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def wait_for(path: Path) -> None:
    """Until the other process has made the file."""
    seen = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if path.exists():
            return
        seen.wait(0.01)
    pytest.fail(f"{path.name} has not come")


def test_another_process_hands_in_and_asks(tmp_path: Path) -> None:
    journal = tmp_path / "bank.db"
    with program(journal) as process, connect(journal) as connection:
        assert connection.ask(CountUp(amount=5), timeout=WAIT_S) == 5
        assert connection.ask("CountUp", {"amount": 6}, timeout=WAIT_S) == 11
        assert [each.result(WAIT_S) for each in connection.submit_many([CountUp()] * 100)] == list(range(12, 112))
        connection.tell(CountUp())
        with pytest.raises(TooMany) as rejected:
            connection.ask(CountUp(amount=10**9), timeout=WAIT_S)
        assert rejected.value.details == {"most": 1_000_000}
        assert connection.stats().state_counts == {State.COMMITTED: 103, State.REJECTED: 1}
        assert connection.record(2).trigger == CountUp(amount=6)
        assert [run.seq for run in connection.runs(state="rejected")] == [104]
        assert connection.state()["stores"]["counts"]["sum"] == {"value": 112}
        assert connection.emit("checked", {"by": "another process"})
        with pytest.raises(RegistrationError, match="belongs to a running process"):
            Supervisor(settings={"control": f"{journal}-control"}).start()
        assert process.poll() is None
    with pytest.raises(NotRunning):
        connect(journal)


def test_a_kill_is_an_unknown_outcome_and_the_key_brings_the_first_ones(tmp_path: Path) -> None:
    journal, held = tmp_path / "bank.db", tmp_path / "bank.db.hold"
    held.touch()
    with program(journal) as process:
        connection = connect(journal)
        ended = connection.ask(CountUp(amount=5), idempotency_key="five", timeout=WAIT_S)
        waiting = connection.submit(CountSlowly(), idempotency_key="slow")
        wait_for(tmp_path / "bank.db.reached")
        kill(process)
        with pytest.raises(OutcomeUnknown, match="submit it again under the key 'slow'"):
            waiting.result(WAIT_S)
        with pytest.raises(NotRunning, match="the process that made the file has ended"):
            connection.stats()
    held.unlink()
    with program(journal), connection:
        again = connection.submit(CountSlowly(), idempotency_key="slow")
        assert again.id == waiting.id, "the same run, which was accepted before the crash"
        assert again.result(WAIT_S) == 1
        assert connection.ask(CountUp(amount=5), idempotency_key="five", timeout=WAIT_S) == ended == 5
        assert connection.state()["stores"]["counts"] == {"slow": {"value": 1}, "sum": {"value": 5}}


def test_what_submit_has_returned_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    journal = tmp_path / "bank.db"
    accepted = 0
    for _ in range(4):
        with program(journal) as process, connect(journal) as connection:
            killer = threading.Timer(0.05, process.kill)
            killer.start()
            try:
                while True:
                    connection.tell(CountUp())
                    accepted += 1
            except (OutcomeUnknown, NotRunning):
                killer.join()
                process.wait()
    with program(journal), connect(journal) as connection:
        total = connection.ask(CountUp(amount=0), timeout=WAIT_S)
    assert accepted <= total <= accepted + 4, "at most the one of each life that was under way may come on top"
    assert accepted


def test_many_threads_of_many_connections_are_answered_each_with_its_own(tmp_path: Path) -> None:
    journal = tmp_path / "bank.db"
    with program(journal):
        connections = [connect(journal) for _ in range(4)]

        def work(number: int) -> list[int]:
            connection = connections[number % len(connections)]
            return [connection.ask(CountUp(key=str(number)), timeout=WAIT_S) for _ in range(50)]

        with ThreadPoolExecutor(16) as threads:
            assert list(threads.map(work, range(16))) == [list(range(1, 51))] * 16
        for connection in connections:
            connection.close()


def test_the_command_line_talks_to_the_running_process(tmp_path: Path) -> None:
    journal, held = tmp_path / "bank.db", tmp_path / "bank.db.hold"
    with program(journal):
        assert seqtor(journal, "submit", "CountUp", '{"amount": 5}') == ("5\n", "")
        assert seqtor(journal, "submit", "CountUp", "--key", "k", "--priority", "high")[0] == "6\n"
        assert seqtor(journal, "submit", "CountUp", "--key", "k", "--priority", "high")[0] == "6\n"
        told = json.loads(seqtor(journal, "submit", "CountUp", "--json")[0])
        assert (told["seq"], told["state"], told["result"]) == (3, "committed", 7)
        out, err = seqtor(journal, "submit", "CountUp", '{"amount": 1000000000}', "--json", code=1)
        assert json.loads(out)["details"] == {"most": 1_000_000}
        assert err == "seqtor: it is too much (most=1000000)\n"
        assert "did you mean 'CountUp'" in seqtor(journal, "submit", "CountU", code=2)[1]
        assert "amount: Input should be" in seqtor(journal, "submit", "CountUp", '{"amount": "x"}', code=2)[1]
        assert "no JSON" in seqtor(journal, "submit", "CountUp", "{amount: 5}", code=2)[1]
        assert "urgent, high, normal, low" in seqtor(journal, "submit", "CountUp", "--priority", "top", code=2)[1]
        held.touch()
        assert "it goes on" in seqtor(journal, "submit", "CountSlowly", "--timeout", "0.05", code=4)[1]
        held.unlink()
        assert seqtor(journal, "submit", "CountUp", "--no-wait")[0].strip()
        assert seqtor(journal, "emit", "checked", '{"by": "hand"}')[0].strip()
        queries: dict[str, Any] = {
            each[0]: json.loads(seqtor(journal, *each, "--json")[0])
            for each in (["stats"], ["conflicts"], ["dead-letters"], ["state"], ["history", "counts", "sum"])
        }
        assert queries["stats"]["state_counts"]["rejected"] == 1
        assert queries["state"]["stores"]["counts"]["sum"] == {"value": 8}
        assert [change["value"]["value"] for change in queries["history"]["changes"]] == [5, 6, 7, 8]
        running = [seqtor(journal, *each, "--json")[0] for each in (["runs", "list"], ["runs", "show", "4"])]
        assert [run["seq"] for run in json.loads(running[0])["runs"]] == [7, 6, 5, 4, 3, 2, 1]
        assert json.loads(running[1])["error"] == "it is too much (most=1000000)"
        assert "seq 4" in seqtor(journal, "runs", "list", "--state", "rejected")[0]
        assert "trigger        CountUp" in seqtor(journal, "runs", "show", "1")[0]
        assert "no record of seq 99" in seqtor(journal, "runs", "show", "99", code=2)[1]
        assert "+ counts['slow']" in seqtor(journal, "diff", "4", "5")[0]
        assert "stop it, or ask it through its socket" in seqtor(journal, "journal", "verify", code=3)[1]
    kept = [seqtor(journal, *each, "--json")[0] for each in (["runs", "list"], ["runs", "show", "4"])]
    assert [json.loads(each) for each in kept] == [json.loads(each) for each in running], "the journal says the same"
    assert json.loads(seqtor(journal, "state", "--json")[0]) == queries["state"]
    assert json.loads(seqtor(journal, "history", "counts", "sum", "--json")[0]) == queries["history"]
    for each in (["submit", "CountUp"], ["emit", "x"], ["stats"], ["runs", "abort", "1"]):
        assert "no system listens" in seqtor(journal, *each, code=3)[1]
