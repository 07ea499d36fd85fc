"""`seqtor check`: everything that is wrong at once, and nothing started, made or locked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from seqtor import RegistrationError, Settings, Supervisor, Trigger
from seqtor.actors.registering import collected
from seqtor.cli.app import app

GOOD = """
from seqtor import Collection, Record, Supervisor, Trigger

class Account(Record):
    balance: int = 0

class Deposit(Trigger[int]):
    amount: int

system = Supervisor("bank.db", name="bank")
accounts = system.store("accounts", Collection(Account))

@system.on(Deposit)
def deposit(trigger, tx):
    balance = tx[accounts].get("alice", Account()).balance + trigger.amount
    tx[accounts]["alice"] = Account(balance=balance)
    return balance
"""

BAD = """
from seqtor import Bundle, Collection, Document, EffectContext, Record, Supervisor, Trigger

class Account(Record):
    balance: int = 0

class Required(Record):
    name: str

class Deposit(Trigger[int]):
    amounts: list[int]

class Withdraw(Trigger[int]):
    amount: int

bundle = Bundle()

@bundle.on(Withdraw)
def without_tx(trigger):
    pass

system = Supervisor("bank.db", settings={"max_qeued": 3, "deadline": -1})
system.store("accounts", Collection(Account))
system.store("accounts", Collection(Account))
system.store("limits", Document(Required))
system.store("books", Collection(dict))
system.store("", Collection(Account, initial={"a": 3}))

@system.on(Deposit)
def deposit(trigger, tx):
    pass

@system.on(dict)
def unknown(trigger, tx):
    pass

@system.on(Withdraw, deadline=0)
def withdraw(trigger, tx):
    pass

@system.effect("tell")
def tell(context):
    pass

system.include(bundle)
system.resource("client", 3)
"""


class Desk:
    """A folder with a program, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "bank") -> None:
        (self.folder / f"{name}.py").write_text(text, encoding="utf-8")

    def check(self, *arguments: str, code: int) -> str:
        """What the command prints."""
        result = CliRunner().invoke(app, ["check", *(arguments or ["bank:system"])])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert result.stderr == ""
        return result.stdout

    def errors(self) -> list[tuple[int | None, str]]:
        """What is wrong, with its lines."""
        found = json.loads(self.check("bank:system", "--json", code=1))
        assert found["ok"] is False
        return [(each["line"], each["message"]) for each in found["errors"]]

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"__pycache__"}

    def fill(self) -> Any:
        """Let the system run once."""
        self.write(GOOD)
        import importlib

        bank = importlib.import_module("bank")
        with bank.system as system:
            assert system.ask(bank.Deposit(amount=5), timeout=20) == 5
        sys.modules.pop("bank")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in list(os.environ):
        if name.startswith("SEQTOR_"):
            monkeypatch.delenv(name)
    yield Desk(tmp_path)
    for name in ("bank", "part"):
        sys.modules.pop(name, None)


def test_a_system_that_would_start_is_exit_code_0_and_nothing_is_made(desk: Desk) -> None:
    desk.write(GOOD)
    assert desk.check(code=0) == (
        "bank would start (stores: 1, handlers: 1, effects: 0, reactions: 0, schedules: 0, resources: 0)\n"
    )
    assert desk.files == {"bank.py"}
    assert json.loads(desk.check("bank:system", "--json", code=0)) == {
        "system": "bank:system", "ok": True, "errors": [], "warnings": [],
    }  # fmt: skip


def test_all_errors_of_a_program_are_said_at_once_with_their_places(desk: Desk) -> None:
    desk.write(BAD)
    lines = BAD.splitlines()
    said = {(lines[line - 1] if line else "", message.split(",")[0][:60]) for line, message in desk.errors()}
    parts = [
        ("@bundle.on(Withdraw)", "the handler without_tx takes (trigger)"),
        ('system = Supervisor("bank.db"', "settings=: there is no setting 'max_qeued'; did you mean 'max"),
        ('system = Supervisor("bank.db"', "settings=: deadline=-1: Input should be"),
        ('system.store("accounts"', "there is a store called 'accounts' already"),
        ('system.store("limits"', "Document(Required) without initial= starts as Required()"),
        ('system.store("books"', ""),
        ('system.store(""', "initial['a']: "),
        ('system.store(""', "a store's name is a non-empty string"),
        ("@system.on(Deposit)", "a trigger is immutable"),
        ("@system.on(dict)", "on() takes a subclass of Trigger"),
        ("@system.on(Withdraw, deadline=0)", "deadline must be above 0 seconds"),
        ('@system.effect("tell")', "the effect 'tell': tell takes (context)"),
        ('system.resource("client"', "resource 'client': pass a function"),
    ]
    for place, message in parts:
        assert any(place in line and message[:40] in text for line, text in said), (place, message, said)


