"""The client's end of one connection: sends requests, hands answers to who waits for them.

Owns the socket and the thread that reads from it. Promises: any number of threads may use it at a time; when it breaks,
everyone who waits is told so. Knows nothing of what the answers mean.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import weakref
from pathlib import Path
from typing import Any

from seqtor.control.place import dial
from seqtor.control.protocol import (
    HEAD_BYTES,
    LIMITS,
    PROTOCOL,
    Answer,
    ProtocolError,
    answer_of,
    frame,
    frame_length,
    hello_of,
)
from seqtor.messages.errors import NotRunning

__all__ = ["Link", "Lost", "Receiver"]


class Lost(Exception):
    """The connection has ended."""


class Receiver:
    """Where the answers to one request go; called on the reading thread."""

    def receive(self, answer: Answer) -> bool:
        """Take an answer; True if it was the last."""
        raise NotImplementedError

    def lose(self, reason: str) -> None:
        """There will be no more answers."""
        raise NotImplementedError


class Link:
    """A connection to a running system. Raises NotRunning, PermissionError, TimeoutError when it cannot be made."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._socket = dial(path, timeout_s)
        try:
            self._greet()
        except TimeoutError:
            self._socket.close()
            raise TimeoutError(
                f"the process that listens at '{path}' has not answered within {timeout_s:g} s"
            ) from None
        except (ProtocolError, ConnectionError, EOFError) as error:
            self._socket.close()
            raise NotRunning(f"what listens at '{path}' is no seqtor system of this version: {error}") from error
        except BaseException:
            self._socket.close()
            raise
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._receivers: dict[int, Receiver] = {}
        self._lock = threading.Lock()  # Of the receivers, and of `lost`.
        self._sending = threading.Lock()
        self.lost: str | None = None
        self._thread = threading.Thread(target=_read, args=(weakref.ref(self), self._socket), daemon=True)
        self._thread.name = f"seqtor-connection-{path.name}"
        self._thread.start()

    def _greet(self) -> None:
        self._socket.sendall(frame({"seqtor": PROTOCOL}))
        spoken = hello_of(_read_frame(self._socket))
        if spoken != PROTOCOL:
            raise ProtocolError(f"it speaks version {spoken} of the protocol, spoken here is {PROTOCOL}")
        self._socket.settimeout(None)
        # Of sending alone: reading waits for as long as there is something to wait for.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(LIMITS.read_s), 0))

    def send(self, request: dict[str, Any], receiver: Receiver) -> int:
        """Send a request; its answers go to the receiver. Returns its number.

        Raises Lost, ValueError for a request that is too large.
        """
        number = next(self._numbers)
        sent = frame({"id": number, **request})
        if len(sent) - HEAD_BYTES > LIMITS.frame_bytes_max:
            raise ValueError(
                f"the request has {len(sent)} bytes, allowed are {LIMITS.frame_bytes_max}: hand it in in smaller parts"
            )
        with self._lock:
            if self.lost is not None:
                raise Lost(self.lost)
            self._receivers[number] = receiver
        try:
            with self._sending:
                self._socket.sendall(sent)
        except OSError as error:
            self.close(f"sending failed: {error}")
        return number

    def receive(self, answer: Answer) -> None:
        """Hand an answer on."""
        if answer.id is None:
            text = answer.error.message if answer.error is not None else "without a word"
            raise ProtocolError(f"the system has ended the connection: {text}")
        with self._lock:
            receiver = self._receivers.get(answer.id)
        if receiver is not None and receiver.receive(answer):  # Nobody waits any more for one that came too late.
            self.forget(receiver, answer.id)

    def forget(self, receiver: Receiver, number: int | None = None) -> None:
        """Nobody waits for the answers any more."""
        with self._lock:
            if number is None:
                number = next((each for each, known in self._receivers.items() if known is receiver), None)
            if number is not None:
                self._receivers.pop(number, None)

    def close(self, reason: str = "the connection was closed") -> None:
        """End the connection and tell who waits. Twice: harmless."""
        with self._lock:
            if self.lost is None:
                self.lost = reason
            left, self._receivers = list(self._receivers.values()), {}
        with contextlib.suppress(OSError):  # The other side was faster.
            self._socket.shutdown(socket.SHUT_RDWR)
        for receiver in left:
            receiver.lose(self.lost)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._socket.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # Never connected, or closed already.
            self._socket.shutdown(socket.SHUT_RDWR)


def _read(reference: weakref.ref[Link], connection: socket.socket) -> None:
    """Read answers until the connection ends; holds the link only while it hands one on, so that it can be forgotten."""
    while True:
        try:
            answer = answer_of(_read_frame(connection))
            reason = None
        except (EOFError, OSError):
            answer, reason = None, "the system has stopped, or its process has ended"
        except ProtocolError as error:
            answer, reason = None, str(error)
        link = reference()
        if link is None:
            connection.close()
            return
        if answer is not None:
            try:
                link.receive(answer)
            except ProtocolError as error:
                reason = str(error)
        if reason is not None:
            link.close(reason)
            connection.close()
            return
        del link


def _read_frame(connection: socket.socket) -> bytes:
    length = frame_length(_read_bytes(connection, HEAD_BYTES), LIMITS.answer_bytes_max)
    return _read_bytes(connection, length)


def _read_bytes(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 2**20))
        if not part:
            raise EOFError("the connection has ended")
        parts += part
    return bytes(parts)
