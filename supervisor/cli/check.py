"""`check`: whether a system would start, without starting it.

Owns the looking: the module is imported with registrations that collect their errors, then the journal, if there is one,
is read. Promises: nothing is started, and no journal is made, opened for writing or locked; all errors are said at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from seqtor.actors.handlers import did_you_mean
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.history import history_of
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.registering import Finding, collected
from seqtor.cli.banner import facts
from seqtor.cli.options import NOT_OWN, AsJson, ExitCode, JournalOption, WrongUsage, find_system
from seqtor.cli.output import say, say_json
from seqtor.messages.errors import JournalLocked, RegistrationError
from seqtor.messages.triggers import Trigger
from seqtor.settings import Settings
from seqtor.system import Supervisor

__all__ = ["check"]

OWN_VARIABLES = frozenset({"SEQTOR_JOURNAL", "SEQTOR_SYSTEM"})


def check(
    system: Annotated[
        str | None, typer.Argument(envvar="SEQTOR_SYSTEM", metavar="MODULE:SYSTEM", help="The program's Supervisor.")
    ] = None,
    journal: JournalOption = None,
    as_json: AsJson = False,
) -> None:
    """Import a system and look at its journal without starting it; say everything that is wrong."""
    checkup = Checkup()
    program = checkup.imported(system, journal)
    if program is not None and not checkup.errors:
        checkup.look_at_triggers(program)
        checkup.look_at_journal(program)
        checkup.warn_of_triggers(program, system or "")
    checkup.warn_of_variables()
    if as_json:
        say_json(
            {
                "system": system,
                "ok": not checkup.errors,
                "errors": [each._asdict() for each in checkup.errors],
                "warnings": [each._asdict() for each in checkup.warnings],
            }
        )
    else:
        _say(checkup, program)
    if checkup.errors:
        raise typer.Exit(ExitCode.WRONG_USAGE if checkup.is_misnamed else ExitCode.FOUND)


class Checkup:
    """What one look at a system has found."""

    def __init__(self) -> None:
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []
        self.is_misnamed = False  # There is no such module or system.

    def imported(self, place: str | None, journal: str | None) -> Supervisor | None:
        """The system, if there is one to look at."""
        program: Supervisor | None = None
        with collected() as findings:
            try:
                program = find_system(place, journal, "seqtor check MODULE:SYSTEM")
            except WrongUsage as wrong:
                self.is_misnamed = True
                findings.append(Finding(str(wrong)))
            except (Exception, SystemExit) as error:
                findings.append(_finding_of(error))
        # A type that will not do is told when it is named and when its handler is registered.
        self.errors += {(each.message, each.file): each for each in reversed(findings)}.values()
        self.errors.sort(key=lambda each: (each.file or "", each.line or 0))
        return program

    def look_at_triggers(self, program: Supervisor) -> None:
        """Whether what reactions wait for can happen, and what schedules start can run."""
        self.errors += [Finding(str(error)) for error in program._unknown_in_reactions()]
        self.errors += [Finding(str(error)) for error in program._schedules.unknown()]

    def look_at_journal(self, program: Supervisor) -> None:
        """Whether the journal can be opened, and what it holds is known to the program and fits it."""
        try:
            backend = program._make_backend()
            if backend is not None:
                self._look(program, backend)
        except Exception as error:
            self.errors.append(Finding(_text(error)))

    def _look(self, program: Supervisor, backend: Backend) -> None:
        stores = program._every_store
        for ref in stores:
            ref.spec.prepare_for_journal(program._upcasts)
        try:
            opened = backend.open(write=False)
        except FileNotFoundError:  # The start makes one.
            if isinstance(backend, SqliteBackend):
                self._look_at_folder(Path(backend.place))
            return
        except JournalLocked as locked:
            self.warnings.append(Finding(f"what the journal holds was not looked at: {locked}"))
            return
        try:
            recovery = Recovery(backend, opened)
            for record in recovery.accepted.values():
                program._known.find(record.trigger.type)
            try:
                recovery.require_known(
                    (ref.name for ref in stores),
                    (handler.name for handler in program._handlers),
                    program._effects.names,
                )
            except RegistrationError as error:
                self.errors.append(Finding(str(error)))
                return  # What is of a store that nobody knows cannot be read.
            history_of(backend, opened, stores).states_at(opened.commits_through)
        finally:
            backend.close()

    def _look_at_folder(self, path: Path) -> None:
        folder = path.parent
        if not folder.is_dir():
            self.errors.append(Finding(f"the journal {path} cannot be made: the folder {folder} does not exist"))
        elif not os.access(folder, os.W_OK | os.X_OK):
            self.errors.append(Finding(f"the journal {path} cannot be made: {folder} is not writable for this user"))

    def warn_of_triggers(self, program: Supervisor, place: str) -> None:
        """Trigger types of the program that nothing handles."""
        package = place.partition(":")[0].partition(".")[0]
        for kind in _subclasses(Trigger):
            if kind.__module__.partition(".")[0] != package or not _is_there(kind):
                continue
            if kind not in program._known and not kind.__subclasses__():
                self.warnings.append(Finding(f"no handler is registered for the trigger {kind.__qualname__}"))

    def warn_of_variables(self) -> None:
        """Names in the environment that look like settings and are none."""
        names = {f"SEQTOR_{name.upper()}" for name in Settings.model_fields} | OWN_VARIABLES
        for name in sorted(os.environ):
            if name.startswith("SEQTOR_") and name not in names:
                self.warnings.append(Finding(f"{name} in the environment is no setting{did_you_mean(name, names)}"))


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _is_there(kind: type[Any]) -> bool:
    """Whether the program can still reach the class: others are leftovers of an earlier import."""
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def _finding_of(error: BaseException) -> Finding:
    """Where the import ended."""
    if isinstance(error, SyntaxError):
        return Finding(f"SyntaxError: {error.msg}", error.filename, error.lineno)
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in NOT_OWN
        and not frame.f_code.co_filename.startswith("<")
    ]
    text = f"{_text(error)}; what comes after this line was not checked"
    return Finding(text, *own[-1]) if own else Finding(text)


def _text(error: BaseException) -> str:
    kind = type(error)
    return str(error) if kind.__module__.startswith("seqtor.") else f"{kind.__name__}: {error}"


def _say(checkup: Checkup, program: Supervisor | None) -> None:
    for label, findings in (("error", checkup.errors), ("warning", checkup.warnings)):
        for each in findings:
            where = "" if each.file is None else f"{_relative(each.file)}:{each.line}: "
            say(f"{where}{label}: {each.message}")
    if not checkup.errors and program is not None:
        found = facts(program)
        kinds = ("stores", "handlers", "effects", "reactions", "schedules", "resources")
        counts = ", ".join(f"{name}: {len(found[name])}" for name in kinds)
        say(f"{found['system']} would start ({counts})")


def _relative(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