def test_a_broken_program_is_exit_code_1_in_words_too(desk: Desk) -> None:
    desk.write(BAD)
    out = desk.check(code=1)
    assert "bank.py:24: error: there is a store called 'accounts' already: give this one another name\n" in out
    assert "would start" not in out


def test_errors_of_a_factory_and_of_imported_modules_are_collected_too(desk: Desk) -> None:
    desk.write(
        "from seqtor import *\nbundle = Bundle()\n"
        "class A(Trigger[None]): pass\n"
        "@bundle.on(A)\ndef a(): pass\n"
        "@bundle.effect('x')\ndef x(): pass\n",
        "part",
    )
    desk.write(
        "import part\nfrom seqtor import *\n"
        "def system():\n    made = Supervisor()\n    made.store('a', 3)\n    made.store('b', 4)\n    return made\n"
    )
    found = json.loads(desk.check("bank:system", "--json", code=1))["errors"]
    assert [(Path(each["file"]).name, each["line"]) for each in found if each["file"].endswith("bank.py")] == [
        ("bank.py", 5), ("bank.py", 6),
    ]  # fmt: skip
    assert sum(each["file"].endswith("part.py") for each in found) == 2


def test_wrong_settings_in_the_environment_are_all_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(GOOD)
    monkeypatch.setenv("SEQTOR_THREADS", "1")
    monkeypatch.setenv("SEQTOR_DEADLINE", "soon")
    monkeypatch.setenv("SEQTOR_MAX_QEUED", "5")
    monkeypatch.setenv("SEQTOR_SYSTEM", "bank:system")
    found = json.loads(desk.check("--json", code=1))
    assert [each["message"].partition(":")[0] for each in found["errors"]] == ["the environment"] * 2
    assert "threads='1'" in found["errors"][0]["message"] + found["errors"][1]["message"]
    assert "deadline='soon'" in found["errors"][0]["message"] + found["errors"][1]["message"]
    (warning,) = found["warnings"]
    assert warning["message"] == "SEQTOR_MAX_QEUED in the environment is no setting; did you mean 'SEQTOR_MAX_QUEUED'?"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "import seqtor\nimport nowhere_to_be_found\n",
            2,
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("def broken(:\n", 1, "SyntaxError: invalid syntax"),
        ("x = 1\n\nx / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    ],
)
def test_where_the_import_ends_is_said(desk: Desk, text: str, line: int, message: str) -> None:
    desk.write(text)
    ((where, said),) = desk.errors()
    assert where == line
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("bank", "seqtor check takes MODULE:NAME, such as bank:system, got 'bank'"),
        ("bnak:system", "there is no module 'bnak' in "),
        ("bank:sistem", "the module bank has no 'sistem'; did you mean 'system'?"),
        ("bank:Account", "bank:Account is a Account, expected a Supervisor"),
    ],
)
def test_a_name_that_names_no_system_is_an_error_and_wrong_usage(desk: Desk, place: str, message: str) -> None:
    desk.write(GOOD)
    (error,) = json.loads(desk.check(place, "--json", code=2))["errors"]
    assert error["message"].startswith(message)


def test_a_module_that_starts_its_system_is_not_started(desk: Desk) -> None:
    desk.write(GOOD + "\nwith system:\n    pass\n")
    ((line, message),) = desk.errors()
    assert line == len(GOOD.splitlines()) + 2
    assert message.startswith("'bank' is started while the module is imported: put it into a function")
    assert desk.files == {"bank.py"}


