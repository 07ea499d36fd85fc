"""The command: `python -m examples.agent_desk`.

Owns the options, the life of system and server, and the exit code: 0 when it was told to stop, 70 when the system broke
down, 1 when it could not start.
"""

from __future__ import annotations

import argparse
import math
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from seqtor import Life, SeqtorError, Supervisor, configure_logging

from .desk import Desk, make_desk
from .exchange import Exchange
from .frames import BYTES_MAX
from .gateway import make_gateway
from .model import Model

CONNECTIONS_MAX = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the desk until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    configure_logging("WARNING")
    model = Model(options.questions, read_s=options.read_seconds, advise_s=options.advise_seconds)
    desk = make_desk(options.journal, model, Exchange(options.orders), {"stop_grace": options.grace})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # Uvicorn takes it while it serves, and raises it again here.
    try:
        with desk.system as system, socket.create_server((options.host, options.port)) as listening:
            host, port = listening.getsockname()[:2]
            print(f"chat    ws://{host}:{port}/chat?client=NAME\nmarket  ws://{host}:{port}/market", flush=True)
            server = _server(desk, options.grace)
            threading.Thread(target=_end_with, args=(system, server), daemon=True).start()
            server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    except (SeqtorError, OSError) as failure:
        print(f"The desk could not start: {failure}", file=sys.stderr)
        return 1
    return 70 if desk.system.life is Life.BROKEN_DOWN else 0


def _server(desk: Desk, grace_s: float) -> uvicorn.Server:
    config = uvicorn.Config(
        make_gateway(desk),
        log_level="warning",
        lifespan="off",
        limit_concurrency=CONNECTIONS_MAX,
        ws_max_size=BYTES_MAX,
        timeout_graceful_shutdown=math.ceil(grace_s),
    )
    return uvicorn.Server(config)


def _end_with(system: Supervisor, server: uvicorn.Server) -> None:
    """A system that has broken down serves nobody any more."""
    system.wait()
    server.should_exit = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.agent_desk",
        description="Serve a desk of agents on two WebSockets, /chat and /market.",
    )
    files = {
        "--journal": ("agent_desk.db", "the journal"),
        "--orders": ("agent_desk_orders.jsonl", "where the stand-in for the exchange keeps its orders"),
        "--questions": ("agent_desk_questions.txt", "where the stand-in for the model notes what it is asked"),
    }
    for name, (default, says) in files.items():
        parser.add_argument(name, type=Path, default=Path(default), metavar="PATH", help=f"{says} (default: {default})")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--read-seconds", type=float, default=0.3, metavar="S", help="how long the model reads a message"
    )
    parser.add_argument(
        "--advise-seconds", type=float, default=2.0, metavar="S", help="how long it thinks about advice"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=5.0,
        metavar="S",
        help="how long a stop waits for agents; one that has not answered goes on at the next start (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
