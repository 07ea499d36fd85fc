"""`submit`, `emit`, `stats`, `conflicts`, `tree`, `dead-letters`: a running system, from the command line.

Owns the way from what commands are told to the control socket that is meant. What a run comes to is the exit code.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import from_json

from seqtor.cli.options import (
    AsJson,
    ExitCode,
    JournalOption,
    SystemOption,
    backend_of,
    exit_codes,
    system_of,
    usage_error,
)
from seqtor.cli.output import compact, moment, note, say, say_json, say_lines
from seqtor.control import Connection, RemoteSubmission
from seqtor.control.place import control_path
from seqtor.control.values import as_json as plain_json
from seqtor.messages.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FootprintViolation,
    HandlerFailed,
    KeyReused,
    NotRunning,
    OutcomeUnknown,
    Rejected,
    SeqtorError,
    UnknownTrigger,
)
from seqtor.messages.triggers import Priority

__all__ = ["PatienceOption", "conflicts", "connected", "dead_letters", "emit", "running", "stats", "submit", "tree"]

PATIENCE_S = 10.0
NOT_COMMITTED = (Rejected, HandlerFailed, DeadlineExceeded, Aborted, Cancelled, FootprintViolation)
NOT_TAKEN = (UnknownTrigger, KeyReused, TypeError, ValueError)

PatienceOption = Annotated[
    float, typer.Option("--patience", metavar="SECONDS", min=0.001, help="How long the system may take to answer.")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Exactly once: with this key it runs only the first time.")
]


@contextmanager
def connected(journal: str | None, system: str | None, patience_s: float = PATIENCE_S) -> Iterator[Connection]:
    """A connection to the running system that is meant; errors end the command."""
    with exit_codes(), Connection(_socket(journal, system), patience_s) as connection:
        connection.open()
        yield connection


@contextmanager
def running(journal: str | None, system: str | None) -> Iterator[Connection | None]:
    """A connection to the system that is meant, or None if none runs: then the journal can be opened."""
    with exit_codes():
        connection: Connection | None = None
        try:
            connection = Connection(_socket(journal, system), PATIENCE_S)
            connection.open()
        except (NotRunning, SeqtorError):
            connection = None
        if connection is None:
            yield None
        else:
            with connection:
                yield connection


def _socket(journal: str | None, system: str | None) -> Path:
    if journal is not None:
        return control_path(journal)
    if system is not None:
        control = system_of(system, None).settings.control
        if control not in ("auto", "off"):
            return Path(control).expanduser()
    return control_path(backend_of(journal, system).place)


def submit(
    trigger: Annotated[str, typer.Argument(metavar="TYPE", help="The name of a trigger type.")],
    payload: Annotated[str, typer.Argument(metavar="[JSON]", help="Its fields, as a JSON object.")] = "{}",
    key: KeyOption = None,
    priority: Annotated[
        str | None, typer.Option("--priority", metavar="NAME", help="urgent, high, normal or low.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option("--delay", metavar="SECONDS", help="Accepted now, and not run before that.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="MOMENT", help="The same until a moment, such as 2026-03-01T18:30+01:00."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of the run.")] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to wait for the end.")
    ] = None,
    journal: JournalOption = None,
    system: SystemOption = None,
    patience: PatienceOption = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Hand a trigger in to the running system, and print its result."""
    fields = _fields(payload)
    options = {"priority": _priority(priority), "idempotency_key": key, "delay": delay, "at": _moment(at)}
    with connected(journal, system, patience) as connection:
        submission = _handed_in(connection, trigger, fields, options)
        if not wait:
            say_json({"run": submission.id}) if as_json else say(submission.id)
            return
        _say_end(submission, timeout, as_json)


def _handed_in(
    connection: Connection, trigger: str, fields: dict[str, Any], options: dict[str, Any]
) -> RemoteSubmission[Any]:
    try:
        return connection.submit(trigger, fields, **options)
    except NOT_TAKEN as error:
        raise usage_error(str(error)) from None
    except (OutcomeUnknown, TimeoutError) as error:
        note(f"seqtor: {error}")
        raise typer.Exit(ExitCode.UNKNOWN) from None


