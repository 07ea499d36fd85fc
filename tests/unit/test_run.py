"""`seqtor run`: what it says of a system, what it refuses, and that its process ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from seqtor import Supervisor
from seqtor.cli.app import app
from seqtor.cli.banner import banner, duration, facts
from seqtor.serving import HealthServer, Service
from tests.crash.served import Served
from tests.programs import WAIT_S
from tests.unit.test_logging import logging_as_it_was

PROGRAM = """
import contextlib
from seqtor import *

class Account(Record):
    balance: int = 0

class Deposit(Trigger[int]):
    amount: int

class Look(Trigger[None]):
    pass

class Counting(StoreActor):
    def recover(self, checkpoint):
        return 0
    fold = staticmethod(lambda state, writes: state + len(writes))
    view = staticmethod(lambda access: access)

system = Supervisor("bank.db", name="bank", settings={"threads": 3, "stop_grace": 2.5})
accounts = system.store("accounts", Collection(Account))
system.store("limits", Document(Account))
system.store("counting", Counting.spec())
client = system.resource("client", lambda: contextlib.nullcontext(3))

@system.on(Deposit)
def deposit(trigger, tx):
    tx[accounts]["alice"] = Account(balance=trigger.amount)
    return trigger.amount

@system.on(Look)
async def look(trigger, tx):
    pass

@system.effect("tell")
def tell(context, payload: int):
    pass
