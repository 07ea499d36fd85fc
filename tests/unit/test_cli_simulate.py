"""`seqtor simulate`: finds what is wrong in a program, makes it small, and says how to find it again."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from typer.testing import CliRunner

from seqtor import RegistrationError, Supervisor
from seqtor.actors.dispatchers import handler_threads
from seqtor.cli.app import app
from seqtor.testing import Failing
from seqtor.testing import simulate as played_in_a_test
from seqtor.testing.simulating import playing
from seqtor.testing.simulating.searching import Program, WrongWorkload
from tests.docs.pages import programs_of, read

PAGE = Path("docs/how-to/simulate-your-system.md")
WORK = ("--workload", "bank:work", "--invariant", "bank:nothing_appears")
OUTSIDE = """
from seqtor import EffectContext, Supervisor, Transaction, Trigger
from seqtor.testing import StandIns

system = Supervisor()

class Place(Trigger[None]):
    symbol: str

class Look(Trigger[int]):
    symbol: str

def price(symbol: str) -> int:
    open("touched", "a").close()
    return 5

@system.effect("place")
def place(context: EffectContext, symbol: str) -> None:
    open("touched", "a").close()

@system.on(Place)
def on_place(trigger, tx: Transaction) -> None:
    tx.effect(place, trigger.symbol)

@system.on(Look)
def on_look(trigger, tx: Transaction) -> int:
    try:
        return tx.call(price, trigger.symbol)
    except Exception:
        return 0

def only_the_effect():
    return StandIns(effects={place: lambda context, symbol: None})

everything = StandIns(calls={price: 3}, effects={place: lambda context, symbol: None})
"""
FORGETFUL = """
from seqtor import Collection, Record, Supervisor, Trigger

class Seen(Record):
    n: int = 0

class See(Trigger[int]):
    key: str

count = 0

def make():
    system = Supervisor()
    seen = system.store("seen", Collection(Seen))

    @system.on(See)
    def see(trigger, tx):
        global count
        count += 1
        tx[seen][trigger.key] = Seen(n=count)
        return count

    return system
"""
CACHING = """
from seqtor import Collection, Record, Supervisor, Transaction, Trigger

class Seen(Record):
    n: int = 0

class See(Trigger[int]):
    key: str

system = Supervisor()
seen = system.store("seen", Collection(Seen))
executed: list[str] = []  # The commonest bug: it outlives the history, and the next one finds it filled.

@system.on(See)
def see(trigger: See, tx: Transaction) -> int:
    executed.append(trigger.key)
    tx[seen][trigger.key] = Seen(n=len(executed) <= 5)
    return 0

def nothing_is_one(snapshot):
    return all(each.n == 0 for each in snapshot[seen].values())

def work(random):
    return [See(key="a")] * 20
"""
STANDING = """
import threading
from seqtor import Supervisor, Transaction, Trigger

class Wait(Trigger[None]):
    pass

system = Supervisor()

@system.on(Wait)
def wait(trigger: Wait, tx: Transaction) -> None:
    threading.Event().wait()
"""
SAYING = """
import sys
from seqtor import Collection, Record, Supervisor, Transaction, Trigger

class Seen(Record):
    n: int = 0

class See(Trigger[None]):
    key: str

system = Supervisor()
seen = system.store("seen", Collection(Seen))

@system.on(See)
def see(trigger: See, tx: Transaction) -> None:
    print("executed", file=sys.stderr, flush=True)
    tx[seen][trigger.key] = Seen(n=tx[seen].get(trigger.key, Seen()).n + 1)
"""

FOOLISH = """
import random as chance
from bank import Transfer
from seqtor import Trigger

class Transfr(Trigger[None]):
    key: str

def nothing(random): return None
async def awaited(random): return []
async def streamed(random): yield 1
def alone(): return []
def empty(random): return []
def words(random): return ["one"]
def unknown(random): return [Transfr(key="a")]
def raises(random):
    yield Transfer(source="a", target="b", amount=1)
    raise TypeError("lost")
