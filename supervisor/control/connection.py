"""One client at the control socket.

Owns the reading of its requests and the writing of their answers. Promises: a client that breaks the protocol, sends a
frame too slowly or does not read what it is sent is disconnected; what it has asked for and has not been answered by then
goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from loguru import logger

from seqtor.control.desk import Cancelling
from seqtor.control.failures import remote_error
from seqtor.control.protocol import (
    HEAD_BYTES,
    PROTOCOL,
    Cancel,
    Emit,
    Progress,
    ProtocolError,
    Request,
    Resubmit,
    Submit,
    frame,
    frame_length,
    hello_of,
    request_of,
)
from seqtor.control.values import as_json
from seqtor.messages.errors import Overloaded
from seqtor.messages.refusals import MailboxFull

if TYPE_CHECKING:
    from seqtor.actors.submissions import Submission
    from seqtor.control.server import ControlServer

__all__ = ["Connected"]

BUSY_S = 0.1
HELLO_BYTES_MAX = 4096


class Connected:
    """One connection, on the server's loop."""

    def __init__(self, server: ControlServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.greeted = False
        self.socket = writer.get_extra_info("socket")
        self._server = server
        self._limits = server.limits
        self._reader = reader
        self._writer = writer
        self._under_way: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._handed_in: dict[tuple[int, int], Submission[Any]] = {}  # Whose end this client waits for.
        self._sending = asyncio.Lock()
        writer.transport.set_write_buffer_limits(high=0)  # So that `drain` waits until everything is in the kernel.

    async def serve(self) -> None:
        """Serve until the client goes, or has to go."""
        try:
            async with asyncio.timeout(self._limits.hello_s):
                await self._greet()
            while True:
                await self._take_request()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            return  # It has gone, or takes too long.
        except ProtocolError as error:
            logger.debug("{}: a client of the control socket sent {}", self._server.name, error)
            await self._try_to_say(error)
        except Exception as error:
            logger.opt(exception=error).error("{}: a client of the control socket was dropped", self._server.name)
        finally:
            self.drop()

    async def finish(self) -> None:
        """Wait until what is under way has been answered; new requests are still refused by the system itself."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def drop(self) -> None:
        """Disconnect at once. Twice: harmless."""
        for task in self._under_way:
            task.cancel()
        self._writer.transport.abort()
        self._server.forget(self)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _greet(self) -> None:
        head = await self._reader.readexactly(HEAD_BYTES)
        spoken = hello_of(await self._reader.readexactly(frame_length(head, HELLO_BYTES_MAX)))
        if spoken != PROTOCOL:
            raise ProtocolError(f"version {spoken} of the protocol, spoken here is {PROTOCOL}")
        self.greeted = True
        await self._send(self._server.hello())

    async def _take_request(self) -> None:
        first = await self._reader.readexactly(1)  # For as long as the client likes.
        async with asyncio.timeout(self._limits.frame_s):
            head = first + await self._reader.readexactly(HEAD_BYTES - 1)
            body = await self._reader.readexactly(frame_length(head, self._limits.frame_bytes_max))
        request = request_of(body)
        if isinstance(request, tuple):
            number, wrong = request
            await self._send_error(number, ValueError(wrong))
        elif _weight(request) > (most := self._limits.requests_max):
            text = f"{_weight(request)} triggers in one batch, allowed are {most}: hand them in in parts, or without waiting"
            await self._send_error(request.id, ValueError(text))
        elif self._requests + _weight(request) > most:
            text = f"{self._requests} requests and outcomes of this connection are under way, allowed are {most}"
            await self._send_error(request.id, _busy(text))
        else:
            self._requests += _weight(request)
            task = asyncio.create_task(self._answer(request))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    # Answering -------------------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> None:
        """Carry a request out and answer it; a client that is gone meanwhile is no error."""
        try:
            if isinstance(request, Progress):
                await self._tell_progress(request)
                return
            found = await self._carry_out(request)
            if isinstance(found, BaseException):
                await self._send_error(request.id, found)
            elif isinstance(found, MailboxFull):
                await self._send_error(request.id, _busy(f"{found.mailbox_depth_max} requests wait already"))
            elif isinstance(request, HANDING_IN):
                await self._follow(request, found)
            else:
                await self._send_value({"id": request.id, "value": found})
        except* (ConnectionError, TimeoutError):
            self.drop()
        finally:
            self._requests -= _weight(request)

    async def _carry_out(self, request: Request) -> Any:
        if not isinstance(request, Cancel):
            return await self._server.carry_out(request)
        submission = self._handed_in.get((request.of, request.index))
        return None if submission is None else await self._server.carry_out(Cancelling(submission))

    async def _tell_progress(self, request: Progress) -> None:
        """Send on what the run tells, until it ends or tells what cannot be sent; of one that has ended nothing."""
        submission = self._handed_in.get((request.of, request.index))
        if submission is not None:
            async with contextlib.aclosing(submission.progress()) as told:
                async for value in told:
                    if not await self._send_value({"id": request.id, "progress": [as_json(value)]}):
                        return
        await self._send({"id": request.id})

    async def _follow(self, request: Request, submissions: list[Submission[Any]]) -> None:
        """Say when the triggers are durably accepted, and then, if that is wanted, how each ends."""
        try:
            for submission in submissions[-1:]:  # Accepted in order, so the last stands for all.
                await submission.accepted()
        except Exception as error:
            await self._send_error(request.id, error)
            return
        wait = getattr(request, "wait", False)
        if wait:
            self._handed_in |= {(request.id, index): submission for index, submission in enumerate(submissions)}
        await self._send({"id": request.id, "accepted": [submission.id for submission in submissions]})
        if wait:
            async with asyncio.TaskGroup() as ends:
                for index, submission in enumerate(submissions):
                    ends.create_task(self._send_end(request.id, index, submission))

    async def _send_end(self, number: int, index: int, submission: Submission[Any]) -> None:
        answer: dict[str, Any] = {"id": number, "index": index}
        try:
            answer["result"] = await submission
        except Exception as error:
            answer["error"] = remote_error(error)
        answer |= {"seq": submission.seq, "state": submission.state}
        await self._send_value(answer)
        self._handed_in.pop(
            (number, index), None
        )  # Behind it: who is told that there is no such run knows its outcome.

    async def _send_error(self, number: int | None, error: BaseException, index: int | None = None) -> None:
        await self._send({"id": number, "index": index, "error": remote_error(error)})

    async def _send_value(self, answer: dict[str, Any]) -> bool:
        """Send what may be large, or an error in its place; whether it was the value."""
        try:
            sent = frame(answer)
            self._require_room(len(sent))
        except Exception as error:  # Too large; or a result of the program's own that cannot be written after all.
            await self._send_error(answer["id"], error, answer.get("index"))
            return False
        await self._send_bytes(sent)
        return True

    def _require_room(self, count: int) -> None:
        """Raise ValueError for an answer that is too large, Overloaded if too many wait to be read."""
        limits = self._limits
        if count > limits.answer_bytes_max:
            raise ValueError(f"the answer has {count} bytes, allowed are {limits.answer_bytes_max}: ask for less of it")
        if self._server.unsent_bytes + count > limits.unsent_bytes_max:
            raise _busy(f"{self._server.unsent_bytes} bytes wait to be read by the clients")

    async def _send(self, answer: dict[str, Any]) -> None:
        await self._send_bytes(frame(answer))

    async def _send_bytes(self, sent: bytes) -> None:
        """Send one frame, behind those that wait already. Raises TimeoutError for a client that does not read."""
        self._server.unsent_bytes += len(sent)
        try:
            async with self._sending:
                async with asyncio.timeout(self._limits.read_s):
                    self._writer.write(sent)
                    await self._writer.drain()
        finally:
            self._server.unsent_bytes -= len(sent)

    async def _try_to_say(self, error: ProtocolError) -> None:
        try:
            await self._send_error(None, ValueError(f"the control socket was sent {error}"))
        except (ConnectionError, TimeoutError):
            return  # It does not listen either.


HANDING_IN = (Submit, Emit, Resubmit)


def _weight(request: Request) -> int:
    return max(1, len(request.triggers)) if isinstance(request, Submit) and request.wait else 1


def _busy(text: str) -> Overloaded:
    return Overloaded(f"{text}: ask again in a moment", BUSY_S)
