"""What goes over the sockets: one JSON object per text frame.

Owns the shapes of what comes in, their bounds, and how a frame is received and sent. Promises: whatever a client sends,
a frame is either one of these shapes or a `BadFrame` that says what is wrong with it; a client that does not read holds
nothing up for longer than SEND_S.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from seqtor import Overloaded, SeqtorError

__all__ = ["BYTES_MAX", "BadFrame", "ClientName", "Message", "Tick", "error_frame", "receive", "send"]

BYTES_MAX = 16 * 1024
"""The longest frame that is taken."""
SEND_S = 10
"""How long a client may take to read what it is sent."""

ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
FrameT = TypeVar("FrameT", bound="Frame")


class Frame(BaseModel):
    """What a client may send."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Frame):
    """A message of a chat; the same `id` again gets the same answer."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]
    text: Annotated[str, Field(min_length=1, max_length=4000)]


class Tick(Frame):
    """A price of the market's, in whole cents."""

    symbol: Annotated[str, Field(pattern=r"^[A-Z]{1,8}$")]
    price: Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=2)]
    time: AwareDatetime


class BadFrame(Exception):
    """A frame that is none of ours; the message says why."""


async def receive(socket: WebSocket, shape: type[FrameT]) -> FrameT:
    """Wait for the next frame. Raises BadFrame, WebSocketDisconnect."""
    received = await socket.receive()
    if received["type"] != "websocket.receive":
        raise WebSocketDisconnect(received.get("code", 1006), received.get("reason"))
    text = received.get("text")
    if text is None:
        raise BadFrame("send JSON in a text frame, not a binary one")
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadFrame(": ".join((*(str(each) for each in first["loc"]), first["msg"]))) from None


async def send(socket: WebSocket, frame: dict[str, Any]) -> None:
    """Send a frame. Raises WebSocketDisconnect, TimeoutError if the client does not read."""
    async with asyncio.timeout(SEND_S):
        await socket.send_json(frame)


def error_frame(error: SeqtorError | BadFrame, **about: Any) -> dict[str, Any]:
    """What a client is told of an error, and when to try again, if that is known."""
    code = error.code if isinstance(error, SeqtorError) else "bad_frame"
    frame = {"type": "error", **about, "code": code, "text": str(error)}
    if isinstance(error, Overloaded):
        frame["retry_after"] = round(error.retry_after, 3)
    return frame
