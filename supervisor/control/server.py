"""The server of the control socket: its connections, on one thread with an event loop of its own.

Owns the socket and everybody who is connected. Promises: everything is bounded, in bytes, in numbers and in time; whoever
sends rubbish, sends too slowly or does not read is disconnected, and nobody else notices; a flood of connections that say
nothing keeps out nobody who does; no user's code runs here except the serialisers of results. Must never be waited for by
an actor of the runtime.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import wait as wait_for_futures
from typing import TYPE_CHECKING, Any

from loguru import logger
from pykka import ActorDeadError

from seqtor.actors.dispatchers.dedicated import Dedicated
from seqtor.control.connection import Connected
from seqtor.control.desk import HANDS_IN, Cancelling, ControlDesk
from seqtor.control.place import BACKLOG, Listening
from seqtor.control.protocol import LIMITS, PROTOCOL, Limits, Request
from seqtor.messages.control import ServeRequest
from seqtor.messages.errors import Overloaded
from seqtor.messages.lifecycle import ActorCrashed
from seqtor.tree.view import Tree, supervisor_of, tree_of

if TYPE_CHECKING:
    from seqtor.system import Supervisor

__all__ = ["ControlServer"]

THREAD_STOP_S = 5.0
BREAKDOWNS_MAX = 10
READ_AHEAD_BYTES = 64 * 1024
PAUSE_S = 1.0


class ControlServer:
    """Serves one running system to other processes, from its construction to `stop`."""

    def __init__(self, system: Supervisor, listening: Listening, limits: Limits = LIMITS) -> None:
        self.name = system.name
        self.path = listening.path
        self.limits = limits
        self.unsent_bytes = 0
        self._system = system
        self._listening = listening
        self._connected: dict[Connected, None] = {}  # In the order of their arrival.
        self._serving: set[asyncio.Task[None]] = set()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._log_unhandled)
        self._dispatchers = [Dedicated(f"{self.name}-control-{part}") for part in ("intake", "queries")]
        self._intake, self._queries = (self._start_desk(dispatcher) for dispatcher in self._dispatchers)
        self._thread = threading.Thread(target=self._serve, name=f"{self.name}-control", daemon=True)
        listening.socket.setblocking(False)
        self._loop.call_soon(self._listen)
        self._thread.start()
        _all.add(self)

    # What the facade calls -------------------------------------------------------------------------------------------

    def close_door(self) -> None:
        """Let nobody in any more and take the socket away; who is connected gets the answers that are on their way."""
        self._listening.withdraw()
        self._call(self._close_door(), THREAD_STOP_S)

    def stop(self, timeout_s: float) -> None:
        """Send what has been answered, for at most `timeout_s`, and end all connections and threads. Twice: harmless."""
        if self._loop.is_closed():
            return
        _all.discard(self)
        self._call(self._disconnect_all(timeout_s), timeout_s + THREAD_STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(THREAD_STOP_S)
        for desk in (self._intake, self._queries):
            if desk.is_alive():
                desk.stop(block=False)
        stuck = [name for dispatcher in self._dispatchers for name in dispatcher.stop(1.0)]
        if self._thread.is_alive():
            stuck.append(self._thread.name)
        if stuck:
            logger.warning(
                "{}: threads of the control socket did not stop in time and are abandoned: {}",
                self.name,
                ", ".join(stuck),
            )
        else:
            self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Run a coroutine on the loop and wait for it, unless the loop has ended."""
        if not self._thread.is_alive():
            coroutine.close()
            return
        done = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if not wait_for_futures([done], timeout_s).done:
            logger.warning("{}: the control socket does not answer; it is abandoned", self.name)

    def tree(self) -> Tree:
        """Its actors, for `system.tree()`."""
        return supervisor_of("control", [tree_of("intake", self._intake), tree_of("queries", self._queries)])

    # What connections call, on the loop ------------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """What each client is told first."""
        from seqtor import __version__

        return {"seqtor": PROTOCOL, "version": __version__, "name": self.name, "pid": os.getpid()}

    async def carry_out(self, request: Request | Cancelling) -> Any:
        """What the desk answers; what went wrong is an exception, as a value."""
        try:
            desk = self._intake if isinstance(request, HANDS_IN) else self._queries
            return await desk.ask(ServeRequest(request=request), block=False)
        except asyncio.CancelledError:
            raise
        except ActorDeadError:
            return Overloaded("the request was not begun, because of another one's crash: ask again", 0.1)
        except BaseException as error:  # It crashed the desk; the next one sits there already.
            return error

    def forget(self, connected: Connected) -> None:
        """It is closed."""
        self._connected.pop(connected, None)

    # The thread ------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        for _ in range(BREAKDOWNS_MAX):
            try:
                self._loop.run_forever()
                return
            except BaseException as error:  # The loop goes on with the next callback.
                logger.opt(exception=error).error("{}: the control socket's thread was interrupted", self.name)
        logger.error("{}: the control socket is closed, after {} interruptions", self.name, BREAKDOWNS_MAX)
        self._listening.withdraw()
        self._loop.run_until_complete(self._close_door())
        self._loop.run_until_complete(self._disconnect_all(0.0))

    def _listen(self) -> None:
        self._loop.add_reader(self._listening.socket, self._accept)

    def _accept(self) -> None:
        """Let in who waits at the door. By hand: asyncio's own server loses those who come while it closes."""
        for _ in range(BACKLOG):
            try:
                client, _ = self._listening.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # No more descriptors: who waits goes on waiting.
                logger.warning("{}: the control socket lets nobody in for {:g} s: {}", self.name, PAUSE_S, error)
                self._loop.remove_reader(self._listening.socket)
                self._loop.call_later(PAUSE_S, lambda: None if self._closing else self._listen())
                return
            task = self._loop.create_task(self._serve_client(client))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve_client(self, client: socket.socket) -> None:
        """Serve a connection until it ends."""
        client.setblocking(False)
        reader = asyncio.StreamReader(limit=READ_AHEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, client)
        except BaseException:
            client.close()
            raise
        if self._closing or (len(self._connected) >= self.limits.connections_max and not self._make_room()):
            transport.abort()
            return
        connected = Connected(self, reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))
        self._connected[connected] = None
        await connected.serve()

    def _make_room(self) -> bool:
        """Of those who have said nothing yet let the oldest go; False if all have."""
        for connected in self._connected:
            if not connected.greeted:
                connected.drop()
                return True
        logger.warning("{}: {} clients are connected, one more was turned away", self.name, len(self._connected))
        return False

    async def _close_door(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._listening.socket)
            self._listening.socket.close()

    async def _disconnect_all(self, timeout_s: float) -> None:
        left = list(self._connected)
        if left:
            await asyncio.wait([asyncio.ensure_future(each.finish()) for each in left], timeout=timeout_s)
        for connected in left:
            connected.drop()
        me = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not me]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await asyncio.sleep(0)  # Transports close in the next round of the loop.

    # The desks -------------------------------------------------------------------------------------------------------

    def _start_desk(self, dispatcher: Dedicated) -> Any:
        return ControlDesk.start_on(dispatcher, self._system, parent=DeskWatch(self, dispatcher))

    def replace_desk(self, dispatcher: Dedicated, crash: Any) -> None:
        """A desk has crashed: the next request goes to a new one. Who had asked the old one has its exception."""
        logger.opt(exception=crash.error).error("{}: {} crashed and is replaced", self.name, crash.actor)
        desk = self._start_desk(dispatcher)
        if dispatcher is self._dispatchers[0]:
            self._intake = desk
        else:
            self._queries = desk

    def _log_unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        logger.opt(exception=context.get("exception")).warning("{}: control socket: {}", self.name, context["message"])

    def let_go(self) -> None:
        """Have this process's ends of all connections lead nowhere, without the loop.

        After a fork, in the child: the connections are the parent's and must end with it.
        """
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for each in [self._listening.socket, *(connected.socket for connected in list(self._connected))]:
            number = each.fileno()
            if number >= 0:
                os.dup2(nowhere, number, inheritable=False)
        os.close(nowhere)


class DeskWatch:
    """The mailbox that is told when a desk crashes."""

    def __init__(self, server: ControlServer, dispatcher: Dedicated) -> None:
        self._server = server
        self._dispatcher = dispatcher

    def tell(self, message: Any) -> None:
        """Called on the desk's thread."""
        if isinstance(message, ActorCrashed):
            self._server.replace_desk(self._dispatcher, message)


_all: weakref.WeakSet[ControlServer] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for server in tuple(_all):
        server.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
