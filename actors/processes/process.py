"""One worker process, from the system's side.

Owns the process and its socket. Promises: it inherits nothing but the socket and the standard streams, without input; an
interrupt from the terminal does not reach it, also while it starts; however it ends, it is waited for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from seqtor.actors.processes.answering import Shipped
from seqtor.actors.processes.importable import NotFoundHere
from seqtor.actors.processes.wire import Broken, Link, Preparation, WorkerDied, unpacked
from seqtor.messages.errors import SeqtorError

__all__ = ["ProgramNotImported", "WorkerProcess", "preparation_of_main"]

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from seqtor.actors.processes.worker import main; "
    "main(int(sys.argv[1]))"
)
HELD_BACK = (signal.SIGINT, signal.SIGTERM)  # Until it has handlers of its own.
INTERPRETER_FLAGS: Any = subprocess
CLOSING_S = 5.0


class ProgramNotImported(SeqtorError):
    """A worker process could not import the program; `__cause__` is what was raised there."""

    code = "program_not_imported"


class WorkerProcess:
    """A worker process; used by the thread that has it, but for `kill`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        path = json.dumps(_import_path())
        flags = INTERPRETER_FLAGS._args_from_interpreter_flags()
        command = [os.fsdecode(spawn.get_executable()), *flags, "-c", BOOT, str(theirs.fileno()), path]
        with ours, theirs:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.link = Link(ours.detach())
        self.shipped = Shipped()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def prepare(self, preparation: Preparation) -> None:
        """Have it import the program. Raises ProgramNotImported, and WorkerDied if it ends meanwhile."""
        self.link.send(preparation)
        frame = self.link.receive()
        if isinstance(frame, Broken):
            cause = unpacked(frame.error)
            if isinstance(cause, NotFoundHere):
                raise ProgramNotImported(f"a worker process {cause}") from None
            modules = ", ".join(dict.fromkeys(name.module for name in preparation.names))
            raise ProgramNotImported(
                f"a worker process could not import the program: {type(cause).__name__}: {cause}; it imports "
                f"{modules} and the file that was started, which must do nothing but define and "
                f"register: what starts something belongs under if __name__ == '__main__':\n{frame.error.traceback}"
            ) from None

    def kill(self) -> None:
        """End it at once, wherever it is; from any thread, harmless if it has ended."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def bury(self) -> str:
        """Make sure that it is gone, and say how it ended."""
        self.link.close()
        try:  # Its socket has ended, so it ends by itself, unless it is stuck.
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def end(self) -> None:
        """Have it close what it has opened and end; it is killed if that takes too long."""
        with contextlib.suppress(WorkerDied):
            self.link.send(None)
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.link.close()


def _import_path() -> list[str]:
    return [entry or str(Path.cwd()) for entry in sys.path]


def preparation_of_main() -> dict[str, Any]:
    """What `multiprocessing.spawn.prepare` needs to give a process the same main module, folder and arguments."""
    prepared: dict[str, Any] = {
        "sys_path": _import_path(),
        "sys_argv": sys.argv,
        "dir": str(Path.cwd()),
    }
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        prepared["init_main_from_name"] = spec.name
    elif file is not None and Path(file).exists():
        prepared["init_main_from_path"] = str(Path(file).absolute())
    return prepared
