"""The command line: what it prints, where it prints it, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

import seqtor
import seqtor.cli
from seqtor.actors.clock import SystemClock
from seqtor.actors.journal.contract import CheckpointPart, EntryRow, Group
from seqtor.actors.journal.recovery import read_sections
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.cli.app import app
from seqtor.cli.output import Progress
from seqtor.messages.records import CallRecord, RecordedCall

PROGRAM = """
import itertools
import immutables
from seqtor import Collection, Document, Record, Rejected, StoreActor, Supervisor, Trigger

class Account(Record):
    balance: int = 0

class Limits(Record):
    daily: int = 100
    note: str | None = "soft"

class Transfer(Trigger[int]):
    source: str
    target: str
    amount: int

class SetLimit(Trigger[None]):
    daily: int

class Close(Trigger[None]):
    account: str

class Count(Trigger[int]):
    pass

class Tally(StoreActor):
    dispatcher = "core"
    def recover(self, checkpoint):
        return immutables.Map({"sum": 0})
    @staticmethod
    def fold(state, writes):
        for write in writes:
            state = state.set(write.key, state[write.key] + write.op)
        return state
    @staticmethod
    def view(access):
        return access

COUNTER = itertools.count()

def make(journal="bank.db", tally=True):
    system = Supervisor(journal)
    accounts = system.store("accounts", Collection(Account, initial={"alice": Account(balance=100)}))
    limits = system.store("limits", Document(Limits))
    own = system.store("tally", Tally.spec()) if tally else None

    @system.on(Transfer)
    def transfer(trigger, tx):
        book = tx[accounts]
        source, target = book[trigger.source], book.get(trigger.target, Account())
        if source.balance < trigger.amount:
            raise Rejected("insufficient funds", balance=source.balance)
        book[trigger.source] = source.replace(balance=source.balance - trigger.amount)
        book[trigger.target] = target.replace(balance=target.balance + trigger.amount)
        if own is not None:
            tx[own].write("sum", trigger.amount)
        return book[trigger.source].balance

    @system.on(SetLimit)
    def set_limit(trigger, tx):
        tx[limits].update(daily=trigger.daily, note=None)

    @system.on(Close)
    def close(trigger, tx):
        del tx[accounts][trigger.account]

    @system.on(Count)
    def count(trigger, tx):
        return next(COUNTER)

    return system

