"""The other side: `python -m examples.agent_desk.client chat|market`.

Owns a chat at the terminal, and a feed of made-up prices at a steady rate. Both are functions that programs can call.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

__all__ = ["ask", "feed"]

SYMBOLS = ("ACME", "GLOBEX", "INITECH")
CENTS_AT_FIRST = 10_000
ENDS = frozenset({"answer", "refused", "error"})


async def ask(
    chat: ClientConnection, text: str, *, message_id: str, on_frame: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Send a message and return its last frame; one message at a time. Whoever lost the answer asks with the same id."""
    await chat.send(json.dumps({"id": message_id, "text": text}))
    async for received in chat:
        frame: dict[str, Any] = json.loads(received)
        on_frame(frame)
        if frame["type"] in ENDS:
            return frame
    raise ConnectionError("the desk has closed the chat before it answered")


async def feed(url: str, *, per_second: float, count: int | None = None, seed: int = 1) -> list[dict[str, Any]]:
    """Send `count` ticks (None: until cancelled) at a steady rate; returns what the desk has answered."""
    async with connect(url) as market:
        answers: list[dict[str, Any]] = []
        async with asyncio.TaskGroup() as both:
            both.create_task(_send_ticks(market, per_second, count, random.Random(seed)))
            async for received in market:
                if count is not None:
                    answers.append(json.loads(received))
                if len(answers) == count:
                    break
        return answers


async def _send_ticks(market: ClientConnection, per_second: float, count: int | None, chance: random.Random) -> None:
    cents = dict.fromkeys(SYMBOLS, CENTS_AT_FIRST)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    sent = 0
    while sent != count:
        symbol = SYMBOLS[sent % len(SYMBOLS)]
        cents[symbol] = max(100, cents[symbol] + chance.randint(-5, 5))
        tick = {"symbol": symbol, "price": f"{cents[symbol] / 100:.2f}", "time": datetime.now(UTC).isoformat()}
        await market.send(json.dumps(tick))
        sent += 1
        await asyncio.sleep(max(0.0, begun + sent / per_second - loop.time()))


async def _talk(url: str) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    # A daemon, because a thread that waits at a terminal cannot be interrupted, and Ctrl-C shall not have to wait for it.
    threading.Thread(target=_read_lines, args=(asyncio.get_running_loop(), lines), daemon=True).start()
    async with connect(url) as chat:
        print("Say what to trade, for example: buy 10 ACME below 105.00 (Ctrl-D ends)")
        while line := await lines.get():
            if line.strip():
                await ask(chat, line.strip(), message_id=uuid.uuid4().hex, on_frame=_show)


def _read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    with contextlib.suppress(RuntimeError):  # The loop was closed: nobody asks any more.
        while True:
            line = sys.stdin.readline()
            loop.call_soon_threadsafe(lines.put_nowait, line)
            if not line:
                return


def _show(frame: dict[str, Any]) -> None:
    said = frame.get("stage") or frame.get("text") or ""
    more = "".join(f" {name}={frame[name]}" for name in ("seq", "code", "retry_after") if name in frame)
    print(f"  {frame['type']}: {said}{more}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Talk to a desk, or feed it prices, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m examples.agent_desk.client", description="Talk to an agent desk.")
    parser.add_argument("what", choices=["chat", "market"])
    parser.add_argument("--desk", default="ws://127.0.0.1:8000", metavar="URL", help="default: %(default)s")
    parser.add_argument("--name", default="me", help="of the chat's client (default: %(default)s)")
    parser.add_argument("--per-second", type=float, default=200, metavar="N", help="ticks (default: %(default)s)")
    options = parser.parse_args(arguments)
    code = 0
    try:
        if options.what == "chat":
            asyncio.run(_talk(f"{options.desk}/chat?client={options.name}"))
        else:
            asyncio.run(feed(f"{options.desk}/market", per_second=options.per_second))
    except* KeyboardInterrupt:
        pass
    except* (OSError, WebSocketException) as gone:
        print(f"There is no desk at {options.desk} (any more): {gone.exceptions[0]}", file=sys.stderr)
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
