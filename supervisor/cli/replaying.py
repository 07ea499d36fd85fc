"""`replay` and `verify`: execute again what the journal holds, and compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from seqtor.cli.options import AsJson, ExitCode, JournalOption, SystemOption, exit_codes, system_of
from seqtor.cli.output import Progress, note, say, say_json
from seqtor.messages.errors import ReplayDiverged
from seqtor.replay import ReplayReport

__all__ = ["replay", "verify"]

Workers = Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Threads that execute handlers.")]
Shuffle = Annotated[
    int | None, typer.Option("--shuffle", metavar="SEED", help="Execute in an order that this number seeds.")
]


def replay(
    first: Annotated[int, typer.Argument(metavar="FIRST", help="The first seq.")],
    last: Annotated[int, typer.Argument(metavar="LAST", help="The last seq.")],
    system: SystemOption = None,
    journal: JournalOption = None,
    workers: Workers = 1,
    shuffle: Shuffle = None,
    as_json: AsJson = False,
) -> None:
    """Execute the runs of a range of seqs again and compare them with the journal."""
    with exit_codes():
        program = system_of(system, journal)
        with Progress("replay") as progress:
            _report(lambda: program.replay(first, last, workers=workers, shuffle=shuffle, progress=progress), as_json)


def verify(
    system: SystemOption = None,
    journal: JournalOption = None,
    workers: Workers = 1,
    shuffle: Shuffle = None,
    as_json: AsJson = False,
) -> None:
    """Execute everything that the journal keeps again and compare: writes, results, effects."""
    with exit_codes():
        program = system_of(system, journal)
        with Progress("verify") as progress:
            _report(lambda: program.verify(workers=workers, shuffle=shuffle, progress=progress), as_json)


def _report(execute: Callable[[], ReplayReport], as_json: bool) -> None:
    try:
        report = execute()
    except ReplayDiverged as diverged:
        if not as_json:
            raise
        say_json(
            {
                "as_recorded": False,
                "seq": diverged.seq,
                "handler": diverged.handler,
                "expected": diverged.expected,
                "found": diverged.found,
            }
        )
        note(f"seqtor: {diverged}")
        raise typer.Exit(ExitCode.FOUND) from None
    if as_json:
        say_json({"as_recorded": True, **report._asdict()})
    else:
        say(str(report))
