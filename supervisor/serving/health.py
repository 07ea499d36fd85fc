"""`/health/live` and `/health/ready` over HTTP: whether a restart would help, whether work may be sent.

Owns the judgement and the little server. Promises: an answer comes within the time-out, however dead the system is; slow
clients, floods and garbage harm nobody: connections, bytes and time are bounded, and all run on one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, Self

from seqtor.actors.clock import Clock, SystemClock
from seqtor.endings import Life
from seqtor.messages.errors import RegistrationError
from seqtor.messages.runs import Stats
from seqtor.serving.probe import Probe
from seqtor.settings import seconds
from seqtor.system import Supervisor

__all__ = ["Health", "HealthServer", "address_of"]

HOST = "127.0.0.1"
CONNECTIONS_MAX = 64
REQUEST_BYTES_MAX = 8192
REQUEST_S = 5.0  # From the connection to the last byte of the answer, beside the time-out of the question.
JOURNAL_LAG_S = 5.0
ROUNDS = 4  # Of the loop, in which a connection that has just been accepted, or aborted, comes to its next task or end.
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class Health(NamedTuple):
    """The answer to one of the two questions; `reasons` are empty if it is yes."""

    life: Life
    reasons: tuple[str, ...]
    stats: Stats | None = None

    @property
    def ok(self) -> bool:
        """Whether the answer is yes."""
        return not self.reasons

    def body(self) -> dict[str, Any]:
        """As JSON says it."""
        figures = ("committed_through", "durable_through", "queued", "in_flight")
        stats = {} if self.stats is None else {name: getattr(self.stats, name) for name in figures}
        return {"ok": self.ok, "life": self.life.value, "reasons": list(self.reasons), **stats}


class Checkup:
    """Judges one system. Remembers when the journal last moved."""

    def __init__(self, system: Supervisor, probe: Probe, timeout_s: float, clock: Clock) -> None:
        self._system = system
        self._probe = probe
        self._timeout_s = timeout_s
        self._clock = clock
        self._durable: tuple[int, float] | None = None  # A seq that others waited for, and since when.

    async def live(self) -> Health:
        """Whether a restart would not help: the core answers, or the system is still on its way up."""
        return await self._ask(ready=False)

    async def ready(self) -> Health:
        """Whether work may be sent: started, not stopping, the core answers, and the journal keeps up."""
        return await self._ask(ready=True)

    async def _ask(self, *, ready: bool) -> Health:
        life = self._system.life
        if life is Life.NOT_STARTED:
            return Health(life, ("the system has not started yet",) if ready else ())
        if life in (Life.STOPPED, Life.BROKEN_DOWN):
            return Health(life, (f"the system has {life.value}: {self._system.wait(0).reason}",))
        try:
            stats = await self._probe.ask_async(self._timeout_s)
        except Exception as silent:
            return Health(self._system.life, (str(silent) or type(silent).__name__,))
        reasons = []
        if ready and life is Life.STOPPING:
            reasons.append("the system is stopping")
        if ready and (lag_s := self._lag_s(stats)) >= JOURNAL_LAG_S:
            first, last = stats.durable_through + 1, stats.committed_through
            reasons.append(f"the journal does not keep up: seqs {first} to {last} wait for it since {lag_s:.1f} s")
        return Health(life, tuple(reasons), stats)

    def _lag_s(self, stats: Stats) -> float:
        """For how long the journal has not moved although something waits for it, as far as it was looked at."""
        now = self._clock.monotonic()
        if stats.durable_through >= stats.committed_through:
            self._durable = None
            return 0.0
        if self._durable is None or self._durable[0] != stats.durable_through:
            self._durable = (stats.durable_through, now)
        return now - self._durable[1]


class HealthServer:
    """`with HealthServer(system, 8080): ...` answers GET /health/live and /health/ready with 200 or 503 and a small JSON.

    `port` 0 takes a free one; `address` says which. `timeout` is how long the core may take for an answer. It may be
    started before the system is.
    """

    def __init__(
        self,
        system: Supervisor,
        port: int,
        host: str = HOST,
        *,
        timeout: float | datetime.timedelta = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._timeout_s = seconds(timeout, "timeout")
        self._checkup = Checkup(system, Probe(system), self._timeout_s, SystemClock() if clock is None else clock)
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._work, name=f"{system.name}-health", daemon=True)
        self._bound: Future[tuple[str, int]] = Future()
        self._connections: dict[asyncio.Task[None], None] = {}  # The oldest first.
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._bound.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises what binding raised (OSError)."""
        return self._bound.result()

    @property
    def url(self) -> str:
        """Where the two questions are asked, without the path."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    # On the server's thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._connected, self._host, self._port, limit=REQUEST_BYTES_MAX)
        except BaseException as error:
            self._bound.set_exception(error)
            return
        self._bound.set_result(server.sockets[0].getsockname()[:2])
        await self._ended.wait()
        for listening in server.sockets:  # First: to close the server fails the connection that is just being accepted.
            self._loop.remove_reader(listening.fileno())
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        server.close()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._connections:  # No other: one that is cancelled before it has begun would close nothing.
                task.cancel()
            await asyncio.wait(left)
            for _ in range(ROUNDS):
                await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._ended.is_set():
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= CONNECTIONS_MAX:  # Who is here longest has had its time, or is slow on purpose.
            next(iter(self._connections)).cancel()
        self._connections[task] = None
        try:
            with contextlib.suppress(TimeoutError, OSError, asyncio.CancelledError):
                async with asyncio.timeout(REQUEST_S + self._timeout_s):
                    await self._answer(reader, writer)
        finally:
            writer.transport.abort()  # What was answered has been flushed; of the rest nothing is waited for.
            self._connections.pop(task, None)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            head = b""
        code, body = await self._judge(head)
        text = json.dumps(body).encode()
        allow = "Allow: GET, HEAD\r\n" if code == 405 else ""
        answer = (
            f"HTTP/1.1 {code} {REASONS[code]}\r\n{allow}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        ).encode()
        writer.write(answer if head.startswith(b"HEAD ") else answer + text)
        writer.write_eof()
        await writer.drain()
        while await reader.read(REQUEST_BYTES_MAX):  # Until the client has closed, so that it gets all of the answer.
            pass

    async def _judge(self, head: bytes) -> tuple[int, dict[str, Any]]:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return 400, {"error": "this is no HTTP/1 request, or its head is too long"}
        path = target.partition("?")[0]
        question = {"/health/live": self._checkup.live, "/health/ready": self._checkup.ready}.get(path)
        if question is None:
            return 404, {"error": "there are /health/live and /health/ready"}
        if method not in ("GET", "HEAD"):
            return 405, {"error": "GET it"}
        health = await question()
        return (200 if health.ok else 503), health.body()


def address_of(text: str) -> tuple[str, int]:
    """Host and port of `[HOST:]PORT`; the host is the loopback one if none is given. Raises RegistrationError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise RegistrationError(f"the address for health is [HOST:]PORT, such as 8080 or 127.0.0.1:8080, got {text!r}")
    return host.removeprefix("[").removesuffix("]") or HOST, int(port)
