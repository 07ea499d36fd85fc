"""A chat: each message of a client is an agent's run, several at a time.

Owns one socket. Promises: a message's id is its idempotency key, so whoever comes back with it, also after a crash, gets
the one answer, and no second order; the answer is sent when it is durable; a client has at most OPEN_MAX open messages;
when it goes, nothing waits for it any more, and its agents go on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from loguru import logger
from starlette.websockets import WebSocket, WebSocketDisconnect

from seqtor import KeyReused, Overloaded, Rejected, SeqtorError, Submission, Supervisor

from .frames import BadFrame, Message, error_frame, receive, send
from .records import Answer, Ask

__all__ = ["OPEN_MAX", "Chat"]

OPEN_MAX = 16


class Chat:
    """One client's socket."""

    def __init__(self, system: Supervisor, socket: WebSocket, client: str) -> None:
        self._system = system
        self._socket = socket
        self._client = client
        self._open = 0

    async def serve(self) -> None:
        """Serve the client until it goes, or does not read what it is sent."""
        await self._socket.accept()
        try:
            async with asyncio.TaskGroup() as answering:  # Its end, by whatever, cancels all who wait for an answer.
                while True:
                    await self._take_one(answering)
        except* (WebSocketDisconnect, TimeoutError):
            pass  # Who does not read would not read a reason either: sending one would wait again.

    async def _take_one(self, answering: asyncio.TaskGroup) -> None:
        try:
            message = await receive(self._socket, Message)
        except BadFrame as bad:
            await send(self._socket, error_frame(bad))
            return
        if self._open == OPEN_MAX:
            await self._tell(message, "error", code="too_many_open", text=f"wait for one of your {OPEN_MAX} answers")
            return
        self._open += 1
        answering.create_task(self._answer(message))

    async def _answer(self, message: Message) -> None:
        try:
            submission = self._system.submit(
                Ask(client=self._client, text=message.text), idempotency_key=f"{self._client}/{message.id}"
            )
            await self._follow(message, submission)
        except Rejected as refusal:
            await self._tell(message, "refused", code=refusal.code, text=refusal.message, details=dict(refusal.details))
        except (KeyReused, Overloaded) as error:
            await send(self._socket, error_frame(error, id=message.id))
        except SeqtorError as error:  # What has gone wrong inside is not the client's business.
            logger.error("message {} of {}: {!r}", message.id, self._client, error)
            await self._tell(message, "error", code=error.code, text="no answer yet: send the same message id again")
        finally:
            self._open -= 1

    async def _follow(self, message: Message, submission: Submission[Answer]) -> None:
        await submission.accepted()
        await self._tell(message, "accepted")
        async for stage in submission.progress():
            await self._tell(message, "progress", stage=stage)
        answer = await submission
        await self._tell(message, "answer", seq=submission.seq, **answer.model_dump(mode="json"))

    async def _tell(self, message: Message, kind: str, **frame: Any) -> None:
        await send(self._socket, {"type": kind, "id": message.id, **frame})
