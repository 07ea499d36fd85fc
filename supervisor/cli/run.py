"""`run`: a system as a service of its own process.

Owns the command and what it prints. What happens with signals, systemd and health is `seqtor.serving`.
"""

from __future__ import annotations

import datetime
import sys
from typing import Annotated

import typer
from loguru import logger

from seqtor.cli.banner import banner, facts, standing
from seqtor.cli.options import ExitCode, JournalOption, exit_codes, system_of
from seqtor.cli.output import note, say
from seqtor.endings import Ending
from seqtor.logs import configure_logging
from seqtor.serving import Service, address_of
from seqtor.serving.service import leave_within
from seqtor.settings import seconds
from seqtor.system import Supervisor

__all__ = ["run"]

EXIT_S = 10.0  # How long threads and exit functions of the program may keep the process that has ended its work.


def run(
    system: Annotated[
        str | None, typer.Argument(envvar="SEQTOR_SYSTEM", metavar="MODULE:SYSTEM", help="The program's Supervisor.")
    ] = None,
    journal: JournalOption = None,
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="SECONDS", min=0, help="How long accepted work may take to end at the stop."),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option("--health", metavar="[HOST:]PORT", help="Answer /health/live and /health/ready there over HTTP."),
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", metavar="LEVEL", help="The least that is logged.")] = "INFO",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines, and print no banner.")] = False,
) -> None:
    """Run a system until SIGTERM or SIGINT; a second signal stops it at once."""
    with exit_codes():
        configure_logging(log_level, json=log_json)
        address = None if health is None else address_of(health)
        program = system_of(system, journal, "seqtor run MODULE:SYSTEM")
        grace_s = program.settings.stop_grace if grace is None else seconds(datetime.timedelta(seconds=grace), "grace")
        found = facts(program)
        if log_json:
            logger.bind(actor="system", **found).info("{} on seqtor {}", found["system"], found["version"])
        else:
            say(banner(found))
        sys.stdout.flush()
        service = Service(
            program,
            grace_s=grace_s,
            at_once=ExitCode.STOPPED_AT_ONCE,
            broken_down=ExitCode.BROKEN_DOWN,
            health=address,
            started=lambda: None if log_json else _say_started(program),
        )
        ending = service.run()
    code = ExitCode.BROKEN_DOWN if ending.broke_down else ExitCode.FINE
    if ending.broke_down:
        note(_report(program, ending))
    leave_within(EXIT_S, code)
    raise typer.Exit(code)


def _say_started(system: Supervisor) -> None:
    say(f"  {'started':<9}  {standing(system)}")
    sys.stdout.flush()


def _report(system: Supervisor, ending: Ending) -> str:
    """What who reads standard error in the morning needs to know."""
    stats = system.stats()
    backend = system._make_backend()
    if backend is None:
        kept = "Everything was kept in memory and is gone."
    else:
        kept = (
            f"Everything through seq {stats.durable_through} is in the journal {backend.place}, and so is what was accepted "
            "durably: the next start goes on from there."
        )
    return (
        f"seqtor: {system.name} has broken down: {ending.reason}. Who waited for an answer was told OutcomeUnknown. {kept} "
        f"Exit code {int(ExitCode.BROKEN_DOWN)}."
    )
