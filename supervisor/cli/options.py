"""What commands have in common: their options, the journal and the system that these name, and exit codes.

Owns the translation of errors into exit codes. Promises: an error is one text on standard error, without a traceback;
only what the program's own code raises when it is imported has one, which begins in that code.
"""

from __future__ import annotations

import enum
import importlib
import pathlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from seqtor.actors.handlers import did_you_mean
from seqtor.actors.journal.contract import Backend, Opened
from seqtor.cli.output import note
from seqtor.journals import backend_maker
from seqtor.messages.errors import JournalCorrupted, RegistrationError, ReplayDiverged, SeqtorError
from seqtor.system import Supervisor

__all__ = [
    "NOT_OWN",
    "AsJson",
    "ExitCode",
    "JournalOption",
    "SystemOption",
    "WrongUsage",
    "backend_of",
    "exit_codes",
    "find_system",
    "opened_journal",
    "system_of",
    "traceback_of",
    "usage_error",
]

NOT_OWN = frozenset({"seqtor", "importlib", "typer", "click"})  # Packages whose frames say nothing of the program.

JournalOption = Annotated[
    str | None,
    typer.Option(
        "--journal", envvar="SEQTOR_JOURNAL", metavar="PATH_OR_URL", help="The journal, as Supervisor takes it."
    ),
]
SystemOption = Annotated[
    str | None,
    typer.Option("--system", envvar="SEQTOR_SYSTEM", metavar="MODULE:NAME", help="The program's Supervisor."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on standard output.")]


class ExitCode(enum.IntEnum):
    """How a command ends."""

    FINE = 0
    FOUND = 1  # A divergence, or damage.
    WRONG_USAGE = 2
    NOT_READABLE = 3  # The journal is locked, missing, or its medium does not answer.
    UNKNOWN = 4  # `submit`: how the run ends was not heard of, in time or at all; it goes on.
    BROKEN_DOWN = 70  # `run`: the system ended by itself (EX_SOFTWARE of sysexits.h).
    STOPPED_AT_ONCE = 130  # `run`: a second signal came, as shells say it of a SIGINT.


class WrongUsage(Exception):
    """The command was called with what cannot be meant."""


def usage_error(text: str) -> typer.Exit:
    """Say what is wrong with how the command was called; raise what this returns."""
    note(f"seqtor: {text}")
    return typer.Exit(ExitCode.WRONG_USAGE)


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the command with the exit code that an error stands for."""
    try:
        yield
    except (JournalCorrupted, ReplayDiverged) as error:
        code, told = ExitCode.FOUND, error
    except (RegistrationError, LookupError) as error:
        code, told = ExitCode.WRONG_USAGE, error  # type: ignore[assignment]
    except (SeqtorError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        code, told = ExitCode.NOT_READABLE, error  # type: ignore[assignment]
    else:
        return
    note(f"seqtor: {_text(told)}")
    raise typer.Exit(code)


def _text(error: BaseException) -> str:
    """What the error says, without what Python puts around it."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def backend_of(journal: str | None, system: str | None = None) -> Backend:
    """The journal that is meant, not opened yet."""
    if journal is None and system is not None:
        backend = system_of(system, None)._make_backend()
        if backend is None:
            raise usage_error(f"{system} keeps everything in memory: name a journal with --journal")
        return backend
    if journal is None:
        raise usage_error("name the journal: --journal PATH_OR_URL, or SEQTOR_JOURNAL in the environment")
    backend = backend_maker(journal)()
    if backend is None:
        raise usage_error(f"{journal} is no journal that another process could read")
    return backend


@contextmanager
def opened_journal(backend: Backend) -> Iterator[tuple[Backend, Opened]]:
    """The journal, open for reading."""
    opened = backend.open(write=False)
    try:
        yield backend, opened
    finally:
        backend.close()


def system_of(place: str | None, journal: str | None, how: str = "--system MODULE:NAME") -> Supervisor:
    """The same as `find_system`; what is wrong with the name, or what the program raises, ends the command."""
    try:
        return find_system(place, journal, how)
    except WrongUsage as wrong:
        raise usage_error(str(wrong)) from None
    except SeqtorError:
        raise
    except Exception as error:  # Also those that `exit_codes` would take for ours, such as a KeyError.
        note(f"seqtor: {place} cannot be imported:\n{traceback_of(error)}")
        raise typer.Exit(ExitCode.FOUND) from None


def traceback_of(error: Exception) -> str:
    """What Python prints for it, from the first frame of the program on."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_globals.get("__name__", "").partition(".")[0] in NOT_OWN:
        place = place.tb_next
    return "".join(traceback.format_exception(type(error), error, place)).rstrip()


def find_system(place: str | None, journal: str | None, how: str) -> Supervisor:
    """The Supervisor that MODULE:NAME names, with the journal, if one is given, in place of its own.

    `how` is the way to name it. Raises WrongUsage, and whatever the module raises.
    """
    if place is None:
        raise WrongUsage(f"name the program: {how}, or SEQTOR_SYSTEM in the environment")
    module, colon, name = place.partition(":")
    if not module or not colon or not name:
        raise WrongUsage(f"{how.rpartition(' ')[0]} takes MODULE:NAME, such as bank:system, got {place!r}")
    folder = str(pathlib.Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise WrongUsage(f"there is no module {error.name!r} in {folder} or among what is installed") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise WrongUsage(f"the module {module} has no {name!r}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    if not isinstance(found, Supervisor) and callable(found):
        found = found()
    if not isinstance(found, Supervisor):
        raise WrongUsage(f"{place} is a {type(found).__name__}, expected a Supervisor or a function that makes one")
    if journal is not None:
        found._make_backend = backend_maker(journal)
    return found
