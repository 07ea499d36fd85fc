"""The gateway: two WebSocket routes on a desk.

Owns the routes. It has no authentication: `client` is whatever the client says, so it belongs behind something that knows
its users. It neither starts nor stops the system.
"""

from __future__ import annotations

from fastapi import FastAPI, WebSocket

from .chat import Chat
from .desk import Desk
from .frames import ClientName
from .market import Market

__all__ = ["make_gateway"]


def make_gateway(desk: Desk) -> FastAPI:
    """Make the application that serves a desk."""
    gateway = FastAPI(title="agent desk")

    @gateway.websocket("/chat")
    async def chat(socket: WebSocket, client: ClientName) -> None:
        await Chat(desk.system, socket, client).serve()

    @gateway.websocket("/market")
    async def market(socket: WebSocket) -> None:
        await Market(desk.system, socket).serve()

    return gateway
