"""A system under `seqtor run`, as systemd runs one: a real process, its notify socket, its signals.

Owns the program and the test's end of it: commands on standard input, what handlers tell on standard output, a FIFO at
which a handler stands until the test lets it through.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.programs import WAIT_S

__all__ = ["PROGRAM", "Served"]

PROGRAM = """
import os, sys, threading
from pathlib import Path
from seqtor import *
from seqtor.actors.journal.sqlite import SqliteBackend

class Entry(Record):
    attempt: int

class Work(Trigger[int]):
    number: int
    waits: bool = False

class Journal(SqliteBackend):
    def append(self, group):
        if Path("full").exists():
            raise OSError(28, "No space left on device")
        super().append(group)

system = Supervisor(Journal("work.db"), name="desk")
done = system.store("done", Collection(Entry))

def tell(line):
    sys.stdout.write(f"{line}\\n")
    sys.stdout.flush()

@system.on(Work, deadline=3600)
def work(trigger, tx):
    tell(f"begins {trigger.number} attempt {tx.attempt}")
    if trigger.waits and not Path("open").exists():
        Path("gate").read_text()
    tx[done][str(trigger.number)] = Entry(attempt=tx.attempt)
    return trigger.number

def obey():
    for line in sys.stdin:
        verb, number = line.split()
        try:
            submission = system.submit(Work(number=int(number), waits=verb == "wait"))
            submission.accepted().get()
            tell(f"accepted {number}")
            if verb == "ask":
                tell(f"result {submission.result()}")
        except SeqtorError as error:
            tell(f"refused {number}: {type(error).__name__}")

threading.Thread(target=obey, daemon=True).start()
"""


class Served:
    """One life of the program in a folder."""

    def __init__(self, folder: Path, *options: str, system: str = "desk:system", **environ: str) -> None:
        self.folder = folder
        (folder / "desk.py").write_text(PROGRAM, encoding="utf-8")
        if not (folder / "gate").exists():
            os.mkfifo(folder / "gate")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.settimeout(WAIT_S)
        address = folder / "notify"
        address.unlink(missing_ok=True)
        self._notify.bind(str(address))
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("seqtor"), "run", system, *options],
            cwd=folder,
            env={**os.environ, "NOTIFY_SOCKET": str(address), "PYTHONWARNINGS": "error", **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._notify.close()

    def await_told(self, assignment: str) -> dict[str, str]:
        """Wait until systemd has been told this; returns the whole message."""
        while True:
            lines = self._notify.recv(65536).decode().splitlines()
            if assignment in lines:
                return dict(line.split("=", 1) for line in lines)

    def send(self, command: str) -> None:
        """Have the program do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def await_line(self, start: str | tuple[str, ...]) -> str:
        """Wait until the program prints a line that begins so, or so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.rstrip()
        raise AssertionError(f"the program ended without a line {start!r}: {self.process.communicate()[1]}")

    def let_through(self) -> None:
        """Open the gate for the handler that stands at it."""
        (self.folder / "gate").write_text("")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; returns the exit code and what it said on standard error."""
        _, stderr = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, stderr
