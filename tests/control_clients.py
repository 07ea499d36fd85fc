"""Clients of the control socket for tests: those that behave as they like, byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from seqtor import Supervisor
from seqtor.control.place import Listening, dial
from seqtor.control.protocol import Limits
from seqtor.control.server import ControlServer
from tests.programs import WAIT_S

__all__ = ["Raw", "framed", "serving"]


def framed(value: Any) -> bytes:
    """A frame as any other program would write it."""
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


class Raw:
    """A connection that sends what the test says."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        self.socket = dial(path, WAIT_S)
        if greet:
            self.send(framed({"seqtor": 1}))
            self.hello = self.read()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, **request: Any) -> Any:
        self.send(framed({"id": 1, **request}))
        return self.read()

    def read(self) -> Any:
        """The next frame; None when the server has ended the connection."""
        head = self._bytes(4)
        if head is None:
            return None
        body = self._bytes(struct.unpack(">I", head)[0])
        return None if body is None else json.loads(body)

    def read_to_the_end(self) -> list[Any]:
        """All frames until the server ends the connection; fails after a while if it does not."""
        frames = []
        while (frame := self.read()) is not None:
            frames.append(frame)
        return frames

    def _bytes(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionError:
                return None
            if not part:
                return None
            data += part
        return data

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def serving(system: Supervisor, path: Path, **limits: Any) -> Iterator[ControlServer]:
    """A server with limits of the test's own, for a system that was started with control="off"."""
    server = ControlServer(system, Listening(path, owned=False), Limits(**limits))
    try:
        yield server
    finally:
        server.close_door()
        server.stop(WAIT_S)
