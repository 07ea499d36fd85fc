"""The log of a program: `configure_logging()`.

Owns the form of a line, as text and as JSON. Promises: each line carries the seq, the attempt, the trigger and the actor
that it is about, as far as there are any; the program's own lines carry them too when they are written in a handler;
no line shows values of variables. Until a program calls it, the package is silent.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger
from pydantic_core import to_json

from seqtor.actors.transactions import current_transaction_or_none
from seqtor.messages.errors import RegistrationError

if TYPE_CHECKING:
    from loguru import Message, Record

__all__ = ["FIELDS", "configure_logging"]

FIELDS = ("seq", "attempt", "trigger", "actor")
"""What a line is about, in this order."""

LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
LOGURU_DEFAULT = 0  # The handler that loguru adds by itself when it is imported.
LOCK = threading.Lock()
OURS: list[int] = []  # The handler that the last call has added.


def configure_logging(level: str = "INFO", *, json: bool = False, sink: TextIO | None = None) -> None:
    """Write the log of this process to `sink` (standard error): seqtor's lines, pykka's, and the program's own of loguru.

    One line of text each, or with `json` one JSON object with the keys `time`, `level`, `message`, `logger`, `seq`,
    `attempt`, `trigger`, `actor`, and `extra` and `exception` where there are any. Replaces loguru's own handler and that
    of an earlier call; other sinks of the program stay. Raises RegistrationError for a level that there is not.
    """
    name = level.upper() if isinstance(level, str) else level
    if name not in LEVELS:
        raise RegistrationError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    stream = sys.stderr if sink is None else sink
    with LOCK:
        for handler in (LOGURU_DEFAULT, *OURS):
            with contextlib.suppress(ValueError):  # The program has removed it.
                logger.remove(handler)
        OURS[:] = [_add_json(stream, name) if json else _add_text(stream, name)]
        _route_pykka(name)
    logger.enable("seqtor")


def _add_text(stream: TextIO, level: str) -> int:
    return logger.add(stream, level=level, format=_text_format, diagnose=False, backtrace=False)


def _add_json(stream: TextIO, level: str) -> int:
    def write(message: Message) -> None:
        stream.write(f"{_json_line(message.record)}\n")
        stream.flush()

    return logger.add(write, level=level, format="{message}", diagnose=False, backtrace=False)


def _fields(record: Record) -> dict[str, Any]:
    """What the line is about: what it was bound to, or the run whose handler writes it."""
    extra = record["extra"]
    found = {name: extra[name] for name in FIELDS if extra.get(name) is not None}
    package, _, module = (record["name"] or "").rpartition(".")
    if "actor" not in found and package.partition(".")[0] == "seqtor":
        found["actor"] = module  # Not written by an actor, but for the part of the runtime that is called so.
    if "seq" not in found:
        transaction = current_transaction_or_none()
        if transaction is not None:
            about = {"seq": transaction.seq, "attempt": transaction.attempt, "trigger": transaction.trigger_name}
            found = {**about, **found}
    return found


def _text_format(record: Record) -> str:
    """The template of one line; loguru fills it in, so what is inserted here must hold no braces and no markup."""
    fields = _fields(record)
    record["extra"].update(fields)
    about = "".join(f" {name}={{extra[{name}]}}" for name in FIELDS if name in fields)
    return (
        "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> <level>{level: <8}</level> <level>{message}</level>"
        f"<cyan>{about}</cyan>\n{{exception}}"
    )


def _json_line(record: Record) -> str:
    fields = _fields(record)
    line: dict[str, Any] = {
        "time": record["time"].astimezone(datetime.UTC).isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
        "logger": record["name"],
        **{name: fields.get(name) for name in FIELDS},
    }
    extra = {name: value for name, value in record["extra"].items() if name not in FIELDS}
    if extra:
        line["extra"] = extra
    raised = record["exception"]
    if raised is not None and raised.type is not None:
        line["exception"] = {
            "type": raised.type.__name__,
            "message": str(raised.value),
            "traceback": "".join(traceback.format_exception(raised.type, raised.value, raised.traceback)),
        }
    try:
        text = to_json(line, fallback=repr, inf_nan_mode="strings")
    except ValueError:  # What refers to itself, or is no text: said as well as it can be.
        text = to_json({name: value if value is None or name in FIELDS else ascii(value) for name, value in line.items()},
                       fallback=repr, inf_nan_mode="strings")  # fmt: skip
    return text.decode()


class _ToLoguru(logging.Handler):
    """Takes what pykka writes to the standard library's log to where everything else goes."""

    def emit(self, record: logging.LogRecord) -> None:
        def named(line: Record) -> None:
            line["name"] = record.name

        log = logger.patch(named).bind(actor="pykka").opt(exception=record.exc_info)
        log.log(record.levelname if record.levelname in LEVELS else record.levelno, "{}", record.getMessage())


def _route_pykka(level: str) -> None:
    pykka = logging.getLogger("pykka")
    for handler in list(pykka.handlers):
        if isinstance(handler, _ToLoguru):
            pykka.removeHandler(handler)
    pykka.addHandler(_ToLoguru())
    pykka.propagate = False  # It would be written twice.
    pykka.setLevel(logger.level(level).no)
