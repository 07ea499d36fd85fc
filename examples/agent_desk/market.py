"""The market: a stream of ticks, each of which is a run; it never waits for agents.

Owns one socket. Promises: ticks are handed in in the order in which they come; each is answered, in that order, with its
seq once it is durable; at most WAITING_MAX wait for that, then no more are read, and the sender has to wait.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from seqtor import Overloaded, SeqtorError, Submission, Supervisor

from .frames import BadFrame, Tick, error_frame, receive, send
from .records import PriceChanged

__all__ = ["WAITING_MAX", "Market"]

WAITING_MAX = 256


class Market:
    """One feed's socket."""

    def __init__(self, system: Supervisor, socket: WebSocket) -> None:
        self._system = system
        self._socket = socket
        self._waiting: asyncio.Queue[Submission[bool] | dict[str, Any]] = asyncio.Queue(WAITING_MAX)

    async def serve(self) -> None:
        """Take ticks until the feed goes, or does not read what it is sent."""
        await self._socket.accept()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._answer())
                while True:
                    await self._waiting.put(await self._take_one())
        except* (WebSocketDisconnect, TimeoutError):
            pass  # Who does not read would not read a reason either: sending one would wait again.

    async def _take_one(self) -> Submission[bool] | dict[str, Any]:
        try:
            tick = await receive(self._socket, Tick)
            changed = PriceChanged(symbol=tick.symbol, cents=int(tick.price * 100), event_time=tick.time)
            return self._system.submit(changed)
        except (BadFrame, Overloaded) as refused:  # A refused tick is dropped: the next one says what the price is.
            return error_frame(refused)

    async def _answer(self) -> None:
        while True:
            taken = await self._waiting.get()
            if isinstance(taken, Submission):
                taken = await self._outcome(taken)
            await send(self._socket, taken)

    async def _outcome(self, submission: Submission[bool]) -> dict[str, Any]:
        try:
            newest = await submission
        except SeqtorError as error:
            return error_frame(error)
        return {"type": "priced", "seq": submission.seq, "newest": newest}