def test_a_missing_extra_is_an_error(desk: Desk) -> None:
    desk.write(GOOD.replace('"bank.db"', '"postgresql://127.0.0.1:1/none"'))
    program = textwrap.dedent(
        """
        import sys
        sys.modules["psycopg"] = None
        from seqtor.cli import main
        sys.argv = ["seqtor", "check", "bank:system"]
        main()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=desk.folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'a journal in PostgreSQL needs psycopg: pip install "seqtor[postgres]"' in done.stdout


def test_a_trigger_that_nothing_handles_is_a_warning(desk: Desk) -> None:
    desk.write(GOOD + "\nclass Withdraw(Trigger[None]):\n    pass\n")
    assert "warning: no handler is registered for the trigger Withdraw\n" in desk.check(code=0)


def test_all_that_reactions_and_schedules_lack_is_said_at_once(desk: Desk) -> None:
    desk.write(
        GOOD
        + """
from seqtor import on_result, on_status

class Withdraw(Trigger[int]):
    amount: int = 1

class Close(Trigger[None]):
    pass

system.when(on_result(Withdraw))(lambda facts: None)
system.when(on_status(Close, "committed"), name="closed")(lambda facts: None)
system.schedule(Close(), every=60, name="close-books")
system.schedule(Withdraw(), every=60, name="take")
"""
    )
    said = [message for _, message in desk.errors()]
    assert len(said) == 4
    assert "waits for result of Withdraw, but no handler is registered for Withdraw" in said[0]
    assert "'closed' waits for Close committed, but no handler is registered for Close" in said[1]
    assert said[2].startswith(
        "schedule 'close-books': the trigger 'Close' has no handler: register one with system.on(...)"
    )
    assert said[3].startswith("schedule 'take': the trigger 'Withdraw' has no handler")


# The journal ----------------------------------------------------------------------------------------------------------


def test_a_journal_that_the_program_still_knows_is_fine_and_is_left_as_it_is(desk: Desk) -> None:
    desk.fill()
    before = {path.name: (path.stat().st_size, path.read_bytes()) for path in desk.folder.glob("bank.db*")}
    assert desk.check(code=0).startswith("bank would start")
    assert {path.name: (path.stat().st_size, path.read_bytes()) for path in desk.folder.glob("bank.db*")} == before


def test_a_journal_that_holds_what_the_program_does_not_know_is_an_error(desk: Desk) -> None:
    desk.fill()
    desk.write(GOOD.replace('store("accounts"', 'store("books"'))
    ((_, message),) = desk.errors()
    assert message.startswith(
        "the journal bank.db holds work of store 'accounts', which the program no longer registers"
    )


def test_records_that_do_not_fit_their_model_any_more_are_an_error(desk: Desk) -> None:
    desk.fill()
    desk.write(GOOD.replace("balance: int = 0", "balance: int = 0\n    owner: str"))
    ((_, message),) = desk.errors()
    assert "owner" in message


def test_a_journal_of_a_running_system_is_a_warning(desk: Desk) -> None:
    desk.write(GOOD)
    with Supervisor("bank.db"):
        out = desk.check(code=0)
    assert "warning: what the journal holds was not looked at: " in out
    assert f"(pid {os.getpid()})" in out


def test_a_damaged_journal_is_an_error(desk: Desk) -> None:
    desk.fill()
    connection = apsw.Connection(str(desk.folder / "bank.db"))
    connection.execute("UPDATE commits SET chain = zeroblob(32)")
    connection.execute("DELETE FROM checkpoints")
    connection.close()
    ((_, message),) = desk.errors()
    assert "the record of seq 1" in message


@pytest.mark.parametrize("how", ["missing", "read-only"])
def test_a_folder_in_which_the_journal_cannot_be_made_is_an_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "read-only":
        (desk.folder / "data").mkdir()
        monkeypatch.setattr("os.access", lambda *_: False)  # Root, who runs many a test, may write everywhere.
    desk.write(GOOD.replace('"bank.db"', '"data/bank.db"'))
    ((_, message),) = desk.errors()
    assert message.startswith("the journal data/bank.db cannot be made: ")


# The seam -------------------------------------------------------------------------------------------------------------


def test_outside_of_a_check_the_first_error_is_raised() -> None:
    with collected() as findings:
        Supervisor().store("", 3)  # type: ignore[call-overload]
        Settings.load({"nonsense": 1}, environ={})
    assert [finding.file for finding in findings] == [__file__] * 2
    with pytest.raises(RegistrationError, match="a store's name"):
        Supervisor().store("", 3)  # type: ignore[call-overload]
    assert len(findings) == 2


def test_other_errors_are_not_collected() -> None:
    class Nothing(Trigger[None]):
        pass

    with collected() as findings, pytest.raises(TypeError):
        Supervisor().on(Nothing, nonsense=1)  # type: ignore[call-arg]
    assert not findings
