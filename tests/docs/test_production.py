"""The example for production runs as its unit file and its container file say."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.programs import WAIT_S

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "production"
SEQTOR = Path(sys.executable).with_name("seqtor")


def unit() -> dict[str, list[str]]:
    """The [Service] section: every value of each name, in order."""
    found: dict[str, list[str]] = {}
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string((EXAMPLE / "shop.service").read_text("utf-8"))
    assert set(parser.sections()) == {"Unit", "Service", "Install"}
    for line in (EXAMPLE / "shop.service").read_text("utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def instructions() -> list[tuple[str, str]]:
    """What the container file says, line by line."""
    text = (EXAMPLE / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


class Machine:
    """A folder laid out as the unit expects it, and the service in it, started as systemd would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        shutil.copy(EXAMPLE / "shop.py", folder)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(WAIT_S)
        self.socket.bind(str(folder / "notify"))
        settings = " ".join(unit()["Environment"]).replace("%S/shop", str(self.state))
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SEQTOR_")},
            **dict(each.split("=", 1) for each in shlex.split(settings)),
        }
        self.process: subprocess.Popen[str] | None = None

    def command(self, name: str) -> list[str]:
        """A command of the unit, with this environment's program, on a free port."""
        words = shlex.split(unit()[name][0])
        assert words[0] == "/opt/shop/.venv/bin/seqtor"
        return [str(SEQTOR), *("0" if word == "8080" else word for word in words[1:])]

    def start(self) -> str:
        """Start the service and wait until it is ready; returns where it says how it is."""
        notified = {"NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": "40000"}
        self.process = subprocess.Popen(
            self.command("ExecStart"),
            cwd=self.folder,
            env={**self.environ, **notified},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.await_told("READY=1")
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"health at (http://\S+?)/health/live", json.loads(line)["message"]):
                return found[1]
        raise AssertionError("it did not say where")

    def await_told(self, assignment: str) -> None:
        while assignment not in self.socket.recv(65536).decode().splitlines():
            pass

    def stop(self, number: signal.Signals) -> int:
        """Signal the service and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=WAIT_S)
        return self.process.returncode

    def seqtor(self, *arguments: str) -> Any:
        """What a command says in JSON."""
        done = subprocess.run(
            [SEQTOR, *arguments, "--json"],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.communicate()
    made.socket.close()


def test_the_service_runs_as_the_unit_starts_it_and_loses_nothing_when_it_is_killed(machine: Machine) -> None:
    subprocess.run(machine.command("ExecStartPre"), cwd=machine.folder, env=machine.environ, check=True, timeout=60)
    url = machine.start()
    machine.await_told("WATCHDOG=1")
    with urllib.request.urlopen(f"{url}/health/ready", timeout=WAIT_S) as answer:
        assert json.load(answer)["ok"] is True
    assert machine.seqtor("submit", "Deliver", '{"item": "book", "count": 10}')["result"] == 10
    order = ("submit", "Order", '{"id": "A-1", "item": "book", "count": 3}', "--key", "A-1")
    assert machine.seqtor(*order)["result"] == 7
    machine.stop(signal.SIGKILL)

    machine.start()
    assert machine.seqtor(*order)["result"] == 7, "taken once"
    assert machine.stop(signal.SIGTERM) == 0
    sales = machine.seqtor("state", "sales")["stores"]["sales"]
    notes = {path.name: json.loads(path.read_text("utf-8")) for path in (machine.state / "outbox").glob("*.json")}
    assert notes == {sales["A-1"]["note"]: {"id": "A-1", "item": "book", "count": 3}}
    assert machine.seqtor("verify", "--system", "shop:system")["as_recorded"] is True


def test_the_unit_waits_longer_than_the_grace_and_knows_which_exits_a_restart_does_not_help() -> None:
    found = unit()
    assert found["Type"] == ["notify"]
    grace = int(shlex.split(found["ExecStart"][0])[shlex.split(found["ExecStart"][0]).index("--grace") + 1])
    assert int(found["TimeoutStopSec"][0]) > grace + 10
    assert found["Restart"] == ["on-failure"]
    codes = {int(code) for code in found["RestartPreventExitStatus"][0].split()}
    assert codes == {1, 2}
    documented = (ROOT / "docs/reference/command-line.md").read_text("utf-8")
    assert all(re.search(rf"^\| {code} \|", documented, re.MULTILINE) for code in (*codes, 3, 70, 130))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there to read the unit")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (EXAMPLE / "shop.service").read_text("utf-8")
    for path in {"/opt/shop/.venv/bin/seqtor", "/opt/shop"}:  # They are on the machine where it runs.
        text = text.replace(f"={path}", f"={SEQTOR if path.endswith('seqtor') else tmp_path}")
    (tmp_path / "shop.service").write_text(text.replace(f"{tmp_path}/.venv/bin/seqtor", str(SEQTOR)), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "shop.service"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    own = [line for line in done.stderr.splitlines() if "shop.service" in line]
    assert (done.returncode, own) == (0, []), done.stderr


def test_what_the_container_copies_and_calls_is_there(wheel: Path) -> None:
    said = instructions()
    copied = [argument.split()[0] for name, argument in said if name == "COPY"]
    assert copied
    assert all((EXAMPLE / name).is_file() for name in copied)
    entry = json.loads(next(argument for name, argument in said if name == "ENTRYPOINT"))
    with ZipFile(wheel) as archive:
        (scripts,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert f"{entry[0]} = seqtor.cli:main" in archive.read(scripts).decode()
        assert {"seqtor/cli/run.py", "seqtor/serving/service.py"} <= set(archive.namelist())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (extra,) = re.findall(r'pip install .*"seqtor\[(\w+)\]"', " ".join(argument for _, argument in said))
    assert extra in extras
    assert entry[1:] == shlex.split(unit()["ExecStart"][0])[1:], "the same command as under systemd"
    assert dict(said)["STOPSIGNAL"] == "SIGTERM"
    names = [name for name, _ in said]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert dict(said)["USER"] == "shop"


def test_the_health_check_of_the_container_tells_life_from_death(machine: Machine) -> None:
    (check,) = [argument for name, argument in instructions() if name == "HEALTHCHECK"]
    command = json.loads(check.partition(" CMD ")[2])
    assert command[0] == "python"
    url = machine.start()
    program = command[2].replace("http://127.0.0.1:8080", url)
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
    assert machine.stop(signal.SIGTERM) == 0
    dead = subprocess.run([sys.executable, "-c", program], timeout=60, stderr=subprocess.DEVNULL, check=False)
    assert dead.returncode != 0
