"""Where the local socket of a running system is, how it gets there, and how it is reached.

Owns the socket file. Promises: it is never accessible to others, not even for a moment; what a dead process has left is
replaced, what a living one listens on never; a path that is longer than socket addresses may be (about 100 bytes) works
all the same. Must never remove a file that is no socket, or one that another process has put in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from seqtor.messages.errors import NotRunning, RegistrationError

__all__ = ["BACKLOG", "Listening", "control_path", "dial", "socket_path"]

ADDRESS_BYTES_MAX = 103  # What every platform takes: 108 bytes on Linux, 104 elsewhere, one of them for the end.
NAME_BYTES_MAX = 64  # Of a name that is made here.
LAST_PART_BYTES_MAX = 76  # Of a name that is given; what comes before it can be shortened.
BACKLOG = 128


def socket_path(journal: Path) -> Path:
    """The socket that belongs to a journal file: beside it, also if the journal is named through a link."""
    journal = journal.expanduser().resolve()
    name = f"{journal.name}-control"
    if len(os.fsencode(name)) > NAME_BYTES_MAX:  # So that it fits into an address behind a short folder.
        name = f"{hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()}-control"
    return journal.with_name(name)


def control_path(target: Any) -> Path:
    """The socket that is meant by a journal (path or URL) or by the path of a socket. Raises RegistrationError."""
    if isinstance(target, os.PathLike):
        target = os.fspath(target)
    if not isinstance(target, str) or not target:
        raise RegistrationError(f"connect() takes the path of a journal or of a control socket, got {target!r}")
    if target == "memory:" or target.partition("://")[0] in ("postgresql", "postgres"):
        kind = "a system in memory" if target == "memory:" else "a system with a PostgreSQL journal"
        raise RegistrationError(
            f"{kind} has no file beside which its control socket could be: give it one with "
            'settings={"control": "PATH"} and connect to that path'
        )
    scheme, separator, rest = target.partition("://")
    if separator:
        if scheme != "sqlite" or len(rest) < 2:
            raise RegistrationError(
                f"connect({target!r}): pass a path, sqlite:///PATH, or the path of a control socket"
            )
        target = unquote(rest[1:])
    if not hasattr(socket, "AF_UNIX"):
        raise RegistrationError("this platform has no local sockets: a system can be talked to in its own process only")
    path = Path(target).expanduser()
    return path if _is_socket(path) else socket_path(path)


def dial(path: Path, timeout_s: float) -> socket.socket:
    """Connect. Raises NotRunning if nobody listens, PermissionError for another user's, TimeoutError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A blocking connect with a limit of the kernel's: with one of Python's it does not wait for room in the backlog.
        limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6) + 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        with _short(path) as address:
            connection.connect(address)
        connection.settimeout(timeout_s)
    except (FileNotFoundError, NotADirectoryError):
        connection.close()
        raise NotRunning(
            f"no system listens at '{path}': the file does not exist. Start the program that runs the system; if it runs, "
            'it was started with control="off", or with another path'
        ) from None
    except ConnectionRefusedError:
        connection.close()
        raise NotRunning(
            f"no system listens at '{path}': the process that made the file has ended. Start the program again"
        ) from None
    except PermissionError as error:
        connection.close()
        raise PermissionError(
            error.errno,
            f"the control socket '{path}' belongs to another user: connect as the user that runs the system",
        ) from None
    except BlockingIOError:
        connection.close()
        raise TimeoutError(f"the process that listens at '{path}' has not let us in within {timeout_s:g} s") from None
    except BaseException:
        connection.close()
        raise
    return connection


class Listening:
    """A socket that listens at a path, until `withdraw`.

    `owned`: the caller holds the lock of the journal that the path belongs to, so nobody else's socket can be there.
    Raises RegistrationError if another process listens there, or if the path will not do.
    """

    def __init__(self, path: Path, *, owned: bool) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._id = self._put_in_place(owned=owned)
        except OSError as error:
            self.socket.close()
            raise RegistrationError(
                f"the control socket '{path}' cannot be made ({error.strerror or error}): choose another path with "
                'settings={"control": "PATH"}, or run without one: {"control": "off"}'
            ) from error
        except BaseException:
            self.socket.close()
            raise

    def _put_in_place(self, *, owned: bool) -> tuple[int, int]:
        folder = self.path.parent
        if len(os.fsencode(self.path.name)) > LAST_PART_BYTES_MAX:
            raise RegistrationError(
                f"the control socket '{self.path}' cannot be made: the last part of its path has more than "
                f"{LAST_PART_BYTES_MAX} bytes. Choose a shorter one"
            )
        # Bound in a folder that only this user may enter, and moved when its mode is right: no window, and no umask,
        # which would be the whole process's.
        private = Path(tempfile.mkdtemp(prefix=".seqtor-", dir=folder))
        try:
            made = private / "s"
            with _short(made) as address:
                self.socket.bind(address)
            made.chmod(0o600)
            self.socket.listen(BACKLOG)
            with _lock_of(folder):
                self._require_free(owned=owned)
                status = made.stat()
                made.rename(self.path)
                return status.st_dev, status.st_ino
        finally:
            shutil.rmtree(private)

    def _require_free(self, *, owned: bool) -> None:
        """Raise RegistrationError unless there is nothing at the path, or what a dead process has left."""
        path = self.path
        if not os.path.lexists(path):
            return
        if not _is_socket(path):
            raise RegistrationError(
                f"the control socket '{path}' cannot be made: there is a file that is no socket. Choose another path with "
                'settings={"control": "PATH"}, or move the file away'
            )
        if owned:
            return
        try:
            dial(path, 1.0).close()
        except NotRunning:
            return
        except TimeoutError:
            pass  # It is there, and busy.
        raise RegistrationError(
            f"the control socket '{path}' belongs to a running process: stop that one first, or give this system another "
            'path: settings={"control": "PATH"}'
        )

    def withdraw(self) -> None:
        """Take the file away, if it is still this one; the socket is closed by whoever accepts from it."""
        with contextlib.suppress(FileNotFoundError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._id:
                self.path.unlink()


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the path that fits into a socket address: the path itself, or one through a short-lived link."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield os.fspath(path)
        return
    shelf = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="seqtor-", dir=shelf) as folder:
        link = Path(folder, "f")
        link.symlink_to(path.parent.absolute())
        yield os.fspath(link / path.name)


@contextmanager
def _lock_of(folder: Path) -> Iterator[None]:
    """Of several processes that look and replace, let one do both at a time."""
    import fcntl  # Not on every platform; one without it has no local sockets either.

    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(
            OSError
        ):  # Some file systems lock no folders: then the journal's lock is what is left.
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