def by_chance(random): return [Transfer(source="a", target="b", amount=chance.randrange(10**9)) for _ in range(9)]
def refused(random): return [Transfer(source="a", target="b", amount=1000)]
def fine(random): return [Transfer(source="a", target="b", amount=1)]
async def ainvariant(snapshot): return True
def two(snapshot, more): return True
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    bank = next(program for program in programs_of(PAGE) if "class Transfer" in program.text)
    (tmp_path / "bank.py").write_text(bank.text)
    (tmp_path / "outside.py").write_text(OUTSIDE)
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    (tmp_path / "standing.py").write_text(STANDING)
    (tmp_path / "caching.py").write_text(CACHING)
    (tmp_path / "foolish.py").write_text(FOOLISH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    logger.enable("seqtor")
    for name in ("bank", "outside", "forgetful", "caching", "standing", "foolish"):
        sys.modules.pop(name, None)


def simulate(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["simulate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def without_counts(text: str) -> str:
    """The text without what depends on how many steps the runtime makes of a history."""
    return re.sub(r"of \d+ switches", "of N switches", text)


@pytest.mark.usefixtures("folder")
def test_nothing_is_found_where_nothing_is_wrong() -> None:
    stdout, _ = simulate("bank:system", "--seeds", "6", "--triggers", "20")
    assert re.match(r"6 histories in \d+ s, \d+ seqs \(.* committed.*\).*: nothing found\n", stdout)


@pytest.mark.usefixtures("folder")
def test_a_broken_invariant_is_told_as_the_page_says_with_the_command_that_finds_it_again() -> None:
    stdout, stderr = simulate("bank:system", *WORK, code=1)
    shown = re.search(r"```console\n\$ [^\n]*\n(.*?)```", read(PAGE), re.DOTALL)
    assert shown is not None
    expected = without_counts(shown[1])
    assert without_counts(stdout).startswith(expected)
    assert "seed 0 fails, and is made smaller" in stderr
    again = re.search(r"again: seqtor simulate (.*)", stdout)
    assert again is not None
    repeated, _ = simulate(*again[1].split(), code=1)
    assert without_counts(repeated).startswith(expected)
    assert repeated.partition("\n\nseed")[0] == stdout.partition("\n\nseed")[0], "the same, byte for byte"


@pytest.mark.usefixtures("folder")
def test_json_has_what_failed_and_the_small_history() -> None:
    stdout, _ = simulate("bank:system", *WORK, "--seeds", "2", "--json", code=1)
    assert stdout.count("\n") == 1
    found: Any = json.loads(stdout)
    assert found["histories"] == 2
    assert found["failing"][0]["violations"][0]["checker"] == "invariant nothing_appears"
    assert any("Transfer(source='a', target='a'" in line for line in found["smallest"]["trace"])


@pytest.mark.usefixtures("folder")
def test_a_handler_that_does_not_do_the_same_again_is_found() -> None:
    stdout, _ = simulate("forgetful:make", "--seeds", "3", "--triggers", "6", code=1)
    assert "serial order: seq 1: See, handled by forgetful.make.<locals>.see, gave another result" in stdout
    assert "1 of 6 triggers" in stdout
    assert stdout.count("\nseed ") == 3
    assert stdout.count("Look for a clock") == 1, "the advice is given once"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("cores", ["1", "2"])
def test_what_holds_when_it_is_played_again_is_told_with_what_did_not_hold(cores: str) -> None:
    arguments = (
        "caching:system",
        "--workload",
        "caching:work",
        "--invariant",
        "caching:nothing_is_one",
        "--seeds",
        "3",
    )
    stdout, _ = simulate(*arguments, "--cores", cores, code=1)
    assert "FOUND" in stdout
    assert "invariant nothing_is_one: does not hold after seq 1" in stdout
    assert "played again it holds: handlers keep something outside of stores" in stdout
    assert "bank:make_system" in stdout
    assert "again: seqtor simulate caching:system" in stdout


@pytest.mark.usefixtures("folder")
def test_in_a_test_what_holds_when_it_is_played_again_fails_with_what_did_not_hold() -> None:
    caching = importlib.import_module("caching")
    with pytest.raises(Failing, match=r"nothing_is_one: does not hold after seq 1\b") as failed:
        played_in_a_test(caching.system, range(3), workload=caching.work, invariants=[caching.nothing_is_one])
    assert "invariant nothing_is_one" in [each.checker for each in failed.value.finding.violations]
    assert "played again it holds: handlers keep something outside of stores" in str(failed.value)
    assert failed.value.finding.sizes is None


@pytest.mark.usefixtures("folder")
def test_a_handler_that_stands_ends_the_search_and_is_not_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "REAL_WAIT_S", 0.5)
    monkeypatch.setattr(handler_threads, "END_S", 0.1)
    stdout, stderr = simulate("standing:system", "--seeds", "30", code=1)
    assert "FOUND stands: a handler has not come to its next operation of tx for 0.5 s: Wait()" in stdout
    assert "made smaller" not in stdout + stderr
    assert re.search(r"^[1-9] histor.*: 1 failed$", stdout, re.MULTILINE), "of thirty"


@pytest.mark.parametrize("lines", [1, 2, 40, 150, 333])
def test_ctrl_c_ends_a_search_with_what_it_has_come_to_wherever_it_comes(folder: Path, lines: int) -> None:
    (folder / "saying.py").write_text(SAYING)
    command = [str(Path(sys.executable).with_name("seqtor")), "simulate", "saying:system", "--seeds", "100000"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(lines):
            assert process.stderr.readline(), "it has ended"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert re.fullmatch(r"stopped after \d+ histories in .*: nothing found\n", stdout), stdout + stderr


def test_nothing_outside_is_touched_unless_it_is_said(folder: Path) -> None:
    _, stderr = simulate("outside:system", "--seeds", "2", code=2)
    assert "nothing stands in for it" in stderr
    assert not (folder / "touched").exists()
    _, stderr = simulate("outside:system", "--seeds", "5", "--stand-ins", "outside:only_the_effect", code=2)
    assert "outside.price is called outside, and nothing stands in for it" in stderr, "although the handler swallows it"
    simulate("outside:system", "--seeds", "2", "--stand-ins", "outside:everything")
    assert not (folder / "touched").exists()
    simulate("outside:system", "--seeds", "1", "--real")
    assert (folder / "touched").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nothing:system",), "there is no module 'nothing'"),
        (("bank:sytem",), "did you mean 'system'"),
        (("bank:system", "--workload", "bank"), "expected MODULE:NAME"),
        (("bank:system", "--workload", "bank:nobody"), "the module bank has no 'nobody'"),
        (("bank:system", "--invariant", "bank:start"), "expected a function"),
        (("bank:system", "--workload", "bank:wrok"), "has no 'wrok'; did you mean 'work'?"),
        (("bank:system", "--workload", "foolish:nothing"), "the workload gives None, expected triggers"),
        (("bank:system", "--workload", "foolish:awaited"), "--workload foolish:awaited is async"),
        (("bank:system", "--workload", "foolish:streamed"), "--workload foolish:streamed is async"),
        (("bank:system", "--workload", "foolish:alone"), "alone is called with a random.Random alone"),
        (("bank:system", "--workload", "foolish:empty"), "the workload gives no trigger with seed 0"),
        (("bank:system", "--workload", "foolish:words"), "a trigger is an instance of a Trigger subclass, got 'one'"),
        (("bank:system", "--workload", "foolish:unknown"), "is registered for Transfr: decorate"),
        (("bank:system", "--workload", "foolish:unknown"), "did you mean 'Transfer'?"),
        (("bank:system", "--workload", "foolish:raises"), "the workload raises TypeError: lost\nTraceback"),
        (("bank:system", "--workload", "foolish:raises"), 'raise TypeError("lost")'),
        (("bank:system", "--invariant", "foolish:ainvariant"), "--invariant foolish:ainvariant is async"),
        (("bank:system", "--invariant", "foolish:two"), "two is called with a snapshot alone"),
        (("bank:system", "--stand-ins", "bank:start"), "expected seqtor.testing.StandIns"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], text: str) -> None:
    _, stderr = simulate(*arguments, code=2)
    assert text in stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("workload", "text"), [("by_chance", "take all chance from its argument"), ("refused", "no run has committed")]
)
def test_a_workload_that_shows_little_is_told(workload: str, text: str) -> None:
    _, stderr = simulate("bank:system", "--seeds", "4", "--workload", f"foolish:{workload}")
    assert text in stderr
    _, stderr = simulate("bank:system", "--seeds", "4", "--workload", "foolish:fine")
    assert text not in stderr


def test_what_the_runtime_raises_is_no_wrong_usage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(program: Program, seed: int) -> Any:
        raise TypeError(f"a bug at seed {seed}")

    monkeypatch.setattr(Program, "simulate", raising)
    with pytest.raises(TypeError, match="a bug at seed 0"):
        simulate("bank:system", "--seeds", "1")


def test_in_a_test_the_same_is_refused() -> None:
    async def awaited(random: Any) -> Any:
        return []

    def empty(random: Any) -> Any:
        return []

    wrong: Any = awaited
    with pytest.raises(RegistrationError, match="the workload is async"):
        played_in_a_test(Supervisor(), workload=wrong)
    with pytest.raises(RegistrationError, match="the invariant awaited is async"):
        played_in_a_test(Supervisor(), workload=empty, invariants=[wrong])
    with pytest.raises(WrongWorkload, match="gives no trigger with seed 0"):
        played_in_a_test(Supervisor(), workload=empty)


def test_the_same_seed_is_told_byte_for_byte_in_every_process_whatever_its_hash_seed_and_cores(folder: Path) -> None:
    console = str(Path(sys.executable).with_name("seqtor"))
    command = [console, "simulate", "bank:system", *WORK, "--seeds", "4", "--json"]
    told = []
    for hash_seed, cores in (("1", "1"), ("2", "2")):
        ran = subprocess.run(
            [*command, "--cores", cores],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 1, ran.stderr
        told.append({**json.loads(ran.stdout), "seconds": None, "states": None})
    assert told[0] == told[1]
