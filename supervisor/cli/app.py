"""All commands of `seqtor` in one."""

from __future__ import annotations

import sys

import typer

import seqtor
from seqtor.cli.check import check
from seqtor.cli.events import events
from seqtor.cli.journal import journal
from seqtor.cli.options import AsJson
from seqtor.cli.output import say, say_json
from seqtor.cli.past import diff, history, state
from seqtor.cli.reactions import reactions
from seqtor.cli.remote import conflicts, dead_letters, emit, stats, submit, tree
from seqtor.cli.replaying import replay, verify
from seqtor.cli.run import run
from seqtor.cli.runs import runs
from seqtor.cli.schedules import schedules
from seqtor.cli.simulate import simulate

__all__ = ["app"]

app = typer.Typer(
    name="seqtor",
    help="Run a seqtor system, talk to it, look into its journal.",
    epilog=(
        "Exit codes: 0 fine, 1 divergence, damage or errors found, 2 wrong usage, 3 the journal is locked or cannot be "
        "read, or no system runs that could be asked, 4 the end is unknown, 70 the system broke down, 130 stopped at once."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(check)
app.command()(submit)
app.command()(emit)
app.add_typer(runs, name="runs")
app.add_typer(events, name="events")
app.add_typer(schedules, name="schedules")
app.command()(reactions)
app.command()(stats)
app.command()(conflicts)
app.command()(tree)
app.command(name="dead-letters")(dead_letters)
app.command()(state)
app.command()(history)
app.command()(diff)
app.command()(replay)
app.command()(verify)
app.command()(simulate)
app.add_typer(journal, name="journal")


@app.command()
def version(as_json: AsJson = False) -> None:
    """Say which version of seqtor this is, and of Python."""
    python = sys.version.split()[0]
    if as_json:
        say_json({"version": seqtor.__version__, "python": python})
    else:
        say(f"seqtor {seqtor.__version__}, Python {python}")