def _say_end(submission: RemoteSubmission[Any], timeout_s: float | None, as_json: bool) -> None:
    try:
        result = submission.result(timeout_s)
    except NOT_COMMITTED as error:
        if as_json:
            code = {"code": error.code, "error": str(error), "details": getattr(error, "details", {})}
            say_json({"run": submission.id, "seq": submission.seq, "state": submission.state, **code})
        note(f"seqtor: {error}")
        raise typer.Exit(ExitCode.FOUND) from None
    except (OutcomeUnknown, TimeoutError) as error:
        note(f"seqtor: {error}")
        raise typer.Exit(ExitCode.UNKNOWN) from None
    plain = plain_json(result)  # The program's code may be imported here, and have made a model of it.
    if as_json:
        say_json({"run": submission.id, "seq": submission.seq, "state": submission.state, "result": plain})
    else:
        say(compact(plain))


def emit(
    code: Annotated[str, typer.Argument(metavar="CODE")],
    payload: Annotated[str, typer.Argument(metavar="[JSON]")] = "null",
    key: KeyOption = None,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Record an event in the running system, and print its id."""
    value = _json(payload)
    with connected(journal, system) as connection:
        try:
            event = connection.emit(code, value, idempotency_key=key)
        except NOT_TAKEN as error:
            raise usage_error(str(error)) from None
        say_json({"event": event}) if as_json else say(event)


def stats(journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False) -> None:
    """Show the running system's figures at this moment."""
    with connected(journal, system) as connection:
        figures = connection.query("stats")
        if as_json:
            say_json(figures)
            return
        for name, value in figures.items():
            say(f"{name:18} {compact(value) if isinstance(value, (dict, list)) else '-' if value is None else value}")


def conflicts(journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False) -> None:
    """Show where executing again comes from: hottest keys, and handlers that collide."""
    with connected(journal, system) as connection:
        if as_json:
            say_json(connection.query("conflicts"))
        else:
            say(str(connection.conflicts()))


def dead_letters(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0)] = 100,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """List what was given up after its last try, newest first."""
    with connected(journal, system) as connection:
        letters = connection.query("dead_letters", limit=limit)
        if as_json:
            say_json({"dead_letters": letters})
            return
        say_lines(map(_letter, letters), "nothing was given up")


def _letter(letter: dict[str, Any]) -> str:
    tries = "1 try" if letter["attempts"] == 1 else f"{letter['attempts']} tries"
    again = "" if letter["resubmitted_as"] is None else f"  resubmitted as {letter['resubmitted_as']}"
    return (
        f"{letter['id']}  {moment(letter['time'])}  {letter['kind']} {letter['name']}  seq {letter['seq']}  "
        f"{tries}  {letter['error']}{again}"
    )


def tree(journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False) -> None:
    """Show the supervision tree of the running system."""
    with connected(journal, system) as connection:
        if as_json:
            say_json(connection.query("tree"))
        else:
            say(str(connection.tree()))


def _fields(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise usage_error(f'the fields of a trigger are a JSON object, such as {{"amount": 5}}, got {text}')
    return value


def _json(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise usage_error(f"{text} is no JSON ({error}); quote it for the shell: '{{\"amount\": 5}}'") from None


def _moment(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    example = "such as 2026-03-01T18:30+01:00, or 2026-03-01T17:30Z"
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise usage_error(f"--at is a moment, {example}, got {text!r}") from None
    if moment.tzinfo is None:
        raise usage_error(f"--at is a moment with its offset from UTC, {example}, got {text!r}")
    return moment


def _priority(name: str | None) -> Priority | None:
    if name is None:
        return None
    try:
        return Priority[name.upper()]
    except KeyError:
        known = ", ".join(each.name.lower() for each in Priority)
        raise usage_error(f"--priority is one of {known}, got {name!r}") from None
