"""`runs list|show|abort|resubmit`: single runs, of a running system or of a journal that nobody has open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from seqtor.actors.journal.history import history_of
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.journal.upcasts import NO_UPCASTS
from seqtor.cli.options import AsJson, JournalOption, SystemOption, backend_of, opened_journal, usage_error
from seqtor.cli.output import compact, moment, say, say_json, say_lines
from seqtor.cli.remote import connected, running
from seqtor.control.values import as_json as plain
from seqtor.lineage import kept_links, started_by
from seqtor.messages.errors import AlreadyResubmitted, RegistrationError
from seqtor.queries import RunFilter, kept_records, run_record

__all__ = ["runs"]

runs = typer.Typer(help="Look at runs, end one, try one again.", no_args_is_help=True, rich_markup_mode=None)

SeqArgument = Annotated[int, typer.Argument(metavar="SEQ")]


@runs.command("list")
def list_runs(
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Only those in this state; may be repeated.")
    ] = None,
    trigger: Annotated[str | None, typer.Option("--trigger", metavar="TYPE", help="Only those of this type.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0)] = 20,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    try:
        wanted = RunFilter(state or None, trigger)
    except TypeError as error:
        raise usage_error(str(error)) from None
    with running(journal, system) as connection:
        if connection is not None:
            found = connection.query("runs", state=state or None, trigger=trigger, limit=limit)
        else:
            found = list(islice(_kept(journal, system, wanted), limit))
        if as_json:
            say_json({"runs": found})
            return
        say_lines(map(_line, found), "there is no such run")


@runs.command()
def show(seq: SeqArgument, journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False) -> None:
    """Show all that is known of the run at a seq."""
    with running(journal, system) as connection:
        found = connection.query("record", seq=seq) if connection is not None else _kept_run(journal, system, seq)
        if as_json:
            say_json(found)
            return
        for name, value in found.items():
            if name == "trigger":
                say(f"{name:14} {value['type']} {compact(value['payload'])}")
            elif name.endswith("_at") and value is not None:
                say(f"{name:14} {moment(value)}")
            elif value not in (None, []):
                say(f"{name:14} {compact(value) if isinstance(value, (list, dict)) else value}")


@runs.command()
def abort(
    seq: SeqArgument,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="What the caller is told.")
    ] = "by an operator",
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """End a run that has not ended; its caller gets `Aborted`."""
    with connected(journal, system) as connection:
        connection.abort(seq, reason)
        say_json({"aborted": seq, "reason": reason}) if as_json else say(f"seq {seq} ends as aborted: {reason}")


@runs.command()
def resubmit(
    letter: Annotated[str, typer.Argument(metavar="ID", help="The id of a dead letter: seqtor dead-letters")],
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Try again what was given up, and print the id of the new run."""
    with connected(journal, system) as connection:
        try:
            submission = connection.resubmit(letter)
        except AlreadyResubmitted as error:
            raise usage_error(str(error)) from None
        say_json({"run": submission.id}) if as_json else say(submission.id)


def _kept(journal: str | None, system: str | None, wanted: RunFilter) -> Iterator[dict[str, Any]]:
    with opened_journal(backend_of(journal, system)) as (backend, opened):
        history = history_of(backend, opened, ())
        for run in kept_records(history, opened.commits_through, wanted, _no_handler, NO_UPCASTS):
            yield plain(run)


def _kept_run(journal: str | None, system: str | None, seq: int) -> dict[str, Any]:
    with opened_journal(backend_of(journal, system)) as (backend, opened):
        history = history_of(backend, opened, ())
        for row in history.rows(seq, min(seq, opened.commits_through)):
            record = commit_record(row, history.place)
            links = kept_links(backend, opened.entries_from, opened.entries_through)
            started = started_by(record.run, record.state, links.get)
            return plain(run_record(record, _no_handler, NO_UPCASTS, started))  # type: ignore[no-any-return]
    raise LookupError(f"there is no record of seq {seq}: the journal holds seqs up to {opened.commits_through}")


def _no_handler(name: str) -> Any:
    raise RegistrationError(f"{name} is shown as it was written")


def _line(run: dict[str, Any]) -> str:
    ended = run["committed_at"] or run["sequenced_at"]
    error = f"  {run['error']}" if run["error"] else ""
    trigger = run["trigger"]
    return f"seq {run['seq']}  {moment(ended)}  {run['state']}  {trigger['type']} {compact(trigger['payload'])}{error}"