system = make()
in_memory = Supervisor()
not_a_system = 3
"""


class Shell:
    """A working folder with a program and its journal, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "bank.db"
        (folder / "bank.py").write_text(PROGRAM, encoding="utf-8")

    def fill(self, *, tally: bool = True, more: int = 0) -> None:
        """Six commits in two lives: three transfers, a limit, a rejection, an account that is closed."""
        bank = self.module()
        with bank.make(tally=tally) as system:
            for amount in (10, 20, 30):
                key = f"key {amount}" if amount < 30 else None
                system.ask(bank.Transfer(source="alice", target="bob", amount=amount), timeout=20, idempotency_key=key)
        with bank.make(tally=tally) as system:
            system.ask(bank.SetLimit(daily=7), timeout=20)
            with pytest.raises(seqtor.Rejected):
                system.ask(bank.Transfer(source="alice", target="bob", amount=500), timeout=20)
            system.ask(bank.Close(account="bob"), timeout=20)
            for submission in system.submit_many([bank.SetLimit(daily=8)] * more):
                submission.result(20)

    def module(self) -> Any:
        import importlib

        return importlib.import_module("bank")

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command in this process; returns what it printed and what it said beside that."""
        result = CliRunner().invoke(app, arguments, env={"SEQTOR_JOURNAL": "bank.db"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout, result.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        """The one line of JSON that a command prints."""
        stdout, _ = self.run(*arguments, "--json", code=code)
        assert stdout.count("\n") == 1
        return json.loads(stdout)

    def sqlite(self, sql: str, *bindings: Any) -> None:
        """Change the journal behind everybody's back."""
        connection = apsw.Connection(str(self.journal))
        connection.execute(sql, bindings)
        connection.close()

    def console(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the real command in a process of its own."""
        command = Path(sys.executable).with_name("seqtor")
        return subprocess.run(
            [command, *arguments],
            cwd=self.folder,
            env={**os.environ, "SEQTOR_JOURNAL": "bank.db"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delenv("SEQTOR_SYSTEM", raising=False)
    yield Shell(tmp_path)
    sys.modules.pop("bank", None)


# Looking back -----------------------------------------------------------------------------------------------------------


def test_state_shows_collections_and_documents_without_the_program(shell: Shell) -> None:
    shell.fill()
    sys.modules.pop("bank", None)
    (shell.folder / "bank.py").unlink()
    stdout, stderr = shell.run("state", "--seq", "2")
    assert stdout == (
        "accounts['alice'] = {\"balance\": 70}\n"
        "accounts['bob'] = {\"balance\": 30}\n"
        "limits['daily'] = 100\n"
        "limits['note'] = \"soft\"\n"
    )
    assert stderr == "seqtor: not shown: tally. Reading a store of your own needs its code: --system MODULE:NAME\n"
    assert "bank" not in sys.modules
    assert shell.json("state") == {
        "seq": 6,
        "stores": {"accounts": {"alice": {"balance": 40}}, "limits": {"daily": 7, "note": None}},
        "unread": ["tally"],
    }
    assert shell.json("state", "accounts", "--seq", "0")["stores"] == {"accounts": {"alice": {"balance": 100}}}


def test_state_of_a_store_of_the_program_needs_its_code(shell: Shell) -> None:
    shell.fill()
    _, stderr = shell.run("state", "tally", "--seq", "2", code=2)
    assert stderr == "seqtor: tally is a store of the program's own, read with its code: --system MODULE:NAME\n"
    assert shell.json("state", "tally", "--seq", "2", "--system", "bank:system")["stores"] == {"tally": {"sum": 30}}
    found = shell.json("state", "--seq", "4", "--system", "bank:make")
    assert found == {
        "seq": 4,
        "stores": {
            "accounts": {"alice": {"balance": 40}, "bob": {"balance": 60}},
            "limits": {"daily": 7, "note": None},
            "tally": {"sum": 60},
        },
        "unread": [],
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["state", "acounts"], "there is no store 'acounts' at seq 6; did you mean 'accounts'?"),
        (["state", "--seq", "7"], "there is no seq 7: the journal holds seqs up to 6"),
        (["diff", "0", "-1"], "No such option: -1"),
        (["diff", "0", "99"], "there is no seq 99: the journal holds seqs up to 6"),
        (["history", "acounts", "alice"], "the journal knows no store 'acounts'; did you mean 'accounts'?"),
        (["state", "--seq", "x"], "Invalid value for '--seq'"),
        (["state", "--journal", "mysql://x"], "there is no backend for mysql://"),
        (["state", "--journal", "memory:"], "memory: is no journal that another process could read"),
        (["verify"], "name the program: --system MODULE:NAME, or SEQTOR_SYSTEM in the environment"),
        (["verify", "--system", "bank"], "--system takes MODULE:NAME, such as bank:system, got 'bank'"),
        (["verify", "--system", "bnak:system"], "there is no module 'bnak' in "),
        (["verify", "--system", "bank:sistem"], "the module bank has no 'sistem'"),
        (["verify", "--system", "bank:not_a_system"], "bank:not_a_system is a int, expected a Supervisor"),
        (["replay", "0", "3", "--system", "bank:system"], "the record of seq 0 is not kept"),
        (["replay", "1", "9", "--system", "bank:system"], "there is no record of seq 9 yet: the journal ends at seq 6"),
        (["journal", "compact"], "say what to give up: --keep-days DAYS or --before-seq N"),
        (["journal", "compact", "--keep-days", "1", "--before-seq", "2"], "say what to give up"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(shell: Shell, arguments: list[str], text: str) -> None:
    shell.fill()
    stdout, stderr = shell.run(*arguments, code=2)
    assert stdout == ""
    assert text in re.sub(r"[\s│╭╮╰╯─]+", " ", stderr), "typer draws boxes around what it says itself"


def test_history_shows_each_change_of_a_key(shell: Shell) -> None:
    shell.fill()
    stdout, _ = shell.run("history", "accounts", "bob")
    lines = stdout.splitlines()
    assert [re.sub(r"  2\S+  ", "  WHEN  ", line) for line in lines] == [
        'seq 1  WHEN  Transfer  {"balance": 10}',
        'seq 2  WHEN  Transfer  {"balance": 30}',
        'seq 3  WHEN  Transfer  {"balance": 60}',
        "seq 6  WHEN  Close  null",
    ]
    found = shell.json("history", "limits", "daily")
    assert [(change["seq"], change["trigger"], change["value"]) for change in found["changes"]] == [
        (0, None, 100),
        (4, "SetLimit", 7),
    ]
    assert shell.run("history", "limits", "daily")[0].startswith("seq 0  initially  -  100\n")
    assert found["changes"][1]["time"] == pytest.approx(time.time(), abs=600)
    stdout, stderr = shell.run("history", "accounts", "nobody")
    assert (stdout, stderr) == ("", "seqtor: accounts['nobody'] never had a value, as far as the journal goes back\n")
    assert [change["value"] for change in shell.json("history", "tally", "sum")["changes"]] == [10, 20, 30]


def test_diff_shows_what_differs_between_two_seqs(shell: Shell) -> None:
    shell.fill()
    stdout, stderr = shell.run("diff", "0", "4")
    assert stdout == (
        '~ accounts[\'alice\'] = {"balance": 100} -> {"balance": 40}\n'
        "+ accounts['bob'] = {\"balance\": 60}\n"
        "~ limits['daily'] = 100 -> 7\n"
        "~ limits['note'] = \"soft\" -> null\n"
    )
    assert "not shown: tally" in stderr
    assert shell.json("diff", "4", "6") == {
        "from": 4,
        "to": 6,
        "changes": [{"store": "accounts", "key": "bob", "before": {"balance": 60}}],
    }
    assert shell.run("diff", "6", "4")[0] == "+ accounts['bob'] = {\"balance\": 60}\n"
    assert shell.run("diff", "3", "3")[0] == ""
    assert {"store": "tally", "key": "sum", "before": 10, "after": 60} in shell.json(
        "diff", "1", "4", "--system", "bank:system"
    )["changes"]


# Replay -----------------------------------------------------------------------------------------------------------------


def test_verify_and_replay_say_that_all_is_as_recorded(shell: Shell) -> None:
    shell.fill()
    stdout, stderr = shell.run("verify", "--system", "bank:system", "--workers", "3", "--shuffle", "1")
    assert re.fullmatch(r"seq 1 to 6: 6 executed again as recorded, 0 skipped, chain [0-9a-f]{16}, \d+\.\d s\n", stdout)
    assert stderr == ""
    report = shell.json("verify", "--system", "bank:make")
    assert {**report, "chain": 0, "seconds": 0} == {
        "as_recorded": True, "first": 1, "last": 6, "executed": 6, "skipped": {}, "chain": 0, "seconds": 0,
    }  # fmt: skip
    assert shell.json("replay", "2", "3", "--system", "bank:system")["executed"] == 2
    assert shell.json("replay", "6", "6", "--system", "bank:system")["chain"] == report["chain"]


def test_verify_names_the_first_divergence_with_exit_code_1(shell: Shell) -> None:
    bank = shell.module()
    with bank.make() as system:
        system.ask(bank.SetLimit(daily=1), timeout=20)
        assert system.ask(bank.Count(), timeout=20) == 0
    stdout, stderr = shell.run("verify", "--system", "bank:system", code=1)
    assert stdout == ""
    assert stderr.startswith("seqtor: seq 2: Count, handled by bank.make.<locals>.count, gave another result than the")
    assert "expected 0, found 1" in stderr
    found = shell.json("replay", "2", "2", "--system", "bank:system", code=1)
    assert found == {"as_recorded": False, "seq": 2, "handler": "Count", "expected": "0", "found": "2"}


def test_the_journal_may_be_that_of_the_program(shell: Shell) -> None:
    shell.fill()
    runner = CliRunner()
    result = runner.invoke(app, ["state", "accounts", "--system", "bank:system", "--json"], env={})
    assert json.loads(result.stdout)["stores"] == {"accounts": {"alice": {"balance": 40}}}
    result = runner.invoke(app, ["verify", "--system", "bank:system", "--json"], env={})
    assert json.loads(result.stdout)["executed"] == 6
    result = runner.invoke(app, ["state", "--system", "bank:in_memory"], env={})
    assert (result.exit_code, "bank:in_memory keeps everything in memory" in result.stderr) == (2, True)
    result = runner.invoke(app, ["state"], env={})
    assert (result.exit_code, result.stderr) == (
        2, "seqtor: name the journal: --journal PATH_OR_URL, or SEQTOR_JOURNAL in the environment\n",
    )  # fmt: skip


# The journal itself -----------------------------------------------------------------------------------------------------


def test_an_intact_journal_is_said_to_be_intact(shell: Shell) -> None:
    shell.fill()
    entries = add_entry(shell)
    assert shell.run("journal", "verify")[0] == (
        f"commits 1 to 6; entries: {entries}, idempotency keys: 2, checkpoints: 3; all intact\n"
    )
    assert shell.json("journal", "verify") == {
        "journal": "bank.db", "intact": True, "commits_from": 1, "commits_through": 6, "intact_through": 6,
        "entries": entries, "keys": 2, "checkpoints": [0, 3, 6], "ahead": 0, "damage": [],
    }  # fmt: skip


def add_entry(shell: Shell) -> int:
    """Note the answer of a call; returns how many entries there are, which depends on how slow this machine was."""
    backend = SqliteBackend(shell.journal)
    last = backend.open().entries_through
    record = CallRecord(run="r-1", now=1.0, call=RecordedCall(id="r-1.1", function="ask", value=3))
    backend.append(Group(entries=[EntryRow(last + 1, "call", "r-1", record.model_dump_json(exclude_defaults=True))]))
    backend.close()
    return last + 1


def change_record(shell: Shell, seq: int, old: str, new: str) -> None:
    shell.sqlite(f"UPDATE commits SET body = replace(body, '{old}', '{new}') WHERE seq = ?", seq)


DAMAGE: dict[str, tuple[Callable[[Shell], object], str, int | None, int]] = {
    "a record": (lambda s: change_record(s, 2, '"balance":70', '"balance":71'), "the record of seq 2, or the one", 2, 1),
    "a hash": (lambda s: s.sqlite("UPDATE commits SET chain = zeroblob(32) WHERE seq = 4"), "the record of seq 4", 4, 3),
    "a missing record": (lambda s: s.sqlite("DELETE FROM commits WHERE seq = 3"), "seq 3 is missing", 3, 2),
    "a part of a checkpoint": (
        lambda s: s.sqlite("UPDATE checkpoint_parts SET data = zeroblob(3) WHERE rowid IN (SELECT max(rowid) FROM "
                           "checkpoint_parts)"),
        "of the checkpoint at seq 6 is not what was written",
        6,
        6,
    ),
    "an entry": (
        lambda s: (add_entry(s), s.sqlite("UPDATE entries SET body = replace(body, 'ask', 'ass')")),
        "(call r-1) is not what was written",
        None,
        6,
    ),
    "a checkpoint": (
        lambda s: s.sqlite("UPDATE checkpoints SET chain = zeroblob(32) WHERE seq = 3"),
        "the checkpoint at seq 3 is not what was written",
        3,
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_with_its_place(shell: Shell, what: str) -> None:
    damage, text, seq, intact_through = DAMAGE[what]
    shell.fill(tally=False)
    damage(shell)
    stdout, _ = shell.run("journal", "verify", code=1)
    assert stdout.startswith("damaged: ")
    assert text in stdout
    found = shell.json("journal", "verify", code=1)
    assert found["intact"] is False
    assert (found["damage"][0]["seq"], found["intact_through"]) == (seq, intact_through)
    assert text in found["damage"][0]["message"]


def test_a_checkpoint_that_is_not_what_the_commits_come_to_is_found(shell: Shell) -> None:
    """Nothing is flipped: it was written so, by a defect, and every digest holds."""
    shell.fill(tally=False)
    backend = SqliteBackend(shell.journal)
    opened = backend.open()
    sections = read_sections(backend, 6)
    sections["store:accounts"] = sections["store:accounts"].replace(b'"balance":40', b'"balance":41')
    for number, (section, data) in enumerate(sections.items()):
        backend.add_checkpoint_part(6, number, CheckpointPart(section, data))
    backend.finish_checkpoint(opened.checkpoints[-1]._replace(parts=len(sections)))
    backend.close()
    (damage,) = shell.json("journal", "verify", code=1)["damage"]
    assert damage["place"] == "checkpoint at seq 6"
    assert (
        "accounts['alice'] is {'balance': 41}, and the commits up to there make it {'balance': 40}" in damage["message"]
    )


def test_an_export_has_a_line_for_everything(shell: Shell) -> None:
    shell.fill()
    add_entry(shell)
    stdout, stderr = shell.run("journal", "export")
    found = [json.loads(line) for line in stdout.splitlines()]
    entry = [line for line in found if line["kind"] == "entry"][-1]
    assert (entry["entry"], entry["ref"], entry["record"]["call"]["value"]) == ("call", "r-1", 3)
    lines = [line for line in found if line["kind"] != "entry"]
    assert [line["kind"] for line in lines] == ["journal", "checkpoint", *["commit"] * 6, "key", "key"]
    assert stderr == ""
    assert lines[1]["stores"]["accounts"] == {
        "kind": "collection", "version": 1, "values": {"alice": {"balance": 100}},
    }  # fmt: skip
    assert [line["record"]["seq"] for line in lines[2:8]] == [1, 2, 3, 4, 5, 6]
    assert lines[2]["record"]["writes"][0] == ["accounts", "alice", {"balance": 90}]
    assert {line["key"] for line in lines[8:]} == {"key 10", "key 20"}
    shell.run("journal", "export", "--output", "copy.jsonl")
    assert (shell.folder / "copy.jsonl").read_text(encoding="utf-8") == stdout


@pytest.mark.parametrize("what", ["a record", "a hash", "a missing record"])
def test_the_intact_prefix_of_a_damaged_journal_is_exported(shell: Shell, what: str) -> None:
    damage, text, seq, _ = DAMAGE[what]
    shell.fill()
    damage(shell)
    stdout, stderr = shell.run("journal", "export", code=1)
    commits = [json.loads(line) for line in stdout.splitlines() if '"kind": "commit"' in line]
    assert [line["seq"] for line in commits] == list(range(1, seq or 0))
    assert text in stderr


@pytest.mark.parametrize("how", ["cut", "marks", "meta", "header"])
def test_commits_are_exported_from_a_journal_that_does_not_open(shell: Shell, how: str) -> None:
    shell.fill(more=300)
    if how == "cut":
        size = shell.journal.stat().st_size
        with shell.journal.open("r+b") as file:
            file.truncate(size * 2 // 3)
    elif how == "marks":
        shell.sqlite("DELETE FROM commits WHERE seq > 200")
    elif how == "meta":
        shell.sqlite("DELETE FROM meta WHERE name = 'journal_id'")
    else:
        with shell.journal.open("r+b") as file:
            file.seek(68)
            file.write(b"\0\0\0\0")
    found = shell.json("journal", "verify", code=1)
    assert found["intact"] is False
    assert found["damage"]
    stdout, stderr = shell.run("journal", "export", code=1)
    seqs = [json.loads(line)["seq"] for line in stdout.splitlines() if '"kind": "commit"' in line]
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(seqs) == {"cut": len(seqs), "marks": 200, "meta": 306, "header": 306}[how]
    assert len(seqs) > 20
    assert f"{len(seqs)} commits were saved past its checks" in stderr


def test_compact_gives_up_what_a_checkpoint_stands_for(shell: Shell) -> None:
    shell.fill(tally=False)
    assert shell.run("journal", "compact", "--before-seq", "3")[0] == (
        "nothing to give up: there is no older checkpoint; the history begins at seq 1\n"
    )
    assert shell.run("journal", "compact", "--keep-days", "1")[0].startswith("nothing to give up")
    assert shell.run("journal", "compact", "--before-seq", "5")[0] == (
        "3 commits deleted; the history begins at seq 4\n"
    )
    assert shell.json("journal", "verify")["commits_from"] == 4
    assert shell.json("state", "accounts", "--seq", "3")["stores"]["accounts"]["bob"] == {"balance": 60}
    _, stderr = shell.run("state", "--seq", "2", code=2)
    assert "the history of seq 2 is not kept: bank.db was compacted up to seq 3" in stderr
    assert [change["seq"] for change in shell.json("history", "accounts", "bob")["changes"]] == [3, 6]
    bank = shell.module()
    assert bank.make(tally=False).verify().executed == 3
    assert shell.json("journal", "compact", "--keep-days", "0") == {
        "journal": "bank.db", "commits_from": 7, "deleted": 3,
    }  # fmt: skip
    assert shell.run("journal", "verify")[0].startswith("no commits after seq 6; ")
    with bank.make(tally=False) as system:
        assert system.ask(bank.Transfer(source="alice", target="bob", amount=1), timeout=20) == 39


def test_compact_refuses_what_a_store_without_checkpoints_needs(shell: Shell) -> None:
    shell.fill()
    _, stderr = shell.run("journal", "compact", "--keep-days", "0", code=2)
    assert "nothing may be given up: tally made no checkpoint" in stderr
    assert shell.json("journal", "verify")["commits_from"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["state"],
        ["history", "accounts", "bob"],
        ["diff", "0", "1"],
        ["verify", "--system", "bank:system"],
        ["replay", "1", "2", "--system", "bank:system"],
        ["journal", "verify"],
        ["journal", "export"],
        ["journal", "compact", "--keep-days", "0"],
    ],
)
def test_a_journal_that_is_not_there_or_belongs_to_a_system_that_cannot_be_asked_is_exit_code_3(
    shell: Shell, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQTOR_CONTROL", "off")
    stdout, stderr = shell.run(*arguments, code=3)
    assert (stdout, stderr) == ("", "seqtor: there is no journal at 'bank.db': give the path of one\n")
    assert not shell.journal.exists(), "looking makes none"
    shell.fill()
    with shell.module().make():
        stdout, stderr = shell.run(*arguments, code=3)
    assert stdout == ""
    assert f"(pid {os.getpid()})" in stderr


# The process ------------------------------------------------------------------------------------------------------------


def test_the_console_script_prints_results_and_nothing_else_on_standard_output(shell: Shell) -> None:
    done = shell.console("version", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"version": seqtor.__version__, "python": sys.version.split()[0]}
    assert shell.console("version").stdout == f"seqtor {seqtor.__version__}, Python {sys.version.split()[0]}\n"
    shell.fill()
    done = shell.console("verify", "--system", "bank:system", "--json")
    assert (done.returncode, done.stderr, json.loads(done.stdout)["executed"]) == (0, "", 6)
    done = shell.console("state", "--seq", "99", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    help_text = shell.console("--help").stdout
    assert all(name in help_text for name in ("state", "history", "diff", "replay", "verify", "journal", "version"))
    assert "Exit codes" in help_text


def test_a_reader_that_has_seen_enough_is_no_error(shell: Shell) -> None:
    shell.fill(more=2000)
    command = f"{Path(sys.executable).with_name('seqtor')} journal export --journal bank.db | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=shell.folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "typer" else object())
    with pytest.raises(SystemExit) as ended:
        seqtor.cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == 'seqtor: the command line needs typer: pip install "seqtor[cli]"\n'


def test_the_command_needs_nothing_of_the_extra_to_be_found() -> None:
    program = textwrap.dedent(
        """
        import sys
        sys.modules["typer"] = sys.modules["rich"] = None
        import seqtor, seqtor.cli
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_long_commands_say_how_far_they_are_in_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = iter([0.0, 1.0, 6.0, 6.0, 7.0, 20.0, 20.0])
    monkeypatch.setattr(SystemClock, "monotonic", staticmethod(lambda: next(moments)))
    with Progress("verify") as progress:
        for done in (1000, 2000, 3000, 4000):
            progress(done, 40_000)
    assert capsys.readouterr() == ("", "verify: 2,000 of 40,000\nverify: 4,000 of 40,000\n")


def test_on_a_terminal_there_is_a_bar_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("verify") as progress:
        progress(500, 1000)
        assert progress._bar is not None
        assert progress._bar.tasks[0].percentage == 50
        assert progress._bar.console.stderr
    assert capsys.readouterr().out == ""
