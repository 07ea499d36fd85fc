"""Whether a system listens to other processes, and where.

Owns the meaning of the setting `control`. A system with a journal file listens beside it; one in memory, or with its journal
in a server, only where it is told to; a simulated one never.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from seqtor.control.place import Listening, socket_path
from seqtor.control.server import ControlServer
from seqtor.messages.errors import RegistrationError

if TYPE_CHECKING:
    from seqtor.actors.journal.contract import Backend
    from seqtor.system import Supervisor

__all__ = ["closing_control", "open_control"]

LAST_ANSWERS_S = 2.0


def open_control(system: Supervisor, backend: Backend | None) -> ControlServer | None:
    """The server of a system that has just started, or None if it shall have none. Raises RegistrationError."""
    setting = system.settings.control
    supported = hasattr(socket, "AF_UNIX")
    if setting == "off" or (setting == "auto" and not supported):
        return None
    if not supported:
        raise RegistrationError('control: this platform has no local sockets: leave the setting out, or say "off"')
    if setting != "auto":
        path = Path(os.path.expandvars(setting)).expanduser().absolute()
        return _serving(system, Listening(path, owned=False))
    journal = getattr(backend, "file", None)  # Of backends that keep it in one.
    return None if journal is None else _serving(system, Listening(socket_path(journal), owned=True))


def _serving(system: Supervisor, listening: Listening) -> ControlServer:
    try:
        return ControlServer(system, listening)
    except BaseException:
        listening.withdraw()
        listening.socket.close()
        raise


@contextmanager
def closing_control(server: ControlServer | None) -> Iterator[None]:
    """Around the stop of a system: nobody new comes in before it, and those who wait get their answers after it."""
    if server is None:
        yield
        return
    server.close_door()
    try:
        yield
    finally:
        server.stop(LAST_ANSWERS_S)