"""


__all__ = ["logging_as_it_was"]  # The commands configure it.


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "bank.py").write_text(PROGRAM, encoding="utf-8")
    import importlib

    yield importlib.import_module("bank")
    sys.modules.pop("bank", None)


def refused(*arguments: str, code: int) -> str:
    """What `run` says when it does not start."""
    result = CliRunner().invoke(app, ["run", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stderr


# What it says ---------------------------------------------------------------------------------------------------------


def test_the_banner_says_what_a_system_is_made_of(bank: Any) -> None:
    found = facts(bank.system)
    assert json.loads(json.dumps(found)) == {
        "system": "bank",
        "version": "0.1.0",
        "journal": "bank.db",
        "stores": {"accounts": "Collection of Account", "limits": "Document of Account", "counting": "Counting"},
        "handlers": {"Deposit": "sync", "Look": "async"},
        "effects": ["tell"],
        "reactions": [],
        "schedules": [],
        "resources": ["client"],
        "settings": {"threads": 3, "stop_grace": 2.5},
    }
    assert banner(found).splitlines() == [
        "bank on seqtor 0.1.0",
        "  journal    bank.db",
        "  stores     accounts (Collection of Account), limits (Document of Account), counting (Counting)",
        "  handlers   Deposit, Look (async)",
        "  effects    tell",
        "  resources  client",
        "  settings   threads=3, stop_grace=2.5",
    ]


def test_a_system_in_memory_is_called_what_it_is() -> None:
    lines = banner(facts(Supervisor(settings={})))
    assert "journal    none: everything is kept in memory, and gone at the end" in lines


@pytest.mark.parametrize(
    ("elapsed_s", "text"),
    [(-3.0, "less than a second"), (0.2, "less than a second"), (1, "1 second"), (119, "1 minute"), (7200, "2 hours"),
     (86_400 * 3.5, "3 days")],
)  # fmt: skip
def test_a_duration_is_said_in_its_largest_unit(elapsed_s: float, text: str) -> None:
    assert duration(elapsed_s) == text


def test_the_second_start_says_where_it_goes_on(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert served.await_line("  started") == "  started    epoch 1, seq 0"
        served.await_told("READY=1")
        served.send("ask 1")
        served.await_line("result 1")
        served.signal(signal.SIGTERM)
        assert served.end()[0] == 0
    with Served(tmp_path) as served:
        said = served.await_line("  started")
        assert said.startswith("  started    epoch 2, seq 1; the last commit was ")
        served.signal(signal.SIGTERM)
        assert served.end()[0] == 0


def test_with_json_lines_there_is_nothing_else(tmp_path: Path) -> None:
    with Served(tmp_path, "--log-json", "--log-level", "debug", "--health", "0") as served:
        served.await_told("READY=1")
        served.signal(signal.SIGTERM)
        stdout, stderr = served.process.communicate(timeout=WAIT_S)
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert (served.process.returncode, stdout) == (0, "")
    assert lines[0]["message"] == "desk on seqtor 0.1.0"
    assert lines[0]["extra"]["stores"] == {"done": "Collection of Entry"}
    texts = [line["message"] for line in lines]
    assert any(text.startswith("desk: health at http://127.0.0.1:") for text in texts)
    assert any(text.startswith("desk: SIGTERM came: no more work is taken") for text in texts)


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name the program: seqtor run MODULE:SYSTEM, or SEQTOR_SYSTEM in the environment"),
        (["bank"], "seqtor run takes MODULE:NAME, such as bank:system, got 'bank'"),
        (["bank:sistem"], "the module bank has no 'sistem'; did you mean 'system'?"),
        (["bank:system", "--log-level", "loud"], "level must be one of TRACE, DEBUG, INFO"),
        (["bank:system", "--health", "everywhere"], "the address for health is [HOST:]PORT"),
        (["bank:system", "--grace", "-1"], "--grace"),
    ],
)
def test_wrong_usage_is_exit_code_2(bank: Any, arguments: list[str], text: str) -> None:
    assert text in refused(*arguments, code=2)


@pytest.mark.parametrize(
    ("program", "begins", "ends"),
    [
        ("import os\n\nkey = os.environ['NO_SUCH_KEY']\n", 'other.py", line 3, in <module>', "KeyError: 'NO_SUCH_KEY'"),
        (
            "text = open('nothing.toml')\n",
            'other.py", line 1, in <module>',
            "No such file or directory: 'nothing.toml'",
        ),
        ("def broken(:\n", 'other.py", line 1', "SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found\n", 'other.py", line 1', "No module named 'nowhere_to_be_found'"),
        ("def system():\n    return 1 / 0\n", 'other.py", line 2, in system', "ZeroDivisionError: division by zero"),
    ],
)
def test_what_the_program_raises_is_told_with_its_own_lines_alone_and_exit_code_1(
    bank: Any, tmp_path: Path, program: str, begins: str, ends: str
) -> None:
    (tmp_path / "other.py").write_text(program, encoding="utf-8")
    try:
        lines = refused("other:system", code=1).splitlines()
    finally:
        sys.modules.pop("other", None)
    assert lines[0] == "seqtor: other:system cannot be imported:"
    assert begins in next(line for line in lines if line.startswith("  File "))
    assert lines[-1].endswith(ends)
    assert not any("importlib" in line or "typer" in line for line in lines)


def test_a_journal_that_does_not_fit_the_program_is_exit_code_2_and_a_damaged_one_1(bank: Any, tmp_path: Path) -> None:
    with bank.system as system:
        system.ask(bank.Deposit(amount=5), timeout=WAIT_S)
    (tmp_path / "other.py").write_text("import seqtor\nsystem = seqtor.Supervisor('bank.db')\n", encoding="utf-8")
    try:
        assert "which the program no longer registers" in refused("other:system", code=2)
        connection = apsw.Connection(str(tmp_path / "bank.db"))
        connection.execute("UPDATE meta SET value = 'x' WHERE name = 'journal_id'")
        connection.execute("DELETE FROM commits")
        connection.close()
        assert refused("other:system", code=1)
    finally:
        sys.modules.pop("other", None)


def test_a_port_that_is_taken_is_exit_code_3(bank: Any) -> None:
    with HealthServer(Supervisor(), 0) as other:
        text = refused("bank:system", "--health", f"127.0.0.1:{other.address[1]}", code=3)
    assert "address already in use" in text


# Its end --------------------------------------------------------------------------------------------------------------


def test_a_system_that_the_program_itself_stops_ends_the_service() -> None:
    system = Supervisor(settings={"threads": 2})
    service = Service(system, grace_s=1.0, at_once=130, broken_down=70, started=system.stop)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    ending = service.run()
    assert (ending.broke_down, ending.reason) == (False, "it was told to stop")
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_threads_of_the_program_cannot_keep_the_process() -> None:
    program = textwrap.dedent(
        """
        import sys, threading
        from seqtor.serving.service import leave_within
        threading.Thread(target=threading.Event().wait, name="stubborn").start()
        leave_within(0.05, 7)
        sys.exit(0)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7
    assert done.stderr == "seqtor: the process did not end within 0.05 s, kept by stubborn\n"
